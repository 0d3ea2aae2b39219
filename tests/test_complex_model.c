/* Whole models over complex numbers: real parts are those of ref-f64, derivatives agree with differences of it, a
 * planted fault has others, and a cache carries the step. */
#include "reference/faulty.h"
#include "tests/complex_fixture.h"

/* -- real parts -- */

typedef struct {
    double *v[FH1_TAP_COUNT][4]; /* real parts by tap and layer */
    int64_t n[FH1_TAP_COUNT][4];
} tape;

static fh1_status record(void *user, const fh1_tap_event *e)
{
    tape *t = user;
    const int64_t n = fh1_n_elems(&e->value), pair = e->value.dtype == FH1_C128 ? 2 : 1;
    double *v = t->v[e->id][e->layer] = malloc((size_t)(n + 1) * sizeof *v);
    for (int64_t i = 0; i < n; ++i) v[i] = ((const double *)e->value.data)[i * pair];
    t->n[e->id][e->layer] = n;
    return NULL;
}

static void free_tape(tape *t)
{
    for (int id = 0; id < FH1_TAP_COUNT; ++id)
        for (int l = 0; l < 4; ++l) free(t->v[id][l]);
}

/* A call of T - 3 columns, then three of one: prefill, then the step's few rows. */
static void run_taped(fh1_engine *e, const example *x, const fh1_batch *b, tape *t)
{
    fh1_cache *cache;
    GRAD_FINE(fh1_cache_new(&x->m.config, e->dtype, b->B, &cache));
    const fh1_tap_sink sink = {.user = t, .tap = record};
    GRAD_FINE(e->forward(e, &x->m, b, cache, b->T, NULL, &sink));
    fh1_cache *fork;
    GRAD_FINE(fh1_cache_clone(cache, &fork));
    int64_t mask[(T + 1) * B];
    for (int64_t i = 0; i < (T + 1) * b->B; ++i)
        mask[i] = i % (T + 1) < T && b->mask ? b->mask[i / (T + 1) * T + i % (T + 1)] : 1;
    const fh1_batch step = {.B = b->B, .T = 1, .ids = x->ids + 7, .mask = mask, .mask_len = T + 1};
    tape *next = t + 1;
    const fh1_tap_sink sink_of_step = {.user = next, .tap = record};
    GRAD_FINE(e->forward(e, &x->m, &step, fork, 1, NULL, &sink_of_step));
    fh1_cache_free(fork);
    fh1_cache_free(cache);
}

/* The largest difference of a tap over its RMS. */
static double tape_gap(const tape *a, const tape *b)
{
    double worst = 0;
    for (int id = 0; id < FH1_TAP_COUNT; ++id)
        for (int l = 0; l < 4; ++l) {
            fh1_rms r = {0};
            if (!a->v[id][l] || a->n[id][l] != b->n[id][l]) {
                if (a->n[id][l] != b->n[id][l]) return (double)INFINITY;
                continue;
            }
            for (int64_t i = 0; i < a->n[id][l]; ++i)
                fh1_rms_add(&r, fh1_error_of(a->v[id][l][i], b->v[id][l][i]), b->v[id][l][i], i);
            if (fh1_within(r.max_err, 0)) continue;
            const double gap = r.max_err / fh1_rms_ref(&r);
            if (!fh1_within(gap, worst)) worst = isnan(gap) ? (double)INFINITY : gap;
        }
    return worst;
}

/* Where nothing moves the complex engine computes what ref-f64 does, in other orders of summation (dot products have
 * other lanes, zgemm other blocks) and with quotients by |z|²: two ways through one f64 model, the bound of the laws.
 */
START_TEST(real_parts)
{
    for (int g = 0; g < N_GOLDEN; ++g) {
        example x;
        open_example(&x, g);
        fh1_engine *truth = ref_engine_new("ref-f64", NULL, 0), *e = ref_complex_engine_new(0);
        const fh1_batch *const batches[] = {&x.plain, &x.padded, &x.packed};
        for (int k = 0; k < 3; ++k) {
            tape a[2] = {0}, b[2] = {0};
            run_taped(e, &x, batches[k], a);
            run_taped(truth, &x, batches[k], b);
            for (int i = 0; i < 2; ++i) {
                const double gap = tape_gap(&a[i], &b[i]);
                ck_assert_msg(fh1_within(gap, fh1_rule.law_f64), "%s %d %d: %g", golden[g], k, i, gap);
            }
            ck_assert(a[0].v[FH1_TAP_LOSS][0] && a[0].v[FH1_TAP_LAYER][x.m.config.n_layers - 1]);
            a[1].v[FH1_TAP_LOGITS][0][5] += 1e-9; /* the comparison sees a billionth */
            ck_assert(!fh1_within(tape_gap(&a[1], &b[1]), fh1_rule.law_f64));
            for (int i = 0; i < 2; ++i) free_tape(&a[i]), free_tape(&b[i]);
        }
        e->free(e);
        truth->free(truth);
        close_example(&x);
    }
}
END_TEST

START_TEST(differences)
{
    fh1_engine *truth = ref_engine_new("ref-f64", NULL, 0);
    for (int g = 0; g < N_GOLDEN; ++g) {
        example x;
        open_example(&x, g);
        double worst = 0;
        int64_t of;
        const int64_t counted = compare_with_differences(&x, truth, g % 2 ? &x.padded : &x.packed, &worst, &of);
        ck_assert_msg(fh1_within(worst, 1), "%s: %g", golden[g], worst);
        ck_assert_int_eq(counted, of);
        close_example(&x);
    }
    truth->free(truth);
}
END_TEST

/* A forward pass with a planted fault has other derivatives: the same comparison says so. */
START_TEST(differences_of_faulty_engines)
{
    static const fh1_fault faults[] = {FH1_FAULT_INPUT_WITHOUT_DT, FH1_FAULT_CONV_WITHOUT_SILU, FH1_FAULT_MLP_GELU,
                                       FH1_FAULT_SCORES_NOT_SCALED, FH1_FAULT_LOSS_NOT_SHIFTED};
    example x;
    open_example(&x, 1);
    for (size_t i = 0; i < sizeof faults / sizeof *faults; ++i) {
        fh1_engine *e = ref_faulty_engine_new("ref-f64", NULL, 0, faults[i]);
        double worst = 0;
        int64_t of;
        compare_with_differences(&x, e, &x.padded, &worst, &of);
        ck_assert_msg(!fh1_within(worst, 100), "%s: %g", fh1_fault_get(faults[i])->name, worst);
        e->free(e);
    }
    close_example(&x);
}
END_TEST

/* The step goes through a cache: a weight that moves in a prefill and in steps after a clone and a reorder moves the
 * logits as in one call. Sums in other orders: the bound of the laws. */
START_TEST(cache_carries_the_step)
{
    enum { HEAD = 20 };
    example x;
    open_example(&x, 1);
    fh1_layer *l = &x.m.layers[0];
    const fh1_tensor was = l->in_w;
    const int64_t n = fh1_n_elems(&was), V = x.m.config.V;
    double *w = calloc((size_t)n * 2, sizeof *w), *whole = malloc((size_t)(2 * T * V) * sizeof *whole),
           *last = malloc((size_t)(2 * V) * sizeof *last);
    for (int64_t i = 0; i < n; ++i) w[2 * i] = fh1_get(&was, i), w[2 * i + 1] = FH1_COMPLEX_STEP * (double)(i % 3 - 1);
    l->in_w = fh1_view2(w, FH1_C128, was.shape[0], was.shape[1]);
    fh1_engine *e = ref_complex_engine_new(0);
    fh1_cache *one, *parts;
    GRAD_FINE(fh1_cache_new(&x.m.config, FH1_C128, 1, &one));
    GRAD_FINE(e->forward(e, &x.m, &x.plain, one, T, whole, NULL));
    fh1_cache_reset(one);
    fh1_batch b = {.B = 1, .T = HEAD, .ids = x.ids};
    GRAD_FINE(e->forward(e, &x.m, &b, one, 0, NULL, NULL));
    GRAD_FINE(fh1_cache_clone(one, &parts));
    GRAD_FINE(fh1_cache_reorder(parts, (const int64_t[]){0, 0}, 2));
    GRAD_FINE(fh1_cache_reorder(parts, (const int64_t[]){1}, 1));
    for (int64_t t = HEAD; t < T; ++t) {
        b = (fh1_batch){.B = 1, .T = 1, .ids = x.ids + t};
        GRAD_FINE(e->forward(e, &x.m, &b, parts, 1, last, NULL));
        for (int part = 0; part < 2; ++part) {
            fh1_rms r = {0};
            for (int64_t v = 0; v < V; ++v) {
                const double scale = part ? FH1_COMPLEX_STEP : 1, want = whole[2 * (t * V + v) + part] / scale;
                fh1_rms_add(&r, fh1_error_of(last[2 * v + part] / scale, want), want, v);
            }
            ck_assert_msg(fh1_within(r.max_err, fh1_rule.law_f64 * fh1_rms_ref(&r)), "%d %d", (int)t, part);
            ck_assert(fh1_rms_ref(&r) > 1e-9);
        }
    }
    l->in_w = was;
    fh1_cache_free(one);
    fh1_cache_free(parts);
    e->free(e);
    free(w), free(whole), free(last);
    close_example(&x);
}
END_TEST

int main(void)
{
    fh1_set_threads(1); /* the loops are short: waking a pool costs more */
    Suite *suite = suite_create("complex_model");
    TCase *tc = tcase_create("complex_model");
    tcase_add_test(tc, real_parts);
    tcase_add_test(tc, differences);
    tcase_add_test(tc, differences_of_faulty_engines);
    tcase_add_test(tc, cache_carries_the_step);
    tcase_set_timeout(tc, 200);
    suite_add_tcase(suite, tc);
    SRunner *r = srunner_create(suite);
    srunner_run_all(r, CK_NORMAL);
    const int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
