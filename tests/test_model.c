/* Binding a table of weights to a config: what a model needs, what it refuses and how it says so. */
#include "oracle/model.h"
#include "tests/small_config.h"
#include "tests/tiny_mamba.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>

/* A table of zero-filled weights in one buffer. */
typedef struct {
    fh1_weight *w;
    int64_t n;
    char *data;
} table;

static fh1_status add(void *user, const char *name, int rank, const int64_t *shape)
{
    table *t = user;
    t->w = realloc(t->w, (size_t)(t->n + 1) * sizeof *t->w);
    t->w[t->n].name = strdup(name);
    t->w[t->n++].t = fh1_view(t->data, FH1_BF16, rank, shape);
    return NULL;
}

static char zeros[4096];

static table weights_of(const fh1_config *c)
{
    table t = {.data = zeros};
    ck_assert(!fh1_config_weights(c, add, &t));
    return t;
}

static fh1_weight *weight(const table *t, const char *name)
{
    for (int64_t i = 0; i < t->n; i++)
        if (strcmp(t->w[i].name, name) == 0) return &t->w[i];
    ck_abort_msg("no %s", name);
    return NULL;
}

static fh1_status bind(fh1_model *m, const fh1_config *c, const table *t)
{
    memset(m, 0, sizeof *m);
    return fh1_model_bind(m, c, t->w, t->n);
}

static fh1_config every_switch(bool on)
{
    fh1_config c = small_config();
    c.attention_bias = c.mlp_bias = c.mamba_proj_bias = c.projectors_bias = c.mamba_conv_bias = on;
    c.mamba_rms_norm = on;
    c.tied = !on;
    return c;
}

static fh1_status count(void *user, const char *name, int rank, const int64_t *shape)
{
    int64_t *n = user, size = 1;
    (void)name;
    for (int i = 0; i < rank; i++) size *= shape[i];
    n[0]++;
    n[1] += size;
    return NULL;
}

/* Tensors and parameters of released models, counted in their checkpoints. */
START_TEST(released_models_have_their_counts)
{
    static const struct {
        int64_t layers, D, F, Hq, A, H, P, N, G, V;
        bool norm, tied;
        int64_t tensors, parameters;
    } known[] = {
        {44, 3072, 12288, 12, 128, 24, 128, 256, 1, 130049, true, false, 751, INT64_C(7585654880)},
        {36, 1024, 2048, 8, 64, 24, 64, 128, 1, 32784, false, false, 579, INT64_C(521411104)},
        {24, 512, 768, 8, 64, 24, 32, 64, 1, 32768, false, true, 386, INT64_C(91131072)},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        fh1_config c = small_config();
        c.n_layers = known[i].layers;
        c.D = known[i].D;
        c.F = known[i].F;
        c.Hq = known[i].Hq;
        c.A = known[i].A;
        c.H = known[i].H;
        c.P = known[i].P;
        c.N = known[i].N;
        c.G = known[i].G;
        c.V = known[i].V;
        c.d_ssm = c.H * c.P;
        c.mamba_rms_norm = known[i].norm;
        c.tied = known[i].tied;
        ck_assert(!fh1_config_check(&c));
        int64_t n[2] = {0, 0};
        ck_assert(!fh1_config_weights(&c, count, n));
        ck_assert_int_eq(n[0], known[i].tensors);
        ck_assert_int_eq(n[1], known[i].parameters);
    }
}
END_TEST

START_TEST(the_views_land_in_their_fields)
{
    fh1_config c = every_switch(true);
    c.block = FH1_BLOCK_S_A_M;
    table t = weights_of(&c);
    for (int64_t i = 0; i < t.n; i++) t.w[i].t.data = &zeros[i]; /* told apart by address, never read */
    fh1_weight swap = t.w[0];                                    /* the order of the table does not matter */
    t.w[0] = t.w[t.n - 1];
    t.w[t.n - 1] = swap;
    fh1_model m;
    ck_assert(!bind(&m, &c, &t));
    const fh1_layer *l = &m.layers[1];
    const struct {
        const char *name;
        const fh1_tensor *field;
    } fields[] = {
        {"model.embed_tokens.weight", &m.embed},
        {"model.final_layernorm.weight", &m.final_layernorm},
        {"lm_head.weight", &m.lm_head},
        {"model.layers.1.input_layernorm.weight", &l->input_layernorm},
        {"model.layers.1.attn_layernorm.weight", &l->attn_layernorm},
        {"model.layers.1.pre_ff_layernorm.weight", &l->pre_ff_layernorm},
        {"model.layers.1.self_attn.q_proj.weight", &l->q_w},
        {"model.layers.1.self_attn.q_proj.bias", &l->q_b},
        {"model.layers.1.self_attn.k_proj.weight", &l->k_w},
        {"model.layers.1.self_attn.k_proj.bias", &l->k_b},
        {"model.layers.1.self_attn.v_proj.weight", &l->v_w},
        {"model.layers.1.self_attn.v_proj.bias", &l->v_b},
        {"model.layers.1.self_attn.o_proj.weight", &l->o_w},
        {"model.layers.1.self_attn.o_proj.bias", &l->o_b},
        {"model.layers.1.mamba.A_log", &l->A_log},
        {"model.layers.1.mamba.D", &l->D},
        {"model.layers.1.mamba.dt_bias", &l->dt_bias},
        {"model.layers.1.mamba.in_proj.weight", &l->in_w},
        {"model.layers.1.mamba.in_proj.bias", &l->in_b},
        {"model.layers.1.mamba.conv1d.weight", &l->conv_w},
        {"model.layers.1.mamba.conv1d.bias", &l->conv_b},
        {"model.layers.1.mamba.norm.weight", &l->norm},
        {"model.layers.1.mamba.out_proj.weight", &l->out_w},
        {"model.layers.1.mamba.out_proj.bias", &l->out_b},
        {"model.layers.1.feed_forward.gate_proj.weight", &l->gate_w},
        {"model.layers.1.feed_forward.gate_proj.bias", &l->gate_b},
        {"model.layers.1.feed_forward.up_proj.weight", &l->up_w},
        {"model.layers.1.feed_forward.up_proj.bias", &l->up_b},
        {"model.layers.1.feed_forward.down_proj.weight", &l->down_w},
        {"model.layers.1.feed_forward.down_proj.bias", &l->down_b},
    };
    enum { OF_THE_OTHER_FAMILY = 2 }; /* x_w, dt_w: below */
    ck_assert_int_eq(sizeof fields / sizeof *fields,
                     3 + offsetof(fh1_layer, lora) / sizeof(fh1_tensor) - OF_THE_OTHER_FAMILY);
    t.w = m.weights; /* sorted by now */
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
        ck_assert_msg(weight(&t, fields[i].name)->t.data == fields[i].field->data, "%s", fields[i].name);
    ck_assert_ptr_ne(m.layers[0].v_w.data, l->v_w.data);
    ck_assert_int_eq(l->conv_w.shape[2], 4);
    ck_assert_int_eq(l->in_w.shape[0], fh1_in_proj_dim(&c));
    for (int64_t i = 1; i < m.n_weights; i++) ck_assert_int_lt(strcmp(m.weights[i - 1].name, m.weights[i].name), 0);
    fh1_model_free(&m);
}
END_TEST

/* Falcon-Mamba: the tensors of one layer, and what the other family has is absent. */
START_TEST(the_other_family_has_its_own_fields)
{
    const fh1_config c = tiny_mamba_config(1);
    table t = weights_of(&c);
    for (int64_t i = 0; i < t.n; i++) t.w[i].t.data = &zeros[i];
    fh1_model m;
    ck_assert(!bind(&m, &c, &t));
    const fh1_layer *l = &m.layers[1];
    const struct {
        const char *name;
        const fh1_tensor *field;
    } fields[] = {
        {"backbone.embeddings.weight", &m.embed},
        {"backbone.norm_f.weight", &m.final_layernorm},
        {"backbone.layers.1.norm.weight", &l->input_layernorm},
        {"backbone.layers.1.mixer.A_log", &l->A_log},
        {"backbone.layers.1.mixer.D", &l->D},
        {"backbone.layers.1.mixer.conv1d.weight", &l->conv_w},
        {"backbone.layers.1.mixer.in_proj.weight", &l->in_w},
        {"backbone.layers.1.mixer.in_proj.bias", &l->in_b},
        {"backbone.layers.1.mixer.x_proj.weight", &l->x_w},
        {"backbone.layers.1.mixer.dt_proj.weight", &l->dt_w},
        {"backbone.layers.1.mixer.dt_proj.bias", &l->dt_bias},
        {"backbone.layers.1.mixer.out_proj.weight", &l->out_w},
        {"backbone.layers.1.mixer.out_proj.bias", &l->out_b},
    };
    t.w = m.weights; /* sorted by now */
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
        ck_assert_msg(weight(&t, fields[i].name)->t.data == fields[i].field->data, "%s", fields[i].name);
    ck_assert_int_eq(m.n_weights, 2 + c.n_layers * (int64_t)(sizeof fields / sizeof *fields - 2));
    ck_assert(!l->q_w.data && !l->gate_w.data && !l->conv_b.data && !l->norm.data && !l->pre_ff_layernorm.data);
    ck_assert_int_eq(l->x_w.shape[0], c.R + 2 * c.N);
    fh1_model_free(&m);
}
END_TEST

START_TEST(absent_tensors_are_null)
{
    fh1_config c = every_switch(false);
    table t = weights_of(&c);
    fh1_model m;
    ck_assert(!bind(&m, &c, &t));
    const fh1_layer *l = &m.layers[0];
    ck_assert(!l->q_b.data && !l->o_b.data && !l->in_b.data && !l->out_b.data && !l->conv_b.data && !l->norm.data &&
              !l->gate_b.data && !l->down_b.data);
    ck_assert(l->q_w.data && l->A_log.data);
    ck_assert_ptr_eq(m.lm_head.data, m.embed.data);
    fh1_model_free(&m);
}
END_TEST

/* Each tensor left out in turn, with all switches on. */
START_TEST(a_missing_tensor_is_named)
{
    fh1_config c = every_switch(true);
    table all = weights_of(&c);
    for (int64_t i = 0; i < all.n; i++) {
        table t = weights_of(&c);
        char *name = t.w[i].name;
        t.w[i] = t.w[--t.n];
        fh1_model m;
        fh1_status s = bind(&m, &c, &t);
        ck_assert_msg(s && s->code == FH1_E_INPUT, "%s", name);
        ck_assert_str_eq(s->where, name);
        ck_assert_ptr_null(m.weights);
        if (strstr(name, "mamba.norm.weight")) ck_assert_ptr_nonnull(strstr(s->hint, "mamba_rms_norm"));
        if (strstr(name, "in_proj.bias")) ck_assert_ptr_nonnull(strstr(s->hint, "mamba_proj_bias"));
        if (strcmp(name, "lm_head.weight") == 0) ck_assert_ptr_nonnull(strstr(s->hint, "tie_word_embeddings = false"));
        free(name);
    }
    for (int64_t i = 0; i < all.n; i++) free(all.w[i].name);
    free(all.w);
}
END_TEST

/* What must appear in the message when the table of `small_config` is changed in one place. */
static const struct {
    const char *what;
    const char *name; /* of the tensor that is changed, or added when the model has none of that name */
    const char *word;
} changes[] = {
    {"shape", "model.layers.1.mamba.A_log", "another shape"},
    {"rank", "model.layers.0.mamba.conv1d.weight", "[32, 1, 4]"},
    {"dtype", "model.layers.0.self_attn.q_proj.weight", "I64"},
    {"rows", "lm_head.weight", "[23, 11]"},
    {"extra", "model.layers.2.mamba.D", "num_hidden_layers is 2"},
    {"extra", "model.layers.99999999999999999999999.mamba.D", "num_hidden_layers is 2"},
    {"extra", "model.layers.0.self_attn.q_proj.bias", "attention_bias = false"},
    {"extra", "model.layers.0.mamba.in_proj.bias", "mamba_proj_bias = false"},
    {"extra", "model.layers.0.self_attn.rotary_emb.inv_freq", "not part of"},
    {"extra", "score.weight", "not part of"},
    {"twice", "model.layers.0.mamba.D", "twice"},
};

static void change(table *t, const char *what, const char *name)
{
    if (strcmp(what, "extra") == 0) {
        add(t, name, 1, (int64_t[]){4});
        return;
    }
    fh1_weight *w = weight(t, name);
    if (strcmp(what, "twice") == 0) add(t, name, w->t.rank, (int64_t[]){w->t.shape[0]});
    else if (strcmp(what, "shape") == 0) w->t.shape[0]++;
    else if (strcmp(what, "rows") == 0) w->t.shape[0]--;
    else if (strcmp(what, "rank") == 0) w->t = fh1_view2(zeros, FH1_BF16, 32, 4);
    else w->t.dtype = FH1_I64;
}

START_TEST(a_wrong_table_is_refused)
{
    fh1_config c = small_config();
    table t = weights_of(&c);
    change(&t, changes[_i].what, changes[_i].name);
    fh1_model m;
    fh1_status s = bind(&m, &c, &t);
    ck_assert_msg(s && s->code == FH1_E_INPUT, "%s %s", changes[_i].what, changes[_i].name);
    ck_assert_str_eq(s->where, changes[_i].name);
    char line[2048];
    fh1_status_line(s, line, sizeof line);
    ck_assert_msg(strstr(line, changes[_i].word), "%s", line);
    fh1_model_free(&m);
}
END_TEST

START_TEST(the_table_decides_the_vocabulary)
{
    fh1_config c = small_config();
    c.V = 29;
    table t = weights_of(&c);
    c.V = 23; /* what config.json says */
    fh1_model m;
    ck_assert(!bind(&m, &c, &t));
    ck_assert_int_eq(m.config.V, 29);
    fh1_model_free(&m);
}
END_TEST

START_TEST(a_stored_tied_head_must_agree)
{
    fh1_config c = every_switch(false);
    for (int differs = 0; differs < 2; differs++) {
        table t = weights_of(&c);
        char head[2 * 23 * 11] = {0};
        add(&t, "lm_head.weight", 2, (int64_t[]){23, 11});
        t.w[t.n - 1].t.data = head;
        head[sizeof head - 1] = (char)differs;
        fh1_model m;
        fh1_status s = bind(&m, &c, &t);
        if (differs) ck_assert(s && strcmp(s->where, "lm_head.weight") == 0 && strstr(s->hint, "tie_word_embeddings"));
        else ck_assert(!s && m.lm_head.data == m.embed.data);
        fh1_model_free(&m);
    }
}
END_TEST

/* A config that claims 2^31 layers must fail by a name, not by memory. */
START_TEST(claims_are_not_believed)
{
    fh1_config c = small_config();
    table t = weights_of(&c);
    c.n_layers = INT64_C(1) << 31;
    fh1_model m;
    fh1_status s = bind(&m, &c, &t);
    ck_assert(s && s->code == FH1_E_INPUT);
    ck_assert_str_eq(s->where, "model.layers.2.feed_forward.gate_proj.weight");
    s = fh1_model_bind(&m, &c, NULL, 0);
    ck_assert(s && strcmp(s->where, "model.embed_tokens.weight") == 0);
}
END_TEST

static void release(void *owner)
{
    ++*(int *)owner;
}

START_TEST(the_owner_is_released_once)
{
    int released = 0;
    fh1_config c = small_config();
    table t = weights_of(&c);
    fh1_model m = {.owner = &released, .free_owner = release};
    ck_assert(!fh1_model_bind(&m, &c, t.w, t.n));
    ck_assert_int_eq(released, 0);
    fh1_model_free(&m);
    fh1_model_free(&m);
    ck_assert_int_eq(released, 1);
}
END_TEST

int main(void)
{
    TCase *t = tcase_create("model");
    tcase_add_test(t, released_models_have_their_counts);
    tcase_add_test(t, the_views_land_in_their_fields);
    tcase_add_test(t, the_other_family_has_its_own_fields);
    tcase_add_test(t, absent_tensors_are_null);
    tcase_add_test(t, a_missing_tensor_is_named);
    tcase_add_loop_test(t, a_wrong_table_is_refused, 0, sizeof changes / sizeof *changes);
    tcase_add_test(t, the_table_decides_the_vocabulary);
    tcase_add_test(t, a_stored_tied_head_must_agree);
    tcase_add_test(t, claims_are_not_believed);
    tcase_add_test(t, the_owner_is_released_once);
    Suite *s = suite_create("model");
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
