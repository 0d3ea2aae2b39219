/* An engine: anything that runs the model and shows its taps. Tests and the judge meet engines only
 * through this table. */
#pragma once

#include "oracle/backward.h"
#include "oracle/batch.h"
#include "oracle/cache.h"
#include "oracle/contract.h"
#include "oracle/fault.h"
#include "oracle/gauge.h"
#include "oracle/model.h"
#include "oracle/tap.h"

typedef struct fh1_engine fh1_engine;

/* Per-op entry points on dense arrays in the engine's compute type (void * = float or double as
 * `dtype` says), weights as stored. M tokens are the rows of one sequence unless said otherwise.
 * Outputs are assigned, never accumulated, unless said otherwise. The formulas stand at the
 * functions of reference/ of the same name. */
typedef struct {
    /* y[M,D] = table[id[m]] (before embedding_multiplier) */
    fh1_status (*embed)(fh1_engine *e, int64_t M, const int64_t *ids, const fh1_tensor *table, void *y);
    /* y[M,D] = w · x·rsqrt(mean x² + eps), w [D] or data == NULL: none */
    fh1_status (*rmsnorm)(fh1_engine *e, int64_t M, int64_t D, const void *x, const fh1_tensor *w, double eps, void *y);
    /* y[M,n] = x[M,k]·Wᵀ + b, W [n,k], b [n] or data == NULL */
    fh1_status (*linear)(fh1_engine *e, int64_t M, const void *x, const fh1_tensor *w, const fh1_tensor *b, void *y);
    /* y[T,c] = silu(conv(x)); window [c,K-1] is read and updated; doc[T] cuts taps (NULL: one document) */
    fh1_status (*conv1d)(fh1_engine *e, int64_t T, int64_t c, int64_t K, const void *x, const fh1_tensor *w,
                         const fh1_tensor *b, const int64_t *doc, int64_t window_doc, void *window, void *y);
    /* the same for T = 1: x[c], y[c] */
    fh1_status (*conv1d_step)(fh1_engine *e, int64_t c, int64_t K, const void *x, const fh1_tensor *w,
                              const fh1_tensor *b, void *window, void *y);
    /* dt[T,H] = clamp(softplus(raw + bias), lo, hi) */
    fh1_status (*dt_softplus)(fh1_engine *e, int64_t T, int64_t H, const void *raw, const fh1_tensor *bias, double lo,
                              double hi, void *dt);
    /* y[T,H,P] of the scan over x[T,H,P], B[T,G,N], C[T,G,N], dt[T,H]; state [H,P,N] read and updated */
    fh1_status (*ssd_scan)(fh1_engine *e, int64_t T, int64_t H, int64_t P, int64_t N, int64_t G, const void *x,
                           const void *B, const void *C, const void *dt, const fh1_tensor *A_log, const fh1_tensor *D,
                           const int64_t *doc, int64_t state_doc, void *state, void *y);
    /* the same in chunks of Q tokens, as transformers and GPU kernels compute it */
    fh1_status (*ssd_chunk)(fh1_engine *e, int64_t T, int64_t H, int64_t P, int64_t N, int64_t G, int64_t Q,
                            const void *x, const void *B, const void *C, const void *dt, const fh1_tensor *A_log,
                            const fh1_tensor *D, const int64_t *doc, int64_t state_doc, void *state, void *y);
    /* one token with the rounding points of a decode step */
    fh1_status (*ssd_step)(fh1_engine *e, int64_t H, int64_t P, int64_t N, int64_t G, const void *x, const void *B,
                           const void *C, const void *dt, const fh1_tensor *A_log, const fh1_tensor *D, void *state,
                           void *y);
    /* y[T,I] of the scan with a state per channel: x[T,I], B[T,N], C[T,N], dt[T,I]; A_log [I,N], D [I]; state [I,N]
     * read and updated */
    fh1_status (*selective_scan)(fh1_engine *e, int64_t T, int64_t I, int64_t N, const void *x, const void *B,
                                 const void *C, const void *dt, const fh1_tensor *A_log, const fh1_tensor *D,
                                 const int64_t *doc, int64_t state_doc, void *state, void *y);
    /* one token with the rounding points of a decode step */
    fh1_status (*selective_step)(fh1_engine *e, int64_t I, int64_t N, const void *x, const void *B, const void *C,
                                 const void *dt, const fh1_tensor *A_log, const fh1_tensor *D, void *state, void *y);
    /* out[M,d] from y and z; norm weight data == NULL: y·silu(z) */
    fh1_status (*gated_norm)(fh1_engine *e, int64_t M, int64_t d, int64_t G, const void *y, const void *z,
                             const fh1_tensor *w, double eps, bool norm_before_gate, void *out);
    /* x[T,heads,A] rotated in place by the positions */
    fh1_status (*rope)(fh1_engine *e, const fh1_config *c, int64_t T, int64_t heads, const int64_t *position,
                       int64_t seq_len, void *x);
    /* out[T,Hq,A] from q[T,Hq,A] and the S >= T keys and values [Hkv,S,A]; query t sees keys
     * first[t] .. S - T + t */
    fh1_status (*attention)(fh1_engine *e, int64_t T, int64_t S, int64_t Hq, int64_t Hkv, int64_t A, const void *q,
                            const void *k, const void *v, const int64_t *first, void *out);
    /* the same for one query: q, out [Hq,A], all S keys from `first` on are seen */
    fh1_status (*attention_step)(fh1_engine *e, int64_t S, int64_t Hq, int64_t Hkv, int64_t A, const void *q,
                                 const void *k, const void *v, int64_t first, void *out);
    /* act[M,F] = silu(gate·m_gate)·up */
    fh1_status (*swiglu)(fh1_engine *e, int64_t M, int64_t F, const void *gate, double m_gate, const void *up,
                         void *act);
    /* x[n] += a·m_a + b·m_b in place, branches first; b == NULL: x += a·m_a (the MLP's residual) */
    fh1_status (*residual)(fh1_engine *e, int64_t n, const void *a, double m_a, const void *b, double m_b, void *x);
    /* logits[M,V] = (h[M,D]·Wᵀ)·m_lm */
    fh1_status (*lm_head)(fh1_engine *e, int64_t M, const void *h, const fh1_tensor *w, double m_lm, void *logits);
    /* mean over labels != -100 of logsumexp(logits) - logits[label]; logits [M,V], labels [M] shifted by
     * the caller; NaN when no label counts */
    fh1_status (*cross_entropy)(fh1_engine *e, int64_t M, int64_t V, const void *logits, const int64_t *labels,
                                double *loss);
    /* token[M] = argmax of logits[M,V], lowest index at a tie, -1 where a logit is NaN */
    fh1_status (*sample)(fh1_engine *e, int64_t M, int64_t V, const void *logits, int64_t *token);
} fh1_ops;

/* What an honest engine with `contract` may be off by in one op: the parameters of the op of the same name in fh1_ops,
 * inputs in f64 and exact (the judged engine's own), `y` (or what the op assigns) the true outputs. Gauges are
 * assigned, in the shape of the output, the final rounding of the op included. In-place ops take their input in `x` and
 * assign nothing. FH1_E_INTERNAL without memory. */
typedef struct {
    fh1_status (*embed)(const fh1_profile *contract, int64_t n, const double *y, const fh1_gauge *g);
    fh1_status (*rmsnorm)(const fh1_profile *contract, int64_t M, int64_t D, const double *x, const fh1_tensor *w,
                          double eps, const double *y, const fh1_gauge *g);
    fh1_status (*linear)(const fh1_profile *contract, int64_t M, const double *x, const fh1_tensor *w,
                         const fh1_tensor *b, const double *y, const fh1_gauge *g);
    /* prefill and step alike; `window` as it was before the call */
    fh1_status (*conv1d)(const fh1_profile *contract, int64_t T, int64_t c, int64_t K, const double *x,
                         const fh1_tensor *w, const fh1_tensor *b, const int64_t *doc, int64_t window_doc,
                         const double *window, const double *y, const fh1_gauge *g);
    fh1_status (*dt_softplus)(const fh1_profile *contract, int64_t T, int64_t H, const double *raw,
                              const fh1_tensor *bias, double lo, double hi, const double *dt, const fh1_gauge *g);
    /* scan and chunk; `state` as it was before the call; g_state [H,P,N] or NULL: read (error of the incoming
     * state) and assigned */
    fh1_status (*ssd_scan)(const fh1_profile *contract, int64_t T, int64_t H, int64_t P, int64_t N, int64_t G,
                           int64_t Q, const double *x, const double *B, const double *C, const double *dt,
                           const fh1_tensor *A_log, const fh1_tensor *D, const int64_t *doc, int64_t state_doc,
                           const double *state, const double *y, const fh1_gauge *g_state, const fh1_gauge *g);
    fh1_status (*ssd_step)(const fh1_profile *contract, int64_t H, int64_t P, int64_t N, int64_t G, const double *x,
                           const double *B, const double *C, const double *dt, const fh1_tensor *A_log,
                           const fh1_tensor *D, const double *state, const double *y, const fh1_gauge *g_state,
                           const fh1_gauge *g);
    /* g_B, g_C [T,N] or NULL: what B and C are off by themselves; g_state [I,N] as above */
    fh1_status (*selective_scan)(const fh1_profile *contract, int64_t T, int64_t I, int64_t N, const double *x,
                                 const double *B, const double *C, const double *dt, const fh1_tensor *A_log,
                                 const fh1_tensor *D, const int64_t *doc, int64_t state_doc, const double *state,
                                 const double *y, const fh1_gauge *g_B, const fh1_gauge *g_C, const fh1_gauge *g_state,
                                 const fh1_gauge *g);
    fh1_status (*selective_step)(const fh1_profile *contract, int64_t I, int64_t N, const double *x, const double *B,
                                 const double *C, const double *dt, const fh1_tensor *A_log, const fh1_tensor *D,
                                 const double *state, const double *y, const fh1_gauge *g_B, const fh1_gauge *g_C,
                                 const fh1_gauge *g_state, const fh1_gauge *g);
    fh1_status (*gated_norm)(const fh1_profile *contract, int64_t M, int64_t d, int64_t G, const double *y,
                             const double *z, const fh1_tensor *w, double eps, bool norm_before_gate, const double *out,
                             const fh1_gauge *g);
    fh1_status (*rope)(const fh1_profile *contract, const fh1_config *c, int64_t T, int64_t heads,
                       const int64_t *position, int64_t seq_len, const double *x, const fh1_gauge *g);
    /* prefill and step alike */
    fh1_status (*attention)(const fh1_profile *contract, int64_t T, int64_t S, int64_t Hq, int64_t Hkv, int64_t A,
                            const double *q, const double *k, const double *v, const int64_t *first, const double *out,
                            const fh1_gauge *g);
    fh1_status (*swiglu)(const fh1_profile *contract, int64_t M, int64_t F, const double *gate, double m_gate,
                         const double *up, const double *act, const fh1_gauge *g);
    fh1_status (*residual)(const fh1_profile *contract, int64_t n, const double *a, double m_a, const double *b,
                           double m_b, const double *x, const fh1_gauge *g);
    fh1_status (*lm_head)(const fh1_profile *contract, int64_t M, const double *h, const fh1_tensor *w, double m_lm,
                          const double *logits, const fh1_gauge *g);
    fh1_status (*cross_entropy)(const fh1_profile *contract, int64_t M, int64_t V, const double *logits,
                                const int64_t *labels, double loss, const fh1_gauge *g);
} fh1_gauge_ops;

/* Operations on an engine's cache between calls; the functions of oracle/cache.h unless a fault is planted. */
typedef struct {
    void (*reset)(fh1_cache *c);
    fh1_status (*clone)(const fh1_cache *c, fh1_cache **out);
    fh1_status (*restore)(fh1_cache *c, const fh1_cache *snapshot);
    fh1_status (*reorder)(fh1_cache *c, const int64_t *from, int64_t n);
    fh1_status (*truncate)(fh1_cache *c, int64_t b, int64_t n);
} fh1_cache_ops;

extern const fh1_cache_ops fh1_cache_ops_true;

struct fh1_engine {
    char name[32];              /* ref-f64, ref-f32, ref-bf16 … */
    fh1_dtype dtype;            /* F32, F64 or C128: arithmetic, cache, and type of taps handed to sinks */
    const fh1_profile *profile; /* its contract */
    unsigned variants;          /* fh1_variant bits */
    bool chunked;               /* prefill scans run in chunks of Q, as transformers computes them */
    const fh1_ops *ops;
    const fh1_gauge_ops *gauges; /* ref-f64 only, NULL elsewhere */
    const fh1_bwd_ops *bwd_ops;  /* NULL where there is no backward, as `backward` */
    const fh1_cache_ops *cache_ops;
    fh1_fault fault; /* planted; FH1_FAULT_NONE in every engine that is not faulty on purpose */
    /* What this model needs before its first call: the engine loads it and settles `profile` where that depends on the
     * model. Called through fh1_engine_open before `profile` is read; forward does it where nobody did. A model whose
     * weights were changed in place is another one. NULL: nothing to do. */
    fh1_status (*open)(fh1_engine *e, const fh1_model *m);
    /* One call of the model. Appends to `cache` (never NULL; its dtype is the engine's). Logits of the
     * last `n_logits` columns of each row go to `logits` [B, n_logits, V] (dense, engine dtype; NULL =
     * not wanted and not computed unless a sink is given; columns of padding are 0). On error the cache
     * is unusable until reset. */
    fh1_status (*forward)(fh1_engine *e, const fh1_model *m, const fh1_batch *b, fh1_cache *cache, int64_t n_logits,
                          void *logits, const fh1_tap_sink *sink);
    /* Loss and gradients of one batch (oracle/backward.h); NULL where there is none. */
    fh1_backward_fn backward;
    void (*free)(fh1_engine *e);
    void *ctx;
};

static inline fh1_status fh1_engine_open(fh1_engine *e, const fh1_model *m)
{
    return e->open ? e->open(e, m) : NULL;
}
