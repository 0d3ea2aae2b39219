/* Masters and moments, clipping, and checkpoints that give the same bits back; adapters that begin without an effect.
 *
 * A fake engine stands for backward: its AdamW writes down what it is asked and adds what is easy to foresee. */
#include "cli/train_adapter.h"
#include "cli/train_checkpoint.h"
#include "cli/train_state.h"
#include "convert/safetensors.h"
#include "tests/tiny_model.h"

#include <unistd.h>

/* ---- the fake ---- */

static fh1_adamw asked[256];
static int64_t sizes[256];
static int n_asked;

/* w += lr, m = t, v = decay */
static fh1_status fake_adamw(fh1_engine *e, int64_t n, const fh1_adamw *o, const void *g, void *w, void *m, void *v)
{
    (void)e, (void)g;
    if (n_asked < 256) {
        sizes[n_asked] = n;
        asked[n_asked++] = *o;
    }
    for (int64_t i = 0; i < n; i++) {
        ((float *)w)[i] += (float)o->lr;
        ((float *)m)[i] = (float)o->t;
        ((float *)v)[i] = (float)o->decay;
    }
    return NULL;
}

static fh1_status fake_squares(fh1_engine *e, int64_t n, const void *g, double *sum)
{
    (void)e;
    *sum = 0;
    for (int64_t i = 0; i < n; i++) *sum += (double)((const float *)g)[i] * (double)((const float *)g)[i];
    return NULL;
}

static const fh1_bwd_ops fake_ops = {.adamw = fake_adamw, .sum_of_squares = fake_squares};
static fh1_engine fake = {.name = "fake", .dtype = FH1_F32, .bwd_ops = &fake_ops};

static bool is_mixer(void *user, const fh1_param *p)
{
    (void)user;
    return strstr(p->name, ".mamba.") != NULL;
}

typedef struct {
    fh1_model m;
    fh1_grads *g;
    cli_train_state s;
} run;

static void open_run(run *r, int kind, bool mixer_only)
{
    cli_factors *f;
    tiny_build_kind(&r->m, kind);
    TINY_OK(fh1_grads_new(&r->m, FH1_F32, mixer_only ? is_mixer : NULL, NULL, &r->g));
    ck_assert_ptr_nonnull(f = calloc((size_t)r->g->n, sizeof *f));
    for (int64_t i = 0; i < r->g->n; i++) f[i] = (cli_factors){(double)(i + 1), i % 2 ? 0 : 1};
    TINY_OK(cli_train_state_new(&r->m, r->g, f, &r->s));
    free(f);
}

static void close_run(run *r)
{
    fh1_grads_free(r->g);
    fh1_model_free(&r->m);
    cli_train_state_free(&r->s);
}

/* ---- masters ---- */

START_TEST(masters_are_the_weights)
{
    for (int kind = 0; kind < TINY_KINDS; kind++) {
        run r;
        fh1_model again;
        open_run(&r, kind, false);
        tiny_build_kind(&again, kind);
        for (int64_t i = 0; i < r.s.n; i++) {
            const fh1_param *p = &r.g->params[r.s.slots[i].param];
            const fh1_tensor *was = fh1_model_slot(&again, p->name);
            ck_assert_int_eq(r.s.slots[i].n, fh1_n_elems(was));
            ck_assert(p->value->dtype == was->dtype); /* bf16 stays bf16, f32 is the master */
            ck_assert((r.s.slots[i].stored != NULL) == (was->dtype == FH1_BF16));
            ck_assert(p->value->data == (r.s.slots[i].stored ? r.s.slots[i].stored : r.s.slots[i].master));
            for (int64_t k = 0; k < r.s.slots[i].n; k++) {
                ck_assert((double)((const float *)r.s.slots[i].master)[k] == fh1_get(was, k));
                ck_assert(fh1_get(p->value, k) == fh1_get(was, k));
            }
        }
        /* both ends of a tied model show what is trained */
        if (r.m.config.tied) ck_assert(r.m.lm_head.data == r.m.embed.data && r.m.embed.data != again.embed.data);
        fh1_model_free(&again);
        close_run(&r);
    }
}
END_TEST

START_TEST(frozen_weights_stay_where_they_are)
{
    run r;
    open_run(&r, 1, true);
    for (int64_t i = 0; i < r.g->n; i++) {
        const fh1_param *p = &r.g->params[i];
        const bool trained = strstr(p->name, ".mamba.") != NULL;
        bool in_state = false;
        for (int64_t k = 0; k < r.s.n; k++) in_state |= r.s.slots[k].param == i;
        ck_assert(in_state == trained);
    }
    ck_assert(r.m.lm_head.data == r.m.embed.data);
    close_run(&r);
}
END_TEST

START_TEST(a_step_rounds_masters_and_applies_factors)
{
    run r;
    open_run(&r, 1, false); /* bf16, tied */
    const fh1_adamw o = {.beta1 = 0.9, .beta2 = 0.99, .eps = 1e-8, .decay = 0.125, .grad_scale = 0.5};
    n_asked = 0;
    for (int step = 1; step <= 2; step++) TINY_OK(cli_train_state_update(&r.s, &fake, 0.25, &o));
    ck_assert_int_eq(r.s.step, 2);
    ck_assert_int_eq(n_asked, 2 * r.s.n);
    for (int64_t i = 0; i < r.s.n; i++) {
        const cli_slot *x = &r.s.slots[i];
        const fh1_adamw *a = &asked[r.s.n + i];
        const fh1_tensor *view = r.g->params[x->param].value;
        ck_assert_int_eq(a->t, 2);
        ck_assert_int_eq(sizes[i], x->n);
        ck_assert(a->lr == 0.25 * (double)(x->param + 1) && a->decay == (x->param % 2 ? 0 : 0.125));
        ck_assert(a->grad_scale == 0.5 && a->beta1 == 0.9 && a->beta2 == 0.99 && a->eps == 1e-8);
        for (int64_t k = 0; k < x->n; k++) {
            const float master = ((const float *)x->master)[k];
            ck_assert(fh1_get(view, k) == (double)fh1_bf16_to_f32(fh1_f32_to_bf16(master)));
        }
    }
    ck_assert(r.m.lm_head.data == r.m.embed.data);
    close_run(&r);
}
END_TEST

START_TEST(norm_and_clip)
{
    run r;
    const fh1_param *bad;
    double norm;
    open_run(&r, 0, false);
    TINY_OK(cli_train_state_norm(&r.s, &fake, &norm, &bad));
    ck_assert(norm == 0 && !bad);
    float *first = r.g->params[r.s.slots[1].param].grad.data, *last = r.g->params[r.s.slots[r.s.n - 1].param].grad.data;
    first[0] = 3;
    last[0] = -4;
    TINY_OK(cli_train_state_norm(&r.s, &fake, &norm, &bad));
    ck_assert(norm == 5 && !bad);
    last[0] = NAN;
    first[0] = INFINITY;
    TINY_OK(cli_train_state_norm(&r.s, &fake, &norm, &bad));
    ck_assert(!isfinite(norm) && bad == &r.g->params[r.s.slots[1].param]); /* the first one to blame */
    close_run(&r);
    ck_assert(cli_clip_scale(5, 1) == 1 / (5 + 1e-6));
    ck_assert(cli_clip_scale(0.5, 1) == 1 && cli_clip_scale(5, 0) == 1 && cli_clip_scale(0, 1) == 1);
    ck_assert(cli_clip_scale(1, 1) < 1); /* torch's 1e-6 acts at the border too */
}
END_TEST

START_TEST(broken_masters_are_named)
{
    run r;
    open_run(&r, 2, false);
    ck_assert_ptr_null(cli_train_state_broken(&r.s));
    ((float *)r.s.slots[3].master)[0] = INFINITY;
    ck_assert_ptr_eq(cli_train_state_broken(&r.s), &r.g->params[r.s.slots[3].param]);
    close_run(&r);
}
END_TEST

/* ---- checkpoints ---- */

static char path[64];

static void set_path(void)
{
    snprintf(path, sizeof path, "/tmp/fh1-train-state.%ld", (long)getpid());
}

static void remove_file(void)
{
    unlink(path);
}

static void expect_refusal(fh1_status s, const char *part)
{
    char line[2048];
    ck_assert_msg(s && s->code == FH1_E_INPUT, "not refused: %s", part);
    ck_assert_msg(strstr(fh1_status_line(s, line, sizeof line), part), "'%s' is not in: %s", part, line);
}

START_TEST(a_checkpoint_gives_the_bits_back)
{
    run a, b;
    cli_conditions c = {.n = 0};
    const fh1_adamw o = {.decay = 0.1};
    cli_train_place place = {.epoch = 3, .document = 5, .token = 7, .offset = 1234}, found = {.epoch = 0};
    open_run(&a, 1, true);
    cli_condition_add(&c, "--lr", "%.17g", 0.1);
    cli_condition_add(&c, "the model", "%s", "abc");
    for (int step = 0; step < 3; step++) TINY_OK(cli_train_state_update(&a.s, &fake, 1e-3, &o));
    TINY_OK(cli_checkpoint_write(path, &a.s, &place, &c));
    TINY_OK(cli_checkpoint_write(path, &a.s, &place, &c)); /* over the earlier one */
    open_run(&b, 1, true);
    TINY_OK(cli_checkpoint_read(path, &b.s, &found, &c));
    ck_assert_int_eq(b.s.step, 3);
    ck_assert_mem_eq(&place, &found, sizeof place);
    for (int64_t i = 0; i < a.s.n; i++) {
        const cli_slot *x = &a.s.slots[i], *y = &b.s.slots[i];
        const size_t n = (size_t)x->n * sizeof(float);
        ck_assert(memcmp(x->master, y->master, n) == 0 && memcmp(x->m, y->m, n) == 0 && memcmp(x->v, y->v, n) == 0);
        ck_assert_mem_eq(x->stored, y->stored, n / 2); /* what the engine sees */
    }
    /* other conditions */
    cli_conditions other = c;
    snprintf(other.items[0].value, sizeof other.items[0].value, "0.2");
    expect_refusal(cli_checkpoint_read(path, &b.s, &found, &other), "--resume: --lr is not what the run began with");
    other = c;
    cli_condition_add(&other, "--new", "1");
    expect_refusal(cli_checkpoint_read(path, &b.s, &found, &other), "--new");
    close_run(&b);
    open_run(&b, 1, false); /* other parameters */
    expect_refusal(cli_checkpoint_read(path, &b.s, &found, &c), "has not the parameters of this run");
    close_run(&b);
    close_run(&a);
}
END_TEST

START_TEST(other_files_are_no_checkpoint)
{
    cvt_st_writer *w;
    const float one = 1;
    ck_assert_ptr_null(cli_checkpoint_is(path)); /* nothing is there */
    TINY_OK(cvt_st_writer_new(path, false, &w));
    TINY_OK(cvt_st_writer_declare(w, "x", FH1_F32, 1, (const int64_t[]){1}));
    TINY_OK(cvt_st_writer_put(w, "x", 0, &one, 1));
    TINY_OK(cvt_st_writer_commit(w));
    cvt_st_writer_free(w);
    expect_refusal(cli_checkpoint_is(path), "no checkpoint of fh1 train");
    run r;
    cli_conditions c = {.n = 0};
    cli_train_place place = {.epoch = 0};
    open_run(&r, 0, true);
    expect_refusal(cli_checkpoint_write(path, &r.s, &place, &c), "no checkpoint of fh1 train"); /* and stays */
    expect_refusal(cli_checkpoint_read(path, &r.s, &place, &c), "no checkpoint of fh1 train");
    close_run(&r);
}
END_TEST

/* ---- new adapters ---- */

START_TEST(words_of_lora)
{
    cli_lora_spec s;
    ck_assert_ptr_null(cli_lora_parse("8,16,q_proj+v_proj", &s));
    ck_assert(s.r == 8 && s.alpha == 16 && s.n == 2 && cli_lora_has(&s, "q_proj") && cli_lora_has(&s, "v_proj"));
    ck_assert_ptr_null(cli_lora_parse("4,0.5,in_proj out_proj  embed_tokens", &s));
    ck_assert(s.n == 3 && s.alpha == 0.5 && cli_lora_has(&s, "embed_tokens") && !cli_lora_has(&s, "proj"));
    static const struct {
        const char *text, *part;
    } bad[] = {
        {"", "not an adapter"},
        {"8,16", "not an adapter"},
        {"8,16,", "not an adapter"},
        {"0,16,q_proj", "not a rank"},
        {"x,16,q_proj", "not a rank"},
        {"8,x,q_proj", "alpha"},
        {"8,0,q_proj", "alpha 0"},
        {"8,16,q_proj+wq", "matches no module (expected in_proj out_proj q_proj"},
        {"8,16,q_proj+q_proj", "twice"},
        {"8,16,conv1d", "depthwise"},
        {"8,16,all-linear", "PEFT refuses"},
        {"8,16,+", "matches no module"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) expect_refusal(cli_lora_parse(bad[i].text, &s), bad[i].part);
}
END_TEST

START_TEST(a_new_adapter_changes_nothing)
{
    for (int kind = 0; kind < 2; kind++) {
        fh1_model plain, m;
        cli_lora_spec spec;
        cli_adapter *a;
        cli_lora_cover cover;
        int64_t ids[20];
        TINY_OK(cli_lora_parse("2,3,in_proj+q_proj+down_proj+out_proj+embed_tokens+lm_head", &spec));
        tiny_build_kind(&plain, kind);
        tiny_build_kind(&m, kind);
        TINY_OK(cli_adapter_new(&m, &spec, 5, &a, &cover));
        ck_assert_int_eq(cover.modules, 3 * 4 + 2);
        ck_assert_int_eq(cover.linears, 3 * 9 + 2);
        tiny_ids(3, 20, ids);
        tiny_session x = tiny_solo(&plain, "ref-f32", ids, 20), y = tiny_solo(&m, "ref-f32", ids, 20);
        ck_assert(tiny_same(&x, 0, &y, 0)); /* B is 0, and A of the embedding */
        tiny_close(&x);
        tiny_close(&y);
        const fh1_lora *l = m.layers[1].lora[FH1_TAP_IN_PROJ];
        ck_assert(l->scale == 1.5 && l->A.shape[0] == 2 && l->A.shape[1] == m.config.D);
        double largest = 0, mean = 0;
        const double bound = 1 / sqrt((double)m.config.D);
        for (int64_t i = 0; i < 2 * m.config.D; i++) {
            largest = fmax(largest, fabs(fh1_get(&l->A, i)));
            mean += fh1_get(&l->A, i) / (double)(2 * m.config.D);
        }
        /* 24 numbers in ±bound: none beyond, their largest in the upper half (1 - 2^-24), their mean near 0 (4 sigma)
         */
        ck_assert(largest <= bound && largest > bound / 2 && fabs(mean) < 4 * bound / sqrt(3.0 * 24));
        for (int64_t i = 0; i < fh1_n_elems(&l->B); i++) ck_assert(fh1_get(&l->B, i) == 0);
        ck_assert(m.embed_lora->A.shape[1] == m.config.V && fh1_get(&m.embed_lora->A, 0) == 0);
        ck_assert(fh1_get(&m.embed_lora->B, 0) != 0 && m.head_lora && !m.layers[0].lora[FH1_TAP_K_PROJ]);
        fh1_model_free(&plain);
        fh1_model_free(&m);
        cli_adapter_free(a);
    }
}
END_TEST

START_TEST(a_rank_must_fit)
{
    fh1_model m;
    cli_lora_spec spec;
    cli_adapter *a;
    cli_lora_cover cover;
    TINY_OK(cli_lora_parse("13,3,in_proj", &spec)); /* D is 12 */
    tiny_build_kind(&m, 0);
    expect_refusal(cli_adapter_new(&m, &spec, 5, &a, &cover),
                   "the rank is larger than a side of model.layers.0.mamba.in_proj");
    fh1_model_free(&m);
    cli_adapter_free(a);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("train_state");
    TCase *tc = tcase_create("all");
    tcase_add_checked_fixture(tc, set_path, remove_file);
    tcase_add_test(tc, masters_are_the_weights);
    tcase_add_test(tc, frozen_weights_stay_where_they_are);
    tcase_add_test(tc, a_step_rounds_masters_and_applies_factors);
    tcase_add_test(tc, norm_and_clip);
    tcase_add_test(tc, broken_masters_are_named);
    tcase_add_test(tc, a_checkpoint_gives_the_bits_back);
    tcase_add_test(tc, other_files_are_no_checkpoint);
    tcase_add_test(tc, words_of_lora);
    tcase_add_test(tc, a_new_adapter_changes_nothing);
    tcase_add_test(tc, a_rank_must_fit);
    return tiny_main(suite, tc);
}
