/* The backward ops without weights, as tests/bwd_step.h says. */
#include "tests/bwd_step.h"

static fh1_status rope_fwd(const grad_op *op, fh1_engine *e, void *const *in, void *const *out)
{
    SHAPE;
    grad_carry(op, e, in[0], out[0], 0);
    return e->ops->rope(e, &s->config, s->n[0], s->n[1], s->ids, 100, out[0]);
}

static fh1_status rope_bwd(const grad_op *op, fh1_engine *e, void *const *in, void *const *dout, void *const *din)
{
    SHAPE;
    (void)in;
    if (!din[0]) return NULL;
    grad_carry(op, e, dout[0], din[0], 0);
    return e->bwd_ops->rope(e, &s->config, s->n[0], s->n[1], s->ids, 100, din[0]);
}

static fh1_status attention_fwd(const grad_op *op, fh1_engine *e, void *const *in, void *const *out)
{
    SHAPE;
    return e->ops->attention(e, s->n[0], s->n[1], s->n[2], s->n[3], s->n[4], in[0], in[1], in[2], s->ids, out[0]);
}

static fh1_status attention_bwd(const grad_op *op, fh1_engine *e, void *const *in, void *const *dout, void *const *din)
{
    SHAPE;
    return e->bwd_ops->attention(e, s->n[0], s->n[1], s->n[2], s->n[3], s->n[4], in[0], in[1], in[2], s->ids, dout[0],
                                 din[0], din[1], din[2]);
}

static fh1_status swiglu_fwd(const grad_op *op, fh1_engine *e, void *const *in, void *const *out)
{
    SHAPE;
    return e->ops->swiglu(e, s->n[0], s->n[1], in[0], s->m, in[1], out[0]);
}

static fh1_status swiglu_bwd(const grad_op *op, fh1_engine *e, void *const *in, void *const *dout, void *const *din)
{
    SHAPE;
    return e->bwd_ops->swiglu(e, s->n[0], s->n[1], in[0], s->m, in[1], dout[0], din[0], din[1]);
}

static fh1_status loss_fwd(const grad_op *op, fh1_engine *e, void *const *in, void *const *out)
{
    SHAPE;
    return e->ops->cross_entropy(e, s->n[0], s->n[1], in[0], s->ids, out[0]);
}

static fh1_status loss_bwd(const grad_op *op, fh1_engine *e, void *const *in, void *const *dout, void *const *din)
{
    SHAPE;
    double loss;
    (void)dout; /* stands in the divisor */
    return e->bwd_ops->cross_entropy(e, s->n[0], s->n[1], in[0], s->ids, s->m, &loss, din[0]);
}

START_TEST(rope)
{
    enum { T = 4, HEADS = 3, A = 10 };
    static const int64_t position[] = {0, 1, 2, 57};
    const shape s = {.n = {T, HEADS},
                     .ids = position,
                     .config = {.A = A, .rope = {.type = FH1_ROPE_DEFAULT, .theta = 1e4, .max_position = 4096}}};
    const step_case c = {.op = {.name = "rope",
                                .n_in = 1,
                                .n_out = 1,
                                .in = {ACTIVATION("x", T * HEADS * A)},
                                .out = {{.name = "x", .n = T * HEADS * A}},
                                .shape = &s,
                                .forward = rope_fwd,
                                .backward = rope_bwd},
                         .faults = {FH1_FAULT_GRAD_ROPE_ROTATED_FORWARD, FH1_FAULT_GRAD_ROPE_MISSING}};
    prove(&c);
}
END_TEST

/* T, S, Hq, Hkv, A: groups of 1, 2 and 4, a past, documents, and one that goes through the matrix products. */
START_TEST(attention)
{
    static const int64_t sizes[][5] = {
        {7, 7, 2, 2, 6}, {9, 14, 4, 2, 5}, {6, 9, 4, 1, 4}, {1, 5, 2, 1, 2}, {70, 110, 2, 1, 4}};
    for (int i = 0; i < 5; ++i) {
        const int64_t T = sizes[i][0], S = sizes[i][1], Hq = sizes[i][2], Hkv = sizes[i][3], A = sizes[i][4];
        int64_t *first = w_ints(T);
        for (int64_t t = 0; t < T; ++t) first[t] = i == 0 ? 0 : S - T + t >= S - 2 ? S - 2 : S - T + t >= 6 ? 3 : 0;
        const shape s = {.n = {T, S, Hq, Hkv, A}, .ids = first};
        step_case c = {
            .op = {.name = "attention",
                   .n_in = 3,
                   .n_out = 1,
                   .in = {ACTIVATION("q", T * Hq * A), ACTIVATION("k", Hkv * S * A), ACTIVATION("v", Hkv * S * A)},
                   .out = {{.name = "out", .n = T * Hq * A}},
                   .shape = &s,
                   .sampled = i == 4 ? 25 : 0,
                   .forward = attention_fwd,
                   .backward = attention_bwd},
            .faults = {FH1_FAULT_GRAD_SOFTMAX_WITHOUT_ROW_TERM, FH1_FAULT_GRAD_KEYS_NOT_SCALED,
                       FH1_FAULT_GRAD_KV_HEADS_LAST_WINS}};
        if (Hq == Hkv) c.faults[2] = FH1_FAULT_NONE;
        if (i == 2) c.faults[0] = FH1_FAULT_GRAD_PAST_KEYS_DROPPED;
        prove(&c);
    }
}
END_TEST

START_TEST(swiglu)
{
    enum { M = 3, F = 7 };
    const shape s = {.n = {M, F}, .m = 0.4375};
    const step_case c = {.op = {.name = "swiglu",
                                .n_in = 2,
                                .n_out = 1,
                                .in = {ACTIVATION("gate", M * F), ACTIVATION("up", M * F)},
                                .out = {{.name = "act", .n = M * F}},
                                .shape = &s,
                                .forward = swiglu_fwd,
                                .backward = swiglu_bwd},
                         .faults = {FH1_FAULT_GRAD_GATE_WITHOUT_MULTIPLIER, FH1_FAULT_GRAD_SILU_AS_SIGMOID,
                                    FH1_FAULT_GRAD_UP_FROM_PRE_ACTIVATION}};
    prove(&c);
}
END_TEST

START_TEST(cross_entropy)
{
    enum { M = 9, V = 11, COUNT = 7 };
    static const int64_t labels[M] = {0, 3, -100, 10, 10, -100, 0, 5, 1};
    for (int i = 0; i < 3; ++i) { /* the mean, the sum, some other divisor */
        const double divisor = i == 0 ? 0 : i == 1 ? 1 : 3.25, weight = i == 0 ? 1 : COUNT / divisor;
        const shape s = {.n = {M, V}, .ids = labels, .m = divisor};
        const step_case c = {.op = {.name = "cross_entropy",
                                    .n_in = 1,
                                    .n_out = 1,
                                    .in = {ACTIVATION("logits", M * V)},
                                    .out = {{.name = "loss", .n = 1}},
                                    .shape = &s,
                                    .dout_0 = &weight,
                                    .forward = loss_fwd,
                                    .backward = loss_bwd},
                             .faults = {FH1_FAULT_GRAD_LOSS_LABEL_0_WITHOUT_ONEHOT,
                                        FH1_FAULT_GRAD_LOSS_IGNORED_ROWS_KEPT,
                                        FH1_FAULT_GRAD_LOSS_DIVISOR_COUNTS_IGNORED}};
        prove(&c);
    }
}
END_TEST

int main(void)
{
    return w_main("bwd_network_step", (w_test[]){rope, attention, swiglu, cross_entropy, NULL});
}
