/* GGUF files, container and model.
 *
 * The container's tables are what the second reading makes of the bytes; written again by fh1's writer they read the
 * same; `verify` says damage where the second reading finds a byte between tensors that is not zero or a checksum that
 * is wrong. What opens as a model can be read to the last row, twice the same, and where fh1 has not folded it, its
 * numbers are those of the file. */
#include "convert/gguf.h"
#include "convert/gguf_file.h"
#include "fuzz/fuzz.h"
#include "fuzz/mutate_gguf.h"
#include "fuzz/plant.h"
#include "fuzz/slow_gguf.h"
#include "oracle/round.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Heap. Tables: an entry of 14 bytes costs a record of 56 in a table that may have twice the room, and its double while
 * it grows, and a name; the texts are read into a head that may be twice as large. A model: 64 kB of records, and for
 * each of its layers, of which there are no more than tensors of 33 bytes, 32 records of 350 bytes. `verify` has a
 * buffer of 4 MiB. */
enum { TABLES = 140000, TABLES_PER_BYTE = 24, MODEL = 400000, MODEL_PER_BYTE = 700, VERIFY = 5 << 20 };
enum { MS = 20, MS_PER_KB = 10 };

static const char *path;

static void line_of(fh1_status s, char line[2048])
{
    line[0] = '\0';
    if (s) fh1_status_line(s, line, 2048);
}

static void compare_keys(const cvt_gguf_file *f, const slow_gguf *s)
{
    FUZZ_CHECK((size_t)f->n_kv == s->n_keys, "%lld keys, the second reading has %zu", (long long)f->n_kv, s->n_keys);
    for (size_t i = 0; i < s->n_keys; i++) {
        const slow_gguf_key *k = &s->keys[i];
        char name[65536];
        memcpy(name, k->name, k->n_name);
        name[k->n_name] = '\0';
        const cvt_gguf_kv *kv = cvt_gguf_find_kv(f, name);
        FUZZ_CHECK(kv, "there is no key '%s'", name);
        FUZZ_CHECK(kv->kind == k->kind && kv->at == k->at && kv->value_at == k->value_at && kv->bytes == k->bytes &&
                       kv->n == k->n + fuzz_planted("count") && (k->kind != CVT_GGUF_ARRAY || kv->item == k->item),
                   "the key '%s' is another one", name);
        FUZZ_CHECK(memcmp(f->head + kv->value_at, s->data + k->value_at, k->bytes) == 0, "the value of '%s'", name);
    }
}

static void compare_tensors(const cvt_gguf_file *f, const slow_gguf *s)
{
    FUZZ_CHECK((size_t)f->n_tensors == s->n_tensors, "%lld tensors, the second reading has %zu",
               (long long)f->n_tensors, s->n_tensors);
    for (size_t i = 0; i < s->n_tensors; i++) {
        const slow_gguf_tensor *t = &s->tensors[i];
        char name[64];
        memcpy(name, t->name, t->n_name);
        name[t->n_name] = '\0';
        const int64_t k = cvt_gguf_find_tensor(f, name);
        FUZZ_CHECK(k >= 0, "there is no tensor '%s'", name);
        const cvt_gguf_info *info = &f->tensors[k];
        bool same = info->format->id == t->type && (uint32_t)info->n_dims == t->n_dims && info->bytes == t->bytes &&
                    info->begin == s->data_begin + t->offset && info->at == t->at;
        for (int d = 0; d < 4; d++) same &= (uint64_t)info->dim[d] == t->dim[d];
        FUZZ_CHECK(same, "the tensor '%s' is another one", name);
    }
    for (int64_t i = 1; i < f->n_tensors; i++)
        FUZZ_CHECK(f->tensors[f->in_order[i]].begin > f->tensors[f->in_order[i - 1]].begin, "the order of the data");
}

/* ---- written again by fh1's writer ---- */

/* One key, if fh1 writes such values. */
static void put_again(cvt_gguf_writer *w, const cvt_gguf_file *f, const cvt_gguf_kv *kv)
{
    static const int width[CVT_GGUF_KINDS] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    const unsigned char *p = f->head + kv->value_at;
    if (strcmp(kv->key, "general.alignment") == 0) return; /* the writer's is 32 */
    if (kv->kind == CVT_GGUF_U32) cvt_gguf_put_uint(w, kv->key, cvt_gguf_u32(p));
    if (kv->kind == CVT_GGUF_BOOL) cvt_gguf_put_bool(w, kv->key, *p != 0);
    if (kv->kind == CVT_GGUF_STRING) cvt_gguf_put_text(w, kv->key, (const char *)p, kv->n);
    if (kv->kind != CVT_GGUF_ARRAY) return;
    cvt_gguf_put_array(w, kv->key, (cvt_gguf_kind)kv->item, kv->n);
    uint64_t at = kv->value_at, n;
    for (uint64_t i = 0; i < kv->n; i++) {
        if (kv->item == CVT_GGUF_STRING) {
            const char *text = cvt_gguf_next_string(f, &at, &n);
            cvt_gguf_add_string(w, text, n);
        } else {
            cvt_gguf_add_number(w, slow_gguf_number(p, (size_t)width[kv->item]), width[kv->item]);
            p += width[kv->item];
        }
    }
}

/* The bytes of the file that the writer's parts make, malloc'ed. */
static unsigned char *assemble(const cvt_gguf_writer *w, const cvt_gguf_file *f, const slow_gguf *s, size_t *size)
{
    *size = (size_t)cvt_gguf_file_size(w);
    unsigned char *p = calloc(1, *size + 32);
    const uint64_t counts[2] = {(uint64_t)f->n_tensors, w->n_kv};
    memcpy(p, "GGUF\3\0\0\0", 8);
    memcpy(p + 8, counts, 16);
    if (w->kv.n) memcpy(p + 24, w->kv.s, w->kv.n);
    if (w->infos.n) memcpy(p + 24 + w->kv.n, w->infos.s, w->infos.n);
    const size_t data = (24 + w->kv.n + w->infos.n + 31) / 32 * 32;
    for (int64_t i = 0; i < f->n_tensors; i++) {
        const cvt_gguf_info *t = &f->tensors[f->in_order[i]];
        memcpy(p + data + w->begin[i], s->data + t->begin, t->bytes);
    }
    return p;
}

static void compare_again(const cvt_gguf_file *f, const cvt_gguf_file *g, const slow_gguf *s, const unsigned char *copy)
{
    for (int64_t i = 0; i < g->n_kv; i++) {
        const cvt_gguf_kv *b = &g->kv[i], *a = cvt_gguf_find_kv(f, b->key);
        FUZZ_CHECK(a && a->kind == b->kind && a->item == b->item && a->n == b->n && a->bytes == b->bytes &&
                       memcmp(f->head + a->value_at, g->head + b->value_at, a->bytes) == 0,
                   "the key '%s' is another one when it is written again", b->key);
    }
    FUZZ_CHECK(f->n_tensors == g->n_tensors, "tensors are lost");
    for (int64_t i = 0; i < g->n_tensors; i++) {
        const cvt_gguf_info *a = &f->tensors[i], *b = &g->tensors[i];
        FUZZ_CHECK(strcmp(a->name, b->name) == 0 && a->format == b->format && a->n_dims == b->n_dims &&
                       memcmp(a->dim, b->dim, sizeof a->dim) == 0 && a->bytes == b->bytes &&
                       memcmp(s->data + a->begin, copy + b->begin, a->bytes) == 0,
                   "the tensor '%s' is another one when it is written again", a->name);
    }
}

static void write_again(const cvt_gguf_file *f, const slow_gguf *s)
{
    cvt_gguf_writer w = {0};
    cvt_gguf_file *g;
    size_t size;
    for (int64_t i = 0; i < f->n_kv; i++) put_again(&w, f, &f->kv[i]);
    for (int64_t i = 0; i < f->n_tensors; i++) {
        const cvt_gguf_info *t = &f->tensors[f->in_order[i]];
        FUZZ_CHECK(!cvt_gguf_put_tensor(&w, t->name, t->format, t->n_dims, t->dim), "the writer refuses '%s'", t->name);
    }
    unsigned char *copy = assemble(&w, f, s, &size);
    fh1_status e = cvt_gguf_file_open(fuzz_file(1, copy, size), &g);
    char line[2048];
    line_of(e, line);
    FUZZ_CHECK(!e, "what the writer makes is refused: %s", line);
    compare_again(f, g, s, copy);
    cvt_gguf_file_close(g);
    free(copy);
    cvt_gguf_writer_free(&w);
}

/* ---- the model in it ---- */

/* Names in GGUF of tensors that are stored as Hugging Face has them: behind "blk.N." and "model.layers.N.". */
static const struct {
    const char *hf, *gguf;
} names[] = {{"self_attn.q_proj", "attn_q"},
             {"self_attn.k_proj", "attn_k"},
             {"self_attn.v_proj", "attn_v"},
             {"self_attn.o_proj", "attn_output"},
             {"mamba.in_proj", "ssm_in"},
             {"mamba.conv1d", "ssm_conv1d"},
             {"mamba.out_proj", "ssm_out"},
             {"feed_forward.gate_proj", "ffn_gate"},
             {"feed_forward.down_proj", "ffn_down"},
             {"feed_forward.up_proj", "ffn_up"},
             {"input_layernorm", "attn_norm"}};

static const slow_gguf_tensor *stored(const slow_gguf *s, const char *hf)
{
    char name[256] = "";
    int layer = 0, n = 0;
    if (strcmp(hf, "model.embed_tokens.weight") == 0) memcpy(name, "token_embd.weight", 18);
    if (strcmp(hf, "model.final_layernorm.weight") == 0) memcpy(name, "output_norm.weight", 19);
    if (sscanf(hf, "model.layers.%d.%n", &layer, &n) == 1 && n > 0)
        for (size_t i = 0; i < sizeof names / sizeof *names; i++)
            if (strncmp(hf + n, names[i].hf, strlen(names[i].hf)) == 0 && hf[(size_t)n + strlen(names[i].hf)] == '.')
                snprintf(name, sizeof name, "blk.%d.%s%s", layer, names[i].gguf, hf + n + strlen(names[i].hf));
    for (size_t i = 0; i < s->n_tensors; i++)
        if (s->tensors[i].n_name == strlen(name) && memcmp(s->tensors[i].name, name, strlen(name)) == 0)
            return &s->tensors[i];
    return NULL;
}

/* Element i of a tensor of the file. */
static double number_at(const slow_gguf *s, const slow_gguf_tensor *t, uint64_t i)
{
    const uint8_t *p = s->data + s->data_begin + t->offset;
    double v;
    switch (t->type) {
    case 0: return (double)fh1_bits_f32((uint32_t)slow_gguf_number(p + 4 * i, 4));
    case 1: return (double)fh1_f16_to_f32((uint16_t)slow_gguf_number(p + 2 * i, 2));
    case 30: return (double)fh1_bits_f32((uint32_t)slow_gguf_number(p + 2 * i, 2) << 16);
    case 28: memcpy(&v, p + 8 * i, 8); return v;
    default: /* q8_0 */
        p += i / 32 * 34;
        return (double)fh1_f16_to_f32((uint16_t)slow_gguf_number(p, 2)) * (double)(int8_t)p[2 + i % 32];
    }
}

static double element(fh1_dtype dtype, const unsigned char *p, uint64_t i)
{
    double v;
    if (dtype == FH1_F64) memcpy(&v, p + 8 * i, 8);
    else if (dtype == FH1_F32) v = (double)fh1_bits_f32((uint32_t)slow_gguf_number(p + 4 * i, 4));
    else if (dtype == FH1_BF16) v = (double)fh1_bits_f32((uint32_t)slow_gguf_number(p + 2 * i, 2) << 16);
    else v = (double)fh1_f16_to_f32((uint16_t)slow_gguf_number(p + 2 * i, 2));
    return v;
}

static void compare_numbers(const cvt_ckpt_tensor *t, const unsigned char *data, uint64_t n_bytes, const slow_gguf *s)
{
    const slow_gguf_tensor *from = stored(s, t->name);
    if (!from || slow_gguf_find(s, "fh1.folded")) return;
    const uint64_t n = n_bytes * 8 / (uint64_t)fh1_dtype_bits(t->dtype);
    for (uint64_t i = 0; i < n; i++) {
        const double want = number_at(s, from, i) + (fuzz_planted("numbers") ? 1 : 0), has = element(t->dtype, data, i);
        FUZZ_CHECK(want == has || (isnan(want) && isnan(has)), "%s, element %llu: %g, in the file %g", t->name,
                   (unsigned long long)i, has, want);
    }
}

static void read_model(cvt_ckpt *c, const slow_gguf *s)
{
    for (int64_t i = 0; i < c->n_tensors; i++) {
        const cvt_ckpt_tensor *t = &c->tensors[i];
        const uint64_t n = cvt_ckpt_tensor_bytes(t);
        unsigned char *a = malloc(n + 1), *b = malloc(n + 1);
        fh1_status e = cvt_ckpt_read(c, i, 0, n, a);
        if (!e) { /* from the end, row by row where it has rows */
            const uint64_t row = cvt_ckpt_row_bytes(t);
            for (int64_t k = cvt_ckpt_rows(t); k-- > 0;)
                FUZZ_CHECK(!cvt_ckpt_read_rows(c, i, k, 1, b + (uint64_t)k * row), "a row of %s is refused", t->name);
            FUZZ_CHECK(memcmp(a, b, n) == 0, "rows of %s are not those of the whole", t->name);
            compare_numbers(t, a, n, s);
        }
        free(a);
        free(b);
    }
}

static void reopen(void *unused)
{
    cvt_ckpt *c;
    (void)unused;
    cvt_gguf_open(path, &c);
    cvt_ckpt_close(c);
}

static void check_model(const slow_gguf *s)
{
    cvt_ckpt *c, *d;
    fuzz_bounds b;
    char first[2048], again[2048];
    fuzz_bounds_begin(&b);
    fh1_status e = cvt_gguf_open(path, &c);
    fuzz_bounds_end(&b, s->size, MODEL, MODEL_PER_BYTE, MS, MS_PER_KB, reopen, NULL);
    line_of(e, first);
    fh1_status w = cvt_gguf_open_wide(path, &d);
    FUZZ_CHECK(!e == !w, "one of open and open_wide refuses: %s", first);
    if (!e) read_model(c, s);
    cvt_ckpt_close(c);
    cvt_ckpt_close(d);
    fuzz_bounds_begin(&b);
    fh1_status v = cvt_gguf_verify(path, NULL);
    fuzz_bounds_end(&b, s->size, VERIFY, MODEL_PER_BYTE, MS, MS_PER_KB, NULL, NULL);
    line_of(v, again);
    if (!slow_gguf_sound(s)) FUZZ_CHECK(v && v->code == FH1_E_WRONG, "verify does not see the damage: %s", again);
    else FUZZ_CHECK(strcmp(first, again) == 0, "opening says '%s', verify '%s'", first, again);
}

static void reparse(void *unused)
{
    cvt_gguf_file *f;
    (void)unused;
    cvt_gguf_file_open(path, &f);
    cvt_gguf_file_close(f);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    cvt_gguf_file *f, *twice;
    slow_gguf s;
    char line[2048], again[2048];
    fuzz_bounds b, whole;
    path = fuzz_file(0, data, size);
    fuzz_bounds_begin(&whole);
    fuzz_bounds_begin(&b);
    fh1_status e = cvt_gguf_file_open(path, &f);
    fuzz_bounds_end(&b, size, TABLES, TABLES_PER_BYTE, MS, MS_PER_KB, reparse, NULL);
    line_of(e, line);
    const bool taken = slow_gguf_read(data, size, false, &s);
    FUZZ_CHECK(taken == !e, "the second reading %s it: %s", taken ? "takes" : "refuses", line);
    if (e && size % 4 == 0) {
        fh1_status t = cvt_gguf_file_open(path, &twice);
        line_of(t, again);
        FUZZ_CHECK(strcmp(line, again) == 0 && t->code == FH1_E_INPUT, "'%s', then '%s'", line, again);
    }
    if (!e) {
        compare_keys(f, &s);
        compare_tensors(f, &s);
        write_again(f, &s);
        cvt_gguf_file_close(f);
        check_model(&s);
    }
    slow_gguf_free(&s);
    fuzz_nothing_left(&whole);
    return 0;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned int seed)
{
    fuzz_rng r = {(uint64_t)seed << 20 | (size + 1)};
    return fuzz_mutate_gguf(data, size, max_size, &r);
}
