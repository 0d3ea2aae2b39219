/* The files that `fh1 check` leaves for a CI. They are products, made anew by every run: an existing report is
 * replaced, whole or not at all; a file that does not begin like the report it would be is refused. A history is
 * appended to. */
#pragma once

#include "convert/file.h"
#include "oracle/report.h"

/* Paths; NULL where none is wanted. */
typedef struct {
    const char *lines, *junit, *markdown, *html, *history;
} report_paths;

enum { REPORT_FILES_MOST = 4 };

typedef struct {
    struct {
        cvt_target target;
        fh1_report_kind kind;
    } list[REPORT_FILES_MOST];
    int n;
    const char *history_path;
    fh1_history *past;
    char time[32];
} report_files;

/* Opens all targets and reads the history, before anything is judged. Free in any case. */
fh1_status report_files_open(const report_paths *p, report_files *f);
/* Writes everything of the finished report. */
fh1_status report_files_write(report_files *f, const fh1_report *r);
void report_files_free(report_files *f);
