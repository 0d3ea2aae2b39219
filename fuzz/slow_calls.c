/* The text of a schedule: calls between semicolons, in each one a letter, a count, and options of a letter and numbers.
 */
#include "fuzz/plant.h"
#include "fuzz/slow_repro.h"

/* Digits of a number up to 2^20; any zeros before. */
static bool count(const char *text, size_t n, int64_t *v)
{
    *v = 0;
    if (n == 0) return false;
    for (size_t i = 0; i < n; i++) {
        if (text[i] < '0' || text[i] > '9') return false;
        *v = *v * 10 + (text[i] - '0');
        if (*v > 1048576) return false;
    }
    return true;
}

static bool read_pads(const char *list, int64_t *pads)
{
    slow_words w = slow_words_cut(list, ',');
    bool good = w.n <= GLD_MAX_ROWS;
    for (int i = 0; i < w.n && good; i++) good = count(w.word[i], strlen(w.word[i]), &pads[i]);
    slow_words_free(&w);
    return good;
}

static bool read_row(const char *list, gld_call *k, int row)
{
    if (*list == '\0') return true; /* no document begins */
    slow_words w = slow_words_cut(list, ',');
    bool good = w.n <= GLD_MAX_CUTS;
    for (int i = 0; i < w.n && good; i++) good = count(w.word[i], strlen(w.word[i]), &k->cut[row][i]);
    if (good) k->n_cuts[row] = w.n;
    slow_words_free(&w);
    return good;
}

static bool read_cuts(const char *list, gld_call *k)
{
    slow_words rows = slow_words_cut(list, '/');
    bool good = rows.n <= GLD_MAX_ROWS;
    for (int i = 0; i < rows.n && good; i++) good = read_row(rows.word[i], k, i);
    slow_words_free(&rows);
    return good;
}

/* y, l:…, r:…, k:… in any order, each once. */
static bool read_options(const char *p, gld_call *k)
{
    char seen[5] = "";
    while (*p) {
        const char letter = *p++;
        if (!strchr("lrky", letter) || strchr(seen, letter)) return false;
        seen[strlen(seen)] = letter;
        if (letter == 'y') {
            k->labels = true;
            continue;
        }
        if (*p++ != ':') return false;
        const size_t n = strspn(p, "0123456789,/");
        char *list = strndup(p, n);
        const bool good = letter == 'k' ? read_cuts(list, k) : read_pads(list, letter == 'l' ? k->left : k->right);
        free(list);
        if (!good) return false;
        p += n;
    }
    return true;
}

static bool read_call(const char *text, bool first, gld_call *k, int64_t *B)
{
    size_t n = 1 + strspn(text + (*text ? 1 : 0), "0123456789");
    k->T = k->times = 1;
    if (first ? *text != 'p' : *text != 'c' && *text != 'd') return false;
    if (!count(text + 1, n - 1, *text == 'd' ? &k->times : &k->T)) return false;
    if (*text == 'd') return text[n] == '\0';
    if (first && text[n] == 'x') {
        const size_t begin = n + 1, digits = strspn(text + begin, "0123456789");
        if (!count(text + begin, digits, B)) return false;
        n = begin + digits;
    }
    return read_options(text + n, k);
}

bool slow_calls_read(const char *text, gld_calls *out)
{
    slow_words calls = slow_words_cut(text, ';');
    bool good = calls.n <= GLD_MAX_CALLS;
    out->B = 1;
    for (int i = 0; i < calls.n && good; i++) good = read_call(calls.word[i], i == 0, &out->call[i], &out->B);
    out->n = calls.n;
    slow_words_free(&calls);
    return good && slow_calls_hold(out);
}

/* One row: padding leaves its columns, documents begin in rising columns. */
static bool row_holds(const gld_call *k, int b)
{
    if (k->left[b] + k->right[b] > k->T && !fuzz_planted("padding")) return false;
    for (int64_t i = 0; i < k->n_cuts[b]; i++)
        if (k->cut[b][i] >= k->T || (i > 0 && k->cut[b][i] <= k->cut[b][i - 1])) return false;
    return true;
}

static bool call_holds(const gld_calls *s, const gld_call *k)
{
    int64_t most = 0;
    bool plain = !k->labels;
    for (int b = 0; b < GLD_MAX_ROWS; b++) {
        const bool bare = k->left[b] == 0 && k->right[b] == 0 && k->n_cuts[b] == 0;
        if (b >= s->B && !bare) return false;
        if (b >= s->B) continue;
        plain &= bare;
        if (!row_holds(k, b)) return false;
        if (k->T - k->left[b] - k->right[b] > most) most = k->T - k->left[b] - k->right[b];
    }
    if (k->times != 1 && (k->T != 1 || !plain)) return false;
    return !k->labels || most >= 2;
}

bool slow_calls_hold(const gld_calls *s)
{
    int64_t cells = 0, steps = 0;
    if (s->B < 1 || s->B > GLD_MAX_ROWS) return false;
    for (int i = 0; i < s->n; i++) {
        const gld_call *k = &s->call[i];
        if (k->T < 1 || k->times < 1 || k->times > 4096 || !call_holds(s, k)) return false;
        cells += s->B * k->T * k->times;
        steps += k->times;
    }
    return steps <= 4096 && cells <= 1 << 24 && cells * steps <= 1 << 24;
}
