/* The HTML page: verdict, first divergence, groups, all subjects, details of some. */
#include "oracle/report_html.h"

#include "oracle/compare.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* About how many bytes details may take, of a cell of a heat map, of the rest of a subject: the page stays below 10 MB.
 */
enum { BUDGET = 8000000, PER_CELL = 190, PER_SUBJECT = 40000, ALL_UP_TO = 12 };

static void put_top(const fh1_report *r, FILE *out)
{
    const char *verdict = fh1_verdict_name(fh1_report_verdict(r));
    int64_t taps[4] = {0};
    for (size_t i = 0; i < r->n_groups; i++)
        for (int v = 0; v < 4; v++) taps[v] += r->groups[i].count[v];
    fprintf(out,
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">"
            "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">"
            "<meta name=\"color-scheme\" content=\"light dark\"><link rel=\"icon\" href=\"data:,\">"
            "<title>fh1: %s</title>\n<style>\n%s</style></head>\n<body>\n<header class=\"%s\"><h1>%s</h1><p>",
            verdict, fh1_html_style, verdict, verdict);
    fprintf(out, "fh1 %s &middot; %zu subject%s &middot; taps: %lld PASS, %lld FAIL, %lld MISTRUSTED, %lld SKIP",
            r->version, r->n_list, r->n_list == 1 ? "" : "s", (long long)taps[FH1_PASS], (long long)taps[FH1_FAIL],
            (long long)taps[FH1_MISTRUSTED], (long long)taps[FH1_SKIP]);
    if (r->expected_failures) fprintf(out, " &middot; %lld subjects failed as wanted", (long long)r->expected_failures);
    if (r->time[0]) fprintf(out, " &middot; %s", r->time);
    fputs("</p></header>\n<main>\n", out);
}

static void put_first(const fh1_report *r, FILE *out)
{
    fputs("<section>\n", out);
    if (r->first != FH1_NO_TAP) {
        const fh1_report_subject *s = &r->list[r->first];
        fprintf(out, "<h2>Where it goes wrong</h2>\n<p class=\"quiet\">in <a href=\"#s%zu\">", r->first);
        fh1_report_markup(out, s->label);
        fputs("</a></p>\n", out);
        fh1_html_divergence(r, s, out);
    } else {
        fputs("<h2>Again</h2>\n", out);
        fh1_html_repro(out, r->repro);
    }
    fputs("</section>\n", out);
}

static bool is_bad(const fh1_report_subject *s)
{
    return fh1_report_shown(s) != FH1_PASS;
}

/* ---- which subjects have details ---- */

/* What a subject costs; 0 cells for one without taps. */
static int64_t cost(const fh1_report_subject *s)
{
    int64_t kinds = 0;
    bool seen[FH1_TAP_COUNT + 1] = {false};
    for (size_t i = 0; i < s->n_taps; i++) {
        kinds += s->taps[i].id == FH1_TAP_COUNT || !seen[s->taps[i].id];
        seen[s->taps[i].id] = true;
    }
    return PER_SUBJECT + PER_CELL * kinds * fh1_html_columns(s);
}

/* The subject of each group with the largest margin that is no failure as wanted. */
static bool is_worst_of_group(const fh1_report *r, size_t i)
{
    const fh1_report_subject *s = &r->list[i];
    if (s->worst == FH1_NO_TAP || s->expected_fail) return false;
    for (size_t k = 0; k < r->n_list; k++) {
        const fh1_report_subject *o = &r->list[k];
        if (k == i || o->group != s->group || o->expected_fail || o->worst == FH1_NO_TAP) continue;
        const double mine = s->taps[s->worst].margin, other = o->taps[o->worst].margin;
        if (fh1_report_worse(other, mine) || (k < i && !fh1_report_worse(mine, other))) return false;
    }
    return true;
}

/* detail[i] for all that are wanted and fit: the bad ones first, then by rank. Returns how many did not fit. */
static size_t choose(const fh1_report *r, bool *detail)
{
    int64_t left = BUDGET;
    size_t missing = 0;
    for (int rank = 0; rank < 3; rank++)
        for (size_t i = 0; i < r->n_list; i++) {
            const bool all = r->verbose || r->n_list <= ALL_UP_TO;
            const fh1_report_subject *s = &r->list[i];
            const int mine = is_bad(s) ? 0 : s->expected_fail || is_worst_of_group(r, i) ? 1 : 2;
            if (mine != rank || (rank == 2 && !all)) continue;
            const int64_t price = cost(s);
            if (price > left && i != r->first) {
                missing++;
                continue;
            }
            detail[i] = true;
            left -= price;
        }
    return missing;
}

/* ---- the overview ---- */

static void put_row(const fh1_report *r, FILE *out, size_t i, bool linked)
{
    const fh1_report_subject *s = &r->list[i];
    const fh1_verdict v = fh1_report_shown(s);
    char a[32];
    fputs("<tr><td>", out);
    fh1_html_badge(out, v, s->expected_fail ? "as wanted" : fh1_verdict_name(v));
    fprintf(out, linked ? "<td><a href=\"#s%zu\">" : "<td>", i);
    fh1_report_markup(out, s->label);
    fprintf(out, "%s<td class=\"n\">%zu<td class=\"n\">%lld<td class=\"n\">%lld", linked ? "</a>" : "", s->n_taps,
            (long long)s->count[FH1_FAIL], (long long)(s->count[FH1_MISTRUSTED] + s->count[FH1_SKIP]));
    const size_t at = s->first != FH1_NO_TAP ? s->first : s->worst;
    if (at == FH1_NO_TAP) {
        fputs("<td><td>", out);
    } else {
        const fh1_report_tap *t = &s->taps[at];
        fprintf(out, "<td class=\"n %s\">", fh1_html_class(t->margin));
        fh1_html_margin(out, t->margin);
        fputs("<td class=\"tap\">", out);
        fh1_report_markup(out, t->tap);
        fprintf(out, " step&nbsp;%lld", (long long)t->step);
    }
    fprintf(out, "<td class=\"n\">%s\n", fh1_report_number(s->most_free, a));
}

static void put_group(const fh1_report *r, FILE *out, size_t g, const bool *detail)
{
    const fh1_report_group *group = &r->groups[g];
    const bool bad = group->good < group->subjects;
    fprintf(out, "<details class=\"group\"%s><summary>", bad || r->n_list <= ALL_UP_TO ? " open" : "");
    fh1_html_badge(out, bad ? FH1_FAIL : FH1_PASS, bad ? "not all good" : "all good");
    fputs(" <strong>", out);
    fh1_report_markup(out, group->name);
    fprintf(out,
            "</strong> <span class=\"quiet\">%lld of %lld subjects good; taps: %lld PASS, %lld FAIL, %lld MISTRUSTED, "
            "%lld SKIP</span></summary>\n",
            (long long)group->good, (long long)group->subjects, (long long)group->count[FH1_PASS],
            (long long)group->count[FH1_FAIL], (long long)group->count[FH1_MISTRUSTED],
            (long long)group->count[FH1_SKIP]);
    fputs("<figure class=\"scroll\" tabindex=\"0\"><table class=\"overview\"><thead><tr><th>verdict<th>subject<th>taps"
          "<th>FAIL<th>unjudged<th>margin<th>first divergence, or where the margin is largest<th>free "
          "rms</thead><tbody>\n",
          out);
    for (int good = 0; good < 2; good++)
        for (size_t i = 0; i < r->n_list; i++)
            if (r->list[i].group == (int)g && is_bad(&r->list[i]) == !good) put_row(r, out, i, detail[i]);
    fputs("</tbody></table></figure></details>\n", out);
}

static void put_foot(FILE *out)
{
    fputs("</main>\n<footer><p>A tap is a named intermediate tensor. Each is compared with a sequential reference in "
          "double "
          "precision that goes on from the judged engine&#39;s own taps, so the first divergence is where the mistake "
          "is. "
          "<em>Margin</em>: error / allowed error, above 1 fails. <em>Free rms</em>: relative RMS error against the "
          "reference&#39;s own run from the input. MISTRUSTED: the input could not have shown a "
          "fault.</p></footer>\n<script>\n",
          out);
    fputs(fh1_html_script, out);
    fputs("</script>\n</body></html>\n", out);
}

fh1_status fh1_report_html(const fh1_report *r, FILE *out)
{
    bool *detail = calloc(r->n_list + 1, sizeof *detail);
    fh1_status s = NULL;
    if (!detail) return fh1_no_memory(r->n_list, "the page");
    const size_t missing = choose(r, detail);
    put_top(r, out);
    put_first(r, out);
    fputs("<section><h2>Subjects</h2>\n", out);
    for (size_t g = 0; g < r->n_groups; g++) put_group(r, out, g, detail);
    fputs("</section>\n<section><h2>Details</h2>\n<p class=\"quiet\">", out);
    fputs(r->verbose || r->n_list <= ALL_UP_TO ? "Of every subject."
                                               : "Of every bad subject and of the one with the largest margin in each "
                                                 "group; <code>--verbose</code> shows all.",
          out);
    if (missing) fprintf(out, " %zu did not fit on this page: narrow the run, or read the JSON lines.", missing);
    fputs("</p>\n", out);
    for (size_t i = 0; i < r->n_list && !s; i++)
        if (detail[i]) s = fh1_html_subject(r, i, i == r->first || r->n_list == 1, out);
    fputs("</section>\n", out);
    put_foot(out);
    free(detail);
    return s;
}
