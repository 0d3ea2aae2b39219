/* A checkpoint as a GGUF file of architecture falcon-h1: docs/gguf.md. */
#include "convert/gguf_export.h"

#include "convert/hf_config.h"
#include "oracle/thread.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define PIECE_ELEMS ((int64_t)1 << 17)  /* folded by one thread at a time: 1 MiB in f64 */
#define SLAB_BYTES ((uint64_t)16 << 20) /* of the file, between two writes */

typedef struct {
    cvt_ckpt *c;
    cvt_gguf_map map;
    cvt_gguf_job *jobs; /* map.n */
    cvt_gguf_writer w;
    XXH64_hash_t *checksums; /* of the table, then of each tensor */
    uint64_t inexact, elems; /* of the matrices that are not in blocks */
    uint64_t inexact_at, checksums_at;
    uint64_t done, total;
    const cvt_write_options *o;
    unsigned char *slab;
    size_t slab_room;
} export;

static const cvt_gguf_format *format_for(const cvt_gguf_entry *e, cvt_gguf_type type)
{
    uint32_t id = CVT_GGUF_ID_F32;
    if (e->matrix && type == CVT_GGUF_F16) id = CVT_GGUF_ID_F16;
    if (e->matrix && type == CVT_GGUF_BF16) id = CVT_GGUF_ID_BF16;
    if (e->matrix && type == CVT_GGUF_Q8_0) id = CVT_GGUF_ID_Q8_0;
    const cvt_gguf_format *f = cvt_gguf_format_of(id);
    return e->cols % f->block == 0 ? f : cvt_gguf_format_of(CVT_GGUF_ID_F32); /* rows that blocks do not fill */
}

static fh1_status check_tensor(const cvt_ckpt *c, const cvt_gguf_entry *e, const cvt_ckpt_tensor *t)
{
    bool same = t->rank == e->rank;
    for (int i = 0; same && i < e->rank; i++) same = t->shape[i] == e->shape[i];
    if (!fh1_dtype_is_float(t->dtype))
        return fh1_hint(fh1_found(fh1_expected(fh1_where(FH1_BAD("the tensor is not of a float type"),
                                                         "%s, tensor \"%.96s\"", c->path, t->name),
                                               "F64, F32, BF16 or F16"),
                                  "%s", fh1_dtype_name(t->dtype)),
                        "a quantised model is dequantised by --dtype bf16, f16 or f32");
    if (same) return NULL;
    char expected[64], found[64];
    fh1_tensor a = fh1_view(NULL, t->dtype, e->rank, e->shape), b = fh1_view(NULL, t->dtype, t->rank, t->shape);
    fh1_status s =
        fh1_where(FH1_BAD("the tensor has the wrong shape for config.json"), "%s, tensor \"%.96s\"", c->path, t->name);
    return fh1_found(fh1_expected(s, "%s", fh1_shape_text(&a, expected, sizeof expected)), "%s",
                     fh1_shape_text(&b, found, sizeof found));
}

/* A bias that llama.cpp has no place for does no harm where it is zero. */
static fh1_status check_zeros(cvt_ckpt *c, const cvt_gguf_job *j)
{
    const cvt_ckpt_tensor *t = &c->tensors[j->source];
    const size_t n = cvt_ckpt_tensor_bytes(t);
    void *data = malloc(n + 1);
    if (!data) return fh1_no_memory(n, t->name);
    fh1_status s = cvt_ckpt_read(c, j->source, 0, n, data);
    const fh1_tensor v = fh1_view(data, t->dtype, t->rank, t->shape);
    for (int64_t i = 0; !s && i < fh1_n_elems(&v); i++)
        if (fh1_get(&v, i) != 0)
            s = fh1_hint(fh1_found(fh1_where(FH1_BAD("stock llama.cpp cannot represent the model: it does not add this "
                                                     "bias"),
                                             "%s, tensor \"%.96s\", element %lld", c->path, t->name, (long long)i),
                                   "%g", fh1_get(&v, i)),
                         "keep the model as a Hugging Face folder or a .fh1 file");
    free(data);
    return s;
}

static fh1_status plan_entry(export *x, cvt_gguf_type type, int64_t i)
{
    const cvt_gguf_entry *e = &x->map.at[i];
    cvt_gguf_job *j = &x->jobs[i];
    *j = (cvt_gguf_job){.e = e, .source = e->hf[0] ? cvt_ckpt_find(x->c, e->hf) : -1, .written = -1};
    if (e->hf[0] && j->source < 0)
        return fh1_where(FH1_BAD("the tensor is missing"), "%s, tensor \"%s\"", x->c->path, e->hf);
    if (j->source >= 0) FH1_TRY(check_tensor(x->c, e, &x->c->tensors[j->source]));
    j->format = format_for(e, type);
    if (!e->name[0]) return check_zeros(x->c, j);
    if (e->matrix && j->format->block == 1) x->elems += (uint64_t)(e->rows * e->cols);
    j->written = x->w.n_tensors;
    return cvt_gguf_put_tensor(&x->w, e->name, j->format, e->n_dims, e->dim);
}

/* Every tensor of the checkpoint has a place; the head of a tied model may be stored beside its embedding. */
static fh1_status check_all_used(const export *x, const fh1_config *g)
{
    bool *used = calloc((size_t)x->c->n_tensors + 1, sizeof *used);
    if (!used) return fh1_no_memory((size_t)x->c->n_tensors, "the table of tensors");
    for (int64_t i = 0; i < x->map.n; i++)
        if (x->jobs[i].source >= 0) used[x->jobs[i].source] = true;
    fh1_status s = NULL;
    for (int64_t i = 0; i < x->c->n_tensors && !s; i++)
        if (!used[i] && !(g->tied && strcmp(x->c->tensors[i].name, "lm_head.weight") == 0))
            s = fh1_where(FH1_BAD("config.json has no use for the tensor"), "%s, tensor \"%.120s\"", x->c->path,
                          x->c->tensors[i].name);
    free(used);
    return s;
}

static void put_numbers(export *x)
{
    cvt_gguf_put_array(&x->w, CVT_GGUF_KEY_INEXACT, CVT_GGUF_U64, 2);
    x->inexact_at = x->w.kv.n;
    for (int i = 0; i < 2; i++) cvt_gguf_add_number(&x->w, 0, 8);
    cvt_gguf_put_array(&x->w, CVT_GGUF_KEY_CHECKSUMS, CVT_GGUF_U64, (uint64_t)x->w.n_tensors + 1);
    x->checksums_at = x->w.kv.n;
    for (int64_t i = 0; i <= x->w.n_tensors; i++) cvt_gguf_add_number(&x->w, 0, 8);
}

typedef struct {
    export *x;
    const cvt_gguf_job *j;
    int64_t first; /* row at the start of the slab */
    pthread_mutex_t lock;
    uint64_t inexact;
    fh1_error error; /* the first; a status lives in its thread */
    bool failed;
} slab_job;

static void fold_rows(void *ctx, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    slab_job *s = ctx;
    uint64_t inexact = 0;
    fh1_status e = cvt_gguf_fold_piece(s->x->c, s->j, s->first + begin, end - begin,
                                       s->x->slab + (uint64_t)begin * cvt_gguf_row_bytes(s->j), &inexact);
    pthread_mutex_lock(&s->lock);
    s->inexact += inexact;
    if (e && !s->failed) s->error = *e;
    s->failed |= e != NULL;
    pthread_mutex_unlock(&s->lock);
}

static fh1_status raise_error(const fh1_error *e)
{
    fh1_status s = fh1_fail(e->code, "%s", e->what);
    if (e->where[0]) s = fh1_where(s, "%s", e->where);
    if (e->expected[0]) s = fh1_expected(s, "%s", e->expected);
    if (e->found[0]) s = fh1_found(s, "%s", e->found);
    return e->hint[0] ? fh1_hint(s, "%s", e->hint) : s;
}

static fh1_status fold_slab(export *x, const cvt_gguf_job *j, int64_t first, int64_t rows)
{
    slab_job s = {.x = x, .j = j, .first = first};
    int64_t grain = PIECE_ELEMS / j->e->cols;
    pthread_mutex_init(&s.lock, NULL);
    fh1_parallel_for(rows, grain < 1 ? 1 : grain, fold_rows, &s);
    pthread_mutex_destroy(&s.lock);
    if (j->e->matrix) x->inexact += s.inexact;
    return s.failed ? raise_error(&s.error) : NULL;
}

static fh1_status step(export *x, uint64_t bytes)
{
    x->done += bytes;
    if (x->done > x->total) x->done = x->total;
    return x->o->progress ? x->o->progress->step(x->o->progress->user, x->done, x->total) : NULL;
}

static fh1_status write_tensor(export *x, const cvt_gguf_job *j)
{
    const uint64_t row = cvt_gguf_row_bytes(j);
    int64_t most = (int64_t)(SLAB_BYTES / row);
    if (most < 1) most = 1;
    if (most > j->e->rows) most = j->e->rows;
    if ((uint64_t)most * row > x->slab_room) {
        free(x->slab);
        x->slab_room = (uint64_t)most * row;
        if (!(x->slab = malloc(x->slab_room))) return fh1_no_memory(x->slab_room, "a piece of a tensor");
    }
    const uint64_t read = j->source < 0 ? 0 : cvt_ckpt_row_bytes(&x->c->tensors[j->source]);
    XXH3_state_t *hash = XXH3_createState();
    fh1_status s = hash && XXH3_64bits_reset(hash) == XXH_OK ? NULL : fh1_no_memory(sizeof hash, "a checksum");
    for (int64_t first = 0; first < j->e->rows && !s; first += most) {
        const int64_t n = j->e->rows - first < most ? j->e->rows - first : most;
        s = fold_slab(x, j, first, n);
        if (!s) XXH3_64bits_update(hash, x->slab, (uint64_t)n * row);
        if (!s) s = cvt_gguf_put_data(&x->w, j->written, (uint64_t)first * row, x->slab, (uint64_t)n * row);
        if (!s) s = step(x, read * (uint64_t)n);
    }
    if (!s) x->checksums[j->written + 1] = XXH3_64bits_digest(hash);
    XXH3_freeState(hash);
    return s;
}

/* What was unknown when the keys were written. */
static fh1_status patch(export *x)
{
    const uint64_t counts[2] = {x->inexact, x->elems};
    unsigned char bytes[8];
    for (int64_t i = 0; i < x->w.n_tensors + 3; i++) {
        const uint64_t v = i < 2 ? counts[i] : x->checksums[i - 2];
        const uint64_t at = i < 2 ? x->inexact_at + 8 * (uint64_t)i : x->checksums_at + 8 * (uint64_t)(i - 2);
        for (int k = 0; k < 8; k++) bytes[k] = (unsigned char)(v >> (8 * k));
        FH1_TRY(cvt_gguf_patch(&x->w, at, bytes, 8));
    }
    return NULL;
}

static fh1_status declare(export *x, const fh1_config *g, cvt_gguf_type type)
{
    FH1_TRY(cvt_gguf_map_new(g, &x->map));
    x->jobs = calloc((size_t)x->map.n, sizeof *x->jobs);
    if (!x->jobs) return fh1_no_memory((size_t)x->map.n * sizeof *x->jobs, "the tensors of a GGUF file");
    for (int64_t i = 0; i < x->map.n; i++) FH1_TRY(plan_entry(x, type, i));
    FH1_TRY(check_all_used(x, g));
    FH1_TRY(cvt_gguf_put_model_keys(&x->w, x->c, g, type));
    FH1_TRY(cvt_gguf_put_vocabulary(&x->w, x->c, g));
    FH1_TRY(cvt_gguf_put_private(&x->w, x->c, x->jobs, x->map.n));
    put_numbers(x);
    x->checksums = calloc((size_t)x->w.n_tensors + 1, sizeof *x->checksums);
    if (!x->checksums) return fh1_no_memory((size_t)x->w.n_tensors * 8, "checksums");
    x->checksums[0] = XXH3_64bits(x->w.infos.s, x->w.infos.n);
    return NULL;
}

static fh1_status write_all(export *x, const char *path)
{
    FH1_TRY(cvt_gguf_begin(&x->w, path, x->o->force));
    for (int64_t i = 0; i < x->map.n; i++)
        if (x->jobs[i].written >= 0) FH1_TRY(write_tensor(x, &x->jobs[i]));
    FH1_TRY(patch(x));
    FH1_TRY(cvt_ckpt_unchanged(x->c));
    FH1_TRY(step(x, x->total));
    return cvt_gguf_commit(&x->w);
}

/* The type of the matrices, as the embedding has it. */
static cvt_gguf_type kept_type(const cvt_ckpt *c)
{
    const int64_t t = cvt_ckpt_find(c, "model.embed_tokens.weight");
    const fh1_dtype d = t < 0 ? FH1_F32 : c->tensors[t].dtype;
    return d == FH1_F16 ? CVT_GGUF_F16 : d == FH1_BF16 ? CVT_GGUF_BF16 : CVT_GGUF_F32;
}

static fh1_status export_model(cvt_ckpt *c, const fh1_config *g, const char *path, cvt_gguf_type type,
                               const cvt_write_options *o)
{
    export x = {.c = c, .o = o, .total = cvt_ckpt_total_bytes(c)};
    if (type == CVT_GGUF_KEEP) type = kept_type(c);
    fh1_status s = declare(&x, g, type);
    if (!s) s = write_all(&x, path);
    cvt_gguf_writer_free(&x.w);
    free(x.map.at);
    free(x.jobs);
    free(x.checksums);
    free(x.slab);
    return s;
}

fh1_status cvt_gguf_write(cvt_ckpt *c, const char *path, cvt_gguf_type type, const cvt_write_options *o)
{
    cJSON *json;
    fh1_config *g = malloc(sizeof *g);
    if (!g) return fh1_no_memory(sizeof *g, "a config");
    fh1_status s = cvt_ckpt_config_json(c, &json);
    if (!s) {
        s = cvt_ckpt_config(c, g);
        if (!s) s = cvt_gguf_check_config(c, json, g);
        cJSON_Delete(json);
    }
    if (!s) s = export_model(c, g, path, type, o);
    free(g);
    return s;
}
