/* Gauges of attached adapters: LoRA and DoRA beside a product, and beside an embedding table. */
#define REF_BITS 64 /* the f64 forwards; the f32 ones are declared below */
#include "tests/gauge_bench.h"

#include "convert/model_attach.h"
#include "reference/embed_gauge.h"
#include "reference/lora.h"
#include "reference/lora_gauge.h"

fh1_status ref_lora_add_f32(int64_t M, const float *x, const fh1_lora *lora, const fh1_tensor *bias,
                            const fh1_profile *p, float *y);
fh1_status ref_lora_embed_f32(int64_t M, const int64_t *ids, const fh1_lora *lora, const fh1_profile *p, float *y);

enum { N_SEEDS = 3 };

#define EACH(k, r, seed)                            \
    for (int k = EXACT; k < N_CONTRACTS; ++k)       \
        for (regime r = NORMAL; r < N_REGIMES; ++r) \
            for (uint64_t seed = 1; seed <= N_SEEDS; ++seed)

/* A product with an adapter; one of an embedding has V rows of the table and no bias. */
typedef struct {
    int64_t M, N, K, r;
    bool dora, bias;
    double *x, *w, *b, *A, *B, *lb, *m; /* x [M,K], w [N,K], A [r,K], B [N,r], lb, m [N] */
    fh1_tensor wt, bt, mt;
    fh1_lora lora;
    double *base, *y; /* true, without the adapter and with it */
    fh1_gauge g;
} adapted;

static adapted new_adapted(int k, regime reg, uint64_t seed, int64_t N, int64_t K, int64_t r, bool dora, bool bias)
{
    adapted p = {.M = 9, .N = N, .K = K, .r = r, .dora = dora, .bias = bias};
    const int64_t n = p.M * N;
    p.base = w_new(n);
    p.g = g_new(n);
    p.x = g_data(k, reg, "x", seed, p.M * K, 1, 1);
    p.w = g_data(k, NORMAL, "w", seed, N * K, 1 / sqrt((double)K), -1);
    p.b = g_data(k, NORMAL, "b", seed, N, 1, 1);
    p.A = g_data(FP32, reg, "A", seed, r * K, 1 / sqrt((double)K), -1);
    p.B = g_data(FP32, reg, "B", seed, N * r, 1 / sqrt((double)r), -1);
    p.lb = g_data(FP32, NORMAL, "lb", seed, N, 0.5, 1);
    p.m = g_data(FP32, NORMAL, "m", seed, N, 1, 1);
    p.wt = w_store2(k == BF16 ? FH1_BF16 : FH1_F32, p.w, N, K);
    p.bt = bias ? w_store(FH1_F32, p.b, N) : w_absent();
    p.mt = w_store(FH1_F32, p.m, N);
    p.lora = (fh1_lora){.A = w_store2(FH1_F32, p.A, r, K), .B = w_store2(FH1_F32, p.B, N, r), .scale = 5.0 / 3};
    p.lora.bias = bias && !dora ? w_store(FH1_F32, p.lb, N) : w_absent();
    if (dora) {
        double *f = w_new(2 * N);
        w_fine(cvt_dora_factors(&p.lora, &p.wt, false, &p.mt, f, f + N));
        p.lora.f = f;
        p.lora.f_terms = f + N;
    }
    w_fine(w_f64->ops->linear(w_f64, p.M, p.x, &p.wt, &p.bt, p.base));
    w_fine(w_f64->gauges->linear(g_contract(k), p.M, p.x, &p.wt, &p.bt, p.base, &p.g));
    p.y = w_copy(p.base, n);
    w_fine(ref_lora_gauge(g_contract(k), p.M, p.x, &p.lora, &p.bt, p.base, &p.g));
    w_fine(ref_lora_add_f64(p.M, p.x, &p.lora, &p.bt, g_contract(EXACT), p.y));
    return p;
}

/* The reference's own f32 arithmetic. */
static double *engine_adapted(int k, const adapted *p, const fh1_lora *lora)
{
    fh1_engine *e = g_engine(k);
    void *y = w_out(e, p->M * p->N), *x = w_to(e, p->x, p->M * p->K);
    w_fine(e->ops->linear(e, p->M, x, &p->wt, &p->bt, y));
    w_fine(k == EXACT ? ref_lora_add_f64(p->M, x, lora, &p->bt, e->profile, y)
                      : ref_lora_add_f32(p->M, x, lora, &p->bt, e->profile, y));
    double *out = w_from(e, y, p->M * p->N);
    e->free(e);
    return out;
}

/* Where the scale is multiplied in. */
typedef enum { ON_SUM, ON_T, IN_A, IN_B, N_FORMS } form;
static const char *const form_name[] = {"s on the sum", "s on A·x", "s in A", "s in B"};

static double r_at(int k, double v)
{
    return fh1_round_f64(g_contract(k)->at[FH1_RP_LINEAR], v);
}

/* m / ‖W + s·B·A‖ in the arithmetic of the contract. */
static double emulated_f(const adapted *p, g_order o, int64_t n)
{
    double *v = w_new(p->K), *column = w_new(p->r);
    for (int64_t i = 0; i < p->K; ++i) {
        for (int64_t k = 0; k < p->r; ++k) column[k] = p->A[k * p->K + i];
        v[i] = g_a(p->w[n * p->K + i] + g_a(g_a(p->lora.scale) * g_dot(o, p->r, p->B + n * p->r, column)));
    }
    return g_a(p->m[n] / g_a(sqrt(g_dot(o, p->K, v, v))));
}

static double *emulated(int k, const adapted *p, g_order o, form where)
{
    double *y = w_new(p->M * p->N), *A = w_copy(p->A, p->r * p->K), *B = w_copy(p->B, p->N * p->r), *t = w_new(p->r);
    g_single = k != EXACT;
    const double s = g_a(p->lora.scale);
    for (int64_t i = 0; where == IN_A && i < p->r * p->K; ++i) A[i] = g_a(s * A[i]);
    for (int64_t i = 0; where == IN_B && i < p->N * p->r; ++i) B[i] = g_a(s * B[i]);
    for (int64_t n = 0; n < p->N; ++n) {
        const double f = p->dora ? emulated_f(p, o, n) : 1, b = p->bias ? p->b[n] : 0;
        for (int64_t m = 0; m < p->M; ++m) {
            double base = g_dot(o, p->K, p->x + m * p->K, p->w + n * p->K);
            base = r_at(k, p->bias ? g_a(base + b) : base);
            for (int64_t i = 0; i < p->r; ++i) {
                t[i] = g_dot(o, p->K, p->x + m * p->K, A + i * p->K);
                if (where == ON_T) t[i] = g_a(s * t[i]);
            }
            double u = g_dot(o, p->r, t, B + n * p->r);
            if (p->lora.bias.data) u = g_a(u + (where == ON_SUM ? p->lb[n] : g_a(s * p->lb[n])));
            if (where == ON_SUM && p->dora) u = g_a(g_a(f * u) * s); /* PEFT scales last */
            else if (where == ON_SUM) u = g_a(u * s);
            double *to = &y[m * p->N + n];
            if (where != ON_SUM && p->dora && k > FP32) u = g_a(f * u);
            if (!p->dora) *to = g_a(base + u);
            else if (where == ON_SUM || k > FP32) *to = g_a(base + g_a(g_a(g_a(f - 1) * r_at(k, g_a(base - b))) + u));
            else *to = g_a(g_a(f * g_a(r_at(k, g_a(base - b)) + u)) + b);
            *to = r_at(k, *to);
        }
    }
    return y;
}

START_TEST(honest_forms)
{
    static const int64_t shape[][3] = {{33, 1, 1}, {40, 3, 2}, {24, 64, 4}, {16, 500, 1}, {24, 96, 33}};
    for (int dora = 0; dora < 2; ++dora) {
        EACH(k, r, seed)
        for (size_t s = 0; s < sizeof shape / sizeof *shape; ++s) {
            const adapted p = new_adapted(k, r, seed, shape[s][0], shape[s][1], shape[s][2], dora, s % 2 == 0);
            const int64_t n = p.M * p.N;
            if (k != EXACT) g_honest(k, g_regime_name[r], n, engine_adapted(k, &p, &p.lora), p.y, &p.g);
            for (g_order o = SEQUENTIAL; o < N_ORDERS; ++o)
                g_honest(k, g_order_name[o], n, emulated(k, &p, o, ON_SUM), p.y, &p.g);
            for (form f = ON_T; f < N_FORMS; ++f)
                for (g_order o = SEQUENTIAL; o < (s == 2 ? N_ORDERS : FUSED); ++o)
                    g_honest(k, form_name[f], n, emulated(k, &p, o, f), p.y, &p.g);
        }
        g_summary(dora ? "DoRA" : "LoRA");
    }
}
END_TEST

START_TEST(faults)
{
    for (int k = FP32; k < N_CONTRACTS; ++k)
        for (int dora = 0; dora < 2; ++dora) {
            const adapted p = new_adapted(k, NORMAL, 7, 48, 256, 8, dora, true);
            const int64_t n = p.M * p.N;
            fh1_lora bad = p.lora;
            double *f = w_copy(p.lora.f ? p.lora.f : p.m, p.N), *y = engine_adapted(k, &p, &p.lora);
            bad.scale *= 1.01;
            g_fault(k, "scale x1.01", n, engine_adapted(k, &p, &bad), p.y, &p.g);
            bad = p.lora;
            bad.A.shape[0] = bad.B.shape[1] = 7; /* B read with the wrong stride too */
            g_fault(k, "rank 7 of 8", n, engine_adapted(k, &p, &bad), p.y, &p.g);
            g_fault(k, "no adapter", n, p.base, p.y, &p.g);
            if (!dora) {
                bad = p.lora;
                bad.bias.data = NULL;
                g_fault(k, "its bias missing", n, engine_adapted(k, &p, &bad), p.y, &p.g);
                continue;
            }
            bad = p.lora;
            bad.f = f;
            for (int64_t i = 0; i < p.N; ++i) f[i] = p.lora.f[i] * 1.01;
            g_fault(k, "norm x1.01", n, engine_adapted(k, &p, &bad), p.y, &p.g);
            for (int64_t i = 0; i < n; ++i) y[i] = r_at(k, y[i] + (p.lora.f[i % p.N] - 1) * p.b[i % p.N]);
            g_fault(k, "norm scales the bias", n, y, p.y, &p.g);
        }
}
END_TEST

/* PEFT's order of roundings on a 16-bit base: the low-rank path is not rounded, the sum is, once. */
START_TEST(sixteen_bits_round_the_sum)
{
    const adapted p = new_adapted(BF16, NORMAL, 3, 64, 32, 4, false, false);
    const double *got = engine_adapted(BF16, &p, &p.lora), *want = emulated(BF16, &p, SEQUENTIAL, ON_SUM);
    int64_t same = 0, same_rounded_path = 0, n = p.M * p.N;
    for (int64_t i = 0; i < n; ++i) {
        const double base = r_at(BF16, p.base[i]);
        same += fh1_within(fabs(got[i] - want[i]), 0);
        same_rounded_path += fh1_within(fabs(got[i] - r_at(BF16, base + r_at(BF16, p.y[i] - p.base[i]))), 0);
    }
    ck_assert_msg(100 * same > 99 * n, "%lld of %lld", (long long)same, (long long)n);
    ck_assert_msg(100 * same_rounded_path < 90 * n, "a rounded path is told from an unrounded one");
}
END_TEST

START_TEST(embedding)
{
    enum { M = 7, V = 40, D = 36, R = 3, N = M * D };
    static const int64_t ids[M] = {0, 39, 7, 7, 12, 1, 30};
    for (int dora = 0; dora < 2; ++dora) {
        EACH(k, r, seed)
        {
            fh1_engine *e = g_engine(k);
            double *w = g_data(k, r, "table", seed, V * D, 1, 1), *A = g_data(FP32, r, "A", seed, R * V, 1, 1);
            double *B = g_data(FP32, r, "B", seed, D * R, 0.5, -1), *m = g_data(FP32, NORMAL, "m", seed, D, 3, 1);
            const fh1_tensor table = w_store2(k == BF16 ? FH1_BF16 : FH1_F32, w, V, D), mt = w_store(FH1_F32, m, D);
            double f[2 * D], *y = w_new(N);
            fh1_lora l = {.A = w_store2(FH1_F32, A, R, V), .B = w_store2(FH1_F32, B, D, R), .scale = 0.7};
            if (dora) {
                w_fine(cvt_dora_factors(&l, &table, true, &mt, f, f + D));
                l.f = f;
                l.f_terms = f + D;
            }
            const fh1_gauge g = g_new(N);
            w_fine(w_f64->ops->embed(w_f64, M, ids, &table, y));
            ref_embed_gauge(g_contract(k), N, y, &g);
            w_fine(ref_lora_embed_gauge(g_contract(k), M, ids, &l, y, &g));
            w_fine(ref_lora_embed_f64(M, ids, &l, g_contract(EXACT), y));
            for (int fault = 0; fault < 2; ++fault) {
                void *out = w_out(e, N);
                w_fine(e->ops->embed(e, M, ids, &table, out));
                if (fault) l.scale *= 1.05;
                w_fine(k == EXACT ? ref_lora_embed_f64(M, ids, &l, e->profile, out)
                                  : ref_lora_embed_f32(M, ids, &l, e->profile, out));
                if (!fault) g_honest(k, g_regime_name[r], N, w_from(e, out, N), y, &g);
                else if (seed == 1 && r == NORMAL) g_fault(k, "scale x1.05", N, w_from(e, out, N), y, &g);
            }
            e->free(e);
        }
        /* the engine is the truth itself in f64, and its norms are those of f64 in f32 */
        for (int k = EXACT; k <= (dora ? FP32 : EXACT); ++k) g_seen[k].small_gauge_rejects = true;
        g_summary(dora ? "DoRA table" : "LoRA table");
    }
}
END_TEST

int main(void)
{
    const w_test tests[] = {honest_forms, faults, sixteen_bits_round_the_sum, embedding, NULL};
    return w_main("gauge_lora", tests);
}
