/* The judge on attached models: honest engines pass, an adapter that is applied wrongly fails at its product; and a
 * merged model against the attached one. */
#include "tests/attach_fixture.h"

#include "golden/judge.h"
#include "golden/merged.h"
#include "golden/record.h"
#include "reference/faulty.h"
#include "tests/tiny_mamba.h"

enum { KINDS = TINY_KINDS + TINY_MAMBA_KINDS };

static fh1_model base, attached;
static made pairs;

/* Weights of `kind`, adapters on every product and on both ends. */
static void open_kind(int kind, made_kind ends)
{
    fh1_config c = kind < TINY_KINDS ? tiny_config(kind) : tiny_mamba_config(kind - TINY_KINDS);
    c.n_layers = 2;
    c.attention_bias = c.mlp_bias = c.mamba_proj_bias = c.projectors_bias = true;
    tiny_build(&base, &c, tiny_dtype(kind), 7);
    tiny_build(&attached, &c, tiny_dtype(kind), 7);
    made_open(&pairs, (uint64_t)(80 + kind));
    made_all_linear(&pairs, &base, ends == MADE_DORA);
    made_ends(&pairs, &base, true, true, ends);
    TINY_OK(cvt_model_attach(&attached, &pairs.a, 1, CVT_ATTACH_EXACT));
}

static void close_kind(void)
{
    fh1_model_free(&attached);
    fh1_model_free(&base);
    made_close(&pairs);
}

/* 0 where the first divergence is the expected one (tap NULL: there is none), as `fh1 check` exits. */
static int finish(fh1_report *r, const char *subject, const char *tap, int64_t step)
{
    fh1_report_end_subject(r, subject, tap, step);
    const int code = fh1_report_finish(r, "test", "test");
    fh1_report_free(r);
    return code;
}

static fh1_report *new_report(FILE *out)
{
    fh1_report *r;
    TINY_OK(fh1_report_new(FH1_REPORT_TABLE, false, out, &r));
    return r;
}

/* ---- engines ---- */

/* Runs one-token calls on another model: an adapter that is forgotten in decode. */
static const fh1_model *in_decode;
static fh1_engine *right;
static fh1_status forgetful(fh1_engine *e, const fh1_model *m, const fh1_batch *b, fh1_cache *cache, int64_t n_logits,
                            void *logits, const fh1_tap_sink *sink)
{
    (void)e;
    return right->forward(right, b->T == 1 && in_decode ? in_decode : m, b, cache, n_logits, logits, sink);
}

/* What `engine` computes on `m` (and `decode` in one-token steps), judged against the attached model. */
static int judged(const char *engine, const fh1_model *m, const fh1_model *decode, int which, const char *tap,
                  int64_t step)
{
    gld_trace like, trace;
    TINY_OK(gld_schedule_seeded(&m->config, 5, which, &like));
    right = ref_engine_new(engine, NULL, 0);
    in_decode = decode;
    fh1_engine e = *right;
    e.forward = forgetful;
    TINY_OK(gld_record_like(&e, m, &like, NULL, &trace));
    const gld_judge_options o = {.model = &attached,
                                 .profile = e.profile,
                                 .subject = engine,
                                 .make_engine = ref_engine_new,
                                 .make_faulty = ref_faulty_engine_new};
    fh1_report *r = new_report(stdout);
    TINY_OK(gld_judge(&trace, &o, r));
    const int code = finish(r, engine, tap, step);
    right->free(right);
    gld_trace_free(&trace);
    gld_trace_free(&like);
    return code;
}

START_TEST(honest_engines_pass)
{
    static const char *const engines[] = {"ref-f64", "ref-f32", "ref-bf16"};
    for (int kind = 0; kind < KINDS; ++kind) {
        open_kind(kind, kind % 2 ? MADE_DORA : MADE_PLAIN);
        for (int which = 0; which < 2; ++which)
            for (int i = 0; i < 3; ++i)
                ck_assert_msg(judged(engines[i], &attached, NULL, which, NULL, 0) == 0, "%s, kind %d", engines[i],
                              kind);
        close_kind();
    }
}
END_TEST

START_TEST(wrong_adapters_fail)
{
    static const char first[] = "model.layers.0.self_attn.q_proj", second[] = "model.layers.1.feed_forward.up_proj";
    for (int kind = 0; kind < 2; ++kind) {
        const char *engine = kind ? "ref-bf16" : "ref-f32";
        open_kind(kind, MADE_PLAIN);
        ck_assert_int_eq(judged(engine, &attached, NULL, 0, NULL, 0), 0);
        ck_assert_int_eq(judged(engine, &base, NULL, 0, "model.embed_tokens", 0), 0);
        ck_assert_int_eq(judged(engine, &attached, &base, 0, "model.embed_tokens", 1), 0); /* decode forgets it */
        fh1_lora *one = base.layers[0].lora[FH1_TAP_Q_PROJ], *q = attached.layers[0].lora[FH1_TAP_Q_PROJ];
        ck_assert(!one && q && !q->next);

        fh1_model wrong = attached; /* a copy whose layers may be edited */
        fh1_layer layers[2];
        memcpy(layers, attached.layers, sizeof layers);
        wrong.layers = layers;
        fh1_lora scaled = *q;
        scaled.scale *= (double)q->A.shape[0] + 1; /* alpha / r in the adapter, alpha in the engine */
        layers[0].lora[FH1_TAP_Q_PROJ] = &scaled;
        ck_assert_int_eq(judged(engine, &wrong, NULL, 0, first, 0), 0);
        layers[0].lora[FH1_TAP_Q_PROJ] = q;
        ck_assert_int_eq(judged(engine, &wrong, NULL, 0, NULL, 0), 0);

        layers[0].lora[FH1_TAP_Q_PROJ] = NULL; /* one product forgets it, in a step only */
        ck_assert_int_eq(judged(engine, &attached, &wrong, 0, first, 1), 0);
        layers[0].lora[FH1_TAP_Q_PROJ] = q;

        layers[1].lora[FH1_TAP_UP_PROJ] = layers[0].lora[FH1_TAP_UP_PROJ]; /* the pair of another layer */
        ck_assert_int_eq(judged(engine, &wrong, NULL, 1, second, 0), 0);
        close_kind();
    }
}
END_TEST

/* Each product of Falcon-Mamba, its adapter forgotten in a step, or scaled by alpha alone. */
START_TEST(wrong_adapters_of_a_mamba_fail)
{
    static const struct {
        fh1_tap_id id;
        const char *tap;
    } products[] = {{FH1_TAP_IN_PROJ, "backbone.layers.1.mixer.in_proj"},
                    {FH1_TAP_X_PROJ, "backbone.layers.1.mixer.x_proj"},
                    {FH1_TAP_DT, "backbone.layers.1.mixer.dt"},
                    {FH1_TAP_OUT_PROJ, "backbone.layers.1.mixer.out_proj"}};
    for (int kind = TINY_KINDS; kind < KINDS; ++kind) {
        const char *engine = kind % 2 ? "ref-bf16" : "ref-f32";
        open_kind(kind, MADE_PLAIN);
        ck_assert_int_eq(judged(engine, &base, NULL, 0, "backbone.embeddings", 0), 0);
        for (size_t i = 0; i < sizeof products / sizeof *products; ++i) {
            fh1_model wrong = attached;
            fh1_layer layers[2];
            memcpy(layers, attached.layers, sizeof layers);
            wrong.layers = layers;
            fh1_lora scaled = *attached.layers[1].lora[products[i].id];
            scaled.scale *= (double)scaled.A.shape[0] + 1;
            layers[1].lora[products[i].id] = &scaled;
            ck_assert_int_eq(judged(engine, &wrong, NULL, 0, products[i].tap, 0), 0);
            layers[1].lora[products[i].id] = NULL;
            ck_assert_int_eq(judged(engine, &attached, &wrong, 0, products[i].tap, 1), 0);
        }
        close_kind();
    }
}
END_TEST

/* ---- merged ---- */

/* The attached model merged in f64 and rounded once to the base's type, untied. */
static void merge(fh1_model *out)
{
    fh1_model wide;
    merged_build(&wide, &base);
    for (int64_t i = 0; i < pairs.a.n_loras; ++i) merged_add(&wide, &pairs.loras[i], 1);
    tiny_build(out, &wide.config, base.embed.dtype, 1);
    for (int64_t i = 0; i < out->n_weights; ++i) {
        fh1_tensor *to = fh1_model_slot(out, out->weights[i].name), *from = fh1_model_slot(&wide, out->weights[i].name);
        for (int64_t k = 0; k < fh1_n_elems(to); ++k) fh1_set(to, k, fh1_get(from, k));
    }
    fh1_model_free(&wide);
}

static int judged_merged(const fh1_model *merged, double halves, const char *tap)
{
    const gld_merged m = {&attached, merged, "ref-f64", halves, 3, "merged", ref_engine_new};
    fh1_report *r = new_report(stdout);
    TINY_OK(gld_judge_merged(&m, r));
    return finish(r, "merged", tap, 0);
}

START_TEST(merged_models)
{
    static const struct {
        const char *weight, *at, *bias, *bias_at;
    } places[] = {{"model.layers.1.feed_forward.down_proj.weight", "model.layers.1.feed_forward.down_proj",
                   "model.layers.0.self_attn.k_proj.bias", "model.layers.0.self_attn.k_proj"},
                  {"backbone.layers.1.mixer.dt_proj.weight", "backbone.layers.1.mixer.dt",
                   "backbone.layers.0.mixer.dt_proj.bias", "backbone.layers.0.mixer.dt"}},
      *place;
    for (int kind = 0; kind < KINDS; ++kind) {
        fh1_model m;
        place = &places[kind < TINY_KINDS ? 0 : 1];
        const char *embed = fh1_embed_module(kind < TINY_KINDS ? FH1_FALCON_H1 : FH1_FALCON_MAMBA);
        open_kind(kind, kind % 2 ? MADE_DORA : MADE_PLAIN);
        merge(&m);
        ck_assert_int_eq(judged_merged(&m, 1 + 1e-6, NULL), 0);
        ck_assert_int_eq(judged_merged(&m, 0.02, embed), 0); /* the rounding is there to be allowed */
        ck_assert_int_eq(judged_merged(&base, 1 + 1e-6, embed), 0);

        fh1_tensor *w = fh1_model_slot(&m, place->weight);
        const double kept = fh1_get(w, 17);
        fh1_set(w, 17, kept + 300 * fh1_dtype_ulp(w->dtype, kept));
        ck_assert_int_eq(judged_merged(&m, 1 + 1e-6, place->at), 0);
        fh1_set(w, 17, kept);

        fh1_tensor *b = fh1_model_slot(&m, place->bias);
        for (int64_t i = 0; i < b->shape[0]; ++i) fh1_set(b, i, fh1_get(b, i) * 1.25); /* as a bias without its scale */
        ck_assert_int_eq(judged_merged(&m, 1 + 1e-6, place->bias_at), 0);
        fh1_model_free(&m);
        close_kind();
    }
}
END_TEST

START_TEST(other_sizes_are_refused)
{
    fh1_model other;
    char line[2048];
    fh1_config c = tiny_config(1);
    open_kind(0, MADE_PLAIN);
    tiny_build(&other, &c, FH1_F32, 1);
    const gld_merged m = {&attached, &other, "ref-f64", 1, 3, "merged", ref_engine_new};
    fh1_report *r = new_report(stdout);
    fh1_status s = gld_judge_merged(&m, r);
    ck_assert(s && s->code == FH1_E_INPUT);
    ck_assert_ptr_nonnull(strstr(fh1_status_line(s, line, sizeof line), "layers"));
    fh1_report_free(r);
    fh1_model_free(&other);
    close_kind();
}
END_TEST

int main(void)
{
    TCase *tc = tcase_create("attach_judge");
    tcase_add_test(tc, honest_engines_pass);
    tcase_add_test(tc, wrong_adapters_fail);
    tcase_add_test(tc, wrong_adapters_of_a_mamba_fail);
    tcase_add_test(tc, merged_models);
    tcase_add_test(tc, other_sizes_are_refused);
    return tiny_main(suite_create("attach_judge"), tc);
}
