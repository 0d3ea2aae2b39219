/* Engines that compute a function in another of its usual forms must be accepted under fp32, which names no pipeline,
 * and under cuda-bf16, which names none between what it stores:
 * exp as a power of two, silu by tanh, softplus with its maximum taken out, a reciprocal root by Newton's steps, an
 * online softmax in either direction, in blocks and in parts, D·x first, the residual before the second branch, and
 * all of it with fused multiply-adds. The same forms with one corner cut must be rejected. */
#include "golden/op_case.h"
#include "reference/engine.h"

#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef enum { TWO_PASSES, FORWARDS, BACKWARDS, BLOCKS, PARTS } softmax;
typedef enum { BRANCHES_FIRST, A_FIRST, B_FIRST } residual_order;

typedef struct {
    const char *name;
    bool fused, base_2, tanh, stable_softplus, newton, D_first;
    softmax softmax;
    residual_order residual;
    bool coarse; /* a corner cut: exp, root and the first sum of the residual with 10 bits */
} engine_form;

static const engine_form forms[] = {
    {.name = "plain"},
    {.name = "fused", .fused = true},
    {.name = "powers of two, D first", .base_2 = true, .D_first = true, .residual = A_FIRST},
    {.name = "tanh, Newton, online", .tanh = true, .newton = true, .softmax = FORWARDS, .residual = B_FIRST},
    {.name = "softplus by maximum", .stable_softplus = true, .softmax = BACKWARDS, .D_first = true},
    {.name = "blocks of 16", .softmax = BLOCKS, .base_2 = true, .fused = true, .residual = A_FIRST},
    {.name = "four parts", .softmax = PARTS, .stable_softplus = true, .base_2 = true, .newton = true},
    {.name = "all at once",
     .fused = true,
     .base_2 = true,
     .tanh = true,
     .stable_softplus = true,
     .newton = true,
     .D_first = true,
     .softmax = FORWARDS,
     .residual = A_FIRST},
};
enum { N_FORMS = sizeof forms / sizeof *forms };

static engine_form form; /* of the running engine */
static fh1_round store;  /* how it stores an output, and a weight that meets v */

/* -- functions ------------------------------------------------------------------------------------ */

static float coarse(float v)
{
    return form.coarse ? fh1_round_f32(FH1_ROUND_TF32, v) : v;
}

static float mad(float a, float b, float sum)
{
    return form.fused ? fmaf(a, b, sum) : a * b + sum;
}

static const float log2_e = 1.44269504f;

static float stored(float v)
{
    return fh1_round_f32(store, v);
}

static float power(float x)
{
    return coarse(form.base_2 ? exp2f(x * log2_e) : expf(x));
}

static float silu(float z)
{
    if (form.tanh) return 0.5f * z * (1 + coarse(tanhf(0.5f * z)));
    return z / (1 + power(-z));
}

static float softplus(float v)
{
    if (form.stable_softplus) return fmaxf(v, 0) + log1pf(power(-fabsf(v)));
    return v > 20 ? v : log1pf(power(v));
}

static float reciprocal_root(float v)
{
    uint32_t bits;
    float y;
    if (!form.newton) return coarse(1 / sqrtf(v));
    memcpy(&bits, &v, sizeof bits);
    bits = 0x5f375a86 - (bits >> 1); /* 3 % off; each step squares that */
    memcpy(&y, &bits, sizeof y);
    for (int i = 0; i < 4; ++i) y *= 1.5f - 0.5f * v * y * y;
    return coarse(y);
}

/* -- ops ------------------------------------------------------------------------------------------ */

static fh1_status rmsnorm(fh1_engine *e, int64_t M, int64_t D, const void *x, const fh1_tensor *w, double eps, void *y)
{
    (void)e;
    for (int64_t m = 0; m < M; ++m) {
        const float *v = (const float *)x + m * D;
        float sum = 0;
        for (int64_t i = 0; i < D; ++i) sum = mad(v[i], v[i], sum);
        const float root = reciprocal_root(mad(sum, 1 / (float)D, (float)eps));
        for (int64_t i = 0; i < D; ++i)
            ((float *)y)[m * D + i] = stored(v[i] * (w->data ? root * (float)fh1_get(w, i) : root));
    }
    return NULL;
}

static fh1_status conv1d(fh1_engine *e, int64_t T, int64_t c, int64_t K, const void *x, const fh1_tensor *w,
                         const fh1_tensor *b, const int64_t *doc, int64_t window_doc, void *window, void *y)
{
    (void)e, (void)doc, (void)window_doc;
    const float *in = x;
    float *before = window;
    for (int64_t t = 0; t < T; ++t)
        for (int64_t i = 0; i < c; ++i) {
            float sum = b->data ? (float)fh1_get(b, i) : 0;
            for (int64_t k = 0; k < K; ++k) {
                const int64_t s = t - (K - 1) + k;
                const float v = s >= 0 ? in[s * c + i] : before[i * (K - 1) + K - 1 + s];
                sum = mad((float)fh1_get(w, i * K + k), v, sum);
            }
            ((float *)y)[t * c + i] = stored(silu(sum));
        }
    for (int64_t i = 0; i < c * (K - 1); ++i) { /* upwards: what stays comes from the right of where it goes */
        const int64_t s = T - (K - 1) + i % (K - 1);
        before[i] = s >= 0 ? in[s * c + i / (K - 1)] : before[i + T];
    }
    return NULL;
}

static fh1_status dt_softplus(fh1_engine *e, int64_t T, int64_t H, const void *raw, const fh1_tensor *bias, double lo,
                              double hi, void *dt)
{
    (void)e;
    for (int64_t i = 0; i < T * H; ++i) {
        const float y = softplus(((const float *)raw)[i] + (float)fh1_get(bias, i % H));
        ((float *)dt)[i] = fminf(fmaxf(y, (float)lo), (float)hi);
    }
    return NULL;
}

static fh1_status ssd_scan(fh1_engine *e, int64_t T, int64_t H, int64_t P, int64_t N, int64_t G, const void *x,
                           const void *B, const void *C, const void *dt, const fh1_tensor *A_log, const fh1_tensor *D,
                           const int64_t *doc, int64_t state_doc, void *state, void *y)
{
    (void)e, (void)doc, (void)state_doc;
    for (int64_t i = 0; i < T * H * P; ++i) {
        const int64_t t = i / (H * P), h = i / P % H, at = (t * G + h / (H / G)) * N;
        const float *b = (const float *)B + at, *c = (const float *)C + at, v = ((const float *)x)[i];
        const float delta = ((const float *)dt)[t * H + h], A = -expf((float)fh1_get(A_log, h));
        const float decay = form.base_2 ? coarse(exp2f(delta * (A * log2_e))) : power(delta * A);
        const float skip = (float)fh1_get(D, h) * v;
        float *S = (float *)state + (h * P + i % P) * N, sum = form.D_first ? skip : 0;
        for (int64_t n = 0; n < N; ++n) {
            S[n] = mad(decay, S[n], delta * v * b[n]);
            sum = mad(c[n], S[n], sum);
        }
        ((float *)y)[i] = stored(form.D_first ? sum : sum + skip);
    }
    return NULL;
}

static fh1_status gated_norm(fh1_engine *e, int64_t M, int64_t d, int64_t G, const void *y, const void *z,
                             const fh1_tensor *w, double eps, bool norm_before_gate, void *out)
{
    (void)e;
    const int64_t n = d / G;
    for (int64_t k = 0; k < M * G; ++k) {
        const float *in = (const float *)y + k * n, *gate = (const float *)z + k * n;
        float *o = (float *)out + k * n, sum = 0;
        for (int64_t i = 0; i < n; ++i) o[i] = w->data && norm_before_gate ? in[i] : in[i] * silu(gate[i]);
        for (int64_t i = 0; i < n; ++i) sum = mad(o[i], o[i], sum);
        const float root = reciprocal_root(sum / (float)n + (float)eps);
        for (int64_t i = 0; w->data && i < n; ++i) {
            o[i] *= root * (float)fh1_get(w, k % G * n + i);
            if (norm_before_gate) o[i] *= silu(gate[i]);
        }
        for (int64_t i = 0; i < n; ++i) o[i] = stored(o[i]);
    }
    return NULL;
}

/* A sum of weighted values, its weights' sum, and the maximum they are relative to. */
typedef struct {
    float max, weights, v[256];
} weighted;

static void merge(weighted *to, const weighted *from, int64_t A)
{
    const float max = fmaxf(to->max, from->max), a = power(to->max - max), b = power(from->max - max);
    if (from->weights <= 0) return;
    to->weights = mad(to->weights, a, from->weights * b);
    for (int64_t i = 0; i < A; ++i) to->v[i] = mad(to->v[i], a, from->v[i] * b);
    to->max = max;
}

/* Keys i0 … i1-1 of a row whose scores are known, `step` at once. */
static weighted attend(const float *score, const float *v, int64_t i0, int64_t i1, int64_t step, int64_t A)
{
    weighted all = {.max = -1e30f};
    const bool back = form.softmax == BACKWARDS;
    for (int64_t at = i0; at < i1; at += step) {
        weighted part = {.max = -1e30f};
        const int64_t end = at + step < i1 ? at + step : i1;
        for (int64_t k = at; k < end; ++k) part.max = fmaxf(part.max, score[back ? i0 + i1 - 1 - k : k]);
        for (int64_t k = at; k < end; ++k) {
            const int64_t of = back ? i0 + i1 - 1 - k : k;
            const float p = power(score[of] - part.max);
            part.weights += p;
            for (int64_t i = 0; i < A; ++i) part.v[i] = mad(stored(p), v[of * A + i], part.v[i]);
        }
        merge(&all, &part, A);
    }
    return all;
}

static fh1_status attention(fh1_engine *e, int64_t T, int64_t S, int64_t Hq, int64_t Hkv, int64_t A, const void *q,
                            const void *k, const void *v, const int64_t *first, void *out)
{
    (void)e;
    float *score = malloc((size_t)S * sizeof *score);
    ck_assert(score && A <= 256);
    for (int64_t i = 0; i < T * Hq; ++i) {
        const int64_t at = i % Hq / (Hq / Hkv) * S + first[i / Hq], n = S - T + i / Hq + 1 - first[i / Hq];
        const float *row = (const float *)q + i * A, *keys = (const float *)k + at * A;
        for (int64_t s = 0; s < n; ++s) {
            float dot = 0;
            for (int64_t d = 0; d < A; ++d) dot = mad(row[d], keys[s * A + d], dot);
            score[s] = dot * (1 / sqrtf((float)A));
        }
        const int64_t step = form.softmax == BLOCKS                                  ? 16
                             : form.softmax == FORWARDS || form.softmax == BACKWARDS ? 1
                                                                                     : n;
        const int64_t parts = form.softmax == PARTS ? 4 : 1;
        weighted all = {.max = -1e30f};
        for (int64_t p = 0; p < parts; ++p) {
            const weighted part = attend(score, (const float *)v + at * A, p * n / parts, (p + 1) * n / parts, step, A);
            merge(&all, &part, A);
        }
        for (int64_t d = 0; d < A; ++d) ((float *)out)[i * A + d] = stored(all.v[d] * (1 / all.weights));
    }
    free(score);
    return NULL;
}

static fh1_status swiglu(fh1_engine *e, int64_t M, int64_t F, const void *gate, double m_gate, const void *up,
                         void *act)
{
    (void)e;
    for (int64_t i = 0; i < M * F; ++i)
        ((float *)act)[i] = stored(silu(((const float *)gate)[i] * (float)m_gate) * ((const float *)up)[i]);
    return NULL;
}

static fh1_status residual(fh1_engine *e, int64_t n, const void *a, double m_a, const void *b, double m_b, void *x)
{
    (void)e;
    const float *va = a, *vb = b, ma = (float)m_a, mb = (float)m_b;
    for (int64_t i = 0; i < n; ++i) {
        float *to = (float *)x + i;
        if (!b) *to = coarse(mad(va[i], ma, *to));
        else if (form.residual == A_FIRST) *to = mad(vb[i], mb, coarse(mad(va[i], ma, *to)));
        else if (form.residual == B_FIRST) *to = mad(va[i], ma, coarse(mad(vb[i], mb, *to)));
        else *to += coarse(mad(va[i], ma, vb[i] * mb));
        *to = stored(*to);
    }
    return NULL;
}

/* -- judging -------------------------------------------------------------------------------------- */

static const gld_op judged_ops[] = {GLD_OP_RMSNORM,    GLD_OP_CONV1D,    GLD_OP_DT_SOFTPLUS, GLD_OP_SSD_SCAN,
                                    GLD_OP_GATED_NORM, GLD_OP_ATTENTION, GLD_OP_SWIGLU,      GLD_OP_RESIDUAL};
enum { N_OPS = sizeof judged_ops / sizeof *judged_ops };

/* Case `seed` of an op; documents are the business of other tests. */
static gld_op_case case_of(gld_op op, int64_t seed)
{
    gld_op_case c = gld_op_case_fuzzed(op, seed);
    if (seed % 3) c.regime = seed % 3 == 1 ? GLD_REGIME_TRAINED : GLD_REGIME_ADVERSARIAL;
    c.docs = 1;
    return c;
}

/* How many of the first cases of an op are rejected; the largest margin. */
static int rejected(fh1_engine *truth, fh1_engine *judged, gld_op op, int n, gld_op_result *worst)
{
    int count = 0;
    *worst = (gld_op_result){0};
    for (int seed = 0; seed < n; ++seed) {
        const gld_op_case c = case_of(op, seed);
        gld_op_result r;
        ck_assert_ptr_null(gld_op_case_compare(&c, truth, judged, &r));
        count += r.verdict != FH1_PASS;
        if (seed == 0 || !(r.margin <= worst->margin)) *worst = r;
    }
    return count;
}

START_TEST(every_form)
{
    fh1_engine *truth = ref_engine_new("ref-f64", NULL, 0), *f32 = ref_engine_new("ref-f32", NULL, 0);
    fh1_ops ops = *f32->ops;
    fh1_engine judged = *f32;
    ops.rmsnorm = rmsnorm, ops.conv1d = conv1d, ops.dt_softplus = dt_softplus, ops.ssd_scan = ssd_scan;
    ops.gated_norm = gated_norm, ops.attention = attention, ops.swiglu = swiglu, ops.residual = residual;
    judged.ops = &ops;
    for (int f = 0; f < N_FORMS; ++f)
        for (int way = 0; way < 3; ++way) { /* honest in f32, a corner cut, honest in bf16 */
            const bool cut = way == 1;
            form = forms[f];
            form.coarse = cut;
            store = way == 2 ? FH1_ROUND_BF16 : FH1_ROUND_NONE;
            judged.profile = fh1_profile_find(way == 2 ? "cuda-bf16" : "fp32");
            printf("  %c %-24s", ".Xb"[way], form.name);
            for (int o = 0; o < N_OPS; ++o) {
                gld_op_result r;
                const int n = rejected(truth, &judged, judged_ops[o], cut ? 6 : 60, &r);
                printf(" %s %.3g", gld_op_name(judged_ops[o]), r.margin);
                if (cut)
                    ck_assert_msg(n > 0, "%s, cut short, is accepted in %s", form.name, gld_op_name(judged_ops[o]));
                else
                    ck_assert_msg(n == 0, "honest: %s is rejected in %s: %s %s, margin %.3g (%.9g, truth %.9g)",
                                  form.name, gld_op_name(judged_ops[o]), r.where, r.reason, r.margin, r.judged,
                                  r.truth);
            }
            printf("\n");
        }
    truth->free(truth);
    f32->free(f32);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("honest_forms");
    TCase *t = tcase_create("honest_forms");
    tcase_set_timeout(t, 120);
    tcase_add_test(t, every_form);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    const int failed = srunner_ntests_failed(r), ran = srunner_ntests_run(r);
    srunner_free(r);
    return failed || !ran;
}
