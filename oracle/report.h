/* Verdicts and how they are told: a console table, JSON lines (DESIGN: section Verdicts), and afterwards the files for
 * a CI: JUnit, Markdown, a page of HTML, lines of history (fh1_report_write).
 *
 * A *subject* is what is judged at once: an engine, a trace, a case of a suite. Its verdict: FAIL if any
 * tap FAILs, PASS if none FAILs and one PASSes, else MISTRUSTED. Its first divergence is the FAIL of the
 * lowest step, then the lowest order. The summary follows the same rule over all taps of all subjects;
 * a subject of which something else was wanted (fh1_report_end_subject) makes it FAIL.
 *
 * JSON lines carry the keys of DESIGN plus rel_rms, free_rms and, where there is one, reason and note; the summary
 * also "subject" (of the first divergence), "subjects", "mistrusted_subjects", "expected_failures" and,
 * where an expectation was missed, "reason". Numbers have nine digits. Names are shown as by
 * fh1_printable, so that no file name can break a line. */
#pragma once

#include "oracle/history.h"
#include "oracle/tap.h"

#include <stdio.h>

typedef enum { FH1_PASS, FH1_FAIL, FH1_MISTRUSTED, FH1_SKIP } fh1_verdict;
const char *fh1_verdict_name(fh1_verdict v);

/* Elements by error / allowed: bin k holds margins in [2^(k-12), 2^(k-11)), the first all below, the last all above. */
enum { FH1_MARGIN_BINS = 16, FH1_TOKEN_BINS = 32 };

/* A cause that explains a first divergence: a planted fault, a parameter, or the shape of what is left. */
typedef struct {
    char fault[64];     /* name of the registry, parameter ("mamba.D[3]"), or "unknown" */
    double score;       /* share of the squared residual that it explains, 0 to 1 */
    char evidence[320]; /* one sentence for people */
} fh1_suspect;

/* The verdict on one tap of one step of one subject. */
typedef struct {
    const char *subject; /* engine name or "trace:FILE" */
    char tap[FH1_TAP_NAME_SIZE];
    int64_t step, order; /* order within the step, fh1_tap_order */
    fh1_verdict verdict;
    char reason[160];        /* SKIP, MISTRUSTED: why; FAIL: which rule */
    double margin;           /* error / allowed of the deciding rule; > 1 fails */
    double rms_ratio;        /* RMS error / RMS error of the emulated pipeline; NaN without one */
    double max_err, allowed; /* at `where` */
    double rel_rms;          /* RMS error / RMS of truth, local */
    double free_rms;         /* the same against truth's own upstream; NaN when not run */
    int rank;
    int64_t where[FH1_MAX_RANK];
    /* for reports; zero or empty where a rule has none */
    fh1_tap_id id;
    int64_t layer;  /* -1 for taps of the whole model */
    char note[160]; /* what a reader should know and no verdict says, as a better engine than declared */
    int64_t histogram[FH1_MARGIN_BINS];  /* judged elements by error / allowed */
    int n_token_bins;                    /* columns of the call in up to FH1_TOKEN_BINS equal ranges: */
    double token_margin[FH1_TOKEN_BINS]; /* largest error / allowed in each */
} fh1_tap_result;

typedef struct fh1_report fh1_report;

typedef enum { FH1_REPORT_TABLE, FH1_REPORT_JSON } fh1_report_form;

/* Results go to `out` (not owned). In table form only failures, warnings and one line per subject are
 * printed unless `verbose`. */
fh1_status fh1_report_new(fh1_report_form form, bool verbose, FILE *out, fh1_report **report);
/* A result of another subject than the one before closes that one, as end_subject with its name would. */
fh1_status fh1_report_add(fh1_report *r, const fh1_tap_result *t);
/* Closes the subject that was reported last (table form: its line with counts, worst margin and first
 * divergence). `expect_fail` counts a FAIL at `expect_tap` of `expect_step` as the wanted outcome (a
 * golden wrong trace): the subject is then good if its first divergence is exactly that one, and bad
 * otherwise. expect_tap NULL: a PASS is wanted. `label` is "group name" or "group:name"; the table sums
 * up by group. */
void fh1_report_end_subject(fh1_report *r, const char *label, const char *expect_tap, int64_t expect_step);
/* Causes of the first divergence of the subject reported last, best first; copied. The summary tells those of the
 * first bad subject, `repro` the command that shows it alone. NULL for either leaves what there was: no suspects, and
 * the command given to fh1_report_finish. Call before fh1_report_end_subject; without a result since, nothing happens.
 */
fh1_status fh1_report_suspects(fh1_report *r, const fh1_suspect *list, int n, const char *repro);
/* The summary, last; `repro` is the command line that runs this again. Closes an open subject. Returns the
 * exit code: 0 for PASS, 1 for FAIL and MISTRUSTED, 3 if `out` could not be written or memory ran out. */
int fh1_report_finish(fh1_report *r, const char *version, const char *repro);
/* Margins of earlier runs, kept by the caller until the report is freed: the report says which margins rose
 * (fh1_rules, trend_*), as a note and never as a verdict. `time` of this run, as 2026-11-21T06:42:54Z, goes into
 * FH1_REPORT_HISTORY. Call before the first result. */
void fh1_report_past(fh1_report *r, const fh1_history *past, const char *time);

/* The finished report in another form. LINES: what FH1_REPORT_JSON prints. JUNIT: a testsuite per subject, a testcase
 * per tap; a subject that failed as wanted has no failure, an unmet one has. MARKDOWN: short enough for a comment of a
 * pull request. HTML: one page that needs no network and no script; details of every bad subject, of the worst of each
 * group, and with `verbose` of all, up to a bound that the page names. HISTORY: one line per subject for `past` of
 * later runs, see oracle/history.h. */
typedef enum {
    FH1_REPORT_LINES,
    FH1_REPORT_JUNIT,
    FH1_REPORT_MARKDOWN,
    FH1_REPORT_HTML,
    FH1_REPORT_HISTORY
} fh1_report_kind;

/* After fh1_report_finish. FH1_E_INTERNAL where `out` cannot be written or memory runs out. */
fh1_status fh1_report_write(const fh1_report *r, fh1_report_kind kind, FILE *out);
void fh1_report_free(fh1_report *r);
