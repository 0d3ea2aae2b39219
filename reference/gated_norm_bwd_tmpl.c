#include "reference/gated_norm_bwd.h"

#include "oracle/thread.h"
#include "reference/linear.h" /* ref_dot */
#include "reference/silu_bwd.h"

#include <stdlib.h>
#include <string.h>

#define ROWS 16 /* a piece, and a partial sum of dw */

typedef struct {
    int64_t M, d, G, ldz, lddz;
    const real *y, *z, *dout;
    const real *w; /* NULL: no norm */
    real eps;
    bool norm_first;
    real *dy, *dz;
    real *part;    /* [pieces, d]: dw of each */
    real *scratch; /* [threads, 4, d/G] */
} gate_job;

/* One group of one row. */
typedef struct {
    int64_t n, first; /* channels, the first of them */
    const real *y, *z, *dout, *w;
    real *dy, *dz;        /* may be NULL */
    real *s, *ds, *g, *q; /* silu(z), silu'(z), what is normalised, the gradient by the normalised */
} gate_row;

static gate_row row_of(const gate_job *j, int64_t m, int64_t group, int thread)
{
    const int64_t n = j->d / j->G, first = group * n, at = m * j->d + first;
    real *scratch = j->scratch + thread * 4 * n;
    return (gate_row){.n = n,
                      .first = first,
                      .y = j->y + at,
                      .z = j->z + m * j->ldz + first,
                      .dout = j->dout + at,
                      .w = j->w ? j->w + first : NULL,
                      .dy = j->dy ? j->dy + at : NULL,
                      .dz = j->dz ? j->dz + m * j->lddz + first : NULL,
                      .s = scratch,
                      .ds = scratch + n,
                      .g = scratch + 2 * n,
                      .q = scratch + 3 * n};
}

/* What multiplies g in the gradient by g: r²·mean(q·g), as the root mean square moves with every channel of its group.
 */
static real moved_norm(const gate_job *j, const gate_row *k, real r)
{
    if (REF_FAULT(GRAD_GATED_NORM_CONSTANT)) return 0;
    return r * r * (REF(ref_dot)(k->n, k->q, k->g) / (real)(REF_FAULT(GRAD_GATED_NORM_OVER_WHOLE_WIDTH) ? j->d : k->n));
}

static real inverse_root(const gate_job *j, const gate_row *k)
{
    return 1 / r_sqrt(REF(ref_dot)(k->n, k->g, k->g) / (real)k->n + j->eps);
}

/* In each of the three, dw reads before dz is stored, and dz before dy: dz may be z, dy may be y or dout. */

/* out = y·s */
FH1_CLONES static void without_norm(const gate_row *k)
{
    for (int64_t i = 0; k->dz && i < k->n; ++i) k->dz[i] = k->dout[i] * k->y[i] * k->ds[i];
    for (int64_t i = 0; k->dy && i < k->n; ++i) k->dy[i] = k->dout[i] * k->s[i];
}

/* out = w·g·r, g = y·s */
FH1_CLONES static void gate_first(const gate_job *j, const gate_row *k, real *dw)
{
    for (int64_t i = 0; i < k->n; ++i) {
        k->g[i] = k->y[i] * k->s[i];
        k->q[i] = k->w[i] * k->dout[i];
    }
    const real r = inverse_root(j, k), c = moved_norm(j, k, r);
    const real in_dw = REF_FAULT(GRAD_GATED_WEIGHT_WITHOUT_NORM) ? 1 : r,
               in_dz = REF_FAULT(GRAD_GATE_FROM_NORMALISED) ? r : 1;
    for (int64_t i = 0; i < k->n; ++i) dw[i] += k->dout[i] * k->g[i] * in_dw;
    for (int64_t i = 0; i < k->n; ++i) k->q[i] = r * (k->q[i] - k->g[i] * c); /* by g */
    for (int64_t i = 0; k->dz && i < k->n; ++i) k->dz[i] = k->q[i] * k->y[i] * in_dz * k->ds[i];
    for (int64_t i = 0; k->dy && i < k->n; ++i) k->dy[i] = k->q[i] * k->s[i];
}

/* out = w·g·r·s, g = y */
FH1_CLONES static void norm_first(const gate_job *j, const gate_row *k, real *dw)
{
    for (int64_t i = 0; i < k->n; ++i) {
        k->g[i] = k->y[i];
        k->q[i] = k->w[i] * k->dout[i] * k->s[i];
    }
    const real r = inverse_root(j, k), c = moved_norm(j, k, r);
    const real in_dw = REF_FAULT(GRAD_GATED_WEIGHT_WITHOUT_NORM) ? 1 : r,
               in_dz = REF_FAULT(GRAD_GATE_FROM_NORMALISED) ? 1 : r;
    for (int64_t i = 0; i < k->n; ++i) dw[i] += k->dout[i] * k->s[i] * k->g[i] * in_dw;
    for (int64_t i = 0; k->dz && i < k->n; ++i) k->dz[i] = k->w[i] * k->dout[i] * k->g[i] * in_dz * k->ds[i];
    for (int64_t i = 0; k->dy && i < k->n; ++i) k->dy[i] = r * (k->q[i] - k->g[i] * c);
}

static void rows(void *ctx, int64_t p0, int64_t p1, int thread)
{
    const gate_job *j = ctx;
    for (int64_t p = p0; p < p1; ++p)
        for (int64_t m = p * ROWS; m < j->M && m < (p + 1) * ROWS; ++m)
            for (int64_t group = 0; group < j->G; ++group) {
                const gate_row k = row_of(j, m, group, thread);
                for (int64_t i = 0; i < k.n; ++i) {
                    const REF(ref_silu_pair) silu = REF(ref_silu_both)(k.z[i]);
                    k.s[i] = silu.value;
                    k.ds[i] = REF_FAULT(GRAD_GATE_SLOPE_IS_SIGMOID) ? 1 / (1 + r_exp(-k.z[i])) : silu.slope;
                }
                if (!k.w) without_norm(&k);
                else (j->norm_first ? norm_first : gate_first)(j, &k, j->part + p * j->d + k.first);
            }
}

fh1_status REF(ref_gated_norm_bwd)(int64_t M, int64_t d, int64_t G, const real *y, const real *z, int64_t ldz,
                                   const fh1_tensor *w, double eps, bool norm_before_gate, const real *dout, real *dy,
                                   real *dz, int64_t lddz, real *dw)
{
    const int64_t pieces = (M + ROWS - 1) / ROWS;
    const size_t n = (size_t)((w->data ? pieces + 1 : 0) * d + 4 * fh1_threads() * (d / G));
    real *memory = calloc(n, sizeof *memory);
    if (!memory) return fh1_no_memory(n * sizeof *memory, "the gradients of a gated norm");
    gate_job j = {.M = M, .d = d, .G = G, .ldz = ldz, .lddz = lddz, .y = y, .z = z, .dout = dout, .eps = (real)eps};
    j.norm_first = norm_before_gate != REF_FAULT(GRAD_GATE_AND_NORM_SWAPPED);
    j.dy = dy, j.dz = dz, j.scratch = memory;
    if (w->data) {
        real *weight = memory;
        REF(ref_widen)(weight, w, d);
        j.w = weight;
        j.part = weight + d;
        j.scratch = j.part + pieces * d;
    }
    fh1_parallel_for(pieces, 1, rows, &j);
    for (int64_t i = 0; w->data && dw && i < d; ++i) {
        double sum = 0;
        for (int64_t p = 0; p < pieces; ++p) sum += (double)j.part[p * d + i];
        dw[i] += (real)sum;
    }
    free(memory);
    return NULL;
}
