/* Reports that write into memory, for the tests of their forms. */
#pragma once

#include "oracle/report.h"

#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define HOSTILE "a\nb\"\\\x1b[31m\xff\xe2\x80\xae{}|`<script>alert(1)</script>'&amp;]]>\xef\xbf\xbf"

static inline fh1_report *quiet_report(fh1_report_form form, bool verbose, FILE **sink, char **text, size_t *size)
{
    fh1_report *r;
    *sink = open_memstream(text, size);
    ck_assert_ptr_nonnull(*sink);
    ck_assert_ptr_null(fh1_report_new(form, verbose, *sink, &r));
    return r;
}

/* A result of layer `layer` (-1: `tap` as it is) with every field of a report filled. */
static inline fh1_tap_result result(const char *subject, const char *tap, int layer, int64_t step, fh1_verdict v,
                                    double margin)
{
    fh1_tap_result t = {
        .subject = subject, .step = step, .order = layer + 1, .verdict = v, .margin = margin, .rank = 2};
    if (layer < 0) snprintf(t.tap, sizeof t.tap, "%s", tap);
    else snprintf(t.tap, sizeof t.tap, "model.layers.%d.%s", layer, tap);
    snprintf(t.reason, sizeof t.reason, "%s", v == FH1_PASS ? "" : "one element");
    t.max_err = 1e-3 * margin;
    t.allowed = 1e-3;
    t.rms_ratio = 1;
    t.rel_rms = 1e-6 * (layer + 2);
    t.free_rms = 3e-6 * (layer + 2);
    t.where[0] = 3;
    t.where[1] = 7;
    for (int k = 0; k < FH1_MARGIN_BINS; k++) t.histogram[k] = k < 12 ? 100 * k : v == FH1_FAIL;
    t.n_token_bins = 4;
    for (int k = 0; k < 4; k++) t.token_margin[k] = margin / (4 - k);
    return t;
}

static inline void add(fh1_report *r, const char *subject, const char *tap, int layer, int64_t step, fh1_verdict v,
                       double margin)
{
    const fh1_tap_result t = result(subject, tap, layer, step, v, margin);
    ck_assert_ptr_null(fh1_report_add(r, &t));
}

/* The finished report in a form; malloc'ed. Inlined, gcc 12 takes the text for the address of the local that holds it.
 */
__attribute__((noinline, unused)) static char *written(const fh1_report *r, fh1_report_kind kind)
{
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    ck_assert_ptr_nonnull(out);
    ck_assert_ptr_null(fh1_report_write(r, kind, out));
    ck_assert_int_eq(fclose(out), 0);
    ck_assert_uint_eq(strlen(text), size);
    return text;
}

static inline int occurrences(const char *text, const char *word)
{
    int n = 0;
    for (; (text = strstr(text, word)); text += strlen(word)) n++;
    return n;
}

static inline void has(const char *text, const char *part)
{
    ck_assert_msg(strstr(text, part) != NULL, "'%s' is missing in\n%.4000s", part, text);
}

static inline void lacks(const char *text, const char *part)
{
    ck_assert_msg(strstr(text, part) == NULL, "'%s' must not be in\n%.4000s", part, text);
}
