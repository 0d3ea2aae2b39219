/* Lattice data: small integers and powers of two, chosen so that no operation of any honest pipeline rounds, whatever
 * its order, chunks or FMA. Then truth and judged engine must agree to the bit, signs of zero included.
 *
 *   silu     silu(v) is v from 64 on and -0 from -1024 down: exp(-v) is lost beside 1, or infinite
 *   decay    exp(Δ·A): A_log -12000 gives A = -0 and the decay 1; A_log 10 gives A = -22026 and the decay 1 where Δ is
 * 0 and 0 where it is 1 or more softmax  one key, or two with equal scores, lead by more than 1000: weights 1 or 1/2
 *   norm     mean square 1 with eps 3, or 13 with eps 3: the root is 2 or 4
 *   angle    2^-40 and smaller: its cosine is 1, its sine itself; of each pair one half is 0
 *   softplus v from 21 on, 0 from -746 down
 *   loss     the winner leads by more than 1000; as many labels count as a power of two */
#include "golden/op_case_impl.h"

#include <stdio.h>
#include <string.h>

typedef struct {
    gld_op_data *d;
    fh1_stream s;
    gld_array *a;
} grid;

static grid open_grid(gld_op_data *d, gld_array *a)
{
    char name[64];
    snprintf(name, sizeof name, "lattice/%s", a->name);
    return (grid){d, fh1_stream_open((uint64_t)d->c->seed, name), a};
}

static int64_t below(const grid *g, int64_t i, int64_t n)
{
    return fh1_random_below(g->s, (uint64_t)i, n);
}

/* unit·k, 1 <= |k| <= most, of either sign. Never 0: a zero's sign would depend on the order of a sum. */
static void integers(gld_op_data *d, gld_array *a, int64_t most, double unit)
{
    const grid g = open_grid(d, a);
    for (int64_t i = 0; i < a->n; ++i) {
        const int64_t k = below(&g, i, 2 * most) - most;
        a->v[i] = unit * (double)(k < 0 ? k : k + 1);
    }
}

static void only_positive(gld_array *a)
{
    for (int64_t i = 0; i < a->n; ++i) a->v[i] = fabs(a->v[i]);
}

/* Sums of d products of such numbers stay below 2^24, and below 2^8 where `few`. */
static int64_t range_for(int64_t d, int64_t bits)
{
    int64_t most = 4;
    while (most > 1 && d * most * most >= (int64_t)1 << bits) --most;
    return most;
}

/* -- conv -------------------------------------------------------------------------------------- */

/* Sums are multiples of 1024: silu keeps them or makes them -0. Short calls, and all at their beginning, keep to
 * positive ones, in which every tap and the window of every channel show. */
static void lattice_conv(gld_op_data *d)
{
    const gld_op_case *c = d->c;
    integers(d, &d->in[0], 3, 1024);
    integers(d, &d->in[1], 2, 1);
    integers(d, &d->in[2], 2, 1024);
    integers(d, &d->in[3], 3, 1024);
    for (int i = 1; i < 4; ++i) only_positive(&d->in[i]);
    for (int64_t i = 0; i < d->in[0].n && (i < c->K * c->c || c->T < 32); ++i) d->in[0].v[i] = fabs(d->in[0].v[i]);
}

/* -- dt ---------------------------------------------------------------------------------------- */

static void lattice_dt(gld_op_data *d)
{
    const grid raw = open_grid(d, &d->in[0]);
    integers(d, &d->in[1], 2, 1);
    for (int64_t i = 0; i < d->in[0].n; ++i) {
        const bool off = i >= d->c->H && below(&raw, i, 4) == 0;
        d->in[0].v[i] = off ? -1024 : (double)(24 + 2 * below(&raw, i, 30));
    }
    if (d->c->limits) d->in[0].v[0] = -1024; /* each limit cuts something */
    if (d->c->limits && d->in[0].n > 1) d->in[0].v[1] = 100;
}

/* -- scan -------------------------------------------------------------------------------------- */

/* At most 64 of the N entries of a row of C are not 0, so that y stays below 256 in a step that rounds to bf16. */
static void thin_out(gld_op_data *d, gld_array *C)
{
    const int64_t N = d->c->N, stride = (N + 63) / 64;
    for (int64_t i = 0; i < C->n; ++i)
        if (i % N % stride != i / N % stride) C->v[i] = 0;
}

/* Odd heads forget all or nothing, even ones nothing. The first token keeps the state: its loss must show. */
static void lattice_scan(gld_op_data *d)
{
    const gld_op_case *c = d->c;
    gld_array *x = &d->in[0], *B = &d->in[1], *C = &d->in[2], *dt = &d->in[3], *A_log = &d->in[4], *D = &d->in[5];
    const bool step = c->op == GLD_OP_SSD_STEP;
    const int64_t most = step ? 1 : range_for(c->T * c->N * 4, 22);
    integers(d, x, most, 1);
    integers(d, B, most, 1);
    integers(d, C, step ? 1 : 2, 1);
    integers(d, D, 3, 1);
    for (int64_t h = 0; h < c->H; ++h) D->v[h] -= 0.5; /* never cancels the integers of the state */
    integers(d, &d->in[6], 2, 1);
    if (step) thin_out(d, C);
    const grid g = open_grid(d, dt);
    for (int64_t i = 0; i < dt->n; ++i) {
        const int64_t t = i / c->H;
        const bool odd = i % c->H % 2 != 0;
        dt->v[i] = odd ? (double)(below(&g, i, 4) == 0) : (double)below(&g, i, 3);
        if (t == 0) dt->v[i] = odd && c->T > 1 ? 0 : 1;
        if (odd && t == 1) dt->v[i] = 1; /* each head takes something in, */
    }
    for (int64_t h = 0; h < c->H; ++h) A_log->v[h] = h % 2 ? 10 : -12000;
    for (int64_t h = 0; h < c->H && c->T == 1; ++h) A_log->v[h] = -12000; /* and a single token keeps and takes */
}

/* A pipeline that rounds what C reads holds whole numbers up to 256, or 2048: one entry of each row of C is not 0, a
 * different one from token to token. Elsewhere all are. Elements forget all or nothing, or nothing. The first token of
 * several keeps the state: its loss must show. */
static void lattice_selective(gld_op_data *d)
{
    const gld_op_case *c = d->c;
    gld_array *x = &d->in[0], *B = &d->in[1], *C = &d->in[2], *dt = &d->in[3], *A_log = &d->in[4], *D = &d->in[5];
    const fh1_round read = d->profile->at[c->op == GLD_OP_SELECTIVE_STEP ? FH1_RP_STEP : FH1_RP_SCAN_READ];
    const bool rounds = read != FH1_ROUND_NONE;
    const int64_t most = rounds ? 1 : range_for(c->T * c->N * 4, 22);
    integers(d, x, most, 1);
    integers(d, B, most, 1);
    integers(d, C, rounds ? 1 : 2, 1);
    integers(d, D, 3, 1);
    for (int64_t i = 0; i < D->n; ++i) D->v[i] -= 0.5; /* never cancels the integers of the state */
    integers(d, &d->in[6], 2, 1);
    for (int64_t i = 0; i < C->n && (rounds || c->T == 1); ++i)
        if (i % c->N != i / c->N % c->N) C->v[i] = 0;
    for (int64_t i = 0; i < d->in[6].n && c->T == 1; ++i) d->in[6].v[i] -= 0.5; /* what the one entry reads is not 0 */
    const grid steps = open_grid(d, dt), rates = open_grid(d, A_log);
    for (int64_t i = 0; i < dt->n; ++i) {
        const int64_t t = i / c->c;
        dt->v[i] = (double)(t == 0 ? c->T == 1 : t == 1 ? 1 : below(&steps, i, 3));
    }
    for (int64_t i = 0; i < A_log->n; ++i) A_log->v[i] = c->T > 1 && below(&rates, i, 2) ? 10 : -12000;
    if (rounds && 2 + 2 * c->T > (d->profile->storage == FH1_F16 ? 2048 : 256))
        snprintf(d->skip, sizeof d->skip, "a 16-bit type does not hold the lattice's state over so many tokens");
}

/* -- norms ------------------------------------------------------------------------------------- */

/* One row of n numbers with mean square 1 or 13, eps being 3. Of two kinds with mean square 1, one has zeros; not in
 * the first token, where every weight must show. */
static void norm_row(const grid *g, int64_t first, int64_t n, int64_t row, bool first_token, double *v)
{
    const int kind = n % 4 ? 0 : (int)(row % (first_token ? 2 : 3));
    for (int64_t i = 0; i < n; ++i) {
        const double sign = below(g, first + i, 2) ? 1 : -1;
        const bool large = (i + row) % 4 == 0;
        v[first + i] = sign * (kind == 0 ? 1 : kind == 1 ? (large ? 5 : 3) : (large ? 2 : 0));
    }
}

static void lattice_rmsnorm(gld_op_data *d)
{
    const grid g = open_grid(d, &d->in[0]);
    const int64_t D = d->c->D;
    for (int64_t t = 0; t < d->c->T; ++t) norm_row(&g, t * D, D, t, t == 0, d->in[0].v);
    integers(d, &d->in[1], 4, 0.5);
    d->eps = 3;
}

/* The product with the gate, or the row itself, is a row of norm_row; 0 comes of a closed gate. */
static void lattice_gated_norm(gld_op_data *d)
{
    const gld_op_case *c = d->c;
    gld_array *y = &d->in[0], *z = &d->in[1];
    const grid g = open_grid(d, z);
    const int64_t n = c->D / c->G;
    if (!c->norm) integers(d, y, 3, 1);
    for (int64_t k = 0; k < c->T * c->G && c->norm; ++k) norm_row(&g, k * n, n, k, k < c->G, y->v);
    for (int64_t i = 0; i < y->n; ++i) {
        const bool first = c->norm && !c->norm_before_gate;
        const double open = below(&g, i, 2) ? 128 : 64;
        const bool closed = first ? y->v[i] == 0 : i >= c->D && below(&g, i, 5) == 0;
        z->v[i] = closed ? -1024 : open;
        if (first && !closed) y->v[i] /= open;
        if (first && closed) y->v[i] = 1;
    }
    if (c->norm) integers(d, &d->in[2], 4, 0.5);
    d->eps = 3;
}

/* -- rope -------------------------------------------------------------------------------------- */

/* A whole power of two per pair where the exponents 2i/A are exact, otherwise one for all. */
static void lattice_rope(gld_op_data *d)
{
    const gld_op_case *c = d->c;
    const grid g = open_grid(d, &d->in[0]);
    const bool exact = (c->A & (c->A - 1)) == 0 && c->A <= 64;
    d->config.rope = (fh1_rope){.type = FH1_ROPE_LINEAR, .theta = exact ? exp2((double)c->A) : 1, .factor = 0x1p40};
    for (int64_t i = 0; i < d->in[0].n; ++i) {
        const int64_t pair = i / c->A * c->A + i % (c->A / 2);
        const bool low = i % c->A < c->A / 2;
        const double v = exp2((double)below(&g, 2 * i, 5)) * (below(&g, 2 * i + 1, 2) ? 1 : -1);
        d->in[0].v[i] = (below(&g, pair + (1 << 30), 2) == 0) == low ? v : 0;
    }
    if (d->profile->storage == FH1_F16) snprintf(d->skip, sizeof d->skip, "f16 does not reach the lattice's angles");
    if (c->past + c->T > 8192) snprintf(d->skip, sizeof d->skip, "above position 8192 a sine differs from its angle");
    if (d->profile->storage == FH1_BF16 && c->past + c->T > 256)
        snprintf(d->skip, sizeof d->skip, "in bf16 the lattice's angles are exact up to position 256");
}

/* -- attention --------------------------------------------------------------------------------- */

/* Key s has two entries: rising with s in dimension s mod half, falling in half + s mod half. A query that looks at a
 * rising dimension finds the latest key it sees there, at a falling one the earliest; at two dimensions of keys of
 * equal height, both. One key too many at either end takes over. */
static double height(const gld_op_case *c, int64_t s, bool rising)
{
    const int64_t half = c->A / 2, last = (c->past + c->T - 1) / half;
    return (double)(1 + (rising ? s / half : last - s / half));
}

static void aim(const grid *g, int64_t t, int64_t h, double *q)
{
    const gld_op_case *c = g->d->c;
    const int64_t half = c->A / 2, i = t * c->Hq + h, last = c->past + t, first = g->d->first[t];
    const bool newest = t == c->T - 1 && h == 0; /* its loss must show */
    const bool rising = newest || below(g, 3 * i, 2) != 0;
    const double far = 0x1p15; /* · 1 / √A is above 1000 up to A = 1024 */
    memset(q, 0, (size_t)c->A * sizeof *q);
    /* the neighbour just out of sight, if a key in sight shares its dimension: then it would take over */
    int64_t s = rising ? last + 1 : first - 1;
    const bool shared = rising ? s - half >= first : s >= 0 && s + half <= last;
    if (!shared || newest || below(g, 3 * i + 1, 3) == 0) s = rising ? last : first;
    q[(rising ? 0 : half) + s % half] = far;
    const int64_t twin = rising ? last - 1 : first + 1;
    const bool tie = s == (rising ? last : first) && twin >= first && twin <= last && twin / half == s / half;
    if (tie && below(g, 3 * i + 2, 2)) q[(rising ? 0 : half) + twin % half] = far;
}

static void lattice_attention(gld_op_data *d)
{
    const gld_op_case *c = d->c;
    const int64_t S = c->past + c->T, half = c->A / 2;
    const grid g = open_grid(d, &d->in[0]);
    for (int64_t i = 0; i < c->Hkv * S; ++i) {
        double *k = d->in[1].v + i * c->A;
        memset(k, 0, (size_t)c->A * sizeof *k);
        k[i % S % half] = height(c, i % S, true);
        k[half + i % S % half] = height(c, i % S, false);
    }
    for (int64_t i = 0; i < c->T * c->Hq; ++i) aim(&g, i / c->Hq, i % c->Hq, d->in[0].v + i * c->A);
    integers(d, &d->in[2], 60, 2);
    if (d->profile->storage == FH1_F16) snprintf(d->skip, sizeof d->skip, "f16 does not hold the lattice's scores");
    if (d->profile->storage == FH1_BF16 && S > 32 * c->A)
        snprintf(d->skip, sizeof d->skip, "bf16 does not hold the lattice's keys: S is above 32·A");
    if (c->A > 1024) snprintf(d->skip, sizeof d->skip, "heads above 1024 leave the lattice's scores too close");
}

/* -- the rest ---------------------------------------------------------------------------------- */

static void lattice_swiglu(gld_op_data *d)
{
    const grid g = open_grid(d, &d->in[0]);
    for (int64_t i = 0; i < d->in[0].n; ++i) {
        const bool closed = i >= d->c->F && below(&g, i, 4) == 0;
        d->in[0].v[i] = closed ? -4096 : exp2((double)(7 + below(&g, i, 3)));
    }
    integers(d, &d->in[1], 7, 1);
}

static void lattice_residual(gld_op_data *d)
{
    integers(d, &d->in[0], 100, 1);
    integers(d, &d->in[1], 15, 1);
    if (d->c->mix) integers(d, &d->in[2], 15, 2);
}

/* The winner of each row leads by 2048; so many rows have a label that the mean is exact. */
static void lattice_logits(gld_op_data *d)
{
    const gld_op_case *c = d->c;
    const grid g = open_grid(d, &d->in[0]);
    integers(d, &d->in[0], 120, 16);
    for (int64_t t = 0; t < c->T; ++t) {
        const int64_t winner = t == 0 ? c->V - 1 : below(&g, c->T * c->V + t, c->V);
        d->in[0].v[t * c->V + winner] = 4096;
        if (c->op != GLD_OP_SAMPLE) continue;
        if (t % 3 == 1) d->in[0].v[t * c->V + (winner + c->V / 2) % c->V] = 4096; /* the lower index wins, */
        if (t % 5 == 4) d->in[0].v[t * c->V + (winner + 1) % c->V] = (double)NAN; /* a NaN wins none */
    }
    int64_t count = 1;
    while (2 * count <= c->T) count *= 2;
    for (int64_t t = 0; t < c->T && c->op == GLD_OP_CROSS_ENTROPY; ++t)
        d->ints[t] = t < c->T - count ? -100 : below(&g, c->T * c->V + c->T + t, c->V);
}

fh1_status gld_fill_lattice(gld_op_data *d)
{
    const gld_op_case *c = d->c;
    switch (c->op) {
    case GLD_OP_EMBED: integers(d, &d->in[0], 100, 1); break;
    case GLD_OP_RMSNORM: lattice_rmsnorm(d); break;
    case GLD_OP_LINEAR:
    case GLD_OP_LM_HEAD:
        for (int i = 0; i < d->n_in; ++i) integers(d, &d->in[i], range_for(c->D + 2, 24), 1);
        break;
    case GLD_OP_CONV1D:
    case GLD_OP_CONV1D_STEP: lattice_conv(d); break;
    case GLD_OP_DT_SOFTPLUS: lattice_dt(d); break;
    case GLD_OP_SSD_SCAN:
    case GLD_OP_SSD_CHUNK:
    case GLD_OP_SSD_STEP: lattice_scan(d); break;
    case GLD_OP_SELECTIVE_SCAN:
    case GLD_OP_SELECTIVE_STEP: lattice_selective(d); break;
    case GLD_OP_GATED_NORM: lattice_gated_norm(d); break;
    case GLD_OP_ROPE: lattice_rope(d); break;
    case GLD_OP_ATTENTION:
    case GLD_OP_ATTENTION_STEP: lattice_attention(d); break;
    case GLD_OP_SWIGLU: lattice_swiglu(d); break;
    case GLD_OP_RESIDUAL: lattice_residual(d); break;
    default: lattice_logits(d);
    }
    return NULL;
}
