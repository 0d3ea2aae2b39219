/* How far a long command is, and its end on Ctrl-C.
 *
 *     cli_progress p;
 *     cli_progress_begin(&p, "convert", quiet);
 *     cvt_write_options o = {.force = force, .progress = &p.steps};
 *     fh1_status s = cli_progress_end(&p, cvt_hf_write(c, out, &o));
 *
 * On a terminal a bar is drawn on stderr: bytes, rate, time left, ten times a second at most. Elsewhere one line is
 * printed per 10 %, but none in the first two seconds. Between begin and end SIGINT, SIGTERM and SIGHUP only raise a
 * flag; the next step returns a status, so that whoever writes cleans up as after any other error, and main then lets
 * the process die by that signal (cli_die_if_interrupted). A second signal ends the process at once. */
#pragma once

#include "convert/checkpoint.h"

typedef struct {
    cvt_progress steps; /* for cvt_write_options, cvt_native_verify, … */
    const char *what;   /* "convert"; a literal */
    bool quiet, terminal, drawn;
    double begun, shown; /* seconds; when the bar was drawn last */
    uint64_t done;       /* as last told; when it falls, another pass has begun */
    int tenths;          /* passed, lines told of them or not */
} cli_progress;

double cli_seconds(void); /* of a clock that never goes back */

/* One at a time in a process. */
void cli_progress_begin(cli_progress *p, const char *what, bool quiet);
/* Takes the bar away and gives the signals their old meaning back; returns s. */
fh1_status cli_progress_end(cli_progress *p, fh1_status s);

/* FH1_E_INTERNAL "interrupted …" once a signal came, for loops that have no step. Any thread. */
fh1_status cli_interrupted(void);
/* Ends the process by the signal when it ended the work. The last thing of main. */
void cli_die_if_interrupted(void);

/* What a terminal shows, at most `width` - 1 columns, and the line for elsewhere; for tests. */
const char *cli_progress_bar(const char *what, uint64_t done, uint64_t total, double seconds, int width, char *buf,
                             size_t size);
const char *cli_progress_line(const char *what, uint64_t done, uint64_t total, double seconds, char *buf, size_t size);
