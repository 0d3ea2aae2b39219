/* D-79, D-80, D-82 to D-85: where gradients come from and where they must not go. */
#include "tests/edge/edge_grad.h"

#include "oracle/compare.h"
#include "oracle/random.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static fh1_status on_models(edge_run *r, fh1_status (*run)(edge_run *r, fh1_model *m))
{
    for (int i = 0; edge_model_text(i); ++i) {
        fh1_model m;
        if (edge_is_cuda(r) && i == 0) continue; /* a pass costs a tenth of a second there */
        FH1_TRY(edge_grad_model(r, edge_model_text(i), &m));
        fh1_status s = run(r, &m);
        edge_contract(r, NULL);
        fh1_model_free(&m);
        FH1_TRY(fh1_where(s, "model %d", i));
    }
    return NULL;
}

/* ---- D-79 ---- */

enum { WORDS_OF_A = 14 };

/* Row 0: six tokens of A, then B; row 1: three and then B; row 2: B first. A has words of its own and no labels. */
static void two_documents(const edge_run *r, const fh1_model *m, edge_batch *b)
{
    static const int64_t begin[2] = {6, 3};
    const int64_t T = 13;
    edge_batch a;
    edge_batch_new(r, 2, T, WORDS_OF_A, m->config.V, "document B", b);
    edge_batch_new(r, 2, T, 0, WORDS_OF_A, "document A", &a);
    for (int64_t row = 0; row < 2; ++row) {
        edge_batch_cut(b, row, begin[row]);
        for (int64_t t = 0; t < begin[row]; ++t) {
            b->ids[row * T + t] = a.ids[row * T + t];
            b->labels[row * T + t] = -100;
        }
    }
}

static fh1_status documents_apart(edge_run *r, fh1_model *m)
{
    edge_batch b;
    fh1_backward o = {0};
    two_documents(r, m, &b);
    FH1_TRY(edge_backward(r, m, &b.batch, &o));
    const double of_A = edge_largest_row(o.grads, &m->embed, 0, WORDS_OF_A);
    const double of_B = edge_largest_row(o.grads, &m->embed, WORDS_OF_A, m->config.V - WORDS_OF_A);
    fh1_grads_free(o.grads);
    FH1_TRY(
        edge_require(r, of_A == 0, "the loss of document B has a gradient of %.3g by the words of document A", of_A));
    FH1_TRY(edge_require(r, of_B > 0 && isfinite(of_B), "no gradient by the words of document B: %.3g", of_B));
    return edge_gradcheck_once(r, m, &b.batch);
}

fh1_status edge_documents_apart(edge_run *r)
{
    return on_models(r, documents_apart);
}

/* ---- D-80 ---- */

enum { UP_T = 11 };

/* Σ over tokens of dy, which is what a bias gets: dy by strides of its own, and one row for all tokens. fh1_bwd_ops
 * takes dense arrays only, so whoever has another layout gathers; planted: it does not. */
static fh1_status gathered(edge_run *r, fh1_engine *e)
{
    enum { N = 6, K = 5, M = 7, WIDE = 2 * N };
    double wide[M * WIDE], dy[M * N], x64[M * K], db[N];
    float zeros[N * K] = {0};
    char x[M * K * 8], own[M * N * 8], bias[N * 8];
    const fh1_stream s = fh1_stream_open(r->seed, "strided");
    for (int i = 0; i < M * WIDE; ++i) wide[i] = (double)(fh1_random_below(s, (uint64_t)i, 9) - 4);
    for (int i = 0; i < M * K; ++i) x64[i] = 1;
    for (int broadcast = 0; broadcast < 2; ++broadcast) {
        const int64_t stride = edge_plants(r, "dy_read_as_contiguous") ? N : broadcast ? 0 : WIDE;
        for (int i = 0; i < M * N; ++i) dy[i] = wide[i / N * stride + i % N];
        fh1_from_f64(own, e->dtype, dy, M * N), fh1_from_f64(x, e->dtype, x64, M * K);
        memset(bias, 0, sizeof bias);
        const fh1_tensor w = fh1_view2(zeros, FH1_F32, N, K);
        FH1_TRY(e->bwd_ops->linear(e, M, x, &w, own, NULL, NULL, bias));
        fh1_to_f64(db, bias, e->dtype, N);
        for (int n = 0; n < N; ++n) {
            double sum = 0;
            for (int t = 0; t < M; ++t) sum += wide[(broadcast ? 0 : t * WIDE) + n];
            FH1_TRY(edge_require(r, db[n] == sum, "a dy that is %s: a bias gets %g, its column sums to %g",
                                 broadcast ? "one row for all tokens" : "every second row", db[n], sum));
        }
    }
    return NULL;
}

/* A pass from given derivatives of the logits. */
static fh1_status from_logits(edge_run *r, fh1_model *m, const fh1_batch *b, const double *w, fh1_grads **g)
{
    fh1_engine *e;
    const int64_t n = b->B * b->T * m->config.V;
    void *own = calloc((size_t)n, sizeof(double));
    if (!own) return fh1_no_memory((size_t)n * 8, "derivatives of logits");
    fh1_status s = edge_engine(r, m, &e);
    if (!s) fh1_from_f64(own, e->dtype, w, n);
    fh1_batch plain = *b;
    plain.labels = NULL;
    fh1_backward o = {.dlogits = own};
    if (!s) s = edge_backward(r, m, &plain, &o);
    *g = o.grads;
    free(own);
    return s;
}

static fh1_status zero_upstream(edge_run *r, fh1_model *m, const edge_batch *b, double *w)
{
    fh1_grads *g;
    double most = 0;
    memset(w, 0, (size_t)(b->batch.B * b->batch.T * m->config.V) * sizeof *w);
    FH1_TRY(from_logits(r, m, &b->batch, w, &g));
    for (int64_t k = 0; k < g->n; ++k)
        most = fmax(most, edge_largest_row(g, g->params[k].value, 0, g->params[k].grad.shape[0]));
    fh1_grads_free(g);
    return edge_require(r, most == 0, "without any derivative of the logits a gradient is %.3g", most);
}

/* What stands in the rows of padding is not read, NaN or not. */
static fh1_status padding_unread(edge_run *r, fh1_model *m, const edge_batch *b, double *w)
{
    const int64_t V = m->config.V, M = b->batch.B * b->batch.T;
    double *dice = edge_numbers(r, "derivatives of logits", M * V, 0, 1);
    fh1_grads *g[2] = {NULL, NULL};
    fh1_status s = dice ? NULL : fh1_no_memory((size_t)(M * V) * 8, "derivatives of logits");
    for (int i = 0; !s && i < 2; ++i) {
        for (int64_t k = 0; k < M * V; ++k) w[k] = b->mask[k / V] ? dice[k] : i ? (double)NAN : 0;
        s = from_logits(r, m, &b->batch, w, &g[i]);
    }
    if (!s) {
        const int64_t n = edge_bits_differ(g[0], g[1]);
        s = edge_require(r, n == 0, "%lld gradients change with what stands in padding rows of dlogits", (long long)n);
    }
    fh1_grads_free(g[0]), fh1_grads_free(g[1]);
    free(dice);
    return s;
}

static fh1_status upstream(edge_run *r, fh1_model *m)
{
    fh1_engine *e;
    edge_batch b, last;
    double *w = calloc((size_t)(2 * UP_T * m->config.V), sizeof *w);
    fh1_status s = w ? edge_engine(r, m, &e) : fh1_no_memory(8, "derivatives of logits");
    if (!s) s = gathered(r, e);
    edge_batch_new(r, 2, UP_T, 0, m->config.V, "upstream", &b);
    last = b;
    edge_batch_pad(&b, 1, 4, 0);
    if (!s) s = zero_upstream(r, m, &b, w);
    if (!s) s = padding_unread(r, m, &b, w);
    free(w);
    /* the last token's prediction alone; in edge_gradcheck also random derivatives of all logits */
    for (int64_t i = 0; i < 2 * UP_T; ++i)
        if (i % UP_T != UP_T - 1) last.labels[i] = -100;
        else last.labels[i] = last.ids[i];
    return s ? s : fh1_where(edge_gradcheck_once(r, m, &last.batch), "dy at the last token only");
}

fh1_status edge_upstream(edge_run *r)
{
    return on_models(r, upstream);
}

/* ---- D-82 ---- */

/* Rows of 1, 2 and 3 tokens, K - 1 and fewer, beside each other and each alone. */
static fh1_status short_rows(edge_run *r, fh1_model *m)
{
    edge_batch mixed, alone;
    edge_batch_new(r, 3, 3, 0, m->config.V, "short rows", &mixed);
    edge_batch_pad(&mixed, 0, 2, 0);
    edge_batch_pad(&mixed, 1, 1, 0);
    mixed.labels[5] = mixed.ids[5];
    mixed.labels[7] = mixed.ids[7], mixed.labels[8] = mixed.ids[8];
    FH1_TRY(edge_gradcheck_once(r, m, &mixed.batch));
    for (int64_t T = 1; T <= m->config.K - 1; ++T) {
        edge_batch_new(r, 1, T, 0, m->config.V, "a short row", &alone);
        FH1_TRY(fh1_where(edge_adjoint(r, m, &alone.batch, &mixed.batch), "a row of %lld alone", (long long)T));
    }
    return NULL;
}

fh1_status edge_short_rows(edge_run *r)
{
    return on_models(r, short_rows);
}

/* ---- D-83 ---- */

enum { ST = 11, FIRST = 4, SH = 4, SP = 3, SN = 3, SG = 2, CELLS = SH * SP * SN };

/* Whole numbers, decays of 1: every sum of the scan and of its backward is exact, so two calls are one, bit for bit. */
typedef struct {
    double x[ST * SH * SP], B[ST * SG * SN], C[ST * SG * SN], dt[ST * SH], dy[ST * SH * SP], state[CELLS],
        dstate[CELLS];
    double A_log[SH], D[SH];
} scan_in;

typedef struct {
    double dx[ST * SH * SP], dB[ST * SG * SN], dC[ST * SG * SN], ddt[ST * SH], dA[SH], dD[SH], dstate[CELLS];
} scan_out;

static void draw(const edge_run *r, const char *name, double *v, int64_t n)
{
    const fh1_stream s = fh1_stream_open(r->seed, name);
    for (int64_t i = 0; i < n; ++i) v[i] = (double)(fh1_random_below(s, (uint64_t)i, 5) - 2);
}

typedef struct {
    fh1_engine *e;
    char room[16][(ST * SH * SP + CELLS) * 8];
    int n;
} carrier;

static void *carry(carrier *c, const double *v, int64_t n)
{
    void *p = c->room[c->n++];
    if (v) fh1_from_f64(p, c->e->dtype, v, n);
    else memset(p, 0, sizeof c->room[0]);
    return p;
}

/* Tokens [begin, begin + n) from `state` on, which becomes the state behind them. */
static fh1_status forward_part(fh1_engine *e, const scan_in *in, int64_t begin, int64_t n, double *state)
{
    carrier c = {.e = e};
    const fh1_tensor A = fh1_view1((void *)in->A_log, FH1_F64, SH), D = fh1_view1((void *)in->D, FH1_F64, SH);
    const void *x = carry(&c, in->x + begin * SH * SP, n * SH * SP),
               *B = carry(&c, in->B + begin * SG * SN, n * SG * SN);
    const void *C = carry(&c, in->C + begin * SG * SN, n * SG * SN), *dt = carry(&c, in->dt + begin * SH, n * SH);
    void *S = carry(&c, state, CELLS), *y = carry(&c, NULL, 0);
    FH1_TRY(e->ops->ssd_scan(e, n, SH, SP, SN, SG, x, B, C, dt, &A, &D, NULL, 0, S, y));
    fh1_to_f64(state, S, e->dtype, CELLS);
    return NULL;
}

/* Adds to dA and dD, assigns the rest; dstate_out NULL: the state behind is not in the loss. */
static fh1_status backward_part(fh1_engine *e, const scan_in *in, int64_t begin, int64_t n, const double *state,
                                const double *dstate_out, scan_out *out)
{
    carrier c = {.e = e};
    const fh1_tensor A = fh1_view1((void *)in->A_log, FH1_F64, SH), D = fh1_view1((void *)in->D, FH1_F64, SH);
    const int64_t d = SH * SP, g = SG * SN;
    const void *x = carry(&c, in->x + begin * d, n * d), *B = carry(&c, in->B + begin * g, n * g);
    const void *C = carry(&c, in->C + begin * g, n * g), *dt = carry(&c, in->dt + begin * SH, n * SH);
    const void *dy = carry(&c, in->dy + begin * d, n * d), *S = carry(&c, state, CELLS);
    const void *dS = dstate_out ? carry(&c, dstate_out, CELLS) : NULL;
    void *dx = carry(&c, NULL, 0), *dB = carry(&c, NULL, 0), *dC = carry(&c, NULL, 0), *ddt = carry(&c, NULL, 0);
    void *dA = carry(&c, out->dA, SH), *dD = carry(&c, out->dD, SH), *before = carry(&c, NULL, 0);
    FH1_TRY(e->bwd_ops->ssd_scan(e, n, SH, SP, SN, SG, x, B, C, dt, &A, &D, NULL, 0, S, dy, dS, dx, dB, dC, ddt, dA, dD,
                                 before));
    fh1_to_f64(out->dx + begin * d, dx, e->dtype, n * d), fh1_to_f64(out->dB + begin * g, dB, e->dtype, n * g);
    fh1_to_f64(out->dC + begin * g, dC, e->dtype, n * g), fh1_to_f64(out->ddt + begin * SH, ddt, e->dtype, n * SH);
    fh1_to_f64(out->dA, dA, e->dtype, SH), fh1_to_f64(out->dD, dD, e->dtype, SH);
    fh1_to_f64(out->dstate, before, e->dtype, CELLS);
    return NULL;
}

/* The gradient of the state in the middle is what the second call hands back and the first one takes. */
static fh1_status two_calls_are_one(edge_run *r, fh1_engine *e, bool final_state)
{
    scan_in in;
    scan_out once = {0}, twice = {0};
    double middle[CELLS], dmiddle[CELLS];
    draw(r, "x", in.x, ST * SH * SP), draw(r, "B", in.B, ST * SG * SN), draw(r, "C", in.C, ST * SG * SN);
    draw(r, "dy", in.dy, ST * SH * SP), draw(r, "state", in.state, CELLS), draw(r, "dstate", in.dstate, CELLS);
    for (int i = 0; i < ST * SH; ++i) in.dt[i] = i % 3 ? 0.5 : 0.25;
    for (int h = 0; h < SH; ++h) in.A_log[h] = -1000, in.D[h] = h - 1; /* A is 0 */
    const double *last = final_state ? in.dstate : NULL;
    memcpy(middle, in.state, sizeof middle);
    FH1_TRY(backward_part(e, &in, 0, ST, in.state, last, &once));
    FH1_TRY(forward_part(e, &in, 0, FIRST, middle));
    FH1_TRY(backward_part(e, &in, FIRST, ST - FIRST, middle, last, &twice));
    memcpy(dmiddle, twice.dstate, sizeof dmiddle);
    FH1_TRY(backward_part(e, &in, 0, FIRST, in.state, dmiddle, &twice));
    const double *a = (const double *)&once, *b = (const double *)&twice;
    for (size_t i = 0; i < sizeof once / sizeof *a; ++i)
        FH1_TRY(
            edge_require(r, a[i] == b[i], "gradient %zu of the scan is %g in one call and %g in two", i, a[i], b[i]));
    double most = 0;
    for (int i = 0; i < CELLS; ++i) most = fmax(most, fabs(once.dstate[i]));
    if (!final_state) return edge_require(r, most > 0, "the state before the call has no gradient");
    /* with decays of 1 the gradient of the last state reaches the first one whole */
    scan_out none = {0};
    FH1_TRY(backward_part(e, &in, 0, ST, in.state, NULL, &none));
    for (int i = 0; i < CELLS; ++i)
        FH1_TRY(edge_require(r, once.dstate[i] - none.dstate[i] == in.dstate[i],
                             "state %d: the last one's gradient is %g, the first one gains %g", i, in.dstate[i],
                             once.dstate[i] - none.dstate[i]));
    return NULL;
}

fh1_status edge_states_in_loss(edge_run *r)
{
    static const char *const op[] = {"ssd_scan", "conv1d",
                                     "attention"}; /* states, windows and keys, before and after */
    fh1_model m;
    fh1_engine *e;
    FH1_TRY(edge_grad_model(r, edge_model_text(1), &m));
    fh1_status s = edge_engine(r, &m, &e);
    if (!s) s = two_calls_are_one(r, e, false);
    if (!s) s = two_calls_are_one(r, e, true);
    for (size_t i = 0; !s && i < sizeof op / sizeof *op; ++i) s = edge_backward_op(r, &m, op[i]);
    edge_contract(r, NULL);
    fh1_model_free(&m);
    return s;
}

/* ---- D-84 ---- */

/* Sums of Δ·A far below the smallest number of f32 within a chunk, and documents that begin inside chunks. */
fh1_status edge_segment_sums(edge_run *r)
{
    fh1_model m;
    edge_batch b;
    FH1_TRY(edge_grad_model(r, EDGE_WIDTHS "H=8,P=4,N=6,G=2,rms_norm=1", &m));
    for (int64_t l = 0; l < m.config.n_layers; ++l)
        for (int64_t h = 0; h < m.config.H; ++h) {
            fh1_set(&m.layers[l].dt_bias, h, (const double[]){-20, 0, 20, 90}[h % 4]);
            fh1_set(&m.layers[l].A_log, h, h / 4 ? 5 : -1);
        }
    edge_batch_new(r, 2, 19, 0, m.config.V, "segment sums", &b);
    edge_batch_cut(&b, 0, 5);
    edge_batch_cut(&b, 0, 12);
    edge_batch_cut(&b, 1, 9);
    fh1_status s = edge_check(r, &m, edge_is_cuda(r) ? "p19" : "p19x2k:5,12/9", r->seed);
    if (!s) s = edge_gradcheck_once(r, &m, &b.batch);
    edge_contract(r, NULL);
    fh1_model_free(&m);
    return s;
}

/* ---- D-85 ---- */

enum { PAD = 7, OTHER_PAD = 5 };

/* Planted: what training loops do to a mask: it is not handed on, or begins a column early. */
static void lose_mask(const edge_run *r, edge_batch *b, const int64_t left[3])
{
    if (edge_plants(r, "mask_not_handed_to_backward")) b->batch.mask = NULL;
    for (int64_t row = 0; row < 3 && edge_plants(r, "mask_one_column_early"); ++row)
        if (left[row]) b->mask[row * b->batch.T + left[row] - 1] = 1;
}

/* Words from 8 on; padding has the word 7, or 5. The table has no padding_idx. */
static fh1_status pad_gradients(edge_run *r, fh1_model *m)
{
    static const int64_t left[3] = {0, 4, 7};
    edge_batch b[2];
    fh1_backward o[2] = {{0}, {0}};
    fh1_status s = NULL;
    m->config.pad = -1;
    for (int i = 0; !s && i < 2; ++i) {
        edge_batch_new(r, 3, 11, PAD + 1, m->config.V, "left padding", &b[i]);
        for (int64_t row = 0; row < 3; ++row)
            if (left[row]) edge_batch_pad(&b[i], row, left[row], i ? OTHER_PAD : PAD);
        lose_mask(r, &b[i], left);
        s = edge_backward(r, m, &b[i].batch, &o[i]);
    }
    if (!s) {
        const double of_pad = edge_largest_row(o[0].grads, &m->embed, 0, PAD + 1);
        s = edge_require(r, of_pad == 0, "the embedding of padding has a gradient of %.3g", of_pad);
    }
    if (!s) s = edge_require(r, edge_bits_differ(o[0].grads, o[1].grads) == 0, "gradients depend on the id of padding");
    fh1_grads_free(o[0].grads), fh1_grads_free(o[1].grads);
    if (!s) s = edge_gradcheck_once(r, m, &b[0].batch);
    if (s) return s;
    b[0].labels[11 + 4] = b[0].ids[11 + 4]; /* which padding would predict */
    fh1_status refused = gld_grad_check_labels(&b[0].batch, m->config.V);
    return edge_require(r, refused && refused->code == FH1_E_INPUT, "a label that padding predicts is taken");
}

fh1_status edge_pad_gradients(edge_run *r)
{
    return on_models(r, pad_gradients);
}
