/* A seeded model, a ragged batch with documents and labels, and the gradients of an engine over it. */
#pragma once

#include "golden/seeded_model.h"
#include "oracle/random.h"
#include "oracle/thread.h"
#include "reference/engine.h"
#include "reference/faulty.h"

#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define BWD_OK(expr)                                                                  \
    do {                                                                              \
        fh1_status s_ = (expr);                                                       \
        char line_[512];                                                              \
        ck_assert_msg(!s_, "%s", s_ ? fh1_status_line(s_, line_, sizeof line_) : ""); \
    } while (0)

static const char *const bwd_usual = "layers=3,D=12,F=10,V=19,Hq=4,A=6,H=4,P=3,N=5,Q=4";

/* Every multiplier away from 1, so that one that is lost shows. `more`: "Hkv=2,G=2,K=4,rms_norm=1" and other options;
 * "family=falcon_mamba,…": that family, which has no multipliers. */
static inline void bwd_model(const char *more, fh1_model *m)
{
    char text[1024];
    snprintf(text, sizeof text,
             "%s,m_emb=1.5,m_lm=0.6,m_key=0.7,m_attn_in=1.25,m_attn_out=0.8,m_ssm_in=1.4,m_ssm_out=0.9,m_gate=1.3,"
             "m_down=0.75,m_z=0.9,m_x=1.2,m_B=0.7,m_C=1.1,m_dt=0.8,%s",
             bwd_usual, more);
    if (strncmp(more, "family=", 7) == 0) snprintf(text, sizeof text, "%s,layers=3,D=12,V=19", more);
    gld_seeded_spec spec;
    BWD_OK(gld_seeded_parse(text, &spec));
    BWD_OK(gld_seeded_model_new(&spec, 11, m));
    m->config.pad = 3;
}

enum { BWD_B = 3, BWD_T = 9 };

typedef struct {
    fh1_batch batch;
    int64_t ids[BWD_B * BWD_T], labels[BWD_B * BWD_T], mask[BWD_B * BWD_T], doc[BWD_B * BWD_T], pos[BWD_B * BWD_T];
} bwd_batch;

/* Row 0 whole, row 1 padded left, row 2 padded right; documents in row 0; some labels ignored. */
static inline void bwd_batch_new(const fh1_model *m, bwd_batch *b)
{
    const fh1_stream s = fh1_stream_open(5, "backward");
    const int64_t left[BWD_B] = {0, 3, 0}, right[BWD_B] = {0, 0, 2};
    for (int64_t r = 0; r < BWD_B; ++r)
        for (int64_t t = 0; t < BWD_T; ++t) {
            const int64_t i = r * BWD_T + t;
            const bool real = t >= left[r] && t < BWD_T - right[r];
            b->ids[i] = fh1_random_below(s, (uint64_t)i, m->config.V);
            if (t == 4) b->ids[i] = m->config.pad; /* a real token with the id of padding */
            b->mask[i] = real;
            b->doc[i] = r == 0 && t >= 5;
            b->pos[i] = r == 0 && t >= 5 ? t - 5 : t;
            b->labels[i] =
                real && t > left[r] && t % 4 != 3 ? fh1_random_below(s, (uint64_t)(100 + i), m->config.V) : -100;
        }
    b->batch = (fh1_batch){.B = BWD_B,
                           .T = BWD_T,
                           .ids = b->ids,
                           .mask = b->mask,
                           .mask_len = BWD_T,
                           .positions = b->pos,
                           .seq_idx = b->doc,
                           .labels = b->labels};
}

/* Gradients of all parameters, to be freed, and the loss. */
static inline fh1_grads *bwd_run(fh1_engine *e, fh1_model *m, const fh1_batch *b, fh1_backward *o)
{
    fh1_grads *g;
    BWD_OK(fh1_grads_new(m, e->dtype, NULL, NULL, &g));
    o->grads = g;
    BWD_OK(e->backward(e, m, b, o));
    return g;
}

/* Largest difference of one parameter's gradients over the largest of `a`. */
static inline double bwd_gap(const fh1_grads *a, const fh1_grads *b, int64_t i)
{
    double most = 0, off = 0;
    for (int64_t k = 0; k < fh1_n_elems(&a->params[i].grad); ++k) {
        const double x = fh1_get(&a->params[i].grad, k), y = fh1_get(&b->params[i].grad, k);
        most = fmax(most, fabs(x));
        if (!(fabs(x - y) <= off)) off = fabs(x - y);
    }
    return most > 0 ? off / most : off;
}

static inline double bwd_worst_gap(const fh1_grads *a, const fh1_grads *b, const char **name)
{
    double worst = 0;
    *name = "nothing";
    for (int64_t i = 0; i < a->n; ++i) {
        const double gap = bwd_gap(a, b, i);
        if (gap <= worst) continue;
        worst = gap;
        *name = a->params[i].name;
    }
    return worst;
}
