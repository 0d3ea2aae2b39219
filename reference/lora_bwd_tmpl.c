/* The two thin products of an adapter, backwards: each is a linear layer of its own. */
#include "reference/lora_bwd.h"

#include "reference/linear.h"
#include "reference/linear_bwd.h"

#include <assert.h>
#include <stdlib.h>

static const fh1_profile *unrounded(void)
{
    return fh1_profile_find(REF_BITS == 64 ? "exact" : "fp32");
}

/* t = A·x and its gradient dt [M,r], and a gradient of the bias [out]; one block. The scale is put on these thin ones.
 */
typedef struct {
    real *t, *dt, *db;
} low_rank;

static fh1_status low_rank_new(int64_t M, const fh1_lora *l, low_rank *p)
{
    const int64_t r = l->A.shape[0], N = l->B.shape[0];
    const size_t bytes = (size_t)(2 * M * r + N + 1) * sizeof(real);
    assert(!l->f);
    if (!(p->t = calloc(1, bytes))) return fh1_no_memory(bytes, "the gradient of an adapter");
    p->dt = p->t + M * r;
    p->db = p->dt + M * r;
    return NULL;
}

static void scale(int64_t n, real by, real *v)
{
    for (int64_t i = 0; i < n; ++i) v[i] *= by;
}

/* Through y = s·(B·t + b): dt = s·dy·B is the only way on; dB = dyᵀ·(s·t) and db = s·Σ dy end here. Scales t. */
static fh1_status expand_bwd(int64_t M, const fh1_lora *l, const real *dy, const low_rank *p, real *dB, real *dbias)
{
    const int64_t r = l->A.shape[0], N = l->B.shape[0];
    const real s = (real)l->scale, of_B = REF_FAULT(GRAD_LORA_B_WITHOUT_SCALE) ? 1 : s;
    scale(M * r, of_B, p->t);
    FH1_TRY(REF(ref_linear_bwd)(M, p->t, &l->B, dy, false, p->dt, dB, dbias ? p->db : NULL));
    scale(M * r, REF_FAULT(GRAD_LORA_A_WITHOUT_SCALE) ? 1 : s, p->dt);
    for (int64_t n = 0; dbias && n < N; ++n) dbias[n] += of_B * p->db[n];
    return NULL;
}

fh1_status REF(ref_lora_bwd)(int64_t M, const real *x, const fh1_lora *l, const real *dy, real *dx, real *dA, real *dB,
                             real *dbias)
{
    low_rank p;
    FH1_TRY(low_rank_new(M, l, &p));
    fh1_status s = NULL;
    if (dB) s = REF(ref_linear_fwd)(M, x, &l->A, NULL, unrounded(), p.t);
    if (!s) s = expand_bwd(M, l, dy, &p, dB, dbias);
    /* through t = A·x: dA, and x, which the base product gives its own share */
    if (REF_FAULT(GRAD_LORA_INPUT_DROPPED)) dx = NULL;
    if (!s) s = REF(ref_linear_bwd)(M, x, &l->A, p.dt, true, dx, dA, NULL);
    free(p.t);
    return s;
}

fh1_status REF(ref_lora_embed_bwd)(int64_t M, const int64_t *ids, const fh1_lora *l, int64_t pad, const real *dy,
                                   real *dA, real *dB)
{
    const int64_t r = l->A.shape[0], V = l->A.shape[1];
    low_rank p;
    FH1_TRY(low_rank_new(M, l, &p));
    for (int64_t i = 0; i < M * r; ++i) p.t[i] = (real)fh1_get(&l->A, i % r * V + ids[i / r]);
    fh1_status s = expand_bwd(M, l, dy, &p, dB, NULL);
    /* through t = A[:,id]: a lookup, as in ref_embed_bwd */
    for (int64_t m = 0; dA && !s && m < M; ++m) {
        if (ids[m] == pad && !REF_FAULT(GRAD_LORA_EMBED_PADDING_KEPT)) continue;
        for (int64_t k = 0; k < r; ++k) dA[k * V + ids[m]] += p.dt[m * r + k];
    }
    free(p.t);
    return s;
}
