/* What the tests of gauges share: honest engines must stay inside, planted faults must not, and a gauge made eight
 * times too small must reject honest data. On top of witness.h (arena, data, engines).
 *
 * Honest engines are those of reference/ (f32, and f32 arithmetic under a 16-bit profile) and the emulated arithmetic
 * below: every operation in f64 and then rounded to f32 (which is one rounding, as 53 >= 2·24 + 2), in other orders. */
#pragma once

#include "oracle/gauge.h"
#include "tests/witness.h"

typedef enum { NORMAL, CANCELLING, WIDE, N_REGIMES } regime;
static const char *const g_regime_name[] = {"normal", "cancelling", "wide"};

static const char *const g_contract_name[] = {"exact", "fp32", "hf-eager-bf16", "hf-eager-fp16", "cuda-bf16"};
enum { EXACT, FP32, BF16, FP16, CUDA, N_CONTRACTS };

typedef struct {
    int64_t n;
    double margin, rms_low, rms_high;
    const char *at;
    bool small_gauge_rejects;
} g_tally;

static g_tally g_seen[N_CONTRACTS];

static inline const fh1_profile *g_contract(int k)
{
    return fh1_profile_find(g_contract_name[k]);
}

static inline fh1_engine *g_engine(int k)
{
    fh1_engine *e = ref_engine_new(k == EXACT ? "ref-f64" : k == FP32 ? "ref-f32" : "ref-bf16", g_contract(k), 0);
    ck_assert_ptr_nonnull(e);
    return e;
}

static inline fh1_gauge g_new(int64_t n)
{
    return (fh1_gauge){w_new(n), w_new(n), w_new(n)};
}

static inline fh1_round g_storage(int k)
{
    return k == BF16 || k == CUDA ? FH1_ROUND_BF16 : k == FP16 ? FH1_ROUND_F16 : FH1_ROUND_F32;
}

/* n inputs as an engine with contract k holds them. Cancelling: each odd one nearly repeats, `sign` times, the one
 * before. Wide: 13 binades. */
static inline double *g_data(int k, regime r, const char *name, uint64_t seed, int64_t n, double size, double sign)
{
    fh1_stream s = fh1_stream_open(seed, name);
    double *v = w_new(n);
    for (int64_t i = 0; i < n; ++i) {
        v[i] = size * fh1_random_normal(s, (uint64_t)i);
        if (r == WIDE) v[i] = ldexp(v[i], (int)fh1_random_below(s, (uint64_t)(i + n), 14) - 10);
        if (r == CANCELLING && i % 2) v[i] = sign * v[i - 1] * (1 + 0x1p-9 * fh1_random_normal(s, (uint64_t)(i + n)));
        v[i] = fh1_round_f64(g_storage(k), v[i]);
    }
    return v;
}

typedef struct {
    double margin, rms; /* largest error / allowed; RMS error / predicted */
    bool telling;       /* enough elements share in the predicted RMS */
    int64_t at;
} g_verdict;

/* `shrink`: the gauge divided by it. Truth is f64 too: under `exact` it may be off by as much as the engine. */
static inline g_verdict g_judge(int k, int64_t n, const double *got, const double *truth, const fh1_gauge *g,
                                double shrink)
{
    const double sigmas = fh1_gauge_sigmas(n), both = k == EXACT ? 2 : 1;
    g_verdict v = {0};
    double sum = 0, predicted = 0, squared = 0;
    for (int64_t i = 0; i < n; ++i) {
        const fh1_err e = fh1_err_scale(fh1_gauge_at(g, i), 1 / shrink);
        const double err = fh1_error_of(got[i], truth[i]);
        const double allowed = both * fh1_gauge_allowed(e, sigmas) + g_contract(k)->underflow;
        if (!(e.variance >= 0 && e.shared >= 0 && e.shared <= e.worst * (1 + 0x1p-40)))
            ck_abort_msg("element %lld has no gauge: E %g, V %g, S %g", (long long)i, e.worst, e.variance, e.shared);
        if (!fh1_within(err / allowed, v.margin)) v.margin = err / allowed, v.at = i;
        sum += err * err;
        const double p = e.variance + e.shared * e.shared;
        predicted += p;
        squared += p * p;
    }
    v.telling = predicted * predicted >= (double)fh1_rule.min_elements * squared;
    v.rms = sum > 0 ? sqrt(sum / predicted) : 0;
    return v;
}

static inline void g_honest(int k, const char *what, int64_t n, const double *got, const double *truth,
                            const fh1_gauge *g)
{
    const g_verdict v = g_judge(k, n, got, truth, g, 1);
    ck_assert_msg(fh1_within(v.margin, 1),
                  "%s, %s: honest element %lld is %.9g, truth %.9g, margin %.3g (E %.3g √V %.3g S %.3g)", what,
                  g_contract_name[k], (long long)v.at, got[v.at], truth[v.at], v.margin, g->worst[v.at],
                  sqrt(g->variance[v.at]), g->shared[v.at]);
    ck_assert_msg(!v.telling || fh1_within(v.rms, fh1_rule.rms_band), "%s, %s: RMS %.3g of the predicted one", what,
                  g_contract_name[k], v.rms);
    g_tally *t = &g_seen[k];
    if (t->n == 0 || v.margin > t->margin) t->margin = v.margin, t->at = what;
    if (v.telling) {
        t->rms_low = t->rms_high == 0 || v.rms < t->rms_low ? v.rms : t->rms_low;
        t->rms_high = fmax(t->rms_high, v.rms);
    }
    t->n += n;
    if (g_judge(k, n, got, truth, g, 8).margin > 1) t->small_gauge_rejects = true;
}

/* A planted fault: beyond the gauge of one element, or of all together. */
static inline bool g_catches(int k, int64_t n, const double *got, const double *truth, const fh1_gauge *g)
{
    const g_verdict v = g_judge(k, n, got, truth, g, 1);
    return !fh1_within(v.margin, 1) || (v.telling && !fh1_within(v.rms, fh1_rule.rms_band));
}

static inline void g_fault(int k, const char *fault, int64_t n, const double *got, const double *truth,
                           const fh1_gauge *g)
{
    const g_verdict v = g_judge(k, n, got, truth, g, 1);
    printf("    %-14s %-28s margin %8.3g  rms %8.3g\n", g_contract_name[k], fault, v.margin, v.rms);
    ck_assert_msg(g_catches(k, n, got, truth, g), "the fault '%s' passes unseen (%s, margin %.3g, rms %.3g)", fault,
                  g_contract_name[k], v.margin, v.rms);
}

/* What was seen since the last summary: nothing vacuous. */
static inline void g_summary(const char *op)
{
    for (int k = 0; k < N_CONTRACTS; ++k) {
        const g_tally *t = &g_seen[k];
        if (t->n == 0) continue;
        printf("  %-13s %-14s %7lld elements, worst margin %.3f (%s), rms/predicted %.3f to %.3f\n", op,
               g_contract_name[k], (long long)t->n, t->margin, t->at, t->rms_low, t->rms_high);
        ck_assert_msg(t->small_gauge_rejects, "%s, %s: a gauge eight times too small rejects nothing", op,
                      g_contract_name[k]);
    }
    memset(g_seen, 0, sizeof g_seen);
}

/* --- emulated arithmetic --- */

static bool g_single; /* f32, else f64 */

static inline double g_a(double v)
{
    return g_single ? (double)(float)v : v;
}

typedef enum { SEQUENTIAL, FUSED, PAIRWISE, LANES, SPLIT, N_ORDERS } g_order;
static const char *const g_order_name[] = {"sequential", "fused multiply-add", "pairwise", "32 lanes", "split-K"};

static inline double g_dot(g_order o, int64_t n, const double *a, const double *b)
{
    double sum = 0, lane[32] = {0};
    if (o == PAIRWISE && n > 2) return g_a(g_dot(o, n / 2, a, b) + g_dot(o, n - n / 2, a + n / 2, b + n / 2));
    if (o == SPLIT) {
        for (int64_t p = 0; p < 4; ++p)
            sum = g_a(sum + g_dot(SEQUENTIAL, (p + 1) * n / 4 - p * n / 4, a + p * n / 4, b + p * n / 4));
        return sum;
    }
    if (o == LANES) {
        for (int64_t i = 0; i < n; ++i) lane[i % 32] = g_a(lane[i % 32] + g_a(a[i] * b[i]));
        for (int step = 16; step > 0; step /= 2)
            for (int l = 0; l < step; ++l) lane[l] = g_a(lane[l] + lane[l + step]);
        return lane[0];
    }
    for (int64_t i = 0; i < n; ++i) sum = o == FUSED ? g_a(fma(a[i], b[i], sum)) : g_a(sum + g_a(a[i] * b[i]));
    return sum;
}

/* v without what lies below `unit`, towards zero. */
static inline double g_cut(double v, double unit)
{
    return trunc(v / unit) * unit;
}

/* As tensor cores add: sixteen products and the sum so far are aligned to the largest, cut off behind its 24 bits, and
 * their sum is cut to f32. */
static inline double g_tensor_dot(int64_t n, const double *a, const double *b)
{
    double sum = 0;
    for (int64_t i0 = 0; i0 < n; i0 += 16) {
        const int64_t i1 = i0 + 16 < n ? i0 + 16 : n;
        double most = fabs(sum), exact = 0;
        for (int64_t i = i0; i < i1; ++i) most = fmax(most, fabs(a[i] * b[i]));
        const double unit = fmax(fh1_dtype_ulp(FH1_F32, most), 0x1p-149);
        for (int64_t i = i0; i < i1; ++i) exact += g_cut(a[i] * b[i], unit);
        exact += g_cut(sum, unit);
        sum = g_cut(exact, fmax(fh1_dtype_ulp(FH1_F32, exact), 0x1p-149));
    }
    return sum;
}

/* An exp that is off by up to what the contracts allow. */
static inline double g_exp(double v)
{
    static uint64_t calls;
    const fh1_stream s = fh1_stream_open(3, "exp");
    const double u = g_single ? 0x1p-24 : 0x1p-53;
    return g_a(exp(v) * (1 + 3 * u * (2 * fh1_random_uniform(s, calls++) - 1)));
}

static inline double g_silu(double z)
{
    return g_a(z / g_a(1 + g_exp(-z)));
}
