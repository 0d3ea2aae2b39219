/* Any backward pass of fh1_bwd_ops against the complex step (reference/complex.h), for the test of one op.
 *
 * A test describes one call: its inputs (activations, weights, window, state) with their values, the sizes of its
 * outputs (window and state after the call included), and two functions: `forward` calls the op of a complex engine,
 * `backward` the one of e->bwd_ops. Both get arrays in the element type of the engine they are handed, copies that they
 * may spoil. Whatever is no number to differentiate (sizes, ids, documents, limits) hangs on `shape`.
 *
 *   static fh1_status fwd(const grad_op *op, fh1_engine *e, void *const *in, void *const *out)
 *   {
 *       const int64_t *s = op->shape;
 *       const fh1_tensor w = grad_weight1(e, in[1], s[1]);
 *       return e->ops->rmsnorm(e, s[0], s[1], in[0], &w, 1e-5, out[0]);
 *   }
 *   static fh1_status bwd(const grad_op *op, fh1_engine *e, void *const *in, void *const *dout, void *const *din)
 *   {
 *       const int64_t *s = op->shape;
 *       const fh1_tensor w = grad_weight1(e, in[1], s[1]);
 *       return e->bwd_ops->rmsnorm(e, s[0], s[1], in[0], &w, 1e-5, dout[0], din[0], din[1]);
 *   }
 *   …
 *   const grad_op op = {.name = "rmsnorm", .n_in = 2, .n_out = 1, .shape = s,
 *                       .in = {{"x", M * D, x}, {"w", D, w, .parameter = true}}, .out = {{"y", M * D}},
 *                       .forward = fwd, .backward = bwd};
 *   GRAD_HOLDS(&op, f64);                      all the laws below
 *   GRAD_BREAKS(&op, faulty);                  a planted fault moves a gradient by far more than rounding
 *
 * With a random cotangent w of all outputs at once, L = Σ w·out is a scalar, and
 *   elementwise: dL/d(every element) by one complex step each, against `backward`; gap over the largest of the array
 *   directional: one step of all inputs at once in a random direction v, Σ w·Jv against Σ (Jᵀw)·v; gap over Σ|terms|
 *   contract:    gradients of activations are assigned (what was there does not matter), those of parameters are
 *                added; each may be NULL without a change of the others; bits do not depend on the number of threads
 */
#pragma once

#include "oracle/compare.h"
#include "oracle/random.h"
#include "oracle/thread.h"
#include "reference/complex.h"
#include "reference/engine.h"

#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { GRAD_ARRAYS = 12 };

/* Both sides are f64 with sums of at most a few hundred terms: some 1e-14 of the largest element, and a direction
 * averages over all of them. */
#define GRAD_ELEMENT 1e-12
#define GRAD_DIRECTION 1e-14
/* What a planted fault must at least move, of the array's largest element. */
#define GRAD_SEEN 1e-6

typedef struct {
    const char *name;
    int64_t n;
    const double *v; /* inputs: where the derivative is taken */
    bool parameter;  /* its gradient is added */
    bool constant;   /* has no gradient: din[k] is always NULL */
} grad_array;

typedef struct grad_op grad_op;
struct grad_op {
    const char *name;
    int n_in, n_out;
    grad_array in[GRAD_ARRAYS], out[GRAD_ARRAYS];
    const void *shape;
    int64_t sampled;      /* elements of each array that are stepped alone, at most; 0: all */
    uint64_t seed;        /* of the cotangent and the direction */
    const double *dout_0; /* cotangent of out[0], NULL: random */
    fh1_status (*forward)(const grad_op *op, fh1_engine *e, void *const *in, void *const *out);
    fh1_status (*backward)(const grad_op *op, fh1_engine *e, void *const *in, void *const *dout, void *const *din);
};

typedef struct {
    double element, direction; /* the largest gaps, infinite where `broken` */
    const char *array;         /* that of the largest elementwise gap */
    int64_t at;
    char broken[120]; /* a sentence about the contract, "" where it holds */
} grad_gap;

/* Weights in the type of the engine's arrays. */
static inline fh1_tensor grad_weight1(const fh1_engine *e, void *data, int64_t n)
{
    return fh1_view1(data, e->dtype, n);
}

static inline fh1_tensor grad_weight2(const fh1_engine *e, void *data, int64_t rows, int64_t columns)
{
    return fh1_view2(data, e->dtype, rows, columns);
}

static inline fh1_tensor grad_weight3(const fh1_engine *e, void *data, int64_t n0, int64_t n1, int64_t n2)
{
    return fh1_view3(data, e->dtype, n0, n1, n2);
}

/* out = in, for ops that update in place: what the op then reads and assigns is out. */
static inline void grad_carry(const grad_op *op, const fh1_engine *e, const void *in, void *out, int j)
{
    memcpy(out, in, (size_t)op->out[j].n * (size_t)fh1_dtype_bits(e->dtype) / 8);
}

#define GRAD_FINE(expr)                                                                                  \
    do {                                                                                                 \
        fh1_status grad_status_ = (expr);                                                                \
        char grad_line_[2048];                                                                           \
        ck_assert_msg(grad_status_ == NULL, "%s",                                                        \
                      grad_status_ ? fh1_status_line(grad_status_, grad_line_, sizeof grad_line_) : ""); \
    } while (0)

/* -- complex side -- */

typedef struct {
    const grad_op *op;
    fh1_engine *complex;
    double *v[GRAD_ARRAYS];         /* inputs, as the judged engine holds them */
    double *dout[GRAD_ARRAYS];      /* cotangents */
    double *direction[GRAD_ARRAYS]; /* of all inputs */
    double *in[GRAD_ARRAYS];        /* scratch, pairs */
    double *out[GRAD_ARRAYS];       /* pairs */
    double *want[GRAD_ARRAYS];      /* gradients by the complex step */
    bool *stepped[GRAD_ARRAYS];     /* where want is known */
    double *found[GRAD_ARRAYS];     /* and by the backward pass */
    double terms, product;          /* Σ|w·Jv|, Σ w·Jv */
} grad_run;

/* Σ w·Im(out)/h after one forward call; inputs move by h·direction, or element `at` of array k alone. */
static inline double grad_step(grad_run *r, int k, int64_t at)
{
    const grad_op *op = r->op;
    for (int i = 0; i < op->n_in; ++i)
        for (int64_t a = 0; a < op->in[i].n; ++a) {
            r->in[i][2 * a] = r->v[i][a];
            r->in[i][2 * a + 1] = k < 0 && !op->in[i].constant ? FH1_COMPLEX_STEP * r->direction[i][a] : 0;
        }
    if (k >= 0) r->in[k][2 * at + 1] = FH1_COMPLEX_STEP;
    GRAD_FINE(op->forward(op, r->complex, (void *const *)r->in, (void *const *)r->out));
    double sum = 0;
    r->terms = 0;
    for (int j = 0; j < op->n_out; ++j)
        for (int64_t a = 0; a < op->out[j].n; ++a) {
            const double term = r->dout[j][a] * (r->out[j][2 * a + 1] / FH1_COMPLEX_STEP);
            sum += term;
            r->terms += fabs(term);
        }
    return sum;
}

/* Derivatives by every element, or by op->sampled of them. */
static inline void grad_expect(grad_run *r)
{
    const grad_op *op = r->op;
    const fh1_stream pick = fh1_stream_open(op->seed, "sampled");
    for (int k = 0; k < op->n_in; ++k) {
        const int64_t n = op->in[k].n;
        const bool all = op->sampled == 0 || op->sampled >= n;
        for (int64_t s = 0; s < (all ? n : op->sampled) && !op->in[k].constant; ++s) {
            const int64_t a = all ? s : fh1_random_below(pick, (uint64_t)(s + 1000 * k), n);
            r->want[k][a] = grad_step(r, k, a);
            r->stepped[k][a] = true;
        }
    }
    r->product = grad_step(r, -1, 0);
}

/* -- backward side -- */

static inline void *grad_to(const fh1_engine *e, const double *v, int64_t n)
{
    void *p = malloc((size_t)(n + 1) * (size_t)fh1_dtype_bits(e->dtype) / 8 + 1);
    ck_assert_ptr_nonnull(p);
    fh1_from_f64(p, e->dtype, v, n);
    return p;
}

/* One backward call; gradients begin as `base` says (NULL: 0 for parameters, NaN for activations), and array `none` is
 * not wanted. out[k] receives f64. */
static inline void grad_call(const grad_run *r, fh1_engine *e, double *const *base, int none, double *const *out)
{
    const grad_op *op = r->op;
    void *in[GRAD_ARRAYS] = {0}, *dout[GRAD_ARRAYS] = {0}, *din[GRAD_ARRAYS] = {0};
    for (int k = 0; k < op->n_in; ++k) {
        in[k] = grad_to(e, r->v[k], op->in[k].n);
        for (int64_t a = 0; a < op->in[k].n; ++a) out[k][a] = base ? base[k][a] : op->in[k].parameter ? 0 : (double)NAN;
        if (k != none && !op->in[k].constant) din[k] = grad_to(e, out[k], op->in[k].n);
    }
    for (int j = 0; j < op->n_out; ++j) dout[j] = grad_to(e, r->dout[j], op->out[j].n);
    GRAD_FINE(op->backward(op, e, in, dout, din));
    for (int k = 0; k < op->n_in; ++k) {
        if (din[k]) fh1_to_f64(out[k], din[k], e->dtype, op->in[k].n);
        free(in[k]);
        free(din[k]);
    }
    for (int j = 0; j < op->n_out; ++j) free(dout[j]);
}

static inline bool grad_same(const grad_op *op, double *const *a, double *const *b, int except)
{
    for (int k = 0; k < op->n_in; ++k)
        if (k != except && !op->in[k].constant && memcmp(a[k], b[k], (size_t)op->in[k].n * sizeof(double)) != 0)
            return false;
    return true;
}

/* What was in the gradients before: parameters keep it and gain, activations forget it. */
static inline bool grad_adds(const grad_run *r, double *const *base, double *const *found)
{
    const grad_op *op = r->op;
    for (int k = 0; k < op->n_in; ++k)
        for (int64_t a = 0; a < op->in[k].n && !op->in[k].constant; ++a) {
            const double want = op->in[k].parameter ? base[k][a] + r->found[k][a] : r->found[k][a];
            /* terms may meet the base one by one */
            const double allowed = op->in[k].parameter ? 1e-5 * (fabs(base[k][a]) + fabs(r->found[k][a])) : 0;
            if (!fh1_within(fabs(found[k][a] - want), allowed)) return false;
        }
    return true;
}

static inline void grad_contract(const grad_run *r, fh1_engine *e, grad_gap *gap)
{
    const grad_op *op = r->op;
    double *base[GRAD_ARRAYS] = {0}, *again[GRAD_ARRAYS] = {0};
    const fh1_stream s = fh1_stream_open(op->seed, "base");
    for (int k = 0; k < op->n_in; ++k) {
        base[k] = calloc((size_t)op->in[k].n + 1, sizeof(double));
        again[k] = calloc((size_t)op->in[k].n + 1, sizeof(double));
        for (int64_t a = 0; a < op->in[k].n; ++a) /* exact in f32 */
            base[k][a] = (double)(fh1_random_below(s, (uint64_t)a, 2000) - 1000) * 0x1p-8;
    }
    grad_call(r, e, base, -1, again);
    if (!grad_adds(r, base, again))
        snprintf(gap->broken, sizeof gap->broken, "what was there is neither kept nor lost");
    for (int none = 0; none < op->n_in && !gap->broken[0]; ++none) {
        grad_call(r, e, NULL, none, again);
        if (!grad_same(op, r->found, again, none))
            snprintf(gap->broken, sizeof gap->broken, "without d%s the others change", op->in[none].name);
    }
    const int threads = fh1_threads();
    for (int t = 1; t <= 3 && !gap->broken[0]; t += 2) {
        fh1_set_threads(t);
        grad_call(r, e, NULL, -1, again);
        if (!grad_same(op, r->found, again, -1))
            snprintf(gap->broken, sizeof gap->broken, "%d threads give other bits", t);
    }
    fh1_set_threads(threads);
    for (int k = 0; k < op->n_in; ++k) {
        free(base[k]);
        free(again[k]);
    }
}

/* -- the two compared -- */

static inline void grad_elements(const grad_run *r, grad_gap *gap)
{
    const grad_op *op = r->op;
    for (int k = 0; k < op->n_in; ++k) {
        double largest = 0;
        if (op->in[k].constant) continue;
        for (int64_t a = 0; a < op->in[k].n; ++a)
            largest = fmax(largest, fmax(fabs(r->found[k][a]), fabs(r->want[k][a]))); /* fmax passes NaN by */
        for (int64_t a = 0; a < op->in[k].n; ++a) {
            if (!r->stepped[k][a]) continue;
            const double err = fabs(r->found[k][a] - r->want[k][a]);
            const double of = fh1_within(err, 0) ? 0 : err / largest;
            if (fh1_within(of, gap->element)) continue;
            gap->element = isnan(of) ? (double)INFINITY : of;
            gap->array = op->in[k].name;
            gap->at = a;
        }
    }
}

static inline void grad_directions(const grad_run *r, grad_gap *gap)
{
    double sum = 0, terms = r->terms;
    for (int k = 0; k < r->op->n_in; ++k)
        for (int64_t a = 0; a < r->op->in[k].n && !r->op->in[k].constant; ++a) {
            const double term = r->found[k][a] * r->direction[k][a];
            sum += term;
            terms += fabs(term);
        }
    const double err = fabs(sum - r->product);
    gap->direction = fh1_within(err, 0) ? 0 : fh1_within(err, (double)INFINITY) ? err / terms : (double)INFINITY;
}

static inline grad_gap grad_check(const grad_op *op, fh1_engine *e)
{
    grad_run r = {.op = op, .complex = ref_complex_engine_new(e->variants)};
    grad_gap gap = {.array = ""};
    ck_assert_ptr_nonnull(r.complex);
    const fh1_stream dice = fh1_stream_open(op->seed, op->name);
    uint64_t next = 0;
    for (int k = 0; k < op->n_in; ++k) {
        const size_t n = (size_t)op->in[k].n + 1;
        double **const parts[] = {&r.v[k], &r.direction[k], &r.want[k], &r.found[k]};
        for (int i = 0; i < 4; ++i) *parts[i] = calloc(n, sizeof(double));
        r.in[k] = calloc(2 * n, sizeof(double));
        r.stepped[k] = calloc(n, sizeof(bool));
        void *held = grad_to(e, op->in[k].v, op->in[k].n); /* both sides see what the judged engine can hold */
        fh1_to_f64(r.v[k], held, e->dtype, op->in[k].n);
        free(held);
        for (int64_t a = 0; a < op->in[k].n; ++a) r.direction[k][a] = fh1_random_normal(dice, next++);
    }
    for (int j = 0; j < op->n_out; ++j) {
        const size_t n = (size_t)op->out[j].n + 1;
        r.dout[j] = calloc(n, sizeof(double));
        r.out[j] = calloc(2 * n, sizeof(double));
        for (int64_t a = 0; a < op->out[j].n; ++a) { /* exact in f32 */
            const double w = (double)(float)fh1_random_normal(dice, next++);
            r.dout[j][a] = j == 0 && op->dout_0 ? op->dout_0[a] : w;
        }
    }
    grad_expect(&r);
    grad_call(&r, e, NULL, -1, r.found);
    grad_elements(&r, &gap);
    grad_directions(&r, &gap);
    grad_contract(&r, e, &gap);
    if (gap.broken[0]) gap.element = gap.direction = (double)INFINITY;
    for (int k = 0; k < GRAD_ARRAYS; ++k) {
        double *const parts[] = {r.v[k], r.dout[k], r.direction[k], r.in[k], r.out[k], r.want[k], r.found[k]};
        for (size_t i = 0; i < sizeof parts / sizeof *parts; ++i) free(parts[i]);
        free(r.stepped[k]);
    }
    r.complex->free(r.complex);
    return gap;
}

#define GRAD_HOLDS(op, e)                                                                                         \
    do {                                                                                                          \
        const grad_gap grad_gap_ = grad_check(op, e);                                                             \
        ck_assert_msg(!grad_gap_.broken[0], "%s: %s", (op)->name, grad_gap_.broken);                              \
        ck_assert_msg(fh1_within(grad_gap_.element, GRAD_ELEMENT), "%s: d%s[%lld] off by %.3g of its largest",    \
                      (op)->name, grad_gap_.array, (long long)grad_gap_.at, grad_gap_.element);                   \
        ck_assert_msg(fh1_within(grad_gap_.direction, GRAD_DIRECTION), "%s: a direction off by %.3g", (op)->name, \
                      grad_gap_.direction);                                                                       \
    } while (0)

/* A fault in a formula, not one in the contract: gradients differ. */
#define GRAD_BREAKS(op, e)                                                                                           \
    do {                                                                                                             \
        const grad_gap grad_gap_ = grad_check(op, e);                                                                \
        ck_assert_msg(!grad_gap_.broken[0], "%s: %s", (op)->name, grad_gap_.broken);                                 \
        ck_assert_msg(!fh1_within(grad_gap_.element, GRAD_SEEN), "%s: a planted fault moved gradients by %.3g only", \
                      (op)->name, grad_gap_.element);                                                                \
    } while (0)
