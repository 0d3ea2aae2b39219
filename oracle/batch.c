#include "oracle/batch.h"

#include "oracle/cache.h"
#include "oracle/reached.h"
#include "oracle/tensor.h"

#include <stdlib.h>
#include <string.h>

static const int64_t MAX_POSITION = INT64_C(1) << 53; /* beyond it f64 skips integers */
static const int64_t IGNORED_LABEL = -100;

static fh1_status at(fh1_status s, int64_t row, int64_t col)
{
    return fh1_where(s, "row %lld, column %lld", (long long)row, (long long)col);
}

static fh1_status found_int(fh1_status s, int64_t v)
{
    return fh1_found(s, "%lld", (long long)v);
}

static const fh1_cache_row *row_of(const fh1_cache *past, int64_t b)
{
    return past ? &past->rows[b] : NULL;
}

/* 1 if column t of the new ones is a real token of row b. */
static bool is_real(const fh1_batch *in, int64_t b, int64_t t)
{
    return !in->mask || in->mask[b * in->mask_len + (in->mask_len - in->T) + t] == 1;
}

static fh1_status check_sizes(const fh1_batch *in, const fh1_cache *past)
{
    int64_t n_past = past ? past->n_cols : 0, n;
    if (in->B < 1) return found_int(fh1_expected(FH1_BAD("a call needs rows"), "B of 1 or more"), in->B);
    if (in->T < 1) return found_int(fh1_expected(FH1_BAD("a call needs new tokens"), "T of 1 or more"), in->T);
    if (!fh1_mul_i64(in->B, in->T, &n) || n > MAX_POSITION || n_past > MAX_POSITION - in->T)
        return FH1_BAD("too many tokens: %lld rows of %lld after %lld columns", (long long)in->B, (long long)in->T,
                       (long long)n_past);
    if (past && past->B != in->B) {
        fh1_status s = FH1_BAD("the number of rows changed between calls on one cache");
        return found_int(fh1_expected(s, "%lld rows, as in the cache", (long long)past->B), in->B);
    }
    if (in->mask && in->mask_len != n_past + in->T) {
        fh1_status s = FH1_BAD("attention_mask has the wrong length");
        s = fh1_expected(s, "%lld columns: %lld of earlier calls and %lld new ones", (long long)(n_past + in->T),
                         (long long)n_past, (long long)in->T);
        return found_int(s, in->mask_len);
    }
    return NULL;
}

/* Columns of earlier calls: a token that the cache holds is 1, padding is 0. */
static fh1_status check_past_mask(const fh1_batch *in, int64_t b, const fh1_cache_row *row, int64_t n_past)
{
    int64_t i = 0;
    for (int64_t t = 0; t < n_past; t++) {
        bool stored = row && i < row->n && row->col[i] == t;
        if (stored) i++;
        int64_t v = in->mask[b * in->mask_len + t];
        if (v == (stored ? 1 : 0)) continue;
        fh1_status s = at(FH1_BAD("attention_mask contradicts the earlier calls"), b, t);
        s = fh1_expected(s, stored ? "1: the cache holds a token of this column"
                                   : "0: this column was padding when it was new");
        return found_int(s, v);
    }
    return NULL;
}

/* Zeros, ones, zeros: counts the padding on both sides. A row without a token counts on the left. */
static fh1_status check_new_mask(const fh1_batch *in, int64_t b, int64_t *n_left, int64_t *n_right)
{
    int64_t first = in->T, last = -1;
    for (int64_t t = 0; t < in->T; t++) {
        int64_t v = in->mask ? in->mask[b * in->mask_len + (in->mask_len - in->T) + t] : 1;
        if (v != 0 && v != 1) {
            fh1_status s = at(FH1_BAD("attention_mask is neither 0 nor 1"), b, in->mask_len - in->T + t);
            return found_int(fh1_expected(s, "0 (padding) or 1 (token)"), v);
        }
        if (!v) continue;
        if (last >= 0 && last != t - 1) {
            fh1_status s = at(FH1_BAD("attention_mask has a hole"), b, in->mask_len - in->T + last + 1);
            s = fh1_expected(s, "the new tokens of a row side by side");
            s = fh1_found(s, "padding between two tokens");
            return fh1_hint(s, "leave the padding out, or put it before or after the tokens of the row");
        }
        if (last < 0) first = t;
        last = t;
    }
    *n_left = first;
    *n_right = last < 0 ? 0 : in->T - 1 - last;
    return NULL;
}

static int64_t position_of(const fh1_batch *in, int64_t past, int64_t b, int64_t t)
{
    return in->positions ? in->positions[b * in->T + t] : past + t;
}

/* The document of a row before its new tokens. */
static int64_t first_doc(const fh1_cache_row *row)
{
    return row && row->doc >= 0 ? row->doc : 0;
}

static fh1_status pack_token(const fh1_batch *in, int64_t V, int64_t b, int64_t t, int64_t *doc, fh1_tokens *out)
{
    int64_t i = b * in->T + t, m = out->M, position = position_of(in, out->past, b, t);
    if (in->ids[i] < 0 || in->ids[i] >= V) {
        fh1_status s = at(FH1_BAD("a token id is outside the vocabulary"), b, t);
        return found_int(fh1_expected(s, "0 to %lld", (long long)(V - 1)), in->ids[i]);
    }
    if (position < 0 || position > MAX_POSITION) {
        fh1_status s = at(FH1_BAD("a position is out of range"), b, t);
        return found_int(fh1_expected(s, "0 to 2^53"), position);
    }
    FH1_REACHED(position == MAX_POSITION);
    if (in->seq_idx) {
        int64_t d = in->seq_idx[i];
        if (d < *doc) {
            fh1_status s = at(FH1_BAD(d < 0 ? "a seq_idx is negative" : "seq_idx falls within a row"), b, t);
            s = fh1_expected(s, "%lld or more", (long long)*doc);
            return fh1_hint(found_int(s, d), "number the documents of a row in rising order, also across calls");
        }
        *doc = d;
    }
    out->row[m] = b;
    out->col[m] = t;
    out->id[m] = in->ids[i];
    out->position[m] = position;
    out->doc[m] = *doc;
    out->M++;
    return NULL;
}

static fh1_status check_labels(const fh1_batch *in, int64_t V)
{
    if (!in->labels) return NULL;
    for (int64_t i = 0; i < in->B * in->T; i++) {
        int64_t v = in->labels[i];
        if (v == IGNORED_LABEL || (v >= 0 && v < V)) continue;
        fh1_status s = at(FH1_BAD("a label is outside the vocabulary"), i / in->T, i % in->T);
        return found_int(fh1_expected(s, "0 to %lld, or -100 to leave it out", (long long)(V - 1)), v);
    }
    return NULL;
}

/* The library derives the length for dynamic rope from all positions, those of padding included;
 * nonsense at padding is left out. */
static int64_t max_position(const fh1_batch *in, int64_t past)
{
    if (!in->positions) return past + in->T - 1;
    int64_t max = 0;
    for (int64_t i = 0; i < in->B * in->T; i++)
        if (in->positions[i] > max && in->positions[i] <= MAX_POSITION) max = in->positions[i];
    return max;
}

/* One block for all arrays, owned through row_begin. */
static fh1_status allocate(const fh1_batch *in, fh1_tokens *out)
{
    int64_t n_real = 0;
    for (int64_t b = 0; b < in->B; b++)
        for (int64_t t = 0; t < in->T; t++) n_real += is_real(in, b, t);
    size_t n = (size_t)(3 * in->B + 1 + 5 * n_real);
    int64_t *p = calloc(n, sizeof *p);
    if (!p) return fh1_no_memory(n * sizeof *p, "the tokens of a call");

    int64_t **const per_token[] = {&out->row, &out->col, &out->id, &out->position, &out->doc};
    out->row_begin = p;
    out->n_left = p + in->B + 1;
    out->n_right = out->n_left + in->B;
    p = out->n_right + in->B;
    for (size_t i = 0; i < sizeof per_token / sizeof *per_token; i++, p += n_real) *per_token[i] = p;
    return NULL;
}

static fh1_status pack_rows(const fh1_batch *in, int64_t V, const fh1_cache *past, fh1_tokens *out)
{
    for (int64_t b = 0; b < in->B; b++) {
        const fh1_cache_row *row = row_of(past, b);
        int64_t doc = first_doc(row);
        if (in->mask) FH1_TRY(check_past_mask(in, b, row, out->past));
        FH1_TRY(check_new_mask(in, b, &out->n_left[b], &out->n_right[b]));
        FH1_REACHED(out->n_left[b] == in->T);
        FH1_REACHED(out->n_left[b] > 0 && out->n_right[b] > 0);
        FH1_REACHED(row && row->n == 0 && out->past > 0); /* a row that starts late */
        out->row_begin[b] = out->M;
        for (int64_t t = out->n_left[b]; t < in->T - out->n_right[b]; t++) FH1_TRY(pack_token(in, V, b, t, &doc, out));
    }
    out->row_begin[in->B] = out->M;
    return check_labels(in, V);
}

fh1_status fh1_tokens_pack(const fh1_batch *b, int64_t V, const fh1_cache *past, fh1_tokens *out)
{
    memset(out, 0, sizeof *out);
    FH1_TRY(check_sizes(b, past));
    fh1_tokens t = {.B = b->B, .T = b->T, .past = past ? past->n_cols : 0};
    FH1_TRY(allocate(b, &t));
    fh1_status s = pack_rows(b, V, past, &t);
    if (s) {
        fh1_tokens_free(&t);
        return s;
    }
    FH1_REACHED(t.M == 0); /* nothing but padding */
    FH1_REACHED(b->T == 1 && t.past > 0);
    FH1_REACHED(b->seq_idx && t.past > 0);
    FH1_REACHED(b->mask && t.past > 0);
    t.max_position = max_position(b, t.past);
    *out = t;
    return NULL;
}

void fh1_tokens_free(fh1_tokens *t)
{
    free(t->row_begin);
    memset(t, 0, sizeof *t);
}
