/* Laws of the 14 multipliers and of the checkpoint: doubling a multiplier is doubling certain weights, bit for bit
 * since powers of two are exact; every number of the checkpoint is read; groups are neighbouring heads. */
#include "tests/tiny_model.h"

#include <stddef.h>

enum { T = 8 };
static int64_t ids[T];

static const struct {
    const char *name;
    size_t offset; /* in fh1_config */
} multiplier[14] = {
    {"embedding_multiplier", offsetof(fh1_config, m_emb)},
    {"lm_head_multiplier", offsetof(fh1_config, m_lm)},
    {"key_multiplier", offsetof(fh1_config, m_key)},
    {"attention_in_multiplier", offsetof(fh1_config, m_attn_in)},
    {"attention_out_multiplier", offsetof(fh1_config, m_attn_out)},
    {"ssm_in_multiplier", offsetof(fh1_config, m_ssm_in)},
    {"ssm_out_multiplier", offsetof(fh1_config, m_ssm_out)},
    {"mlp_multipliers[0]", offsetof(fh1_config, m_gate)},
    {"mlp_multipliers[1]", offsetof(fh1_config, m_down)},
    {"ssm_multipliers[0]", offsetof(fh1_config, m_ssm)},
    {"ssm_multipliers[1]", offsetof(fh1_config, m_ssm) + 8},
    {"ssm_multipliers[2]", offsetof(fh1_config, m_ssm) + 16},
    {"ssm_multipliers[3]", offsetof(fh1_config, m_ssm) + 24},
    {"ssm_multipliers[4]", offsetof(fh1_config, m_ssm) + 32},
};

/* What stands for each multiplier: these weights doubled. */
static const struct {
    int at; /* in multiplier[] */
    const char *weight[4];
    int segment; /* z x B C dt: rows of in_proj; -1: all rows */
} closed_form[] = {
    {0, {"embed_tokens.weight"}, -1},
    {1, {"lm_head.weight"}, -1},
    {2, {"k_proj.weight", "k_proj.bias"}, -1},
    {3, {"q_proj.weight", "k_proj.weight", "v_proj.weight"}, -1}, /* the biases come behind the product */
    {4, {"o_proj.weight", "o_proj.bias"}, -1},
    {5, {"in_proj.weight"}, -1},
    {6, {"out_proj.weight", "out_proj.bias"}, -1},
    {7, {"gate_proj.weight", "gate_proj.bias"}, -1},
    {8, {"down_proj.weight", "down_proj.bias"}, -1},
    {9, {"in_proj.weight", "in_proj.bias"}, 0},
    {10, {"in_proj.weight", "in_proj.bias"}, 1},
    {11, {"in_proj.weight", "in_proj.bias"}, 2},
    {12, {"in_proj.weight", "in_proj.bias"}, 3},
    {13, {"in_proj.weight", "in_proj.bias"}, 4},
};

/* Every kind with a head of its own, so that embedding and head can be scaled apart. */
static fh1_config untied(int kind)
{
    fh1_config c = tiny_config(kind);
    c.tied = false;
    return c;
}

static double *field(fh1_config *c, size_t offset)
{
    return (double *)(void *)((char *)c + offset);
}

static void segment_rows(const fh1_config *c, int segment, int64_t *begin, int64_t *end)
{
    const int64_t GN = c->G * c->N, width[5] = {c->d_ssm, c->d_ssm, GN, GN, c->H};
    *begin = 0;
    *end = -1;
    if (segment < 0) return;
    for (int s = 0; s < segment; ++s) *begin += width[s];
    *end = *begin + width[segment];
}

/* The session of a model with multiplier `i` times 2 (i < 0: none). */
static tiny_session doubled(fh1_model *m, int kind, int i)
{
    fh1_config c = untied(kind);
    if (i >= 0) *field(&c, multiplier[i].offset) *= 2;
    tiny_build(m, &c, tiny_dtype(kind), 7);
    tiny_ids(20, T, ids);
    return tiny_solo(m, "ref-f64", ids, T);
}

START_TEST(every_multiplier_counts)
{
    fh1_model plain, m;
    tiny_session a = doubled(&plain, _i, -1);
    for (int i = 0; i < 14; ++i) {
        tiny_session b = doubled(&m, _i, i);
        TINY_BREAKS(tiny_gap_logits(&b, 0, 0, &a, 0), "%s doubled", multiplier[i].name);
        tiny_close(&b);
        fh1_model_free(&m);
    }
    tiny_close(&a);
    fh1_model_free(&plain);
}
END_TEST

/* The first n_weights weights of a closed form doubled, segments `shift` rows beside their place. */
static tiny_session doubled_weights(fh1_model *m, int kind, size_t k, int n_weights, int64_t shift)
{
    const fh1_config c = untied(kind);
    int64_t begin, end;
    tiny_build(m, &c, tiny_dtype(kind), 7);
    segment_rows(&c, closed_form[k].segment, &begin, &end);
    for (int w = 0; w < n_weights && closed_form[k].weight[w]; ++w)
        tiny_scale_rows(m, closed_form[k].weight[w], begin + shift, end < 0 ? end : end + shift, 2);
    return tiny_solo(m, "ref-f64", ids, T);
}

static bool has_weight(const fh1_model *m, const char *name_end)
{
    for (int64_t i = 0; name_end && i < m->n_weights; ++i)
        if (tiny_ends(m->weights[i].name, name_end)) return true;
    return false;
}

START_TEST(doubling_a_multiplier_doubles_weights)
{
    for (size_t k = 0; k < sizeof closed_form / sizeof *closed_form; ++k) {
        const char *name = multiplier[closed_form[k].at].name;
        fh1_model by_config, by_weights, m;
        tiny_session a = doubled(&by_config, _i, closed_form[k].at), b = doubled_weights(&by_weights, _i, k, 4, 0);
        ck_assert_msg(tiny_same(&b, 0, &a, 0), "%s: gap %g", name, tiny_gap(&b, 0, &a, 0));
        if (has_weight(&by_config, closed_form[k].weight[1])) { /* a bias, or one of three products, forgotten */
            tiny_session wrong = doubled_weights(&m, _i, k, 1, 0);
            TINY_BREAKS(tiny_gap(&wrong, 0, &a, 0), "%s, first weight only", name);
            tiny_close(&wrong);
            fh1_model_free(&m);
        }
        if (closed_form[k].segment > 0) {
            tiny_session wrong = doubled_weights(&m, _i, k, 4, -1);
            TINY_BREAKS(tiny_gap(&wrong, 0, &a, 0), "%s, segment one row early", name);
            tiny_close(&wrong);
            fh1_model_free(&m);
        }
        tiny_close(&a);
        tiny_close(&b);
        fh1_model_free(&by_config);
        fh1_model_free(&by_weights);
    }
}
END_TEST

/* Logits are linear in lm_head_multiplier, and nothing else depends on it. */
START_TEST(lm_head_multiplier_scales_logits)
{
    fh1_model plain, m;
    tiny_session a = doubled(&plain, _i, -1), b = doubled(&m, _i, 1);
    for (int64_t i = 0; i < T * TINY_V; ++i) a.logits[0][i] *= 2;
    ck_assert(tiny_same(&b, 0, &a, 0));
    tiny_close(&a);
    tiny_close(&b);
    fh1_model_free(&plain);
    fh1_model_free(&m);
}
END_TEST

START_TEST(segments_are_not_interchangeable)
{
    fh1_model plain, m;
    tiny_session a = doubled(&plain, _i, -1);
    for (int s = 0; s < 5; ++s)
        for (int t = s + 1; t < 5; ++t) {
            fh1_config c = untied(_i);
            c.m_ssm[s] = plain.config.m_ssm[t];
            c.m_ssm[t] = plain.config.m_ssm[s];
            tiny_build(&m, &c, tiny_dtype(_i), 7);
            tiny_session b = tiny_solo(&m, "ref-f64", ids, T);
            TINY_BREAKS(tiny_gap_logits(&b, 0, 0, &a, 0), "segments %d and %d swapped", s, t);
            tiny_close(&b);
            fh1_model_free(&m);
        }
    tiny_close(&a);
    fh1_model_free(&plain);
}
END_TEST

/* The first and the last element of every tensor. dt is left unclamped and every id of the vocabulary is spoken. */
START_TEST(every_tensor_is_read)
{
    int64_t all[TINY_V];
    fh1_model m;
    fh1_config c = tiny_config(_i);
    c.dt_lo = 0, c.dt_hi = INFINITY;
    tiny_build(&m, &c, FH1_F32, 7);
    for (int64_t i = 0; i < TINY_V; ++i) all[i] = (7 * i) % TINY_V;
    tiny_session a = tiny_solo(&m, "ref-f64", all, TINY_V);
    for (int64_t w = 0; w < m.n_weights; ++w) {
        fh1_tensor *t = &m.weights[w].t;
        const int64_t end[2] = {0, fh1_n_elems(t) - 1};
        for (int k = 0; k < 2; ++k) {
            const double was = fh1_get(t, end[k]);
            fh1_set(t, end[k], was + 0.25);
            tiny_session b = tiny_solo(&m, "ref-f64", all, TINY_V);
            TINY_BREAKS(tiny_gap_logits(&b, 0, 0, &a, 0), "%s[%lld]", m.weights[w].name, (long long)end[k]);
            tiny_close(&b);
            fh1_set(t, end[k], was);
        }
    }
    tiny_session again = tiny_solo(&m, "ref-f64", all, TINY_V); /* nothing else moved meanwhile */
    ck_assert(tiny_same(&again, 0, &a, 0));
    tiny_close(&a);
    tiny_close(&again);
    fh1_model_free(&m);
}
END_TEST

/* Of layer 0's tap, [T, heads, width]: whether any number of that head differs between two tapes. */
static bool head_moved(const tiny_tape *a, const tiny_tape *b, fh1_tap_id id, int64_t heads, int64_t h)
{
    const int64_t width = a->n[id] / T / heads;
    double gap = 0;
    for (int64_t t = 0; t < T; ++t)
        for (int64_t i = (t * heads + h) * width; i < (t * heads + h + 1) * width; ++i)
            gap = fmax(gap, fh1_error_of(a->v[id][i], b->v[id][i]));
    return !fh1_within(gap, 0);
}

static tiny_tape taped(const fh1_model *m)
{
    tiny_ids(21, T, ids);
    tiny_session s = tiny_open(m, "ref-f64", 0, 1);
    tiny_tape tape = tiny_taped_call(&s, &(fh1_batch){.B = 1, .T = T, .ids = ids});
    tiny_close(&s);
    return tape;
}

/* Rows [begin, end) of a weight come in blocks of `block` rows that belong to `groups` groups in turn; each group
 * reaches heads/groups neighbouring heads of a tap and no other. */
static void check_runs(int kind, const char *weight, int64_t begin, int64_t end, int64_t block, int64_t groups,
                       fh1_tap_id id, int64_t heads)
{
    fh1_model m, other;
    tiny_build_kind(&m, kind);
    tiny_tape before = taped(&m);
    for (int64_t row = begin; row < end; ++row) {
        tiny_build_kind(&other, kind);
        tiny_scale_rows(&other, weight, row, row + 1, 1.5);
        tiny_tape after = taped(&other);
        const int64_t g = (row - begin) / block % groups;
        for (int64_t h = 0; h < heads; ++h)
            ck_assert_msg(head_moved(&after, &before, id, heads, h) == (h / (heads / groups) == g),
                          "%s row %d, head %d", weight, (int)row, (int)h);
        tiny_tape_free(&after);
        fh1_model_free(&other);
    }
    tiny_tape_free(&before);
    fh1_model_free(&m);
}

/* Groups interleave (0 0 0 1 1 1), they do not tile (0 1 0 1 0 1): B and C of the mixer, keys and values. */
START_TEST(a_group_is_a_run_of_heads)
{
    const fh1_config c = tiny_config(_i);
    const int64_t B = 2 * c.d_ssm, GN = c.G * c.N;
    check_runs(_i, "in_proj.weight", B, B + 2 * GN, c.N, c.G, FH1_TAP_SSD, c.H);
    check_runs(_i, "k_proj.weight", 0, c.Hkv * c.A, c.A, c.Hkv, FH1_TAP_CONTEXT, c.Hq);
    check_runs(_i, "v_proj.weight", 0, c.Hkv * c.A, c.A, c.Hkv, FH1_TAP_CONTEXT, c.Hq);
}
END_TEST

int main(void)
{
    TCase *tc = tcase_create("multipliers");
    tcase_add_loop_test(tc, every_multiplier_counts, 0, TINY_KINDS);
    tcase_add_loop_test(tc, doubling_a_multiplier_doubles_weights, 0, TINY_KINDS);
    tcase_add_loop_test(tc, lm_head_multiplier_scales_logits, 0, TINY_KINDS);
    tcase_add_loop_test(tc, segments_are_not_interchangeable, 0, TINY_KINDS);
    tcase_add_loop_test(tc, every_tensor_is_read, 0, TINY_KINDS);
    tcase_add_loop_test(tc, a_group_is_a_run_of_heads, 0, TINY_KINDS);
    return tiny_main(suite_create("laws_multipliers"), tc);
}
