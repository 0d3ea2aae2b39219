/* A report to standard output. JSON lines are held back until everything went well: a reader gets all of them or none.
 */
#pragma once

#include "oracle/report.h"

typedef struct {
    fh1_report *report;
    FILE *out;
    char *text; /* JSON so far */
    size_t size;
    bool json;
} cli_report;

/* Close it in any case. */
fh1_status cli_report_open(bool json, bool verbose, cli_report *r);
/* The summary; *code is the verdict's. FH1_E_INTERNAL when something of the report is missing. */
fh1_status cli_report_finish(cli_report *r, const char *repro, int *code);
/* Prints what was held back if `s` is NULL; returns s, or that the text is incomplete. */
fh1_status cli_report_close(cli_report *r, fh1_status s);
