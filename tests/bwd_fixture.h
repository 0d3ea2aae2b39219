/* What the tests of the backward templates of reference/ share: the two compilations that compute (f64, f32) and the
 * one with planted faults behind one table of f64 signatures, and checks that are run on all of them.
 *
 * A check compares with something that knows nothing of the template. It must accept both right compilations, each at
 * its own unit roundoff, and the faulty one while no fault is switched on; and it must reject the faulty one with each
 * fault that it names. */
#pragma once

#define REF_BITS 64
#include "reference/adamw.h"
#include "reference/attention_bwd.h"
#include "reference/cross_entropy_bwd.h"
#include "reference/embed_bwd.h"
#include "reference/linear_bwd.h"
#include "reference/lora_bwd.h"
#include "reference/rmsnorm_bwd.h"
#include "reference/rope_bwd.h"
#include "reference/swiglu_bwd.h"
#include "tests/witness.h"

typedef ref_attention_bwd_args_f64 b_attention;

extern fh1_fault ref_fault_now; /* of the faulty compilation */

typedef struct {
    void (*embed)(int64_t M, const int64_t *ids, int64_t V, int64_t D, int64_t pad, const double *dy, double *dtable);
    fh1_status (*rmsnorm)(int64_t M, int64_t D, const double *x, const fh1_tensor *w, double eps, const double *dy,
                          double *dx, double *dw);
    fh1_status (*linear)(int64_t M, const double *x, const fh1_tensor *w, const double *dy, bool add, double *dx,
                         double *dw, double *db);
    fh1_status (*lora)(int64_t M, const double *x, const fh1_lora *l, const double *dy, double *dx, double *dA,
                       double *dB, double *dbias);
    fh1_status (*lora_embed)(int64_t M, const int64_t *ids, const fh1_lora *l, int64_t pad, const double *dy,
                             double *dA, double *dB);
    void (*rope)(int64_t M, int64_t heads, int64_t A, const double *cos_sin, double *dx);
    fh1_status (*attention)(const b_attention *a);
    void (*swiglu)(int64_t M, int64_t F, const double *gate, double m_gate, const double *up, const double *dact,
                   double *dgate, double *dup);
    double (*cross_entropy)(int64_t M, int64_t V, const double *logits, const int64_t *labels, double divisor,
                            double *dlogits);
    void (*adamw)(int64_t n, const fh1_adamw *o, const double *g, double *w, double *m, double *v);
    double (*sum_of_squares)(int64_t n, const double *g);
} b_ops;

/* The symbols of one compilation over `T`. */
#define B_DECLARE(s, T, ATTENTION)                                                                               \
    void ref_embed_bwd##s(int64_t, const int64_t *, int64_t, int64_t, int64_t, const T *, T *);                  \
    fh1_status ref_rmsnorm_bwd##s(int64_t, int64_t, const T *, const fh1_tensor *, double, const T *, T *, T *); \
    fh1_status ref_linear_bwd##s(int64_t, const T *, const fh1_tensor *, const T *, bool, T *, T *, T *);        \
    fh1_status ref_lora_bwd##s(int64_t, const T *, const fh1_lora *, const T *, T *, T *, T *, T *);             \
    fh1_status ref_lora_embed_bwd##s(int64_t, const int64_t *, const fh1_lora *, int64_t, const T *, T *, T *);  \
    void ref_rope_bwd##s(int64_t, int64_t, int64_t, const T *, T *);                                             \
    fh1_status ref_attention_bwd##s(const ATTENTION *);                                                          \
    void ref_swiglu_bwd##s(int64_t, int64_t, const T *, double, const T *, const T *, T *, T *);                 \
    double ref_cross_entropy_bwd##s(int64_t, int64_t, const T *, const int64_t *, double, T *);                  \
    void ref_adamw##s(int64_t, const fh1_adamw *, const T *, T *, T *, T *);                                     \
    double ref_sum_of_squares##s(int64_t, const T *);

#define B_TABLE(s)                                                                                            \
    {                                                                                                         \
        ref_embed_bwd##s, ref_rmsnorm_bwd##s, ref_linear_bwd##s, ref_lora_bwd##s, ref_lora_embed_bwd##s,      \
            ref_rope_bwd##s, ref_attention_bwd##s, ref_swiglu_bwd##s, ref_cross_entropy_bwd##s, ref_adamw##s, \
            ref_sum_of_squares##s                                                                             \
    }

typedef struct {
    int64_t T, S, Hq, Hkv, A, ld_kv;
    const float *q, *k, *v;
    const int64_t *first;
    const float *dout;
    float *dq, *dk, *dv;
} b_attention32;

B_DECLARE(_f32, float, b_attention32)
B_DECLARE(_f64_faulty, double, b_attention)

/* --- f32 behind f64 signatures: arrays go in and come out converted; what is added to comes in too --- */

static inline float *b_in(const double *v, int64_t n)
{
    if (!v) return NULL;
    float *f = w_bytes((n + 1) * (int64_t)sizeof *f);
    for (int64_t i = 0; i < n; ++i) f[i] = (float)v[i];
    return f;
}

static inline void b_back(double *to, const float *from, int64_t n)
{
    for (int64_t i = 0; to && i < n; ++i) to[i] = (double)from[i];
}

static inline void b_embed(int64_t M, const int64_t *ids, int64_t V, int64_t D, int64_t pad, const double *dy,
                           double *dtable)
{
    float *t = b_in(dtable, V * D);
    ref_embed_bwd_f32(M, ids, V, D, pad, b_in(dy, M * D), t);
    b_back(dtable, t, V * D);
}

static inline fh1_status b_rmsnorm(int64_t M, int64_t D, const double *x, const fh1_tensor *w, double eps,
                                   const double *dy, double *dx, double *dw)
{
    float *fx = b_in(dx, M * D), *fw = b_in(dw, D);
    FH1_TRY(ref_rmsnorm_bwd_f32(M, D, b_in(x, M * D), w, eps, b_in(dy, M * D), fx, fw));
    b_back(dx, fx, M * D);
    b_back(dw, fw, D);
    return NULL;
}

static inline fh1_status b_linear(int64_t M, const double *x, const fh1_tensor *w, const double *dy, bool add,
                                  double *dx, double *dw, double *db)
{
    const int64_t N = w->shape[0], K = w->shape[1];
    float *fx = b_in(dx, M * K), *fw = b_in(dw, N * K), *fb = b_in(db, N);
    FH1_TRY(ref_linear_bwd_f32(M, b_in(x, M * K), w, b_in(dy, M * N), add, fx, fw, fb));
    b_back(dx, fx, M * K);
    b_back(dw, fw, N * K);
    b_back(db, fb, N);
    return NULL;
}

static inline fh1_status b_lora(int64_t M, const double *x, const fh1_lora *l, const double *dy, double *dx, double *dA,
                                double *dB, double *dbias)
{
    const int64_t r = l->A.shape[0], K = l->A.shape[1], N = l->B.shape[0];
    float *fx = b_in(dx, M * K), *fA = b_in(dA, r * K), *fB = b_in(dB, N * r), *fb = b_in(dbias, N);
    FH1_TRY(ref_lora_bwd_f32(M, b_in(x, M * K), l, b_in(dy, M * N), fx, fA, fB, fb));
    b_back(dx, fx, M * K);
    b_back(dA, fA, r * K);
    b_back(dB, fB, N * r);
    b_back(dbias, fb, N);
    return NULL;
}

static inline fh1_status b_lora_embed(int64_t M, const int64_t *ids, const fh1_lora *l, int64_t pad, const double *dy,
                                      double *dA, double *dB)
{
    const int64_t r = l->A.shape[0], V = l->A.shape[1], D = l->B.shape[0];
    float *fA = b_in(dA, r * V), *fB = b_in(dB, D * r);
    FH1_TRY(ref_lora_embed_bwd_f32(M, ids, l, pad, b_in(dy, M * D), fA, fB));
    b_back(dA, fA, r * V);
    b_back(dB, fB, D * r);
    return NULL;
}

static inline void b_rope(int64_t M, int64_t heads, int64_t A, const double *cos_sin, double *dx)
{
    float *f = b_in(dx, M * heads * A);
    ref_rope_bwd_f32(M, heads, A, b_in(cos_sin, M * A), f);
    b_back(dx, f, M * heads * A);
}

static inline fh1_status b_attend(const b_attention *a)
{
    const int64_t n = a->T * a->Hq * a->A, nk = a->Hkv * a->ld_kv * a->A;
    float *dq = b_in(a->dq, n), *dk = b_in(a->dk, nk), *dv = b_in(a->dv, nk);
    b_attention32 f = {a->T,           a->S,           a->Hq,    a->Hkv,           a->A, a->ld_kv, b_in(a->q, n),
                       b_in(a->k, nk), b_in(a->v, nk), a->first, b_in(a->dout, n), dq,   dk,       dv};
    FH1_TRY(ref_attention_bwd_f32(&f));
    b_back(a->dq, dq, n);
    b_back(a->dk, dk, nk);
    b_back(a->dv, dv, nk);
    return NULL;
}

static inline void b_swiglu(int64_t M, int64_t F, const double *gate, double m_gate, const double *up,
                            const double *dact, double *dgate, double *dup)
{
    float *fg = b_in(dgate, M * F), *fu = b_in(dup, M * F);
    ref_swiglu_bwd_f32(M, F, b_in(gate, M * F), m_gate, b_in(up, M * F), b_in(dact, M * F), fg, fu);
    b_back(dgate, fg, M * F);
    b_back(dup, fu, M * F);
}

static inline double b_cross_entropy(int64_t M, int64_t V, const double *logits, const int64_t *labels, double divisor,
                                     double *dlogits)
{
    float *f = b_in(dlogits, M * V);
    const double loss = ref_cross_entropy_bwd_f32(M, V, b_in(logits, M * V), labels, divisor, f);
    b_back(dlogits, f, M * V);
    return loss;
}

static inline void b_adamw(int64_t n, const fh1_adamw *o, const double *g, double *w, double *m, double *v)
{
    float *fw = b_in(w, n), *fm = b_in(m, n), *fv = b_in(v, n);
    ref_adamw_f32(n, o, b_in(g, n), fw, fm, fv);
    b_back(w, fw, n);
    b_back(m, fm, n);
    b_back(v, fv, n);
}

static inline double b_sum_of_squares(int64_t n, const double *g)
{
    return ref_sum_of_squares_f32(n, b_in(g, n));
}

static const b_ops b_right = B_TABLE(_f64), b_faulty = B_TABLE(_f64_faulty);
static const b_ops b_right32 = {b_embed,  b_rmsnorm, b_linear,        b_lora,  b_lora_embed,    b_rope,
                                b_attend, b_swiglu,  b_cross_entropy, b_adamw, b_sum_of_squares};

/* --- checks --- */

typedef struct {
    const b_ops *ops;
    const fh1_engine *e; /* for its unit roundoff: w_f64 or w_f32 */
    bool ok;             /* nothing was rejected yet */
    char at[160];        /* what was, first */
} b_run;

typedef struct {
    const char *name;
    void (*run)(b_run *r);
    fh1_fault faults[8]; /* that it must see; ended by FH1_FAULT_NONE */
} b_check;

/* |got - truth| <= u·gauge, gauge NULL: equal. */
static inline void b_agree(b_run *r, const char *what, int64_t n, const double *got, const double *truth,
                           const double *gauge)
{
    const w_verdict v = w_judge(r->e, n, got, truth, gauge, FH1_F64);
    if (v.ok && r->ops != &b_faulty && !fh1_within(v.margin, w_worst)) w_worst = v.margin, w_worst_at = what;
    if (v.ok || !r->ok) return;
    r->ok = false;
    snprintf(r->at, sizeof r->at, "%s[%lld] is %.17g, the witness says %.17g, margin %.3g", what, (long long)v.at,
             got[v.at], truth[v.at], v.margin);
}

static inline void b_fine(b_run *r, fh1_status s)
{
    if (s && r->ok) r->ok = false, fh1_status_line(s, r->at, sizeof r->at);
}

static inline bool b_run_once(const b_check *c, const b_ops *ops, const fh1_engine *e, fh1_fault f, b_run *r)
{
    *r = (b_run){.ops = ops, .e = e, .ok = true};
    ref_fault_now = f;
    c->run(r);
    ref_fault_now = FH1_FAULT_NONE;
    return r->ok;
}

static inline void b_prove(const b_check *c)
{
    b_run r;
    ck_assert_msg(b_run_once(c, &b_right, w_f64, FH1_FAULT_NONE, &r), "%s, f64: %s", c->name, r.at);
    ck_assert_msg(b_run_once(c, &b_right32, w_f32, FH1_FAULT_NONE, &r), "%s, f32: %s", c->name, r.at);
    ck_assert_msg(b_run_once(c, &b_faulty, w_f64, FH1_FAULT_NONE, &r), "%s, without a fault: %s", c->name, r.at);
    for (const fh1_fault *f = c->faults; *f != FH1_FAULT_NONE; ++f)
        ck_assert_msg(!b_run_once(c, &b_faulty, w_f64, *f, &r), "%s: the fault %s passes unseen", c->name,
                      fh1_fault_get(*f)->name);
}
