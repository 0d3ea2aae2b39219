/* The report as Markdown, for a comment of a pull request: at most a screen open, the rest folded, and bounded, since
 * such comments may have 65536 characters. */
#include "oracle/report_impl.h"

#include <stdlib.h>
#include <string.h>

enum { MOST_OPEN = 6, MOST_SUBJECTS = 25, MOST_DETAILS = 8, MOST_TAPS = 12 };

/* Longest run of backticks in `text`. */
static int longest_run(const char *text)
{
    int most = 0, run = 0;
    for (; *text; text++) {
        run = *text == '`' ? run + 1 : 0;
        if (run > most) most = run;
    }
    return most;
}

/* A code span that holds any text, also in a cell of a table, where a bar would end it. */
static void code(FILE *out, const char *text, bool in_cell)
{
    const int n = longest_run(text) + 1;
    for (int i = 0; i < n; i++) putc('`', out);
    if (n > 1) putc(' ', out);
    for (; *text; text++) {
        if (*text == '|' && in_cell) putc('\\', out);
        putc(*text, out);
    }
    if (n > 1) putc(' ', out);
    for (int i = 0; i < n; i++) putc('`', out);
}

/* Prose: what Markdown or HTML would read as a mark becomes an entity. */
static void prose(FILE *out, const char *text)
{
    for (; *text; text++) {
        if (strchr("\\`*_[]<>#!|&~@", *text)) fprintf(out, "&#%d;", (unsigned char)*text);
        else putc(*text, out);
    }
}

static void block(FILE *out, const char *text)
{
    const int n = longest_run(text) < 3 ? 3 : longest_run(text) + 1;
    for (int i = 0; i < n; i++) putc('`', out);
    fprintf(out, "sh\n%s\n", text);
    for (int i = 0; i < n; i++) putc('`', out);
    fputs("\n", out);
}

static const char *mark(fh1_verdict v)
{
    static const char *const marks[] = {"\xe2\x9c\x85", "\xe2\x9d\x8c", "\xe2\x9a\xa0\xef\xb8\x8f", "\xe2\x8f\xad"};
    return marks[v]; /* check, cross, warning sign, skip */
}

static void subject_row(FILE *out, const fh1_report_subject *s)
{
    const fh1_verdict v = fh1_report_shown(s);
    char a[32];
    fprintf(out, "| %s %s | ", mark(v), s->expected_fail ? "fails as wanted" : fh1_verdict_name(v));
    code(out, s->label, true);
    fprintf(out, " | %zu | %lld | ", s->n_taps, (long long)s->count[FH1_FAIL]);
    if (s->worst != FH1_NO_TAP) fputs(fh1_report_number(s->taps[s->worst].margin, a), out);
    fputs(" | ", out);
    const size_t at = s->first != FH1_NO_TAP ? s->first : s->worst;
    if (at != FH1_NO_TAP) {
        code(out, s->taps[at].tap, true);
        fprintf(out, " step %lld", (long long)s->taps[at].step);
    }
    fputs(" |\n", out);
}

static void groups(const fh1_report *r, FILE *out)
{
    char name[4 * sizeof r->groups->name];
    fputs("| group | subjects | good | PASS | FAIL | MISTRUSTED | SKIP |\n|---|---:|---:|---:|---:|---:|---:|\n", out);
    for (size_t i = 0; i < r->n_groups; i++) {
        const fh1_report_group *g = &r->groups[i];
        fputs("| ", out);
        code(out, fh1_printable(g->name, name, sizeof name), true);
        fprintf(out, " | %lld | %lld |", (long long)g->subjects, (long long)g->good);
        for (int v = 0; v < 4; v++) fprintf(out, " %lld |", (long long)g->count[v]);
        putc('\n', out);
    }
    putc('\n', out);
}

/* The bad or the good ones, in the order of the run; many good ones are folded. */
static void subjects(const fh1_report *r, FILE *out, bool good)
{
    size_t n = 0, shown = 0;
    for (size_t i = 0; i < r->n_list; i++) n += (fh1_report_shown(&r->list[i]) == FH1_PASS) == good;
    if (n == 0) return;
    const bool folded = good && n > MOST_OPEN;
    if (folded) fprintf(out, "<details><summary>%zu good subjects</summary>\n\n", n);
    fputs("| verdict | subject | taps | FAIL | worst margin | first divergence, or where the margin is largest |\n"
          "|---|---|---:|---:|---:|---|\n",
          out);
    for (size_t i = 0; i < r->n_list && shown < MOST_SUBJECTS; i++) {
        if ((fh1_report_shown(&r->list[i]) == FH1_PASS) != good) continue;
        subject_row(out, &r->list[i]);
        shown++;
    }
    if (n > shown) fprintf(out, "\nand %zu more\n", n - shown);
    fputs(folded ? "\n</details>\n\n" : "\n", out);
}

static void first_divergence(const fh1_report *r, FILE *out, const fh1_report_subject *s)
{
    char at[200], a[32], b[32], c[32], sentence[600];
    const fh1_report_tap *t = &s->taps[s->first];
    fputs("**First divergence:** ", out);
    code(out, t->tap, false);
    fprintf(out, " step %lld at %s of ", (long long)t->step, fh1_report_place(t, at));
    code(out, s->label, false);
    fprintf(out, ": margin %s, error %s, allowed %s", fh1_report_number(t->margin, a), fh1_report_number(t->max_err, b),
            fh1_report_number(t->allowed, c));
    if (t->reason[0]) {
        fputs(" (", out);
        prose(out, t->reason);
        putc(')', out);
    }
    fputs("\n\n", out);
    for (int i = 0; i < s->n_suspects; i++) {
        fprintf(out, "%d. ", i + 1);
        prose(out, fh1_report_sentence(&s->suspects[i], sentence, sizeof sentence));
        putc('\n', out);
    }
    if (s->n_suspects) putc('\n', out);
    block(out, fh1_report_repro(r, s));
}

static fh1_status details(FILE *out, const fh1_report_subject *s)
{
    const fh1_report_tap **list;
    size_t n;
    char at[200], a[32], b[32], c[32];
    FH1_TRY(fh1_report_sorted(s, FH1_FAIL, &list, &n));
    fputs("\n<details><summary>", out);
    fh1_report_markup(out, s->label);
    fprintf(out, ": %lld FAIL, %lld PASS, %lld MISTRUSTED, %lld SKIP</summary>\n\n", (long long)s->count[FH1_FAIL],
            (long long)s->count[FH1_PASS], (long long)s->count[FH1_MISTRUSTED], (long long)s->count[FH1_SKIP]);
    if (s->unmet[0]) {
        prose(out, s->unmet);
        fputs("\n\n", out);
    }
    if (n) fputs("| step | tap | at | margin | error | allowed |\n|---:|---|---|---:|---:|---:|\n", out);
    for (size_t i = 0; i < n && i < MOST_TAPS; i++) {
        fprintf(out, "| %lld | ", (long long)list[i]->step);
        code(out, list[i]->tap, true);
        fprintf(out, " | %s | %s | %s | %s |\n", fh1_report_place(list[i], at), fh1_report_number(list[i]->margin, a),
                fh1_report_number(list[i]->max_err, b), fh1_report_number(list[i]->allowed, c));
    }
    if (n > MOST_TAPS) fprintf(out, "\nand %zu more\n", n - MOST_TAPS);
    fputs("\n</details>\n", out);
    free(list);
    return NULL;
}

static fh1_status rises(const fh1_report *r, FILE *out)
{
    int told = 0;
    for (size_t i = 0; r->past && i < r->n_list; i++) {
        fh1_report_kind_row *rows;
        int n;
        char a[32], b[32];
        double median;
        FH1_TRY(fh1_report_fold(&r->list[i], &rows, &n));
        for (int k = 0; k < n; k++) {
            if (!fh1_report_rose(r, &r->list[i], &rows[k], &median) || told++ >= MOST_TAPS) continue;
            fputs(told == 1 ? "\n**Margins that rose** (no verdict):\n- " : "- ", out);
            code(out, rows[k].name, false);
            fputs(" of ", out);
            code(out, r->list[i].label, false);
            fprintf(out, ": %s, median so far %s\n", fh1_report_number(rows[k].worst->margin, a),
                    fh1_report_number(median, b));
        }
        free(rows);
    }
    if (told > MOST_TAPS) fprintf(out, "- and %d more\n", told - MOST_TAPS);
    return NULL;
}

fh1_status fh1_report_markdown(const fh1_report *r, FILE *out)
{
    const fh1_verdict v = fh1_report_verdict(r);
    int shown = 0;
    fprintf(out, "### %s fh1 %s: %s\n\n%zu subject%s", mark(v), r->version, fh1_verdict_name(v), r->n_list,
            r->n_list == 1 ? "" : "s");
    if (r->expected_failures) fprintf(out, ", %lld failed as wanted", (long long)r->expected_failures);
    if (r->mistrusted_subjects) fprintf(out, ", %lld MISTRUSTED", (long long)r->mistrusted_subjects);
    fputs("\n\n", out);
    if (r->n_list > MOST_OPEN) groups(r, out);
    subjects(r, out, false);
    subjects(r, out, true);
    if (r->first != FH1_NO_TAP) {
        first_divergence(r, out, &r->list[r->first]);
    } else {
        block(out, r->repro);
    }
    FH1_TRY(rises(r, out));
    for (size_t i = 0; i < r->n_list; i++)
        if (fh1_report_shown(&r->list[i]) == FH1_FAIL && shown++ < MOST_DETAILS) FH1_TRY(details(out, &r->list[i]));
    return NULL;
}
