/* The heat maps of the HTML page. */
#include "oracle/compare.h"
#include "oracle/report_html.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_STEPS = 64 }; /* columns of the map over steps; what comes later shares the last one */

static int bin_of(double margin)
{
    static const double edges[] = {1.0 / 32, 1.0 / 16, 1.0 / 8, 1.0 / 4, 1.0 / 2, 1, 4, 64};
    int k = 0;
    while (k < 8 && !fh1_within(margin, edges[k])) k++;
    return k;
}

const char *fh1_html_class(double margin)
{
    static const char *const classes[] = {"c0", "c1", "c2", "c3", "c4", "c5", "f1", "f2", "f3"};
    return classes[bin_of(margin)];
}

void fh1_html_margin(FILE *out, double margin)
{
    if (isnan(margin)) fputs("NaN", out);
    else if (isinf(margin)) fputs("&#8734;", out);
    else if (margin > 0 && margin < 0.01) fputs("&lt;.01", out);
    else if (margin < 1) fprintf(out, "%.2g", margin < 0.1 ? margin : floor(100 * margin) / 100); /* 0.999 passes */
    else fprintf(out, margin < 10 ? "%.3g" : margin < 9999 ? "%.0f" : "%.0e", margin);
}

void fh1_html_legend(FILE *out)
{
    static const char *const texts[] = {"&le; 1/32",  "1/16",         "1/8", "1/4", "1/2",
                                        "1: allowed", "&le; 4: FAIL", "64",  "more"};
    static const double inside[] = {0, 0.05, 0.1, 0.2, 0.4, 0.9, 2, 10, 100};
    fputs("<p class=\"legend\">Each number is a <em>margin</em>, error / allowed error: ", out);
    for (int i = 0; i < 9; i++) fprintf(out, "<span class=\"%s\">%s</span>", fh1_html_class(inside[i]), texts[i]);
    fputs("<span class=\"mis\">? MISTRUSTED</span><span class=\"skip\">&ndash; SKIP</span></p>\n", out);
}

static int64_t n_layers(const fh1_report_subject *s)
{
    int64_t most = -1;
    for (size_t i = 0; i < s->n_taps; i++)
        if (s->taps[i].layer > most) most = s->taps[i].layer;
    return most + 1;
}

static int64_t n_steps(const fh1_report_subject *s)
{
    int64_t most = -1;
    for (size_t i = 0; i < s->n_taps; i++)
        if (s->taps[i].step > most) most = s->taps[i].step;
    return most + 1 < MOST_STEPS ? most + 1 : MOST_STEPS;
}

int64_t fh1_html_columns(const fh1_report_subject *s)
{
    return 1 + n_layers(s) + n_steps(s);
}

/* Column of a tap; layers come behind the one column of the whole model. */
static int64_t column_of(const fh1_report_tap *t, bool by_step)
{
    if (!by_step) return t->layer + 1;
    return t->step < MOST_STEPS ? t->step : MOST_STEPS - 1;
}

/* FAIL before PASS before MISTRUSTED before SKIP; of equals the larger margin. */
static bool tells_more(const fh1_report_tap *t, const fh1_report_tap *than)
{
    static const int rank[] = {[FH1_FAIL] = 3, [FH1_PASS] = 2, [FH1_MISTRUSTED] = 1, [FH1_SKIP] = 0};
    if (!than || rank[t->verdict] != rank[than->verdict]) return !than || rank[t->verdict] > rank[than->verdict];
    return fh1_report_worse(t->margin, than->margin);
}

static void put_cell(FILE *out, const fh1_report_tap *t, bool first)
{
    char at[200], a[32], b[32];
    if (!t) {
        fputs("<td>", out);
        return;
    }
    if (t->verdict == FH1_MISTRUSTED || t->verdict == FH1_SKIP) {
        fprintf(out, "<td class=\"%s\" title=\"", t->verdict == FH1_SKIP ? "skip" : "mis");
        fh1_report_markup(out, t->reason);
        fputs(t->verdict == FH1_SKIP ? "\">&ndash;" : "\">?", out);
        return;
    }
    /* A FAIL whose margin is within 1 cannot come from the rules; if it did it must not look good. */
    const bool loud = t->verdict == FH1_FAIL;
    fprintf(out, "<td class=\"%s%s\" title=\"", loud && bin_of(t->margin) < 6 ? "f1" : fh1_html_class(t->margin),
            first ? " first" : "");
    fh1_report_markup(out, t->tap);
    fprintf(out, " step %lld at %s: error %s, allowed %s\">", (long long)t->step, fh1_report_place(t, at),
            fh1_report_number(t->max_err, a), fh1_report_number(t->allowed, b));
    fh1_html_margin(out, t->margin);
}

static void put_head(FILE *out, const char *caption, bool by_step, int64_t n_columns)
{
    fprintf(out,
            "<figure class=\"scroll\" tabindex=\"0\"><table class=\"heat\"><caption>%s</caption>\n<thead><tr><th>tap",
            caption);
    for (int64_t c = 0; c < n_columns; c++) {
        if (!by_step && c == 0) fputs("<th scope=\"col\">model", out);
        else
            fprintf(out, "<th scope=\"col\">%lld%s", (long long)(by_step ? c : c - 1),
                    by_step && c == MOST_STEPS - 1 ? "+" : "");
    }
    fputs("</thead>\n<tbody>\n", out);
}

/* A name that is no tap of a model may have been cut in its row. */
static bool same_name(const fh1_report_tap *t, const fh1_report_kind_row *row)
{
    return strncmp(t->tap, row->name, sizeof row->name - 1) == 0;
}

static fh1_status put_map(FILE *out, const fh1_report_subject *s, const fh1_report_kind_row *rows, int n, bool by_step)
{
    const int64_t n_columns = by_step ? n_steps(s) : 1 + n_layers(s);
    const fh1_report_tap **cells = calloc((size_t)n_columns, sizeof *cells);
    if (!cells) return fh1_no_memory((size_t)n_columns * sizeof *cells, "a row of a heat map");
    put_head(out, by_step ? "Margin by step (largest over layers)" : "Margin by layer (largest over steps)", by_step,
             n_columns);
    for (int k = 0; k < n; k++) {
        for (int64_t c = 0; c < n_columns; c++) cells[c] = NULL;
        for (size_t i = 0; i < s->n_taps; i++) {
            const fh1_report_tap *t = &s->taps[i];
            const bool member = t->id == rows[k].id && (t->id != FH1_TAP_COUNT || same_name(t, &rows[k]));
            const fh1_report_tap **cell = &cells[column_of(t, by_step)];
            if (member && tells_more(t, *cell)) *cell = t;
        }
        fputs("<tr><th scope=\"row\">", out);
        fh1_report_markup(out, rows[k].name);
        for (int64_t c = 0; c < n_columns; c++)
            put_cell(out, cells[c], cells[c] && s->first != FH1_NO_TAP && cells[c] == &s->taps[s->first]);
        putc('\n', out);
    }
    fputs("</tbody></table></figure>\n", out);
    free(cells);
    return NULL;
}

fh1_status fh1_html_heat_maps(FILE *out, const fh1_report_subject *s)
{
    fh1_report_kind_row *rows;
    int n;
    FH1_TRY(fh1_report_fold(s, &rows, &n));
    fputs("<div class=\"maps\">\n", out);
    fh1_status status = n ? put_map(out, s, rows, n, false) : NULL;
    if (!status && n && n_steps(s) > 1) status = put_map(out, s, rows, n, true);
    fputs("</div>\n", out);
    free(rows);
    return status;
}
