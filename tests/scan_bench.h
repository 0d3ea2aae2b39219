/* What the tests of scan gauges share: data, truth with its gauge, the reference's engines, and a chunked engine as GPU
 * kernels are built, on f32 or on tensor cores. */
#pragma once

#define REF_BITS 64 /* the arguments of the f64 forwards */
#include "reference/ssd_gauge.h"
#include "tests/gauge_bench.h"

/* Kinds of data: heads from slow to fast; x that alternates under slow heads; A_log from -10 to 10 and huge steps;
 * steps that sit at a limit, all tokens alike; steps of few values. */
typedef enum { TRAINED, ALTERNATING, EXTREME, STUCK, FEW_STEPS, N_KINDS } kind;
static const char *const kind_name[] = {"trained-like", "alternating", "extreme", "stuck", "few steps"};

typedef struct {
    int64_t T, H, P, N, G;
    double *x, *B, *C, *dt, *state, *A_log, *D, *y, *after; /* y, after: truth */
    fh1_tensor At, Dt;
    const int64_t *doc;
    int64_t state_doc;
    unsigned variants; /* FH1_VAR_DOC_RESET_80 */
    fh1_gauge g_state, g;
} scan;

static inline int64_t n_state(const scan *s)
{
    return s->H * s->P * s->N;
}

static inline scan new_scan(int k, kind c, uint64_t seed, int64_t T, int64_t N)
{
    scan s = {.T = T, .H = 8, .P = 3, .N = N, .G = 2};
    s.x = g_data(k, NORMAL, "x", seed, T * s.H * s.P, 1, 1);
    s.B = g_data(k, NORMAL, "B", seed, T * s.G * N, 0.5, 1);
    s.C = g_data(k, NORMAL, "C", seed, T * s.G * N, 0.5, 1);
    s.state = g_data(FP32, NORMAL, "state", seed, n_state(&s), 1, 1);
    s.D = g_data(k, NORMAL, "D", seed, s.H, 1, 1);
    s.A_log = w_new(s.H);
    s.dt = w_new(T * s.H);
    const fh1_stream jitter = fh1_stream_open(seed, "dt");
    for (int64_t h = 0; h < s.H; ++h) {
        const double f = (double)h / (double)(s.H - 1);
        s.A_log[h] = c == EXTREME ? -10 + 20 * f : log(1 + 15 * f);
        for (int64_t t = 0; t < T; ++t) {
            const double n = fh1_random_normal(jitter, (uint64_t)(t * s.H + h));
            double dt = 1e-3 * pow(100, f) * exp(0.3 * n);
            if (c == EXTREME) dt = exp(3 * n);
            if (c == STUCK) dt = 1e-3 * pow(100, f);
            if (c == FEW_STEPS) dt = 1e-3 * pow(100, f) * exp(0.3 * rint(2 * n));
            s.dt[t * s.H + h] = fh1_round_f64(k == CUDA ? FH1_ROUND_F32 : g_storage(k), dt);
        }
    }
    for (int64_t t = 1; t < T && (c == ALTERNATING || c == STUCK); ++t) {
        for (int64_t i = 0; i < s.H * s.P; ++i)
            s.x[t * s.H * s.P + i] = (c == ALTERNATING ? t % 2 ? -1 : 1 : 1) * s.x[i];
        memcpy(s.B + t * s.G * N, s.B, (size_t)(s.G * N) * sizeof *s.B);
        memcpy(s.C + t * s.G * N, s.B, (size_t)(s.G * N) * sizeof *s.C);
    }
    s.At = w_store(FH1_F32, s.A_log, s.H);
    s.Dt = w_store(FH1_F32, s.D, s.H);
    s.g = g_new(T * s.H * s.P), s.g_state = g_new(n_state(&s));
    s.y = w_new(T * s.H * s.P);
    return s;
}

/* Truth and gauge of tokens t0 … t1-1, s->after and s->g_state move on. columns 0: one-token steps. */
static inline void true_scan(int k, scan *s, int64_t t0, int64_t t1, int64_t columns)
{
    const int64_t d = s->H * s->P, GN = s->G * s->N, width = d + 2 * GN;
    double *xbc = w_new((t1 - t0) * width);
    for (int64_t t = t0; t < t1; ++t) {
        memcpy(xbc + (t - t0) * width, s->x + t * d, (size_t)d * sizeof *xbc);
        memcpy(xbc + (t - t0) * width + d, s->B + t * GN, (size_t)GN * sizeof *xbc);
        memcpy(xbc + (t - t0) * width + d + GN, s->C + t * GN, (size_t)GN * sizeof *xbc);
    }
    if (t0 == 0) {
        s->after = w_copy(s->state, n_state(s));
        for (int64_t i = 0; i < n_state(s); ++i) fh1_gauge_set(&s->g_state, i, (fh1_err){0});
    }
    const REF(ref_ssd_args) a = {.T = t1 - t0,
                                 .H = s->H,
                                 .P = s->P,
                                 .N = s->N,
                                 .G = s->G,
                                 .ldx = width,
                                 .xbc = xbc,
                                 .dt = s->dt + t0 * s->H,
                                 .A_log = &s->At,
                                 .D = &s->Dt,
                                 .doc = s->doc ? s->doc + t0 : NULL,
                                 .state_doc = t0 > 0 && s->doc ? s->doc[t0 - 1] : s->state_doc,
                                 .reset = fh1_doc_reset(s->variants),
                                 .state = s->after,
                                 .y = s->y + t0 * d};
    const fh1_gauge g = {s->g.worst + t0 * d, s->g.variance + t0 * d, s->g.shared + t0 * d};
    w_fine(columns ? ref_ssd_scan_gauge(g_contract(k), &a, columns, NULL, &s->g_state, &g)
                   : ref_ssd_step_gauge(g_contract(k), &a, &s->g_state, &g));
    ref_ssd_scan_fwd_f64(&a, fh1_profile_find("exact"));
}

typedef struct {
    double *y, *state;
} result;

/* The reference's engines: Q 0 the scan, -1 one-token steps. */
static inline result engine_scan(int k, const char *name, const scan *s, int64_t Q)
{
    fh1_engine *e = ref_engine_new(name, g_contract(k), s->variants);
    const int64_t d = s->H * s->P, GN = s->G * s->N, n = Q < 0 ? 1 : s->T;
    void *state = w_to(e, s->state, n_state(s));
    result r = {.y = w_new(s->T * d)};
    for (int64_t t = 0; t < s->T; t += n) {
        void *x = w_to(e, s->x + t * d, n * d), *B = w_to(e, s->B + t * GN, n * GN);
        void *C = w_to(e, s->C + t * GN, n * GN), *dt = w_to(e, s->dt + t * s->H, n * s->H), *y = w_out(e, n * d);
        if (Q < 0) w_fine(e->ops->ssd_step(e, s->H, s->P, s->N, s->G, x, B, C, dt, &s->At, &s->Dt, state, y));
        else if (Q == 0)
            w_fine(e->ops->ssd_scan(e, n, s->H, s->P, s->N, s->G, x, B, C, dt, &s->At, &s->Dt, s->doc, s->state_doc,
                                    state, y));
        else
            w_fine(e->ops->ssd_chunk(e, n, s->H, s->P, s->N, s->G, Q, x, B, C, dt, &s->At, &s->Dt, s->doc, s->state_doc,
                                     state, y));
        memcpy(r.y + t * d, w_from(e, y, n * d), (size_t)(n * d) * sizeof *r.y);
    }
    r.state = w_from(e, state, n_state(s));
    e->free(e);
    return r;
}

static inline float in_bf16(float v)
{
    return fh1_round_f32(FH1_ROUND_BF16, v);
}

static inline float poor_exp(float v)
{
    return (float)g_exp((double)v);
}

/* What a tensor core reads of v in `parts` bf16 numbers; 0: v itself. */
static inline float operand(int parts, float v)
{
    const float high = in_bf16(v);
    return parts == 0 ? v : parts == 1 ? high : high + in_bf16(v - high);
}

/* In how many parts the operands of the products are: the weights of tokens, the state read by C, what enters it. */
typedef struct {
    int weight, read, enter;
    bool by_x; /* dt·exp goes with x into the state, not with B */
    bool cut;  /* the state is a tensor core's sum: cut off twice for sixteen tokens, once per part */
} operands;

/* S and L products in f32; or as a tensor core adds sixteen of each part at once. */
static inline double added(bool cut, int64_t L, double S, const double *high, const double *low)
{
    for (int64_t i0 = 0; i0 < L; i0 += cut ? 16 : 1) {
        const int64_t i1 = i0 + 16 < L ? i0 + 16 : L;
        if (!cut) S = g_a(S + g_a(high[i0]));
        for (int part = 0; part < 2 && cut; ++part) {
            for (int64_t i = i0; i < i1; ++i) S += part ? low[i] : high[i];
            S = g_cut(S, fmax(fh1_dtype_ulp(FH1_F32, S), 0x1p-149));
        }
    }
    return S;
}

/* l of a token in such a kernel, which may reset documents but cannot cut them. */
static inline float log_decay(const scan *s, int64_t t, int64_t h, float A)
{
    const bool begins = s->doc && s->doc[t] != (t > 0 ? s->doc[t - 1] : s->state_doc);
    return begins && fh1_doc_reset(s->variants) < 0 ? -80 : (float)s->dt[t * s->H + h] * A;
}

/* As GPU kernels do: sums of l by a tree, exp of their differences, (C·B)·exp·dt before x. Chunks of 64. */
static inline result tree_chunks(const scan *s, operands parts)
{
    enum { Q = 64 };
    const int64_t d = s->H * s->P;
    result r = {w_new(s->T * d), w_copy(s->state, n_state(s))};
    g_single = true;
    for (int64_t h = 0; h < s->H; ++h) {
        const float A = -poor_exp((float)s->A_log[h]);
        const int64_t group = h / (s->H / s->G);
        for (int64_t t0 = 0; t0 < s->T; t0 += Q) {
            const int64_t L = t0 + Q < s->T ? Q : s->T - t0;
            float sum[Q], next[Q], carried[Q];
            for (int64_t i = 0; i < L; ++i) sum[i] = log_decay(s, t0 + i, h, A);
            for (int64_t step = 1; step < L; step *= 2) {
                for (int64_t i = 0; i < L; ++i) next[i] = i >= step ? sum[i] + sum[i - step] : sum[i];
                memcpy(sum, next, sizeof sum);
            }
            for (int64_t p = 0; p < s->P; ++p) {
                double *S = r.state + (h * s->P + p) * s->N, *read = w_new(s->N);
                for (int64_t n = 0; n < s->N; ++n) read[n] = (double)operand(parts.read, (float)S[n]);
                for (int64_t i = 0; i < L; ++i) {
                    const double *C = s->C + ((t0 + i) * s->G + group) * s->N;
                    float y = (float)g_dot(LANES, s->N, C, read) * poor_exp(sum[i]);
                    for (int64_t j = 0; j <= i; ++j) {
                        const float cb = (float)g_dot(PAIRWISE, s->N, C, s->B + ((t0 + j) * s->G + group) * s->N);
                        const float m = cb * poor_exp(fminf(sum[i] - sum[j], 0)) * (float)s->dt[(t0 + j) * s->H + h];
                        y = fmaf(operand(parts.weight, m), (float)s->x[(t0 + j) * d + h * s->P + p], y);
                    }
                    r.y[(t0 + i) * d + h * s->P + p] =
                        (double)fmaf((float)s->D[h], (float)s->x[(t0 + i) * d + h * s->P + p], y);
                }
                for (int64_t i = 0; i < L; ++i)
                    carried[i] = poor_exp(fminf(sum[L - 1] - sum[i], 0)) * (float)s->dt[(t0 + i) * s->H + h];
                for (int64_t n = 0; n < s->N; ++n) {
                    double high[Q], low[Q];
                    for (int64_t i = 0; i < L; ++i) {
                        const float B = (float)s->B[((t0 + i) * s->G + group) * s->N + n];
                        const float x = (float)s->x[(t0 + i) * d + h * s->P + p];
                        const float v = carried[i] * (parts.by_x ? x : B), read_v = operand(parts.enter, v);
                        const double other = (double)(parts.by_x ? B : x);
                        high[i] = (double)(parts.cut ? in_bf16(v) : read_v) * other;
                        low[i] = parts.cut ? (double)in_bf16(v - in_bf16(v)) * other : 0;
                    }
                    S[n] = added(parts.cut, L, g_a((double)poor_exp(sum[L - 1]) * S[n]), high, low);
                }
            }
        }
    }
    return r;
}

static inline void honest(int k, const char *what, const scan *s, const result *r)
{
    g_honest(k, what, s->T * s->H * s->P, r->y, s->y, &s->g);
    g_honest(k, what, n_state(s), r->state, s->after, &s->g_state);
}
