/* Weights from the model's views to the device: a list of blocks, each one allocation made of one or more tensors that
 * lie behind one another, and one loop that fills them. */
#include "cuda/weights.h"

#include "cuda/upload.h"

extern "C" {
#include "oracle/thread.h"
}

namespace CU_NS
{

namespace
{

enum block_kind { MATRIX, VECTOR, DECAY }; /* as the contract stores it; f32; f32 of -exp */

struct block {
    const void **at; /* where its address on the device goes */
    block_kind kind;
    int n_parts;
    fh1_tensor part[4]; /* data NULL: zeros */
};

typedef fh1_status (*block_visit)(void *user, const block *b);

const size_t STAGING = size_t{64} << 20;

int64_t block_elems(const block *b)
{
    int64_t n = 0;
    for (int i = 0; i < b->n_parts; ++i) n += fh1_n_elems(&b->part[i]);
    return n;
}

size_t elem_bytes(const block *b, cu_type type)
{
    return b->kind == MATRIX ? cu_size(type) : sizeof(float);
}

/* A bias of n outputs, or zeros. */
fh1_tensor bias_or_zeros(const fh1_tensor &b, int64_t n)
{
    return b.data ? b : fh1_view1(nullptr, FH1_F32, n);
}

fh1_status one(block_visit visit, void *user, const void **at, block_kind kind, const fh1_tensor &t)
{
    *at = nullptr;
    if (!t.data) return NULL;
    block b = {at, kind, 1, {t}};
    return visit(user, &b);
}

fh1_status one(block_visit visit, void *user, const float **at, block_kind kind, const fh1_tensor &t)
{
    return one(visit, user, reinterpret_cast<const void **>(at), kind, t);
}

fh1_status visit_fused(const fh1_config *c, const fh1_layer *l, cu_layer *d, block_visit visit, void *user)
{
    const int64_t in = fh1_in_proj_dim(c), q = c->Hq * c->A, kv = c->Hkv * c->A;
    const int parts = c->Hq ? 4 : 1; /* no attention: in_proj alone */
    const block in_qkv = {&d->in_qkv, MATRIX, parts, {l->in_w, l->q_w, l->k_w, l->v_w}};
    const block in_qkv_b = {
        reinterpret_cast<const void **>(&d->in_qkv_b),
        VECTOR,
        parts,
        {bias_or_zeros(l->in_b, in), bias_or_zeros(l->q_b, q), bias_or_zeros(l->k_b, kv), bias_or_zeros(l->v_b, kv)}};
    const block gate_up = {&d->gate_up, MATRIX, 2, {l->gate_w, l->up_w}};
    const block gate_up_b = {reinterpret_cast<const void **>(&d->gate_up_b),
                             VECTOR,
                             2,
                             {bias_or_zeros(l->gate_b, c->F), bias_or_zeros(l->up_b, c->F)}};
    d->in_qkv_b = d->gate_up_b = nullptr;
    d->gate_up = nullptr;
    FH1_TRY(visit(user, &in_qkv));
    if (l->in_b.data || l->q_b.data || l->k_b.data || l->v_b.data) FH1_TRY(visit(user, &in_qkv_b));
    if (!c->F) return NULL;
    FH1_TRY(visit(user, &gate_up));
    if (l->gate_b.data || l->up_b.data) FH1_TRY(visit(user, &gate_up_b));
    return NULL;
}

fh1_status visit_layer(const fh1_config *c, const fh1_layer *l, cu_layer *d, block_visit visit, void *user)
{
    FH1_TRY(one(visit, user, &d->input_layernorm, VECTOR, l->input_layernorm));
    FH1_TRY(visit_fused(c, l, d, visit, user));
    FH1_TRY(one(visit, user, &d->conv_w, VECTOR, l->conv_w));
    FH1_TRY(one(visit, user, &d->conv_b, VECTOR, l->conv_b));
    FH1_TRY(one(visit, user, &d->x_proj, MATRIX, l->x_w));
    FH1_TRY(one(visit, user, &d->dt_proj, MATRIX, l->dt_w));
    FH1_TRY(one(visit, user, &d->dt_bias, VECTOR, l->dt_bias));
    FH1_TRY(one(visit, user, &d->A, DECAY, l->A_log));
    FH1_TRY(one(visit, user, &d->D, VECTOR, l->D));
    FH1_TRY(one(visit, user, &d->norm, VECTOR, l->norm));
    FH1_TRY(one(visit, user, &d->out, MATRIX, l->out_w));
    FH1_TRY(one(visit, user, &d->out_b, VECTOR, l->out_b));
    FH1_TRY(one(visit, user, &d->o, MATRIX, l->o_w));
    FH1_TRY(one(visit, user, &d->o_b, VECTOR, l->o_b));
    FH1_TRY(one(visit, user, &d->attn_layernorm, VECTOR, l->attn_layernorm));
    FH1_TRY(one(visit, user, &d->pre_ff_layernorm, VECTOR, l->pre_ff_layernorm));
    FH1_TRY(one(visit, user, &d->down, MATRIX, l->down_w));
    return one(visit, user, &d->down_b, VECTOR, l->down_b);
}

/* Every block, in the order in which files have them. w->layers NULL: sizes only. */
fh1_status visit_blocks(const fh1_model *m, cu_weights *w, block_visit visit, void *user)
{
    cu_layer none;
    FH1_TRY(one(visit, user, &w->embed, MATRIX, m->embed));
    for (int64_t i = 0; i < m->config.n_layers; ++i)
        FH1_TRY(visit_layer(&m->config, &m->layers[i], w->layers ? &w->layers[i] : &none, visit, user));
    FH1_TRY(one(visit, user, &w->final_layernorm, VECTOR, m->final_layernorm));
    const bool tied = m->config.tied && m->lm_head.data == m->embed.data;
    if (!tied) return one(visit, user, &w->lm_head, MATRIX, m->lm_head);
    w->lm_head = w->embed;
    return NULL;
}

/* ---- sizes ---- */

struct sizes {
    cu_type type;
    size_t total, largest;
    int64_t n;
};

fh1_status add_size(void *user, const block *b)
{
    sizes *s = static_cast<sizes *>(user);
    const size_t n = static_cast<size_t>(block_elems(b)) * elem_bytes(b, s->type);
    s->total += n;
    if (s->largest < n) s->largest = n;
    s->n++;
    return NULL;
}

bool rope_is_fixed(const fh1_config *c)
{
    return c->rope.type != FH1_ROPE_DYNAMIC && c->rope.type != FH1_ROPE_LONGROPE;
}

sizes sizes_of(const fh1_model *m, cu_type type)
{
    sizes s = {type, 0, 0, 0};
    cu_weights w = {};
    visit_blocks(m, &w, add_size, &s); /* add_size never fails */
    if (rope_is_fixed(&m->config)) s.total += static_cast<size_t>(m->config.A / 2) * sizeof(double);
    s.n++;
    return s;
}

/* ---- filling a buffer ---- */

/* Elements [first, first + n) of a tensor, as the device stores them. */
struct filling {
    const fh1_tensor *t;
    block_kind kind;
    cu_type to;
    int64_t first;
    bool dense;
    void *out;
};

void fill_piece(void *ctx, int64_t begin, int64_t end, int)
{
    const filling *f = static_cast<const filling *>(ctx);
    const fh1_tensor *t = f->t;
    const int64_t first = f->first + begin, n = end - begin;
    const size_t width = static_cast<size_t>(fh1_dtype_bits(t->dtype)) / 8;
    const char *from = t->data ? static_cast<const char *>(t->data) + static_cast<size_t>(first) * width : nullptr;
    if (f->to == CU_BF16 && f->kind == MATRIX) {
        bf16 *out = static_cast<bf16 *>(f->out) + begin;
        if (!t->data) memset(static_cast<void *>(out), 0, static_cast<size_t>(n) * sizeof *out);
        else if (f->dense) memcpy(static_cast<void *>(out), from, static_cast<size_t>(n) * sizeof *out);
        else /* exact: it is a bf16 */
            for (int64_t i = 0; i < n; ++i) out[i] = __float2bfloat16_rn(static_cast<float>(fh1_get(t, first + i)));
        return;
    }
    float *out = static_cast<float *>(f->out) + begin;
    if (!t->data) memset(out, 0, static_cast<size_t>(n) * sizeof *out);
    else if (f->kind == DECAY)
        for (int64_t i = 0; i < n; ++i) out[i] = static_cast<float>(-exp(fh1_get(t, first + i)));
    else if (f->dense) fh1_to_f32(out, from, t->dtype, n);
    else
        for (int64_t i = 0; i < n; ++i) out[i] = static_cast<float>(fh1_get(t, first + i));
}

/* ---- loading ---- */

struct owner {
    int64_t n;
    void *block[1]; /* as many as there are blocks */
};

struct loading {
    cu_weights *w;
    owner *own;
    cu_upload up;
    cu_load_options options;
    size_t done;
};

fh1_status new_block(loading *l, size_t bytes, void **out)
{
    *out = nullptr;
    CU_TRY(cudaMalloc(out, bytes ? bytes : 1), "the memory for the weights");
    l->own->block[l->own->n++] = *out;
    return NULL;
}

fh1_status send(loading *l, char **to, size_t n)
{
    FH1_TRY(cu_upload_send(&l->up, *to, n));
    *to += n;
    l->done += n;
    if (l->options.tell) l->options.tell(l->options.user, l->done, l->w->bytes);
    return NULL;
}

fh1_status load_block(void *user, const block *b)
{
    loading *l = static_cast<loading *>(user);
    const size_t e = elem_bytes(b, l->w->type);
    const int64_t room = static_cast<int64_t>(l->up.size / e);
    void *device, *buffer;
    FH1_TRY(new_block(l, static_cast<size_t>(block_elems(b)) * e, &device));
    *b->at = device;
    char *to = static_cast<char *>(device);
    for (int i = 0; i < b->n_parts; ++i) {
        const fh1_tensor *t = &b->part[i];
        const int64_t n = fh1_n_elems(t);
        if (b->kind == MATRIX && l->w->type == CU_BF16 && t->dtype != FH1_BF16)
            return fh1_fail(FH1_E_INTERNAL, "a matrix of a bf16 contract is stored as %s", fh1_dtype_name(t->dtype));
        for (int64_t at = 0; at < n; at += room) {
            const int64_t k = n - at < room ? n - at : room;
            FH1_TRY(cu_upload_take(&l->up, &buffer));
            filling f = {t, b->kind, l->w->type, at, fh1_is_dense(t), buffer};
            fh1_parallel_for(k, 1 << 18, fill_piece, &f);
            FH1_TRY(send(l, &to, static_cast<size_t>(k) * e));
        }
    }
    return NULL;
}

fh1_status load_frequencies(loading *l)
{
    cu_weights *w = l->w;
    const fh1_config *c = w->config;
    const int64_t n = c->A / 2;
    void *device, *buffer;
    w->inv_freq = nullptr;
    w->rope_scale = 1;
    if (!rope_is_fixed(c)) return NULL;
    FH1_TRY(new_block(l, static_cast<size_t>(n) * sizeof(double), &device));
    w->inv_freq = static_cast<const double *>(device);
    if (n == 0) return NULL;
    FH1_TRY(cu_upload_take(&l->up, &buffer));
    fh1_rope_frequencies(c, 0, static_cast<double *>(buffer), &w->rope_scale);
    char *to = static_cast<char *>(device);
    return send(l, &to, static_cast<size_t>(n) * sizeof(double));
}

fh1_status load_all(loading *l, const fh1_model *m, size_t staging, cudaStream_t stream)
{
    FH1_TRY(cu_upload_open(&l->up, staging, stream));
    FH1_TRY(visit_blocks(m, l->w, load_block, l));
    FH1_TRY(load_frequencies(l));
    return cu_upload_finish(&l->up);
}

} // namespace

size_t cu_weights_bytes(const fh1_model *m, cu_type type)
{
    return sizes_of(m, type).total;
}

fh1_status cu_weights_load(const fh1_model *m, cu_type type, cudaStream_t stream, cu_weights *out,
                           const cu_load_options *options)
{
    const sizes s = sizes_of(m, type);
    const size_t frequencies = static_cast<size_t>(m->config.A) / 2 * sizeof(double);
    size_t staging = s.largest < STAGING ? s.largest : STAGING;
    if (options && options->staging) staging = options->staging;
    if (staging < frequencies) staging = frequencies;
    *out = cu_weights{};
    out->type = type;
    out->config = &m->config;
    out->bytes = s.total;
    const size_t own_bytes = sizeof(owner) + static_cast<size_t>(s.n) * sizeof(void *);
    owner *own = static_cast<owner *>(calloc(1, own_bytes));
    out->owner = own;
    out->layers = static_cast<cu_layer *>(calloc(static_cast<size_t>(m->config.n_layers), sizeof *out->layers));
    fh1_status st = own && out->layers ? NULL : fh1_no_memory(own_bytes, "the table of weights");
    if (!st) {
        loading l = {out, own, {}, options ? *options : cu_load_options{}, 0};
        st = load_all(&l, m, staging, stream);
        cu_upload_close(&l.up);
    }
    if (st) cu_weights_free(out);
    return st;
}

void cu_weights_free(cu_weights *w)
{
    owner *own = static_cast<owner *>(w->owner);
    for (int64_t i = 0; own && i < own->n; ++i) cudaFree(own->block[i]);
    free(own);
    free(w->layers);
    *w = cu_weights{};
}

} // namespace CU_NS
