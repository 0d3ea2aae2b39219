#include "fuzz/mutate_gguf.h"

#include "fuzz/slow_gguf.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

enum { MOST = 192 }; /* keys, tensors */

typedef struct {
    uint8_t *p;
    size_t n, room;
} bytes;

static void add(bytes *b, const void *data, size_t n)
{
    if (b->n + n > b->room) {
        b->room = 2 * (b->n + n);
        b->p = realloc(b->p, b->room);
        if (!b->p) abort();
    }
    if (n) memcpy(b->p + b->n, data, n);
    b->n += n;
}

static void number(bytes *b, uint64_t v, size_t n)
{
    uint8_t p[8];
    for (size_t i = 0; i < n; i++) p[i] = (uint8_t)(v >> (8 * i));
    add(b, p, n);
}

static void string(bytes *b, const void *text, size_t n)
{
    number(b, n, 8);
    add(b, text, n);
}

static void zeros(bytes *b, size_t n)
{
    while (n-- > 0) number(b, 0, 1);
}

static uint64_t boundary(fuzz_rng *r)
{
    static const uint64_t all[] = {0,
                                   1,
                                   2,
                                   3,
                                   4,
                                   7,
                                   8,
                                   12,
                                   13,
                                   16,
                                   31,
                                   32,
                                   33,
                                   63,
                                   64,
                                   65,
                                   255,
                                   256,
                                   65535,
                                   65536,
                                   65537,
                                   INT32_MAX,
                                   UINT32_MAX,
                                   UINT64_C(1) << 26,
                                   (UINT64_C(1) << 26) + 1,
                                   UINT64_C(1) << 32,
                                   UINT64_C(1) << 48,
                                   UINT64_C(1) << 62,
                                   INT64_MAX,
                                   (uint64_t)INT64_MAX + 1,
                                   UINT64_MAX};
    return fuzz_below(r, 4) ? all[fuzz_below(r, sizeof all / sizeof *all)] : fuzz_next(r) >> fuzz_below(r, 48);
}

static const char *const known[] = {"general.architecture",
                                    "general.alignment",
                                    "falcon-h1.context_length",
                                    "falcon-h1.embedding_length",
                                    "falcon-h1.block_count",
                                    "falcon-h1.vocab_size",
                                    "falcon-h1.attention.head_count",
                                    "falcon-h1.attention.layer_norm_rms_epsilon",
                                    "falcon-h1.rope.freq_base",
                                    "falcon-h1.rope.scaling.type",
                                    "falcon-h1.rope.scaling.factor",
                                    "falcon-h1.ssm.time_step_rank",
                                    "fh1.version",
                                    "fh1.folded",
                                    "fh1.files",
                                    "fh1.file.0",
                                    "fh1.tensors",
                                    "fh1.dtypes",
                                    "fh1.metadata",
                                    "fh1.originals",
                                    "fh1.original.0",
                                    "fh1.inexact",
                                    "tokenizer.ggml.eos_token_id"};

/* A value of a kind, items of an array included. */
static void value(bytes *b, fuzz_rng *r)
{
    static const size_t width[13] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    static const char *const texts[] = {"falcon-h1", "linear", "none", "config.json", "model.embed_tokens.weight",
                                        "F32",       "BF16",   "",     "\xff",        "{}"};
    const uint32_t kind = (uint32_t)fuzz_below(r, 13);
    number(b, kind, 4);
    const uint32_t item = kind == 9 ? (uint32_t)fuzz_below(r, 13) : kind;
    const uint64_t n = kind == 9 ? fuzz_below(r, 5) : 1;
    if (kind == 9) number(b, item, 4);
    if (kind == 9) number(b, n, 8);
    for (uint64_t i = 0; i < n; i++) {
        const char *text = texts[fuzz_below(r, sizeof texts / sizeof *texts)];
        if (item == 8) string(b, text, strlen(text));
        else number(b, item == 7 ? fuzz_below(r, 2) : boundary(r), width[item]);
    }
}

/* The file in parts, each to be written as it is or changed. */
typedef struct {
    slow_gguf f;
    struct {
        size_t from;      /* key of the file; as it is */
        uint8_t *value;   /* or another value of n_value bytes, its kind before it */
        const char *name; /* or another name, NULL: the file's */
        size_t n_value;
    } key[MOST];
    struct {
        slow_gguf_tensor t;
        const uint8_t *data; /* where its bytes are, n_data of them */
        size_t n_data;
    } tensor[MOST];
    size_t n_keys, n_tensors;
    uint64_t alignment;
} parts;

static void take_apart(parts *p)
{
    const slow_gguf *f = &p->f;
    for (size_t i = 0; i < f->n_keys && i < MOST; i++) p->key[p->n_keys++].from = i;
    for (size_t i = 0; i < f->n_tensors && i < MOST; i++) {
        const slow_gguf_tensor *t = &f->tensors[i];
        const uint64_t left = f->size > f->data_begin ? f->size - f->data_begin : 0;
        const uint64_t has = t->offset < left ? left - t->offset : 0;
        p->tensor[p->n_tensors].t = *t;
        p->tensor[p->n_tensors].data = has ? f->data + f->data_begin + t->offset : NULL;
        p->tensor[p->n_tensors++].n_data = (size_t)(has < t->bytes ? has : t->bytes);
    }
    p->alignment = f->alignment;
}

static void change_key(parts *p, fuzz_rng *r)
{
    if (p->n_keys == 0 || (p->n_keys < MOST && fuzz_below(r, 5) == 0)) { /* one more, perhaps twice */
        const size_t i = p->n_keys++;
        p->key[i].from = fuzz_below(r, p->f.n_keys + 1);
        if (p->key[i].from < p->f.n_keys && fuzz_below(r, 3) == 0) return;
        p->key[i].name = known[fuzz_below(r, sizeof known / sizeof *known)];
    }
    const size_t i = fuzz_below(r, p->n_keys);
    bytes b = {0};
    switch (fuzz_below(r, 6)) {
    case 0: /* gone */
        free(p->key[i].value);
        p->key[i] = p->key[--p->n_keys];
        memset(&p->key[p->n_keys], 0, sizeof p->key[0]);
        return;
    case 1: p->key[i].name = known[fuzz_below(r, sizeof known / sizeof *known)]; return;
    case 2: {
        const size_t k = fuzz_below(r, p->n_keys);
        const size_t from = p->key[i].from;
        p->key[i].from = p->key[k].from;
        p->key[k].from = from;
        return;
    }
    default: value(&b, r);
    }
    free(p->key[i].value);
    p->key[i].value = b.p;
    p->key[i].n_value = b.n;
}

static uint64_t bytes_of(const slow_gguf_tensor *t)
{
    uint64_t block, size;
    if (!slow_gguf_block(t->type, &block, &size)) return 0;
    return t->dim[0] / block * size * t->dim[1] * t->dim[2] * t->dim[3]; /* may wrap: that too is a file */
}

static void change_tensor(parts *p, fuzz_rng *r)
{
    static const uint8_t some[64] = "token_embd.weight";
    if (p->n_tensors == 0 || (p->n_tensors < MOST && fuzz_below(r, 6) == 0)) {
        const size_t from = p->n_tensors ? fuzz_below(r, p->n_tensors) : 0, i = p->n_tensors++;
        p->tensor[i] = p->tensor[from];
        p->tensor[i].t.name = some;
        p->tensor[i].t.n_name = fuzz_below(r, 66) % 64;
        if (p->tensor[i].t.n_dims == 0) p->tensor[i].t.n_dims = 1, p->tensor[i].t.dim[0] = 4;
    }
    const size_t i = fuzz_below(r, p->n_tensors);
    slow_gguf_tensor *t = &p->tensor[i].t;
    static const uint32_t types[] = {0, 1, 8, 28, 30, 2, 12, 39, 4, 99};
    switch (fuzz_below(r, 6)) {
    case 0: p->tensor[i] = p->tensor[--p->n_tensors]; return;
    case 1: t->type = types[fuzz_below(r, 10)]; break;
    case 2: t->dim[fuzz_below(r, 4)] = fuzz_below(r, 3) ? 1 + fuzz_below(r, 40) : boundary(r); break;
    case 3: t->n_dims = (uint32_t)fuzz_below(r, 6); break;
    case 4: { /* placed elsewhere */
        const size_t k = fuzz_below(r, p->n_tensors);
        const uint8_t *data = p->tensor[i].data;
        const size_t n = p->tensor[i].n_data;
        p->tensor[i].data = p->tensor[k].data;
        p->tensor[i].n_data = p->tensor[k].n_data;
        p->tensor[k].data = data;
        p->tensor[k].n_data = n;
        return;
    }
    default: t->name = some, t->n_name = 17; return;
    }
    t->bytes = bytes_of(t);
}

static void put_key(const parts *p, size_t i, bytes *b)
{
    const slow_gguf *f = &p->f;
    const slow_gguf_key *k = p->key[i].from < f->n_keys ? &f->keys[p->key[i].from] : NULL;
    if (p->key[i].name) string(b, p->key[i].name, strlen(p->key[i].name));
    else string(b, k ? (const char *)k->name : "", k ? k->n_name : 0);
    const size_t kind_at = k ? k->at + 8 + k->n_name : 0;
    if (p->key[i].value) add(b, p->key[i].value, p->key[i].n_value);
    else if (k) add(b, f->data + kind_at, k->value_at + k->bytes - kind_at);
    else number(b, 0, 5);
}

static void pad(bytes *b, uint64_t begin, uint64_t alignment)
{
    if (alignment == 0 || alignment > 4096) return;
    zeros(b, (size_t)((alignment - (b->n - begin) % alignment) % alignment));
}

/* fh1.checksums, if it is there as fh1 writes it. */
static void repair_sums(bytes *b)
{
    slow_gguf f;
    const slow_gguf_key *k = NULL;
    if (slow_gguf_read(b->p, b->n, false, &f)) k = slow_gguf_find(&f, "fh1.checksums");
    if (k && k->kind == 9 && k->item == 10 && k->n == f.n_tensors + 1) {
        uint64_t sum = XXH3_64bits(b->p + f.infos_at, f.infos_end - f.infos_at), offset = 0;
        memcpy(b->p + k->value_at, &sum, 8);
        for (size_t n = 0; n < f.n_tensors; n++)
            for (size_t i = 0; i < f.n_tensors; i++) {
                const slow_gguf_tensor *t = &f.tensors[i];
                if (t->offset != offset) continue;
                sum = XXH3_64bits(b->p + f.data_begin + t->offset, t->bytes);
                memcpy(b->p + k->value_at + 8 * (n + 1), &sum, 8);
                offset = (t->offset + t->bytes + f.alignment - 1) / f.alignment * f.alignment;
                break;
            }
    }
    slow_gguf_free(&f);
}

static bytes put_together(const parts *p, bool in_step, fuzz_rng *r)
{
    bytes b = {0}, data = {0};
    add(&b, "GGUF", 4);
    number(&b, 3, 4);
    number(&b, p->n_tensors, 8);
    number(&b, p->n_keys, 8);
    for (size_t i = 0; i < p->n_keys; i++) put_key(p, i, &b);
    for (size_t i = 0; i < p->n_tensors; i++) {
        const slow_gguf_tensor *t = &p->tensor[i].t;
        string(&b, t->name, t->n_name);
        number(&b, t->n_dims, 4);
        for (uint32_t k = 0; k < t->n_dims; k++) number(&b, t->dim[k & 3], 8);
        number(&b, t->type, 4);
        number(&b, in_step ? data.n : boundary(r), 8);
        const size_t begin = data.n;
        add(&data, p->tensor[i].data, p->tensor[i].n_data);
        for (; data.n - begin < t->bytes && data.n < 65536;) number(&data, fuzz_next(r), 8); /* what it grew by */
        if (data.n - begin > t->bytes) data.n = begin + (size_t)t->bytes;
        pad(&data, 0, p->alignment);
    }
    pad(&b, 0, p->alignment);
    add(&b, data.p, data.n);
    free(data.p);
    return b;
}

size_t fuzz_mutate_gguf(uint8_t *data, size_t n, size_t room, fuzz_rng *r)
{
    if (fuzz_below(r, 8) == 0) return LLVMFuzzerMutate(data, n, room);
    parts *p = calloc(1, sizeof *p);
    if (!p) return n;
    if (!slow_gguf_read(data, n, true, &p->f)) { /* as far as it goes: what is behind is lost */
        p->f.n_tensors = 0;
        p->f.alignment = 32;
    }
    take_apart(p);
    do {
        if (fuzz_below(r, 2)) change_key(p, r);
        else change_tensor(p, r);
    } while (fuzz_below(r, 3) == 0);
    bytes b = put_together(p, fuzz_below(r, 16) != 0, r);
    if (fuzz_below(r, 4)) repair_sums(&b);
    for (size_t i = 0; i < p->n_keys; i++) free(p->key[i].value);
    slow_gguf_free(&p->f);
    free(p);
    if (b.n <= room) {
        memcpy(data, b.p, b.n);
        n = b.n;
    }
    free(b.p);
    if (fuzz_below(r, 6) == 0) n = LLVMFuzzerMutate(data, n, room);
    return n;
}
