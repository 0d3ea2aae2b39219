/* D-94: an adapter trained on a base that was quantised to NF4, merged onto the decoded weights and onto the original.
 */
#include "tests/edge/edge_file_cases.h"

#include "convert/bnb.h"
#include "convert/hf_write.h"
#include "convert/model_open.h"
#include "golden/calls.h"
#include "golden/record.h"
#include "oracle/compare.h"
#include "oracle/random.h"

#include <math.h>
#include <string.h>

#define QUANTISED "golden/merges/bases/nf4"
#define ADAPTER "golden/merges/adapters/nf4-all"

/* ‖·‖ of what the converter tells of each adapted matrix. */
enum { MOST_TOLD = 64 };
typedef struct {
    char name[MOST_TOLD][160];
    double delta[MOST_TOLD], quantisation[MOST_TOLD];
    int n;
} told;

static void tell(void *user, const char *tensor, double rms_delta, double rms_quantisation)
{
    told *t = user;
    if (t->n == MOST_TOLD) return;
    snprintf(t->name[t->n], sizeof t->name[t->n], "%s", tensor);
    t->delta[t->n] = rms_delta;
    t->quantisation[t->n++] = rms_quantisation;
}

static fh1_status open_decoded(cvt_ckpt **out)
{
    cvt_ckpt *c;
    FH1_TRY(cvt_ckpt_open(QUANTISED, &c));
    return cvt_ckpt_dequantise(c, FH1_BF16, out);
}

/* The 16-bit original: what the codes stand for, moved by up to a tenth of the RMS of its row, as quantisation moves
 * weights. In the folder "original". */
static fh1_status save_original(edge_run *r)
{
    cvt_ckpt *c;
    fh1_model m;
    FH1_TRY(open_decoded(&c));
    fh1_status s = cvt_model_from_ckpt(c, &m);
    cvt_ckpt_close(c);
    if (s) return s;
    for (int64_t i = 0; i < m.n_weights; ++i) {
        const fh1_tensor *t = &m.weights[i].t;
        const fh1_stream stream = fh1_stream_open(r->seed, m.weights[i].name);
        fh1_rms all = {0};
        if (t->rank != 2 || !strstr(m.weights[i].name, "_proj")) continue;
        for (int64_t k = 0; k < fh1_n_elems(t); ++k) fh1_rms_add(&all, 0, fh1_get(t, k), k);
        for (int64_t k = 0; k < fh1_n_elems(t); ++k)
            fh1_set(t, k, fh1_get(t, k) + 0.1 * fh1_rms_ref(&all) * fh1_random_normal(stream, (uint64_t)k));
    }
    s = edge_save(r, &m, "original", EDGE_FORM_5);
    fh1_model_free(&m);
    return s;
}

typedef struct {
    fh1_model base, merged;
    told t;
} image;

/* The adapter merged onto one image, with the other beside it. */
static fh1_status merge_onto(edge_run *r, bool original, image *out)
{
    char path[EDGE_PATH];
    cvt_ckpt *a, *b, *merged;
    cvt_adapter adapter;
    const cvt_merge_options o = {.rounding = CVT_ROUND_EXACT, .tell = tell, .user = &out->t};
    cvt_merge_options both = o;
    out->t.n = 0;
    FH1_TRY(open_decoded(&a));
    FH1_TRY(cvt_ckpt_open(edge_path(r, "original", path), &b));
    cvt_ckpt *base = original ? b : a, *other = original ? a : b;
    both.other_image = other;
    FH1_TRY(cvt_model_from_ckpt(base, &out->base));
    FH1_TRY(edge_accepted(r, cvt_adapter_open(ADAPTER, NULL, base, &adapter), ADAPTER));
    fh1_status s = edge_accepted(r, cvt_ckpt_merge(base, &(cvt_merge_part){&adapter, 1}, 1, &both, &merged), "a merge");
    if (!s) s = cvt_model_from_ckpt(merged, &out->merged);
    if (!s) cvt_ckpt_close(merged);
    cvt_ckpt_close(other);
    cvt_adapter_free(&adapter);
    return s;
}

static const fh1_tensor *tensor_of(const fh1_model *m, const char *name)
{
    for (int64_t i = 0; i < m->n_weights; ++i)
        if (strcmp(m->weights[i].name, name) == 0) return &m->weights[i].t;
    return NULL;
}

static double rms_between(const fh1_tensor *a, const fh1_tensor *b)
{
    fh1_rms all = {0};
    for (int64_t i = 0; i < fh1_n_elems(a); ++i) fh1_rms_add(&all, fh1_error_of(fh1_get(a, i), fh1_get(b, i)), 0, i);
    return fh1_rms_err(&all);
}

/* What is told of each matrix against the tensors themselves: what quantisation changed, to an f64 sum; what the merge
 * added to its own base, to the rounding of bf16, 2^-9 of a weight against a ΔW that is never smaller than 2^-6 of it.
 */
static fh1_status told_right(edge_run *r, const image *on, const image *other)
{
    FH1_TRY(edge_require(r, on->t.n >= 10, "%d matrices are told of", on->t.n));
    for (int i = 0; i < on->t.n; ++i) {
        const char *name = on->t.name[i];
        const fh1_tensor *w = tensor_of(&on->base, name), *v = tensor_of(&on->merged, name),
                         *u = tensor_of(&other->base, name);
        if (!w || !v || !u) return edge_require(r, false, "%s is told of, but there is none", name);
        const double change = rms_between(w, u), delta = rms_between(v, w);
        FH1_TRY(edge_require(r, fh1_within(fabs(on->t.quantisation[i] - change), 1e-12 * change) && change > 0,
                             "%s: quantisation changed %.6g, told is %.6g", name, change, on->t.quantisation[i]));
        FH1_TRY(edge_require(r, fh1_within(fabs(on->t.delta[i] - delta), 0.25 * delta) && delta > 0,
                             "%s: the merge added %.6g, told is %.6g", name, delta, on->t.delta[i]));
    }
    return NULL;
}

/* Each merge is its own image plus the one ΔW: what was added is the same to the two roundings. */
static fh1_status same_delta(edge_run *r, const image *a, const image *b)
{
    for (int i = 0; i < a->t.n; ++i) {
        const char *name = a->t.name[i];
        const fh1_tensor *w = tensor_of(&a->base, name), *v = tensor_of(&a->merged, name),
                         *x = tensor_of(&b->base, name), *y = tensor_of(&b->merged, name);
        int64_t wrong = 0;
        for (int64_t k = 0; k < fh1_n_elems(w); ++k) {
            const double one = fh1_get(v, k) - fh1_get(w, k), two = fh1_get(y, k) - fh1_get(x, k);
            const double ulps = fh1_dtype_ulp(v->dtype, fh1_get(v, k)) + fh1_dtype_ulp(y->dtype, fh1_get(y, k));
            wrong += !fh1_within(fabs(one - two), 0.5 * ulps);
        }
        FH1_TRY(edge_require(r, wrong == 0, "%s: %d elements are not their own image plus ΔW", name, (int)wrong));
    }
    return NULL;
}

/* The mean loss of a text of 24 tokens, by the truth. */
static fh1_status loss_of(edge_run *r, const fh1_model *m, double *out)
{
    gld_calls *calls = malloc(sizeof *calls);
    gld_trace inputs = {0}, t = {0};
    fh1_engine *truth;
    const gld_record_options o = {.taps = "loss", .no_cache_taps = true, .store = FH1_F64};
    if (!calls) return fh1_no_memory(sizeof *calls, "a schedule");
    fh1_status s = gld_calls_parse("p24y", calls);
    if (!s) s = gld_calls_trace(calls, m->config.V, r->seed, &inputs);
    if (!s) s = edge_truth(r, &truth);
    if (!s) s = gld_record_like(truth, m, &inputs, &o, &t);
    const gld_tap *loss = s ? NULL : gld_trace_find(&t, 0, FH1_TAP_LOSS, 0);
    if (!s && !loss) s = fh1_fail(FH1_E_INTERNAL, "no loss was recorded");
    if (!s) *out = fh1_get(&loss->t, 0);
    gld_trace_free(&t);
    gld_trace_free(&inputs);
    free(calls);
    return s;
}

/* Two losses, which differ because the images do. */
static fh1_status losses(edge_run *r, const image *decoded, const image *original)
{
    double a, b;
    FH1_TRY(loss_of(r, &decoded->merged, &a));
    FH1_TRY(loss_of(r, &original->merged, &b));
    return edge_require(r, isfinite(a) && isfinite(b) && a != b,
                        "the losses of the two merges are %.6g (decoded) and %.6g (original)", a, b);
}

static fh1_status engine_leg(edge_run *r, const fh1_model *m)
{
    char path[EDGE_PATH];
    FH1_TRY(edge_save(r, m, "written", EDGE_FORM_5));
    return edge_check_file(r, edge_path(r, "written", path), m, 0);
}

fh1_status edge_merge_onto_images(edge_run *r)
{
    image *x = calloc(2, sizeof *x);
    if (!x) return fh1_no_memory(2 * sizeof *x, "two merges");
    fh1_status s = save_original(r);
    if (!s) s = merge_onto(r, false, &x[0]);
    if (!s) s = merge_onto(r, true, &x[1]);
    if (!s) s = told_right(r, &x[0], &x[1]);
    if (!s) s = told_right(r, &x[1], &x[0]);
    if (!s) s = same_delta(r, &x[0], &x[1]);
    if (!s) s = losses(r, &x[0], &x[1]);
    if (!s) s = engine_leg(r, &x[0].merged);
    if (!s) s = engine_leg(r, &x[1].merged);
    edge_contract(r, r->profile);
    for (int i = 0; i < 2; ++i) {
        fh1_model_free(&x[i].base);
        fh1_model_free(&x[i].merged);
    }
    free(x);
    return s;
}
