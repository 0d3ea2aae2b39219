/* Contracts: what an engine declares about its own rounding; and variants: named departures from the
 * consistent semantics that reproduce a deviation of a real library.
 *
 * A profile lists every point where a pipeline rounds, and to what. `exact` and `fp32` round nowhere
 * but in their own arithmetic; `hf-eager-bf16` has the points of transformers' eager CPU path, `cuda-bf16` those of
 * fused kernels on tensor cores: what is stored, and what a tensor core reads. A contract is a profile plus switches:
 * "fp32+mup_rounded". */
#pragma once

#include "oracle/round.h"
#include "oracle/tap.h"

typedef enum {
    FH1_RP_EMBED,      /* table value · embedding_multiplier */
    FH1_RP_NORM_INNER, /* x · rsqrt(mean x² + eps), before the weight */
    FH1_RP_NORM,       /* · weight */
    FH1_RP_SCALE_IN,   /* n · attention_in_multiplier, n · ssm_in_multiplier */
    FH1_RP_LINEAR_IN,  /* the input of every matrix product */
    FH1_RP_LINEAR,     /* every matrix product, bias included */
    FH1_RP_KEY,        /* k · key_multiplier */
    FH1_RP_ROPE_TABLE, /* cos and sin */
    FH1_RP_ROPE,       /* both products of a rotation */
    FH1_RP_ROPE_SUM,   /* their sum, the rotated value */
    FH1_RP_SCORE,      /* q·k, and the scaled score */
    FH1_RP_PROB,       /* softmax output */
    FH1_RP_PROB_TILE,  /* exp(score - running maximum) where it is multiplied with v; its sum is not rounded */
    FH1_RP_CONTEXT,    /* p·v */
    FH1_RP_MUP_VECTOR, /* the ssm_multipliers themselves */
    FH1_RP_MUP,        /* p ⊙ mup vector */
    FH1_RP_CONV,       /* conv output, before silu */
    FH1_RP_CONV_ACT,   /* silu of it */
    FH1_RP_DT,         /* dt + bias, softplus, clamp: one rounding each */
    FH1_RP_STEP,       /* one-token step: Δ·B, Δ·B·x, the state read for y, y, D·x, their sum */
    FH1_RP_SSD,        /* scan output of a prefill, and of a one-token step that has no FH1_RP_STEP */
    FH1_RP_SSD_TILE,  /* products of a chunked scan: each operand that is not of the type already, in two parts of it */
    FH1_RP_SCAN_READ, /* a selective scan: the state where C reads it, and the sum over it */
    FH1_RP_GATE_SILU, /* silu(z) where there is no gated norm */
    FH1_RP_GATED,     /* input of out_proj */
    FH1_RP_OUT_PRODUCT, /* Falcon-Mamba's out_proj in front of its bias, in a call of several tokens: torch adds the
                           bias apart where the input is a transposed view */
    FH1_RP_BRANCH,      /* branch output · ssm_out / attention_out multiplier, and their sum */
    FH1_RP_RESIDUAL,    /* residual sums */
    FH1_RP_MLP,         /* gate·m, silu, down·m */
    FH1_RP_ACT,         /* silu · up */
    FH1_RP_HEAD,        /* the product of lm_head */
    FH1_RP_LOGITS,      /* logits · lm_head_multiplier */
    FH1_RP_COUNT
} fh1_point;

typedef struct {
    const char *name;
    const char *summary; /* one line for --help and docs */
    fh1_dtype storage;   /* type that taps are stored in */
    fh1_round at[FH1_RP_COUNT];
    bool any_form;    /* names no pipeline between its roundings: sums in any order, functions in any usual form */
    bool exact_angle; /* rope angles are those of f64; otherwise products of f32 numbers */
    bool log_of_sum;  /* softplus as log(1 + exp): what is below an ulp of 1 is lost */
    fh1_round wide_residual; /* the residual stays in f32 and is rounded to this in front of each layer's norm, the last
                                norm's output in front of lm_head; NONE: neither (a residual that is not
                                f32 is rounded at FH1_RP_RESIDUAL) */
    fh1_round
        before_bias;  /* of one product (fh1_profile_linear): rounded before its bias is added; NONE in pipelines */
    double u;         /* unit roundoff of the arithmetic: 2^-53 (exact), 2^-24, 2^-23 where sums truncate */
    int64_t cut;      /* a tensor core cuts a sum off, towards zero, after so many terms; 0: sums are rounded */
    double exp_units; /* how many u exp, log, sin, cos, pow and a reciprocal root may be off by, relative */
    int64_t chunk;    /* longest chunk of a prefill scan; 0 = the model's mamba_chunk_size */
    double underflow; /* absolute: nothing smaller is judged (subnormals may be flushed to zero) */
    double relative;  /* share of the tap's RMS allowed where no gauge and no emulated pipeline exists; 0 = none */
} fh1_profile;

/* The statistics behind every verdict, in one place: there is no other tolerance in the project. The reasons stand in
 * docs/numerics.md, "What is allowed". */
typedef struct {
    double alpha;         /* chance that an honest tap whose gauge is exact exceeds it */
    double truth;         /* rounding of truth itself, in units of the contract's arithmetic at the value */
    double rms_band;      /* RMS error over the RMS that the gauge predicts: ties round worse than uniform ones */
    double band_low;      /* below this share of the emulated RMS an engine is better than its contract: a note */
    double band_tap;      /* a chain of ops, RMS against the emulated pipeline: whole tap, */
    double band_unit;     /* one channel or head, */
    double band_token;    /* one token */
    double chain_element; /* one element behind a chain of ops, in emulated RMS, */
    double chain_ulps;    /* and in ulps of the stored type */
    int64_t min_elements; /* fewer make no RMS */
    double flip_sigmas;   /* another greedy token is honest where the true gap is at most this many sigmas */
    double law_f64;       /* two ways through a small f64 model: largest difference over the RMS of the tensor */
    double suspect;       /* a cause is told where it explains this share of the squared residual, */
    double explained;     /* and is called the explanation from this one on */
    double noise_share;   /* of the squared residual, honest rounding is taken to be at most this */
    double suspect_work;  /* multiply-adds that the search for causes may cost, about */
    double vacuous;       /* MISTRUSTED where what is allowed reaches this share of the truth's RMS */
    int grad_runs;        /* runs of the honest pipeline whose spread says what a gradient may be off by */
    double grad_factor;   /* a constant factor between gradients is named where it is this near a known number */
    double grad_step;     /* complex step against an exact backward pass: over the tensor's largest gradient, */
    double grad_along;    /* and along a direction, over Σ|terms| */
    double trend_rise;    /* a note where a margin exceeds its median of earlier runs by this factor, */
    double trend_least;   /* is at least this, */
    int64_t trend_runs;   /* and had at least this many earlier runs */
} fh1_rules;

extern const fh1_rules fh1_rule;

const fh1_profile *fh1_profile_find(const char *name); /* NULL when unknown */
const fh1_profile *fh1_profile_at(int i);              /* NULL past the last */

/* Variants, a set of bits. */
typedef enum {
    FH1_VAR_MUP_ROUNDED = 1 << 0,           /* ssm_multipliers rounded to bf16 (bf16 load, then .to(float32)) */
    FH1_VAR_DECODE_NO_DT_LIMIT = 1 << 1,    /* time_step_limit ignored in one-token steps */
    FH1_VAR_NO_DT_LIMIT = 1 << 2,           /* time_step_limit ignored everywhere */
    FH1_VAR_IN_PROJ_BIAS_AT_PADS = 1 << 3,  /* bias of in_proj at left pads enters the conv window */
    FH1_VAR_RIGHT_PAD_CACHE = 1 << 4,       /* after right padding: conv window of the last columns, state decayed */
    FH1_VAR_HISTORY_DROPPED = 1 << 5,       /* several tokens on a cache start from empty conv and state */
    FH1_VAR_PADS_IN_MIXER = 1 << 6,         /* a padded batch of one: pads are real tokens for the mixer */
    FH1_VAR_MIXER_LEAKS_DOCS = 1 << 7,      /* documents reset attention only, not conv and state */
    FH1_VAR_THETA_CLASS_DEFAULT = 1 << 8,   /* rope_theta 1e5, the class default of 4.57 */
    FH1_VAR_DOC_RESET_80 = 1 << 9,          /* a document begins with log-decay -80 instead of an empty state */
    FH1_VAR_SCAN_RESTARTS = 1 << 10,        /* several tokens on a cache: the state starts at zero, the conv does not */
    FH1_VAR_DT_NORM_AFTER_DT_PROJ = 1 << 11 /* Falcon-Mamba: dt is normalised behind dt_proj, over all channels */
} fh1_variant;

typedef struct {
    const char *name;
    unsigned bit;
    const char *summary;
} fh1_variant_info;

const fh1_variant_info *fh1_variant_at(int i); /* NULL past the last */
/* The log-decay of a document's first token under these variants: -80, or 0: the state is cut off exactly. */
double fh1_doc_reset(unsigned variants);
/* "a,b" (blanks allowed, empty = none) into a set; FH1_E_INPUT names an unknown one and lists all. */
fh1_status fh1_variants_parse(const char *list, unsigned *set);

/* "profile" or "profile+switch+…" where a switch is a variant name. FH1_E_INPUT lists the profiles. */
fh1_status fh1_contract_parse(const char *text, const fh1_profile **profile, unsigned *variants);
/* The contract of a trace without one, by the type of its tensors: F64 exact, F32 fp32, BF16
 * hf-eager-bf16, F16 hf-eager-fp16. */
const fh1_profile *fh1_profile_for_dtype(fh1_dtype t);

/* The profile of this name as pipelines of the model's family have it; p itself mostly. c NULL: p. */
const fh1_profile *fh1_profile_for(const fh1_profile *p, const fh1_config *c);
/* The rounding of the scan output: a one-token step on a cache has its own (FH1_RP_STEP), or that of a prefill. */
fh1_round fh1_profile_scan_output(const fh1_profile *p, bool one_token);
/* The same contract as the product of lm_head rounds: at FH1_RP_HEAD instead of FH1_RP_LINEAR. */
fh1_profile fh1_profile_head(const fh1_profile *p);
/* The same contract as the product of a tap rounds in a call of T columns: lm_head's as above, and FH1_RP_OUT_PRODUCT.
 */
fh1_profile fh1_profile_linear(const fh1_profile *p, const fh1_config *c, fh1_tap_id id, int64_t T);
/* The same contract as the last norm rounds: not at all where the residual stays in f32. */
fh1_profile fh1_profile_final_norm(const fh1_profile *p);

/* The type in which a tap is stored under a profile: what one ulp of it means. `one_token` tells a
 * one-token step on a cache (its scan output is rounded, a prefill's is not). */
fh1_dtype fh1_profile_tap_dtype(const fh1_profile *p, fh1_tap_id id, bool one_token, const fh1_config *c);
