/* What the report remembers of each result. */
#include "oracle/report_impl.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

char *fh1_report_printable(const char *text)
{
    size_t size = 4 * strlen(text) + 1; /* an escape takes four bytes for one */
    char *copy = malloc(size);
    if (copy) fh1_printable(text, copy, size);
    return copy;
}

static char **slot_of(char **slots, size_t size, const char *word)
{
    size_t at = 14695981039346656037u; /* FNV-1a */
    for (const char *p = word; *p; p++) at = (at ^ (unsigned char)*p) * 1099511628211u;
    for (at &= size - 1; slots[at] && strcmp(slots[at], word) != 0;) at = (at + 1) & (size - 1);
    return &slots[at];
}

static fh1_status widen(fh1_report_words *w)
{
    const size_t size = w->size ? 2 * w->size : 64;
    char **slots = calloc(size, sizeof *slots);
    if (!slots) return fh1_no_memory(size * sizeof *slots, "the words of a report");
    for (size_t i = 0; i < w->size; i++)
        if (w->slots[i]) *slot_of(slots, size, w->slots[i]) = w->slots[i];
    free(w->slots);
    w->slots = slots;
    w->size = size;
    return NULL;
}

/* The printable form of `text`, once per report. */
static fh1_status intern(fh1_report_words *w, const char *text, const char **out)
{
    if (2 * (w->n + 1) > w->size) FH1_TRY(widen(w));
    char *word = fh1_report_printable(text);
    if (!word) return fh1_no_memory(4 * strlen(text), "the words of a report");
    char **slot = slot_of(w->slots, w->size, word);
    if (*slot) {
        free(word);
    } else {
        *slot = word;
        w->n++;
    }
    *out = *slot;
    return NULL;
}

void fh1_report_words_free(fh1_report_words *w)
{
    for (size_t i = 0; i < w->size; i++) free(w->slots[i]);
    free(w->slots);
    *w = (fh1_report_words){0};
}

/* Not from t->id, which a rule may leave zero: that is a tap too. */
static void place_tap(const fh1_tap_result *t, fh1_report_tap *k)
{
    if (!fh1_tap_parse_any(t->tap, INT32_MAX, &k->id, &k->layer)) k->id = FH1_TAP_COUNT;
    if (k->id == FH1_TAP_COUNT || !fh1_tap_is_per_layer(k->id)) k->layer = -1;
}

fh1_status fh1_report_keep(fh1_report *r, fh1_report_subject *s, const fh1_tap_result *t)
{
    if (s->n_taps == s->cap_taps) {
        size_t cap = s->cap_taps ? 2 * s->cap_taps : 64;
        fh1_report_tap *grown = realloc(s->taps, cap * sizeof *grown);
        if (!grown) return fh1_no_memory(cap * sizeof *grown, "the results of a report");
        s->taps = grown;
        s->cap_taps = cap;
    }
    fh1_report_tap k = {.step = t->step,
                        .order = t->order,
                        .verdict = t->verdict,
                        .margin = t->margin,
                        .rms_ratio = t->rms_ratio,
                        .max_err = t->max_err,
                        .allowed = t->allowed,
                        .rel_rms = t->rel_rms,
                        .free_rms = t->free_rms,
                        .rank = t->rank};
    FH1_TRY(intern(&r->words, t->tap, &k.tap));
    FH1_TRY(intern(&r->words, t->reason, &k.reason));
    FH1_TRY(intern(&r->words, t->note, &k.note));
    place_tap(t, &k);
    memcpy(k.where, t->where, sizeof k.where);
    for (int i = 0; i < FH1_MARGIN_BINS; i++)
        k.histogram[i] = t->histogram[i] > UINT32_MAX ? UINT32_MAX : (uint32_t)t->histogram[i];
    k.n_tokens = t->n_token_bins < FH1_TOKEN_BINS ? t->n_token_bins : FH1_TOKEN_BINS;
    for (int i = 0; i < k.n_tokens; i++) k.tokens[i] = (float)t->token_margin[i];
    s->taps[s->n_taps++] = k;
    return NULL;
}

void fh1_report_subject_free(fh1_report_subject *s)
{
    free(s->raw);
    free(s->name);
    free(s->label);
    free(s->taps);
    free(s->suspects);
    free(s->repro);
}
