/* Laws of norms. norm_scale, on activations of the model: a norm of c·x with eps·c² is the norm of x with eps. Rows are
 * made as small as the root of eps, so that a misplaced eps counts. */
#include "golden/law_impl.h"

#include "oracle/compare.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

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

/* ---- inner_norm_scale: dt, B and C reach the scan through norms without a weight ---- */

/* The model with x_proj times SCALE, and mixer_rms_eps times its square (planted: as it was), in f32. */
static fh1_status scaled_model(law_run *r, bool eps_too, fh1_model *m, fh1_layer **layers)
{
    const fh1_model *from = r->a->model;
    const int64_t L = from->config.n_layers;
    *m = *from;
    fh1_config_copy(&m->config, &from->config);
    if (eps_too) m->config.mixer_eps *= SCALE * SCALE;
    if (!(*layers = malloc((size_t)L * sizeof **layers))) return fh1_no_memory((size_t)L * sizeof **layers, "a model");
    memcpy(*layers, from->layers, (size_t)L * sizeof **layers);
    m->layers = *layers;
    for (int64_t i = 0; i < L; ++i) {
        fh1_tensor *w = &m->layers[i].x_w;
        const int64_t n = fh1_n_elems(w);
        float *v = (float *)gld_law_room(r, (n + 1) / 2);
        if (!v) return fh1_no_memory((size_t)n * sizeof *v, "a weight of a law");
        for (int64_t k = 0; k < n; ++k) v[k] = (float)(SCALE * fh1_get(w, k));
        w->data = v;
        w->dtype = FH1_F32;
    }
    return NULL;
}

static fh1_status walk_inner(law_run *r, fh1_engine *e, law_road road, law_side *out)
{
    fh1_model m;
    fh1_layer *layers = NULL;
    law_session *s;
    if (road == LAW_LEFT) {
        FH1_TRY(gld_session_solo(r, e, r->text[0], (int64_t[]){r->T - 1, 1, 0}, &s));
        return gld_session_take(s, 0, 0, -1, true, true, out);
    }
    fh1_status st = scaled_model(r, road == LAW_RIGHT, &m, &layers);
    r->m = &m;
    if (!st) st = gld_session_solo(r, e, r->text[0], (int64_t[]){r->T - 1, 1, 0}, &s);
    if (!st) st = gld_session_take(s, 0, 0, -1, true, true, out);
    r->m = r->a->model;
    gld_sessions_close(r); /* they look at this model */
    free(layers);
    return st;
}

fh1_status gld_law_inner_norm_scale(const gld_law_args *a, gld_law_result *r)
{
    if (a->model->config.family != FH1_FALCON_MAMBA)
        return gld_law_skip(r, "%s has no norms behind x_proj", fh1_family_name(a->model->config.family));
    if (a->engine->profile->storage == FH1_F16)
        return gld_law_skip(r, "f16 is narrow: a power of two changes the last bits of what is near its end");
    for (int64_t i = 0; i < a->model->config.n_layers; ++i)
        if (fh1_lora_of(a->model, FH1_TAP_X_PROJ, i))
            return gld_law_skip(r, "an adapter is attached to x_proj: scaling its weight does not scale its output");
    return gld_law_judge(a, walk_inner, LAW_BIT(FH1_TAP_LOGITS) | LAW_BIT(FH1_TAP_CACHE_SSM), NULL, r);
}

fh1_status gld_law_norm_scale(const gld_law_args *a, gld_law_result *r)
{
    if (!a->engine->ops || !a->engine->ops->rmsnorm) return gld_law_skip(r, "the engine shows no norm of its own");
    const uint64_t notices = LAW_BIT(FH1_TAP_INPUT_LAYERNORM) | LAW_BIT(FH1_TAP_FINAL_LAYERNORM) |
                             (a->engine->ops->gated_norm ? LAW_BIT(FH1_TAP_GATED) : 0u);
    return gld_law_judge_acts(a, walk_norms, notices, r);
}
