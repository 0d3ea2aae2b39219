/* The backward templates of embedding, norm, linear, adapters, rotation, MLP and loss against long double loops from
 * their formulas. Bounds are those of naive sums: a sum of n terms is off by at most n·u of the sum of their
 * magnitudes, and each operation around it adds one u. Parameters' gradients begin with something in them. */
#include "tests/bwd_fixture.h"

static int64_t *random_ids(const char *name, int64_t M, int64_t V)
{
    fh1_stream s = fh1_stream_open(3, name);
    int64_t *ids = w_ints(M);
    for (int64_t i = 0; i < M; ++i) ids[i] = fh1_random_below(s, (uint64_t)i, V);
    return ids;
}

/* --- embed --- */

static void embed_case(b_run *r, int64_t M, int64_t V, int64_t D, int64_t pad)
{
    const int64_t *ids = random_ids("ids", M, V);
    const double *dy = w_normal("dy", M * D, 1), *before = w_normal("dtable", V * D, 1);
    double *got = w_copy(before, V * D), *want = w_new(V * D), *gauge = w_new(V * D);
    for (int64_t v = 0; v < V; ++v)
        for (int64_t i = 0; i < D; ++i) {
            wide sum = (wide)before[v * D + i], size = fabsl(sum);
            int64_t n = 0;
            for (int64_t m = 0; m < M; ++m)
                if (ids[m] == v && v != pad) ++n, sum += (wide)dy[m * D + i], size += fabsl((wide)dy[m * D + i]);
            want[v * D + i] = (double)sum;
            gauge[v * D + i] = (double)size * (double)n; /* 0 where no token was: untouched */
        }
    r->ops->embed(M, ids, V, D, pad, dy, got);
    b_agree(r, "dtable", V * D, got, want, gauge);
}

static void embed(b_run *r)
{
    embed_case(r, 17, 5, 70, 0);
    embed_case(r, 40, 3, 3, 2);
    embed_case(r, 9, 4, 65, -1);
    embed_case(r, 0, 4, 2, 1);
    r->ops->embed(3, (const int64_t[]){0, 1, 2}, 4, 1, -1, (const double[]){1, 1, 1}, NULL);
}

/* --- rmsnorm --- */

static void rmsnorm_case(b_run *r, int64_t M, int64_t D, double eps, fh1_dtype stored, bool in_place)
{
    const double *x = w_normal("x", M * D, 2), *dy = w_normal("dy", M * D, 1), *before = w_normal("dw", D, 1);
    double *w = w_normal("w", D, 1), *dw = w_copy(before, D), *dx = in_place ? w_copy(dy, M * D) : w_fill(M * D, 7);
    const fh1_tensor wt = w_store(stored, w, D);
    double *want = w_new(M * D), *gauge = w_new(M * D), *want_w = w_new(D), *gauge_w = w_new(D);
    wide *sum = w_bytes(D * (int64_t)sizeof *sum), *size = w_bytes(D * (int64_t)sizeof *size);
    for (int64_t i = 0; i < D; ++i) sum[i] = (wide)before[i], size[i] = fabsl(sum[i]);
    for (int64_t m = 0; m < M; ++m) {
        const double *xm = x + m * D, *ym = dy + m * D;
        wide square = 0, dot = 0, dots = 0;
        for (int64_t i = 0; i < D; ++i) {
            const wide t = (wide)xm[i] * (wide)w[i] * (wide)ym[i];
            square += (wide)xm[i] * (wide)xm[i], dot += t, dots += fabsl(t);
        }
        const wide root = 1 / sqrtl(square / (wide)D + (wide)eps), cube = root * root * root / (wide)D;
        for (int64_t i = 0; i < D; ++i) {
            const wide term = (wide)ym[i] * (wide)xm[i] * root, own = root * (wide)w[i] * (wide)ym[i];
            sum[i] += term, size[i] += fabsl(term);
            want[m * D + i] = (double)(own - (wide)xm[i] * cube * dot);
            gauge[m * D + i] = (double)((fabsl(own) + fabsl((wide)xm[i]) * cube * dots) * (2 * (wide)D + 16));
        }
    }
    for (int64_t i = 0; i < D; ++i) want_w[i] = (double)sum[i], gauge_w[i] = (double)size[i] * (double)(M + D + 8);
    b_fine(r, r->ops->rmsnorm(M, D, x, &wt, eps, in_place ? dx : dy, dx, dw));
    b_agree(r, "dx", M * D, dx, want, gauge);
    b_agree(r, "dw", D, dw, want_w, gauge_w);
}

static void rmsnorm(b_run *r)
{
    rmsnorm_case(r, 5, 7, 1e-5, FH1_F32, false);
    rmsnorm_case(r, 3, 130, 1e-6, FH1_BF16, false);
    rmsnorm_case(r, 150, 66, 0.1, FH1_F64, true);
    rmsnorm_case(r, 1, 2, 1, FH1_F16, false);
    rmsnorm_case(r, 0, 4, 1, FH1_F32, false);
}

/* --- linear --- */

typedef struct {
    wide sum, size;
} term;

/* Σ a[i·step_a]·b[i·step_b] and the sum of the magnitudes. */
static term dot(int64_t n, const double *a, int64_t step_a, const double *b, int64_t step_b)
{
    term t = {0, 0};
    for (int64_t i = 0; i < n; ++i) {
        const wide p = (wide)a[i * step_a] * (b ? (wide)b[i * step_b] : 1);
        t.sum += p;
        t.size += fabsl(p);
    }
    return t;
}

static void put(term t, wide factor, double before, double terms, double *want, double *gauge)
{
    *want = (double)(t.sum * factor + (wide)before);
    *gauge = (double)(t.size * fabsl(factor) + fabsl((wide)before)) * terms;
}

static void linear_case(b_run *r, int64_t M, int64_t N, int64_t K, fh1_dtype stored, bool add)
{
    const double *x = w_normal("x", M * K, 1), *dy = w_normal("dy", M * N, 1);
    double *w = w_normal("w", N * K, 1), *dx = w_normal("dx", M * K, 1), *dw = w_normal("dw", N * K, 1);
    double *db = w_normal("db", N, 1), *want = w_new(M * K), *gauge = w_new(M * K), *want_w = w_new(N * K);
    double *gauge_w = w_new(N * K), *want_b = w_new(N), *gauge_b = w_new(N);
    const fh1_tensor wt = w_store2(stored, w, N, K);
    for (int64_t i = 0; i < M * K; ++i)
        put(dot(N, dy + i / K * N, 1, w + i % K, K), 1, add ? dx[i] : 0, (double)N + 2, want + i, gauge + i);
    for (int64_t i = 0; i < N * K; ++i)
        put(dot(M, dy + i / K, N, x + i % K, K), 1, dw[i], (double)M + 2, want_w + i, gauge_w + i);
    for (int64_t n = 0; n < N; ++n) put(dot(M, dy + n, N, NULL, 0), 1, db[n], (double)M + 2, want_b + n, gauge_b + n);
    b_fine(r, r->ops->linear(M, x, &wt, dy, add, dx, dw, db));
    if (M > 0) b_agree(r, "dx", M * K, dx, want, gauge);
    b_agree(r, "dw", N * K, dw, want_w, gauge_w);
    b_agree(r, "db", N, db, want_b, gauge_b);
    b_fine(r, r->ops->linear(M, NULL, &wt, dy, false, NULL, NULL, NULL));
}

/* Sizes lie on both sides of the pieces: 512 rows, 256 columns and 512 outputs of a tile of dx, 256 outputs of dw. */
static void linear(b_run *r)
{
    linear_case(r, 1, 3, 5, FH1_BF16, false);
    linear_case(r, 9, 7, 7, FH1_F32, true);
    linear_case(r, 3, 515, 261, FH1_BF16, false);
    linear_case(r, 4, 520, 3, FH1_F64, true);
    linear_case(r, 515, 6, 2, FH1_F16, true);
    linear_case(r, 0, 2, 3, FH1_BF16, false);
}

/* --- lora --- */

static fh1_lora adapter(int64_t K, int64_t rank, int64_t N, fh1_dtype stored, double *A, double *B, double scale)
{
    return (fh1_lora){.A = w_store2(stored, A, rank, K), .B = w_store2(stored, B, N, rank), .scale = scale};
}

static void lora_case(b_run *r, int64_t M, int64_t K, int64_t rank, int64_t N, fh1_dtype stored)
{
    const double scale = 0.625, *x = w_normal("x", M * K, 1), *dy = w_normal("dy", M * N, 1);
    double *A = w_normal("A", rank * K, 1), *B = w_normal("B", N * rank, 1), *dx = w_normal("dx", M * K, 1);
    double *dA = w_normal("dA", rank * K, 1), *dB = w_normal("dB", N * rank, 1), *db = w_normal("db", N, 1);
    const fh1_lora l = adapter(K, rank, N, stored, A, B, scale);
    const int64_t most = (M + rank + N) * (K + rank + N);
    double *want = w_new(most), *gauge = w_new(most);
    double *before[] = {w_copy(dx, M * K), w_copy(dA, rank * K), w_copy(dB, N * rank), w_copy(db, N)};
    b_fine(r, r->ops->lora(M, x, &l, dy, dx, dA, dB, db));
    const double terms = (double)(M + K + rank + N + 8);
    for (int64_t m = 0; m < M; ++m) /* dx = s·Σ dy·(B·A) */
        for (int64_t k = 0; k < K; ++k) {
            term t = {0, 0};
            for (int64_t j = 0; j < rank; ++j) {
                const term one = dot(N, dy + m * N, 1, B + j, rank);
                t.sum += one.sum * (wide)A[j * K + k], t.size += one.size * fabsl((wide)A[j * K + k]);
            }
            put(t, (wide)scale, before[0][m * K + k], terms, want + m * K + k, gauge + m * K + k);
        }
    b_agree(r, "dx", M * K, dx, want, gauge);
    for (int64_t i = 0; i < rank * K; ++i) { /* dA = s·Σ (dy·B)·x */
        term t = {0, 0};
        for (int64_t m = 0; m < M; ++m) {
            const term one = dot(N, dy + m * N, 1, B + i / K, rank);
            t.sum += one.sum * (wide)x[m * K + i % K], t.size += one.size * fabsl((wide)x[m * K + i % K]);
        }
        put(t, (wide)scale, before[1][i], terms, want + i, gauge + i);
    }
    b_agree(r, "dA", rank * K, dA, want, gauge);
    for (int64_t i = 0; i < N * rank; ++i) { /* dB = s·Σ dy·(A·x) */
        term t = {0, 0};
        for (int64_t m = 0; m < M; ++m) {
            const term one = dot(K, x + m * K, 1, A + i % rank * K, 1);
            t.sum += one.sum * (wide)dy[m * N + i / rank], t.size += one.size * fabsl((wide)dy[m * N + i / rank]);
        }
        put(t, (wide)scale, before[2][i], terms, want + i, gauge + i);
    }
    b_agree(r, "dB", N * rank, dB, want, gauge);
    for (int64_t n = 0; n < N; ++n)
        put(dot(M, dy + n, N, NULL, 0), (wide)scale, before[3][n], terms, want + n, gauge + n);
    b_agree(r, "dbias", N, db, want, gauge);
}

static void lora(b_run *r)
{
    lora_case(r, 7, 5, 2, 9, FH1_F32);
    lora_case(r, 20, 33, 8, 3, FH1_BF16);
    lora_case(r, 1, 4, 1, 2, FH1_F64);
}

static void lora_embed(b_run *r)
{
    enum { M = 19, V = 5, RANK = 3, D = 10, PAD = 2 };
    const int64_t *ids = random_ids("lora ids", M, V);
    const double scale = 1.25, *dy = w_normal("dy", M * D, 1);
    double *A = w_normal("A", RANK * V, 1), *B = w_normal("B", D * RANK, 1), *dA = w_normal("dA", RANK * V, 1);
    double *dB = w_normal("dB", D * RANK, 1), want[64], gauge[64];
    const double *before[] = {w_copy(dA, RANK * V), w_copy(dB, D * RANK)};
    const fh1_lora l = adapter(V, RANK, D, FH1_BF16, A, B, scale);
    b_fine(r, r->ops->lora_embed(M, ids, &l, PAD, dy, dA, dB));
    for (int64_t i = 0; i < RANK * V; ++i) {
        term t = {0, 0};
        for (int64_t m = 0; m < M; ++m) {
            if (ids[m] != i % V || ids[m] == PAD) continue;
            const term one = dot(D, dy + m * D, 1, B + i / V, RANK);
            t.sum += one.sum, t.size += one.size;
        }
        put(t, (wide)scale, before[0][i], t.size > 0 ? M + D + 8 : 0, want + i, gauge + i);
    }
    b_agree(r, "dA", RANK * V, dA, want, gauge);
    for (int64_t i = 0; i < D * RANK; ++i) {
        term t = {0, 0};
        for (int64_t m = 0; m < M; ++m) { /* those of padding too: B was multiplied there */
            const wide p = (wide)dy[m * D + i / RANK] * (wide)A[i % RANK * V + ids[m]];
            t.sum += p, t.size += fabsl(p);
        }
        put(t, (wide)scale, before[1][i], M + 8, want + i, gauge + i);
    }
    b_agree(r, "dB", D * RANK, dB, want, gauge);
}

/* --- rope --- */

/* The table holds anything: the op is the transposed matrix, not a rotation that happens to be its inverse. */
static void rope(b_run *r)
{
    enum { M = 20, HEADS = 3, A = 10, HALF = A / 2 };
    const double *table = w_normal("cos_sin", M * A, 1), *dy = w_normal("dy", M * HEADS * A, 1);
    double *dx = w_copy(dy, M * HEADS * A), *want = w_new(M * HEADS * A), *gauge = w_new(M * HEADS * A);
    for (int64_t i = 0; i < M * HEADS * A; ++i) {
        wide matrix[A][A] = {{0}}; /* y = matrix·x of this token */
        const int64_t m = i / A / HEADS, at = i % A;
        for (int k = 0; k < HALF; ++k) {
            const wide c = (wide)table[m * HALF + k], s = (wide)table[(M + m) * HALF + k];
            matrix[k][k] = c, matrix[k][HALF + k] = -s;
            matrix[HALF + k][HALF + k] = c, matrix[HALF + k][k] = s;
        }
        term t = {0, 0};
        for (int k = 0; k < A; ++k) {
            const wide p = matrix[k][at] * (wide)dy[i - at + k];
            t.sum += p, t.size += fabsl(p);
        }
        put(t, 1, 0, 2, want + i, gauge + i);
    }
    r->ops->rope(M, HEADS, A, table, dx);
    b_agree(r, "dx", M * HEADS * A, dx, want, gauge);
}

/* --- swiglu --- */

/* g = gate·m_gate carries one rounding, which exp makes |g|·u of σ; σ·(1 + g·(1 - σ)) is therefore off by at most
 * (|g| + 12)·u of σ·(1 + |g|). */
static void swiglu(b_run *r)
{
    enum { M = 5, F = 401, N = M * F };
    const double m_gate = 0.4375;
    double *gate = w_normal("gate", N, 6), *up = w_normal("up", N, 1), *dact = w_normal("dact", N, 1);
    double *dgate = w_fill(N, 3), *dup = w_fill(N, 3), *want[2] = {w_new(N), w_new(N)};
    double *gauge[2] = {w_new(N), w_new(N)};
    gate[0] = 0, gate[1] = 70, gate[2] = -70; /* σ' is exactly 0 nowhere here, but small */
    for (int64_t i = 0; i < N; ++i) {
        const wide g = (wide)gate[i] * (wide)m_gate, sigma = 1 / (1 + expl(-g)), outer = (wide)dact[i];
        const wide slope = sigma + g * expl(-g) * sigma * sigma, of_up = outer * (wide)up[i] * (wide)m_gate;
        want[0][i] = (double)(of_up * slope);
        gauge[0][i] = (double)(fabsl(of_up) * sigma * (1 + fabsl(g)) * (fabsl(g) + 16));
        want[1][i] = (double)(outer * g * sigma);
        gauge[1][i] = (double)(fabsl(outer * g * sigma) * (fabsl(g) + 8));
    }
    r->ops->swiglu(M, F, gate, m_gate, up, dact, dgate, dup);
    b_agree(r, "dgate", N, dgate, want[0], gauge[0]);
    b_agree(r, "dup", N, dup, want[1], gauge[1]);
    double *both = w_copy(dact, N); /* over its input, and one of them alone */
    r->ops->swiglu(M, F, gate, m_gate, up, both, both, NULL);
    b_agree(r, "dgate in place", N, both, dgate, NULL);
    both = w_copy(dact, N);
    r->ops->swiglu(M, F, gate, m_gate, up, both, NULL, both);
    b_agree(r, "dup in place", N, both, dup, NULL);
}

/* --- cross_entropy --- */

/* A logit l carries |l - max|·u into its exponential, the sum V·u more; the label's term and the division one each.
 * Where an exponential underflows, it is off by less than the smallest normal number: 2^-126 = u·2^-102 in f32. */
static void entropy_case(b_run *r, int64_t M, int64_t V, double spread, double divisor)
{
    double *logits = w_normal("logits", M * V, spread), *d = w_fill(M * V, 5);
    double *want = w_new(M * V), *gauge = w_new(M * V), loss = 0, loss_gauge = 0;
    int64_t *labels = random_ids("labels", M, V);
    for (int64_t m = 0; m < M; ++m) {
        if (m % 4 == 2) labels[m] = -100;
        if (m % 5 == 0) labels[m] = 0;
        if (m % 7 == 3) labels[m] = V - 1;
        wide max = -(wide)INFINITY, sum = 0, widest = 0, others = 0;
        for (int64_t v = 0; v < V; ++v) max = fmaxl(max, (wide)logits[m * V + v]);
        for (int64_t v = 0; v < V; ++v) sum += expl((wide)logits[m * V + v] - max);
        for (int64_t v = 0; v < V; ++v) widest = fmaxl(widest, max - (wide)logits[m * V + v]);
        for (int64_t v = 0; v < V; ++v) others += v == labels[m] ? 0 : expl((wide)logits[m * V + v] - max);
        const wide off = 2 * widest + (wide)V + 8;
        for (int64_t v = 0; v < V; ++v) {
            const wide p = expl((wide)logits[m * V + v] - max) / sum, hot = v == labels[m];
            const wide slope = hot > 0 ? -others / sum : p; /* of a sure token p - 1 would be noise */
            want[m * V + v] = labels[m] == -100 ? 0 : (double)(slope / (wide)divisor);
            const wide size = ((off + 3) * fabsl(slope) + (wide)0x1p-102) / (wide)divisor;
            gauge[m * V + v] = labels[m] == -100 ? 0 : (double)size;
        }
        if (labels[m] == -100) continue;
        loss += (double)(logl(sum) + max - (wide)logits[m * V + labels[m]]);
        loss_gauge += (double)(widest + off + fabsl(max) * 4 + logl((wide)V)) + (double)M * loss;
    }
    for (int64_t m = 0; m < M; ++m) /* never read */
        for (int64_t v = 0; labels[m] == -100 && v < V; ++v) logits[m * V + v] = (double)NAN;
    const double got = r->ops->cross_entropy(M, V, logits, labels, divisor, d);
    b_agree(r, "loss", 1, &got, &loss, &loss_gauge);
    b_agree(r, "dlogits", M * V, d, want, gauge);
    const double again = r->ops->cross_entropy(M, V, logits, labels, divisor, NULL);
    b_agree(r, "loss alone", 1, &again, &got, NULL);
    r->ops->cross_entropy(M, V, logits, labels, divisor, logits);
    b_agree(r, "dlogits in place", M * V, logits, d, NULL);
}

static void cross_entropy(b_run *r)
{
    entropy_case(r, 23, 11, 3, 7.25);
    entropy_case(r, 300, 3, 1, 1);
    entropy_case(r, 3, 700, 40, 2);
    entropy_case(r, 40, 3, 12, 1); /* sure of most */
    const double nothing = r->ops->cross_entropy(0, 4, NULL, NULL, 1, NULL), zero = 0;
    b_agree(r, "loss of nothing", 1, &nothing, &zero, NULL);
}

static const b_check checks[] = {
    {"embed",
     embed,
     {FH1_FAULT_GRAD_EMBED_DUPLICATES_OVERWRITE, FH1_FAULT_GRAD_EMBED_PADDING_ROW_KEPT,
      FH1_FAULT_GRAD_EMBED_PADDING_ROW_ZEROED}},
    {"rmsnorm",
     rmsnorm,
     {FH1_FAULT_GRAD_NORM_CONSTANT, FH1_FAULT_GRAD_NORM_WRONG_WIDTH, FH1_FAULT_GRAD_NORM_WEIGHT_WITHOUT_SCALE}},
    {"linear",
     linear,
     {FH1_FAULT_GRAD_LINEAR_LAST_ROW_LOST, FH1_FAULT_GRAD_WEIGHT_TRANSPOSED, FH1_FAULT_GRAD_WEIGHT_OVERWRITTEN,
      FH1_FAULT_GRAD_BIAS_AVERAGED}},
    {"lora",
     lora,
     {FH1_FAULT_GRAD_LORA_A_WITHOUT_SCALE, FH1_FAULT_GRAD_LORA_B_WITHOUT_SCALE, FH1_FAULT_GRAD_LORA_INPUT_DROPPED}},
    {"lora_embed",
     lora_embed,
     {FH1_FAULT_GRAD_LORA_A_WITHOUT_SCALE, FH1_FAULT_GRAD_LORA_B_WITHOUT_SCALE,
      FH1_FAULT_GRAD_LORA_EMBED_PADDING_KEPT}},
    {"rope", rope, {FH1_FAULT_GRAD_ROPE_ROTATED_FORWARD, FH1_FAULT_GRAD_ROPE_MISSING}},
    {"swiglu",
     swiglu,
     {FH1_FAULT_GRAD_GATE_WITHOUT_MULTIPLIER, FH1_FAULT_GRAD_SILU_AS_SIGMOID, FH1_FAULT_GRAD_UP_FROM_PRE_ACTIVATION}},
    {"cross_entropy",
     cross_entropy,
     {FH1_FAULT_GRAD_LOSS_LABEL_0_WITHOUT_ONEHOT, FH1_FAULT_GRAD_LOSS_IGNORED_ROWS_KEPT,
      FH1_FAULT_GRAD_LOSS_DIVISOR_COUNTS_IGNORED}},
};

START_TEST(agrees_with_its_formula_and_sees_its_faults)
{
    for (size_t i = 0; i < sizeof checks / sizeof *checks; ++i) b_prove(&checks[i]);
}
END_TEST

int main(void)
{
    return w_main("bwd_network", (w_test[]){agrees_with_its_formula_and_sees_its_faults, NULL});
}
