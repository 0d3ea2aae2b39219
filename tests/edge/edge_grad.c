/* Gradients in the edge cases: batches, one backward pass of the judged engine, and its verdict. */
#include "tests/edge/edge_grad.h"

#include "cli/gradcheck.h"
#include "oracle/random.h"
#include "reference/engine.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- models and batches ---- */

fh1_status edge_grad_model(edge_run *r, const char *text, fh1_model *out)
{
    char calm[1024];
    const char *trained = strstr(text, "weights=trained");
    if (r->bit != EDGE_BF16 || !trained) return edge_model(r, text, out);
    snprintf(calm, sizeof calm, "%.*sweights=init%s", (int)(trained - text), text, trained + strlen("weights=trained"));
    return edge_model(r, calm, out);
}

void edge_batch_new(const edge_run *r, int64_t B, int64_t T, int64_t lo, int64_t hi, const char *name, edge_batch *b)
{
    const fh1_stream s = fh1_stream_open(r->seed, name);
    *b = (edge_batch){.batch = {.B = B, .T = T}};
    for (int64_t i = 0; i < B * T; ++i) {
        b->ids[i] = lo + fh1_random_below(s, (uint64_t)i, hi - lo);
        b->labels[i] = i % T == 0 || i % T % 5 == 3 ? -100 : b->ids[i];
        b->mask[i] = 1;
        b->pos[i] = i % T;
    }
    b->batch.ids = b->ids;
    b->batch.labels = b->labels;
}

void edge_batch_pad(edge_batch *b, int64_t row, int64_t left, int64_t id)
{
    const int64_t T = b->batch.T;
    for (int64_t t = 0; t < T; ++t) {
        const int64_t i = row * T + t;
        b->pos[i] = t < left ? 0 : t - left;
        if (t <= left) b->labels[i] = -100;
        if (t >= left) continue;
        b->ids[i] = id;
        b->mask[i] = 0;
    }
    b->batch.mask = b->mask;
    b->batch.mask_len = T;
    b->batch.positions = b->pos;
}

void edge_batch_cut(edge_batch *b, int64_t row, int64_t column)
{
    const int64_t T = b->batch.T;
    for (int64_t t = column; t < T; ++t) {
        b->doc[row * T + t]++;
        b->pos[row * T + t] = t - column;
    }
    b->labels[row * T + column] = -100;
    b->batch.seq_idx = b->doc;
    b->batch.positions = b->pos;
}

/* ---- a pass ---- */

fh1_status edge_backward(edge_run *r, fh1_model *m, const fh1_batch *b, fh1_backward *o)
{
    fh1_engine *e;
    FH1_TRY(edge_engine(r, m, &e));
    FH1_TRY(gld_grads_new(m, e->dtype, &o->grads));
    fh1_status s = e->backward(e, m, b, o);
    if (s) fh1_grads_free(o->grads), o->grads = NULL;
    return s;
}

int64_t edge_bits_differ(const fh1_grads *a, const fh1_grads *b)
{
    const size_t width = (size_t)fh1_dtype_bits(a->dtype) / 8;
    int64_t n = 0;
    for (int64_t k = 0; k < a->n; ++k)
        for (int64_t i = 0; i < fh1_n_elems(&a->params[k].grad); ++i)
            n += memcmp((const char *)a->params[k].grad.data + (size_t)i * width,
                        (const char *)b->params[k].grad.data + (size_t)i * width, width) != 0;
    return n;
}

const fh1_param *edge_param(const fh1_grads *g, const fh1_tensor *value)
{
    for (int64_t k = 0; k < g->n; ++k)
        if (g->params[k].value == value) return &g->params[k];
    return NULL;
}

double edge_largest_row(const fh1_grads *g, const fh1_tensor *value, int64_t first, int64_t n)
{
    const fh1_tensor *t = &edge_param(g, value)->grad;
    const int64_t width = fh1_n_elems(t) / t->shape[0];
    double most = 0;
    for (int64_t i = first * width; i < (first + n) * width; ++i) {
        const double v = fabs(fh1_get(t, i));
        most = isnan(v) ? (double)INFINITY : fmax(most, v);
    }
    return most;
}

/* ---- verdicts ---- */

/* A report that is read here: its first divergence is one line, the one with an arrow. */
typedef struct {
    char *text;
    size_t size;
    FILE *out;
    fh1_report *report;
} listener;

static fh1_status listen_to(listener *l)
{
    *l = (listener){0};
    l->out = open_memstream(&l->text, &l->size);
    return l->out ? fh1_report_new(FH1_REPORT_TABLE, false, l->out, &l->report) : fh1_no_memory(4096, "a verdict");
}

static fh1_status heard(edge_run *r, listener *l, fh1_status s)
{
    int code = 0;
    if (!s) fh1_report_end_subject(l->report, r->engine, NULL, 0);
    if (!s) code = fh1_report_finish(l->report, "", "");
    fh1_report_free(l->report);
    if (l->out) fclose(l->out);
    if (!s) {
        const char *first = l->text ? strstr(l->text, "first divergence") : NULL;
        while (first && first > l->text && first[-1] != '\n') --first;
        s = edge_require(r, code == 0, "%.*s", first ? (int)strcspn(first, "\n") : 40,
                         first ? first : "no gradient passes");
    }
    free(l->text);
    return s;
}

/* Loss and gradients alone, by the gauge: one pass. */
static fh1_status judge_once(edge_run *r, fh1_model *m, const gld_grad_truth *truth, fh1_report *report)
{
    fh1_backward o = {0};
    FH1_TRY(edge_backward(r, m, truth->batch, &o));
    fh1_tensor *grads = calloc((size_t)o.grads->n + 1, sizeof *grads);
    for (int64_t k = 0; grads && k < o.grads->n; ++k) grads[k] = o.grads->params[k].grad;
    const gld_grad_judged j = {.subject = r->engine, .grads = grads, .loss = &o.loss, .stored = o.grads->dtype};
    fh1_status s = grads ? gld_grad_judge(truth, &j, report, NULL) : fh1_no_memory(sizeof *grads, "gradients");
    free(grads);
    fh1_grads_free(o.grads);
    return s;
}

fh1_status edge_gradcheck_once(edge_run *r, fh1_model *m, const fh1_batch *b)
{
    gld_grad_truth truth = {0};
    listener l;
    fh1_engine *e;
    if (!edge_is_cuda(r)) return edge_gradcheck(r, m, b);
    FH1_TRY(edge_engine(r, m, &e));
    fh1_status s = listen_to(&l);
    if (!s) s = gld_grad_truth_new(m, b, e->profile, e->variants, 0, ref_engine_new, &truth);
    if (!s) s = judge_once(r, m, &truth, l.report);
    s = heard(r, &l, s);
    gld_grad_truth_free(&truth);
    return s;
}

fh1_status edge_gradcheck(edge_run *r, fh1_model *m, const fh1_batch *b)
{
    const gradcheck_options o = {.seed = (int64_t)r->seed, .elements = 0};
    gld_grad_truth truth = {0};
    listener l;
    fh1_engine *e;
    FH1_TRY(edge_engine(r, m, &e));
    fh1_status s = listen_to(&l);
    if (!s) s = gld_grad_truth_new(m, b, e->profile, e->variants, 0, ref_engine_new, &truth);
    const gradcheck_case c = {.m = m, .truth = &truth, .o = &o, .subject = r->engine, .report = l.report};
    if (!s) s = gradcheck_engine(&c, e);
    s = heard(r, &l, s);
    gld_grad_truth_free(&truth);
    return s;
}

fh1_status edge_adjoint(edge_run *r, fh1_model *m, const fh1_batch *b, const fh1_batch *labelled)
{
    const gradcheck_options o = {.seed = (int64_t)r->seed, .elements = 0};
    gld_grad_truth truth = {0};
    listener l;
    fh1_engine *e;
    FH1_TRY(edge_engine(r, m, &e));
    fh1_status s = listen_to(&l);
    if (!s) s = gld_grad_truth_new(m, labelled, e->profile, e->variants, 0, ref_engine_new, &truth);
    const gradcheck_case c = {.m = m, .truth = &truth, .o = &o, .subject = r->engine, .report = l.report};
    truth.batch = b;
    if (!s) s = gradcheck_adjoint(&c, e);
    s = heard(r, &l, s);
    gld_grad_truth_free(&truth);
    return s;
}

fh1_status edge_backward_op(edge_run *r, const fh1_model *m, const char *op)
{
    fh1_engine *e, *truth;
    FH1_TRY(edge_engine(r, m, &e));
    FH1_TRY(edge_truth(r, &truth));
    for (int i = 0; gradcheck_op_name(i); ++i) {
        fh1_tap_result result = {.verdict = FH1_SKIP};
        if (strcmp(op, gradcheck_op_name(i)) != 0) continue;
        FH1_TRY(gradcheck_op(i, e, truth, m, &result));
        return edge_require(r, result.verdict == FH1_PASS, "backward of %s: %s, margin %.3g at %lld", op,
                            fh1_verdict_name(result.verdict), result.margin, (long long)result.where[0]);
    }
    return fh1_fail(FH1_E_INTERNAL, "no backward op is called %s", op);
}
