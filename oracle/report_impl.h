/* What the parts of the report share; nothing else includes it. */
#pragma once

#include "oracle/report.h"

/* The subject whose results are coming in. */
typedef struct {
    bool open;
    char *name;            /* copy of fh1_tap_result.subject */
    int64_t count[4];      /* taps by fh1_verdict */
    fh1_tap_result *shown; /* FAILs and MISTRUSTEDs in order of arrival; subject is NULL */
    size_t n_shown, cap_shown;
    fh1_tap_result worst;  /* of the judged ones; tap is "" when there is none */
    double most_free;      /* largest relative RMS against truth's own run; NaN without one */
    char skip_reason[160]; /* of the first SKIP */
} fh1_report_subject;

/* How a subject ended, against what was wanted. */
typedef struct {
    const char *label;
    fh1_verdict verdict;
    const fh1_tap_result *first; /* first divergence, NULL without one */
    bool expected_fail;          /* a failure was wanted and came as wanted */
    char unmet[400];             /* what was wanted and what came; "" when met or nothing was wanted */
} fh1_report_ending;

typedef struct {
    char name[48];
    int64_t subjects, good;
    int64_t count[4];
} fh1_report_group;

struct fh1_report {
    fh1_report_form form;
    bool verbose, colour;
    FILE *out;
    fh1_report_subject subject;

    int64_t subjects, expected_failures, mistrusted_subjects;
    int64_t passes; /* taps that PASS, and failures that came as wanted */
    bool failed;
    bool broken; /* out of memory on the way: the summary cannot be trusted */
    bool has_first;
    fh1_tap_result first; /* of the first bad subject */
    char *first_subject;
    char unmet[400]; /* of the first subject that missed its expectation */
    fh1_report_group *groups;
    size_t n_groups;
};

fh1_verdict fh1_report_verdict(const fh1_report *r);
/* A malloc'ed copy of `text` as fh1_printable shows it, uncut; NULL without memory. */
char *fh1_report_printable(const char *text);

fh1_status fh1_report_json_tap(fh1_report *r, const fh1_tap_result *t);
fh1_status fh1_report_json_summary(fh1_report *r, const char *version, const char *repro);

void fh1_report_table_tap(fh1_report *r, const fh1_tap_result *t); /* verbose: one line per tap */
fh1_status fh1_report_table_subject(fh1_report *r, const fh1_report_ending *e);
fh1_status fh1_report_table_summary(fh1_report *r, const char *version, const char *repro);
