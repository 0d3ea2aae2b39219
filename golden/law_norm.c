/* norm_scale, on activations of the model: a norm of c·x with eps·c² is the norm of x with eps. Rows are made as small
 * as the root of eps, so that a misplaced eps counts. */
#include "golden/law_impl.h"

#include "oracle/compare.h"

#include <math.h>

#define SCALE 0x1p5 /* a power of two: c·x and c²·eps are exact */

/* v times a power of two, so that its RMS is about `rms`. */
static double *sized(law_run *r, const double *v, int64_t n, double rms)
{
    fh1_rms size = {0};
    double *to = gld_law_room(r, n);
    if (!to) return NULL;
    for (int64_t i = 0; i < n; ++i) fh1_rms_add(&size, 0, v[i], i);
    const double was = fh1_rms_ref(&size), factor = was > 0 && rms > 0 ? exp2(rint(log2(rms / was))) : 1;
    for (int64_t i = 0; i < n; ++i) to[i] = factor * v[i];
    return to;
}

static void scale(double *v, int64_t n, double factor)
{
    for (int64_t i = 0; i < n; ++i) v[i] *= factor;
}

/* Planted: eps is not scaled. */
static fh1_status walk_rmsnorm(law_run *r, fh1_engine *e, law_road road, law_side *out)
{
    const law_acts *a = r->data;
    const fh1_config *c = &r->m->config;
    const fh1_tensor *w[2] = {&r->m->layers[a->layer].input_layernorm, &r->m->final_layernorm};
    for (int k = 0; k < 2; ++k) {
        double *x = sized(r, a->input, a->T * c->D, sqrt(c->eps));
        law_out y;
        law_tensor *t;
        if (!x) return fh1_no_memory(0, "rows of a norm");
        if (road != LAW_LEFT) scale(x, a->T * c->D, SCALE);
        FH1_TRY(gld_run_rmsnorm(r, e, a->T, c->D, x, w[k], c->eps * (road == LAW_RIGHT ? SCALE * SCALE : 1), &y));
        FH1_TRY(gld_side_op(out, a, k ? FH1_TAP_FINAL_LAYERNORM : FH1_TAP_INPUT_LAYERNORM, c->D, &t));
        FH1_TRY(gld_out_add(t, &y, NULL, 1));
    }
    return NULL;
}

/* The gate does not scale. Without a norm the op is linear in y: then c divides what comes out. */
static fh1_status walk_gated(law_run *r, fh1_engine *e, law_road road, law_side *out)
{
    const law_acts *a = r->data;
    const fh1_config *c = &r->m->config;
    const int64_t n = a->T * c->d_ssm;
    law_gate g = {.M = a->T, .d = c->d_ssm, .G = c->G, .z = a->z, .w = r->m->layers[a->layer].norm, .eps = c->eps};
    double *y = sized(r, a->y, n, sqrt(c->eps));
    law_out of;
    law_tensor *t;
    if (!y) return fh1_no_memory(0, "rows of a norm");
    g.norm_before_gate = c->norm_before_gate;
    if (road != LAW_LEFT) scale(y, n, SCALE);
    if (road == LAW_RIGHT) g.eps *= SCALE * SCALE;
    g.y = y;
    FH1_TRY(gld_run_gated_norm(r, e, &g, &of));
    FH1_TRY(gld_side_op(out, a, FH1_TAP_GATED, c->d_ssm, &t));
    return gld_out_add(t, &of, NULL, !g.w.data && road == LAW_RIGHT ? 1 / SCALE : 1);
}

static fh1_status walk_norms(law_run *r, fh1_engine *e, law_road road, law_side *out)
{
    FH1_TRY(walk_rmsnorm(r, e, road, out));
    return r->a->engine->ops->gated_norm ? walk_gated(r, e, road, out) : NULL;
}

fh1_status gld_law_norm_scale(const gld_law_args *a, gld_law_result *r)
{
    if (!a->engine->ops || !a->engine->ops->rmsnorm) return gld_law_skip(r, "the engine shows no norm of its own");
    const unsigned notices = LAW_BIT(FH1_TAP_INPUT_LAYERNORM) | LAW_BIT(FH1_TAP_FINAL_LAYERNORM) |
                             (a->engine->ops->gated_norm ? LAW_BIT(FH1_TAP_GATED) : 0u);
    return gld_law_judge_acts(a, walk_norms, notices, r);
}
