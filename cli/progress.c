#include "cli/progress.h"

#include "cli/interrupt.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#define BETWEEN_BARS 0.1 /* seconds */
#define BEFORE_LINES 2.0 /* seconds: what is over sooner needs no line */

double cli_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Three digits and a unit: "1.23 GB". */
static void size_text(double n, char buf[24])
{
    static const char *const unit[] = {"B", "kB", "MB", "GB", "TB", "PB", "EB"};
    int u = 0;
    for (; n >= 999.5 && u < 6; u++) n /= 1000;
    snprintf(buf, 24, "%.*f %s", u == 0 || n >= 99.95 ? 0 : n >= 9.995 ? 1 : 2, n, unit[u]);
}

static void time_text(double seconds, char buf[24])
{
    if (!(seconds < 360000)) snprintf(buf, 24, "long");
    else if (seconds < 99.5) snprintf(buf, 24, "%.0f s", seconds);
    else if (seconds < 5970) snprintf(buf, 24, "%.0f min", seconds / 60);
    else snprintf(buf, 24, "%.1f h", seconds / 3600);
}

/* "1.23 GB of 4.56 GB, 310 MB/s, 11 s left"; rate and rest only where they can be told. */
static void facts_text(uint64_t done, uint64_t total, double seconds, char *buf, size_t size)
{
    char a[24], b[24], rate[24], rest[24];
    size_text((double)done, a);
    size_text((double)total, b);
    if (done == 0 || !(seconds > 0.05)) {
        snprintf(buf, size, "%s of %s", a, b);
        return;
    }
    size_text((double)done / seconds, rate);
    time_text(done < total ? seconds / (double)done * (double)(total - done) : 0, rest);
    snprintf(buf, size, "%s of %s, %s/s, %s left", a, b, rate, rest);
}

static int percent(uint64_t done, uint64_t total)
{
    return done >= total ? 100 : (int)((double)done / (double)total * 100);
}

const char *cli_progress_bar(const char *what, uint64_t done, uint64_t total, double seconds, int width, char *buf,
                             size_t size)
{
    char facts[120], bar[41];
    int pc = percent(done, total);
    facts_text(done, total, seconds, facts, sizeof facts);
    int room = width - 1 - (int)strlen(what) - (int)strlen(facts) - (int)sizeof " [] 100 %  " + 1;
    int columns = room > 40 ? 40 : room, full = columns * pc / 100;
    if (columns >= 5) {
        for (int i = 0; i < columns; i++) bar[i] = i < full ? '#' : '.';
        bar[columns] = '\0';
        snprintf(buf, size, "%s [%s] %3d %%  %s", what, bar, pc, facts);
    } else {
        snprintf(buf, size, "%s %3d %%  %s", what, pc, facts);
    }
    if (width > 0 && strlen(buf) >= (size_t)width) buf[width - 1] = '\0'; /* a longer line would wrap and stay */
    return buf;
}

const char *cli_progress_line(const char *what, uint64_t done, uint64_t total, double seconds, char *buf, size_t size)
{
    char facts[120];
    facts_text(done, total, seconds, facts, sizeof facts);
    snprintf(buf, size, "%s: %d %%, %s", what, percent(done, total), facts);
    return buf;
}

static int terminal_width(void)
{
    struct winsize w;
    return ioctl(STDERR_FILENO, TIOCGWINSZ, &w) == 0 && w.ws_col > 0 ? w.ws_col : 80;
}

static fh1_status step(void *user, uint64_t done, uint64_t total)
{
    cli_progress *p = user;
    char text[240];
    FH1_TRY(cli_interrupted());
    if (p->quiet || total == 0) return NULL;
    double t = cli_seconds();
    if (done < p->done) { /* another pass */
        p->begun = t;
        p->tenths = 0;
    }
    p->done = done;
    double seconds = t - p->begun;
    if (p->terminal) {
        if (t - p->shown < BETWEEN_BARS) return NULL;
        p->shown = t;
        p->drawn = true;
        fprintf(stderr, "\r%s\033[K",
                cli_progress_bar(p->what, done, total, seconds, terminal_width(), text, sizeof text));
        fflush(stderr);
        return NULL;
    }
    int tenths = percent(done, total) / 10;
    if (tenths > p->tenths && seconds >= BEFORE_LINES)
        fprintf(stderr, "%s\n", cli_progress_line(p->what, done, total, seconds, text, sizeof text));
    p->tenths = tenths;
    return NULL;
}

void cli_progress_begin(cli_progress *p, const char *what, bool quiet)
{
    const char *term = getenv("TERM");
    bool terminal = isatty(STDERR_FILENO) && term && strcmp(term, "dumb") != 0;
    *p = (cli_progress){{p, step}, .what = what, .quiet = quiet, .terminal = terminal, .begun = cli_seconds()};
    p->shown = p->begun;
    cli_interrupt_begin();
}

fh1_status cli_progress_end(cli_progress *p, fh1_status s)
{
    if (p->drawn) fputs("\r\033[K", stderr);
    p->drawn = false;
    cli_interrupt_end();
    return s;
}
