/* A second reading of a trace, beside golden/trace.h and without a line of it: docs/traces.md and docs/taps.md for one
 * small model, names and shapes spelled out, inputs walked column by column. */
#pragma once

#include "fuzz/slow_safetensors.h"

/* The models that a trace may be of, as gld_seeded_parse takes them: hardly two sizes are the same. */
typedef enum { SLOW_RELEASED, SLOW_MAMBA, SLOW_SAM, SLOW_S_A_M, SLOW_TRACE_MODELS } slow_trace_model;
#define SLOW_TRACE_SIZES "layers=2,D=5,F=6,V=7,Hq=2,Hkv=1,A=4,H=3,P=3,N=2,G=1,K=4,Q=2,dtype=f32,rms_norm=1"
#define SLOW_TRACE_SPECS                                                                                         \
    {                                                                                                            \
        SLOW_TRACE_SIZES, "family=falcon_mamba,layers=2,D=5,V=7,I=6,N=3,R=2,K=4", SLOW_TRACE_SIZES ",block=SAM", \
            SLOW_TRACE_SIZES ",block=S_A_M"                                                                      \
    }
/* A word anywhere in the file says which one is meant: "backbone.", "SAM", "S_A_M", the first of them that it has. */
slow_trace_model slow_trace_model_of(const uint8_t *file, size_t size);

typedef enum {
    SLOW_IDS,
    SLOW_MASK,
    SLOW_POSITIONS,
    SLOW_SEQ_IDX,
    SLOW_LABELS,
    SLOW_TAP,
    SLOW_GRAD
} slow_item_kind; /* up to the labels: the inputs */

typedef struct {
    slow_item_kind kind;
    int64_t step;
    const char *name; /* behind "stepJ/" or "stepJ/grad." */
    const slow_tensor *t;
    const uint8_t *data;
} slow_item;

typedef struct {
    int64_t T, past;                         /* new columns, and those of the earlier steps */
    const slow_item *input[SLOW_LABELS + 1]; /* NULL: absent */
} slow_step;

typedef struct {
    slow_trace_model model;
    slow_safetensors file;
    slow_item *items; /* one for each tensor */
    size_t n_items;
    slow_step *steps;
    int64_t n_steps, B;
    const char *version, *contract, *variant, *producer; /* "" where absent */
} slow_trace;

/* False when a rule refuses the file. Free in both cases. Each rule can be taken out (fuzz/plant.h). */
bool slow_trace_read(const uint8_t *file, size_t size, slow_trace_model model, slow_trace *out);
void slow_trace_free(slow_trace *t);

/* Element i of an I64 tensor. */
int64_t slow_item_i64(const slow_item *it, int64_t i);

/* The tables of taps and of parameters, for those who make traces: a letter of `shape` is an axis. */
typedef struct {
    const char *name, *shape; /* # in a name: a layer */
    unsigned models;          /* a bit for each that has it; 0: all but Falcon-Mamba */
} slow_trace_line;
const slow_trace_line *slow_trace_lines(slow_item_kind kind, size_t *n);
bool slow_trace_has(slow_trace_model m, const slow_trace_line *l);
/* The size of an axis in a call of B rows and T new columns after which there are S. */
int64_t slow_trace_axis(slow_trace_model m, char axis, int64_t B, int64_t T, int64_t S);
