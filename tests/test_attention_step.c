/* attention_step: one query on a cache, out = softmax(q·k/√A)·v over the keys first … S-1, key head j/(Hq/Hkv) for
 * query head j. It is the last row of attention, and every row of attention on a shorter cache: bit for bit where
 * attention takes its keys one by one, within the gauge where a tile of queries goes through OpenBLAS (from 32 shared
 * keys on). */
#include "tests/witness.h"

typedef struct {
    int64_t S, Hq, Hkv, A, first;
    double *q, *k, *v; /* [Hq,A], [Hkv,S,A] twice */
} input;

typedef enum {
    RIGHT,
    OWN_UNSEEN,
    FIRST_IGNORED,
    FIRST_LATE,
    KV_TILED,
    KV_0,
    NO_SCALE,
    SCALE_1_A,
    V_SHIFTED,
    NO_MAX
} fault;
static const char *const fault_name[] = {"",
                                         "the last key not seen",
                                         "first ignored",
                                         "the first key not seen",
                                         "key head j mod Hkv",
                                         "key head 0 for all",
                                         "no 1/√A",
                                         "1/A",
                                         "value of the next key",
                                         "weights not normalised"};

static int64_t kv_head(const input *a, int64_t h, fault f)
{
    return f == KV_TILED ? h % a->Hkv : f == KV_0 ? 0 : h / (a->Hq / a->Hkv);
}

/* Weights p [S], 0 where nothing is seen; returns the largest error of a score in u. */
static wide probabilities(const input *a, int64_t h, fault f, wide *p)
{
    const wide scale = f == NO_SCALE ? 1 : f == SCALE_1_A ? 1 / (wide)a->A : 1 / sqrtl((wide)a->A);
    const int64_t first = f == FIRST_IGNORED ? 0 : a->first + (f == FIRST_LATE), last = a->S - (f == OWN_UNSEEN);
    const double *k = a->k + kv_head(a, h, f) * a->S * a->A;
    wide ds = 0, sum = 0, top = -(wide)INFINITY;
    for (int64_t s = first; s < last; ++s) {
        wide dot = 0, size = 0;
        for (int64_t i = 0; i < a->A; ++i) {
            const wide term = (wide)a->q[h * a->A + i] * (wide)k[s * a->A + i];
            dot += term;
            size += fabsl(term);
        }
        p[s] = dot * scale;
        ds = fmaxl(ds, size * scale * (4 * sqrtl((wide)a->A) + 4));
        top = fmaxl(top, p[s]);
    }
    for (int64_t s = 0; s < a->S; ++s) sum += p[s] = s >= first && s < last ? expl(p[s] - top) : 0;
    for (int64_t s = 0; s < a->S && f != NO_MAX; ++s) p[s] /= sum;
    return ds;
}

/* gauge: Σ p·|v| · (2·ds + 4·√S + 8), as in test_attention.c. */
static void witness(const input *a, fault f, double *out, double *gauge)
{
    wide *p = w_bytes(a->S * (int64_t)sizeof *p);
    for (int64_t h = 0; h < a->Hq; ++h) {
        const wide ds = probabilities(a, h, f, p);
        const double *v = a->v + kv_head(a, h, f) * a->S * a->A;
        for (int64_t i = 0; i < a->A; ++i) {
            wide sum = 0, size = 0;
            for (int64_t s = 0; s < a->S; ++s) {
                if (p[s] == 0) continue; /* what is not seen may be NaN */
                const wide term = p[s] * (wide)v[(f == V_SHIFTED ? (s + 1) % a->S : s) * a->A + i];
                sum += term;
                size += fabsl(term);
            }
            out[h * a->A + i] = (double)sum;
            gauge[h * a->A + i] = (double)(size * (2 * ds + 4 * sqrtl((wide)a->S) + 8));
        }
    }
}

static int64_t n_out(const input *a)
{
    return a->Hq * a->A;
}

static double *run(fh1_engine *e, const input *a)
{
    const int64_t nk = a->Hkv * a->S * a->A;
    void *out = w_out(e, n_out(a));
    w_fine(e->ops->attention_step(e, a->S, a->Hq, a->Hkv, a->A, w_to(e, a->q, n_out(a)), w_to(e, a->k, nk),
                                  w_to(e, a->v, nk), a->first, out));
    return w_from(e, out, n_out(a));
}

static input make(int64_t S, int64_t Hq, int64_t Hkv, int64_t A, int64_t first)
{
    return (input){.S = S,
                   .Hq = Hq,
                   .Hkv = Hkv,
                   .A = A,
                   .first = first,
                   .q = w_normal("q", Hq * A, 1.5),
                   .k = w_normal("k", Hkv * S * A, 1.5),
                   .v = w_normal("v", Hkv * S * A, 1)};
}

START_TEST(agrees_with_the_formula)
{
    static const int64_t shape[][5] = {{1, 1, 1, 2, 0},    {2, 4, 2, 6, 1},  {17, 6, 2, 16, 0},   {33, 4, 1, 34, 32},
                                       {64, 12, 4, 64, 5}, {75, 2, 1, 8, 0}, {300, 3, 3, 130, 7}, {40, 1, 1, 4, 39}};
    for (int k = 0; k < 16; ++k) {
        const int64_t *s = shape[k / 2];
        const input a = make(s[0], s[1], s[2], s[3], s[4]);
        fh1_engine *e = k % 2 ? w_f32 : w_f64;
        double *want = w_new(n_out(&a)), *gauge = w_new(n_out(&a));
        witness(&a, RIGHT, want, gauge);
        w_accepts(e, "random", n_out(&a), run(e, &a), want, gauge);
    }
}
END_TEST

START_TEST(faults_are_rejected)
{
    for (int k = 0; k < 2; ++k) {
        fh1_engine *e = k ? w_f32 : w_f64;
        const input a = make(13, 6, 3, 16, 4);
        double *want = w_new(n_out(&a)), *gauge = w_new(n_out(&a)), *got = run(e, &a);
        for (fault f = RIGHT; f <= NO_MAX; ++f) {
            witness(&a, f, want, gauge);
            if (f == RIGHT) w_accepts(e, "before the faults", n_out(&a), got, want, gauge);
            else w_rejects(e, fault_name[f], n_out(&a), got, want, gauge);
        }
    }
}
END_TEST

/* Keys in equal pairs, other pairs at least 1000 below: weights are exactly 0, 1/2 and 1. */
START_TEST(lattice_is_exact)
{
    enum { A = 16 };
    for (int k = 0; k < 8; ++k) {
        fh1_engine *e = k % 2 ? w_f32 : w_f64;
        input a = make(k / 2 % 2 ? 80 : 41, 4, 2, A, k / 4 ? 10 : 0); /* an odd number: the newest key stands alone */
        const int64_t S = a.S;
        a.q = w_lattice("q", n_out(&a), -2, 2, 1), a.v = w_lattice("v", 2 * S * A, -9, 9, 1);
        a.k = w_lattice("k", 2 * S * A, -2, 2, 1);
        for (int64_t h = 0; h < 4; ++h) a.q[h * A] = h % 3 ? 8192 : -8192;
        for (int64_t r = 0; r < 2 * S; ++r) {
            a.k[r * A] = (double)(r % S / 2);
            if (r % S % 2) memcpy(a.k + r * A, a.k + (r - 1) * A, A * sizeof *a.k);
        }
        double *want = w_new(n_out(&a)), *gauge = w_new(n_out(&a));
        const double *got = run(e, &a);
        for (fault f = RIGHT; f <= KV_0; ++f) {
            if (f == FIRST_IGNORED && a.first == 0) continue;
            witness(&a, f, want, gauge);
            if (f == RIGHT) w_accepts(e, "lattice", n_out(&a), got, want, NULL);
            else w_rejects(e, fault_name[f], n_out(&a), got, want, NULL);
        }
    }
}
END_TEST

/* Keys before `first` are not read: NaN there changes no bit. At `first` it must be seen. */
START_TEST(keys_of_other_documents_are_not_read)
{
    for (int k = 0; k < 4; ++k) {
        fh1_engine *e = k % 2 ? w_f32 : w_f64;
        const input a = make(k / 2 ? 90 : 12, 4, 2, 10, k / 2 ? 50 : 6);
        input b = a;
        b.k = w_copy(a.k, 2 * a.S * 10), b.v = w_copy(a.v, 2 * a.S * 10);
        for (int64_t i = 0; i < 2 * a.S * 10; ++i)
            if (i / 10 % a.S < a.first) b.k[i] = b.v[i] = i % 2 ? (double)NAN : (double)INFINITY;
        w_exact(e, "NaN out of sight", n_out(&a), run(e, &b), run(e, &a));
        b.v[a.first * 10] = (double)NAN;
        const double *seen = run(e, &b);
        ck_assert(isnan(seen[0]) && isnan(seen[10])); /* both query heads of the first key head */
        ck_assert(!isnan(seen[1]) && !isnan(seen[20]));
    }
}
END_TEST

/* The first S' of the S keys, as a cache of that length would hold them. */
static double *shorter(const double *k, int64_t Hkv, int64_t S, int64_t A, int64_t n)
{
    double *out = w_new(Hkv * n * A);
    for (int64_t h = 0; h < Hkv; ++h) memcpy(out + h * n * A, k + h * S * A, (size_t)(n * A) * sizeof *out);
    return out;
}

/* Each of the T queries of attention as a step on the cache of its moment: the same bits below 32 shared keys, and the
 * gauge of the step where tiles go through OpenBLAS. Query T-1 alone, with T = 1, is the step itself. */
START_TEST(rows_of_attention_are_steps)
{
    static const int64_t shape[][3] = {{1, 40, 3}, {9, 9, 0}, {14, 45, 14}, {70, 170, 0}, {70, 170, 45}, {66, 100, 9}};
    enum { HQ = 4, HKV = 2, A = 18 };
    for (int k = 0; k < 18; ++k) {
        const int64_t T = shape[k / 3][0], S = shape[k / 3][1], first = shape[k / 3][2], n = HQ * A;
        fh1_engine *e = k % 3 == 0 ? w_f64 : k % 3 == 1 ? w_f32 : w_bf16;
        const bool by_hand = k / 3 < 3;
        if (e == w_bf16 && !by_hand) continue; /* a rounding on the edge may fall either way */
        const input all = make(S, HQ, HKV, A, first);
        double *q = w_normal("queries", T * n, 1.5), *want = w_new(n), *gauge = w_new(n);
        int64_t *firsts = w_ints(T);
        for (int64_t t = 0; t < T; ++t) firsts[t] = first;
        void *out = w_out(e, T * n);
        w_fine(e->ops->attention(e, T, S, HQ, HKV, A, w_to(e, q, T * n), w_to(e, all.k, HKV * S * A),
                                 w_to(e, all.v, HKV * S * A), firsts, out));
        const double *rows = w_from(e, out, T * n);
        for (int64_t t = T - 1; t >= 0; t -= t > 8 ? 7 : 1) {
            input one = all;
            one.S = S - T + t + 1, one.q = q + t * n;
            one.k = shorter(all.k, HKV, S, A, one.S), one.v = shorter(all.v, HKV, S, A, one.S);
            const double *step = run(e, &one);
            if (by_hand) {
                w_exact(e, "a row", n, rows + t * n, step);
                continue;
            }
            witness(&one, RIGHT, want, gauge);
            w_accepts(e, "a row of a tile", n, rows + t * n, step, gauge);
            w_accepts(e, "its step", n, step, want, gauge);
            one.q = q + (t + 1) % T * n;
            w_rejects(e, "another query", n, rows + t * n, run(e, &one), gauge);
        }
    }
}
END_TEST

START_TEST(threads_do_not_change_a_bit)
{
    const input a = make(90, 12, 2, 16, 4);
    fh1_set_threads(1);
    const double *one = run(w_f32, &a);
    fh1_set_threads(3);
    w_exact(w_f32, "three threads", n_out(&a), run(w_f32, &a), one);
    fh1_set_threads(0);
}
END_TEST

/* Scores are rounded before and after the scale, weights and context once; the dot products are exact in f32. */
START_TEST(bf16_rounding_points)
{
    enum { S = 12, A = 8, HQ = 8, FIRST = 3, N_POINTS = 4 };
    input a = make(S, HQ, 2, A, FIRST);
    a.q = w_lattice("q", n_out(&a), -60, 60, 1.0 / 32), a.k = w_lattice("k", 2 * S * A, -60, 60, 1.0 / 32);
    a.v = w_lattice("v", 2 * S * A, -60, 60, 1.0 / 16);
    double *got = run(w_bf16, &a), *want[N_POINTS + 1];
    for (int skip = 0; skip <= N_POINTS; ++skip) { /* 1 … 4: without the rounding of q·k, score, weight, context */
        want[skip] = w_new(n_out(&a));
        for (int64_t h = 0; h < HQ; ++h) {
            const int64_t kv = h / 4;
            wide p[S], sum = 0, top = -(wide)INFINITY;
            for (int64_t s = FIRST; s < S; ++s) {
                wide dot = 0;
                for (int64_t i = 0; i < A; ++i) dot += (wide)a.q[h * A + i] * (wide)a.k[(kv * S + s) * A + i];
                if (skip != 1) dot = (wide)w_r(dot);
                p[s] = dot * (wide)(float)(1 / sqrt((double)A));
                p[s] = skip == 2 ? (wide)(float)p[s] : (wide)w_r(p[s]);
                top = fmaxl(top, p[s]);
            }
            for (int64_t s = FIRST; s < S; ++s) sum += p[s] = expl(p[s] - top);
            for (int64_t i = 0; i < A; ++i) {
                wide o = 0;
                for (int64_t s = FIRST; s < S; ++s)
                    o += (skip == 3 ? p[s] / sum : (wide)w_r(p[s] / sum)) * (wide)a.v[(kv * S + s) * A + i];
                want[skip][h * A + i] = skip == 4 ? (double)(float)o : w_r(o);
            }
        }
    }
    w_exact(w_bf16, "four roundings", n_out(&a), got, want[0]);
    for (int skip = 1; skip <= N_POINTS; ++skip)
        w_rejects(w_bf16, "a rounding left out", n_out(&a), got, want[skip], NULL);
}
END_TEST

int main(void)
{
    const w_test tests[] = {agrees_with_the_formula,
                            faults_are_rejected,
                            lattice_is_exact,
                            keys_of_other_documents_are_not_read,
                            rows_of_attention_are_steps,
                            threads_do_not_change_a_bit,
                            bf16_rounding_points,
                            NULL};
    return w_main("attention_step", tests);
}
