#include "oracle/arena.h"

#include <stdlib.h>
#include <string.h>

#define GUARD 64 /* bytes of canary on either side, and the alignment of a piece */

/* A quiet NaN with the payload 0xfa57 as f32, and as f64 when it fills both lanes. */
static const uint32_t rogue = 0x7ff8fa57u;

/* The list stands apart from the blocks, out of reach of an overrun. */
typedef struct {
    unsigned char *block; /* GUARD canary, n_bytes, GUARD canary */
    size_t n_bytes;
    const char *name;
} piece;

struct fh1_arena {
    piece *pieces;
    size_t n, cap;
};

static unsigned char canary(size_t i)
{
    return (unsigned char)(0xc5u + 37u * i); /* no constant fill looks like it */
}

fh1_status fh1_arena_new(fh1_arena **out)
{
    *out = calloc(1, sizeof **out);
    return *out ? NULL : fh1_no_memory(sizeof **out, "an arena");
}

fh1_status fh1_arena_get(fh1_arena *a, size_t n_bytes, const char *name, void **out)
{
    *out = NULL;
    if (n_bytes > SIZE_MAX - 3 * GUARD) return fh1_no_memory(n_bytes, name);
    if (a->n == a->cap) {
        size_t cap = a->cap ? 2 * a->cap : 16;
        piece *grown = realloc(a->pieces, cap * sizeof *grown);
        if (!grown) return fh1_no_memory(cap * sizeof *grown, "the list of an arena");
        a->pieces = grown;
        a->cap = cap;
    }
    size_t total = (n_bytes + 3 * GUARD - 1) / GUARD * GUARD; /* aligned_alloc wants a multiple */
    unsigned char *block = aligned_alloc(GUARD, total);
    if (!block) return fh1_no_memory(total, name);

    unsigned char *data = block + GUARD;
    for (size_t i = 0; i < GUARD; i++) block[i] = data[n_bytes + i] = canary(i);
    size_t filled = 0;
    for (; filled + sizeof rogue <= n_bytes; filled += sizeof rogue) memcpy(data + filled, &rogue, sizeof rogue);
    memcpy(data + filled, &rogue, n_bytes - filled);

    a->pieces[a->n++] = (piece){block, n_bytes, name};
    *out = data;
    return NULL;
}

static fh1_status damaged(const piece *p, const char *side, size_t distance)
{
    fh1_status s = fh1_fail(FH1_E_INTERNAL, "memory %s '%s' (%zu bytes) was overwritten, %zu bytes away", side, p->name,
                            p->n_bytes, distance);
    return fh1_hint(s, "an op wrote outside its output; run the sanitizer build for the place");
}

fh1_status fh1_arena_check(const fh1_arena *a)
{
    for (size_t k = 0; k < a->n; k++) {
        const piece *p = &a->pieces[k];
        const unsigned char *after = p->block + GUARD + p->n_bytes;
        for (size_t i = GUARD; i-- > 0;) /* nearest to the piece first */
            if (p->block[i] != canary(i)) return damaged(p, "before", GUARD - i);
        for (size_t i = 0; i < GUARD; i++)
            if (after[i] != canary(i)) return damaged(p, "after", i + 1);
    }
    return NULL;
}

size_t fh1_arena_bytes(const fh1_arena *a)
{
    size_t sum = 0;
    for (size_t k = 0; k < a->n; k++) sum += a->pieces[k].n_bytes;
    return sum;
}

void fh1_arena_clear(fh1_arena *a)
{
    for (size_t k = 0; k < a->n; k++) free(a->pieces[k].block);
    a->n = 0;
}

void fh1_arena_free(fh1_arena *a)
{
    if (!a) return;
    fh1_arena_clear(a);
    free(a->pieces);
    free(a);
}
