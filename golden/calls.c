#include "golden/calls.h"

#include "oracle/random.h"

#include <stdlib.h>
#include <string.h>

/* Where the rows stand, and the inputs of the call that is being put together. */
typedef struct {
    const gld_calls *s;
    fh1_stream ids, labels;
    uint64_t drawn;
    int64_t V, past;
    bool padded;                                   /* any call has padding: all have a mask */
    int64_t doc[GLD_MAX_ROWS], next[GLD_MAX_ROWS]; /* id of the document, position of its next token */
    int64_t *mask;                                 /* [B, all columns], filled as calls come */
    int64_t columns;                               /* of the whole schedule */
    int64_t *block;                                /* owns the arrays of the call */
} builder;

static bool has_cuts(const gld_call *k, int64_t B)
{
    for (int64_t b = 0; b < B; b++)
        if (k->n_cuts[b]) return true;
    return false;
}

static bool begins(const gld_call *k, int64_t b, int64_t t)
{
    for (int64_t i = 0; i < k->n_cuts[b]; i++)
        if (k->cut[b][i] == t) return true;
    return false;
}

/* Row b of the call; ids are drawn row by row, padding included, as gld_schedule_seeded does. */
static void fill_row(builder *w, const gld_call *k, int64_t b, int64_t *id, int64_t *position, int64_t *doc,
                     int64_t *label)
{
    const int64_t first = w->s->first_position;
    for (int64_t t = 0; t < k->T; t++) {
        const bool real = t >= k->left[b] && t < k->T - k->right[b];
        if (begins(k, b, t)) {
            w->doc[b]++;
            w->next[b] = first;
        }
        w->mask[b * w->columns + w->past + t] = real;
        id[t] = fh1_random_below(w->ids, w->drawn, w->V);
        /* A label is predicted from the column before, which must be real; every fourth of the later ones is left out.
         */
        const bool labelled =
            real && t > k->left[b] && (t < k->left[b] + 3 || fh1_random_below(w->labels, w->drawn, 4));
        label[t] = labelled ? id[t] : -100;
        w->drawn++;
        position[t] = w->next[b] - (!real && w->next[b] > first);
        doc[t] = w->doc[b];
        w->next[b] += real;
    }
}

static fh1_status add_call(builder *w, const gld_call *k, gld_trace *out)
{
    const int64_t B = w->s->B, cells = B * k->T, width = w->past + k->T;
    const size_t n = (size_t)(4 * cells + (w->padded ? B * width : 0));
    free(w->block);
    w->block = calloc(n, sizeof *w->block);
    if (!w->block) return fh1_no_memory(n * sizeof *w->block, "a schedule");
    int64_t *id = w->block, *position = id + cells, *doc = position + cells, *label = doc + cells;
    int64_t *mask = w->padded ? label + cells : NULL;
    for (int64_t b = 0; b < B; b++) {
        const int64_t at = b * k->T;
        fill_row(w, k, b, id + at, position + at, doc + at, label + at);
        for (int64_t col = 0; mask && col < width; col++) mask[b * width + col] = w->mask[b * w->columns + col];
    }
    w->past = width;
    const fh1_batch batch = {.B = B,
                             .T = k->T,
                             .ids = id,
                             .mask = mask,
                             .mask_len = mask ? width : 0,
                             .positions = w->s->no_positions ? NULL : position,
                             .seq_idx = has_cuts(k, B) ? doc : NULL,
                             .labels = k->labels ? label : NULL};
    return gld_trace_add_step(out, &batch);
}

static void survey(builder *w)
{
    for (int i = 0; i < w->s->n; i++) {
        const gld_call *k = &w->s->call[i];
        w->columns += k->T * k->times;
        for (int64_t b = 0; b < w->s->B; b++) w->padded |= k->left[b] || k->right[b];
    }
    for (int64_t b = 0; b < w->s->B; b++) w->next[b] = w->s->first_position;
}

fh1_status gld_calls_trace(const gld_calls *s, int64_t V, uint64_t seed, gld_trace *out)
{
    memset(out, 0, sizeof *out);
    FH1_TRY(gld_calls_check(s));
    builder w = {.s = s, .ids = fh1_stream_open(seed, "ids"), .labels = fh1_stream_open(seed, "labels"), .V = V};
    survey(&w);
    const size_t n_mask = (size_t)(s->B * w.columns);
    w.mask = calloc(n_mask, sizeof *w.mask);
    if (!w.mask) return fh1_no_memory(n_mask * sizeof *w.mask, "a schedule");
    fh1_status status = gld_trace_new(out);
    for (int i = 0; i < s->n && !status; i++)
        for (int64_t again = 0; again < s->call[i].times && !status; again++) status = add_call(&w, &s->call[i], out);
    free(w.block);
    free(w.mask);
    if (status) {
        gld_trace_free(out);
        return status;
    }
    snprintf(out->path, sizeof out->path, "seed %llu", (unsigned long long)seed);
    return NULL;
}

/* -- and back ------------------------------------------------------------------------------------ */

/* The padding of a row, if its mask is the only kind there is: zeros, ones, zeros. */
static void read_pads(const fh1_batch *b, int64_t row, gld_call *k)
{
    const int64_t *m = b->mask ? b->mask + (row + 1) * b->mask_len - b->T : NULL;
    if (!m) return;
    while (k->left[row] < b->T && !m[k->left[row]]) k->left[row]++;
    while (k->right[row] < b->T - k->left[row] && !m[b->T - 1 - k->right[row]]) k->right[row]++;
}

/* Where the document of a row changes; false if there are too many. `doc` is the row's current one. */
static bool read_cuts(const fh1_batch *b, int64_t row, gld_call *k, int64_t *doc)
{
    for (int64_t t = 0; b->seq_idx && t < b->T; t++) {
        const int64_t here = b->seq_idx[row * b->T + t];
        if (here == *doc) continue;
        if (k->n_cuts[row] == GLD_MAX_CUTS) return false;
        k->cut[row][k->n_cuts[row]++] = t;
        *doc = here;
    }
    return true;
}

/* Arrays of n numbers, or both absent. */
static bool same_array(const int64_t *a, const int64_t *b, int64_t n)
{
    if (!a || !b) return a == b;
    return memcmp(a, b, (size_t)n * sizeof *a) == 0;
}

static bool same_inputs(const gld_trace *a, const gld_trace *b)
{
    if (a->n_steps != b->n_steps) return false;
    for (int64_t j = 0; j < a->n_steps; j++) {
        const fh1_batch *x = &a->steps[j].batch, *y = &b->steps[j].batch;
        const int64_t cells = x->B * x->T;
        if (x->B != y->B || x->T != y->T || (x->mask && y->mask && x->mask_len != y->mask_len)) return false;
        if (!same_array(x->ids, y->ids, cells) || !same_array(x->mask, y->mask, x->B * x->mask_len)) return false;
        if (!same_array(x->positions, y->positions, cells) || !same_array(x->seq_idx, y->seq_idx, cells)) return false;
        if (!same_array(x->labels, y->labels, cells)) return false;
    }
    return true;
}

static bool guess(const gld_trace *t, gld_calls *s)
{
    int64_t doc[GLD_MAX_ROWS] = {0};
    memset(s, 0, sizeof *s);
    if (t->n_steps < 1 || t->steps[0].batch.B > GLD_MAX_ROWS) return false;
    s->B = t->steps[0].batch.B;
    s->no_positions = !t->steps[0].batch.positions;
    if (!s->no_positions) s->first_position = t->steps[0].batch.positions[0];
    for (int64_t j = 0; j < t->n_steps; j++) {
        const fh1_batch *b = &t->steps[j].batch;
        gld_call k = {.T = b->T, .times = 1, .labels = b->labels};
        for (int64_t row = 0; row < s->B; row++) {
            read_pads(b, row, &k);
            if (!read_cuts(b, row, &k, &doc[row])) return false;
        }
        gld_call *last = s->n ? &s->call[s->n - 1] : NULL;
        const bool again =
            s->n > 1 && b->T == 1 && last->T == 1 && gld_call_is_plain(&k, s->B) && gld_call_is_plain(last, s->B);
        if (again) {
            last->times++;
        } else {
            if (s->n == GLD_MAX_CALLS) return false;
            s->call[s->n++] = k;
        }
    }
    return gld_calls_check(s) == NULL;
}

fh1_status gld_calls_of_trace(const gld_trace *t, int64_t V, uint64_t seed, gld_calls *out, bool *found)
{
    gld_trace made;
    *found = false;
    if (!guess(t, out)) return NULL;
    FH1_TRY(gld_calls_trace(out, V, seed, &made));
    *found = same_inputs(t, &made);
    gld_trace_free(&made);
    return NULL;
}
