/* Gauges of rotation, attention and loss. */
#include "tests/gauge_bench.h"

#include "reference/gauge_parts.h"
#include "reference/rope_gauge.h"

enum { N_SEEDS = 3 };

static double at_point(int k, fh1_point p, double v)
{
    return fh1_round_f64(g_contract(k)->at[p], v);
}

/* ---- rope ---- */

enum { T = 12, HEADS = 3, A = 24, HALF = A / 2, N = T * HEADS * A };

static fh1_config rope_config(int i)
{
    static const double longer[HALF] = {1, 1.1, 1.3, 1.7, 2, 2.5, 3, 4, 6, 9, 14, 20};
    static const fh1_rope kind[] = {
        {.type = FH1_ROPE_DEFAULT, .theta = 1e4},
        {.type = FH1_ROPE_DEFAULT, .theta = 1e11},
        {.type = FH1_ROPE_LINEAR, .theta = 1e4, .factor = 3},
        {.type = FH1_ROPE_DYNAMIC, .theta = 1e4, .factor = 2.5, .max_position = 100},
        {.type = FH1_ROPE_YARN,
         .theta = 1e6,
         .factor = 4,
         .beta_fast = 32,
         .beta_slow = 1,
         .original_max_position = 512},
        {.type = FH1_ROPE_LLAMA3,
         .theta = 5e5,
         .factor = 8,
         .low_freq_factor = 1,
         .high_freq_factor = 4,
         .original_max_position = 256},
        {.type = FH1_ROPE_LONGROPE,
         .theta = 1e4,
         .factor = 5,
         .original_max_position = 64,
         .max_position = 4096,
         .long_factor = longer,
         .short_factor = longer},
    };
    fh1_config c = {.A = A, .rope = kind[i]};
    if (c.rope.max_position == 0) c.rope.max_position = 2048;
    return c;
}
enum { N_ROPES = 7 };

static double *rotated(fh1_engine *e, const fh1_config *c, const int64_t *position, const double *x)
{
    void *v = w_to(e, x, N);
    w_fine(e->ops->rope(e, c, T, HEADS, position, position[T - 1] + 1, v));
    return w_from(e, v, N);
}

/* As the contract rounds, with f32 frequencies off by up to 3 u and any cosine: another library. Exact angles are
 * reduced in f64 and then rounded. `products` rounds those. */
static double *emulated_rope(int k, const fh1_config *c, const int64_t *position, const double *x, fh1_round products)
{
    const fh1_stream s = fh1_stream_open(9, "pow");
    float freq[HALF];
    double exact[HALF], scale, *y = w_new(N);
    const bool in_f64 = g_contract(k)->exact_angle;
    fh1_rope_frequencies(c, position[T - 1] + 1, exact, &scale);
    fh1_rope_frequencies_f32(c, position[T - 1] + 1, freq, &scale);
    g_single = true;
    for (int64_t i = 0; i < N; ++i) {
        const int64_t t = i / A / HEADS, p = i % HALF;
        const double f = g_a((double)freq[p] * (1 + 3 * 0x1p-24 * (2 * fh1_random_uniform(s, (uint64_t)p) - 1)));
        const double angle =
            g_a(in_f64 ? remainder((double)position[t] * exact[p], 2 * acos(-1.0)) : (double)position[t] * f);
        const double cosine = at_point(k, FH1_RP_ROPE_TABLE, g_a(g_a(cos(angle)) * g_a(scale)));
        const double sine = at_point(k, FH1_RP_ROPE_TABLE, g_a(g_a(sin(angle)) * g_a(scale)));
        const double other = i % A < HALF ? -x[i + HALF] : x[i - HALF];
        const double sum = fh1_round_f64(products, g_a(x[i] * cosine)) + fh1_round_f64(products, g_a(other * sine));
        y[i] = at_point(k, FH1_RP_ROPE_SUM, g_a(sum));
    }
    return y;
}

START_TEST(rope_holds_frequencies_and_keys)
{
    const double m_key = 0.39;
    for (int k = FP32; k < N_CONTRACTS; ++k)
        for (regime r = NORMAL; r < N_REGIMES; ++r)
            for (int kind = 0; kind < N_ROPES; ++kind)
                for (int far = 0; far < 3; ++far) {
                    static const int64_t step[] = {1, 900, 1500007};
                    const fh1_config c = rope_config(kind);
                    int64_t *position = w_ints(T);
                    for (int64_t t = 0; t < T; ++t) position[t] = t * step[far] + (t > 0) * far;
                    fh1_engine *e = g_engine(k);
                    double *x = g_data(k, r, "x", (uint64_t)kind + 1, N, 1, 1), *key = w_new(N), *rounded = w_new(N);
                    const fh1_gauge g = g_new(N), x_err = g_new(N);
                    const double *y = rotated(w_f64, &c, position, x);
                    w_fine(w_f64->gauges->rope(g_contract(k), &c, T, HEADS, position, position[T - 1] + 1, x, &g));
                    g_honest(k, g_regime_name[r], N, rotated(e, &c, position, x), y, &g);
                    const fh1_round products = g_contract(k)->at[FH1_RP_ROPE];
                    g_honest(k, "another pow", N, emulated_rope(k, &c, position, x, products), y, &g);
                    for (int64_t i = 0; i < N; ++i) {
                        key[i] = x[i] * m_key;
                        rounded[i] = at_point(k, FH1_RP_KEY, (double)((float)x[i] * (float)m_key));
                    }
                    y = rotated(w_f64, &c, position, key);
                    ref_multiply_gauge(g_contract(k), FH1_RP_KEY, N, x, m_key, &x_err);
                    w_fine(ref_rope_gauge(g_contract(k), &c, T, HEADS, position, position[T - 1] + 1, key, &x_err, &g));
                    g_honest(k, "rounded keys", N, rotated(e, &c, position, rounded), y, &g);
                    e->free(e);
                }
    g_summary("rope");
}
END_TEST

START_TEST(rope_faults)
{
    for (int k = FP32; k < N_CONTRACTS; ++k) {
        fh1_config c = rope_config(0);
        int64_t position[T], moved[T];
        for (int64_t t = 0; t < T; ++t) moved[t] = 1 + (position[t] = 40 * t);
        fh1_engine *e = g_engine(k);
        double *x = g_data(k, NORMAL, "x", 1, N, 1, 1), *mixed = w_new(N), *bad = w_new(N);
        const fh1_gauge g = g_new(N);
        const double *y = rotated(w_f64, &c, position, x);
        w_fine(w_f64->gauges->rope(g_contract(k), &c, T, HEADS, position, position[T - 1] + 1, x, &g));
        if (k == CUDA) g_fault(k, "products rounded", N, emulated_rope(k, &c, position, x, FH1_ROUND_BF16), y, &g);
        g_fault(k, "position off by one", N, rotated(e, &c, moved, x), y, &g);
        for (int64_t i = 0; i < N; ++i) mixed[i / A * A + i % A / 2 + i % 2 * HALF] = x[i]; /* GPT-J's order */
        const double *turned = rotated(e, &c, position, mixed);
        for (int64_t i = 0; i < N; ++i) bad[i] = turned[i / A * A + i % A / 2 + i % 2 * HALF];
        g_fault(k, "interleaved pairs", N, bad, y, &g);
        for (int64_t t = 0; t < T; ++t) moved[t] = -position[t];
        g_fault(k, "sign of the sine", N, rotated(e, &c, moved, x), y, &g);
        c.rope.theta = 1.01e4;
        g_fault(k, "theta x1.01", N, rotated(e, &c, position, x), y, &g);
        e->free(e);
    }
}
END_TEST

/* ---- attention ---- */

typedef enum { PLAIN, SHARP, TIES, NEAR_TIES, TWO_KINDS, FLAT_VALUES, N_SCENES } scene;
static const char *const scene_name[] = {
    "plain", "sharp", "all scores tie", "near ties", "two kinds of key", "one-signed values"};

typedef struct {
    int64_t T, S, Hq, Hkv, A;
    double *q, *k, *v, *out;
    int64_t *first;
    fh1_gauge g;
} heads;

static void judge_heads(int c, heads *h)
{
    w_fine(w_f64->ops->attention(w_f64, h->T, h->S, h->Hq, h->Hkv, h->A, h->q, h->k, h->v, h->first, h->out));
    w_fine(w_f64->gauges->attention(g_contract(c), h->T, h->S, h->Hq, h->Hkv, h->A, h->q, h->k, h->v, h->first, h->out,
                                    &h->g));
}

static heads new_heads(int c, regime r, scene s, uint64_t seed, int64_t n_queries, int64_t n_keys, int64_t width)
{
    heads h = {.T = n_queries, .S = n_keys, .Hq = 4, .Hkv = 2, .A = width};
    const int64_t n = h.T * h.Hq * h.A, m = h.Hkv * h.S * h.A;
    h.q = g_data(c, r, "q", seed, n, s == SHARP ? 4 : 1, 1);
    h.k = g_data(c, r, "k", seed, m, s == SHARP ? 4 : 1, s == PLAIN ? 1 : -1);
    h.v = g_data(c, r, "v", seed, m, 1, -1);
    h.first = w_ints(h.T);
    h.out = w_new(n);
    h.g = g_new(n);
    for (int64_t t = 0; t < h.T; ++t) h.first[t] = t > h.T / 2 ? h.S - h.T + h.T / 2 : 0; /* a second document */
    for (int64_t i = 0; i < n && s == TIES; ++i) h.q[i] = 0;
    for (int64_t i = 0; i < m; ++i) {
        const int64_t like = i / (h.S * h.A) * h.S * h.A + i % h.A, key = i / h.A % h.S;
        if (s == NEAR_TIES && key > 0) h.k[i] = h.k[like] * (1 + 0x1p-10 * (double)(key % 5));
        if (s == TWO_KINDS && key > 1) {
            h.k[i] = h.k[like + key % 2 * h.A];
            h.v[i] = (key % 2 ? 1 : -1) * fabs(h.v[like]);
        }
        if (s == FLAT_VALUES) h.v[i] = 2 + fabs(h.v[i]) / 4;
        h.k[i] = fh1_round_f64(g_storage(c), h.k[i]);
        h.v[i] = fh1_round_f64(g_storage(c), h.v[i]);
    }
    judge_heads(c, &h);
    return h;
}

static double *engine_heads(int c, const heads *h, const double *q, const double *k, const int64_t *first)
{
    fh1_engine *e = g_engine(c);
    const int64_t n = h->T * h->Hq * h->A, m = h->Hkv * h->S * h->A;
    void *out = w_out(e, n);
    w_fine(e->ops->attention(e, h->T, h->S, h->Hq, h->Hkv, h->A, w_to(e, q, n), w_to(e, k, m), w_to(e, h->v, m), first,
                             out));
    double *got = w_from(e, out, n);
    e->free(e);
    return got;
}

/* Eager as the contract rounds, sums in order o; `prob` rounds the weights. */
static double *emulated_heads(int c, const heads *h, g_order o, fh1_round prob)
{
    double *out = w_new(h->T * h->Hq * h->A), *p = w_new(h->S), *column = w_new(h->S);
    g_single = c != EXACT;
    const double scale = g_a(1 / sqrt((double)h->A));
    for (int64_t i = 0; i < h->T * h->Hq; ++i) {
        const int64_t t = i / h->Hq, first = h->first[t], n = h->S - h->T + t + 1 - first;
        const int64_t at = (i % h->Hq / (h->Hq / h->Hkv) * h->S + first) * h->A;
        double max = -(double)INFINITY, sum = 0;
        for (int64_t j = 0; j < n; ++j) {
            p[j] = at_point(c, FH1_RP_SCORE, g_dot(o, h->A, h->q + i * h->A, h->k + at + j * h->A));
            p[j] = at_point(c, FH1_RP_SCORE, g_a(p[j] * scale));
            max = fmax(max, p[j]);
        }
        for (int64_t j = 0; j < n; ++j) {
            p[j] = g_exp(g_a(p[j] - max));
            sum = g_a(sum + p[j]);
        }
        for (int64_t j = 0; j < n; ++j) p[j] = fh1_round_f64(prob, g_a(p[j] / sum));
        for (int64_t d = 0; d < h->A; ++d) {
            for (int64_t j = 0; j < n; ++j) column[j] = h->v[at + j * h->A + d];
            out[i * h->A + d] = at_point(c, FH1_RP_CONTEXT, g_dot(o, n, p, column));
        }
    }
    return out;
}

static double rounded_weight(int c, double p)
{
    return at_point(c, FH1_RP_PROB_TILE, p);
}

static double cut_weight(int c, double p)
{
    (void)c;
    const double ulp = fh1_dtype_ulp(FH1_BF16, p);
    return floor(p / ulp) * ulp;
}

/* One pass with a running maximum, sums rescaled where it grows, powers of two, one division at the end. The weights
 * are stored as `store` says where they meet v, not in their sum. */
static double *flash_heads(int c, const heads *h, double (*store)(int, double))
{
    double *out = w_new(h->T * h->Hq * h->A);
    g_single = c != EXACT;
    const double scale = g_a(g_a(1 / sqrt((double)h->A)) * g_a(1 / log(2)));
    for (int64_t i = 0; i < h->T * h->Hq; ++i) {
        const int64_t t = i / h->Hq, first = h->first[t], n = h->S - h->T + t + 1 - first;
        const int64_t at = (i % h->Hq / (h->Hq / h->Hkv) * h->S + first) * h->A;
        double max = -(double)INFINITY, sum = 0, *o = out + i * h->A;
        memset(o, 0, (size_t)h->A * sizeof *o);
        for (int64_t j = 0; j < n; ++j) {
            const double s = g_a(g_dot(FUSED, h->A, h->q + i * h->A, h->k + at + j * h->A) * scale);
            const double top = fmax(max, s), shrink = g_a(exp2(g_a(max - top))), p = g_a(exp2(g_a(s - top)));
            sum = g_a(g_a(sum * shrink) + p);
            const double w = store(c, p);
            for (int64_t d = 0; d < h->A; ++d) o[d] = g_a(fma(w, h->v[at + j * h->A + d], g_a(o[d] * shrink)));
            max = top;
        }
        for (int64_t d = 0; d < h->A; ++d) o[d] = at_point(c, FH1_RP_CONTEXT, g_a(o[d] / sum));
    }
    return out;
}

START_TEST(attention_holds_every_scene)
{
    static const int64_t shape[][3] = {{6, 6, 16}, {1, 40, 8}, {12, 160, 24}};
    for (int c = EXACT; c < N_CONTRACTS; ++c)
        for (regime r = NORMAL; r < N_REGIMES; ++r)
            for (scene s = PLAIN; s < N_SCENES; ++s)
                for (uint64_t seed = 1; seed <= N_SEEDS; ++seed) {
                    const int64_t *z = shape[seed % 3];
                    const heads h = new_heads(c, r, s, seed, z[0], z[1], z[2]);
                    const int64_t n = h.T * h.Hq * h.A;
                    const fh1_round prob = g_contract(c)->at[FH1_RP_PROB];
                    if (c != EXACT) g_honest(c, scene_name[s], n, engine_heads(c, &h, h.q, h.k, h.first), h.out, &h.g);
                    g_honest(c, scene_name[s], n, emulated_heads(c, &h, (g_order)(seed % N_ORDERS), prob), h.out, &h.g);
                    if (g_contract(c)->any_form)
                        g_honest(c, "flash", n, flash_heads(c, &h, rounded_weight), h.out, &h.g);
                }
    g_summary("attention");
}
END_TEST

START_TEST(attention_faults)
{
    for (int c = FP32; c < N_CONTRACTS; ++c) {
        heads h = new_heads(c, NORMAL, SHARP, 5, 12, 60, 32);
        const int64_t n = h.T * h.Hq * h.A, m = h.Hkv * h.S * h.A;
        double *q = w_copy(h.q, n), *k = w_copy(h.k, m);
        int64_t *first = w_ints(h.T);
        for (int64_t i = 0; i < n; ++i) q[i] = h.q[i] * 1.01;
        const double *scaled = engine_heads(c, &h, q, h.k, h.first);
        if (c != BF16)
            g_fault(c, "scale off by 1 %", n, scaled, h.out, &h.g); /* two bf16 roundings of a score hide it */
        for (int64_t i = 0; i < n; ++i) q[i] = h.q[i] * sqrt((double)h.A);
        g_fault(c, "no scale", n, engine_heads(c, &h, q, h.k, h.first), h.out, &h.g);
        for (int64_t i = 0; i < m; ++i) k[i] = h.k[(i + m / 2) % m];
        g_fault(c, "head map", n, engine_heads(c, &h, h.q, k, h.first), h.out, &h.g);
        for (int64_t t = 0; t < h.T; ++t) first[t] = h.first[t] + (t > 0 && t != h.T / 2);
        g_fault(c, "first key unseen", n, engine_heads(c, &h, h.q, h.k, first), h.out, &h.g);
        for (int64_t t = 0; t < h.T; ++t) first[t] = 0;
        g_fault(c, "document leaks", n, engine_heads(c, &h, h.q, h.k, first), h.out, &h.g);
        h = new_heads(c, NORMAL, FLAT_VALUES, 5, 12, 60, 32);
        if (c == CUDA) {
            h = new_heads(c, NORMAL, FLAT_VALUES, 5, 12, 400, 32); /* of many keys none weighs 1 */
            memset(h.first, 0, (size_t)h.T * sizeof *h.first);
            judge_heads(c, &h);
            g_honest(c, "flash", n, flash_heads(c, &h, rounded_weight), h.out, &h.g);
            g_fault(c, "weights cut off", n, flash_heads(c, &h, cut_weight), h.out, &h.g);
        }
        if (c != FP32) continue;
        g_fault(c, "bf16 weights", n, emulated_heads(c, &h, LANES, FH1_ROUND_BF16), h.out, &h.g);
        for (int64_t i = 0; i < n; ++i) q[i] = fh1_round_f64(FH1_ROUND_TF32, h.q[i]);
        g_fault(c, "TF32 queries", n, engine_heads(c, &h, q, h.k, h.first), h.out, &h.g);
    }
}
END_TEST

/* ---- loss ---- */

START_TEST(cross_entropy_is_one_number)
{
    enum { M = 9, V = 300 };
    for (int k = FP32; k <= FP16; ++k) /* a loss is a sum in f32 under all of them */
        for (regime r = NORMAL; r < N_REGIMES; ++r)
            for (uint64_t seed = 1; seed <= 20; ++seed) {
                fh1_engine *e = g_engine(k);
                double *l = g_data(k, r, "l", seed, M * V, seed % 4 ? 3 : 30, 1), truth, got;
                int64_t *label = w_ints(M), *all = w_ints(M);
                for (int64_t i = 0; i < M; ++i) all[i] = label[i] = i * 31;
                label[4] = -100;
                if (seed % 3 == 0) l[31] += 60; /* a certain row: its loss is nearly 0 */
                const fh1_gauge g = g_new(1);
                w_fine(w_f64->ops->cross_entropy(w_f64, M, V, l, label, &truth));
                w_fine(w_f64->gauges->cross_entropy(g_contract(k), M, V, l, label, truth, &g));
                w_fine(e->ops->cross_entropy(e, M, V, w_to(e, l, M * V), label, &got));
                g_honest(k, g_regime_name[r], 1, &got, &truth, &g);
                if (seed == 1) {
                    w_fine(e->ops->cross_entropy(e, M, V, w_to(e, l, M * V), all, &got));
                    g_fault(k, "ignored label counts", 1, &got, &truth, &g);
                    got = truth * 8 / 9;
                    g_fault(k, "mean over all rows", 1, &got, &truth, &g);
                }
                e->free(e);
            }
    g_summary("cross_entropy");
}
END_TEST

int main(void)
{
    const w_test tests[] = {rope_holds_frequencies_and_keys, rope_faults, attention_holds_every_scene, attention_faults,
                            cross_entropy_is_one_number,     NULL};
    return w_main("gauge_attention", tests);
}
