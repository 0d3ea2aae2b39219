/* Calls of the mixer's four backward ops for the complex step (tests/grad_fixture.h): shapes around the chunk of 16
 * tokens, documents that begin anywhere, limits, groups. */
#pragma once

#include "tests/grad_fixture.h"

enum { TOKENS = 520, VALUES = 40000 };

typedef struct {
    int64_t T, n[4]; /* conv1d: c, K; dt_softplus: H; ssd_scan: H, P, N, G; gated_norm: d, G */
    const int64_t *doc;
    int64_t doc_before; /* of the window or state */
    double lo, hi;      /* dt_softplus */
    bool norm_first, plain;
    unsigned variants; /* ssd_scan: FH1_VAR_DOC_RESET_80 */
} call_shape;

/* n numbers that f32 holds, normal or from `lo` to `hi`; valid until the program ends. */
static inline const double *case_values(const char *name, int64_t n, double lo, double hi)
{
    static double memory[2 * VALUES];
    static int64_t used;
    if (used + n > 2 * VALUES) used = 0; /* a ring: one case holds far less */
    double *v = memory + used;
    used += n;
    const fh1_stream s = fh1_stream_open(3, name);
    for (int64_t i = 0; i < n; ++i) {
        const double u = fh1_random_uniform(s, (uint64_t)i);
        v[i] = (double)(float)(hi > lo ? lo + (hi - lo) * u : fh1_random_normal(s, (uint64_t)i));
    }
    return v;
}

/* Documents of 1 to 9 tokens, so that some begin at chunk edges, some after, and some are one token. */
static inline const int64_t *case_documents(void)
{
    static int64_t doc[TOKENS];
    for (int64_t t = 1, left = 4; t < TOKENS; ++t, --left) {
        doc[t] = doc[t - 1] + (left == 0);
        if (left == 0) left = 1 + t * 5 % 9;
    }
    return doc;
}

/* -- conv1d: x, w, b, window -> y, window -- */

static fh1_status conv_forward(const grad_op *op, fh1_engine *e, void *const *in, void *const *out)
{
    const call_shape *s = op->shape;
    const fh1_tensor w = grad_weight3(e, in[1], s->n[0], 1, s->n[1]),
                     b = grad_weight1(e, s->plain ? NULL : in[2], s->n[0]);
    grad_carry(op, e, in[3], out[1], 1);
    return e->ops->conv1d(e, s->T, s->n[0], s->n[1], in[0], &w, &b, s->doc, s->doc_before, out[1], out[0]);
}

static fh1_status conv_backward(const grad_op *op, fh1_engine *e, void *const *in, void *const *dout, void *const *din)
{
    const call_shape *s = op->shape;
    const fh1_tensor w = grad_weight3(e, in[1], s->n[0], 1, s->n[1]),
                     b = grad_weight1(e, s->plain ? NULL : in[2], s->n[0]);
    return e->bwd_ops->conv1d(e, s->T, s->n[0], s->n[1], in[0], &w, &b, s->doc, s->doc_before, in[3], dout[0], dout[1],
                              din[0], din[1], din[2], din[3]);
}

static inline grad_op conv_case(const call_shape *s)
{
    const int64_t n = s->T * s->n[0], taps = s->n[0] * s->n[1], window = taps - s->n[0];
    return (grad_op){.name = "conv1d",
                     .n_in = 4,
                     .n_out = 2,
                     .in = {{"x", n, case_values("x", n, 0, 0)},
                            {"w", taps, case_values("w", taps, 0, 0), .parameter = true},
                            {"b", s->n[0], case_values("b", s->n[0], 0, 0), .parameter = true, .constant = s->plain},
                            {"window", window, case_values("window", window, 0, 0)}},
                     .out = {{"y", n}, {"window", window}},
                     .shape = s,
                     .sampled = 150,
                     .forward = conv_forward,
                     .backward = conv_backward};
}

/* -- dt_softplus: raw, bias -> dt -- */

static fh1_status dt_forward(const grad_op *op, fh1_engine *e, void *const *in, void *const *out)
{
    const call_shape *s = op->shape;
    const fh1_tensor bias = grad_weight1(e, in[1], s->n[0]);
    return e->ops->dt_softplus(e, s->T, s->n[0], in[0], &bias, s->lo, s->hi, out[0]);
}

static fh1_status dt_backward(const grad_op *op, fh1_engine *e, void *const *in, void *const *dout, void *const *din)
{
    const call_shape *s = op->shape;
    const fh1_tensor bias = grad_weight1(e, in[1], s->n[0]);
    return e->bwd_ops->dt_softplus(e, s->T, s->n[0], in[0], &bias, s->lo, s->hi, dout[0], din[0], din[1]);
}

/* raw + bias at the ends of the branch and of the clamp: 20 and around, -30, and exactly the limits 21 and 25. */
static inline grad_op dt_case(const call_shape *s)
{
    static const double at[] = {20, 20.5, 19.5, -30, 25, 21, 24.5, 25.5, 20.75, 3, 2, 0.5, -0.5, -3, 12, 40};
    static double raw[TOKENS], bias[TOKENS];
    for (int64_t h = 0; h < s->n[0]; ++h) bias[h] = (double)(h % 3) * 0.25;
    for (int64_t i = 0; i < s->T * s->n[0]; ++i) raw[i] = at[(5 * i + 1) % 16] - bias[i % s->n[0]];
    return (grad_op){.name = "dt_softplus",
                     .n_in = 2,
                     .n_out = 1,
                     .in = {{"raw", s->T * s->n[0], raw}, {"bias", s->n[0], bias, .parameter = true}},
                     .out = {{"dt", s->T * s->n[0]}},
                     .shape = s,
                     .forward = dt_forward,
                     .backward = dt_backward};
}

/* -- ssd_scan: x, B, C, dt, A_log, D, state -> y, state -- */

static fh1_status scan_forward(const grad_op *op, fh1_engine *e, void *const *in, void *const *out)
{
    const call_shape *s = op->shape;
    const fh1_tensor A = grad_weight1(e, in[4], s->n[0]), D = grad_weight1(e, in[5], s->n[0]);
    grad_carry(op, e, in[6], out[1], 1);
    e->variants = s->variants;
    return e->ops->ssd_scan(e, s->T, s->n[0], s->n[1], s->n[2], s->n[3], in[0], in[1], in[2], in[3], &A, &D, s->doc,
                            s->doc_before, out[1], out[0]);
}

static fh1_status scan_backward(const grad_op *op, fh1_engine *e, void *const *in, void *const *dout, void *const *din)
{
    const call_shape *s = op->shape;
    const fh1_tensor A = grad_weight1(e, in[4], s->n[0]), D = grad_weight1(e, in[5], s->n[0]);
    e->variants = s->variants;
    return e->bwd_ops->ssd_scan(e, s->T, s->n[0], s->n[1], s->n[2], s->n[3], in[0], in[1], in[2], in[3], &A, &D, s->doc,
                                s->doc_before, in[6], dout[0], dout[1], din[0], din[1], din[2], din[3], din[4], din[5],
                                din[6]);
}

static inline grad_op scan_case(const call_shape *s)
{
    const int64_t H = s->n[0], d = H * s->n[1], N = s->n[2], gn = s->n[3] * N, T = s->T;
    return (grad_op){.name = "ssd_scan",
                     .n_in = 7,
                     .n_out = 2,
                     .in = {{"x", T * d, case_values("x", T * d, 0, 0)},
                            {"B", T * gn, case_values("B", T * gn, 0, 0)},
                            {"C", T * gn, case_values("C", T * gn, 0, 0)},
                            {"dt", T * H, case_values("dt", T * H, 0.01, 0.6)},
                            {"A_log", H, case_values("A_log", H, -1, 1.5), .parameter = true},
                            {"D", H, case_values("D", H, 0, 0), .parameter = true},
                            {"state", d * N, case_values("state", d * N, 0, 0)}},
                     .out = {{"y", T * d}, {"state", d * N}},
                     .shape = s,
                     .sampled = 120,
                     .forward = scan_forward,
                     .backward = scan_backward};
}

/* -- gated_norm: y, z, w -> out -- */

static fh1_status gate_forward(const grad_op *op, fh1_engine *e, void *const *in, void *const *out)
{
    const call_shape *s = op->shape;
    const fh1_tensor w = grad_weight1(e, s->plain ? NULL : in[2], s->n[0]);
    return e->ops->gated_norm(e, s->T, s->n[0], s->n[1], in[0], in[1], &w, 1e-5, s->norm_first, out[0]);
}

static fh1_status gate_backward(const grad_op *op, fh1_engine *e, void *const *in, void *const *dout, void *const *din)
{
    const call_shape *s = op->shape;
    const fh1_tensor w = grad_weight1(e, s->plain ? NULL : in[2], s->n[0]);
    return e->bwd_ops->gated_norm(e, s->T, s->n[0], s->n[1], in[0], in[1], &w, 1e-5, s->norm_first, dout[0], din[0],
                                  din[1], din[2]);
}

static inline grad_op gate_case(const call_shape *s)
{
    const int64_t n = s->T * s->n[0];
    return (grad_op){.name = "gated_norm",
                     .n_in = 3,
                     .n_out = 1,
                     .in = {{"y", n, case_values("y", n, 0, 0)},
                            {"z", n, case_values("z", n, -4, 4)},
                            {"w", s->n[0], case_values("w", s->n[0], 0, 0), .parameter = true, .constant = s->plain}},
                     .out = {{"out", n}},
                     .shape = s,
                     .sampled = 150,
                     .forward = gate_forward,
                     .backward = gate_backward};
}
