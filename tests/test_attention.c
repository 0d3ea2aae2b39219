/* attention: out = softmax(q·k/√A)·v with the keys first[t] … S-T+t visible to query t, and key head j/(Hq/Hkv)
 * for query head j. The witness fills whole [T,S] matrices, with -inf where nothing is seen. The reference
 * takes 64 queries at a time, and keys before such a tile through OpenBLAS if there are 32: sizes lie on both sides. */
#include "tests/witness.h"

typedef struct {
    int64_t T, S, Hq, Hkv, A;
    double *q, *k, *v; /* [T,Hq,A], [Hkv,S,A] twice */
    int64_t *first;
} input;

typedef enum { RIGHT, NO_CAUSE, ONE_MORE, ONE_LESS, KV_TILED, KV_0, NO_SCALE, SCALE_1_A, DOCS_LEAK, V_SHIFTED } fault;
static const char *const fault_name[] = {"",
                                         "no causal mask",
                                         "the next key seen too",
                                         "its own key not seen",
                                         "key head j mod Hkv",
                                         "key head 0 for all",
                                         "no 1/√A",
                                         "1/A",
                                         "first ignored",
                                         "value of the next key"};

static bool visible(const input *a, int64_t t, int64_t s, fault f)
{
    const int64_t last = a->S - a->T + t + (f == ONE_MORE) - (f == ONE_LESS);
    if (s < a->first[t] && f != DOCS_LEAK) return false;
    return f == NO_CAUSE || s <= last;
}

/* Softmax of one head, p [T,S], and the largest error of a score in u, ds [T]. */
static void probabilities(const input *a, int64_t h, fault f, wide *p, wide *ds)
{
    const int64_t A = a->A, kv = f == KV_TILED ? h % a->Hkv : f == KV_0 ? 0 : h / (a->Hq / a->Hkv);
    const wide scale = f == NO_SCALE ? 1 : f == SCALE_1_A ? 1 / (wide)A : 1 / sqrtl((wide)A);
    for (int64_t t = 0; t < a->T; ++t) {
        wide sum = 0, top = -(wide)INFINITY;
        ds[t] = 0;
        for (int64_t s = 0; s < a->S; ++s) {
            wide dot = 0, size = 0;
            for (int64_t i = 0; i < A && visible(a, t, s, f); ++i) { /* unseen keys may be NaN */
                const wide term = (wide)a->q[(t * a->Hq + h) * A + i] * (wide)a->k[(kv * a->S + s) * A + i];
                dot += term;
                size += fabsl(term);
            }
            p[t * a->S + s] = visible(a, t, s, f) ? dot * scale : -(wide)INFINITY;
            ds[t] = fmaxl(ds[t], size * scale * (4 * sqrtl((wide)A) + 4));
            top = fmaxl(top, p[t * a->S + s]);
        }
        for (int64_t s = 0; s < a->S; ++s) sum += p[t * a->S + s] = expl(p[t * a->S + s] - top);
        for (int64_t s = 0; s < a->S; ++s) p[t * a->S + s] /= sum;
    }
}

/* gauge: Σ p·|v| · (2·ds + 4·√S + 8). */
static void witness(const input *a, fault f, double *out, double *gauge)
{
    wide *p = w_bytes(a->T * a->S * (int64_t)sizeof *p), *ds = w_bytes(a->T * (int64_t)sizeof *ds);
    for (int64_t h = 0; h < a->Hq; ++h) {
        const int64_t kv = f == KV_TILED ? h % a->Hkv : f == KV_0 ? 0 : h / (a->Hq / a->Hkv);
        probabilities(a, h, f, p, ds);
        for (int64_t t = 0; t < a->T; ++t)
            for (int64_t i = 0; i < a->A; ++i) {
                wide sum = 0, size = 0;
                for (int64_t s = 0; s < a->S; ++s) {
                    if (p[t * a->S + s] == 0) continue;
                    const wide term =
                        p[t * a->S + s] * (wide)a->v[(kv * a->S + (f == V_SHIFTED ? (s + 1) % a->S : s)) * a->A + i];
                    sum += term;
                    size += fabsl(term);
                }
                out[(t * a->Hq + h) * a->A + i] = (double)sum;
                gauge[(t * a->Hq + h) * a->A + i] = (double)(size * (2 * ds[t] + 4 * sqrtl((wide)a->S) + 8));
            }
    }
}

static double *run(fh1_engine *e, const input *a)
{
    const int64_t n = a->T * a->Hq * a->A, nk = a->Hkv * a->S * a->A;
    void *out = w_out(e, n);
    w_fine(e->ops->attention(e, a->T, a->S, a->Hq, a->Hkv, a->A, w_to(e, a->q, n), w_to(e, a->k, nk), w_to(e, a->v, nk),
                             a->first, out));
    return w_from(e, out, n);
}

static input make(int64_t T, int64_t S, int64_t Hq, int64_t Hkv, int64_t A)
{
    input a = {.T = T,
               .S = S,
               .Hq = Hq,
               .Hkv = Hkv,
               .A = A,
               .q = w_normal("q", T * Hq * A, 1.5),
               .k = w_normal("k", Hkv * S * A, 1.5),
               .v = w_normal("v", Hkv * S * A, 1),
               .first = w_ints(T)};
    memset(a.first, 0, (size_t)T * sizeof *a.first);
    return a;
}

/* Documents of the S tokens begin at 0, 5, 6 and 11. */
static void cut(input *a)
{
    for (int64_t t = 0; t < a->T; ++t) {
        const int64_t s = a->S - a->T + t;
        a->first[t] = s >= 11 ? 11 : s >= 6 ? 6 : s == 5 ? 5 : 0;
    }
}

static int64_t n_out(const input *a)
{
    return a->T * a->Hq * a->A;
}

START_TEST(agrees_with_the_formula)
{
    static const int64_t shape[][5] = {{1, 1, 1, 1, 2},   {1, 17, 4, 2, 6},  {9, 9, 6, 2, 16},   {5, 14, 4, 1, 34},
                                       {3, 3, 12, 4, 64}, {70, 75, 2, 1, 8}, {2, 70, 3, 3, 130}, {130, 130, 1, 1, 4}};
    for (int k = 0; k < 32; ++k) {
        const int64_t *s = shape[k / 4];
        input a = make(s[0], s[1], s[2], s[3], s[4]);
        if (k / 2 % 2) cut(&a);
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
        input a = make(10, 13, 6, 3, 16);
        cut(&a);
        double *want = w_new(n_out(&a)), *gauge = w_new(n_out(&a)), *got = run(e, &a);
        for (fault f = RIGHT; f <= V_SHIFTED; ++f) {
            witness(&a, f, want, gauge);
            if (f == RIGHT) w_accepts(e, "documents", n_out(&a), got, want, gauge);
            else w_rejects(e, fault_name[f], n_out(&a), got, want, gauge);
        }
    }
}
END_TEST

/* Keys in equal pairs, other pairs at least 1000 below: weights are exactly 0, 1/2 and 1. */
START_TEST(lattice_is_exact)
{
    enum { S = 80, A = 16 };
    input a = make(S, S, 4, 2, A);
    a.q = w_lattice("q", n_out(&a), -2, 2, 1), a.v = w_lattice("v", 2 * S * A, -9, 9, 1);
    a.k = w_lattice("k", 2 * S * A, -2, 2, 1);
    for (int64_t r = 0; r < S * 4; ++r) a.q[r * A] = r % 3 ? 8192 : -8192;
    for (int64_t r = 0; r < 2 * S; ++r) {
        a.k[r * A] = (double)(r % S / 2);
        if (r % 2) memcpy(a.k + r * A, a.k + (r - 1) * A, A * sizeof *a.k);
    }
    double *want = w_new(n_out(&a)), *wrong = w_new(n_out(&a)), *gauge = w_new(n_out(&a));
    witness(&a, RIGHT, want, gauge);
    for (int k = 0; k < 2; ++k) {
        fh1_engine *e = k ? w_f32 : w_f64;
        const double *got = run(e, &a);
        w_accepts(e, "lattice", n_out(&a), got, want, NULL);
        for (fault f = NO_CAUSE; f <= KV_0; ++f) {
            if (f == ONE_LESS) continue; /* query 0 would see nothing */
            witness(&a, f, wrong, gauge);
            w_rejects(e, fault_name[f], n_out(&a), got, wrong, NULL);
        }
    }
}
END_TEST

/* Nothing outside the visible range is read: NaN there changes no bit. The last query sees the last key, and must
 * show it; where there is only one query, that key stays clean. */
START_TEST(unseen_keys_are_not_read)
{
    static const int64_t shape[][3] = {{4, 12, 6}, {1, 12, 6}, {40, 100, 50}, {70, 70, 0}}; /* T, S, first */
    for (int k = 0; k < 8; ++k) {
        const int64_t T = shape[k / 2][0], S = shape[k / 2][1], first = shape[k / 2][2], n = (T > 1 ? T - 1 : 1) * 40;
        fh1_engine *e = k % 2 ? w_f32 : w_f64;
        input a = make(T, S, 4, 2, 10), b = a;
        for (int64_t t = 0; t < T; ++t) a.first[t] = first;
        b.k = w_copy(a.k, 2 * S * 10), b.v = w_copy(a.v, 2 * S * 10);
        for (int64_t i = 0; i < 2 * S * 10; ++i) {
            const int64_t s = i / 10 % S;
            if (s < first || (T > 1 && s == S - 1)) b.k[i] = b.v[i] = s % 2 ? (double)NAN : (double)INFINITY;
        }
        const double *clean = run(e, &a), *poisoned = run(e, &b);
        w_exact(e, "NaN out of sight", n, poisoned, clean);
        ck_assert(T == 1 || !isfinite(poisoned[n]));
    }
}
END_TEST

START_TEST(threads_do_not_change_a_bit)
{
    input a = make(70, 90, 6, 2, 16);
    fh1_set_threads(1);
    const double *one = run(w_f32, &a);
    fh1_set_threads(3);
    w_exact(w_f32, "three threads", n_out(&a), run(w_f32, &a), one);
    fh1_set_threads(0);
}
END_TEST

/* Documents packed or alone, and nine tokens in two calls: the same bits. */
START_TEST(packing_and_splits_give_the_same_bits)
{
    static const int64_t begin[] = {0, 5, 6, 11, 14};
    for (int k = 0; k < 2; ++k) {
        fh1_engine *e = k ? w_f32 : w_f64;
        input a = make(14, 14, 4, 2, 18);
        cut(&a);
        const double *packed = run(e, &a);
        for (int i = 0; i < 4; ++i) {
            input solo = make(begin[i + 1] - begin[i], begin[i + 1] - begin[i], 4, 2, 18);
            solo.q = a.q + begin[i] * 72;
            for (int64_t h = 0; h < 2; ++h) {
                memcpy(solo.k + h * solo.S * 18, a.k + (h * 14 + begin[i]) * 18, (size_t)(solo.S * 18) * sizeof *a.k);
                memcpy(solo.v + h * solo.S * 18, a.v + (h * 14 + begin[i]) * 18, (size_t)(solo.S * 18) * sizeof *a.v);
            }
            w_exact(e, "a document alone", n_out(&solo), packed + begin[i] * 72, run(e, &solo));
        }
        for (int64_t t = 1; t < 14; ++t) { /* the second call of a split: all keys, the last 14 - t queries */
            input rest = a;
            rest.T = 14 - t, rest.q = a.q + t * 72, rest.first = a.first + t;
            w_exact(e, "second part", n_out(&rest), run(e, &rest), packed + t * 72);
        }
    }
}
END_TEST

/* Near ties, scores of thousands, tiny and equal keys. */
START_TEST(adversarial_scores)
{
    static const double scale[] = {1e-20, 1e-4, 40, 1000};
    for (int k = 0; k < 8; ++k) {
        fh1_engine *e = k % 2 ? w_f32 : w_f64;
        input a = make(6, 20, 2, 1, 32);
        for (int64_t i = 0; i < n_out(&a); ++i) a.q[i] = (double)(float)(a.q[i] * scale[k / 2]);
        for (int64_t i = 32; i < 20 * 32; ++i) /* neighbours differ in one element, in its last bits */
            a.k[i] = i / 32 % 2 ? a.k[i - 32] * (i % 32 == 3 ? 1 + 0x1p-22 : 1) : a.k[i];
        double *want = w_new(n_out(&a)), *gauge = w_new(n_out(&a)), *seen = w_from(e, w_to(e, a.k, 640), 640);
        a.k = seen;
        witness(&a, RIGHT, want, gauge);
        w_accepts(e, "near ties", n_out(&a), run(e, &a), want, gauge);
    }
}
END_TEST

/* Scores are rounded before and after the scale, weights and context once; the dot products are exact in f32. */
START_TEST(bf16_rounding_points)
{
    input a = make(7, 9, 4, 2, 8);
    a.q = w_lattice("q", n_out(&a), -60, 60, 1.0 / 32), a.k = w_lattice("k", 2 * 9 * 8, -60, 60, 1.0 / 32);
    a.v = w_lattice("v", 2 * 9 * 8, -60, 60, 1.0 / 16);
    double *got = run(w_bf16, &a), *want[4];
    for (int skip = 0; skip < 4; ++skip) { /* 1 … 3: without the rounding of score, weight, context */
        want[skip] = w_new(n_out(&a));
        for (int64_t r = 0; r < 7 * 4; ++r) {
            const int64_t t = r / 4, kv = r % 4 / 2, n = 3 + t;
            wide p[9], sum = 0, top = -(wide)INFINITY;
            for (int64_t s = 0; s < n; ++s) {
                wide dot = 0;
                for (int64_t i = 0; i < 8; ++i) dot += (wide)a.q[r * 8 + i] * (wide)a.k[(kv * 9 + s) * 8 + i];
                if (skip != 1) dot = (wide)w_r(dot);
                p[s] = (wide)w_r(dot * (wide)(float)(1 / sqrt(8.0)));
                top = fmaxl(top, p[s]);
            }
            for (int64_t s = 0; s < n; ++s) sum += p[s] = expl(p[s] - top);
            for (int64_t i = 0; i < 8; ++i) {
                wide o = 0;
                for (int64_t s = 0; s < n; ++s)
                    o += (skip == 2 ? p[s] / sum : (wide)w_r(p[s] / sum)) * (wide)a.v[(kv * 9 + s) * 8 + i];
                want[skip][r * 8 + i] = skip == 3 ? (double)(float)o : w_r(o);
            }
        }
    }
    w_exact(w_bf16, "four roundings", n_out(&a), got, want[0]);
    for (int skip = 1; skip < 4; ++skip) w_rejects(w_bf16, "a rounding left out", n_out(&a), got, want[skip], NULL);
}
END_TEST

int main(void)
{
    const w_test tests[] = {
        agrees_with_the_formula,  faults_are_rejected,         lattice_is_exact,
        unseen_keys_are_not_read, threads_do_not_change_a_bit, packing_and_splits_give_the_same_bits,
        adversarial_scores,       bf16_rounding_points,        NULL};
    return w_main("attention", tests);
}
