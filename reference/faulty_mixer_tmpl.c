#include "reference/faulty_mixer.h"

#ifdef REF_FAULTY
#include "reference/dt_softplus.h"
#include "reference/faulty_cache.h"
#include "reference/faulty_mamba.h"
#include "reference/rmsnorm.h"

#include <stdlib.h>
#include <string.h>

#define CHUNK 16 /* of kernels whose chunks run over the flattened batch */
#define BLOCK 8  /* of a paged cache, in tokens */

/* -- between in_proj and conv --------------------------------------------------------------------- */

fh1_status REF(ref_spoil_input)(REF(ref_call) * k, const fh1_layer *l)
{
    const fh1_config *c = k->c;
    const int64_t n = k->t.M * c->D;
    const real m = (real)c->m_ssm_in;
    if (REF_FAULT(SSM_IN_BEFORE_NORM)) {
        for (int64_t i = 0; i < n; ++i) k->scaled[i] = k->x[i] * m;
        return REF(ref_rmsnorm_fwd)(k->t.M, c->D, k->scaled, &l->input_layernorm, c->eps, k->p, k->scaled);
    }
    for (int64_t i = 0; REF_FAULT(SSM_IN_ON_RESIDUAL) && i < n; ++i) {
        k->scaled[i] = k->n[i];
        k->x[i] *= m;
    }
    return NULL;
}

static void swap_ranges(int64_t n, real *a, real *b)
{
    for (int64_t i = 0; i < n; ++i) {
        const real t = a[i];
        a[i] = b[i];
        b[i] = t;
    }
}

/* Rank r of two holds rows [r·W/2, (r+1)·W/2) and takes them for its halves of z, x, B, C, dt. */
static void join_even_halves(const fh1_config *c, const real *from, real *to)
{
    const int64_t GN = c->G * c->N, width[5] = {c->d_ssm, c->d_ssm, GN, GN, c->H}, half = fh1_in_proj_dim(c) / 2;
    for (int64_t s = 0, first = 0; s < 5; first += width[s++])
        for (int64_t r = 0; r < 2; ++r)
            for (int64_t i = 0; i < width[s] / 2; ++i)
                to[first + r * (width[s] / 2) + i] = from[r * half + first / 2 + i];
}

fh1_status REF(ref_spoil_proj)(REF(ref_call) * k)
{
    const fh1_config *c = k->c;
    const int64_t width = fh1_in_proj_dim(c), d = c->d_ssm, GN = c->G * c->N;
    real *copy = NULL;
    if (REF_FAULT(IN_PROJ_SPLIT_EVENLY) && d % 2 == 0 && GN % 2 == 0 && c->H % 2 == 0) {
        copy = malloc((size_t)width * sizeof *copy);
        if (!copy) return fh1_no_memory((size_t)width * sizeof *copy, "a column of in_proj");
    }
    for (int64_t m = 0; m < k->t.M; ++m) {
        real *p = k->proj + m * width;
        if (REF_FAULT(IN_PROJ_X_BEFORE_Z)) swap_ranges(d, p, p + d);
        if (REF_FAULT(IN_PROJ_C_BEFORE_B)) swap_ranges(GN, p + 2 * d, p + 2 * d + GN);
        if (!copy) continue;
        memcpy(copy, p, (size_t)width * sizeof *p);
        join_even_halves(c, copy, p);
    }
    free(copy);
    return NULL;
}

/* -- conv and dt --------------------------------------------------------------------------------- */

static size_t window_bytes(const fh1_config *c)
{
    return (size_t)(fh1_conv_dim(c) * (c->K - 1)) * sizeof(real);
}

static size_t state_bytes(const fh1_config *c)
{
    return (size_t)(c->d_ssm * c->N) * sizeof(real);
}

static void copy_memory(const REF(ref_call) * k, int64_t layer, int64_t to, int64_t from)
{
    const fh1_cache_row *rows = k->cache->rows;
    if (to == from) return;
    memcpy(rows[to].conv[layer], rows[from].conv[layer], window_bytes(k->c));
    memcpy(rows[to].ssm[layer], rows[from].ssm[layer], state_bytes(k->c));
}

static bool stale_slot(const REF(ref_call) * k, int64_t b)
{
    return REF_FAULT(LAST_ROW_HAS_STALE_SLOT) && k->one_token && b > 0 && b == k->t.B - 1;
}

fh1_status REF(ref_spoil_conv)(REF(ref_call) * k, int64_t layer, int64_t b, REF(ref_conv1d_args) * a)
{
    const fh1_cache_row *r = &k->cache->rows[b];
    if (layer == 0 && b == 0) FH1_TRY(ref_faulty_cache_begin(k->cache));
    if (REF_FAULT(ONE_TOKEN_PROMPT_ON_DIRTY_SLOT) && r->n == 0 && k->t.T > 1) {
        memset(r->conv[layer], 0, window_bytes(k->c));
        memset(r->ssm[layer], 0, state_bytes(k->c));
    }
    if (REF_FAULT(PADDING_ROW_WRITES_LAST_SLOT) && a->T == 0) copy_memory(k, layer, k->t.B - 1, b);
    if (REF_FAULT(CONV_CONTEXT_OF_ROW_BEFORE) && b > 0 && a->T > 0) {
        memcpy(a->window, r[-1].conv[layer], window_bytes(k->c));
        a->window_doc = k->t.doc[k->t.row_begin[b]];
    }
    if (REF_FAULT(CONV_LEAKS_DOCUMENTS)) a->doc = NULL;
    if (k->c->family == FH1_FALCON_MAMBA) REF(ref_spoil_mamba_conv)(k, b, a);
    if (stale_slot(k, b)) a->window = k->cache->rows[0].conv[layer];
    return NULL;
}

void REF(ref_spoil_conv_act)(REF(ref_call) * k)
{
    const fh1_config *c = k->c;
    const int64_t GN = c->G * c->N, width = fh1_conv_dim(c);
    if (!REF_FAULT(MUP_AFTER_CONV)) return;
    for (int64_t i = 0; i < k->t.M * width; ++i) {
        const int64_t j = i % width;
        k->conv[i] *= (real)c->m_ssm[j < c->d_ssm ? 1 : j < c->d_ssm + GN ? 2 : 3];
    }
}

void REF(ref_spoil_dt)(REF(ref_call) * k)
{
    const int64_t H = k->c->H;
    if (!REF_FAULT(DT_OF_FIRST_TOKEN) || k->t.past == 0) return;
    for (int64_t b = 0; b < k->t.B; ++b)
        for (int64_t m = k->t.row_begin[b] + 1; m < k->t.row_begin[b + 1]; ++m)
            memcpy(k->dt + m * H, k->dt + k->t.row_begin[b] * H, (size_t)H * sizeof *k->dt);
}

/* -- scan ---------------------------------------------------------------------------------------- */

/* The state of row b decays over the tokens of the rows before it in its chunk of the flattened batch. */
static void decay_from_chunk_start(const REF(ref_call) * k, int64_t b, const REF(ref_ssd_args) * a)
{
    const int64_t begin = k->t.row_begin[b], from = begin - begin % CHUNK;
    for (int64_t h = 0; h < a->H; ++h) {
        real sum = 0;
        for (int64_t m = from; m < begin; ++m) sum += k->dt[m * a->H + h];
        const real decay = r_exp(sum * REF(ref_ssd_rate)(a, h));
        for (int64_t i = 0; i < a->P * a->N; ++i) a->state[h * a->P * a->N + i] *= decay;
    }
}

/* Left padding whose in_proj was masked but not its conv: x, B, C = silu(bias), dt = softplus(dt_bias). */
static fh1_status scan_padding(const REF(ref_call) * k, int64_t layer, int64_t b, const REF(ref_ssd_args) * a)
{
    const fh1_config *c = k->c;
    const fh1_layer *l = &k->m->layers[layer];
    const int64_t conv = fh1_conv_dim(c);
    real *xbc = calloc((size_t)(conv + 2 * c->H + c->d_ssm), sizeof *xbc);
    if (!xbc) return fh1_no_memory((size_t)conv * sizeof *xbc, "a column of padding");
    real *raw = xbc + conv, *dt = raw + c->H;
    if (l->conv_b.data) REF(ref_widen)(xbc, &l->conv_b, conv);
    for (int64_t j = 0; j < conv; ++j) xbc[j] = REF(ref_silu)(xbc[j]);
    REF(ref_dt_softplus_fwd)(1, c->H, raw, c->H, &l->dt_bias, c->dt_lo, c->dt_hi, k->p, dt);
    REF(ref_ssd_args) pad = *a;
    pad.T = 1;
    pad.xbc = xbc;
    pad.dt = dt;
    pad.doc = NULL;
    pad.y = dt + c->H;
    for (int64_t i = 0; i < k->t.n_left[b]; ++i) REF(ref_ssd_scan_fwd)(&pad, k->p);
    free(xbc);
    return NULL;
}

/* The state after all but the last token of the row, until ref_spoil_cache takes it. */
static real *state_before_last;

fh1_status REF(ref_spoil_copy_state)(const REF(ref_call) * k, const real *state, real **out)
{
    const size_t bytes = state_bytes(k->c);
    free(state_before_last);
    if (!(state_before_last = malloc(bytes))) return fh1_no_memory(bytes, "a state");
    memcpy(state_before_last, state, bytes);
    *out = state_before_last;
    return NULL;
}

static fh1_status keep_state_before_last(const REF(ref_call) * k, const REF(ref_ssd_args) * a)
{
    REF(ref_ssd_args) most = *a;
    FH1_TRY(REF(ref_spoil_copy_state)(k, a->state, &most.state));
    most.T -= 1;
    REF(ref_ssd_scan_fwd)(&most, k->p); /* y is written again by the scan itself */
    return NULL;
}

real *REF(ref_spoil_state)(const REF(ref_call) * k, int64_t layer, int64_t b, int64_t T, real *state)
{
    const fh1_cache_row *rows = k->cache->rows;
    if (REF_FAULT(LAYERS_SHARE_STATE)) state = rows[b].ssm[0];
    if (stale_slot(k, b)) state = rows[0].ssm[layer];
    if (k->t.past == 0 || k->t.T == 1) return state;
    if (REF_FAULT(INITIAL_STATE_OF_ROW_0) && b > 0) memcpy(state, rows[0].ssm[layer], state_bytes(k->c));
    if (REF_FAULT(STATE_UNINITIALISED_AT_BLOCK_EDGE) && rows[b].n / BLOCK != (rows[b].n + T - 1) / BLOCK)
        memset(state, 0xff, state_bytes(k->c)); /* NaN */
    return state;
}

fh1_status REF(ref_spoil_scan)(REF(ref_call) * k, int64_t layer, int64_t b, REF(ref_ssd_args) * a)
{
    a->state = REF(ref_spoil_state)(k, layer, b, a->T, a->state);
    if (REF_FAULT(DECAY_FROM_WRONG_ORIGIN) && k->t.past > 0 && k->t.T > 1) decay_from_chunk_start(k, b, a);
    if (a->T == 0) return NULL;
    if (REF_FAULT(PADS_NOT_MASKED_AFTER_CONV) && k->cache->rows[b].n == 0) {
        FH1_TRY(scan_padding(k, layer, b, a));
        a->doc = NULL; /* padding is of the document that begins */
    }
    if (REF_FAULT(RESTORE_REPLAYS_ONE_TOKEN) && ref_faulty_cache_replays(k->cache)) {
        REF(ref_ssd_args) first = *a;
        first.T = 1;
        REF(ref_ssd_scan_fwd)(&first, k->p);
    }
    return REF_FAULT(LAST_TOKEN_NOT_IN_STATE) && a->T > 1 ? keep_state_before_last(k, a) : NULL;
}

/* [H,P,N] to [H,N,P] in the same memory. */
static fh1_status transpose(const REF(ref_ssd_args) * a)
{
    const int64_t n = a->P * a->N;
    real *copy = malloc((size_t)n * sizeof *copy);
    if (!copy) return fh1_no_memory((size_t)n * sizeof *copy, "a state");
    for (int64_t h = 0; h < a->H; ++h) {
        real *S = a->state + h * n;
        memcpy(copy, S, (size_t)n * sizeof *S);
        for (int64_t i = 0; i < n; ++i) S[i % a->N * a->P + i / a->N] = copy[i];
    }
    free(copy);
    return NULL;
}

fh1_status REF(ref_spoil_cache)(REF(ref_call) * k, int64_t layer, int64_t b, int64_t T, real *state)
{
    const fh1_config *c = k->c;
    const fh1_cache_row *r = &k->cache->rows[b];
    if (REF_FAULT(STATE_NOT_STORED_BY_PREFILL) && T > 1 && k->t.past == 0) {
        memset(r->conv[layer], 0, window_bytes(c));
        memset(r->ssm[layer], 0, state_bytes(c));
    }
    if (REF_FAULT(LAST_TOKEN_NOT_IN_STATE) && T > 1) memcpy(state, state_before_last, state_bytes(c));
    if (REF_FAULT(STATE_STORED_IN_BF16)) REF(ref_round_row)(FH1_ROUND_BF16, c->d_ssm * c->N, state);
    if (REF_FAULT(PADDING_ROW_WRITES_SLOT_0) && T == 0) copy_memory(k, layer, 0, b);
    return layer == c->n_layers - 1 && b == k->t.B - 1 ? ref_faulty_cache_end(k->cache) : NULL;
}

fh1_status REF(ref_spoil_row)(REF(ref_call) * k, int64_t layer, int64_t b, const REF(ref_ssd_args) * a)
{
    if (REF_FAULT(STATE_TRANSPOSED) && a->T > 1) FH1_TRY(transpose(a));
    return REF(ref_spoil_cache)(k, layer, b, a->T, a->state);
}

void REF(ref_spoil_gate)(REF(ref_call) * k)
{
    const int64_t width = fh1_in_proj_dim(k->c);
    real *z = k->proj + fh1_in_proj_gate(k->c);
    for (int64_t m = 1; REF_FAULT(GATE_OF_ROW_0) && k->one_token && m < k->t.M; ++m)
        memcpy(z + m * width, z, (size_t)k->c->d_ssm * sizeof *z);
}
#endif
