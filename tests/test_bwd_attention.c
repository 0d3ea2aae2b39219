/* The backward template of attention against the transposed Jacobian of the formula, written out: whole [T,S] matrices
 * in long double. The template takes 64 queries at a time, and keys before such a tile through OpenBLAS if there are
 * 32: sizes lie on both sides. Keys that no query sees are NaN. */
#include "tests/bwd_fixture.h"

typedef struct {
    int64_t T, S, Hq, Hkv, A, ld;
    double *q, *k, *v, *dout;
    int64_t *first;
} input;

static input make(int64_t T, int64_t S, int64_t Hq, int64_t Hkv, int64_t A, bool documents)
{
    input a = {T, S, Hq, Hkv, A, S + 3, NULL, NULL, NULL, NULL, w_ints(T)};
    a.q = w_normal("q", T * Hq * A, 1.5);
    a.k = w_normal("k", Hkv * a.ld * A, 1.5);
    a.v = w_normal("v", Hkv * a.ld * A, 1);
    a.dout = w_normal("dout", T * Hq * A, 1);
    for (int64_t t = 0; t < T; ++t) { /* of the S tokens, documents begin at 3, 4, 7 and 60 */
        const int64_t s = S - T + t;
        a.first[t] = !documents ? 0 : s >= 60 ? 60 : s >= 7 ? 7 : s >= 4 ? 4 : s == 3 ? 3 : 0;
    }
    for (int64_t h = 0; h < Hkv; ++h)
        for (int64_t s = 0; s < a.ld; ++s)
            for (int64_t i = 0; i < A && (s >= S || s < a.first[0]); ++i)
                a.k[(h * a.ld + s) * A + i] = a.v[(h * a.ld + s) * A + i] = (double)NAN;
    return a;
}

typedef struct {
    double *value, *gauge;
    wide *sum, *size;
    int64_t n;
} gradient;

static gradient gradient_new(int64_t n)
{
    gradient g = {w_new(n), w_new(n), w_bytes(n * (int64_t)sizeof(wide)), w_bytes(n * (int64_t)sizeof(wide)), n};
    for (int64_t i = 0; i < n; ++i) g.sum[i] = g.size[i] = 0;
    return g;
}

static void gain(gradient *g, int64_t at, int64_t A, wide weight, wide size, const double *row)
{
    for (int64_t i = 0; i < A; ++i) {
        g->sum[at + i] += weight * (wide)row[i];
        g->size[at + i] += size * fabsl((wide)row[i]);
    }
}

static void finish(gradient *g)
{
    for (int64_t i = 0; i < g->n; ++i) g->value[i] = (double)g->sum[i], g->gauge[i] = (double)g->size[i];
}

static wide dot(int64_t n, const double *a, const double *b, wide *size)
{
    wide sum = 0;
    *size = 0;
    for (int64_t i = 0; i < n; ++i) sum += (wide)a[i] * (wide)b[i], *size += fabsl((wide)a[i] * (wide)b[i]);
    return sum;
}

/* One query of one head: keys first … end-1. A score is off by (A + 4)·u of Σ|q·k|·scale, which the softmax passes on
 * twice (its own and the largest of the row), its sum of n terms by n·u more, that of dp∘p by n·u again. */
static void query(const input *a, int64_t t, int64_t h, gradient *dq, gradient *dk, gradient *dv)
{
    const int64_t A = a->A, kv = h / (a->Hq / a->Hkv), begin = a->first[t], end = a->S - a->T + t + 1;
    const wide scale = 1 / sqrtl((wide)A);
    const double *q = a->q + (t * a->Hq + h) * A, *dout = a->dout + (t * a->Hq + h) * A;
    wide p[256], dp[256], dp_size[256], top = -(wide)INFINITY, sum = 0, off = 0, row = 0, row_size = 0, size;
    for (int64_t s = begin; s < end; ++s) {
        p[s] = dot(A, q, a->k + (kv * a->ld + s) * A, &size) * scale;
        off = fmaxl(off, size * scale * (wide)(A + 4));
        top = fmaxl(top, p[s]);
        dp[s] = dot(A, dout, a->v + (kv * a->ld + s) * A, &dp_size[s]);
    }
    for (int64_t s = begin; s < end; ++s) sum += p[s] = expl(p[s] - top);
    for (int64_t s = begin; s < end; ++s) p[s] /= sum, row += p[s] * dp[s], row_size += p[s] * dp_size[s];
    const wide terms = 2 * off + (wide)(2 * (end - begin) + A + 2 * a->T * (a->Hq / a->Hkv) + 16);
    for (int64_t s = begin; s < end; ++s) {
        const int64_t key = (kv * a->ld + s) * A;
        const wide ds = p[s] * (dp[s] - row) * scale, bound = p[s] * (dp_size[s] + row_size) * scale * terms;
        gain(dq, (t * a->Hq + h) * A, A, ds, bound, a->k + key);
        gain(dk, key, A, ds, bound, q);
        gain(dv, key, A, p[s], p[s] * terms, dout);
    }
}

static void attention_case(b_run *r, const input *a)
{
    const int64_t n = a->T * a->Hq * a->A, nk = a->Hkv * a->ld * a->A, used = a->S * a->A;
    gradient dq = gradient_new(n), dk = gradient_new(nk), dv = gradient_new(nk);
    for (int64_t t = 0; t < a->T; ++t)
        for (int64_t h = 0; h < a->Hq; ++h) query(a, t, h, &dq, &dk, &dv);
    finish(&dq);
    finish(&dk);
    finish(&dv);
    double *got[] = {w_fill(n, 9), w_fill(nk, 9), w_fill(nk, 9)};
    b_attention args = {a->T, a->S, a->Hq,    a->Hkv,  a->A,   a->ld,  a->q,
                        a->k, a->v, a->first, a->dout, got[0], got[1], got[2]};
    b_fine(r, r->ops->attention(&args));
    b_agree(r, "dq", n, got[0], dq.value, dq.gauge);
    for (int64_t h = 0; h < a->Hkv; ++h) {
        const int64_t at = h * a->ld * a->A;
        b_agree(r, "dk", used, got[1] + at, dk.value + at, dk.gauge + at);
        b_agree(r, "dv", used, got[2] + at, dv.value + at, dv.gauge + at);
        for (int64_t i = used; i < a->ld * a->A; ++i)
            if (got[1][at + i] != 9 || got[2][at + i] != 9) b_agree(r, "behind S", 1, got[1] + at + i, got[0], NULL);
    }
    for (int only = 0; only < 3; ++only) { /* each alone gives the same bits */
        double *one[] = {w_fill(n, 9), w_fill(nk, 9), w_fill(nk, 9)};
        args.dq = only == 0 ? one[0] : NULL;
        args.dk = only == 1 ? one[1] : NULL;
        args.dv = only == 2 ? one[2] : NULL;
        b_fine(r, r->ops->attention(&args));
        b_agree(r, "one alone", only == 0 ? n : nk, one[only], got[only], NULL);
    }
}

static void attention(b_run *r)
{
    static const int64_t shape[][5] = {{1, 1, 1, 1, 2},   {1, 17, 4, 2, 6},   {9, 9, 6, 3, 5},    {5, 14, 4, 1, 16},
                                       {3, 40, 4, 4, 34}, {70, 110, 2, 1, 8}, {130, 130, 4, 2, 3}};
    for (int k = 0; k < 14; ++k) {
        const int64_t *s = shape[k / 2];
        const input a = make(s[0], s[1], s[2], s[3], s[4], k % 2);
        attention_case(r, &a);
    }
    const int64_t none = 0;
    double dk[2] = {1, 1}, dv[2] = {1, 1}, zero[2] = {0, 0}, k[2] = {1, 2};
    const b_attention empty = {0, 2, 1, 1, 1, 2, k, k, k, &none, k, NULL, dk, dv}; /* nobody asks */
    b_fine(r, r->ops->attention(&empty));
    b_agree(r, "dk of no query", 2, dk, zero, NULL);
    b_agree(r, "dv of no query", 2, dv, zero, NULL);
}

START_TEST(agrees_with_its_formula_and_sees_its_faults)
{
    static const b_check check = {"attention",
                                  attention,
                                  {FH1_FAULT_GRAD_KV_HEADS_LAST_WINS, FH1_FAULT_GRAD_SOFTMAX_WITHOUT_ROW_TERM,
                                   FH1_FAULT_GRAD_KEYS_NOT_SCALED, FH1_FAULT_GRAD_PAST_KEYS_DROPPED}};
    b_prove(&check);
}
END_TEST

int main(void)
{
    return w_main("bwd_attention", (w_test[]){agrees_with_its_formula_and_sees_its_faults, NULL});
}
