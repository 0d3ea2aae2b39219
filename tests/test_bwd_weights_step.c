/* The backward ops with weights, as tests/bwd_step.h says. Adapters have no op of their own: their templates are called
 * as they are. */
#define REF_BITS 64
#include "reference/lora_bwd.h"
#include "tests/bwd_step.h"

extern fh1_fault ref_fault_now;
fh1_status ref_lora_bwd_f64_faulty(int64_t M, const double *x, const fh1_lora *l, const double *dy, double *dx,
                                   double *dA, double *dB, double *dbias);
fh1_status ref_lora_embed_bwd_f64_faulty(int64_t M, const int64_t *ids, const fh1_lora *l, int64_t pad,
                                         const double *dy, double *dA, double *dB);
/* Of the complex copy: `_Complex double` arrays. */
fh1_status ref_lora_add_c128(int64_t M, const void *x, const fh1_lora *lora, const fh1_tensor *bias,
                             const fh1_profile *p, void *y);
fh1_status ref_lora_add_f64(int64_t M, const double *x, const fh1_lora *lora, const fh1_tensor *bias,
                            const fh1_profile *p, double *y);
fh1_status ref_lora_embed_c128(int64_t M, const int64_t *ids, const fh1_lora *lora, const fh1_profile *p, void *y);
fh1_status ref_lora_embed_f64(int64_t M, const int64_t *ids, const fh1_lora *lora, const fh1_profile *p, double *y);

static fh1_status embed_fwd(const grad_op *op, fh1_engine *e, void *const *in, void *const *out)
{
    SHAPE;
    const fh1_tensor table = grad_weight2(e, in[0], s->n[1], s->n[2]);
    return e->ops->embed(e, s->n[0], s->ids, &table, out[0]);
}

static fh1_status embed_bwd(const grad_op *op, fh1_engine *e, void *const *in, void *const *dout, void *const *din)
{
    SHAPE;
    (void)in;
    return e->bwd_ops->embed(e, s->n[0], s->ids, s->n[1], s->n[2], -1, dout[0], din[0]);
}

static fh1_status rmsnorm_fwd(const grad_op *op, fh1_engine *e, void *const *in, void *const *out)
{
    SHAPE;
    const fh1_tensor w = grad_weight1(e, in[1], s->n[1]);
    return e->ops->rmsnorm(e, s->n[0], s->n[1], in[0], &w, s->m, out[0]);
}

static fh1_status rmsnorm_bwd(const grad_op *op, fh1_engine *e, void *const *in, void *const *dout, void *const *din)
{
    SHAPE;
    const fh1_tensor w = grad_weight1(e, in[1], s->n[1]);
    return e->bwd_ops->rmsnorm(e, s->n[0], s->n[1], in[0], &w, s->m, dout[0], din[0], din[1]);
}

static fh1_status linear_fwd(const grad_op *op, fh1_engine *e, void *const *in, void *const *out)
{
    SHAPE;
    const fh1_tensor w = grad_weight2(e, in[1], s->n[1], s->n[2]), b = grad_weight1(e, in[2], s->n[1]);
    return e->ops->linear(e, s->n[0], in[0], &w, &b, out[0]);
}

static fh1_status linear_bwd(const grad_op *op, fh1_engine *e, void *const *in, void *const *dout, void *const *din)
{
    SHAPE;
    const fh1_tensor w = grad_weight2(e, in[1], s->n[1], s->n[2]);
    return e->bwd_ops->linear(e, s->n[0], in[0], &w, dout[0], din[0], din[1], din[2]);
}

static fh1_lora adapter(const shape *s, const fh1_engine *e, void *A, void *B, void *bias)
{
    const int64_t K = s->n[1], rank = s->n[2], N = s->n[3];
    return (fh1_lora){.A = grad_weight2(e, A, rank, K),
                      .B = grad_weight2(e, B, N, rank),
                      .bias = grad_weight1(e, bias, N),
                      .scale = s->m};
}

static fh1_status lora_fwd(const grad_op *op, fh1_engine *e, void *const *in, void *const *out)
{
    SHAPE;
    const fh1_lora l = adapter(s, e, in[1], in[2], in[3]);
    const fh1_tensor none = grad_weight1(e, NULL, 0);
    grad_carry(op, e, in[4], out[0], 0);
    if (e->dtype == FH1_C128) return ref_lora_add_c128(s->n[0], in[0], &l, &none, e->profile, out[0]);
    return ref_lora_add_f64(s->n[0], in[0], &l, &none, e->profile, out[0]);
}

static fh1_status lora_bwd(const grad_op *op, fh1_engine *e, void *const *in, void *const *dout, void *const *din)
{
    SHAPE;
    const fh1_lora l = adapter(s, e, in[1], in[2], in[3]);
    if (din[4]) memcpy(din[4], dout[0], (size_t)op->out[0].n * sizeof(double)); /* what the adapter adds to */
    ref_fault_now = e->fault;
    return (e->fault ? ref_lora_bwd_f64_faulty : ref_lora_bwd_f64)(s->n[0], in[0], &l, dout[0], din[0], din[1], din[2],
                                                                   din[3]);
}

static fh1_status lora_embed_fwd(const grad_op *op, fh1_engine *e, void *const *in, void *const *out)
{
    SHAPE;
    const fh1_lora l = adapter(s, e, in[0], in[1], NULL);
    grad_carry(op, e, in[2], out[0], 0);
    if (e->dtype == FH1_C128) return ref_lora_embed_c128(s->n[0], s->ids, &l, e->profile, out[0]);
    return ref_lora_embed_f64(s->n[0], s->ids, &l, e->profile, out[0]);
}

static fh1_status lora_embed_bwd(const grad_op *op, fh1_engine *e, void *const *in, void *const *dout, void *const *din)
{
    SHAPE;
    const fh1_lora l = adapter(s, e, in[0], in[1], NULL);
    if (din[2]) memcpy(din[2], dout[0], (size_t)op->out[0].n * sizeof(double));
    ref_fault_now = e->fault;
    return (e->fault ? ref_lora_embed_bwd_f64_faulty : ref_lora_embed_bwd_f64)(s->n[0], s->ids, &l, -1, dout[0], din[0],
                                                                               din[1]);
}

static fh1_status residual_fwd(const grad_op *op, fh1_engine *e, void *const *in, void *const *out)
{
    SHAPE;
    grad_carry(op, e, in[0], out[0], 0);
    return e->ops->residual(e, s->n[0], in[1], s->m, in[2], -s->m / 2, out[0]);
}

static fh1_status residual_bwd(const grad_op *op, fh1_engine *e, void *const *in, void *const *dout, void *const *din)
{
    SHAPE;
    (void)in;
    if (din[0]) grad_carry(op, e, dout[0], din[0], 0);
    return e->bwd_ops->residual(e, s->n[0], dout[0], s->m, din[1], -s->m / 2, din[2]);
}

static fh1_status head_fwd(const grad_op *op, fh1_engine *e, void *const *in, void *const *out)
{
    SHAPE;
    const fh1_tensor w = grad_weight2(e, in[1], s->n[1], s->n[2]);
    return e->ops->lm_head(e, s->n[0], in[0], &w, s->m, out[0]);
}

static fh1_status head_bwd(const grad_op *op, fh1_engine *e, void *const *in, void *const *dout, void *const *din)
{
    SHAPE;
    const fh1_tensor w = grad_weight2(e, in[1], s->n[1], s->n[2]);
    return e->bwd_ops->lm_head(e, s->n[0], in[0], &w, s->m, dout[0], din[0], din[1]);
}

START_TEST(embed)
{
    static const int64_t ids[] = {3, 0, 3, 1, 3, 0, 2};
    const shape s = {.n = {7, 5, 3}, .ids = ids};
    const step_case c = {.op = {.name = "embed",
                                .n_in = 1,
                                .n_out = 1,
                                .in = {PARAMETER("table", 15)},
                                .out = {{.name = "y", .n = 21}},
                                .shape = &s,
                                .forward = embed_fwd,
                                .backward = embed_bwd},
                         .faults = {FH1_FAULT_GRAD_EMBED_DUPLICATES_OVERWRITE}};
    prove(&c);
}
END_TEST

START_TEST(rmsnorm)
{
    static const int64_t sizes[][2] = {{5, 7}, {3, 70}, {1, 2}};
    for (int i = 0; i < 3; ++i) {
        const int64_t M = sizes[i][0], D = sizes[i][1];
        const shape s = {.n = {M, D}, .m = i == 1 ? 0.5 : 1e-5};
        const step_case c = {.op = {.name = "rmsnorm",
                                    .n_in = 2,
                                    .n_out = 1,
                                    .in = {ACTIVATION("x", M * D), PARAMETER("w", D)},
                                    .out = {{.name = "y", .n = M * D}},
                                    .shape = &s,
                                    .forward = rmsnorm_fwd,
                                    .backward = rmsnorm_bwd},
                             .faults = {FH1_FAULT_GRAD_NORM_CONSTANT, FH1_FAULT_GRAD_NORM_WRONG_WIDTH,
                                        FH1_FAULT_GRAD_NORM_WEIGHT_WITHOUT_SCALE}};
        prove(&c);
    }
}
END_TEST

START_TEST(linear)
{
    static const int64_t sizes[][3] = {{5, 7, 7}, {9, 515, 260}, {1, 3, 2}};
    for (int i = 0; i < 3; ++i) {
        const int64_t M = sizes[i][0], N = sizes[i][1], K = sizes[i][2];
        const shape s = {.n = {M, N, K}};
        step_case c = {.op = {.name = "linear",
                              .n_in = 3,
                              .n_out = 1,
                              .in = {ACTIVATION("x", M * K), PARAMETER("w", N * K), PARAMETER("b", N)},
                              .out = {{.name = "y", .n = M * N}},
                              .shape = &s,
                              .sampled = i == 1 ? 12 : 0,
                              .forward = linear_fwd,
                              .backward = linear_bwd},
                       .faults = {FH1_FAULT_GRAD_LINEAR_LAST_ROW_LOST, FH1_FAULT_GRAD_WEIGHT_TRANSPOSED,
                                  FH1_FAULT_GRAD_BIAS_AVERAGED}};
        if (i > 0) c.faults[0] = FH1_FAULT_NONE; /* a square one with several rows shows all */
        prove(&c);
    }
}
END_TEST

START_TEST(lora)
{
    enum { M = 5, K = 4, RANK = 2, N = 6 };
    const shape s = {.n = {M, K, RANK, N}, .m = 0.625};
    grad_array x = ACTIVATION("x", M * K);
    x.parameter = true; /* the base product has put its share there */
    const step_case c = {.op = {.name = "lora",
                                .n_in = 5,
                                .n_out = 1,
                                .in = {x, PARAMETER("A", RANK * K), PARAMETER("B", N * RANK), PARAMETER("bias", N),
                                       ACTIVATION("y", M * N)},
                                .out = {{.name = "y", .n = M * N}},
                                .shape = &s,
                                .forward = lora_fwd,
                                .backward = lora_bwd},
                         .faults = {FH1_FAULT_GRAD_LORA_A_WITHOUT_SCALE, FH1_FAULT_GRAD_LORA_B_WITHOUT_SCALE,
                                    FH1_FAULT_GRAD_LORA_INPUT_DROPPED}};
    prove(&c);
}
END_TEST

START_TEST(lora_embed)
{
    enum { M = 6, V = 4, RANK = 2, N = 5 };
    static const int64_t ids[] = {3, 0, 3, 1, 1, 3};
    const shape s = {.n = {M, V, RANK, N}, .ids = ids, .m = 1.5};
    const step_case c = {.op = {.name = "lora_embed",
                                .n_in = 3,
                                .n_out = 1,
                                .in = {PARAMETER("A", RANK * V), PARAMETER("B", N * RANK), ACTIVATION("y", M * N)},
                                .out = {{.name = "y", .n = M * N}},
                                .shape = &s,
                                .forward = lora_embed_fwd,
                                .backward = lora_embed_bwd},
                         .faults = {FH1_FAULT_GRAD_LORA_A_WITHOUT_SCALE, FH1_FAULT_GRAD_LORA_B_WITHOUT_SCALE}};
    prove(&c);
}
END_TEST

START_TEST(residual_and_lm_head)
{
    enum { M = 4, N = 9, K = 5 };
    const shape s = {.n = {M * K}, .m = 0.375}, h = {.n = {M, N, K}, .m = 0.0625};
    const step_case sum = {.op = {.name = "residual",
                                  .n_in = 3,
                                  .n_out = 1,
                                  .in = {ACTIVATION("x", M * K), ACTIVATION("a", M * K), ACTIVATION("b", M * K)},
                                  .out = {{.name = "x", .n = M * K}},
                                  .shape = &s,
                                  .forward = residual_fwd,
                                  .backward = residual_bwd}};
    const step_case head = {.op = {.name = "lm_head",
                                   .n_in = 2,
                                   .n_out = 1,
                                   .in = {ACTIVATION("h", M * K), PARAMETER("w", N * K)},
                                   .out = {{.name = "logits", .n = M * N}},
                                   .shape = &h,
                                   .forward = head_fwd,
                                   .backward = head_bwd},
                            .faults = {FH1_FAULT_GRAD_LINEAR_LAST_ROW_LOST, FH1_FAULT_GRAD_WEIGHT_OVERWRITTEN}};
    prove(&sum);
    prove(&head);
}
END_TEST

int main(void)
{
    return w_main("bwd_weights_step", (w_test[]){embed, rmsnorm, linear, lora, lora_embed, residual_and_lm_head, NULL});
}
