#include "golden/trace.h"

#include "golden/trace_owner.h"
#include "oracle/cache.h"

#include <assert.h>
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    void **blocks;
    int64_t n;
    cvt_st *file;
} owner;

/* More layers than any model: the order of taps does not depend on how many there are. */
#define MANY_LAYERS ((int64_t)1 << 20)

static int64_t order_of(fh1_tap_id id, int64_t layer)
{
    return fh1_tap_order(NULL, id, layer, MANY_LAYERS);
}

/* Room for element n of an array that doubles whenever n is a power of two. */
static fh1_status grow(void **array, int64_t n, size_t size, const char *for_what)
{
    if (n & (n - 1)) return NULL;
    size_t n_bytes = size * (n > 0 ? 2 * (size_t)n : 1);
    void *p = realloc(*array, n_bytes);
    if (!p) return fh1_no_memory(n_bytes, for_what);
    *array = p;
    return NULL;
}

fh1_status gld_trace_new(gld_trace *out)
{
    memset(out, 0, sizeof *out);
    out->dtype = FH1_F64;
    out->owner = calloc(1, sizeof(owner));
    return out->owner ? NULL : fh1_no_memory(sizeof(owner), "a trace");
}

void gld_trace_free(gld_trace *t)
{
    owner *o = t->owner;
    for (int64_t j = 0; j < t->n_steps; j++) {
        free(t->steps[j].taps);
        free(t->steps[j].grads);
    }
    free(t->steps);
    if (o) {
        for (int64_t i = 0; i < o->n; i++) free(o->blocks[i]);
        free(o->blocks);
        cvt_st_close(o->file);
        free(o);
    }
    memset(t, 0, sizeof *t);
}

fh1_status gld_trace_adopt(gld_trace *t, void *block)
{
    owner *o = t->owner;
    void *blocks = o->blocks;
    fh1_status s = grow(&blocks, o->n, sizeof *o->blocks, "a trace");
    if (s) {
        free(block);
        return s;
    }
    o->blocks = blocks;
    o->blocks[o->n++] = block;
    return NULL;
}

void gld_trace_adopt_file(gld_trace *t, cvt_st *file)
{
    owner *o = t->owner;
    assert(!o->file);
    o->file = file;
}

fh1_status gld_trace_alloc(gld_trace *t, size_t n_bytes, const char *for_what, void **out)
{
    *out = calloc(1, n_bytes > 0 ? n_bytes : 1);
    if (!*out) return fh1_no_memory(n_bytes, for_what);
    return gld_trace_adopt(t, *out);
}

/* -- steps ------------------------------------------------------------------------------------- */

static fh1_status copy_input(gld_trace *t, int64_t B, int64_t width, const int64_t *from, const int64_t **to)
{
    int64_t n, n_bytes;
    void *p;
    *to = NULL;
    if (!from) return NULL;
    if (!fh1_mul_i64(B, width, &n) || !fh1_mul_i64(n, sizeof *from, &n_bytes))
        return FH1_BAD("a batch of %lld rows and %lld columns is too large", (long long)B, (long long)width);
    FH1_TRY(gld_trace_alloc(t, (size_t)n_bytes, "the inputs of a step", &p));
    memcpy(p, from, (size_t)n_bytes);
    *to = p;
    return NULL;
}

fh1_status gld_trace_add_step(gld_trace *t, const fh1_batch *b)
{
    assert(b->B > 0 && b->T > 0 && b->ids);
    if (t->n_steps > 0 && t->steps[0].batch.B != b->B) {
        fh1_status s = FH1_BAD("step %lld has another number of rows than step 0", (long long)t->n_steps);
        s = fh1_expected(s, "%lld", (long long)t->steps[0].batch.B);
        return fh1_found(s, "%lld", (long long)b->B);
    }
    void *steps = t->steps;
    FH1_TRY(grow(&steps, t->n_steps, sizeof *t->steps, "the steps of a trace"));
    t->steps = steps;

    fh1_batch copy = {.B = b->B, .T = b->T, .mask_len = b->mask ? b->mask_len : 0};
    FH1_TRY(copy_input(t, b->B, b->T, b->ids, &copy.ids));
    FH1_TRY(copy_input(t, b->B, b->mask_len, b->mask, &copy.mask));
    FH1_TRY(copy_input(t, b->B, b->T, b->positions, &copy.positions));
    FH1_TRY(copy_input(t, b->B, b->T, b->seq_idx, &copy.seq_idx));
    FH1_TRY(copy_input(t, b->B, b->T, b->labels, &copy.labels));
    t->steps[t->n_steps++] = (gld_step){.batch = copy};
    return NULL;
}

fh1_status gld_books_new(const fh1_config *c, int64_t B, fh1_config *least, fh1_cache **out)
{
    *least = *c;
    least->n_layers = least->Hkv = least->A = least->K = 1;
    least->d_ssm = least->H = least->P = least->G = least->N = 1;
    return fh1_cache_new(least, FH1_F32, B, out);
}

fh1_status gld_trace_check_inputs(const gld_trace *t, const fh1_config *c)
{
    if (t->n_steps == 0) return NULL;
    fh1_config least;
    fh1_cache *cache;
    FH1_TRY(gld_books_new(c, t->steps[0].batch.B, &least, &cache));
    fh1_status s = NULL;
    for (int64_t j = 0; j < t->n_steps && !s; j++) {
        fh1_tokens tokens = {0};
        s = fh1_tokens_pack(&t->steps[j].batch, c->V, cache, &tokens);
        if (!s) s = fh1_cache_prepare(cache, &tokens);
        if (s) s = fh1_where(s, "step %lld", (long long)j);
        else fh1_cache_commit(cache, &tokens);
        fh1_tokens_free(&tokens);
    }
    fh1_cache_free(cache);
    return s;
}

/* -- taps -------------------------------------------------------------------------------------- */

/* Index of the first tap that is not before (id, layer). */
static int64_t place_of(const gld_step *s, fh1_tap_id id, int64_t layer)
{
    int64_t lo = 0, hi = s->n_taps, want = order_of(id, layer);
    while (lo < hi) {
        int64_t mid = lo + (hi - lo) / 2;
        if (order_of(s->taps[mid].id, s->taps[mid].layer) < want) lo = mid + 1;
        else hi = mid;
    }
    return lo;
}

const gld_tap *gld_step_find(const gld_step *s, fh1_tap_id id, int64_t layer)
{
    int64_t i = place_of(s, id, layer);
    if (i == s->n_taps || order_of(s->taps[i].id, s->taps[i].layer) != order_of(id, layer)) return NULL;
    return &s->taps[i];
}

const gld_tap *gld_trace_find(const gld_trace *t, int64_t step, fh1_tap_id id, int64_t layer)
{
    if (step < 0 || step >= t->n_steps) return NULL;
    return gld_step_find(&t->steps[step], id, layer);
}

fh1_status gld_step_insert(gld_step *s, fh1_tap_id id, int64_t layer, gld_tap **out)
{
    if (gld_step_find(s, id, layer)) {
        char name[FH1_TAP_NAME_SIZE];
        return fh1_fail(FH1_E_INTERNAL, "tap %s came twice in one step", fh1_tap_name(FH1_FALCON_H1, id, layer, name));
    }
    void *taps = s->taps;
    FH1_TRY(grow(&taps, s->n_taps, sizeof *s->taps, "the taps of a step"));
    s->taps = taps;
    int64_t at = place_of(s, id, layer);
    memmove(s->taps + at + 1, s->taps + at, (size_t)(s->n_taps - at) * sizeof *s->taps);
    s->taps[at] = (gld_tap){.id = id, .layer = layer};
    s->n_taps++;
    *out = &s->taps[at];
    return NULL;
}

fh1_status gld_step_put_grad(gld_step *s, const char *name, int64_t param, const fh1_tensor *t)
{
    void *grads = s->grads;
    FH1_TRY(grow(&grads, s->n_grads, sizeof *s->grads, "the gradients of a step"));
    s->grads = grads;
    int64_t at = s->n_grads;
    while (at > 0 && s->grads[at - 1].param > param) at--;
    if (at > 0 && s->grads[at - 1].param == param)
        return fh1_fail(FH1_E_INTERNAL, "the gradient of %s came twice in one step", name);
    memmove(s->grads + at + 1, s->grads + at, (size_t)(s->n_grads - at) * sizeof *s->grads);
    s->grads[at] = (gld_grad){.param = param, .t = *t};
    snprintf(s->grads[at].name, sizeof s->grads[at].name, "%s", name);
    s->n_grads++;
    return NULL;
}

/* 16-bit types decide over F32, and F32 over F64: a bf16 pipeline keeps some of its taps wider. */
void gld_trace_note_dtype(gld_trace *t, fh1_dtype dtype)
{
    if (fh1_dtype_bits(dtype) < fh1_dtype_bits(t->dtype)) t->dtype = dtype;
}

fh1_status gld_trace_add_tap(gld_trace *t, fh1_tap_id id, int64_t layer, fh1_dtype dtype, const fh1_tensor *shape,
                             fh1_tensor *view)
{
    assert(t->n_steps > 0 && fh1_dtype_is_float(dtype));
    gld_step *s = &t->steps[t->n_steps - 1];
    char name[FH1_TAP_NAME_SIZE];
    fh1_tensor owned = fh1_view(NULL, dtype, shape->rank, shape->shape);
    gld_tap *tap;
    FH1_TRY(gld_trace_alloc(t, fh1_n_bytes(&owned), fh1_tap_name(t->family, id, layer, name), &owned.data));
    FH1_TRY(gld_step_insert(s, id, layer, &tap));
    tap->t = owned;
    if (id == FH1_TAP_LOGITS) s->n_logits = shape->shape[1];
    gld_trace_note_dtype(t, dtype);
    *view = owned;
    return NULL;
}

fh1_status gld_trace_add_grad(gld_trace *t, const char *name, int64_t param, fh1_dtype dtype, const fh1_tensor *shape,
                              fh1_tensor *view)
{
    assert(t->n_steps > 0 && fh1_dtype_is_float(dtype));
    fh1_tensor owned = fh1_view(NULL, dtype, shape->rank, shape->shape);
    FH1_TRY(gld_trace_alloc(t, fh1_n_bytes(&owned), name, &owned.data));
    FH1_TRY(gld_step_put_grad(&t->steps[t->n_steps - 1], name, param, &owned));
    gld_trace_note_dtype(t, dtype);
    *view = owned;
    return NULL;
}

int64_t gld_trace_n_grads(const gld_trace *t)
{
    int64_t n = 0;
    for (int64_t j = 0; j < t->n_steps; j++) n += t->steps[j].n_grads;
    return n;
}

int64_t gld_trace_n_taps(const gld_trace *t)
{
    int64_t n = 0;
    for (int64_t j = 0; j < t->n_steps; j++) n += t->steps[j].n_taps;
    return n;
}

/* -- choosing taps ------------------------------------------------------------------------------ */

#define GLOB_SIZE 256

/* The next glob of a comma-separated list into `glob`; false at the end. Too long: empty. */
static bool next_glob(const char **rest, char glob[GLOB_SIZE])
{
    if (!*rest) return false;
    size_t n = strcspn(*rest, ",");
    glob[0] = 0;
    if (n < GLOB_SIZE) {
        memcpy(glob, *rest, n);
        glob[n] = 0;
    }
    *rest = (*rest)[n] ? *rest + n + 1 : NULL;
    return true;
}

bool gld_taps_match(fh1_family family, const char *globs, fh1_tap_id id, int64_t layer)
{
    char name[FH1_TAP_NAME_SIZE], glob[GLOB_SIZE];
    if (!globs) return true;
    fh1_tap_name(family, id, layer, name);
    while (next_glob(&globs, glob))
        if (fnmatch(glob, name, 0) == 0) return true;
    return false;
}

static bool glob_hits_any(const char *glob, const fh1_config *c)
{
    char name[FH1_TAP_NAME_SIZE];
    for (int id = 0; id < FH1_TAP_COUNT; id++) {
        int64_t n = fh1_tap_is_per_layer((fh1_tap_id)id) ? c->n_layers : 1;
        if (!fh1_tap_exists(c, (fh1_tap_id)id)) continue;
        for (int64_t layer = 0; layer < n; layer++)
            if (fnmatch(glob, fh1_tap_name(c->family, (fh1_tap_id)id, layer, name), 0) == 0) return true;
    }
    return false;
}

fh1_status gld_taps_check(const char *globs, const fh1_config *c)
{
    char glob[GLOB_SIZE];
    while (globs && next_glob(&globs, glob)) {
        if (glob_hits_any(glob, c)) continue;
        fh1_status s = FH1_BAD("'%s' matches no tap of this model", glob);
        return fh1_hint(s, "fh1 taps MODEL lists them; separate several globs by commas, as in '*.mid,logits'");
    }
    return NULL;
}
