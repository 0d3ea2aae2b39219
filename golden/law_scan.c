/* Laws of the scan, on activations of the model: the chunk length does not count, and at fixed gates (B, C, Δ) the
 * output and the state are linear in x and in the incoming state. */
#include "golden/law_impl.h"

#include <string.h>

law_scan gld_law_scan_of(const law_run *r, const law_acts *a)
{
    const fh1_config *c = &r->m->config;
    const fh1_layer *l = &r->m->layers[a->layer];
    return (law_scan){.T = a->T,
                      .H = c->H,
                      .P = c->P,
                      .N = c->N,
                      .G = c->G,
                      .x = a->x,
                      .B = a->B,
                      .C = a->C,
                      .dt = a->dt,
                      .state = a->state,
                      .A_log = l->A_log,
                      .D = l->D};
}

/* Room for what one scan leaves. */
static fh1_status open_outputs(const law_run *r, const law_acts *a, law_side *out, int *y, int *state)
{
    const fh1_config *c = &r->m->config;
    const law_tensor memory = {.id = FH1_TAP_CACHE_SSM,
                               .layer = a->layer,
                               .first_token = -1,
                               .n = 1,
                               .width = c->H * c->P * c->N,
                               .stride = 1,
                               .fiber = c->N,
                               .samples = a->T};
    law_tensor *t; /* a later one may move it */
    FH1_TRY(gld_side_op(out, a, FH1_TAP_SSD, c->d_ssm, &t));
    *y = out->n - 1;
    FH1_TRY(gld_side_add(out, &memory, &t));
    *state = out->n - 1;
    return NULL;
}

static fh1_status add_scan(law_run *r, fh1_engine *e, const law_scan *s, double factor, law_side *out, int y, int state)
{
    law_out of_y, of_state;
    FH1_TRY(gld_run_scan(r, e, s, &of_y, &of_state));
    FH1_TRY(gld_out_add(&out->t[y], &of_y, NULL, factor));
    return gld_out_add(&out->t[state], &of_state, NULL, factor);
}

/* ---- chunk_length ---- */

/* Planted: the last three tokens start from an empty state. */
static fh1_status lost_carry(law_run *r, fh1_engine *e, const law_scan *s, law_side *out, int y, int state)
{
    const int64_t last = 3, T = s->T - last, GN = s->G * s->N, d = s->H * s->P;
    law_out first, second, memory;
    law_scan begin = *s, end = *s;
    begin.T = T;
    end.T = last;
    end.x += T * d, end.B += T * GN, end.C += T * GN, end.dt += T * s->H;
    if (!(end.state = gld_law_room(r, d * s->N))) return fh1_no_memory((size_t)(d * s->N) * sizeof(double), "a state");
    FH1_TRY(gld_run_scan(r, e, &begin, &first, &memory));
    FH1_TRY(gld_run_scan(r, e, &end, &second, &memory));
    memcpy(out->t[y].v, first.v, (size_t)(T * d) * sizeof(double));
    memcpy(out->t[y].v + T * d, second.v, (size_t)(last * d) * sizeof(double));
    return gld_out_add(&out->t[state], &memory, NULL, 1);
}

static fh1_status walk_chunks(law_run *r, fh1_engine *e, law_road road, law_side *out)
{
    const law_acts *a = r->data;
    const int64_t Q = r->m->config.Q, lengths[] = {1, 3, 16, Q, a->T, 2 * a->T};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; ++i) {
        law_scan s = gld_law_scan_of(r, a);
        int y, state;
        FH1_TRY(open_outputs(r, a, out, &y, &state));
        if (road == LAW_PLANTED) {
            FH1_TRY(lost_carry(r, e, &s, out, y, state));
            continue;
        }
        if (road == LAW_RIGHT) s.Q = lengths[i];
        FH1_TRY(add_scan(r, e, &s, 1, out, y, state));
    }
    return NULL;
}

fh1_status gld_law_chunk_length(const gld_law_args *a, gld_law_result *r)
{
    if (a->model->config.family == FH1_FALCON_MAMBA)
        return gld_law_skip(r, "Falcon-Mamba's scan has no form in chunks: decays are not shared by a head");
    if (!a->engine->ops || !a->engine->ops->ssd_chunk || !a->engine->ops->ssd_scan)
        return gld_law_skip(r, "the engine shows no scan of its own");
    return gld_law_judge_acts(a, walk_chunks, LAW_BIT(FH1_TAP_SSD) | LAW_BIT(FH1_TAP_CACHE_SSM), r);
}

/* ---- linearity ---- */

/* x and the state cut in two: even tokens and channels of the first part, odd ones of the second, so that their sum is
 * exact. 2·first − 4·second on one road, the scans of both alone on the other: an offset would show, too. */
static fh1_status walk_linear(law_run *r, fh1_engine *e, law_road road, law_side *out)
{
    static const double factor[2] = {2, -4};
    const law_acts *a = r->data;
    const int64_t d = r->m->config.d_ssm, n_x = a->T * d, n_state = d * r->m->config.N;
    double *x[3], *state[3];
    int y_at, state_at;
    for (int k = 0; k < 3; ++k)
        if (!(x[k] = gld_law_room(r, n_x)) || !(state[k] = gld_law_room(r, n_state)))
            return fh1_no_memory((size_t)(n_x + n_state) * sizeof(double), "inputs of a scan");
    for (int64_t i = 0; i < n_x; ++i) {
        const int half = (int)((i / d + i % d) % 2);
        x[half][i] = a->x[i];
        x[2][i] = factor[half] * a->x[i];
    }
    for (int64_t i = 0; i < n_state; ++i) {
        state[i % 2][i] = a->state[i];
        state[2][i] = factor[i % 2] * a->state[i];
    }
    FH1_TRY(open_outputs(r, a, out, &y_at, &state_at));
    for (int k = 0; k < 3; ++k) {
        law_scan s = gld_law_scan_of(r, a);
        if ((k == 2) != (road == LAW_LEFT)) continue;
        s.x = x[k];
        s.state = state[k];
        const double times = k == 2 ? 1 : road == LAW_PLANTED ? 1 : factor[k];
        FH1_TRY(add_scan(r, e, &s, times, out, y_at, state_at));
    }
    return NULL;
}

fh1_status gld_law_linearity(const gld_law_args *a, gld_law_result *r)
{
    if (!gld_law_has_scan(a)) return gld_law_skip(r, "the engine shows no scan of its own");
    return gld_law_judge_acts(a, walk_linear, LAW_BIT(FH1_TAP_SSD) | LAW_BIT(FH1_TAP_CACHE_SSM), r);
}
