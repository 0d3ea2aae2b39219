/* Models made from a seed, without a file: any geometry and any options of a config in one line of text, such as
 *
 *   layers=2,D=32,F=48,V=64,Hq=4,Hkv=2,A=8,H=4,P=8,N=16,G=2,K=4,Q=8,dtype=bf16,rms_norm=1,m_key=0.25
 *
 * or, of the other family, family=falcon_mamba,layers=2,D=32,V=64,I=48,N=8,R=4,K=4,mixer_eps=1e-6.
 * The sizes are those of docs/numerics.md and always printed; whatever else is not named is usual: multipliers 1, plain
 * RoPE with theta 1e4, no bias but the conv's, f32, weights as `fh1 init` makes them. */
#pragma once

#include "oracle/model.h"

#include <stdio.h>

/* Statistics of the weights. */
typedef enum {
    GLD_WEIGHTS_INIT,    /* as `fh1 init` (convert/hf_recipe.h) */
    GLD_WEIGHTS_TRAINED, /* outlier channels, wide norm weights, heavy tails, heads that hardly forget */
    GLD_WEIGHTS_LATTICE, /* few small multiples of a power of two per tensor: products and sums are nearly exact */
    GLD_WEIGHTS_COUNT
} gld_weights;

/* Copied with gld_seeded_spec_copy, because a config may point into itself. */
typedef struct {
    fh1_config config;
    fh1_dtype dtype; /* F32, BF16 or F16 */
    gld_weights weights;
} gld_seeded_spec;

/* All usual: two layers of small widths. */
void gld_seeded_usual(gld_seeded_spec *s);
void gld_seeded_spec_copy(gld_seeded_spec *to, const gld_seeded_spec *from);

/* FH1_E_INPUT names a key that is unknown, given twice or out of range; what fh1_config_check finds; and more than 1
 * GiB of weights. Nothing is allocated. */
fh1_status gld_seeded_parse(const char *text, gld_seeded_spec *out);
fh1_status gld_seeded_check(const gld_seeded_spec *s);
/* The text that parses to this; sizes first, then what is not usual. */
void gld_seeded_print(const gld_seeded_spec *s, FILE *out);

/* The weights, a pure function of (spec, seed). Released by fh1_model_free. */
fh1_status gld_seeded_model_new(const gld_seeded_spec *s, uint64_t seed, fh1_model *out);

/* The same options with small widths and at most `layers` layers, head ratios up to 2. */
void gld_seeded_small(const fh1_config *c, fh1_dtype dtype, int64_t layers, gld_seeded_spec *out);

/* The fields of a spec, for those who change one at a time. */
typedef enum { GLD_SPEC_SIZE, GLD_SPEC_INTEGER, GLD_SPEC_SWITCH, GLD_SPEC_NUMBER } gld_spec_kind;
typedef struct {
    const char *name;
    size_t offset; /* in fh1_config: int64_t, bool (SWITCH) or double (NUMBER) */
    gld_spec_kind kind;
    unsigned families; /* bit 1u << fh1_family of each that has it; elsewhere it is left alone */
} gld_spec_field;
const gld_spec_field *gld_spec_field_at(int i); /* NULL past the last */
/* A size, and the others that follow from it: Hkv divides Hq, G divides H, A is even, d_ssm = H·P (Falcon-Mamba: H =
 * I).
 */
void gld_spec_set_size(gld_seeded_spec *s, const gld_spec_field *f, int64_t v);
/* Back to what is usual for this family and RoPE type; false if it is already, or is none of this family's. */
bool gld_spec_make_usual(gld_seeded_spec *s, const gld_spec_field *f);
