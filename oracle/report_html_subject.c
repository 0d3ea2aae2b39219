/* One subject of the HTML page: first divergence, suspects, heat maps, curves, histograms. */
#include "oracle/compare.h"
#include "oracle/contract.h"
#include "oracle/fault.h"
#include "oracle/report_html.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_TAPS = 20, MOST_POINTS = 512 };

void fh1_html_badge(FILE *out, fh1_verdict v, const char *text)
{
    fprintf(out, "<span class=\"badge %s\">%s</span>", fh1_verdict_name(v), text);
}

void fh1_html_repro(FILE *out, const char *line)
{
    fputs("<div class=\"repro\"><code>", out);
    fh1_report_markup(out, line);
    fputs("</code></div>\n", out);
}

/* "MU2 owner/name#1622" with the thread as a link. */
static void put_source(FILE *out, const char *source)
{
    const char *hash = strchr(source, '#'), *begin = hash, *slash = NULL;
    while (begin && begin > source && (isalnum((unsigned char)begin[-1]) || strchr("-_./", begin[-1]))) begin--;
    size_t digits = hash ? strspn(hash + 1, "0123456789") : 0;
    if (hash) slash = memchr(begin, '/', (size_t)(hash - begin));
    if (!slash || !digits) {
        fh1_report_markup(out, source);
        return;
    }
    const int repo = (int)(hash - begin), number = (int)digits;
    fprintf(out, "%.*s<a href=\"https://github.com/%.*s/issues/%.*s\">%.*s#%.*s</a>", (int)(begin - source), source,
            repo, begin, number, hash + 1, repo, begin, number, hash + 1);
    fh1_report_markup(out, hash + 1 + digits);
}

static void put_suspects(FILE *out, const fh1_report_subject *s)
{
    if (!s->n_suspects) return;
    fputs("<table class=\"suspects\"><caption>Suspects</caption><thead><tr><th>explains<th>cause<th>evidence"
          "</thead><tbody>\n",
          out);
    for (int i = 0; i < s->n_suspects; i++) {
        const fh1_suspect *c = &s->suspects[i];
        const fh1_fault f = fh1_fault_find(c->fault);
        const double share = fmin(fmax(c->score, 0), 1);
        fprintf(out, "<tr><td><span class=\"bar\"><i style=\"width:%.1f%%\"></i></span> %.4g&nbsp;%%<td><strong>",
                isfinite(share) ? 100 * share : 0, 100 * c->score);
        fh1_report_markup(out, strcmp(c->fault, "unknown") == 0 ? "no known fault" : c->fault);
        fputs("</strong>", out);
        if (f != FH1_FAULT_NONE) {
            fputs("<br>", out);
            fh1_report_markup(out, fh1_fault_get(f)->what);
            if (fh1_fault_get(f)->source[0]) {
                fputs("; ", out);
                put_source(out, fh1_fault_get(f)->source);
            }
        }
        fputs("<td>", out);
        fh1_report_markup(out, c->evidence);
        putc('\n', out);
    }
    fputs("</tbody></table>\n", out);
}

void fh1_html_divergence(const fh1_report *r, const fh1_report_subject *s, FILE *out)
{
    char at[200], a[32], b[32], c[32], sentence[600];
    if (s->unmet[0]) {
        fputs("<p><strong>", out);
        fh1_report_markup(out, s->unmet);
        fputs("</strong></p>\n", out);
    }
    if (s->first != FH1_NO_TAP) {
        const fh1_report_tap *t = &s->taps[s->first];
        fprintf(out, "<p>%s <strong class=\"tap\">", s->expected_fail ? "Fails as wanted at" : "First divergence");
        fh1_report_markup(out, t->tap);
        fprintf(out, "</strong> step&nbsp;%lld at %s: margin <strong>%s</strong>, error %s, allowed %s",
                (long long)t->step, fh1_report_place(t, at), fh1_report_number(t->margin, a),
                fh1_report_number(t->max_err, b), fh1_report_number(t->allowed, c));
        if (t->reason[0]) fputs(". ", out);
        fh1_report_markup(out, t->reason);
        fputs("</p>\n", out);
        if (s->n_suspects) {
            fputs("<p class=\"sentence\">", out);
            fh1_report_markup(out, fh1_report_sentence(&s->suspects[0], sentence, sizeof sentence));
            fputs("</p>\n", out);
        }
    }
    if (fh1_report_shown(s) != FH1_PASS) fh1_html_repro(out, fh1_report_repro(r, s));
}

/* ---- curves ---- */

static void keep_larger(double *cell, double v)
{
    if (!isnan(v) && (isnan(*cell) || !fh1_within(v, *cell))) *cell = v;
}

/* Relative errors of the taps of each layer, caches aside. */
static fh1_status put_layers(FILE *out, const fh1_report_subject *s)
{
    int64_t n = 0;
    for (size_t i = 0; i < s->n_taps; i++)
        if (s->taps[i].layer >= n) n = s->taps[i].layer + 1;
    if (n < 2) return NULL;
    double *local = malloc(2 * (size_t)n * sizeof *local), *run = local + n;
    if (!local) return fh1_no_memory(2 * (size_t)n * sizeof *local, "a curve");
    for (int64_t i = 0; i < 2 * n; i++) local[i] = (double)NAN;
    for (size_t i = 0; i < s->n_taps; i++) {
        const fh1_report_tap *t = &s->taps[i];
        const bool judged = t->verdict == FH1_PASS || t->verdict == FH1_FAIL;
        if (!judged || t->layer < 0 || fh1_tap_is_cache(t->id)) continue;
        keep_larger(&local[t->layer], t->rel_rms);
        keep_larger(&run[t->layer], t->free_rms);
    }
    const fh1_html_curve curves[] = {{"one operation", "a", local}, {"since the input", "b", run}};
    fh1_html_draw(out, &(fh1_html_plot){.title = "Relative RMS error by layer, largest of its taps",
                                        .x_name = "layer",
                                        .curves = curves,
                                        .n_curves = 2,
                                        .n = n});
    free(local);
    return NULL;
}

/* Largest margin over all taps for each range of tokens, one call after the other. */
static void put_tokens(FILE *out, const fh1_report_subject *s)
{
    double margin[MOST_POINTS];
    bool begins[MOST_POINTS];
    int64_t n = 0;
    for (int64_t step = 0;; step++) {
        int bins = 0;
        bool later = false;
        for (size_t i = 0; i < s->n_taps; i++) {
            later |= s->taps[i].step > step;
            if (s->taps[i].step == step && s->taps[i].n_tokens > bins) bins = s->taps[i].n_tokens;
        }
        if (n + bins > MOST_POINTS) break;
        for (int k = 0; k < bins; k++) {
            margin[n + k] = (double)NAN;
            begins[n + k] = k == 0;
            for (size_t i = 0; i < s->n_taps; i++)
                if (s->taps[i].step == step && k < s->taps[i].n_tokens)
                    keep_larger(&margin[n + k], s->taps[i].tokens[k]);
        }
        n += bins;
        if (!later) break;
    }
    if (n < 2) return;
    const fh1_html_curve curve = {"margin", "a", margin};
    fh1_html_draw(out, &(fh1_html_plot){.title = "Margin over tokens, largest of all taps",
                                        .x_name = "step; inside of it ranges of columns",
                                        .curves = &curve,
                                        .n_curves = 1,
                                        .n = n,
                                        .limit = 1,
                                        .marks = begins});
}

static fh1_status put_kinds(const fh1_report *r, FILE *out, const fh1_report_subject *s)
{
    fh1_report_kind_row *rows;
    int n, n_histograms = 0, told = 0;
    double median;
    char a[32], b[32];
    FH1_TRY(fh1_report_fold(s, &rows, &n));
    for (int i = 0; i < n; i++) n_histograms += rows[i].has_histogram;
    if (n_histograms) fputs("<h4>Elements by margin, logarithmic</h4><div class=\"hists\">\n", out);
    for (int i = 0; i < n; i++)
        if (rows[i].has_histogram) fh1_html_histogram(out, &rows[i]);
    if (n_histograms) fputs("</div>\n", out);
    for (int i = 0; i < n; i++) {
        int64_t runs;
        const double *past = fh1_report_series(r, s, &rows[i], &runs);
        if (!runs || !rows[i].worst) continue;
        if (!told++) fputs("<h4>Margins of earlier runs, the last at the right</h4><ul class=\"trend\">\n", out);
        const bool rose = fh1_report_rose(r, s, &rows[i], &median);
        fprintf(out, "<li%s>", rose ? " class=\"rose\"" : "");
        fh1_html_sparkline(out, past, runs, rows[i].worst->margin);
        fputs("<span class=\"tap\">", out);
        fh1_report_markup(out, rows[i].name);
        fprintf(out, "</span> %s", fh1_report_number(rows[i].worst->margin, a));
        if (rose) fprintf(out, "; median was %s", fh1_report_number(median, b));
        putc('\n', out);
    }
    if (told) fputs("</ul>\n", out);
    free(rows);
    return NULL;
}

/* ---- lists ---- */

static fh1_status put_failures(FILE *out, const fh1_report_subject *s)
{
    const fh1_report_tap **list;
    size_t n;
    char at[200], a[32], b[32], c[32], d[32];
    FH1_TRY(fh1_report_sorted(s, FH1_FAIL, &list, &n));
    if (n)
        fputs(
            "<figure class=\"scroll\" tabindex=\"0\"><table><caption>What fails, in the order of computation</caption>"
            "<thead><tr><th>step<th>tap<th>at<th>margin<th>error<th>allowed<th>rms ratio<th>rule</thead><tbody>\n",
            out);
    for (size_t i = 0; i < n && i < MOST_TAPS; i++) {
        const fh1_report_tap *t = list[i];
        fprintf(out, "<tr><td>%lld<td class=\"tap\">", (long long)t->step);
        fh1_report_markup(out, t->tap);
        fprintf(out, "<td>%s<td class=\"n\">%s<td class=\"n\">%s<td class=\"n\">%s<td class=\"n\">%s<td>",
                fh1_report_place(t, at), fh1_report_number(t->margin, a), fh1_report_number(t->max_err, b),
                fh1_report_number(t->allowed, c), fh1_report_number(t->rms_ratio, d));
        fh1_report_markup(out, t->reason);
        putc('\n', out);
    }
    if (n > MOST_TAPS) fprintf(out, "<tr><td colspan=\"8\">and %zu more\n", n - MOST_TAPS);
    if (n) fputs("</tbody></table></figure>\n", out);
    free(list);
    return NULL;
}

/* Each note once, with the tap that came first. */
static void put_notes(FILE *out, const fh1_report_subject *s)
{
    int told = 0;
    for (size_t i = 0; s->n_notes && i < s->n_taps && told < MOST_TAPS; i++) {
        const char *note = s->taps[i].note; /* kept once per report: equal texts are one pointer */
        bool again = note[0] == 0;
        for (size_t k = 0; k < i && !again; k++) again = s->taps[k].note == note;
        if (again) continue;
        int64_t n = 0;
        for (size_t k = i; k < s->n_taps; k++) n += s->taps[k].note == note;
        if (!told++) fputs("<h4>Notes</h4><ul>\n", out);
        fputs("<li>", out);
        fh1_report_markup(out, note);
        fputs(" <span class=\"quiet\">(", out);
        fh1_report_markup(out, s->taps[i].tap);
        if (n > 1) fprintf(out, " and %lld more", (long long)n - 1);
        fputs(")</span>\n", out);
    }
    if (told) fputs("</ul>\n", out);
}

fh1_status fh1_html_subject(const fh1_report *r, size_t i, bool open, FILE *out)
{
    const fh1_report_subject *s = &r->list[i];
    const fh1_verdict v = fh1_report_shown(s);
    fprintf(out, "<details class=\"subject\" id=\"s%zu\"%s><summary>", i, open ? " open" : "");
    fh1_html_badge(out, v, s->expected_fail ? "fails as wanted" : fh1_verdict_name(v));
    putc(' ', out);
    fh1_report_markup(out, s->label);
    fprintf(out, " <span class=\"quiet\">%lld PASS, %lld FAIL, %lld MISTRUSTED, %lld SKIP</span></summary>\n",
            (long long)s->count[FH1_PASS], (long long)s->count[FH1_FAIL], (long long)s->count[FH1_MISTRUSTED],
            (long long)s->count[FH1_SKIP]);
    if (i != r->first || r->n_list > 1) fh1_html_divergence(r, s, out); /* else it stands at the top of the page */
    put_suspects(out, s);
    fh1_html_legend(out);
    FH1_TRY(fh1_html_heat_maps(out, s));
    fputs("<div class=\"plots\">\n", out);
    FH1_TRY(put_layers(out, s));
    put_tokens(out, s);
    fputs("</div>\n", out);
    FH1_TRY(put_kinds(r, out, s));
    FH1_TRY(put_failures(out, s));
    put_notes(out, s);
    fputs("</details>\n", out);
    return NULL;
}
