#include "reference/adamw.h"

#include "oracle/thread.h"

#define PIECE 16384
#define PIECES 256 /* at a time, in sum_of_squares */
#define LANES 8    /* partial sums of a piece */

/* The scalars of a step, each rounded to real once. */
typedef struct {
    const real *g;
    real *w, *m, *v;
    real grad_scale, keep, lerp, beta2, rest2, root2, eps, step;
    bool lerp_small; /* torch takes the other end where the weight is 1/2 or more */
} adam_job;

FH1_CLONES static void update(const adam_job *j, int64_t i0, int64_t i1)
{
    for (int64_t i = i0; i < i1; ++i) {
        const real g = j->g[i] * j->grad_scale;
        const real m = j->m[i], away = g - m;
        const real w = j->w[i] * j->keep;
        const real m1 = j->lerp_small ? m + j->lerp * away : g - away * (1 - j->lerp);
        const real v1 = j->v[i] * j->beta2 + j->rest2 * g * g;
        const real denominator = r_sqrt(v1) / j->root2 + j->eps;
        j->m[i] = m1;
        j->v[i] = v1;
        j->w[i] = w + j->step * m1 / denominator;
    }
}

/* The same with a fault that changes more than a scalar. */
static void update_wrongly(const adam_job *j, const fh1_adamw *o, int64_t i0, int64_t i1)
{
    for (int64_t i = i0; i < i1; ++i) {
        real g = j->g[i] * j->grad_scale;
        if (REF_FAULT(ADAMW_DECAY_COUPLED)) g += (real)o->decay * j->w[i];
        const real squared = REF_FAULT(ADAMW_V_WITHOUT_GRAD_SCALE) ? j->g[i] : g;
        if (!REF_FAULT(ADAMW_DECAY_COUPLED)) j->w[i] *= j->keep;
        j->m[i] += j->lerp * (g - j->m[i]);
        j->v[i] = j->v[i] * j->beta2 + j->rest2 * squared * squared;
        real denominator = r_sqrt(j->v[i]) / j->root2 + j->eps;
        if (REF_FAULT(ADAMW_EPS_INSIDE_ROOT)) denominator = r_sqrt(j->v[i] / (j->root2 * j->root2) + j->eps);
        j->w[i] += j->step * j->m[i] / denominator;
    }
}

static bool wrong(void)
{
    return REF_FAULT(ADAMW_DECAY_COUPLED) || REF_FAULT(ADAMW_V_WITHOUT_GRAD_SCALE) || REF_FAULT(ADAMW_EPS_INSIDE_ROOT);
}

static void elements(void *ctx, int64_t i0, int64_t i1, int thread)
{
    (void)thread;
    update(ctx, i0, i1);
}

void REF(ref_adamw)(int64_t n, const fh1_adamw *o, const real *g, real *w, real *m, real *v)
{
    double left1 = 1 - pow(o->beta1, (double)o->t), left2 = 1 - pow(o->beta2, (double)o->t);
    if (REF_FAULT(ADAMW_WITHOUT_BIAS_CORRECTION)) left1 = left2 = 1;
    const double rest1 = 1 - o->beta1;
    adam_job j = {
        .g = g,
        .w = w,
        .m = m,
        .v = v,
        .grad_scale = (real)o->grad_scale,
        .keep = (real)(1 - o->lr * o->decay),
        .lerp = (real)rest1,
        .beta2 = (real)o->beta2,
        .rest2 = (real)(1 - o->beta2),
        .root2 = (real)pow(left2, 0.5),
        .eps = (real)o->eps,
        .step = (real)(-(o->lr / left1)),
    };
    j.lerp_small = r_fabs(j.lerp) < (real)0.5;
    if (wrong()) {
        update_wrongly(&j, o, 0, n);
    } else {
        fh1_parallel_for(n, PIECE, elements, &j);
    }
}

typedef struct {
    int64_t n;
    const real *g;
    double sum[PIECES];
} square_job;

FH1_CLONES static double squares(int64_t n, const real *g)
{
    double sum[LANES] = {0}, tail = 0;
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int l = 0; l < LANES; ++l) sum[l] += (double)g[i + l] * (double)g[i + l];
    for (; i < n; ++i) tail += (double)g[i] * (double)g[i];
    return ((sum[0] + sum[4]) + (sum[1] + sum[5])) + ((sum[2] + sum[6]) + (sum[3] + sum[7])) + tail;
}

static void pieces(void *ctx, int64_t i0, int64_t i1, int thread)
{
    (void)thread;
    square_job *j = ctx;
    for (int64_t i = i0; i < i1; ++i) {
        const int64_t left = j->n - i * PIECE;
        j->sum[i] = squares(left < PIECE ? left : PIECE, j->g + i * PIECE);
    }
}

double REF(ref_sum_of_squares)(int64_t n, const real *g)
{
    double total = 0;
    for (int64_t at = 0; at < n; at += (int64_t)PIECE * PIECES) {
        square_job j = {.n = n - at, .g = g + at};
        int64_t count = (j.n + PIECE - 1) / PIECE;
        if (count > PIECES) count = PIECES;
        fh1_parallel_for(count, 1, pieces, &j);
        for (int64_t i = 0; i < count; ++i) total += j.sum[i];
    }
    return total;
}
