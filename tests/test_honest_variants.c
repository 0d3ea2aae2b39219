/* Engines that do the same sums in another order must be accepted, and engines that cut a corner must not be: matrix
 * products in four orders with and without fused multiply-add, scans in chunks of 16 to 256, under an f32 and two
 * bf16 contracts, judged by golden/op_case.h. Zero honest variants may be rejected. */
#include "golden/op_case.h"
#include "reference/engine.h"

#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N_CONTRACTS = 3 };
static fh1_engine *truth,
    *contract[N_CONTRACTS]; /* fp32, hf-eager-bf16, cuda-bf16: their rounding points, not their code */

static void open_engines(void)
{
    truth = ref_engine_new("ref-f64", NULL, 0);
    contract[0] = ref_engine_new("ref-f32", NULL, 0);
    contract[1] = ref_engine_new("ref-bf16", NULL, 0);
    contract[2] = ref_engine_new("ref-bf16", fh1_profile_find("cuda-bf16"), 0);
    ck_assert(truth && contract[0] && contract[1] && contract[2]);
}

static void close_engines(void)
{
    truth->free(truth);
    for (int i = 0; i < N_CONTRACTS; ++i) contract[i]->free(contract[i]);
}

/* -- matrix products ------------------------------------------------------------------------------ */

typedef enum { SEQUENTIAL, PAIRWISE, LANES, SPLIT_K } order;

/* What the running engine does; one at a time. */
static struct {
    order order;
    bool fused, bias_first;
    bool tf32, bf16_sum, nan, row; /* corners cut */
    int64_t dropped;               /* last products */
} product;

static float mul_add(float a, float b, float sum)
{
    if (product.fused) return fmaf(a, b, sum);
    const float p = a * b;
    return p + sum;
}

static float operand(float v)
{
    return product.tf32 ? fh1_round_f32(FH1_ROUND_TF32, v) : v;
}

static float dot(int64_t n, const float *a, const float *b, order how)
{
    float lane[32] = {0}, sum = 0;
    switch (how) {
    case PAIRWISE:
        if (n > 8) return dot(n / 2, a, b, how) + dot(n - n / 2, a + n / 2, b + n / 2, how);
        return dot(n, a, b, SEQUENTIAL);
    case SPLIT_K:
        for (int64_t k = 0; k < 4; ++k)
            sum += dot((k + 1) * n / 4 - k * n / 4, a + k * n / 4, b + k * n / 4, SEQUENTIAL);
        return sum;
    case LANES:
        for (int64_t i = 0; i < n; ++i) lane[i % 32] = mul_add(operand(a[i]), operand(b[i]), lane[i % 32]);
        for (int w = 16; w; w /= 2)
            for (int j = 0; j < w; ++j) lane[j] += lane[j + w];
        return lane[0];
    default:
        for (int64_t i = 0; i < n; ++i) {
            sum = mul_add(operand(a[i]), operand(b[i]), sum);
            if (product.bf16_sum && i % 16 == 15) sum = fh1_round_f32(FH1_ROUND_BF16, sum);
        }
        return sum;
    }
}

static fh1_status linear(fh1_engine *e, int64_t M, const void *x, const fh1_tensor *w, const fh1_tensor *b, void *y)
{
    const int64_t n = w->shape[0], k = w->shape[1];
    float *W = malloc((size_t)(n * k) * sizeof *W), *out = y;
    ck_assert(W != NULL);
    fh1_to_f32(W, w->data, w->dtype, n * k);
    for (int64_t i = 0; i < M * n; ++i) {
        const float *row = (const float *)x + i / n * k, bias = b->data ? (float)fh1_get(b, i % n) : 0;
        float v = dot(k - product.dropped, W + i % n * k, row, product.order) + bias;
        if (product.bias_first) {
            v = bias;
            for (int64_t at = 0; at < k; ++at) v = mul_add(W[i % n * k + at], row[at], v);
        }
        if (product.row && i % n == n / 2) v *= 1.01f;
        out[i] = fh1_round_f32(e->profile->at[FH1_RP_LINEAR], v);
    }
    if (product.nan) out[M * n - 1] = NAN;
    free(W);
    return NULL;
}

/* -- scans ---------------------------------------------------------------------------------------- */

static struct {
    int64_t Q;
    bool fused, D_first;
    bool carry_lost, stale_dt, wrong_group, edge, bf16_A, bf16_state, no_D, nan; /* corners cut */
} scan;

static float scan_mul_add(float a, float b, float sum)
{
    return scan.fused ? fmaf(a, b, sum) : a * b + sum;
}

typedef struct {
    int64_t T, H, P, N, G;
    const float *x, *B, *C, *dt;
    float *state, *y;
} scan_args;

static const float *row_of(const scan_args *a, const float *v, int64_t t, int64_t h)
{
    const int64_t g = scan.wrong_group && h == a->H - 1 ? 0 : h / (a->H / a->G);
    return v + (t * a->G + g) * a->N;
}

static float dt_of(const scan_args *a, int64_t t, int64_t h)
{
    return a->dt[(scan.stale_dt && t == a->T / 2 ? t - 1 : t) * a->H + h];
}

/* Tokens t0 … t0+n-1 of head h in matrix form: scores of the chunk, what the state adds, the state after it. The
 * exponents are differences of one running sum, as in kernels that make no segment sums. */
static void chunk(const scan_args *a, int64_t t0, int64_t n, int64_t h, float A, float D)
{
    const int64_t P = a->P, N = a->N;
    float *S = a->state + h * P * N, *sum = malloc((size_t)n * sizeof *sum), total = 0;
    ck_assert(sum != NULL);
    for (int64_t i = 0; i < n; ++i) sum[i] = total += dt_of(a, t0 + i, h) * A;
    for (int64_t i = 0; i < n; ++i) {
        const float *C = row_of(a, a->C, t0 + i, h);
        float *y = a->y + ((t0 + i) * a->H + h) * P;
        const float decay = expf(scan.edge && i == 0 && t0 > 0 ? 0 : sum[i]);
        for (int64_t p = 0; p < P; ++p) {
            float from_state = 0;
            for (int64_t k = 0; k < N; ++k) from_state = scan_mul_add(C[k], S[p * N + k], from_state);
            const float skip = scan.D_first ? D * a->x[((t0 + i) * a->H + h) * P + p] : 0;
            y[p] = scan_mul_add(decay, from_state, skip);
        }
        for (int64_t s = 0; s <= i; ++s) {
            const float *B = row_of(a, a->B, t0 + s, h), *x = a->x + ((t0 + s) * a->H + h) * P;
            float score = 0;
            for (int64_t k = 0; k < N; ++k) score = scan_mul_add(C[k], B[k], score);
            score *= expf(sum[i] - sum[s]) * dt_of(a, t0 + s, h);
            for (int64_t p = 0; p < P; ++p) y[p] = scan_mul_add(score, x[p], y[p]);
        }
        for (int64_t p = 0; p < P && !scan.D_first; ++p)
            y[p] = scan_mul_add(D, a->x[((t0 + i) * a->H + h) * P + p], y[p]);
    }
    const float whole = scan.carry_lost && t0 > 0 && t0 + n < a->T && t0 + 2 * n >= a->T ? 0 : expf(total);
    for (int64_t i = 0; i < P * N; ++i) {
        float v = whole * S[i];
        for (int64_t s = 0; s < n; ++s) {
            const float w = expf(total - sum[s]) * dt_of(a, t0 + s, h) * row_of(a, a->B, t0 + s, h)[i % N];
            v = scan_mul_add(w, a->x[((t0 + s) * a->H + h) * P + i / N], v);
        }
        S[i] = scan.bf16_state ? fh1_round_f32(FH1_ROUND_BF16, v) : v;
    }
    free(sum);
}

static fh1_status ssd_chunk(fh1_engine *e, int64_t T, int64_t H, int64_t P, int64_t N, int64_t G, int64_t Q,
                            const void *x, const void *B, const void *C, const void *dt, const fh1_tensor *A_log,
                            const fh1_tensor *D, const int64_t *doc, int64_t state_doc, void *state, void *y)
{
    const scan_args a = {T, H, P, N, G, x, B, C, dt, state, y};
    (void)Q, (void)state_doc;
    ck_assert_ptr_null(doc);
    for (int64_t h = 0; h < H; ++h) {
        float A = -expf((float)fh1_get(A_log, h)), skip = (float)fh1_get(D, h);
        if (scan.bf16_A) A = fh1_round_f32(FH1_ROUND_BF16, A);
        if (scan.no_D && h == H - 1) skip = 0;
        for (int64_t t = 0; t < T; t += scan.Q) chunk(&a, t, scan.Q < T - t ? scan.Q : T - t, h, A, skip);
    }
    for (int64_t i = 0; i < T * H * P; ++i) a.y[i] = fh1_round_f32(e->profile->at[FH1_RP_SSD], a.y[i]);
    if (scan.nan) a.y[T * H * P - 1] = NAN;
    return NULL;
}

/* -- judging -------------------------------------------------------------------------------------- */

static gld_op_result judge(const char *line, int of)
{
    fh1_ops ops = *contract[of]->ops;
    ops.linear = linear;
    ops.ssd_chunk = ssd_chunk;
    fh1_engine e = *contract[of];
    e.ops = &ops;
    gld_op_case c;
    gld_op_result r;
    char why[1024];
    fh1_status s = gld_op_case_parse(line, &c);
    if (!s) s = gld_op_case_run(&c, truth, &e, &r);
    ck_assert_msg(!s, "%s: %s", line, s ? fh1_status_line(s, why, sizeof why) : "");
    return r;
}

enum { N_LINES = 5 };
static const char *const linear_lines[N_LINES] = {
    "--op=linear --T=6 --D=2049 --F=12", "--op=linear --regime=trained --weights=f32 --T=16 --D=257 --F=48",
    "--op=linear --regime=trained --weights=f32 --T=6 --D=8191 --F=12",
    "--op=linear --regime=adversarial --weights=f32 --T=8 --D=1000 --F=16",
    "--op=linear --regime=fuzzed --weights=f32 --T=8 --D=700 --F=16 --seed=5"};

static const char *const scan_lines[N_LINES] = {
    "--op=ssd_chunk --T=200 --H=4 --P=4 --N=16 --G=2 --Q=256",
    "--op=ssd_chunk --regime=trained --weights=f32 --T=300 --H=4 --P=4 --N=16 --G=2 --Q=256",
    "--op=ssd_chunk --regime=trained --T=270 --H=6 --P=3 --N=33 --G=3 --seed=9 --state=0 --Q=256",
    "--op=ssd_chunk --regime=adversarial --weights=f32 --T=150 --H=8 --P=4 --N=16 --G=4 --Q=256",
    "--op=ssd_chunk --regime=fuzzed --weights=f32 --T=90 --H=4 --P=4 --N=16 --G=2 --seed=3 --Q=256"};

/* The largest margin over the lines and the contracts; each must pass. */
static void accepts(const char *variant, const char *const *lines)
{
    double worst[N_CONTRACTS] = {0}, rms[N_CONTRACTS] = {0};
    for (int i = 0; i < N_CONTRACTS * N_LINES; ++i) {
        const int of = i / N_LINES;
        const gld_op_result r = judge(lines[i % N_LINES], of);
        ck_assert_msg(r.verdict == FH1_PASS,
                      "honest %s is rejected under %s: %s: %s, margin %.3g at %s: %s; %.9g, truth %.9g, allowed %.3g",
                      variant, contract[of]->profile->name, lines[i % N_LINES], fh1_verdict_name(r.verdict), r.margin,
                      r.where, r.reason, r.judged, r.truth, r.allowed);
        worst[of] = fmax(worst[of], r.margin);
        rms[of] = fmax(rms[of], r.rms_ratio);
    }
    printf("  . %-24s margin %.3f, %.3f bf16, %.3f cuda; RMS %.3f, %.3f, %.3f\n", variant, worst[0], worst[1], worst[2],
           rms[0], rms[1], rms[2]);
}

/* How many lines reject it, by contract; under fp32 one must, under bf16 where its inputs can show it. */
static void rejects(const char *fault, const char *const *lines, bool shows_in_bf16)
{
    int n[N_CONTRACTS] = {0};
    for (int i = 0; i < N_CONTRACTS * N_LINES; ++i)
        n[i / N_LINES] += judge(lines[i % N_LINES], i / N_LINES).verdict == FH1_FAIL;
    printf("  X %-24s rejected by %d of %d lines, %d in bf16, %d in cuda\n", fault, n[0], N_LINES, n[1], n[2]);
    ck_assert_msg(n[0] > 0, "%s is accepted under fp32", fault);
    for (int k = 1; k < N_CONTRACTS; ++k)
        ck_assert_msg(n[k] > 0 || !shows_in_bf16, "%s is accepted under %s", fault, contract[k]->profile->name);
}

START_TEST(every_order_of_a_product)
{
    static const char *const name[] = {"sequential", "pairwise", "32 lanes", "split-K", "bias first"};
    for (int i = 0; i < 10; ++i) {
        char variant[64];
        memset(&product, 0, sizeof product);
        product.order = i < 8 ? (order)(i / 2) : SEQUENTIAL;
        product.bias_first = i >= 8;
        product.fused = i % 2 != 0;
        snprintf(variant, sizeof variant, "%s%s", name[i / 2], product.fused ? ", fused" : "");
        accepts(variant, linear_lines);
    }
}
END_TEST

START_TEST(corners_cut_in_a_product)
{
    for (int i = 0; i < 6; ++i) {
        memset(&product, 0, sizeof product);
        product.order = i == 2 ? SEQUENTIAL : LANES;
        switch (i) {
        case 0: product.dropped = 1; break;
        case 1: product.dropped = 8; break;
        case 2: product.bf16_sum = true; break;
        case 3: product.tf32 = true; break;
        case 4: product.row = true; break;
        default: product.nan = true;
        }
        static const char *const name[] = {"last product dropped", "tail of 8 dropped", "bf16 accumulator",
                                           "TF32 inputs",          "one row x 1.01",    "one NaN"};
        rejects(name[i], linear_lines, true);
    }
}
END_TEST

START_TEST(every_chunk_of_a_scan)
{
    static const int64_t Q[] = {16, 64, 128, 256};
    for (int i = 0; i < 16; ++i) {
        char variant[64];
        memset(&scan, 0, sizeof scan);
        scan.Q = Q[i / 4];
        scan.fused = i % 2 != 0;
        scan.D_first = i % 4 > 1;
        snprintf(variant, sizeof variant, "chunks of %lld%s%s", (long long)scan.Q, scan.D_first ? ", D first" : "",
                 scan.fused ? ", fused" : "");
        accepts(variant, scan_lines);
    }
}
END_TEST

START_TEST(corners_cut_in_a_scan)
{
    bool *const corner[] = {&scan.carry_lost, &scan.stale_dt,   &scan.wrong_group, &scan.edge,
                            &scan.bf16_A,     &scan.bf16_state, &scan.no_D,        &scan.nan};
    static const char *const name[] = {
        "carry lost once", "stale dt at one token", "group of one head",   "decay at edges",
        "A in bf16",       "state in bf16",         "D missing in a head", "one NaN"};
    for (int i = 0; i < 8; ++i) {
        memset(&scan, 0, sizeof scan);
        scan.Q = 32;
        *corner[i] = true;
        rejects(name[i], scan_lines, true);
    }
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {every_order_of_a_product, corners_cut_in_a_product, every_chunk_of_a_scan,
                                  corners_cut_in_a_scan};
    Suite *s = suite_create("honest_variants");
    TCase *t = tcase_create("honest_variants");
    tcase_add_checked_fixture(t, open_engines, close_engines);
    tcase_set_timeout(t, 120);
    for (size_t i = 0; i < sizeof tests / sizeof *tests; ++i) tcase_add_test(t, tests[i]);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    const int failed = srunner_ntests_failed(r), ran = srunner_ntests_run(r);
    srunner_free(r);
    return failed || !ran;
}
