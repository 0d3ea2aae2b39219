#include "cli/train_state.h"

#include "oracle/thread.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>

enum { PIECE = 1 << 14 }; /* numbers that a thread rounds at a time */

static size_t width_of(fh1_dtype t)
{
    return (size_t)fh1_dtype_bits(t) / 8;
}

/* bf16 and f16: the engine must see what the file will hold. */
static bool is_narrow(fh1_dtype t)
{
    return t == FH1_BF16 || t == FH1_F16;
}

static fh1_status take(size_t n, size_t width, void **out)
{
    *out = calloc(n + 1, width);
    return *out ? NULL : fh1_no_memory(n * width, "the numbers of a training run");
}

static void widen(void *dst, fh1_dtype to, const fh1_tensor *from)
{
    const int64_t n = fh1_n_elems(from);
    if (to == FH1_F64) fh1_to_f64(dst, from->data, from->dtype, n);
    else fh1_to_f32(dst, from->data, from->dtype, n);
}

/* A tied head shows the same numbers as the embedding. */
static void point_to(cli_train_state *s, const fh1_param *p, void *data, fh1_dtype dtype)
{
    p->value->data = data;
    p->value->dtype = dtype;
    if (s->grads->tied_head && p->value == s->grads->embed) s->model->lm_head = *p->value;
}

static fh1_status add_slot(cli_train_state *s, int64_t i, cli_factors f)
{
    const fh1_param *p = &s->grads->params[i];
    const fh1_dtype dtype = s->grads->dtype;
    const size_t n = (size_t)fh1_n_elems(p->value), width = width_of(dtype);
    cli_slot *x = &s->slots[s->n++];
    *x = (cli_slot){.param = i, .n = (int64_t)n, .f = f};
    FH1_TRY(take(n, width, &x->master));
    FH1_TRY(take(n, width, &x->m));
    FH1_TRY(take(n, width, &x->v));
    s->count += x->n;
    s->bytes_master += n * width;
    widen(x->master, dtype, p->value);
    if (is_narrow(p->value->dtype)) {
        FH1_TRY(take(n, width_of(p->value->dtype), &x->stored));
        s->bytes_stored += n * width_of(p->value->dtype);
        point_to(s, p, x->stored, p->value->dtype);
    } else {
        point_to(s, p, x->master, dtype);
    }
    return NULL;
}

fh1_status cli_train_state_new(fh1_model *m, fh1_grads *grads, const cli_factors *factors, cli_train_state *out)
{
    *out = (cli_train_state){.model = m, .grads = grads};
    if (!(out->slots = calloc((size_t)grads->n + 1, sizeof *out->slots)))
        return fh1_no_memory((size_t)grads->n * sizeof *out->slots, "the parameters of a training run");
    fh1_status s = NULL;
    for (int64_t i = 0; i < grads->n && !s; i++)
        if (grads->params[i].grad.data) s = add_slot(out, i, factors[i]);
    if (s) cli_train_state_free(out);
    else cli_train_state_show(out);
    return s;
}

void cli_train_state_free(cli_train_state *s)
{
    for (int64_t i = 0; i < s->n; i++) {
        free(s->slots[i].master);
        free(s->slots[i].m);
        free(s->slots[i].v);
        free(s->slots[i].stored);
    }
    free(s->slots);
    *s = (cli_train_state){0};
}

/* ---- what the engine sees ---- */

typedef struct {
    const cli_slot *slot;
    fh1_dtype from, to;
} rounding;

static void round_some(void *ctx, int64_t begin, int64_t end, int thread)
{
    const rounding *r = ctx;
    (void)thread;
    char *dst = (char *)r->slot->stored + (size_t)begin * width_of(r->to);
    const char *src = (const char *)r->slot->master + (size_t)begin * width_of(r->from);
    if (r->from == FH1_F64) fh1_from_f64(dst, r->to, (const double *)(const void *)src, end - begin);
    else fh1_from_f32(dst, r->to, (const float *)(const void *)src, end - begin);
}

void cli_train_state_show(cli_train_state *s)
{
    for (int64_t i = 0; i < s->n; i++) {
        const fh1_param *p = &s->grads->params[s->slots[i].param];
        rounding r = {&s->slots[i], s->grads->dtype, p->value->dtype};
        if (s->slots[i].stored) fh1_parallel_for(s->slots[i].n, PIECE, round_some, &r);
    }
}

/* ---- a step ---- */

fh1_status cli_train_state_norm(const cli_train_state *s, fh1_engine *e, double *norm, const fh1_param **bad)
{
    double sum = 0;
    *bad = NULL;
    for (int64_t i = 0; i < s->n; i++) {
        const fh1_param *p = &s->grads->params[s->slots[i].param];
        double part;
        FH1_TRY(e->bwd_ops->sum_of_squares(e, s->slots[i].n, p->grad.data, &part));
        if (!*bad && !isfinite(part)) *bad = p;
        sum += part;
    }
    *norm = sqrt(sum);
    return NULL;
}

double cli_clip_scale(double norm, double max)
{
    const double scale = max / (norm + 1e-6);
    return max > 0 && scale < 1 ? scale : 1;
}

fh1_status cli_train_state_update(cli_train_state *s, fh1_engine *e, double lr, const fh1_adamw *o)
{
    fh1_adamw step = *o;
    step.t = ++s->step;
    for (int64_t i = 0; i < s->n; i++) {
        const cli_slot *x = &s->slots[i];
        step.lr = lr * x->f.lr;
        step.decay = o->decay * x->f.decay;
        FH1_TRY(e->bwd_ops->adamw(e, x->n, &step, s->grads->params[x->param].grad.data, x->master, x->m, x->v));
    }
    cli_train_state_show(s);
    return NULL;
}

/* Finite in what they are saved as, too: masters reach further than f16, and those of ref-f64 further than f32. */
static bool all_finite(const cli_slot *x, fh1_dtype master, const fh1_param *p)
{
    const fh1_tensor t = fh1_view1(x->stored ? x->stored : x->master, x->stored ? p->value->dtype : master, x->n);
    for (int64_t i = 0; i < x->n; i++)
        if (!(fabs(fh1_get(&t, i)) <= (double)FLT_MAX)) return false;
    return true;
}

const fh1_param *cli_train_state_broken(const cli_train_state *s)
{
    for (int64_t i = 0; i < s->n; i++)
        if (!all_finite(&s->slots[i], s->grads->dtype, &s->grads->params[s->slots[i].param]))
            return &s->grads->params[s->slots[i].param];
    return NULL;
}
