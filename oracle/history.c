#include "oracle/history.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    char *key; /* subject, newline, kind; NULL: a free slot. A shown name has no newline in it. */
    double *v;
    int64_t n, cap;
} series;

/* Open addressing; `size` is a power of two, at most half full. */
struct fh1_history {
    series *slots;
    size_t size, n;
};

static uint64_t hash(const char *text, uint64_t h)
{
    for (; *text; text++) h = (h ^ (unsigned char)*text) * 1099511628211u; /* FNV-1a */
    return h;
}

static bool matches(const char *key, const char *subject, const char *kind)
{
    const size_t n = strlen(subject);
    return strncmp(key, subject, n) == 0 && key[n] == '\n' && strcmp(key + n + 1, kind) == 0;
}

/* The slot of a series, or the free one where it belongs. */
static series *find(const fh1_history *h, const char *subject, const char *kind)
{
    size_t at = hash(kind, hash("\n", hash(subject, 14695981039346656037u))) & (h->size - 1);
    while (h->slots[at].key && !matches(h->slots[at].key, subject, kind)) at = (at + 1) & (h->size - 1);
    return &h->slots[at];
}

static fh1_status widen(fh1_history *h)
{
    fh1_history wide = {.size = 2 * h->size, .n = h->n};
    wide.slots = calloc(wide.size, sizeof *wide.slots);
    if (!wide.slots) return fh1_no_memory(wide.size * sizeof *wide.slots, "the history of margins");
    for (size_t i = 0; i < h->size; i++) {
        const series *old = &h->slots[i];
        if (!old->key) continue;
        size_t at = hash(old->key, 14695981039346656037u) & (wide.size - 1);
        while (wide.slots[at].key) at = (at + 1) & (wide.size - 1);
        wide.slots[at] = *old;
    }
    free(h->slots);
    *h = wide;
    return NULL;
}

fh1_status fh1_history_new(fh1_history **out)
{
    fh1_history *h = *out = calloc(1, sizeof *h);
    if (h) h->slots = calloc(h->size = 256, sizeof *h->slots);
    if (h && h->slots) return NULL;
    free(h);
    *out = NULL;
    return fh1_no_memory(256 * sizeof(series), "the history of margins");
}

fh1_status fh1_history_add(fh1_history *h, const char *subject, const char *kind, double margin)
{
    if (2 * (h->n + 1) > h->size) FH1_TRY(widen(h));
    series *s = find(h, subject, kind);
    if (!s->key) {
        const size_t size = strlen(subject) + strlen(kind) + 2;
        char *key = malloc(size);
        if (!key) return fh1_no_memory(size, "the history of margins");
        size_t at = strlen(subject);
        memcpy(key, subject, at);
        key[at++] = '\n';
        memcpy(key + at, kind, strlen(kind) + 1);
        s->key = key;
        h->n++;
    }
    if (s->n == s->cap) {
        const int64_t cap = s->cap ? 2 * s->cap : 8;
        double *v = realloc(s->v, (size_t)cap * sizeof *v);
        if (!v) return fh1_no_memory((size_t)cap * sizeof *v, "the history of margins");
        s->v = v;
        s->cap = cap;
    }
    s->v[s->n++] = margin;
    return NULL;
}

const double *fh1_history_series(const fh1_history *h, const char *subject, const char *kind, int64_t *n)
{
    const series *s = h ? find(h, subject, kind) : NULL;
    *n = s ? s->n : 0;
    return s ? s->v : NULL;
}

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double fh1_history_median(const double *v, int64_t n)
{
    double *sorted = malloc((size_t)n * sizeof *sorted);
    if (!sorted) return (double)NAN;
    memcpy(sorted, v, (size_t)n * sizeof *sorted);
    qsort(sorted, (size_t)n, sizeof *sorted, by_value);
    const double median = n % 2 ? sorted[n / 2] : (sorted[n / 2 - 1] + sorted[n / 2]) / 2;
    free(sorted);
    return median;
}

void fh1_history_free(fh1_history *h)
{
    if (!h) return;
    for (size_t i = 0; i < h->size; i++) {
        free(h->slots[i].key);
        free(h->slots[i].v);
    }
    free(h->slots);
    free(h);
}
