/* The tests of backward ops against the forward ops themselves: by the complex step (tests/grad_fixture.h: elements to
 * 1e-12, a direction, which is the adjoint identity, to 1e-14) and, with nothing complex in it, by central differences
 * of ref-f64 to 1e-6. Both must see the planted faults. */
#pragma once

#include "reference/faulty.h"
#include "tests/grad_fixture.h"
#include "tests/witness.h"

typedef struct {
    int64_t n[6];
    const int64_t *ids; /* ids, labels, positions or first keys */
    double m;           /* a multiplier, a scale or a divisor */
    fh1_config config;
} shape;

#define SHAPE const shape *s = op->shape

/* --- central differences --- */

/* The largest gap between Σ w·(f(x+h) - f(x-h))/2h and the backward pass, of the largest of the array. */
static inline double central_gap(const grad_op *op, fh1_engine *e)
{
    const double h = 0x1p-17; /* off by h² and by u/h: 1e-10 and 1e-11 */
    void *in[GRAD_ARRAYS] = {0}, *dout[GRAD_ARRAYS] = {0}, *din[GRAD_ARRAYS] = {0}, *out[2][GRAD_ARRAYS] = {{0}};
    double worst = 0;
    for (int k = 0; k < op->n_in; ++k) {
        in[k] = w_copy(op->in[k].v, op->in[k].n);
        din[k] = w_fill(op->in[k].n, 0);
    }
    for (int j = 0; j < op->n_out; ++j) {
        dout[j] = op->dout_0 ? w_copy(op->dout_0, 1) : w_normal("cotangent", op->out[j].n, 1);
        out[0][j] = w_new(op->out[j].n);
        out[1][j] = w_new(op->out[j].n);
    }
    w_fine(op->backward(op, e, in, dout, din));
    for (int k = 0; k < op->n_in; ++k) {
        double most = 0, gap = 0, *v = in[k];
        const int64_t n = op->in[k].n, step = op->sampled ? n / op->sampled + 1 : 1;
        for (int64_t i = 0; i < n; ++i) most = fmax(most, fabs(((double *)din[k])[i]));
        for (int64_t i = 0; i < n; i += step) {
            const double at = v[i];
            double sum = 0;
            for (int side = 0; side < 2; ++side) {
                v[i] = side ? at + h : at - h;
                w_fine(op->forward(op, e, in, out[side]));
            }
            v[i] = at;
            for (int j = 0; j < op->n_out; ++j)
                for (int64_t a = 0; a < op->out[j].n; ++a)
                    sum += ((double *)dout[j])[a] * (((double *)out[1][j])[a] - ((double *)out[0][j])[a]) / (2 * h);
            gap = fmax(gap, fabs(sum - ((double *)din[k])[i]));
            most = fmax(most, fabs(sum));
        }
        worst = fmax(worst, gap / most);
    }
    return worst;
}

typedef struct {
    grad_op op;
    fh1_fault faults[4];
} step_case;

static inline void prove(const step_case *c)
{
    GRAD_HOLDS(&c->op, w_f64);
    const double central = central_gap(&c->op, w_f64);
    ck_assert_msg(fh1_within(central, 1e-6), "%s: central differences are off by %.3g", c->op.name, central);
    for (const fh1_fault *f = c->faults; *f != FH1_FAULT_NONE; ++f) {
        fh1_engine *e = ref_faulty_engine_new("ref-f64", NULL, 0, *f);
        ck_assert_ptr_nonnull(e);
        const grad_gap gap = grad_check(&c->op, e);
        ck_assert_msg(!fh1_within(gap.element, GRAD_SEEN), "%s moves gradients by %.3g only", fh1_fault_get(*f)->name,
                      gap.element);
        /* differences of the right forward pass, the gradients of the wrong backward pass */
        const fh1_ops *ops = e->ops;
        e->ops = w_f64->ops;
        ck_assert_msg(!fh1_within(central_gap(&c->op, e), 1e-6) || gap.broken[0],
                      "%s passes central differences unseen", fh1_fault_get(*f)->name);
        e->ops = ops;
        e->free(e);
    }
}

#define ACTIVATION(NAME, N)                             \
    {                                                   \
        .name = NAME, .n = N, .v = w_normal(NAME, N, 1) \
    }
#define PARAMETER(NAME, N)                                                 \
    {                                                                      \
        .name = NAME, .n = N, .v = w_normal(NAME, N, 1), .parameter = true \
    }
