/* What the laws share: texts, sessions on a cache, the two sides of a comparison, and the comparison. Internal. */
#pragma once

#include "golden/laws.h"

#include <stdlib.h>

enum { LAW_ROWS = 8, LAW_SESSIONS = 32 }; /* rows of a session at most */

/* ---- sides: what one road left behind ---- */

/* One tensor of a side, as f64. Large ones are thinned out: every `stride`-th element. */
typedef struct {
    fh1_tap_id id;
    int64_t layer, row;
    int64_t first_token, n, width; /* [n, width]: tokens of the row from first_token on; -1: no tokens (n = 1) */
    int64_t stride;
    int64_t fiber;   /* neighbours that came from one number and share its error; divides the elements */
    int64_t samples; /* tokens whose errors it shows: few make an RMS that is luck */
    bool exact;      /* the two sides must agree in every bit */
    double *v;       /* [n, width] */
    double *allowed; /* per element, from a gauge; NULL: by the emulated pipeline */
} law_tensor;

typedef struct {
    law_tensor *t;
    int n, room;
} law_side;

void gld_side_free(law_side *s);
/* A new tensor; v is zeroed, the caller fills it. */
fh1_status gld_side_add(law_side *s, const law_tensor *like, law_tensor **out);

/* ---- roads ---- */

typedef enum { LAW_LEFT, LAW_RIGHT, LAW_PLANTED } law_road;

typedef struct law_run {
    const gld_law_args *a;
    const fh1_model *m;
    int64_t T;                                       /* tokens of the longest run */
    int64_t text[LAW_ROWS][2 * GLD_LAW_TOKENS + 32]; /* ids that the rows say; 2 T + 32 are set */
    void *data;                                      /* of one law: inputs of its ops */
    void *rooms;                                     /* of the road that is walked, a list; freed at its end */
    struct law_session *open[LAW_SESSIONS];          /* of the road that is walked; closed at its end */
    int n_open;
} law_run;

/* Walks one road with engine e; what it leaves is added to `out`, in the same order on every road. FH1_E_WRONG: a
 * promise that is no number is broken, the sentence says which. */
typedef fh1_status (*law_walk)(law_run *r, fh1_engine *e, law_road road, law_side *out);

/* A bit for each part that a planted mistake must move. */
#define LAW_BIT(tap) (UINT64_C(1) << (tap))
#define LAW_TOKENS (LAW_BIT(FH1_TAP_LOGITS) | LAW_BIT(FH1_TAP_CACHE_KEY) | LAW_BIT(FH1_TAP_CACHE_VALUE))
#define LAW_MEMORY (LAW_BIT(FH1_TAP_CACHE_CONV) | LAW_BIT(FH1_TAP_CACHE_SSM))
#define LAW_ALL (LAW_TOKENS | LAW_MEMORY)

/* Runs the roads and compares them. `notices`: the parts where the planted mistake must show. */
fh1_status gld_law_judge(const gld_law_args *a, law_walk walk, uint64_t notices, void *data, gld_law_result *r);
/* Tokens of the longest row. */
int64_t gld_law_tokens(const gld_law_args *a);
fh1_status gld_law_skip(gld_law_result *r, const char *why, ...) __attribute__((format(printf, 2, 3)));

/* The tensor at one place of every road. */
typedef struct {
    const law_tensor *left, *right, *true_left, *true_right, *planted;
    const law_tensor *emulated_left, *emulated_right; /* NULL: none */
    double pooled; /* square of the relative error of the emulated pipeline, over all tensors of this tap and layer */
    double slack;  /* times what the emulated pipeline is off by; 0: once */
} law_place;

typedef struct {
    double margin, allowed; /* of the element that decided */
    int64_t at;
    int64_t first; /* element beyond what is allowed; -1: none */
    double first_allowed;
    double whole; /* what the RMS of the difference may be */
} law_finding;

/* mine against other by what is allowed at this place; of a->engine the contract is read. */
law_finding gld_place_compare(const gld_law_args *a, const law_place *p, const law_tensor *mine,
                              const law_tensor *other);
/* Of a, or of a - b without what is not finite. */
double gld_mean_square(const law_tensor *a, const law_tensor *b);

/* left against right; the truth's own roads and the emulated ones (n = 0: none) give what is allowed. */
fh1_status gld_law_compare(const law_run *run, const law_side mine[2], const law_side truth[3],
                           const law_side emulated[2], uint64_t notices, gld_law_result *r);

/* ---- sessions: one cache, and the logits of every real token that went through it ---- */

typedef struct law_session {
    fh1_engine *e;
    const fh1_model *m;
    fh1_cache *cache;
    int64_t B, n_cols;
    int64_t n[LAW_ROWS];      /* real tokens so far */
    uint8_t *real[LAW_ROWS];  /* [room] columns that were real */
    double *logits[LAW_ROWS]; /* [room, kept] */
    int64_t room;             /* columns */
    int64_t kept, stride;     /* logits are thinned out to these channels */
    bool padded;              /* some column was padding */
} law_session;

/* Belongs to the run, which closes it at the end of the road. */
fh1_status gld_session_open(law_run *r, fh1_engine *e, int64_t B, law_session **s);
void gld_sessions_close(law_run *r);
/* One call as it is; logits of real tokens are appended to their rows. */
fh1_status gld_session_call(law_session *s, const fh1_batch *b);

/* One row of a padded call: the next n tokens of `text` between two paddings. */
typedef struct {
    const int64_t *text; /* what the row says from its first token on */
    int64_t left, n, right;
} law_row;
/* Positions count the tokens of the row; at padding ids are `pad_id`. Masks are given once something was padded. */
fh1_status gld_session_rows(law_session *s, const law_row *rows, int64_t pad_id);
/* n more tokens of `text` for a batch of one. */
fh1_status gld_session_feed(law_session *s, const int64_t *text, int64_t n);
/* Open, feed in calls of the given lengths (0 ends the list), batch of one. */
fh1_status gld_session_solo(law_run *r, fh1_engine *e, const int64_t *text, const int64_t *calls, law_session **s);
/* A session on a copy of the cache (cache_ops->clone) with the books of `from`. */
fh1_status gld_session_fork(law_run *r, const law_session *from, law_session **s);
/* Back to the moment of `snapshot`: cache_ops->restore, and its books. */
fh1_status gld_session_restore(law_session *s, const law_session *snapshot);
/* cache_ops->reset, and empty books. */
void gld_session_reset(law_session *s);
/* Row b becomes the old row from[b]: cache_ops->reorder, and the books. */
fh1_status gld_session_reorder(law_run *r, law_session *s, const int64_t *from, int64_t n);

/* Adds logits, keys and values of tokens [begin, begin + n) of a row, and, with `memory`, window and state. n < 0: to
 * the end of the row. `row` is what the result calls it. */
fh1_status gld_session_take(const law_session *s, int64_t b, int64_t begin, int64_t n, bool memory, bool exact,
                            law_side *out);

/* A mistake in the middle of a road: all that the cache holds is zero. */
fh1_status gld_session_forget(law_session *s);

/* The next id of the vocabulary: another word. */
int64_t gld_other_id(const law_run *r, int64_t id);

/* ---- ops on recorded activations ---- */

/* What the truth computed in one layer over r->T tokens, exact in f32; and the geometry. */
typedef struct {
    int64_t layer, T;
    double *x, *B, *C, *dt; /* scan: [T,H,P], [T,G,N], [T,G,N], [T,H] */
    double *y, *z;          /* scan output and gate, [T, d_ssm] */
    double *q, *k, *v;      /* [T, Hq, A], [T, Hkv, A] twice: as projected, k times key_multiplier */
    double *input;          /* [T, D]: what the norm of the layer reads */
    double *logits;         /* [T, kept vocabulary] */
    double *state;          /* [H, P, N] after all of it */
    double *memory;
    int64_t vocabulary;
} law_acts;

fh1_status gld_acts_record(const gld_law_args *a, law_acts *acts);
void gld_acts_free(law_acts *acts);
/* gld_law_judge with recorded activations as the run's data. */
fh1_status gld_law_judge_acts(const gld_law_args *a, law_walk walk, uint64_t notices, gld_law_result *r);

/* Room for n doubles, zeroed, that belongs to the run until the end of the road. NULL without memory. */
double *gld_law_room(law_run *r, int64_t n);
/* The same filled with v in the compute type of e. */
void *gld_law_cast(law_run *r, const fh1_engine *e, const double *v, int64_t n);

/* What an op computed, and what an honest engine may be off by. Belongs to the run. */
typedef struct {
    int64_t n;
    double *v, *allowed; /* allowed NULL: no gauge */
} law_out;

/* t[to] += factor · out[from], and the allowances. FH1_E_INTERNAL without memory. */
fh1_status gld_out_add(law_tensor *t, const law_out *out, const int64_t *from, double factor);

typedef struct {
    int64_t T, H, P, N, G;
    int64_t Q;                            /* 0: the recurrence, else in chunks of Q */
    const double *x, *B, *C, *dt, *state; /* as in fh1_ops.ssd_scan; state before the call */
    fh1_tensor A_log, D;                  /* A_log [H], or [H,N]: a selective scan, whose P and G are 1 and Q is 0 */
} law_scan;

/* Whether the engine has the scan of the model's family as an op. */
bool gld_law_has_scan(const gld_law_args *a);
/* The scan of the recorded layer, as the recurrence. */
law_scan gld_law_scan_of(const law_run *r, const law_acts *a);
/* y [T,H,P] and the new state [H,P,N]. */
fh1_status gld_run_scan(law_run *r, fh1_engine *e, const law_scan *s, law_out *y, law_out *state);

typedef struct {
    int64_t T, Hq, Hkv, A;
    const double *q, *k, *v; /* [T, heads, A] each; every query sees the keys up to its own */
} law_attention;

/* out [T, Hq, A]. */
fh1_status gld_run_attention(law_run *r, fh1_engine *e, const law_attention *at, law_out *out);

fh1_status gld_run_rmsnorm(law_run *r, fh1_engine *e, int64_t M, int64_t D, const double *x, const fh1_tensor *w,
                           double eps, law_out *out);

typedef struct {
    int64_t M, d, G;
    const double *y, *z; /* [M, d] */
    fh1_tensor w;        /* data NULL: no norm */
    double eps;
    bool norm_before_gate;
} law_gate;

fh1_status gld_run_gated_norm(law_run *r, fh1_engine *e, const law_gate *n, law_out *out);
fh1_status gld_run_loss(law_run *r, fh1_engine *e, int64_t M, int64_t V, const double *logits, const int64_t *labels,
                        law_out *out);

/* A tensor of tokens [T, width] of the recorded layer. */
fh1_status gld_side_op(law_side *s, const law_acts *a, fh1_tap_id id, int64_t width, law_tensor **t);

/* ---- the laws ---- */

fh1_status gld_law_prefix(const gld_law_args *a, gld_law_result *r);
fh1_status gld_law_split(const gld_law_args *a, gld_law_result *r);
fh1_status gld_law_decode_prefill(const gld_law_args *a, gld_law_result *r);
fh1_status gld_law_single_token(const gld_law_args *a, gld_law_result *r);
fh1_status gld_law_causality(const gld_law_args *a, gld_law_result *r);
fh1_status gld_law_run_to_run(const gld_law_args *a, gld_law_result *r);
fh1_status gld_law_packing(const gld_law_args *a, gld_law_result *r);
fh1_status gld_law_cut_documents(const gld_law_args *a, gld_law_result *r);
fh1_status gld_law_padding_left(const gld_law_args *a, gld_law_result *r);
fh1_status gld_law_padding_right(const gld_law_args *a, gld_law_result *r);
fh1_status gld_law_state_of_padding(const gld_law_args *a, gld_law_result *r);
fh1_status gld_law_batch_mate(const gld_law_args *a, gld_law_result *r);
fh1_status gld_law_batch_permutation(const gld_law_args *a, gld_law_result *r);
fh1_status gld_law_snapshot(const gld_law_args *a, gld_law_result *r);
fh1_status gld_law_fork(const gld_law_args *a, gld_law_result *r);
fh1_status gld_law_reorder(const gld_law_args *a, gld_law_result *r);
fh1_status gld_law_reset(const gld_law_args *a, gld_law_result *r);
fh1_status gld_law_truncate(const gld_law_args *a, gld_law_result *r);
fh1_status gld_law_chunk_length(const gld_law_args *a, gld_law_result *r);
fh1_status gld_law_linearity(const gld_law_args *a, gld_law_result *r);
fh1_status gld_law_head_permutation(const gld_law_args *a, gld_law_result *r);
fh1_status gld_law_inner_norm_scale(const gld_law_args *a, gld_law_result *r);
fh1_status gld_law_rope_shift(const gld_law_args *a, gld_law_result *r);
fh1_status gld_law_norm_scale(const gld_law_args *a, gld_law_result *r);
fh1_status gld_law_softmax_shift(const gld_law_args *a, gld_law_result *r);
