#include "golden/trace_owner.h"

#include <stdio.h>
#include <stdlib.h>

#define NAME_SIZE (FH1_TAP_NAME_SIZE + 40) /* "step", a number, "/", "grad." and the tap */

typedef struct {
    gld_input input;
    const int64_t *data;
    int64_t width;
} input;

static int inputs_of(const fh1_batch *b, input out[GLD_INPUT_COUNT])
{
    const input all[] = {
        {GLD_INPUT_IDS, b->ids, b->T},
        {GLD_INPUT_MASK, b->mask, b->mask_len},
        {GLD_INPUT_POSITIONS, b->positions, b->T},
        {GLD_INPUT_SEQ_IDX, b->seq_idx, b->T},
        {GLD_INPUT_LABELS, b->labels, b->T},
    };
    int n = 0;
    for (int i = 0; i < GLD_INPUT_COUNT; i++)
        if (all[i].data) out[n++] = all[i];
    return n;
}

static const char *name_of(char buf[NAME_SIZE], int64_t step, const char *rest)
{
    snprintf(buf, NAME_SIZE, "step%lld/%s", (long long)step, rest);
    return buf;
}

static const char *grad_name(char buf[NAME_SIZE], int64_t step, const gld_grad *g)
{
    snprintf(buf, NAME_SIZE, "step%lld/grad.%s", (long long)step, g->name);
    return buf;
}

static fh1_status metadata(cvt_st_writer *w, const gld_trace *t, const char *const *pairs)
{
    FH1_TRY(cvt_st_writer_meta(w, "fh1.trace", "1"));
    if (t->contract[0]) FH1_TRY(cvt_st_writer_meta(w, "fh1.contract", t->contract));
    if (t->variant[0]) FH1_TRY(cvt_st_writer_meta(w, "fh1.variant", t->variant));
    if (t->producer[0]) FH1_TRY(cvt_st_writer_meta(w, "fh1.producer", t->producer));
    for (; pairs && pairs[0]; pairs += 2) FH1_TRY(cvt_st_writer_meta(w, pairs[0], pairs[1]));
    return NULL;
}

static fh1_status declare_step(cvt_st_writer *w, fh1_family family, const gld_step *s, int64_t step)
{
    input in[GLD_INPUT_COUNT];
    int n = inputs_of(&s->batch, in);
    char name[NAME_SIZE], tap[FH1_TAP_NAME_SIZE];
    for (int i = 0; i < n; i++) {
        int64_t shape[2] = {s->batch.B, in[i].width};
        FH1_TRY(cvt_st_writer_declare(w, name_of(name, step, gld_input_name(in[i].input)), FH1_I64, 2, shape));
    }
    for (int64_t k = 0; k < s->n_taps; k++) {
        const gld_tap *p = &s->taps[k];
        name_of(name, step, fh1_tap_name(family, p->id, p->layer, tap));
        FH1_TRY(cvt_st_writer_declare(w, name, p->t.dtype, p->t.rank, p->t.shape));
    }
    for (int64_t k = 0; k < s->n_grads; k++) {
        const gld_grad *g = &s->grads[k];
        FH1_TRY(cvt_st_writer_declare(w, grad_name(name, step, g), g->t.dtype, g->t.rank, g->t.shape));
    }
    return NULL;
}

/* A strided view (from a map) is written in the layout of the table. */
static fh1_status put_tap(cvt_st_writer *w, const char *name, const fh1_tensor *t)
{
    if (fh1_is_dense(t)) return cvt_st_writer_put(w, name, 0, t->data, fh1_n_elems(t));
    void *p = malloc(fh1_n_bytes(t));
    if (!p) return fh1_no_memory(fh1_n_bytes(t), name);
    fh1_tensor dense = fh1_view(p, t->dtype, t->rank, t->shape);
    fh1_copy(&dense, t);
    fh1_status s = cvt_st_writer_put(w, name, 0, p, fh1_n_elems(t));
    free(p);
    return s;
}

static fh1_status put_step(cvt_st_writer *w, fh1_family family, const gld_step *s, int64_t step)
{
    input in[GLD_INPUT_COUNT];
    int n = inputs_of(&s->batch, in);
    char name[NAME_SIZE], tap[FH1_TAP_NAME_SIZE];
    for (int i = 0; i < n; i++) {
        name_of(name, step, gld_input_name(in[i].input));
        FH1_TRY(cvt_st_writer_put(w, name, 0, in[i].data, s->batch.B * in[i].width));
    }
    for (int64_t k = 0; k < s->n_taps; k++) {
        const gld_tap *p = &s->taps[k];
        FH1_TRY(put_tap(w, name_of(name, step, fh1_tap_name(family, p->id, p->layer, tap)), &p->t));
    }
    for (int64_t k = 0; k < s->n_grads; k++) FH1_TRY(put_tap(w, grad_name(name, step, &s->grads[k]), &s->grads[k].t));
    return NULL;
}

static fh1_status write_all(cvt_st_writer *w, const gld_trace *t, const char *const *pairs)
{
    FH1_TRY(metadata(w, t, pairs));
    for (int64_t j = 0; j < t->n_steps; j++) FH1_TRY(declare_step(w, t->family, &t->steps[j], j));
    for (int64_t j = 0; j < t->n_steps; j++) FH1_TRY(put_step(w, t->family, &t->steps[j], j));
    return cvt_st_writer_commit(w);
}

fh1_status gld_trace_write(const gld_trace *t, const char *path, bool force, const char *const *meta_pairs)
{
    cvt_st_writer *w;
    FH1_TRY(cvt_st_writer_new(path, force, &w));
    fh1_status s = write_all(w, t, meta_pairs);
    cvt_st_writer_free(w);
    return s;
}
