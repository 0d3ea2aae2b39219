/* D-111: rows so small that eps decides what a norm makes of them. */
#include "tests/edge/edge_file_cases.h"

#include "oracle/compare.h"
#include "oracle/random.h"

#include <math.h>
#include <string.h>

#define SIZE 1e-4
enum { ROWS = 3 };

/* Rows in the engine's type and in the truth's; z is the gate of a gated norm. */
typedef struct {
    int64_t n;
    void *x, *z, *y;
    double *x64, *z64, *y64, *wrong; /* wrong: with another eps */
    fh1_gauge g;
} rows;

static void rows_free(rows *w)
{
    free(w->x);
    free(w->x64);
    fh1_gauge_free(&w->g);
}

/* Numbers of bf16, so that every contract begins with the same. */
static fh1_status rows_new(const edge_run *r, fh1_dtype dtype, int64_t n, rows *w)
{
    const size_t each = dtype == FH1_F64 ? 8 : 4;
    *w = (rows){.n = n, .x = calloc((size_t)(3 * n), each), .x64 = calloc((size_t)(4 * n), sizeof(double))};
    fh1_status st = w->x && w->x64 ? fh1_gauge_new(n, &w->g) : fh1_no_memory((size_t)n * 56, "rows of a norm");
    if (st) {
        rows_free(w);
        return st;
    }
    w->z = (char *)w->x + (size_t)n * each;
    w->y = (char *)w->z + (size_t)n * each;
    w->z64 = w->x64 + n, w->y64 = w->z64 + n, w->wrong = w->y64 + n;
    const fh1_stream s = fh1_stream_open(r->seed, "rows");
    for (int64_t i = 0; i < 2 * n; ++i) {
        uint16_t narrow;
        const double v = (i < n ? SIZE : 1) * fh1_random_normal(s, (uint64_t)i); /* a gate is of order one */
        fh1_from_f64(&narrow, FH1_BF16, &v, 1);
        fh1_to_f64(&w->x64[i], &narrow, FH1_BF16, 1);
    }
    fh1_from_f64(w->x, dtype, w->x64, 2 * n);
    return NULL;
}

/* The engine's rows are the truth's, each within its gauge, of which the truth's own is at most the engine's. Those of
 * another eps would not be. */
static fh1_status compare(edge_run *r, const fh1_engine *e, const rows *w, const char *name)
{
    int64_t off = 0, seen = 0;
    double *y = malloc((size_t)w->n * sizeof *y);
    if (!y) return fh1_no_memory((size_t)w->n * sizeof *y, "a row");
    fh1_to_f64(y, w->y, e->dtype, w->n);
    for (int64_t i = 0; i < w->n; ++i) {
        const double allowed = 2 * w->g.worst[i];
        off += !fh1_within(fh1_error_of(y[i], w->y64[i]), allowed);
        seen += !fh1_within(fh1_error_of(w->wrong[i], w->y64[i]), 2 * allowed);
    }
    free(y);
    FH1_TRY(edge_require(r, off == 0, "%s: %d of %d elements of rows of 1e-4 are off", name, (int)off, (int)w->n));
    return edge_require(r, 2 * seen > w->n, "%s: another eps would show in %d of %d elements only", name, (int)seen,
                        (int)w->n);
}

static fh1_status plain_norm(fh1_engine *e, fh1_engine *truth, const fh1_model *m, const fh1_tensor *t, rows *w)
{
    const int64_t D = fh1_n_elems(t);
    const double eps = m->config.eps;
    FH1_TRY(e->ops->rmsnorm(e, ROWS, D, w->x, t, eps, w->y));
    FH1_TRY(truth->ops->rmsnorm(truth, ROWS, D, w->x64, t, eps, w->y64));
    FH1_TRY(truth->ops->rmsnorm(truth, ROWS, D, w->x64, t, eps / 10, w->wrong));
    return truth->gauges->rmsnorm(e->profile, ROWS, D, w->x64, t, eps, w->y64, &w->g);
}

static fh1_status gated_norm(fh1_engine *e, fh1_engine *truth, const fh1_model *m, const fh1_tensor *t, rows *w)
{
    const int64_t d = fh1_n_elems(t), G = m->config.G;
    const double eps = m->config.eps;
    const bool first = m->config.norm_before_gate;
    FH1_TRY(e->ops->gated_norm(e, ROWS, d, G, w->x, w->z, t, eps, first, w->y));
    FH1_TRY(truth->ops->gated_norm(truth, ROWS, d, G, w->x64, w->z64, t, eps, first, w->y64));
    FH1_TRY(truth->ops->gated_norm(truth, ROWS, d, G, w->x64, w->z64, t, eps / 10, first, w->wrong));
    return truth->gauges->gated_norm(e->profile, ROWS, d, G, w->x64, w->z64, t, eps, first, w->y64, &w->g);
}

static fh1_status every_norm(edge_run *r, const fh1_model *m)
{
    fh1_engine *e, *truth;
    FH1_TRY(edge_engine(r, m, &e));
    FH1_TRY(edge_truth(r, &truth));
    for (int64_t i = 0; i < m->n_weights; ++i) {
        const char *name = m->weights[i].name;
        const fh1_tensor *t = &m->weights[i].t;
        rows w;
        if (!strstr(name, "norm.weight")) continue;
        FH1_TRY(rows_new(r, e->dtype, ROWS * fh1_n_elems(t), &w));
        const bool gated = strstr(name, "mamba.norm") != NULL;
        fh1_status s = gated ? gated_norm(e, truth, m, t, &w) : plain_norm(e, truth, m, t, &w);
        if (!s) s = compare(r, e, &w, name);
        rows_free(&w);
        FH1_TRY(s);
    }
    return edge_check_short(r, m);
}

/* The model's own stream begins with rows of 1e-4: the embedding is of order one times its multiplier. */
fh1_status edge_tiny_rows(edge_run *r)
{
    for (int before = 0; before < 2; ++before) {
        char spec[1024];
        fh1_model m;
        snprintf(spec, sizeof spec, "%s%s", edge_model_text(1), before ? ",norm_before_gate=1" : "");
        FH1_TRY(edge_model(r, spec, &m));
        m.config.m_emb *= SIZE; /* of the same weights */
        fh1_status s = every_norm(r, &m);
        edge_contract(r, r->profile);
        fh1_model_free(&m);
        FH1_TRY(s);
    }
    return NULL;
}
