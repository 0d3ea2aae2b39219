/* The µP width law of Falcon-H1: what the 14 forward multipliers of a model are, given its widths.
 *
 * The released models are one tuned model, the 1.5B-Deep (D₀ 1280, attention width 768, d_ssm 1536, MLP width 3072,
 * head_dim 128, state 256), carried to other widths. With λ = D₀/D:
 *   embedding      4√2                          ssm_in          λ
 *   lm_head        λ/32                         ssm_out         √2/6 · 1536/d_ssm
 *   key            √2/8 · λ² · √(128/head_dim)  gate            λ/√2
 *   attention_in   1                            down            5/16 · λ · 3072/F
 *   attention_out  λ/2 · 768/(Hq·head_dim)      z, x, C, dt     √2/4, 1/4, 1/2, √2/4
 *                                               B               √2/8 · 256/N
 * It reproduces the released 0.5B, 1.5B-Deep, 7B and 34B; the Tiny models do not follow it (docs/allocation.md). */
#pragma once

#include "oracle/config.h"

enum { FH1_N_MULTIPLIERS = 14 };

/* The widths that the law depends on. */
typedef struct {
    int64_t D;         /* hidden_size */
    int64_t attention; /* Hq·head_dim */
    int64_t d_ssm;
    int64_t F; /* intermediate_size */
    int64_t A; /* head_dim */
    int64_t N; /* mamba_d_state */
} fh1_mup_widths;

fh1_mup_widths fh1_mup_widths_of(const fh1_config *c);

/* The key of config.json, with place and segment in a list: "ssm_multipliers[2] (B)". */
const char *fh1_multiplier_name(int i);
/* Those of a config, and those of the law, in the same order. Widths are 1 or more. */
void fh1_multipliers_of(const fh1_config *c, double out[FH1_N_MULTIPLIERS]);
void fh1_mup_law(const fh1_mup_widths *w, double out[FH1_N_MULTIPLIERS]);

typedef enum {
    FH1_MUP_FOLLOWS, /* the law's double, or one beside it: products in another order */
    FH1_MUP_ROUNDED, /* the law rounded to a float type, or printed to so many significant digits */
    FH1_MUP_DEVIATES
} fh1_mup_verdict;

typedef struct {
    fh1_mup_verdict verdict;
    double relative;  /* value / law - 1 */
    char rounded[16]; /* FH1_MUP_ROUNDED: "bf16", "f16", "f32", "3 digits" … "15 digits"; else "" */
} fh1_mup_finding;

/* A multiplier against the law's value, which is not 0. */
fh1_mup_finding fh1_mup_judge(double law, double value);
