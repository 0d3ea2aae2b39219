/* The witness of ssd_scan's backward: reverse mode by hand in long double with every state kept, and beside each value
 * the sum of the absolute terms it is made of and its error, in units of the engine's u, by running error analysis:
 * whatever is added carries its own error and one rounding per operation that it passes. Its own judge is the complex
 * step through the closed form, which has no state and no backward (scan_slope). */
#pragma once

#include "tests/bwd_term.h"

typedef struct {
    int64_t T, H, P, N, G;
    double *x, *B, *C, *dt, *A_log, *D, *state, *dy, *dstate_out; /* dstate_out: NULL: no loss by the final state */
    const int64_t *doc;
    int64_t state_doc;
    fh1_tensor At, Dt;
} scan_input;

/* Gradients in one array: x, B, C, dt, A_log, D, state. */
enum { S_X, S_B, S_C, S_DT, S_A_LOG, S_D, S_STATE, S_PARTS };
static const char *const scan_part[] = {"dx", "dB", "dC", "ddt", "dA_log", "dD", "dstate"};

static inline int64_t scan_size(const scan_input *a, int part)
{
    switch (part) {
    case S_X: return a->T * a->H * a->P;
    case S_B:
    case S_C: return a->T * a->G * a->N;
    case S_DT: return a->T * a->H;
    case S_STATE: return a->H * a->P * a->N;
    default: return a->H;
    }
}

static inline int64_t scan_at(const scan_input *a, int part)
{
    int64_t at = 0;
    for (int i = 0; i < part; ++i) at += scan_size(a, i);
    return at;
}

static inline double *scan_value(const scan_input *a, int part)
{
    double *const v[] = {a->x, a->B, a->C, a->dt, a->A_log, a->D, a->state};
    return v[part];
}

/* Heads that remember 1/(dt·|A|) tokens, from less than one to a thousand. */
static inline scan_input scan_make(int64_t T, int64_t H, int64_t P, int64_t N, int64_t G)
{
    scan_input a = {.T = T, .H = H, .P = P, .N = N, .G = G};
    a.x = w_normal("x", T * H * P, 1), a.state = w_normal("state", H * P * N, 1);
    a.B = w_normal("B", T * G * N, 1), a.C = w_normal("C", T * G * N, 1);
    a.dy = w_normal("dy", T * H * P, 1), a.dstate_out = w_normal("dstate", H * P * N, 1);
    a.dt = w_new(T * H), a.A_log = w_new(H), a.D = w_normal("D", H, 1);
    const fh1_stream s = fh1_stream_open(5, "dt");
    for (int64_t i = 0; i < T * H; ++i) a.dt[i] = (double)(float)exp(-6.9 + 7 * fh1_random_uniform(s, (uint64_t)i));
    for (int64_t h = 0; h < H; ++h) a.A_log[h] = log(1.0371 + (double)(h * 5 % 16));
    a.At = w_store(FH1_F32, a.A_log, H);
    a.Dt = w_store(FH1_F32, a.D, H);
    return a;
}

/* All gradients of the engine; what is added to starts at 0. */
static inline double *scan_run(fh1_engine *e, const scan_input *a)
{
    const int64_t all = scan_at(a, S_PARTS);
    void *out[S_PARTS];
    for (int i = 0; i < S_PARTS; ++i) {
        out[i] = w_out(e, scan_size(a, i));
        if (i == S_A_LOG || i == S_D) memset(out[i], 0, (size_t)(a->H * fh1_dtype_bits(e->dtype) / 8));
    }
    const int64_t n_state = scan_size(a, S_STATE);
    const void *after = a->dstate_out ? w_to(e, a->dstate_out, n_state) : NULL;
    w_fine(e->bwd_ops->ssd_scan(e, a->T, a->H, a->P, a->N, a->G, w_to(e, a->x, scan_size(a, S_X)),
                                w_to(e, a->B, scan_size(a, S_B)), w_to(e, a->C, scan_size(a, S_C)),
                                w_to(e, a->dt, scan_size(a, S_DT)), &a->At, &a->Dt, a->doc, a->state_doc,
                                w_to(e, a->state, n_state), w_to(e, a->dy, scan_size(a, S_X)), after, out[S_X],
                                out[S_B], out[S_C], out[S_DT], out[S_A_LOG], out[S_D], out[S_STATE]));
    double *got = w_new(all);
    for (int i = 0; i < S_PARTS; ++i) fh1_to_f64(got + scan_at(a, i), out[i], e->dtype, scan_size(a, i));
    return got;
}

/* -- reverse mode -- */

/* exp(dt·A): 2 roundings of exp, and of its argument 3 relative ones: A's exp 2, the product 1. */
static inline term scan_decay(const scan_input *a, int64_t t, int64_t h)
{
    const wide l = (wide)a->dt[t * a->H + h] * -expl((wide)a->A_log[h]), v = expl(l);
    return (term){v, v, v * (2 + 3 * fabsl(l))};
}

static inline bool scan_cut(const scan_input *a, int64_t t)
{
    return a->doc && a->doc[t] != (t > 0 ? a->doc[t - 1] : a->state_doc);
}

static inline void scan_put(const scan_input *a, int part, int64_t i, term v, double *out, double *gauge)
{
    out[scan_at(a, part) + i] = (double)v.v;
    gauge[scan_at(a, part) + i] = (double)v.err + 0x1p-110; /* and what underflows in f32 */
}

/* One row p of one head: its states [T + 1, N] (before each token, not yet cut) and dS backwards; x·dS·B and ⟨dS,S⟩ of
 * each token are added to xdS and q, dB and dC to those of the group. */
static inline void scan_witness_row(const scan_input *a, int64_t h, int64_t p, term *S, term *xdS, term *q, term *dB,
                                    term *dC, double *out, double *gauge)
{
    const int64_t N = a->N, row = h * a->P + p, g = h / (a->H / a->G);
    const term zero = {0, 0, 0};
    for (int64_t n = 0; n < N; ++n) S[n] = given(a->state[row * N + n]);
    for (int64_t t = 0; t < a->T; ++t) {
        const term in = product(given(a->dt[t * a->H + h]), given(a->x[t * a->H * a->P + row]));
        for (int64_t n = 0; n < N; ++n)
            S[(t + 1) * N + n] = sum(scan_cut(a, t) ? zero : product(scan_decay(a, t, h), S[t * N + n]),
                                     product(in, given(a->B[(t * a->G + g) * N + n])));
    }
    for (int64_t n = 0; n < N; ++n) {
        term carry = a->dstate_out ? given(a->dstate_out[row * N + n]) : zero;
        for (int64_t t = a->T - 1; t >= 0; --t) {
            const int64_t at = (t * a->G + g) * N + n;
            const term e = given(a->dy[t * a->H * a->P + row]), x = given(a->x[t * a->H * a->P + row]);
            const term dt = given(a->dt[t * a->H + h]), B = given(a->B[at]), C = given(a->C[at]);
            const term dS = sum(carry, product(e, C));
            dC[at] = sum(dC[at], product(e, S[(t + 1) * N + n]));
            dB[at] = sum(dB[at], product(product(dt, x), dS));
            const term dSB = product(dS, B);
            term *dot = &S[(a->T + 1) * N + t]; /* Σ_n dS·B of this row */
            *dot = n == 0 ? dSB : sum(*dot, dSB);
            if (!scan_cut(a, t)) q[t] = sum(q[t], product(dS, S[t * N + n]));
            carry = scan_cut(a, t) ? zero : product(scan_decay(a, t, h), dS);
        }
        scan_put(a, S_STATE, row * N + n, carry, out, gauge);
    }
    for (int64_t t = 0; t < a->T; ++t) {
        const int64_t i = t * a->H * a->P + row;
        const term dot = longer(S[(a->T + 1) * N + t], 4);
        xdS[t] = sum(xdS[t], product(given(a->x[i]), dot));
        scan_put(a, S_X, i, sum(product(given(a->dt[t * a->H + h]), dot), product(given(a->D[h]), given(a->dy[i]))),
                 out, gauge);
    }
}

/* All gradients, and what an engine may be off by in units of its u. */
static inline void scan_witness(const scan_input *a, double *out, double *gauge)
{
    const int64_t n_bc = scan_size(a, S_B), T = a->T;
    term *S = w_bytes(((T + 1) * a->N + T) * (int64_t)sizeof *S), *xdS = w_bytes(T * (int64_t)sizeof *S);
    term *q = w_bytes(T * (int64_t)sizeof *S), *dB = w_bytes(n_bc * (int64_t)sizeof *S);
    term *dC = w_bytes(n_bc * (int64_t)sizeof *S);
    memset(dB, 0, (size_t)n_bc * sizeof *dB), memset(dC, 0, (size_t)n_bc * sizeof *dC);
    for (int64_t h = 0; h < a->H; ++h) {
        memset(xdS, 0, (size_t)T * sizeof *xdS), memset(q, 0, (size_t)T * sizeof *q);
        for (int64_t p = 0; p < a->P; ++p) scan_witness_row(a, h, p, S, xdS, q, dB, dC, out, gauge);
        const wide rate = expl((wide)a->A_log[h]);
        const term A = {-rate, rate, 2 * rate};
        term dA = {0, 0, 0}, dD = {0, 0, 0};
        for (int64_t t = 0; t < T; ++t) {
            const term qa = product(scan_decay(a, t, h), longer(q[t], 4));
            scan_put(a, S_DT, t * a->H + h, sum(xdS[t], product(A, qa)), out, gauge);
            dA = sum(dA, product(given(a->dt[t * a->H + h]), qa));
            for (int64_t i = (t * a->H + h) * a->P; i < (t * a->H + h + 1) * a->P; ++i)
                dD = sum(dD, product(given(a->x[i]), given(a->dy[i])));
        }
        scan_put(a, S_A_LOG, h, product(A, longer(dA, TOKEN_SUM)), out, gauge);
        scan_put(a, S_D, h, longer(dD, TOKEN_SUM), out, gauge);
    }
    for (int64_t i = 0; i < n_bc; ++i) {
        scan_put(a, S_B, i, dB[i], out, gauge);
        scan_put(a, S_C, i, dC[i], out, gauge);
    }
}

/* -- the closed form -- */

static inline int64_t scan_doc(const scan_input *a, int64_t t)
{
    return t < 0 || !a->doc ? a->state_doc : a->doc[t];
}

/* The loss Σ dy·y + Σ dstate_out·S_T with element `moved` (an index of all gradients) moved by i·step, and what each
 * token s (-1: the initial state) leaves at each later token t. Imaginary part / step: its derivative. */
static inline wide scan_slope(const scan_input *a, int64_t moved)
{
    const wide step = 1e-100L;
    cwide *v[S_PARTS], loss = 0;
    for (int part = 0; part < S_PARTS; ++part) {
        v[part] = w_bytes(scan_size(a, part) * (int64_t)sizeof **v);
        for (int64_t i = 0; i < scan_size(a, part); ++i)
            v[part][i] = (wide)scan_value(a, part)[i] + (scan_at(a, part) + i == moved ? step * I : 0);
    }
    for (int64_t h = 0; h < a->H; ++h)
        for (int64_t t = 0; t <= a->T; ++t) /* T: the final state, which sees what token T-1 sees */
            for (int64_t s = -1; s <= t && s < a->T; ++s) {
                const int64_t last = t < a->T ? t : a->T - 1, g = h / (a->H / a->G);
                if (scan_doc(a, s) != scan_doc(a, last)) continue;
                cwide l = 0;
                for (int64_t k = s + 1; k <= last; ++k) l -= v[S_DT][k * a->H + h] * cexpl(v[S_A_LOG][h]);
                for (int64_t i = h * a->P; i < (h + 1) * a->P; ++i)
                    for (int64_t n = 0; n < a->N; ++n) {
                        const cwide left = s < 0 ? v[S_STATE][i * a->N + n]
                                                 : v[S_DT][s * a->H + h] * v[S_X][s * a->H * a->P + i] *
                                                       v[S_B][(s * a->G + g) * a->N + n];
                        const cwide seen = t < a->T
                                               ? (wide)a->dy[t * a->H * a->P + i] * v[S_C][(t * a->G + g) * a->N + n]
                                           : a->dstate_out ? (wide)a->dstate_out[i * a->N + n]
                                                           : 0;
                        loss += left * cexpl(l) * seen;
                    }
            }
    for (int64_t i = 0; i < scan_size(a, S_X); ++i) loss += v[S_D][i / a->P % a->H] * v[S_X][i] * (wide)a->dy[i];
    return cimagl(loss) / step;
}
