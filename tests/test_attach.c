/* Adapters attached to the reference: the same numbers as merging them in f64, in every kind of call; the ends of a
 * tied model; refusals. The judge on attached models: tests/test_attach_judge.c. */
#include "tests/attach_fixture.h"
#include "tests/tiny_mamba.h"

enum { N_IDS = 14, KINDS = TINY_KINDS + TINY_MAMBA_KINDS };

/* Prefill, a step, a continuation, on one row; then a padded batch and packed documents. Returns the largest gap. */
static double roads_gap(const fh1_model *a, const fh1_model *b)
{
    int64_t ids[N_IDS], doc[N_IDS], mask[2 * 6];
    double gap = 0;
    tiny_ids(3, N_IDS, ids);
    for (int64_t i = 0; i < N_IDS; ++i) doc[i] = i >= 5;
    for (int64_t i = 0; i < 12; ++i) mask[i] = i >= 2;
    const fh1_batch packed = {.B = 1, .T = N_IDS, .ids = ids, .seq_idx = doc};
    const fh1_batch padded = {.B = 2, .T = 6, .ids = ids, .mask = mask, .mask_len = 6};
    const struct {
        const fh1_model *m;
        tiny_session one, docs, pads;
    } road[2] = {{a, tiny_open(a, "ref-f64", 0, 1), tiny_open(a, "ref-f64", 0, 1), tiny_open(a, "ref-f64", 0, 2)},
                 {b, tiny_open(b, "ref-f64", 0, 1), tiny_open(b, "ref-f64", 0, 1), tiny_open(b, "ref-f64", 0, 2)}};
    tiny_session s[2][3];
    for (int i = 0; i < 2; ++i) {
        s[i][0] = road[i].one;
        s[i][1] = road[i].docs;
        s[i][2] = road[i].pads;
        tiny_feed(&s[i][0], ids, 9);
        tiny_feed(&s[i][0], ids + 9, 1);
        tiny_feed(&s[i][0], ids + 10, 3);
        tiny_feed(&s[i][0], ids + 13, 1);
        tiny_call(&s[i][1], &packed);
        tiny_call(&s[i][2], &padded);
    }
    for (int k = 0; k < 3; ++k) gap = fmax(gap, tiny_gap(&s[0][k], 0, &s[1][k], 0));
    gap = fmax(gap, tiny_gap(&s[0][2], 1, &s[1][2], 1));
    for (int i = 0; i < 2; ++i)
        for (int k = 0; k < 3; ++k) tiny_close(&s[i][k]);
    return gap;
}

/* A model of a kind whose products have biases where pairs bring one. */
static void build(fh1_model *m, int kind)
{
    fh1_config c = kind < TINY_KINDS ? tiny_config(kind) : tiny_mamba_config(kind - TINY_KINDS);
    if (kind < TINY_KINDS) c.n_layers = 2; /* Falcon-Mamba: dt_proj has each kind of pair in one of three */
    c.attention_bias = c.mlp_bias = c.mamba_proj_bias = c.projectors_bias = true;
    tiny_build(m, &c, tiny_dtype(kind), 7);
}

START_TEST(attached_equals_merged)
{
    for (int kind = 0; kind < KINDS; ++kind)
        for (int dora = 0; dora < 2; ++dora) {
            fh1_model m, merged;
            made x;
            build(&m, kind);
            merged_build(&merged, &m);
            made_open(&x, (uint64_t)(10 * kind + dora));
            made_all_linear(&x, &m, dora);
            made_ends(&x, &m, true, true, dora ? MADE_DORA : MADE_PLAIN);
            TINY_HOLDS(roads_gap(&m, &merged), 0, "the base in f64, kind %d", kind);
            TINY_OK(cvt_model_attach(&m, &x.a, 1, CVT_ATTACH_PEFT));
            TINY_BREAKS(roads_gap(&m, &merged), "nothing attached, kind %d", kind);
            for (int64_t i = 0; i < x.a.n_loras; ++i) merged_add(&merged, &x.loras[i], 1);
            TINY_HOLDS(roads_gap(&m, &merged), TINY_F64, "kind %d, dora %d", kind, dora);
            fh1_model_free(&merged);
            fh1_model_free(&m);
            made_close(&x);
        }
}
END_TEST

/* Each slot is read by the product it belongs to: without one pair of the adapter nothing agrees. */
static void pairs_count(int kind)
{
    fh1_model base, whole, m;
    made x;
    build(&base, kind);
    build(&whole, kind);
    made_open(&x, 3);
    made_all_linear(&x, &base, true);
    made_ends(&x, &base, true, true, MADE_PLAIN);
    TINY_OK(cvt_model_attach(&whole, &x.a, 1, CVT_ATTACH_PEFT));
    for (int64_t i = 0; i < x.a.n_loras; ++i) {
        made y = x;
        build(&m, kind);
        y.a.loras = y.loras;
        memmove(y.loras + i, y.loras + i + 1, (size_t)(x.a.n_loras - i - 1) * sizeof *y.loras);
        y.a.n_loras--;
        TINY_OK(cvt_model_attach(&m, &y.a, 1, CVT_ATTACH_PEFT));
        TINY_BREAKS(roads_gap(&m, &whole), "without %s", x.loras[i].module);
        fh1_model_free(&m);
    }
    fh1_model_free(&whole);
    fh1_model_free(&base);
    made_close(&x);
}

START_TEST(every_pair_counts)
{
    pairs_count(0);
    pairs_count(TINY_KINDS);
}
END_TEST

/* Two adapters on the same modules add up, each with its own weight. */
START_TEST(adapters_add_up)
{
    fh1_model m, merged;
    made x, y;
    build(&m, 1);
    merged_build(&merged, &m);
    made_open(&x, 21);
    made_open(&y, 22);
    made_all_linear(&x, &m, false);
    made_all_linear(&y, &m, false);
    made_ends(&y, &m, true, true, MADE_PLAIN);
    TINY_OK(cvt_model_attach(&m, &x.a, 1, CVT_ATTACH_PEFT));
    TINY_OK(cvt_model_attach(&m, &y.a, 0.25, CVT_ATTACH_PEFT));
    for (int64_t i = 0; i < x.a.n_loras; ++i) merged_add(&merged, &x.loras[i], 1);
    for (int64_t i = 0; i < y.a.n_loras; ++i) merged_add(&merged, &y.loras[i], 1);
    TINY_BREAKS(roads_gap(&m, &merged), "the weight of the second is ignored");
    for (int64_t i = 0; i < y.a.n_loras; ++i) merged_add(&merged, &y.loras[i], -0.75);
    TINY_HOLDS(roads_gap(&m, &merged), TINY_F64, "two adapters");
    fh1_model_free(&merged);
    fh1_model_free(&m);
    made_close(&y);
    made_close(&x);
}
END_TEST

/* DoRA first, then a plain pair on the same modules: f·(W + ΔW) + ΔW'. */
START_TEST(plain_after_dora)
{
    fh1_model m, merged;
    made x, y;
    build(&m, 0);
    merged_build(&merged, &m);
    made_open(&x, 25);
    made_open(&y, 26);
    made_all_linear(&x, &m, true);
    made_all_linear(&y, &m, false);
    TINY_OK(cvt_model_attach(&m, &x.a, 1, CVT_ATTACH_PEFT));
    TINY_OK(cvt_model_attach(&m, &y.a, 1, CVT_ATTACH_PEFT));
    for (int64_t i = 0; i < x.a.n_loras; ++i) merged_add(&merged, &x.loras[i], 1);
    TINY_BREAKS(roads_gap(&m, &merged), "the plain ones are ignored");
    for (int64_t i = 0; i < y.a.n_loras; ++i) merged_add(&merged, &y.loras[i], 1);
    TINY_HOLDS(roads_gap(&m, &merged), TINY_F64, "plain after DoRA");
    fh1_model_free(&merged);
    fh1_model_free(&m);
    made_close(&y);
    made_close(&x);
}
END_TEST

/* Rounds its values to a type, as loading into a parameter does. */
static void fill(fh1_model *m, const char *name, const fh1_tensor *from, fh1_dtype as)
{
    fh1_tensor *to = fh1_model_slot(m, name);
    for (int64_t i = 0; i < fh1_n_elems(to); ++i) {
        double v = fh1_get(from, i);
        if (as == FH1_BF16) v = fh1_round_f64(FH1_ROUND_BF16, v);
        fh1_set(to, i, v);
    }
}

/* Replaced tensors and rows, on a bf16 base whose ends are tied. */
START_TEST(replacements_and_rows)
{
    static int64_t rows[] = {4, 11, 4};
    for (int copy = 0; copy < 2; ++copy) {
        fh1_model m, merged;
        made x;
        build(&m, 1);
        ck_assert(m.config.tied && m.embed.dtype == FH1_BF16);
        const int64_t V = m.config.V, D = m.config.D, H = m.config.H;
        merged_build(&merged, &m);
        made_open(&x, 31);
        made_replacement(&x, "model.embed_tokens.weight", FH1_F32, 2, (int64_t[]){V, D}, copy);
        made_replacement(&x, "model.layers.1.mamba.A_log", FH1_BF16, 1, &H, true);
        made_replacement(&x, "model.layers.0.self_attn.q_proj.bias", FH1_F32, 1, (int64_t[]){m.config.Hq * m.config.A},
                         false);
        x.tokens[x.a.n_tokens++] = (cvt_token_rows){
            .module = "lm_head", .n = 3, .rows = rows, .values = made_tensor(&x, FH1_F32, 2, (int64_t[]){3, D}, 0, 1)};
        made_pair(&x, "model.layers.0.self_attn.q_proj", m.config.Hq * m.config.A, D, 2, MADE_DORA);
        TINY_OK(cvt_model_attach(&m, &x.a, 1, CVT_ATTACH_PEFT));
        for (int64_t i = 0; i < x.a.n_replacements; ++i)
            fill(&merged, x.replacements[i].name, &x.replacements[i].t, FH1_BF16);
        if (!copy) fill(&merged, "lm_head.weight", &x.replacements[0].t, FH1_BF16);
        TINY_BREAKS(roads_gap(&m, &merged), "rows not replaced");
        for (int i = 0; i < 3; ++i)
            for (int64_t d = 0; d < D; ++d)
                fh1_set(fh1_model_slot(&merged, "lm_head.weight"), rows[i] * D + d,
                        fh1_round_f64(FH1_ROUND_BF16, fh1_get(&x.tokens[0].values, i * D + d)));
        merged_add(&merged, &x.loras[0], 1);
        TINY_HOLDS(roads_gap(&m, &merged), TINY_F64, "replaced, copy %d", copy);
        fh1_model_free(&merged);
        fh1_model_free(&m);
        made_close(&x);
    }
}
END_TEST

/* A pair on one end of a tied model leaves the other end what it was. */
static void one_end(int kind)
{
    for (int head = 0; head < 2; ++head) {
        fh1_model m, merged, both;
        made x;
        build(&m, kind);
        ck_assert(m.config.tied);
        merged_build(&merged, &m);
        merged_build(&both, &m);
        made_open(&x, 41);
        made_ends(&x, &m, !head, head, MADE_PLAIN);
        TINY_OK(cvt_model_attach(&m, &x.a, 1, CVT_ATTACH_PEFT));
        merged_add(&merged, &x.loras[0], 1);
        merged_add(&both, &x.loras[0], 1);
        TINY_HOLDS(roads_gap(&m, &merged), TINY_F64, "kind %d, head %d", kind, head);
        both.embed = both.lm_head = head ? both.lm_head : both.embed; /* what a merge into the shared tensor does */
        TINY_BREAKS(roads_gap(&m, &both), "both ends changed, head %d", head);
        fh1_model_free(&both);
        fh1_model_free(&merged);
        fh1_model_free(&m);
        made_close(&x);
    }
}

START_TEST(one_end_of_a_tied_model)
{
    one_end(3);
    one_end(TINY_KINDS + 1);
}
END_TEST

/* A foreign file may hold tensors at odd addresses, and of other float types. */
START_TEST(unaligned_and_narrow)
{
    fh1_model m, odd;
    made x;
    build(&m, 0);
    build(&odd, 0);
    made_open(&x, 51);
    cvt_lora *l = made_pair(&x, "model.layers.1.mamba.in_proj", fh1_in_proj_dim(&m.config), m.config.D, 3, MADE_PLAIN);
    fh1_tensor narrow = fh1_view(NULL, FH1_BF16, 2, l->A.shape);
    narrow.data = made_room(&x, fh1_n_bytes(&narrow));
    fh1_copy(&narrow, &l->A);
    l->A = narrow;
    TINY_OK(cvt_model_attach(&m, &x.a, 1, CVT_ATTACH_PEFT));
    for (fh1_tensor *t = &l->A; t; t = t == &l->A ? &l->B : NULL) {
        char *p = made_room(&x, fh1_n_bytes(t) + 1);
        memcpy(p + 1, t->data, fh1_n_bytes(t));
        t->data = p + 1;
    }
    TINY_OK(cvt_model_attach(&odd, &x.a, 1, CVT_ATTACH_PEFT));
    TINY_HOLDS(roads_gap(&m, &odd), 0, "unaligned");
    odd.layers[1].lora[FH1_TAP_IN_PROJ]->scale *= 1.001;
    TINY_BREAKS(roads_gap(&m, &odd), "another scale");
    fh1_model_free(&odd);
    fh1_model_free(&m);
    made_close(&x);
}
END_TEST

static void refused(const made *x, int kind, const char *word)
{
    fh1_model m;
    char line[2048];
    build(&m, kind);
    fh1_status s = cvt_model_attach(&m, &x->a, 1, CVT_ATTACH_PEFT);
    ck_assert_msg(s && s->code == FH1_E_INPUT, "accepted: %s", word);
    fh1_status_line(s, line, sizeof line);
    ck_assert_msg(strstr(line, word) && strstr(line, "adapter "), "%s: %s", word, line);
    fh1_model_free(&m);
}

START_TEST(refusals)
{
    made x;
    const struct {
        const char *module;
        int64_t out, in;
        const char *word;
    } bad[] = {{"model.layers.0.mamba.conv1d", 8, 8, "does not have"},
               {"model.layers.2.mamba.in_proj", 8, 8, "model.layers.2.mamba.in_proj"},
               {"model.layers.0.mamba.ssd", 8, 8, "mamba.ssd"},
               {"model.layers.0.self_attn.q_proj", 24, 13, "expected [3, 12]"},
               {"model.layers.0.self_attn.q_proj", 25, 12, "expected [24, 3]"},
               {"model.embed_tokens", 12, 30, "expected [3, 29]"},
               {"backbone.layers.0.mixer.dt_proj", 17, 2, "does not have"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; ++i) {
        made_open(&x, 60 + i);
        made_pair(&x, bad[i].module, bad[i].out, bad[i].in, 3, MADE_PLAIN);
        refused(&x, 0, bad[i].word);
        made_close(&x);
    }
    static const struct {
        const char *module;
        int64_t out, in;
        const char *word;
    } bad_mamba[] = {{"backbone.layers.0.mixer.dt", 17, 2, "does not have"},
                     {"backbone.layers.0.mixer.scan", 17, 17, "does not have"},
                     {"backbone.layers.3.mixer.dt_proj", 17, 2, "does not have"},
                     {"backbone.layers.0.mixer.dt_proj", 17, 3, "expected [3, 2]"},
                     {"model.embed_tokens", 12, 29, "does not have"}};
    for (size_t i = 0; i < sizeof bad_mamba / sizeof *bad_mamba; ++i) {
        made_open(&x, 80 + i);
        made_pair(&x, bad_mamba[i].module, bad_mamba[i].out, bad_mamba[i].in, 3, MADE_PLAIN);
        refused(&x, TINY_KINDS, bad_mamba[i].word);
        made_close(&x);
    }
    made_open(&x, 70); /* DoRA beside a plain pair, then a norm of zero */
    made_pair(&x, "model.layers.0.self_attn.q_proj", 24, 12, 2, MADE_PLAIN);
    made_pair(&x, "model.layers.0.self_attn.q_proj", 24, 12, 2, MADE_DORA);
    refused(&x, 0, "DoRA");
    x.a.n_loras = 0;
    made_pair(&x, "model.layers.0.self_attn.q_proj", 24, 12, 2, MADE_DORA);
    fh1_model fine;
    build(&fine, 0);
    TINY_OK(cvt_model_attach(&fine, &x.a, 1, CVT_ATTACH_PEFT)); /* alone it is welcome */
    fh1_model_free(&fine);
    made_replacement(&x, "model.layers.0.self_attn.q_proj.weight", FH1_F32, 2, (int64_t[]){24, 12}, false);
    memset(x.replacements[0].t.data, 0, 12 * sizeof(float));
    memset(x.loras[0].B.data, 0, 2 * sizeof(float));
    refused(&x, 0, "norm");
    x.a.n_loras = 0;
    x.replacements[0].t.shape[0] = 23;
    refused(&x, 0, "does not fit");
    x.a.n_replacements = 0;
    int64_t row = 29;
    x.tokens[x.a.n_tokens++] =
        (cvt_token_rows){"model.embed_tokens", 1, &row, made_tensor(&x, FH1_F32, 2, (int64_t[]){1, 12}, 0, 1)};
    refused(&x, 0, "29");
    made_close(&x);
}
END_TEST

int main(void)
{
    TCase *tc = tcase_create("attach");
    tcase_add_test(tc, attached_equals_merged);
    tcase_add_test(tc, every_pair_counts);
    tcase_add_test(tc, adapters_add_up);
    tcase_add_test(tc, plain_after_dora);
    tcase_add_test(tc, replacements_and_rows);
    tcase_add_test(tc, one_end_of_a_tied_model);
    tcase_add_test(tc, unaligned_and_narrow);
    tcase_add_test(tc, refusals);
    return tiny_main(suite_create("attach"), tc);
}
