/* Adapters beside the weights that they adapt. The two thin products are linear layers of their own. */
#include "reference/lora.h"

#include "reference/linear.h"

#include <stdlib.h>

/* The low-rank path is computed in the engine's arithmetic and nowhere rounded. */
static const fh1_profile *unrounded(void)
{
    return fh1_profile_find(REF_BITS == 32 ? "fp32" : "exact");
}

static fh1_status room(int64_t n, real **out)
{
    const size_t bytes = (size_t)(n + 1) * sizeof **out;
    *out = malloc(bytes);
    return *out ? NULL : fh1_no_memory(bytes, "the low-rank path of an adapter");
}

/* u = B·t + b, t [M,r], u [M,out] */
static fh1_status expand(int64_t M, const real *t, const fh1_lora *lora, real *u)
{
    return REF(ref_linear_fwd)(M, t, &lora->B, &lora->bias, unrounded(), u);
}

static fh1_status path(int64_t M, const real *x, const fh1_lora *lora, real *u)
{
    real *t;
    FH1_TRY(room(M * lora->A.shape[0], &t));
    fh1_status s = REF(ref_linear_fwd)(M, x, &lora->A, NULL, unrounded(), t);
    if (!s) s = expand(M, t, lora, u);
    free(t);
    return s;
}

/* y += s·u, or with a row scale y += (f-1)·R(y - bias) + f·u·s */
static void add(int64_t M, const fh1_lora *lora, const fh1_tensor *bias, fh1_round r, const real *u, real *y)
{
    const int64_t N = lora->B.shape[0];
    const real scale = (real)lora->scale;
    for (int64_t i = 0; !lora->f && i < M * N; ++i) y[i] += u[i] * scale;
    for (int64_t n = 0; lora->f && n < N; ++n) {
        const real f = (real)lora->f[n], b = bias && bias->data ? REF(ref_get)(bias, n) : 0;
        for (int64_t i = n; i < M * N; i += N) y[i] += (f - 1) * r_round(r, y[i] - b) + f * u[i] * scale;
    }
}

fh1_status REF(ref_lora_add)(int64_t M, const real *x, const fh1_lora *lora, const fh1_tensor *bias,
                             const fh1_profile *p, real *y)
{
    const fh1_round r = p->at[FH1_RP_LINEAR];
    const int64_t N = lora->B.shape[0];
    real *u;
    FH1_TRY(room(M * N, &u));
    fh1_status s = NULL;
    for (const fh1_lora *l = lora; l && !s; l = l->next) {
        s = path(M, x, l, u);
        if (!s) add(M, l, bias, r, u, y);
    }
    free(u);
    REF(ref_round_row)(r, M * N, y);
    return s;
}

/* t[m,k] = A[k, ids[m]] */
static void columns(int64_t M, const int64_t *ids, const fh1_tensor *A, real *t)
{
    const int64_t r = A->shape[0], V = A->shape[1];
    for (int64_t m = 0; m < M; ++m)
        for (int64_t k = 0; k < r; ++k) t[m * r + k] = REF(ref_get)(A, k * V + ids[m]);
}

fh1_status REF(ref_lora_embed)(int64_t M, const int64_t *ids, const fh1_lora *lora, const fh1_profile *p, real *y)
{
    const int64_t D = lora->B.shape[0];
    fh1_status s = NULL;
    for (const fh1_lora *l = lora; l && !s; l = l->next) {
        const real scale = (real)l->scale;
        const int64_t r = l->A.shape[0];
        real *t;
        FH1_TRY(room(M * (r + D), &t));
        real *u = t + M * r;
        columns(M, ids, &l->A, t);
        s = expand(M, t, l, u);
        for (int64_t i = 0; !s && i < M * D; ++i) {
            const real f = l->f ? (real)l->f[i % D] : 1;
            y[i] = f * y[i] + f * u[i] * scale;
        }
        free(t);
    }
    REF(ref_round_row)(p->at[FH1_RP_EMBED], M * D, y);
    return s;
}
