/* Models and inputs on which planted faults show (oracle/fault.h). The golden models and the two seeded schedules catch
 * most of them; a fault of RoPE scaling needs a model that scales, one of right padding rows that are padded right. */
#pragma once

#include "golden/trace.h"
#include "oracle/fault.h"

typedef enum {
    GLD_RAGGED,              /* gld_schedule_seeded 0: left padding, prefill, steps, a continuation of five tokens */
    GLD_PACKED,              /* gld_schedule_seeded 1: documents whose positions start again */
    GLD_RIGHT_PADDED,        /* rows padded right, then steps and a continuation */
    GLD_MIXED_PADDING,       /* one row padded left, one right, one not; the same again in a continuation */
    GLD_BATCH_OF_ONE_PADDED, /* a single row, padded left */
    GLD_LONG_POSITIONS,      /* positions from 100 003 on */
    GLD_SINGLE_TOKENS,       /* prompts of one token, then steps; no mask, no positions */
    GLD_SHORT_CALLS,         /* 9, 2, 1, 2, 3, 1 tokens: calls shorter than the conv window; no mask, no positions */
    GLD_LABELS,              /* labels for the loss, some of them ignored, one row padded left */
    GLD_RUNNING_DOCUMENTS,   /* documents whose positions do not start again */
    GLD_EMPTY_ROW,           /* a row of nothing but padding beside two others */
    GLD_ONE_CHUNK_MORE,      /* 3Q + 5 tokens in one row, then one */
    GLD_LONG_PROMPTS,        /* two prompts of 3Q tokens, then one token */
    GLD_FAULT_INPUTS
} gld_fault_input;

/* "right_padded"; NULL for a number outside the list. */
const char *gld_fault_input_name(int which);
/* Inputs only, a pure function of the config; each call has token 0 among its ids. Freed by the caller. */
fh1_status gld_fault_inputs(const fh1_config *c, int which, gld_trace *out);

/* Opens the golden model NAME in `folder` (golden/models), or NAME:EDIT, the same weights under an edited config:
 *   linear dynamic yarn llama3 longrope   that RoPE type, with a factor of 4
 *   faint   m_emb / 3000, m_ssm_out, m_attn_out and m_down / 1000: rows so small that eps counts
 *   sharp   m_key · 300: scores beyond the range of exp
 *   loud    m_lm · 3000: logits beyond the range of exp
 *   wide    time_step_limit (0, ∞)
 *   steep   ssm_multipliers[4] · 60: dt of 10 and more, decays that underflow
 *   narrow  a conv of one tap less
 * of Falcon-Mamba, which has no multipliers, the weights are edited instead:
 *   faint   embedding / 3000, out_proj / 1000
 *   loud    head · 3000
 *   steep   dt_proj · 60
 * `odd` has what mini-0.5b has not: biases everywhere, a tied head, three groups, a norm before the gate, a finite
 * time_step_limit, and an attention_in_multiplier other than 1. An unknown edit is FH1_E_INPUT. Freed by
 * fh1_model_free. */
fh1_status gld_fault_model_open(const char *folder, const char *name, fh1_model *out);

/* Where a fault shows in models of a family: golden/fault_cases.h and fault_cases_mamba.h; those not listed there show
 * on mini-0.5b and mamba-untied, with GLD_RAGGED, or with the shorter GLD_MIXED_PADDING where the op treats each token
 * by itself. A case on a bf16 model is one of the bf16 pipeline. */
typedef struct {
    const char *model;
    gld_fault_input inputs;
} gld_fault_case;
gld_fault_case gld_fault_case_of(fh1_fault f, fh1_family family);
/* The family whose models the fault's main case is one of: Falcon-H1 where it acts on that. */
fh1_family gld_fault_family(fh1_fault f);
