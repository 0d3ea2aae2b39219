#include "convert/model_attach.h"

#include "convert/file.h"
#include "convert/model_open.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HEAD "lm_head"

/* What the attached model keeps alive beside what the base keeps alive. */
typedef struct {
    void *owner; /* of the base */
    void (*free_owner)(void *owner);
    void **blocks;
    size_t n_blocks;
    cvt_adapter *adapters; /* that the model owns */
    int n_adapters;
} attachment;

static void free_attachment(void *owner)
{
    attachment *t = owner;
    for (size_t i = 0; i < t->n_blocks; i++) free(t->blocks[i]);
    free(t->blocks);
    for (int i = 0; i < t->n_adapters; i++) cvt_adapter_free(&t->adapters[i]);
    free(t->adapters);
    if (t->free_owner) t->free_owner(t->owner);
    free(t);
}

/* The attachment of the model, made at its first adapter. */
static fh1_status attachment_of(fh1_model *m, attachment **out)
{
    if (m->free_owner == free_attachment) {
        *out = m->owner;
        return NULL;
    }
    if (!(*out = calloc(1, sizeof **out))) return fh1_no_memory(sizeof **out, "an adapter");
    (*out)->owner = m->owner;
    (*out)->free_owner = m->free_owner;
    m->owner = *out;
    m->free_owner = free_attachment;
    return NULL;
}

/* Zeroed memory that lives as long as the model. */
static fh1_status take(attachment *t, size_t bytes, void **out)
{
    void **more = realloc(t->blocks, (t->n_blocks + 1) * sizeof *more);
    if (more) t->blocks = more;
    if (!more || !(*out = calloc(1, bytes ? bytes : 1))) return fh1_no_memory(bytes, "an adapter");
    t->blocks[t->n_blocks++] = *out;
    return NULL;
}

/* *to = a dense copy of `from` in the type of *to, which has its shape. */
static fh1_status copy_tensor(attachment *t, const fh1_tensor *from, fh1_dtype dtype, fh1_tensor *to)
{
    fh1_tensor copy = fh1_view(NULL, dtype, from->rank, from->shape);
    FH1_TRY(take(t, fh1_n_bytes(&copy), &copy.data));
    fh1_copy(&copy, from);
    *to = copy;
    return NULL;
}

/* A tensor of the adapter's file: kernels read typed pointers, and a foreign file promises no alignment. */
static fh1_status aligned(attachment *t, const fh1_tensor *from, fh1_tensor *to)
{
    *to = *from;
    if (!from->data || (uintptr_t)from->data % (size_t)(fh1_dtype_bits(from->dtype) / 8) == 0) return NULL;
    return copy_tensor(t, from, from->dtype, to);
}

static fh1_status check_shape(const char *name, const fh1_tensor *found, const fh1_tensor *want)
{
    char a[160], b[160];
    if (!fh1_dtype_is_float(found->dtype) || !fh1_is_dense(found))
        return fh1_found(fh1_where(FH1_BAD("a tensor of the adapter has no float type"), "%s", name), "%s",
                         fh1_dtype_name(found->dtype));
    if (fh1_same_shape(found, want)) return NULL;
    fh1_status s = fh1_where(FH1_BAD("a tensor of the adapter does not fit the model"), "%s", name);
    s = fh1_expected(s, "%s", fh1_shape_text(want, a, sizeof a));
    return fh1_found(s, "%s", fh1_shape_text(found, b, sizeof b));
}

static fh1_status unknown(const char *name)
{
    return fh1_where(FH1_BAD("the adapter changes what this model does not have"), "%s", name);
}

/* The other end of a tied model, NULL where the name is not an end or nothing is tied. */
static fh1_tensor *other_end(fh1_model *m, const char *name)
{
    if (!m->config.tied) return NULL;
    if (strcmp(name, fh1_embed_weight(m->config.family)) == 0) return &m->lm_head;
    return strcmp(name, HEAD ".weight") == 0 ? &m->embed : NULL;
}

static fh1_status replace(fh1_model *m, attachment *t, const cvt_adapter *a, const cvt_replacement *r, cvt_attach_as as)
{
    fh1_tensor *slot = fh1_model_slot(m, r->name), *other = other_end(m, r->name);
    if (!slot) return unknown(r->name);
    FH1_TRY(check_shape(r->name, &r->t, slot));
    if (r->t.dtype == slot->dtype || as == CVT_ATTACH_EXACT) FH1_TRY(aligned(t, &r->t, slot));
    else FH1_TRY(copy_tensor(t, &r->t, slot->dtype, slot));
    if (other && (!r->copy || a->ensure_weight_tying)) *other = *slot;
    return NULL;
}

static fh1_status replace_rows(fh1_model *m, attachment *t, const cvt_token_rows *r, cvt_attach_as as)
{
    char name[256];
    snprintf(name, sizeof name, "%s.weight", r->module);
    fh1_tensor *slot = fh1_model_slot(m, name), copy;
    if (!slot || slot->rank != 2) return unknown(r->module);
    const fh1_tensor want = fh1_view2(NULL, FH1_F32, r->n, slot->shape[1]);
    FH1_TRY(check_shape(r->module, &r->values, &want));
    const bool wider = as == CVT_ATTACH_EXACT && fh1_dtype_bits(r->values.dtype) > fh1_dtype_bits(slot->dtype);
    FH1_TRY(copy_tensor(t, slot, wider ? r->values.dtype : slot->dtype, &copy));
    for (int64_t i = 0; i < r->n; i++) {
        if (r->rows[i] < 0 || r->rows[i] >= slot->shape[0])
            return fh1_where(FH1_BAD("a trained token id lies outside the table: %lld", (long long)r->rows[i]), "%s",
                             r->module);
        for (int64_t d = 0; d < slot->shape[1]; d++)
            fh1_set(&copy, r->rows[i] * slot->shape[1] + d, fh1_get(&r->values, i * slot->shape[1] + d));
    }
    *slot = copy;
    return NULL;
}

/* Where a low-rank pair goes: the weight, and the list that it joins. */
typedef struct {
    fh1_tensor *w;
    fh1_lora **list;
    int64_t in, out;
} place;

/* A product's tap bears the name of its module, but for the head, and dt_proj of Falcon-Mamba, whose output goes on
 * through softplus before it is the tap ….dt. */
static bool find_product(const fh1_model *m, const char *module, fh1_tap_id *id, int64_t *layer)
{
    static const char dt_proj[] = ".mixer.dt_proj";
    char tap[FH1_TAP_NAME_SIZE];
    *id = FH1_TAP_LOGITS;
    *layer = 0;
    if (strcmp(module, HEAD) == 0) return true;
    if (!cvt_has_suffix(module, dt_proj))
        return fh1_tap_parse(m->config.family, module, m->config.n_layers, id, layer) && fh1_tap_is_linear(*id);
    snprintf(tap, sizeof tap, "%.*s", (int)(strlen(module) - strlen("_proj")), module);
    return fh1_tap_parse(m->config.family, tap, m->config.n_layers, id, layer) && *id == FH1_TAP_DT;
}

static fh1_status find_place(fh1_model *m, const cvt_lora *l, place *p)
{
    fh1_tap_id id = FH1_TAP_LOGITS;
    int64_t layer = 0;
    if (l->embedding) {
        if (strcmp(l->module, fh1_embed_module(m->config.family)) != 0) return unknown(l->module);
        *p = (place){&m->embed, &m->embed_lora, m->embed.shape[0], m->embed.shape[1]};
        return NULL;
    }
    if (!find_product(m, l->module, &id, &layer)) return unknown(l->module);
    const fh1_linear x = fh1_model_linear(m, id, layer);
    *p = (place){x.w, x.lora, x.w->shape[1], x.w->shape[0]};
    return NULL;
}

static fh1_status check_pair(const cvt_lora *l, const place *p)
{
    const fh1_tensor A = fh1_view2(NULL, FH1_F32, l->r, p->in), B = fh1_view2(NULL, FH1_F32, p->out, l->r);
    const fh1_tensor row = fh1_view1(NULL, FH1_F32, p->out);
    FH1_TRY(check_shape(l->module, &l->A, &A));
    FH1_TRY(check_shape(l->module, &l->B, &B));
    if (l->bias.data) FH1_TRY(check_shape(l->module, &l->bias, &row));
    if (l->magnitude.data) FH1_TRY(check_shape(l->module, &l->magnitude, &row));
    if (*p->list && l->magnitude.data)
        return fh1_hint(fh1_where(FH1_BAD("DoRA cannot follow another adapter on the same module"), "%s", l->module),
                        "name the DoRA adapter first: its norm is that of the base's weights");
    return NULL;
}

/* W = R(W + R(s·B·A)), as PEFT computes a parameter whenever it is read: D in f32, then in the parameter's type. */
static fh1_status change_parameter(attachment *t, const cvt_lora *l, double scale, fh1_tensor *slot)
{
    fh1_tensor sum;
    FH1_TRY(copy_tensor(t, slot, slot->dtype, &sum));
    const int64_t out = slot->shape[0], in = slot->shape[1];
    const size_t bytes = (size_t)(l->r + 1) * (size_t)in * sizeof(double);
    double *A = malloc(bytes), *D = A ? A + l->r * in : NULL;
    if (!A) return fh1_no_memory(bytes, "an adapter");
    fh1_to_f64(A, l->A.data, l->A.dtype, l->r * in);
    for (int64_t n = 0; n < out; n++) {
        memset(D, 0, (size_t)in * sizeof *D);
        for (int64_t k = 0; k < l->r; k++)
            for (int64_t i = 0; i < in; i++) D[i] += fh1_get(&l->B, n * l->r + k) * A[k * in + i];
        for (int64_t i = 0; i < in; i++) {
            fh1_tensor d = fh1_view1(&D[i], sum.dtype, 1); /* rounded in its place: R(D) */
            fh1_set(&d, 0, (double)((float)D[i] * (float)scale));
            fh1_set(&sum, n * in + i, (double)((float)fh1_get(&sum, n * in + i) + (float)fh1_get(&d, 0)));
        }
    }
    free(A);
    *slot = sum;
    return NULL;
}

static fh1_status attach_pair(fh1_model *m, attachment *t, const cvt_lora *l, double weight, cvt_attach_as as)
{
    place p = {0};
    void *block;
    FH1_TRY(find_place(m, l, &p));
    FH1_TRY(check_pair(l, &p));
    if (l->parameter && as != CVT_ATTACH_EXACT) return change_parameter(t, l, l->scale * weight, p.w);
    if (l->scale * weight == 0 && !l->magnitude.data) return NULL; /* adds nothing */
    FH1_TRY(take(t, sizeof(fh1_lora), &block));
    fh1_lora *x = block;
    fh1_tensor magnitude = l->magnitude;
    x->scale = l->scale * weight;
    if (as == CVT_ATTACH_BASE_DTYPE) {
        FH1_TRY(copy_tensor(t, &l->A, p.w->dtype, &x->A));
        FH1_TRY(copy_tensor(t, &l->B, p.w->dtype, &x->B));
        if (l->bias.data) FH1_TRY(copy_tensor(t, &l->bias, p.w->dtype, &x->bias));
        if (l->magnitude.data) FH1_TRY(copy_tensor(t, &l->magnitude, p.w->dtype, &magnitude));
    } else {
        FH1_TRY(aligned(t, &l->A, &x->A));
        FH1_TRY(aligned(t, &l->B, &x->B));
        FH1_TRY(aligned(t, &l->bias, &x->bias));
    }
    if (l->magnitude.data) {
        FH1_TRY(take(t, (size_t)(2 * p.out) * sizeof(double), &block));
        double *f = block;
        fh1_status s = cvt_dora_factors(x, p.w, l->embedding, &magnitude, f, f + p.out);
        if (s) return fh1_where(s, "%s", l->module);
        x->f = f;
        x->f_terms = f + p.out;
    }
    while (*p.list) p.list = &(*p.list)->next;
    *p.list = x;
    return NULL;
}

fh1_status cvt_model_attach(fh1_model *m, const cvt_adapter *a, double weight, cvt_attach_as as)
{
    attachment *t;
    fh1_status s = attachment_of(m, &t);
    for (int64_t i = 0; i < a->n_replacements && !s; i++) s = replace(m, t, a, &a->replacements[i], as);
    for (int64_t i = 0; i < a->n_tokens && !s; i++) s = replace_rows(m, t, &a->tokens[i], as);
    /* last: a norm of DoRA is that of the replaced weight */
    for (int64_t i = 0; i < a->n_loras && !s; i++) s = attach_pair(m, t, &a->loras[i], weight, as);
    return s ? fh1_where(s, "%s", a->path) : NULL;
}

static fh1_status attach_folder(const cvt_attach *a, int i, cvt_ckpt *base, fh1_model *m, cvt_adapter *to)
{
    FH1_TRY(cvt_adapter_open(a->adapters[i], a->initial, base, to));
    attachment *t = m->owner;
    t->n_adapters++;
    for (int k = 0; a->warn && k < to->n_warnings; k++) a->warn(a->adapters[i], to->warnings[k]);
    return cvt_model_attach(m, to, a->weights ? a->weights[i] : 1, a->as);
}

fh1_status cvt_model_open_attached(const char *path, const cvt_attach *a, fh1_model *out)
{
    attachment *t;
    cvt_ckpt *opened = NULL, *base = a->base;
    FH1_TRY(base ? cvt_model_from_ckpt(base, out) : cvt_model_open(path, out));
    if (a->n == 0) return NULL;
    fh1_status s = attachment_of(out, &t);
    if (!s && !(t->adapters = calloc((size_t)a->n, sizeof *t->adapters)))
        s = fh1_no_memory((size_t)a->n * sizeof *t->adapters, "adapters");
    if (!s && !base) {
        s = cvt_ckpt_open(path, &opened);
        base = opened;
    }
    for (int i = 0; i < a->n && !s; i++) s = attach_folder(a, i, base, out, &t->adapters[i]);
    cvt_ckpt_close(opened);
    if (s) fh1_model_free(out);
    return s;
}
