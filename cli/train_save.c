#include "cli/train_save.h"

#include <string.h>

/* The slot whose numbers a tensor of the file holds, NULL: frozen. A head that is stored beside the embedding it is
 * tied to holds the embedding's. */
static const cli_slot *slot_of(const cli_train_state *s, const char *tensor)
{
    const bool head = s->grads->tied_head && strcmp(tensor, "lm_head.weight") == 0;
    for (int64_t i = 0; i < s->n; i++) {
        const fh1_param *p = &s->grads->params[s->slots[i].param];
        if (head ? p->value == s->grads->embed : strcmp(p->name, tensor) == 0) return &s->slots[i];
    }
    return NULL;
}

static fh1_status read_rows(cvt_ckpt *c, int64_t t, int64_t first, int64_t n, void *dst)
{
    const cli_train_state *s = c->state;
    const cvt_ckpt_tensor *e = &c->tensors[t];
    const cli_slot *x = slot_of(s, e->name);
    if (!x) return cvt_ckpt_read_rows(c->below, e->source, first, n, dst);
    const int64_t row = x->n / cvt_ckpt_rows(e);
    if (s->grads->dtype == FH1_F64) fh1_from_f64(dst, e->dtype, (const double *)x->master + first * row, n * row);
    else fh1_from_f32(dst, e->dtype, (const float *)x->master + first * row, n * row);
    return NULL;
}

static const cvt_ckpt_ops ops = {.read_rows = read_rows};

static fh1_status check_sizes(const cvt_ckpt *c, const cli_train_state *s)
{
    for (int64_t i = 0; i < c->n_tensors; i++) {
        const cvt_ckpt_tensor *e = &c->tensors[i];
        const cli_slot *x = slot_of(s, e->name);
        const fh1_tensor shape = fh1_view(NULL, e->dtype, e->rank, e->shape);
        if (x && (fh1_n_elems(&shape) != x->n || !fh1_dtype_is_float(e->dtype)))
            return fh1_where(FH1_BAD("the file's tensor is not the one that was trained"), "%s, %s", c->path, e->name);
    }
    return NULL;
}

fh1_status cli_train_view(cvt_ckpt *base, const cli_train_state *s, cvt_ckpt **out)
{
    union {
        const cli_train_state *in;
        void *out;
    } state = {s}; /* a view's state is its own to change; this one is only read */
    cvt_ckpt *c;
    *out = NULL;
    FH1_TRY(cvt_ckpt_view(base, &c));
    c->state = state.out;
    c->ops = &ops;
    fh1_status st = check_sizes(c, s);
    if (st) cvt_ckpt_close(c);
    else *out = c;
    return st;
}
