/* Weights on the device against the views they came from: every block, every stored type, every switch of a config, in
 * one piece and in many; and which contract the engine takes for a model. */
#include "cuda/weights.h"
#include "tests/cuda/harness.h"

extern "C" {
#include "tests/small_config.h"
}

namespace
{

/* Views into one buffer, one byte off every alignment, as a mapped file may have them. */
struct table {
    fh1_weight *w;
    int64_t n;
    std::vector<char> *data;
    fh1_dtype matrices, rest;
};

fh1_status add(void *user, const char *name, int rank, const int64_t *shape)
{
    table *t = static_cast<table *>(user);
    t->w = static_cast<fh1_weight *>(realloc(t->w, static_cast<size_t>(t->n + 1) * sizeof *t->w));
    fh1_tensor v = fh1_view(NULL, rank == 2 ? t->matrices : t->rest, rank, shape);
    v.data = reinterpret_cast<void *>(t->data->size()); /* until the buffer stands still */
    t->data->resize(t->data->size() + fh1_n_bytes(&v));
    t->w[t->n].name = strdup(name);
    t->w[t->n++].t = v;
    return NULL;
}

struct model {
    fh1_model m;
    std::vector<char> data;
};

fh1_config switched(unsigned bits)
{
    fh1_config c = small_config();
    c.attention_bias = bits & 1;
    c.mamba_proj_bias = bits & 2;
    c.mlp_bias = bits & 4;
    c.projectors_bias = bits & 8;
    c.mamba_conv_bias = bits & 16;
    c.mamba_rms_norm = bits & 32;
    c.tied = bits & 64;
    static const fh1_block blocks[] = {FH1_BLOCK_SA_M, FH1_BLOCK_SAM, FH1_BLOCK_S_A_M};
    c.block = blocks[bits % 3];
    return c;
}

fh1_config switched_mamba(unsigned bits)
{
    fh1_config c = small_mamba_config();
    c.mamba_proj_bias = c.projectors_bias = bits & 1;
    c.mamba_conv_bias = bits & 2;
    c.tied = bits & 4;
    return c;
}

void make(model *k, const fh1_config *c, fh1_dtype matrices, fh1_dtype rest)
{
    k->data.assign(1, 0);
    table t = {NULL, 0, &k->data, matrices, rest};
    good(fh1_config_weights(c, add, &t));
    for (int64_t i = 0; i < t.n; ++i) {
        fh1_tensor *v = &t.w[i].t;
        v->data = k->data.data() + reinterpret_cast<size_t>(v->data);
        const fh1_stream s = fh1_stream_open(7, t.w[i].name);
        for (int64_t e = 0; e < fh1_n_elems(v); ++e) fh1_set(v, e, fh1_random_normal(s, static_cast<uint64_t>(e)));
    }
    k->m = fh1_model{};
    good(fh1_model_bind(&k->m, c, t.w, t.n));
}

/* What the device should hold: parts behind one another, zeros for those that are absent. */
std::vector<float> expected(std::initializer_list<const fh1_tensor *> parts, const std::vector<int64_t> &n)
{
    std::vector<float> v;
    size_t i = 0;
    for (const fh1_tensor *t : parts) {
        const int64_t many = n.empty() ? fh1_n_elems(t) : n[i];
        for (int64_t e = 0; e < many; ++e) v.push_back(t->data ? static_cast<float>(fh1_get(t, e)) : 0.f);
        ++i;
    }
    return v;
}

bool same(const std::vector<float> &a, const std::vector<float> &b)
{
    return a.size() == b.size() && (a.empty() || memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0);
}

bool holds(cu_type type, const void *p, std::initializer_list<const fh1_tensor *> parts)
{
    if (!(*parts.begin())->data) return p == NULL; /* the family has no such matrix */
    const std::vector<float> want = expected(parts, {});
    return same(from_device(type, p, want.size()), want);
}

/* A small parameter: NULL exactly where the model has none. */
bool vector_holds(const float *p, const fh1_tensor *t)
{
    if (!t->data) return p == NULL;
    return p && holds(CU_F32, p, {t});
}

bool bias_holds(const float *p, std::initializer_list<const fh1_tensor *> parts, const std::vector<int64_t> &n)
{
    bool any = false;
    for (const fh1_tensor *t : parts) any |= t->data != NULL;
    if (!any) return p == NULL;
    const std::vector<float> want = expected(parts, n);
    return p && same(from_device(p, want.size()), want);
}

/* The first block of a layer that is wrong, NULL: none. */
const char *wrong_in_layer(const fh1_config *c, cu_type type, const fh1_layer *l, const cu_layer *d)
{
    const int64_t q = c->Hq * c->A, kv = c->Hkv * c->A;
    const bool alone = c->family == FH1_FALCON_MAMBA;
    if (alone ? !holds(type, d->in_qkv, {&l->in_w}) : !holds(type, d->in_qkv, {&l->in_w, &l->q_w, &l->k_w, &l->v_w}))
        return "in_qkv";
    if (!bias_holds(d->in_qkv_b, {&l->in_b, &l->q_b, &l->k_b, &l->v_b}, {fh1_in_proj_dim(c), q, kv, kv}))
        return "in_qkv_b";
    if (!holds(type, d->x_proj, {&l->x_w}) || !holds(type, d->dt_proj, {&l->dt_w})) return "x_proj, dt_proj";
    if (!holds(type, d->gate_up, {&l->gate_w, &l->up_w})) return "gate_up";
    if (!bias_holds(d->gate_up_b, {&l->gate_b, &l->up_b}, {c->F, c->F})) return "gate_up_b";
    if (!holds(type, d->out, {&l->out_w}) || !holds(type, d->o, {&l->o_w})) return "out, o";
    if (!holds(type, d->down, {&l->down_w})) return "down";
    const fh1_tensor *small[] = {&l->input_layernorm,
                                 &l->attn_layernorm,
                                 &l->pre_ff_layernorm,
                                 &l->conv_w,
                                 &l->conv_b,
                                 &l->dt_bias,
                                 &l->D,
                                 &l->norm,
                                 &l->out_b,
                                 &l->o_b,
                                 &l->down_b};
    const float *at[] = {d->input_layernorm,
                         d->attn_layernorm,
                         d->pre_ff_layernorm,
                         d->conv_w,
                         d->conv_b,
                         d->dt_bias,
                         d->D,
                         d->norm,
                         d->out_b,
                         d->o_b,
                         d->down_b};
    for (int i = 0; i < 11; ++i)
        if (!vector_holds(at[i], small[i])) return "a small parameter";
    const std::vector<float> A = from_device(d->A, static_cast<size_t>(fh1_n_elems(&l->A_log)));
    for (size_t i = 0; i < A.size(); ++i)
        if (!(A[i] == static_cast<float>(-exp(fh1_get(&l->A_log, static_cast<int64_t>(i)))))) return "A";
    return NULL;
}

const char *wrong_in(const fh1_model *m, const cu_weights *w)
{
    const fh1_config *c = &m->config;
    if (!holds(w->type, w->embed, {&m->embed})) return "embed";
    if (c->tied != (w->lm_head == w->embed) || !holds(w->type, w->lm_head, {&m->lm_head})) return "lm_head";
    if (!holds(CU_F32, w->final_layernorm, {&m->final_layernorm})) return "final_layernorm";
    for (int64_t i = 0; i < c->n_layers; ++i) {
        const char *bad = wrong_in_layer(c, w->type, &m->layers[i], &w->layers[i]);
        if (bad) return bad;
    }
    std::vector<double> f(static_cast<size_t>(c->A / 2));
    double scale;
    if (c->A) fh1_rope_frequencies(c, 0, f.data(), &scale);
    else scale = 1;
    if (from_device(w->inv_freq, f.size()) != f || !(w->rope_scale == scale)) return "inv_freq";
    return NULL;
}

void tell(void *user, size_t done, size_t total)
{
    size_t *seen = static_cast<size_t *>(user);
    ck_assert(done > seen[0] && done <= total);
    seen[0] = done;
    seen[1] = total;
}

START_TEST(every_switch_and_type)
{
    static const fh1_dtype types[][2] = {
        {FH1_BF16, FH1_BF16}, {FH1_BF16, FH1_F32}, {FH1_F32, FH1_F32}, {FH1_F16, FH1_F16}, {FH1_F64, FH1_BF16}};
    cudaStream_t stream;
    good(cudaStreamCreate(&stream));
    for (unsigned bits = 0; bits < 128 + 8; bits += bits < 128 ? 1 + (bits % 3) : 1) {
        const fh1_config c = bits < 128 ? switched(bits) : switched_mamba(bits);
        const fh1_dtype *t = types[bits % 5];
        model k;
        make(&k, &c, t[0], t[1]);
        for (cu_type type : {CU_F32, CU_BF16}) {
            if (type == CU_BF16 && t[0] != FH1_BF16) continue;
            cu_weights w;
            size_t seen[2] = {0, 0};
            cu_load_options o = {tell, seen, bits % 2 ? size_t{72} : 0};
            good(cu_weights_load(&k.m, type, stream, &w, &o));
            const char *bad = wrong_in(&k.m, &w);
            ck_assert_msg(!bad, "switches %u, %s: %s", bits, fh1_dtype_name(t[0]), bad);
            ck_assert(seen[0] == w.bytes && seen[1] == w.bytes && w.bytes == cu_weights_bytes(&k.m, type));
            cu_weights_free(&w);
        }
        fh1_model_free(&k.m);
    }
    good(cudaStreamDestroy(stream));
}
END_TEST

/* The comparison sees one bit, a swapped pair of fused parts and a lost bias. */
START_TEST(mistakes_are_noticed)
{
    const fh1_config c = switched(1 | 32);
    model k;
    cu_weights w;
    make(&k, &c, FH1_BF16, FH1_BF16);
    good(cu_weights_load(&k.m, CU_BF16, nullptr, &w));
    ck_assert(!wrong_in(&k.m, &w));
    fh1_layer *l = &k.m.layers[1];
    const fh1_tensor kept = l->v_w;
    l->v_w = l->k_w;
    ck_assert_str_eq(wrong_in(&k.m, &w), "in_qkv");
    l->v_w = kept;
    static_cast<unsigned char *>(l->down_w.data)[3] ^= 1;
    ck_assert_str_eq(wrong_in(&k.m, &w), "down");
    static_cast<unsigned char *>(l->down_w.data)[3] ^= 1;
    const float *bias = w.layers[0].in_qkv_b;
    w.layers[0].in_qkv_b = NULL;
    ck_assert_str_eq(wrong_in(&k.m, &w), "in_qkv_b");
    w.layers[0].in_qkv_b = bias;
    cu_weights_free(&w);
    fh1_model_free(&k.m);
}
END_TEST

/* NaN, infinities and subnormals arrive as they are; a strided view is read by its strides. */
START_TEST(values_and_views_as_they_are)
{
    const fh1_config c = switched(64);
    model k;
    cu_weights w;
    for (fh1_dtype t : {FH1_BF16, FH1_F32}) {
        make(&k, &c, t, t);
        fh1_tensor *e = &k.m.embed;
        const double odd[] = {HUGE_VAL, -HUGE_VAL, -0.0, 0x1p-130};
        for (int i = 0; i < 4; ++i) fh1_set(e, i, odd[i]);
        fh1_set(&k.m.layers[0].q_w, 0, static_cast<double>(NAN));
        fh1_tensor *o = &k.m.layers[1].o_w; /* [11, 48] */
        o->stride[0] = 0;
        o->stride[1] = 2;
        const cu_type type = t == FH1_F32 ? CU_F32 : CU_BF16;
        good(cu_weights_load(&k.m, type, nullptr, &w));
        ck_assert(holds(type, w.embed, {e}) && holds(type, w.layers[1].o, {o}));
        const int64_t at = fh1_in_proj_dim(&c) * c.D;
        const std::vector<float> q = from_device(type, w.layers[0].in_qkv, static_cast<size_t>(at) + 1);
        ck_assert(std::isnan(q.back()) && !std::isnan(q[q.size() - 2]));
        cu_weights_free(&w);
        fh1_model_free(&k.m);
    }
}
END_TEST

START_TEST(frequencies_that_depend_on_the_call)
{
    fh1_config c = switched(0);
    c.rope.type = FH1_ROPE_DYNAMIC;
    c.rope.factor = 2;
    model k;
    cu_weights w;
    make(&k, &c, FH1_F32, FH1_F32);
    good(cu_weights_load(&k.m, CU_F32, nullptr, &w));
    ck_assert(!w.inv_freq && w.bytes == cu_weights_bytes(&k.m, CU_F32));
    cu_weights_free(&w);
    fh1_model_free(&k.m);
}
END_TEST

bool says(fh1_status s, const char *text)
{
    char line[1024];
    return s && s->code == FH1_E_INPUT && strstr(fh1_status_line(s, line, sizeof line), text);
}

START_TEST(contracts)
{
    const fh1_config c = switched(0);
    const fh1_profile *p, *fp32 = fh1_profile_find("fp32"), *narrow = fh1_profile_find("cuda-bf16");
    cu_type type;
    model k;
    make(&k, &c, FH1_BF16, FH1_F32);
    good(cu_contract(&k.m, NULL, &p, &type));
    ck_assert(p == narrow && type == CU_BF16);
    good(cu_contract(&k.m, fp32, &p, &type));
    ck_assert(p == fp32 && type == CU_F32);
    ck_assert(says(cu_contract(&k.m, fh1_profile_find("exact"), &p, &type), "cuda-bf16 or fp32"));
    ck_assert(says(cu_contract(&k.m, fh1_profile_find("hf-eager-bf16"), &p, &type), "hf-eager-bf16"));

    k.m.layers[1].down_w.dtype = FH1_F16; /* one matrix of another type */
    good(cu_contract(&k.m, NULL, &p, &type));
    ck_assert(p == fp32 && type == CU_F32);
    ck_assert(says(cu_contract(&k.m, narrow, &p, &type), "model.layers.1.feed_forward.down_proj.weight"));
    cu_weights w;
    ck_assert(cu_weights_load(&k.m, CU_BF16, nullptr, &w) != NULL && !w.owner && !w.layers);
    k.m.layers[1].down_w.dtype = FH1_BF16;
    k.m.lm_head.dtype = FH1_F16;
    ck_assert(says(cu_contract(&k.m, narrow, &p, &type), "lm_head.weight"));
    k.m.lm_head.dtype = FH1_BF16;

    fh1_lora lora = {};
    k.m.layers[0].lora[FH1_TAP_K_PROJ] = &lora;
    good(cu_contract(&k.m, NULL, &p, &type)); /* adapters are applied in f32 */
    ck_assert(p == fp32 && type == CU_F32);
    ck_assert(says(cu_contract(&k.m, narrow, &p, &type), "fh1 merge"));
    ck_assert(says(cu_contract(&k.m, narrow, &p, &type), "model.layers.0.self_attn.k_proj"));
    k.m.layers[0].lora[FH1_TAP_K_PROJ] = NULL;
    k.m.head_lora = &lora;
    ck_assert(says(cu_contract(&k.m, narrow, &p, &type), "lm_head"));
    k.m.head_lora = NULL;
    fh1_model_free(&k.m);

    const fh1_config mamba = switched_mamba(0); /* dt_proj has no tap of its own, and counts */
    make(&k, &mamba, FH1_BF16, FH1_F32);
    good(cu_contract(&k.m, NULL, &p, &type));
    ck_assert(p == narrow && type == CU_BF16);
    k.m.layers[1].dt_w.dtype = FH1_F16;
    good(cu_contract(&k.m, NULL, &p, &type));
    ck_assert(p == fp32 && type == CU_F32);
    ck_assert(says(cu_contract(&k.m, narrow, &p, &type), "backbone.layers.1.mixer.dt"));
    fh1_model_free(&k.m);
}
END_TEST

} // namespace

int main(void)
{
    TCase *t = tcase_create("weights");
    tcase_set_timeout(t, 120);
    tcase_add_test(t, every_switch_and_type);
    tcase_add_test(t, mistakes_are_noticed);
    tcase_add_test(t, values_and_views_as_they_are);
    tcase_add_test(t, frequencies_that_depend_on_the_call);
    tcase_add_test(t, contracts);
    Suite *s = suite_create("cu_weights");
    suite_add_tcase(s, t);
    return run_suite(s);
}
