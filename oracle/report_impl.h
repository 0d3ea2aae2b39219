/* What the parts of the report share; nothing else includes it. */
#pragma once

#include "oracle/report.h"

/* A result as the report keeps it: a third of fh1_tap_result. */
typedef struct {
    const char *tap, *reason, *note; /* as fh1_printable shows them; live as long as the report */
    fh1_tap_id id;                   /* from the name; FH1_TAP_COUNT where it is no tap of a model */
    int64_t layer;                   /* -1: none */
    int64_t step, order;
    fh1_verdict verdict;
    double margin, rms_ratio, max_err, allowed, rel_rms, free_rms;
    int rank, n_tokens;
    int64_t where[FH1_MAX_RANK];
    uint32_t histogram[FH1_MARGIN_BINS]; /* saturates */
    float tokens[FH1_TOKEN_BINS];        /* fh1_tap_result.token_margin */
} fh1_report_tap;

#define FH1_NO_TAP SIZE_MAX

typedef struct {
    char *raw;          /* fh1_tap_result.subject, byte for byte */
    char *name, *label; /* printable; the label of fh1_report_end_subject */
    int group;          /* of fh1_report.groups, -1 while it is open */
    fh1_verdict verdict;
    bool expected_fail; /* a failure was wanted and came as wanted */
    char unmet[400];    /* what was wanted and what came; "" when met or nothing was wanted */
    int64_t count[4];   /* taps by fh1_verdict */
    fh1_report_tap *taps;
    size_t n_taps, cap_taps;
    size_t first, worst;     /* first divergence; largest margin of the judged; FH1_NO_TAP */
    double most_free;        /* largest relative RMS against truth's own run; NaN without one */
    const char *skip_reason; /* of the first SKIP, "" without one */
    int64_t n_notes;
    fh1_suspect *suspects; /* texts printable */
    int n_suspects;
    char *repro; /* printable; NULL: that of the whole run */
} fh1_report_subject;

typedef struct {
    char name[48];
    int64_t subjects, good;
    int64_t count[4];
} fh1_report_group;

/* A set of strings, so that a reason that a thousand taps share is stored once. */
typedef struct {
    char **slots; /* open addressing, at most half full */
    size_t size, n;
} fh1_report_words;

struct fh1_report {
    fh1_report_form form;
    bool verbose, colour;
    FILE *out;
    fh1_report_words words;
    fh1_report_subject *list;
    size_t n_list, cap_list;
    bool open; /* the last of `list` still takes results */
    const fh1_history *past;
    char time[32];

    int64_t expected_failures, mistrusted_subjects, n_notes;
    int64_t n_rises; /* margins that rose; counted by the table */
    int64_t passes;  /* taps that PASS, and failures that came as wanted */
    bool failed;
    bool broken;     /* out of memory on the way: the summary cannot be trusted */
    size_t first;    /* of `list`: the first subject with a divergence that was not wanted; FH1_NO_TAP */
    char unmet[512]; /* of the first subject that missed its expectation */
    fh1_report_group *groups;
    size_t n_groups;
    char *version, *repro; /* printable, set by fh1_report_finish */
};

/* ---- keeping (report_keep.c) ---- */
/* A malloc'ed copy of `text` as fh1_printable shows it, uncut; NULL without memory. */
char *fh1_report_printable(const char *text);
fh1_status fh1_report_keep(fh1_report *r, fh1_report_subject *s, const fh1_tap_result *t);
void fh1_report_words_free(fh1_report_words *w);
void fh1_report_subject_free(fh1_report_subject *s);

/* ---- looking (report_view.c) ---- */
fh1_verdict fh1_report_verdict(const fh1_report *r);
/* The verdict to show for a subject, its expectation considered. */
fh1_verdict fh1_report_shown(const fh1_report_subject *s);
bool fh1_report_worse(double margin, double than); /* NaN is worse than any number */
/* What runs a subject again: its own command or that of the whole run. */
const char *fh1_report_repro(const fh1_report *r, const fh1_report_subject *s);
/* "explained to 99.97 % by NAME (see SOURCE)", "no known fault explains this: …". */
const char *fh1_report_sentence(const fh1_suspect *s, char *buf, size_t size);
/* The taps of verdict v by step, order, arrival; *list is malloc'ed, NULL when there are none. */
fh1_status fh1_report_sorted(const fh1_report_subject *s, fh1_verdict v, const fh1_report_tap ***list, size_t *n);
/* "[0, 3, 17]"; and "0.41", "-" for a number that was not computed. */
const char *fh1_report_place(const fh1_report_tap *t, char buf[200]);
const char *fh1_report_number(double v, char buf[32]);

/* All taps of a subject that differ in layer and step only. */
typedef struct {
    char name[FH1_TAP_NAME_SIZE]; /* without the layer: mamba.ssd, layer, logits, cache.ssm */
    fh1_tap_id id;
    const fh1_report_tap *worst; /* of the judged, NULL when there are none */
    int64_t histogram[FH1_MARGIN_BINS];
    bool has_histogram;
} fh1_report_kind_row;

/* In the order in which the subject's model computes them, names that are no taps last; *rows is malloc'ed. */
fh1_status fh1_report_fold(const fh1_report_subject *s, fh1_report_kind_row **rows, int *n);
/* The series of a kind in earlier runs, and whether this run's margin rose above it (*median is set then). */
const double *fh1_report_series(const fh1_report *r, const fh1_report_subject *s, const fh1_report_kind_row *row,
                                int64_t *n);
bool fh1_report_rose(const fh1_report *r, const fh1_report_subject *s, const fh1_report_kind_row *row, double *median);

/* ---- telling ---- */
fh1_status fh1_report_json_tap(FILE *out, const fh1_report_subject *s, const fh1_report_tap *t);
fh1_status fh1_report_json_summary(const fh1_report *r, FILE *out);
fh1_status fh1_report_lines(const fh1_report *r, FILE *out);

void fh1_report_table_tap(const fh1_report *r, const fh1_report_tap *t); /* verbose: one line per tap */
fh1_status fh1_report_table_subject(fh1_report *r, const fh1_report_subject *s);
void fh1_report_table_summary(const fh1_report *r);

/* Text between tags and in quoted attributes of HTML and XML. */
void fh1_report_markup(FILE *out, const char *text);
fh1_status fh1_report_junit(const fh1_report *r, FILE *out);
fh1_status fh1_report_markdown(const fh1_report *r, FILE *out);
fh1_status fh1_report_history(const fh1_report *r, FILE *out);
fh1_status fh1_report_html(const fh1_report *r, FILE *out);
