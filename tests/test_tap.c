/* Tap names, their order, shapes and judged units. The whole list of a model is walked, so that a wrong
 * entry of the table cannot hide. */
#include "oracle/tap.h"
#include "tests/small_config.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>

enum { LAYERS = 12, N_TAPS = 2 + 24 * LAYERS + 2 + 4 * LAYERS + 1 };

typedef struct {
    fh1_tap_id id;
    int64_t layer;
} place;

/* Every tap of a model of LAYERS layers in the order of first divergence, spelled out here a second time. */
static int list_taps(place *out)
{
    int n = 0;
    out[n++] = (place){FH1_TAP_EMBED, 0};
    out[n++] = (place){FH1_TAP_INPUT, 0};
    for (int l = 0; l < LAYERS; l++)
        for (int id = FH1_TAP_INPUT_LAYERNORM; id <= FH1_TAP_LAYER; id++) out[n++] = (place){(fh1_tap_id)id, l};
    out[n++] = (place){FH1_TAP_FINAL_LAYERNORM, 0};
    out[n++] = (place){FH1_TAP_LOGITS, 0};
    for (int l = 0; l < LAYERS; l++)
        for (int id = FH1_TAP_CACHE_KEY; id <= FH1_TAP_CACHE_SSM; id++) out[n++] = (place){(fh1_tap_id)id, l};
    out[n++] = (place){FH1_TAP_LOSS, 0};
    return n;
}

START_TEST(order_is_dense_and_names_return)
{
    place all[N_TAPS];
    ck_assert_int_eq(list_taps(all), N_TAPS);
    for (int i = 0; i < N_TAPS; i++) {
        char name[FH1_TAP_NAME_SIZE];
        fh1_tap_id id;
        int64_t layer;
        fh1_tap_name(FH1_FALCON_H1, all[i].id, all[i].layer, name);
        ck_assert_int_eq(fh1_tap_order(NULL, all[i].id, all[i].layer, LAYERS), i);
        if (all[i].id == FH1_TAP_X_PROJ) continue; /* of the other family */
        ck_assert_msg(fh1_tap_parse(FH1_FALCON_H1, name, LAYERS, &id, &layer), "%s", name);
        ck_assert_int_eq(id, all[i].id);
        ck_assert_int_eq(layer, all[i].layer);
        ck_assert(*fh1_tap_definition(FH1_FALCON_H1, id));
        bool per_layer = all[i].layer > 0;
        if (per_layer) ck_assert(fh1_tap_is_per_layer(id));
        ck_assert_int_eq(fh1_tap_is_cache(id), strncmp(name, "cache.", 6) == 0);
    }
}
END_TEST

/* The table of the design, by hand. */
static const struct {
    const char *name;
    fh1_tap_id id;
    int64_t layer;
    int rank;
    int64_t shape[4]; /* B 3, T 7, T' 2, S 9, widths of small_config */
    int64_t units;
    const char *input; /* of a linear tap */
} table[] = {
    {"model.embed_tokens", FH1_TAP_EMBED, 0, 3, {3, 7, 11}, 11, NULL},
    {"model.layers.0.input", FH1_TAP_INPUT, 0, 3, {3, 7, 11}, 11, NULL},
    {"model.layers.11.input_layernorm", FH1_TAP_INPUT_LAYERNORM, 11, 3, {3, 7, 11}, 11, NULL},
    {"model.layers.3.self_attn.q_proj", FH1_TAP_Q_PROJ, 3, 3, {3, 7, 48}, 48, "model.layers.3.input_layernorm"},
    {"model.layers.3.self_attn.k_proj", FH1_TAP_K_PROJ, 3, 3, {3, 7, 16}, 16, "model.layers.3.input_layernorm"},
    {"model.layers.3.self_attn.v_proj", FH1_TAP_V_PROJ, 3, 3, {3, 7, 16}, 16, "model.layers.3.input_layernorm"},
    {"model.layers.3.self_attn.q_rope", FH1_TAP_Q_ROPE, 3, 4, {3, 7, 6, 8}, 6, NULL},
    {"model.layers.3.self_attn.k_rope", FH1_TAP_K_ROPE, 3, 4, {3, 7, 2, 8}, 2, NULL},
    {"model.layers.3.self_attn.context", FH1_TAP_CONTEXT, 3, 3, {3, 7, 48}, 6, NULL},
    {"model.layers.3.self_attn.o_proj", FH1_TAP_O_PROJ, 3, 3, {3, 7, 11}, 11, "model.layers.3.self_attn.context"},
    {"model.layers.0.mamba.in_proj", FH1_TAP_IN_PROJ, 0, 3, {3, 7, 48}, 48, "model.layers.0.input_layernorm"},
    {"model.layers.0.mamba.conv_act", FH1_TAP_CONV_ACT, 0, 3, {3, 7, 32}, 32, NULL},
    {"model.layers.0.mamba.dt", FH1_TAP_DT, 0, 3, {3, 7, 4}, 4, NULL},
    {"model.layers.0.mamba.ssd", FH1_TAP_SSD, 0, 3, {3, 7, 12}, 4, NULL},
    {"model.layers.0.mamba.gated", FH1_TAP_GATED, 0, 3, {3, 7, 12}, 12, NULL},
    {"model.layers.0.mamba.out_proj", FH1_TAP_OUT_PROJ, 0, 3, {3, 7, 11}, 11, "model.layers.0.mamba.gated"},
    {"model.layers.0.mid", FH1_TAP_MID, 0, 3, {3, 7, 11}, 11, NULL},
    {"model.layers.0.pre_ff_layernorm", FH1_TAP_PRE_FF_LAYERNORM, 0, 3, {3, 7, 11}, 11, NULL},
    {"model.layers.0.feed_forward.gate_proj",
     FH1_TAP_GATE_PROJ,
     0,
     3,
     {3, 7, 13},
     13,
     "model.layers.0.pre_ff_layernorm"},
    {"model.layers.0.feed_forward.up_proj", FH1_TAP_UP_PROJ, 0, 3, {3, 7, 13}, 13, "model.layers.0.pre_ff_layernorm"},
    {"model.layers.0.feed_forward.act", FH1_TAP_ACT, 0, 3, {3, 7, 13}, 13, NULL},
    {"model.layers.0.feed_forward.down_proj",
     FH1_TAP_DOWN_PROJ,
     0,
     3,
     {3, 7, 11},
     11,
     "model.layers.0.feed_forward.act"},
    {"model.layers.10", FH1_TAP_LAYER, 10, 3, {3, 7, 11}, 11, NULL},
    {"model.final_layernorm", FH1_TAP_FINAL_LAYERNORM, 0, 3, {3, 7, 11}, 11, NULL},
    {"logits", FH1_TAP_LOGITS, 0, 3, {3, 2, 23}, 23, "model.final_layernorm"},
    {"cache.3.key", FH1_TAP_CACHE_KEY, 3, 4, {3, 2, 9, 8}, 2, NULL},
    {"cache.3.value", FH1_TAP_CACHE_VALUE, 3, 4, {3, 2, 9, 8}, 2, NULL},
    {"cache.3.conv", FH1_TAP_CACHE_CONV, 3, 3, {3, 32, 3}, 32, NULL},
    {"cache.3.ssm", FH1_TAP_CACHE_SSM, 3, 4, {3, 4, 3, 5}, 4, NULL},
    {"loss", FH1_TAP_LOSS, 0, 0, {0}, 1, NULL},
};

START_TEST(the_table_is_the_design)
{
    enum { OTHERS = 3 }; /* x_proj, mid_ssm, attn_layernorm: below */
    ck_assert_int_eq(sizeof table / sizeof *table, FH1_TAP_COUNT - OTHERS);
    fh1_config c = small_config();
    for (int i = 0; i < FH1_TAP_COUNT - OTHERS; i++) {
        char name[FH1_TAP_NAME_SIZE];
        fh1_tap_id id = table[i].id;
        ck_assert(i == 0 || id > table[i - 1].id);
        ck_assert(fh1_tap_exists(&c, id));
        ck_assert_str_eq(fh1_tap_name(FH1_FALCON_H1, id, table[i].layer, name), table[i].name);
        fh1_tensor t = fh1_tap_shape(&c, id, 3, 7, 2, 9);
        ck_assert_int_eq(t.rank, table[i].rank);
        for (int k = 0; k < t.rank; k++) ck_assert_msg(t.shape[k] == table[i].shape[k], "%s axis %d", name, k);
        ck_assert_int_eq(t.dtype, FH1_F64);
        ck_assert_int_eq(fh1_tap_units(&c, id), table[i].units);
        ck_assert_int_eq(fh1_tap_is_linear(id), table[i].input != NULL);
        if (!table[i].input) continue;
        ck_assert_str_eq(fh1_tap_name(FH1_FALCON_H1, fh1_tap_linear_input(&c, id), table[i].layer, name),
                         table[i].input);
    }
}
END_TEST

/* Falcon-Mamba: I 12 channels, N 5, R 3, K 4. */
static const struct {
    const char *name;
    fh1_tap_id id;
    int rank;
    int64_t shape[4];
    const char *input;
} mamba_table[] = {
    {"backbone.embeddings", FH1_TAP_EMBED, 3, {3, 7, 11}, NULL},
    {"backbone.layers.2.norm", FH1_TAP_INPUT_LAYERNORM, 3, {3, 7, 11}, NULL},
    {"backbone.layers.2.mixer.in_proj", FH1_TAP_IN_PROJ, 3, {3, 7, 24}, "backbone.layers.2.norm"},
    {"backbone.layers.2.mixer.conv_act", FH1_TAP_CONV_ACT, 3, {3, 7, 12}, NULL},
    {"backbone.layers.2.mixer.x_proj", FH1_TAP_X_PROJ, 3, {3, 7, 13}, "backbone.layers.2.mixer.conv_act"},
    {"backbone.layers.2.mixer.dt", FH1_TAP_DT, 3, {3, 7, 12}, NULL},
    {"backbone.layers.2.mixer.scan", FH1_TAP_SSD, 3, {3, 7, 12}, NULL},
    {"backbone.layers.2.mixer.gated", FH1_TAP_GATED, 3, {3, 7, 12}, NULL},
    {"backbone.layers.2.mixer.out_proj", FH1_TAP_OUT_PROJ, 3, {3, 7, 11}, "backbone.layers.2.mixer.gated"},
    {"backbone.layers.2", FH1_TAP_LAYER, 3, {3, 7, 11}, NULL},
    {"backbone.norm_f", FH1_TAP_FINAL_LAYERNORM, 3, {3, 7, 11}, NULL},
    {"logits", FH1_TAP_LOGITS, 3, {3, 2, 23}, "backbone.norm_f"},
    {"cache.2.conv", FH1_TAP_CACHE_CONV, 3, {3, 12, 3}, NULL},
    {"cache.2.ssm", FH1_TAP_CACHE_SSM, 3, {3, 12, 5}, NULL},
    {"loss", FH1_TAP_LOSS, 0, {0}, NULL},
};
enum { N_MAMBA = sizeof mamba_table / sizeof *mamba_table };

static fh1_config mamba_config(void)
{
    fh1_config c = {.family = FH1_FALCON_MAMBA, .n_layers = 4, .D = 11, .V = 23, .H = 12, .P = 1, .N = 5, .G = 1};
    c.K = 4;
    c.Q = 1;
    c.d_ssm = 12;
    c.R = 3;
    return c;
}

START_TEST(the_other_family_has_its_own_table)
{
    const fh1_config c = mamba_config();
    int n = 0;
    int64_t last = -1;
    for (int i = 0; i < FH1_TAP_COUNT; i++) n += fh1_tap_exists(&c, (fh1_tap_id)i);
    ck_assert_int_eq(n, N_MAMBA);
    for (int i = 0; i < N_MAMBA; i++) {
        char name[FH1_TAP_NAME_SIZE];
        const fh1_tap_id id = mamba_table[i].id;
        fh1_tap_id back;
        int64_t layer;
        ck_assert(fh1_tap_exists(&c, id));
        ck_assert_str_eq(fh1_tap_name(c.family, id, 2, name), mamba_table[i].name);
        ck_assert(fh1_tap_parse(c.family, name, 4, &back, &layer) && back == id);
        ck_assert(fh1_tap_parse_any(name, 4, &back, &layer) && back == id);
        ck_assert(*fh1_tap_definition(c.family, id));
        const fh1_tensor t = fh1_tap_shape(&c, id, 3, 7, 2, 9);
        ck_assert_int_eq(t.rank, mamba_table[i].rank);
        for (int k = 0; k < t.rank; k++) ck_assert_msg(t.shape[k] == mamba_table[i].shape[k], "%s axis %d", name, k);
        const int64_t order = fh1_tap_order(&c, id, 2, 4);
        ck_assert(order > last);
        last = order;
        if (!mamba_table[i].input) continue;
        ck_assert_str_eq(fh1_tap_name(c.family, fh1_tap_linear_input(&c, id), 2, name), mamba_table[i].input);
    }
    /* Names of one family are none of the other's, and a shape that takes a head for a channel is another one. */
    fh1_tap_id id;
    int64_t layer;
    ck_assert(!fh1_tap_parse(c.family, "model.layers.2.mamba.in_proj", 4, &id, &layer));
    ck_assert(!fh1_tap_parse(FH1_FALCON_H1, "backbone.layers.2.mixer.in_proj", 4, &id, &layer));
    ck_assert(!fh1_tap_parse(c.family, "cache.2.key", 4, &id, &layer));
    ck_assert(!fh1_tap_parse(c.family, "backbone.layers.4", 4, &id, &layer));
}
END_TEST

/* Computation is in the order of the block: what is read stands before what reads it. */
START_TEST(blocks_have_their_own_order)
{
    char name[FH1_TAP_NAME_SIZE];
    fh1_config c = small_config();
    c.block = FH1_BLOCK_SAM;
    ck_assert(!fh1_tap_exists(&c, FH1_TAP_MID) && !fh1_tap_exists(&c, FH1_TAP_PRE_FF_LAYERNORM));
    ck_assert(!fh1_tap_exists(&c, FH1_TAP_MID_SSM) && !fh1_tap_exists(&c, FH1_TAP_X_PROJ));
    ck_assert_int_eq(fh1_tap_linear_input(&c, FH1_TAP_GATE_PROJ), FH1_TAP_INPUT_LAYERNORM);
    c.block = FH1_BLOCK_S_A_M;
    static const fh1_tap_id order[] = {FH1_TAP_INPUT_LAYERNORM, FH1_TAP_IN_PROJ, FH1_TAP_OUT_PROJ, FH1_TAP_MID_SSM,
                                       FH1_TAP_ATTN_LAYERNORM,  FH1_TAP_Q_PROJ,  FH1_TAP_O_PROJ,   FH1_TAP_MID,
                                       FH1_TAP_PRE_FF_LAYERNORM};
    for (size_t i = 1; i < sizeof order / sizeof *order; i++)
        ck_assert(fh1_tap_order(&c, order[i - 1], 1, 3) < fh1_tap_order(&c, order[i], 1, 3));
    ck_assert_int_eq(fh1_tap_linear_input(&c, FH1_TAP_Q_PROJ), FH1_TAP_ATTN_LAYERNORM);
    ck_assert_str_eq(fh1_tap_name(c.family, FH1_TAP_MID_SSM, 1, name), "model.layers.1.mid_ssm");
    c.block = FH1_BLOCK_SA_M; /* the same order would be wrong here */
    ck_assert(fh1_tap_order(&c, FH1_TAP_Q_PROJ, 1, 3) < fh1_tap_order(&c, FH1_TAP_IN_PROJ, 1, 3));
    bool seen[2 * (FH1_TAP_LAYER + 1)] = {false}; /* each order is a permutation of the layer's places */
    c.block = FH1_BLOCK_S_A_M;
    for (int id = FH1_TAP_INPUT_LAYERNORM; id <= FH1_TAP_LAYER; id++) {
        const int64_t at = fh1_tap_order(&c, (fh1_tap_id)id, 0, 3);
        ck_assert(at >= FH1_TAP_INPUT_LAYERNORM && at <= FH1_TAP_LAYER && !seen[at]);
        seen[at] = true;
    }
}
END_TEST

static const char *const no_taps[] = {
    "",
    "model",
    "model.layers",
    "model.layers.",
    "model.layers.12",
    "model.layers.-1",
    "model.layers.01",
    "model.layers.00",
    "model.layers.1x",
    "model.layers.1.",
    "model.layers.1.input",
    "model.layers.00.input",
    "model.layers.0.mamba",
    "model.layers.0.mamba.ssd2",
    "model.layers.0.mamba.ssd ",
    " logits",
    "Logits",
    "logits.",
    "model.layers.99999999999999999999.mid",
    "model.layers.+1.mid",
    "model.layers. 1.mid",
    "cache.0",
    "cache.0.keys",
    "cache.12.key",
    "cache..key",
    "cache.0.key.0",
    "step0/logits",
    "model.layers.0input_layernorm",
    "losses",
    "model.embed_tokens.weight",
    "cache.0.ssm_state",
};

START_TEST(what_is_no_tap_is_refused)
{
    fh1_tap_id id;
    int64_t layer;
    ck_assert(!fh1_tap_parse(FH1_FALCON_H1, no_taps[_i], LAYERS, &id, &layer));
}
END_TEST

START_TEST(the_last_layer_counts)
{
    fh1_tap_id id;
    int64_t layer;
    ck_assert(fh1_tap_parse(FH1_FALCON_H1, "model.layers.11.mid", 12, &id, &layer));
    ck_assert(!fh1_tap_parse(FH1_FALCON_H1, "model.layers.11.mid", 11, &id, &layer));
}
END_TEST

/* Counts units element by element: as many of each, in runs, and none outside the range. The fault that a
 * head is taken for a channel would give other counts. */
START_TEST(units_partition_a_tensor)
{
    fh1_config c = small_config();
    for (int i = 0; i < FH1_TAP_COUNT; i++) {
        fh1_tap_id id = (fh1_tap_id)i;
        fh1_tensor t = fh1_tap_shape(&c, id, 2, 3, 3, 5);
        int64_t units = fh1_tap_units(&c, id), n = fh1_n_elems(&t), per_lead = n;
        int lead = fh1_tap_is_cache(id) ? 1 : t.rank ? 2 : 0;
        for (int k = 0; k < lead; k++) per_lead /= t.shape[k];
        int64_t *count = calloc((size_t)units, sizeof *count);
        for (int64_t o = 0; o < n; o++) {
            int64_t index[FH1_MAX_RANK], rest = o;
            for (int k = t.rank - 1; k >= 0; rest /= t.shape[k--]) index[k] = rest % t.shape[k];
            int64_t u = fh1_tap_unit_of_index(&c, id, index);
            ck_assert(u >= 0 && u < units);
            count[u]++;
            if (id == FH1_TAP_CACHE_KEY || id == FH1_TAP_CACHE_VALUE) ck_assert_int_eq(u, index[1]);
            else ck_assert_int_eq(u, fh1_tap_unit_of(&c, id, o % per_lead));
        }
        for (int64_t u = 0; u < units; u++) ck_assert_int_eq(count[u], n / units);
        free(count);
    }
}
END_TEST

START_TEST(packed_shapes_drop_the_batch)
{
    fh1_config c = small_config();
    fh1_tensor t = fh1_tap_packed_shape(&c, FH1_TAP_Q_ROPE, 17);
    ck_assert_int_eq(t.rank, 3);
    ck_assert(t.shape[0] == 17 && t.shape[1] == 6 && t.shape[2] == 8);
    t = fh1_tap_packed_shape(&c, FH1_TAP_LOGITS, 4);
    ck_assert(t.rank == 2 && t.shape[0] == 4 && t.shape[1] == 23);
}
END_TEST

int main(void)
{
    TCase *t = tcase_create("tap");
    tcase_add_test(t, order_is_dense_and_names_return);
    tcase_add_test(t, the_table_is_the_design);
    tcase_add_loop_test(t, what_is_no_tap_is_refused, 0, sizeof no_taps / sizeof *no_taps);
    tcase_add_test(t, the_other_family_has_its_own_table);
    tcase_add_test(t, blocks_have_their_own_order);
    tcase_add_test(t, the_last_layer_counts);
    tcase_add_test(t, units_partition_a_tensor);
    tcase_add_test(t, packed_shapes_drop_the_batch);
    Suite *s = suite_create("tap");
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
