/* The text of a schedule: parse, check, print. */
#include "golden/calls.h"

#include <inttypes.h>
#include <string.h>

enum { MAX_STEPS = 4096 };
#define MAX_COLUMNS (INT64_C(1) << 20)
#define MAX_CELLS (INT64_C(1) << 24)

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static fh1_status expected(const char *at, const char *what)
{
    char shown[48];
    fh1_status s = fh1_expected(FH1_BAD("not a schedule"), "%s", what);
    return fh1_found(s, "'%s'", fh1_printable(at, shown, sizeof shown));
}

/* Up to MAX_COLUMNS, so that sums of thousands fit. */
static fh1_status read_count(const char **p, int64_t *v)
{
    if (!is_digit(**p)) return expected(*p, "a number");
    const char *from = *p;
    for (*v = 0; is_digit(**p); ++*p) {
        *v = 10 * *v + (**p - '0');
        if (*v > MAX_COLUMNS) return expected(from, "a number up to 2^20");
    }
    return NULL;
}

static fh1_status read_pads(const char **p, int64_t *pads)
{
    for (int b = 0;; b++) {
        if (b == GLD_MAX_ROWS) return expected(*p, "no more rows than 32");
        FH1_TRY(read_count(p, &pads[b]));
        if (**p != ',') return NULL;
        ++*p;
    }
}

static fh1_status read_cuts(const char **p, gld_call *k)
{
    for (int b = 0;; b++) {
        if (b == GLD_MAX_ROWS) return expected(*p, "no more rows than 32");
        while (is_digit(**p)) { /* a row may have none */
            if (k->n_cuts[b] == GLD_MAX_CUTS) return expected(*p, "no more documents in a row than 12");
            FH1_TRY(read_count(p, &k->cut[b][k->n_cuts[b]++]));
            if (**p != ',') break;
            ++*p;
            if (!is_digit(**p)) return expected(*p, "a number");
        }
        if (**p != '/') return NULL;
        ++*p;
    }
}

static fh1_status read_call(const char **p, gld_calls *s, gld_call *k)
{
    const bool first = s->n == 0;
    const char kind = **p;
    unsigned seen = 0;
    memset(k, 0, sizeof *k);
    k->T = k->times = 1;
    if (kind == 0 || !strchr(first ? "p" : "cd", kind))
        return expected(*p, first ? "pTxB first: T columns of B rows" : "cT or dN");
    ++*p;
    FH1_TRY(read_count(p, kind == 'd' ? &k->times : &k->T));
    if (first && **p == 'x') {
        ++*p;
        FH1_TRY(read_count(p, &s->B));
    }
    while (**p && **p != ';') {
        const char option = **p;
        const char *which = strchr("lrky", option);
        if (!which || kind == 'd') return expected(*p, kind == 'd' ? "';' after dN" : "l:, r:, k:, y or ';'");
        const unsigned bit = 1u << option % 32; /* of four letters, all different */
        if (seen & bit) return expected(*p, "each option once");
        seen |= bit;
        ++*p;
        if (option == 'y') {
            k->labels = true;
            continue;
        }
        if (**p != ':') return expected(*p, "':' and numbers");
        ++*p;
        FH1_TRY(option == 'k' ? read_cuts(p, k) : read_pads(p, option == 'l' ? k->left : k->right));
    }
    return NULL;
}

fh1_status gld_calls_parse(const char *text, gld_calls *out)
{
    memset(out, 0, sizeof *out);
    out->B = 1;
    for (const char *p = text;;) {
        if (out->n == GLD_MAX_CALLS) return fh1_expected(FH1_BAD("a long schedule"), "up to %d calls", GLD_MAX_CALLS);
        fh1_status s = read_call(&p, out, &out->call[out->n]);
        if (s) return fh1_where(s, "call %d", out->n + 1);
        out->n++;
        if (*p == 0) break;
        p++;
    }
    return gld_calls_check(out);
}

static fh1_status check_call(const gld_calls *s, const gld_call *k)
{
    if (k->T < 1 || k->T > MAX_COLUMNS) return fh1_expected(FH1_BAD("a call of no columns, or too many"), "1 to 2^20");
    if (k->times < 1 || k->times > MAX_STEPS) return fh1_expected(FH1_BAD("too few or too many steps"), "1 to 4096");
    if (k->times > 1 && (k->T != 1 || !gld_call_is_plain(k, s->B))) return FH1_BAD("only plain steps are repeated");
    int64_t most = 0; /* real columns of a row */
    for (int b = 0; b < GLD_MAX_ROWS; b++) {
        if (b >= s->B && (k->left[b] || k->right[b] || k->n_cuts[b]))
            return fh1_found(FH1_BAD("more rows than the batch has"), "row %d of %" PRId64, b, s->B);
        if (k->left[b] < 0 || k->right[b] < 0 || k->left[b] > k->T || k->right[b] > k->T - k->left[b])
            return fh1_expected(FH1_BAD("row %d has more padding than columns", b), "up to %" PRId64, k->T);
        if (b < s->B && most < k->T - k->left[b] - k->right[b]) most = k->T - k->left[b] - k->right[b];
        for (int64_t i = 0; i < k->n_cuts[b]; i++)
            if (k->cut[b][i] < 0 || k->cut[b][i] >= k->T || (i && k->cut[b][i] <= k->cut[b][i - 1]))
                return fh1_expected(FH1_BAD("row %d: documents begin in rising columns", b), "below %" PRId64, k->T);
    }
    if (k->labels && most < 2) return fh1_hint(FH1_BAD("labels of nothing"), "a loss needs two real columns in a row");
    return NULL;
}

fh1_status gld_calls_check(const gld_calls *s)
{
    if (s->B < 1 || s->B > GLD_MAX_ROWS)
        return fh1_found(fh1_expected(FH1_BAD("the batch"), "1 to %d rows", GLD_MAX_ROWS), "%" PRId64, s->B);
    if (s->n < 1 || s->n > GLD_MAX_CALLS) return FH1_BAD("a schedule of no calls, or too many");
    if (s->first_position < 0 || s->first_position > INT64_C(1) << 40)
        return fh1_expected(FH1_BAD("the first position is out of range"), "0 to 2^40");
    if (s->call[0].times != 1) return FH1_BAD("the first call is not repeated");
    int64_t cells = 0, steps = 0;
    for (int i = 0; i < s->n; i++) {
        fh1_status e = check_call(s, &s->call[i]);
        if (e) return fh1_where(e, "call %d", i + 1);
        cells += s->B * s->call[i].T * s->call[i].times;
        steps += s->call[i].times;
    }
    if (steps > MAX_STEPS) return fh1_expected(FH1_BAD("too many steps"), "up to %d", MAX_STEPS);
    if (cells > MAX_CELLS || cells * steps > MAX_CELLS) /* a mask has all earlier columns in every call */
        return fh1_expected(FH1_BAD("too many tokens"), "up to 2^24 of rows x columns x calls");
    return NULL;
}

/* -- writing ------------------------------------------------------------------------------------- */

static void print_pads(char letter, const int64_t *pads, FILE *out)
{
    int n = GLD_MAX_ROWS;
    while (n > 0 && pads[n - 1] == 0) n--;
    if (n) fprintf(out, "%c:", letter);
    for (int b = 0; b < n; b++) fprintf(out, "%s%" PRId64, b ? "," : "", pads[b]);
}

static void print_cuts(const gld_call *k, FILE *out)
{
    int n = GLD_MAX_ROWS;
    while (n > 0 && k->n_cuts[n - 1] == 0) n--;
    if (n) fputs("k:", out);
    for (int b = 0; b < n; b++) {
        if (b) putc('/', out);
        for (int64_t i = 0; i < k->n_cuts[b]; i++) fprintf(out, "%s%" PRId64, i ? "," : "", k->cut[b][i]);
    }
}

void gld_calls_print(const gld_calls *s, FILE *out)
{
    for (int i = 0; i < s->n; i++) {
        const gld_call *k = &s->call[i];
        if (i == 0) fprintf(out, s->B > 1 ? "p%" PRId64 "x%" PRId64 : "p%" PRId64, k->T, s->B);
        else if (k->T == 1 && gld_call_is_plain(k, s->B)) fprintf(out, ";d%" PRId64, k->times);
        else fprintf(out, ";c%" PRId64, k->T);
        print_pads('l', k->left, out);
        print_pads('r', k->right, out);
        print_cuts(k, out);
        if (k->labels) putc('y', out);
    }
}

/* -- asking -------------------------------------------------------------------------------------- */

bool gld_call_is_plain(const gld_call *k, int64_t B)
{
    for (int64_t b = 0; b < B; b++)
        if (k->left[b] || k->right[b] || k->n_cuts[b]) return false;
    return !k->labels;
}

int64_t gld_calls_steps(const gld_calls *s)
{
    int64_t n = 0;
    for (int i = 0; i < s->n; i++) n += s->call[i].times;
    return n;
}

int gld_calls_of_step(const gld_calls *s, int64_t j)
{
    int i = 0;
    while (i < s->n - 1 && j >= s->call[i].times) j -= s->call[i++].times;
    return i;
}

void gld_calls_end_at(gld_calls *s, int64_t j)
{
    for (int i = 0; i < s->n; i++) {
        if (j < s->call[i].times) {
            s->call[i].times = j + 1;
            s->n = i + 1;
            return;
        }
        j -= s->call[i].times;
    }
}

double gld_calls_recorded(const gld_calls *s, const fh1_config *c)
{
    double per_token = 0, per_column = 0, per_row = 0, n = 0, columns = 0;
    for (int id = 0; id < FH1_TAP_COUNT; id++) {
        if (!fh1_tap_exists(c, (fh1_tap_id)id)) continue;
        const fh1_tensor shape = fh1_tap_shape(c, (fh1_tap_id)id, 1, 1, 1, 1);
        const bool grows = id == FH1_TAP_CACHE_KEY || id == FH1_TAP_CACHE_VALUE;
        double *to = grows ? &per_column : fh1_tap_is_cache((fh1_tap_id)id) ? &per_row : &per_token;
        *to += (double)fh1_n_elems(&shape) * (fh1_tap_is_per_layer((fh1_tap_id)id) ? (double)c->n_layers : 1);
    }
    for (int i = 0; i < s->n; i++) {
        const double T = (double)s->call[i].T, times = (double)s->call[i].times;
        n += times * (T * per_token + per_row + per_column * (columns + T * times));
        columns += T * times;
    }
    return (double)s->B * n;
}
