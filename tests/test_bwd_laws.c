/* Laws of the backward templates outside the mixer, which need no second implementation: the number of threads, one
 * call or several, documents or separate sequences, and what invariances of the forward op say about its derivative. */
#include "tests/bwd_fixture.h"

/* --- threads --- */

enum { M = 530, K = 300, N = 270, V = 40, TOKENS = 70, KEYS = 110, HEADS = 4, GROUPS = 2, WIDTH = 4 };
enum { RESULTS = 24 };

typedef struct {
    int n;
    const char *name[RESULTS];
    double *v[RESULTS];
    int64_t size[RESULTS];
} results;

/* A gradient that begins with the numbers of `from` and whose bits are compared. */
static double *kept(results *all, const char *name, const double *from, int64_t n)
{
    all->name[all->n] = name;
    all->size[all->n] = n;
    return all->v[all->n++] = w_copy(from, n);
}

static void swap_last_rows(double *v, int64_t width)
{
    for (int64_t i = (M - 1) * width; i < M * width; ++i) {
        const double last = v[i];
        v[i] = v[i - width];
        v[i - width] = last;
    }
}

/* Each op once, cut into several pieces. `swapped`: the last two tokens change places, which no sum over tokens minds
 * but for its order. */
static results compute(b_run *r, bool swapped)
{
    results all = {.n = 0};
    double *x = w_normal("x", M * K, 1), *dy = w_normal("dy", M * K, 1), *w = w_normal("w", N * K, 1);
    const double *old = w_normal("old", M * K, 1), *other = w_normal("other", M * K, 1);
    int64_t *ids = w_ints(M), *first = w_ints(TOKENS);
    for (int64_t m = 0; m < M; ++m) ids[m] = m * 7 % 11;
    for (int64_t t = 0; t < TOKENS; ++t) first[t] = t < 60 ? 2 : KEYS - TOKENS + 60;
    double *dout = w_copy(dy, M * N);
    if (swapped) swap_last_rows(x, K), swap_last_rows(dy, K), swap_last_rows(dout, N);
    const fh1_tensor matrix = w_store2(FH1_BF16, w, N, K), norm = w_store(FH1_F32, w, K);
    const fh1_lora lora = {.A = w_store2(FH1_F32, w, 6, K), .B = w_store2(FH1_F32, w, N, 6), .scale = 0.5};
    double *dx = kept(&all, "linear dx", old, M * K), *dw = kept(&all, "linear dw", old, N * K);
    b_fine(r, r->ops->linear(M, x, &matrix, dout, true, dx, dw, kept(&all, "linear db", old, N)));
    dx = kept(&all, "rmsnorm dx", old, M * K);
    b_fine(r, r->ops->rmsnorm(M, K, x, &norm, 1e-5, dy, dx, kept(&all, "rmsnorm dw", old, K)));
    dx = kept(&all, "lora dx", old, M * K);
    double *dA = kept(&all, "lora dA", old, 6 * K), *dB = kept(&all, "lora dB", old, N * 6);
    b_fine(r, r->ops->lora(M, x, &lora, dout, dx, dA, dB, kept(&all, "lora dbias", old, N)));
    double *dgate = kept(&all, "swiglu dgate", old, M * K);
    r->ops->swiglu(M, K, x, 0.5, other, dy, dgate, kept(&all, "swiglu dup", old, M * K));
    const double loss = r->ops->cross_entropy(M, V, x, ids, 3, kept(&all, "cross_entropy dlogits", old, M * V));
    kept(&all, "loss", &loss, 1);
    r->ops->embed(M, ids, 11, K, 3, dy, kept(&all, "embed dtable", old, 11 * K));
    r->ops->rope(M, 3, 100, other, kept(&all, "rope dx", x, M * K));
    const double squares = r->ops->sum_of_squares(M * K, x);
    kept(&all, "sum of squares", &squares, 1);
    double *dq = kept(&all, "attention dq", old, TOKENS * HEADS * WIDTH);
    double *dk = kept(&all, "attention dk", old, KEYS * GROUPS * WIDTH);
    double *dv = kept(&all, "attention dv", old, KEYS * GROUPS * WIDTH);
    const b_attention a = {TOKENS, KEYS, HEADS, GROUPS, WIDTH, KEYS, x, other, w, first, dy, dq, dk, dv};
    b_fine(r, r->ops->attention(&a));
    const fh1_adamw o = {.lr = 1e-3, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .grad_scale = 1, .t = 3};
    double *moment = kept(&all, "adamw m", old, M * K), *square = kept(&all, "adamw v", w_fill(M * K, 1), M * K);
    r->ops->adamw(M * K, &o, dy, kept(&all, "adamw w", x, M * K), moment, square);
    ck_assert_int_le(all.n, RESULTS);
    return all;
}

static void threads(b_run *r)
{
    const int usual = fh1_threads();
    fh1_set_threads(1);
    const results one = compute(r, false);
    for (int t = 2; t <= 5; t += 3) {
        fh1_set_threads(t);
        const results many = compute(r, false);
        for (int i = 0; i < one.n; ++i) b_agree(r, one.name[i], one.size[i], many.v[i], one.v[i], NULL);
    }
    fh1_set_threads(usual);
}

/* The comparison above sees the order of a sum. (Sums of f32 numbers, as db, are exact in f64.) */
START_TEST(another_order_gives_other_bits)
{
    b_run r = {.ops = &b_right, .e = w_f64, .ok = true};
    const results one = compute(&r, false), other = compute(&r, true);
    for (int i = 0; i < one.n; ++i) {
        const bool sums_tokens = strstr(" linear dw rmsnorm dw lora dA lora dB ", one.name[i]);
        if (sums_tokens) ck_assert_msg(!w_same(one.v[i], other.v[i], one.size[i]), "%s", one.name[i]);
    }
}
END_TEST

/* --- one call or several --- */

/* Small integers add up exactly in any order, so several calls must give the sum to the bit, whatever was there. */
static void calls_add_up(b_run *r)
{
    enum { ROWS = 21, IN = 6, OF = 6, CUT = 13 };
    const double *x = w_lattice("x", ROWS * IN, -4, 4, 1), *dy = w_lattice("dy", ROWS * OF, -4, 4, 1);
    const double *old = w_lattice("old", OF * IN, -9, 9, 1);
    double *w = w_lattice("w", OF * IN, -4, 4, 1);
    const fh1_tensor wt = w_store2(FH1_BF16, w, OF, IN);
    int64_t *ids = w_ints(ROWS);
    for (int64_t m = 0; m < ROWS; ++m) ids[m] = m * 5 % 4;
    double *whole[] = {w_copy(old, OF * IN), w_copy(old, OF), w_copy(old, 4 * IN), w_new(ROWS * IN)};
    double *parts[] = {w_copy(old, OF * IN), w_copy(old, OF), w_copy(old, 4 * IN), w_fill(ROWS * IN, 0)};
    b_fine(r, r->ops->linear(ROWS, x, &wt, dy, false, whole[3], whole[0], whole[1]));
    b_fine(r, r->ops->linear(CUT, x, &wt, dy, true, parts[3], parts[0], parts[1]));
    b_fine(r,
           r->ops->linear(ROWS - CUT, x + CUT * IN, &wt, dy + CUT * OF, true, parts[3] + CUT * IN, parts[0], parts[1]));
    r->ops->embed(ROWS, ids, 4, IN, 1, x, whole[2]);
    r->ops->embed(CUT, ids, 4, IN, 1, x, parts[2]);
    r->ops->embed(ROWS - CUT, ids + CUT, 4, IN, 1, x + CUT * IN, parts[2]);
    b_agree(r, "dw in two calls", OF * IN, parts[0], whole[0], NULL);
    b_agree(r, "db in two calls", OF, parts[1], whole[1], NULL);
    b_agree(r, "dtable in two calls", 4 * IN, parts[2], whole[2], NULL);
    b_agree(r, "the row of padding", IN, whole[2] + IN, old + IN, NULL);
    b_agree(r, "dx in two calls", ROWS * IN, parts[3], whole[3], NULL);
    /* and a whole square weight is the transpose of nothing: one entry of dy and x alone shows where it goes */
    double *one = w_fill(OF, 0), *in = w_fill(IN, 0), *at = w_fill(OF * IN, 0);
    one[1] = 3, in[4] = 2;
    double *want = w_fill(OF * IN, 0);
    want[1 * IN + 4] = 6;
    b_fine(r, r->ops->linear(1, in, &wt, one, false, NULL, at, NULL));
    b_agree(r, "one entry of dw", OF * IN, at, want, NULL);
}

/* --- attention: documents, and a sequence cut in two calls --- */

enum { LENGTH = 24 };

typedef struct {
    double *dq, *dk, *dv;
} three;

static three attend(b_run *r, int64_t T, int64_t S, const double *const in[4], const int64_t *first)
{
    const int64_t n = T * HEADS * WIDTH, nk = GROUPS * LENGTH * WIDTH;
    three g = {w_fill(n, 0), w_fill(nk, 0), w_fill(nk, 0)};
    const b_attention a = {T, S, HEADS, GROUPS, WIDTH, LENGTH, in[0], in[1], in[2], first, in[3], g.dq, g.dk, g.dv};
    b_fine(r, r->ops->attention(&a));
    return g;
}

/* Packed documents of 5, 1, 11 and 7 tokens against each on its own: to the bit, as none of them is long enough for a
 * matrix product. */
static void documents(b_run *r)
{
    static const int64_t begin[] = {0, 5, 6, 17, LENGTH};
    const int64_t row = HEADS * WIDTH, room = (GROUPS + 1) * LENGTH * WIDTH; /* rows of a late document begin late */
    const double *in[] = {w_normal("q", LENGTH * row, 1), w_normal("k", room, 1), w_normal("v", room, 1),
                          w_normal("dout", LENGTH * row, 1)};
    int64_t *first = w_ints(LENGTH), *zero = w_ints(LENGTH);
    memset(zero, 0, LENGTH * sizeof *zero);
    for (int d = 0; d < 4; ++d)
        for (int64_t t = begin[d]; t < begin[d + 1]; ++t) first[t] = begin[d];
    const three packed = attend(r, LENGTH, LENGTH, in, first), joined = attend(r, LENGTH, LENGTH, in, zero);
    ck_assert(!w_same(packed.dq, joined.dq, LENGTH * row)); /* it does matter */
    for (int d = 0; d < 4; ++d) {
        const int64_t b = begin[d], n = begin[d + 1] - b;
        const double *own[] = {in[0] + b * row, in[1] + b * WIDTH, in[2] + b * WIDTH, in[3] + b * row};
        const three alone = attend(r, n, n, own, zero);
        b_agree(r, "dq of a document", n * row, packed.dq + b * row, alone.dq, NULL);
        for (int64_t h = 0; h < GROUPS; ++h) {
            const int64_t at = h * LENGTH * WIDTH;
            b_agree(r, "dk of a document", n * WIDTH, packed.dk + at + b * WIDTH, alone.dk + at, NULL);
            b_agree(r, "dv of a document", n * WIDTH, packed.dv + at + b * WIDTH, alone.dv + at, NULL);
        }
    }
}

/* A sequence in two calls, the second with the first one's keys as its past: dk and dv add up. Either way a gradient is
 * a sum of at most HEADS/GROUPS·LENGTH products of numbers below 64 in size, in another order. */
static void past_keys(b_run *r)
{
    const int64_t row = HEADS * WIDTH, nk = GROUPS * LENGTH * WIDTH, cut = 10;
    const double *in[] = {w_normal("q", LENGTH * row, 1), w_normal("k", nk, 1), w_normal("v", nk, 1),
                          w_normal("dout", LENGTH * row, 1)};
    const double *later[] = {in[0] + cut * row, in[1], in[2], in[3] + cut * row};
    int64_t *zero = w_ints(LENGTH);
    memset(zero, 0, LENGTH * sizeof *zero);
    const three whole = attend(r, LENGTH, LENGTH, in, zero), a = attend(r, cut, cut, in, zero);
    const three b = attend(r, LENGTH - cut, LENGTH, later, zero);
    double *dk = w_new(nk), *dv = w_new(nk), *gauge = w_fill(LENGTH * row, 64.0 * LENGTH * HEADS / GROUPS);
    for (int64_t i = 0; i < nk; ++i) {
        dk[i] = a.dk[i] + b.dk[i];
        dv[i] = a.dv[i] + b.dv[i];
    }
    b_agree(r, "dk of a past", nk, dk, whole.dk, gauge);
    b_agree(r, "dv of a past", nk, dv, whole.dv, gauge);
    b_agree(r, "dq with a past", (LENGTH - cut) * row, b.dq, whole.dq + cut * row, gauge);
}

/* --- invariances of the forward op --- */

/* A norm without eps does not see the length of x: x·dx = 0. The loss does not see a constant in the logits: each row
 * of dlogits sums to 0. */
static void invariances(b_run *r)
{
    enum { ROW = 65, LOGITS = 33 };
    double *x = w_normal("x", 4 * ROW, 2), *dy = w_normal("dy", 4 * ROW, 1), *w = w_normal("w", ROW, 1);
    double *dx = w_new(4 * ROW), *d = w_new(4 * LOGITS), zero = 0;
    const fh1_tensor wt = w_store(FH1_F64, w, ROW);
    b_fine(r, r->ops->rmsnorm(4, ROW, x, &wt, 0, dy, dx, NULL));
    r->ops->cross_entropy(4, LOGITS, x, (const int64_t[]){0, 32, 7, 0}, 1, d);
    for (int64_t m = 0; m < 4; ++m) {
        double along = 0, size = 0, sum = 0, sums = 0;
        for (int64_t i = 0; i < ROW; ++i) along += x[m * ROW + i] * dx[m * ROW + i];
        for (int64_t i = 0; i < ROW; ++i) size += fabs(x[m * ROW + i] * w[i] * dy[m * ROW + i]);
        for (int64_t i = 0; i < LOGITS; ++i) sum += d[m * LOGITS + i], sums += fabs(d[m * LOGITS + i]);
        size *= 4.0 * ROW;
        sums *= LOGITS + 16;
        b_agree(r, "x·dx of a norm", 1, &along, &zero, &size);
        b_agree(r, "sum of dlogits", 1, &sum, &zero, &sums);
    }
}

static const b_check checks[] = {
    {"threads", threads, {FH1_FAULT_NONE}},
    {"calls add up",
     calls_add_up,
     {FH1_FAULT_GRAD_LINEAR_LAST_ROW_LOST, FH1_FAULT_GRAD_WEIGHT_OVERWRITTEN, FH1_FAULT_GRAD_BIAS_AVERAGED,
      FH1_FAULT_GRAD_WEIGHT_TRANSPOSED, FH1_FAULT_GRAD_EMBED_PADDING_ROW_ZEROED}},
    {"documents", documents, {FH1_FAULT_NONE}},
    {"past keys", past_keys, {FH1_FAULT_GRAD_PAST_KEYS_DROPPED}},
    {"invariances",
     invariances,
     {FH1_FAULT_GRAD_NORM_CONSTANT, FH1_FAULT_GRAD_NORM_WRONG_WIDTH, FH1_FAULT_GRAD_LOSS_LABEL_0_WITHOUT_ONEHOT}},
};

START_TEST(hold_and_see_their_faults)
{
    for (size_t i = 0; i < sizeof checks / sizeof *checks; ++i) b_prove(&checks[i]);
}
END_TEST

int main(void)
{
    return w_main("bwd_laws", (w_test[]){hold_and_see_their_faults, another_order_gives_other_bits, NULL});
}
