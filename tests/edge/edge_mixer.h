/* What the cases of the mixer and of gradients share: models with options, edited weights, logits of one call, op-level
 * roads; and the functions behind the registries of both chapters. */
#pragma once

#include "tests/edge/edge.h"

/* The multipliers of edge_model_text, for specs of one's own. */
#define EDGE_MULTIPLIERS                                                                                            \
    "m_emb=2.75,m_lm=0.40625,m_key=0.59375,m_attn_in=1.3125,m_attn_out=0.84375,m_ssm_in=1.21875,m_ssm_out=0.71875," \
    "m_gate=0.90625,m_down=0.53125,m_z=0.65625,m_x=1.4375,m_B=0.78125,m_C=1.15625,m_dt=0.46875"
/* All but H, P, N, G and what follows. */
#define EDGE_WIDTHS "layers=2,D=24,F=20,V=29,Hq=4,Hkv=2,A=8,K=4,Q=8,conv_bias=1,weights=trained," EDGE_MULTIPLIERS ","

static inline bool edge_is_cuda(const edge_run *r)
{
    return (r->bit & (EDGE_CUDA_HOST | EDGE_CUDA)) != 0;
}

/* Rows [first, first + n) of a weight or elements of a bias times a factor; n < 0: to the end. Absent tensors stay. */
void edge_scale(const fh1_tensor *t, int64_t first, int64_t n, double factor);

/* Logits [T, V] of one call on an empty cache, f64; freed by the caller. */
fh1_status edge_logits(fh1_engine *e, const fh1_model *m, int64_t T, const int64_t *ids, double **out);
/* RMS of a - b over RMS of b. */
double edge_moved(const double *a, const double *b, int64_t n);

/* Random numbers that f32 holds: normal with this mean and size, of the run's seed; malloc'ed. */
double *edge_numbers(const edge_run *r, const char *name, int64_t n, double mean, double size);

/* gld_session_open on a model of one's own. */
fh1_status edge_session(law_run *run, fh1_engine *e, const fh1_model *m, law_session **s);

/* The 14 multipliers of a config, and the rows of weights and biases whose products each of them scales. */
enum { EDGE_N_MULTIPLIERS = 14 };
typedef void (*edge_rows_visit)(void *user, const fh1_tensor *t, int64_t first, int64_t n);
double *edge_multiplier(fh1_model *m, int i, const char **name);
void edge_multiplier_rows(const fh1_model *m, int i, edge_rows_visit visit, void *user);

/* chapter VII */
fh1_status edge_multipliers_doubled(edge_run *r), edge_multipliers_ordered(edge_run *r), edge_groups(edge_run *r),
    edge_gated_norm(edge_run *r), edge_dt_extremes(edge_run *r), edge_dt_limits(edge_run *r),
    edge_state_types(edge_run *r), edge_rounding_point(edge_run *r), edge_decay_precision(edge_run *r),
    edge_skip_forms(edge_run *r), edge_batch_sizes(edge_run *r), edge_tensor_parallel(edge_run *r),
    edge_logits_kept(edge_run *r);
/* chapter VIII */
fh1_status edge_differences(edge_run *r), edge_group_gradients(edge_run *r), edge_documents_apart(edge_run *r),
    edge_upstream(edge_run *r), edge_dt_slopes(edge_run *r), edge_short_rows(edge_run *r),
    edge_states_in_loss(edge_run *r), edge_segment_sums(edge_run *r), edge_pad_gradients(edge_run *r),
    edge_adapter_gradients(edge_run *r), edge_recomputed(edge_run *r), edge_head_in_loss(edge_run *r);
