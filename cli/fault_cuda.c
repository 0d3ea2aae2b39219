#include "cli/fault_cuda.h"

#include "cuda/engine.h"
#include "cuda/faulty.h"
#include "reference/faulty_batch.h"
#include "reference/faulty_model.h"

#include <string.h>

/* cuda/host/runtime_api.h, which is C++. */
int cu_host_set_order(const char *order);

/* ---- which ---- */

static const struct {
    fh1_fault f;
    const char *why;
} meaningless[] = {
    {FH1_FAULT_EMPTY_ROW_IS_NAN, "a row of padding has no query: tokens are packed before the first kernel"},
    {FH1_FAULT_CONV_WINDOW_AT_RIGHT_PADS, "no column of padding reaches a kernel: tokens are packed"},
    {FH1_FAULT_CONV_BIAS_AT_LEFT_PADS, "no column of padding reaches a kernel: tokens are packed"},
    {FH1_FAULT_PADS_NOT_MASKED_AFTER_CONV, "no column of padding reaches a kernel: tokens are packed"},
    {FH1_FAULT_STATE_DECAYS_OVER_RIGHT_PADS, "no column of padding reaches a kernel: tokens are packed"},
    {FH1_FAULT_CACHE_AFTER_LAST_COLUMN, "no column of padding reaches a kernel: tokens are packed"},
    {FH1_FAULT_NORM_READS_WIDE_RESIDUAL, "this engine's norms read a residual in f32 as it is"},
};

const char *fault_cuda_lacks(fh1_fault f)
{
    for (size_t i = 0; i < sizeof meaningless / sizeof *meaningless; ++i)
        if (meaningless[i].f == f) return meaningless[i].why;
    return NULL;
}

bool fault_cuda_has(fh1_fault f)
{
    static const char *const other[] = {"cache", "schedule", "config"};
    for (size_t i = 0; i < sizeof other / sizeof *other; ++i)
        if (strcmp(fh1_fault_get(f)->op, other[i]) == 0) return false;
    return !fault_cuda_lacks(f) && !fh1_fault_is_gradient(f);
}

/* ---- edits of model and inputs ---- */

/* The last edited model: the engine holds on to its config until the next call. */
static struct {
    fh1_fault fault;
    ref_edited_model model;
    fh1_status (*open)(fh1_engine *, const fh1_model *);
    fh1_status (*forward)(fh1_engine *, const fh1_model *, const fh1_batch *, fh1_cache *, int64_t, void *,
                          const fh1_tap_sink *);
    void (*free)(fh1_engine *);
} edit;

/* The edit widened it; the engine stores matrices of a bf16 checkpoint as they are. */
static void narrow_again(fh1_tensor *t, const fh1_tensor *was)
{
    if (!t->data || was->dtype != FH1_BF16 || t->dtype != FH1_F32) return;
    const float *from = t->data;
    uint16_t *to = t->data; /* never ahead of what is read */
    for (int64_t i = 0; i < fh1_n_elems(t); ++i) {
        const float v = from[i];
        fh1_from_f32(to + i, FH1_BF16, &v, 1);
    }
    t->dtype = FH1_BF16;
}

static fh1_status edited(const fh1_model *m)
{
    ref_edited_model_free(&edit.model);
    FH1_TRY(ref_edited_model_new(edit.fault, m, &edit.model));
    for (int64_t i = 0; edit.model.layers && i < m->config.n_layers; ++i) {
        fh1_layer *l = &edit.model.layers[i];
        const fh1_layer *was = &m->layers[i];
        fh1_tensor *const matrix[] = {&l->q_w, &l->k_w, &l->v_w, &l->down_w};
        const fh1_tensor *const before[] = {&was->q_w, &was->k_w, &was->v_w, &was->down_w};
        for (int k = 0; k < 4; ++k) narrow_again(matrix[k], before[k]);
    }
    return NULL;
}

static fh1_status open_edited(fh1_engine *e, const fh1_model *m)
{
    FH1_TRY(edited(m));
    return edit.open(e, edit.model.model);
}

static fh1_status forward_edited(fh1_engine *e, const fh1_model *m, const fh1_batch *b, fh1_cache *cache,
                                 int64_t n_logits, void *logits, const fh1_tap_sink *sink)
{
    ref_edited_batch batch = {.memory = NULL};
    FH1_TRY(edited(m));
    fh1_status s = ref_edited_batch_new(edit.fault, b, cache, &batch);
    if (!s) s = edit.forward(e, edit.model.model, &batch.batch, cache, n_logits, logits, sink);
    ref_edited_batch_free(&batch);
    return s;
}

static void free_edited(fh1_engine *e)
{
    edit.free(e);
    ref_edited_model_free(&edit.model);
}

fh1_status fault_cuda_engine_new(fh1_fault f, fh1_engine **out)
{
    *out = NULL;
    if (f != FH1_FAULT_NONE && !fault_cuda_has(f)) {
        const char *why = fault_cuda_lacks(f);
        return fh1_found(FH1_BAD("a fault that engine cuda-host does not have"), "%s%s%s", fh1_fault_get(f)->name,
                         why ? ": " : "", why ? why : "");
    }
    if (f == FH1_FAULT_NONE || cu_faulty_plants(f)) return cu_faulty_engine_new("cuda-host", NULL, 0, f, out);
    FH1_TRY(cu_faulty_engine_new("cuda-host", NULL, 0, FH1_FAULT_NONE, out));
    fh1_engine *e = *out;
    ref_edited_model_free(&edit.model);
    edit.fault = f;
    edit.open = e->open;
    edit.forward = e->forward;
    edit.free = e->free;
    e->open = open_edited;
    e->forward = forward_edited;
    e->free = free_edited;
    return NULL;
}

fh1_status fault_cuda_honest_new(const fh1_profile *p, const char *threads, bool general, fh1_engine **out)
{
    if (cu_host_set_order(threads) != 0) return fh1_found(FH1_BAD("an order of threads"), "'%s'", threads);
    return general ? cu_general_engine_new(p, out) : cu_engine_new("cuda-host", p, 0, out);
}
