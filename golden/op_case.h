/* Cases of single ops: one line says which op, shape, data and options, and is all that is needed to see a failure
 * again.
 *
 *   --op=ssd_scan --regime=adversarial --seed=7 --T=129 --H=2 --engine=ref-f32
 *
 * Inputs are a pure function of the case (oracle/random.h), rounded to what the judged engine's contract stores, so
 * that truth and judged engine see the same numbers. On lattice data the outputs must be the same bits; elsewhere each
 * element has its gauge. An input that could be lost without trace makes the case MISTRUSTED. docs/ops.md. */
#pragma once

#include "oracle/engine.h"
#include "oracle/report.h" /* fh1_verdict */

/* The entries of fh1_ops, in its order. */
typedef enum {
    GLD_OP_EMBED,
    GLD_OP_RMSNORM,
    GLD_OP_LINEAR,
    GLD_OP_CONV1D,
    GLD_OP_CONV1D_STEP,
    GLD_OP_DT_SOFTPLUS,
    GLD_OP_SSD_SCAN,
    GLD_OP_SSD_CHUNK,
    GLD_OP_SSD_STEP,
    GLD_OP_SELECTIVE_SCAN,
    GLD_OP_SELECTIVE_STEP,
    GLD_OP_GATED_NORM,
    GLD_OP_ROPE,
    GLD_OP_ATTENTION,
    GLD_OP_ATTENTION_STEP,
    GLD_OP_SWIGLU,
    GLD_OP_RESIDUAL,
    GLD_OP_LM_HEAD,
    GLD_OP_CROSS_ENTROPY,
    GLD_OP_SAMPLE,
    GLD_OP_COUNT
} gld_op;

enum { GLD_OP_LINE = 1024 }; /* bytes of the longest line, its end included */

const char *gld_op_name(gld_op op); /* as in fh1_ops: "ssd_scan" */

typedef enum {
    GLD_REGIME_LATTICE,     /* small integers, decays exactly 0 or 1: nothing rounds, tolerance zero */
    GLD_REGIME_TRAINED,     /* statistics of trained checkpoints: slow heads, outlier channels, wide norm weights */
    GLD_REGIME_ADVERSARIAL, /* cancellation, underflow, subnormals, huge dt, near ties, A_log at its ends */
    GLD_REGIME_RECORDED,    /* cut from a recorded trace and its model */
    GLD_REGIME_FUZZED,      /* the others mixed element by element, extremes included */
    GLD_REGIME_COUNT
} gld_regime;

const char *gld_regime_name(gld_regime r);

/* Sizes that an op does not read keep their defaults. Letters as in docs/numerics.md. */
typedef struct {
    gld_op op;
    gld_regime regime;
    fh1_dtype weights; /* F32, BF16 or F16: how parameters are stored */
    int64_t seed;
    int64_t T;       /* rows, tokens */
    int64_t past;    /* columns before the call: keys of attention, first position of rope */
    int64_t docs;    /* documents in the T tokens */
    int64_t D, F, V; /* widths: rmsnorm, gated_norm, residual, embed D; linear D to F; swiglu F; head and loss V */
    int64_t H, P, N, G, K, Q, c;
    int64_t Hq, Hkv, A; /* rope rotates Hq heads */
    int64_t bias;       /* linear and conv1d have one */
    int64_t state;      /* scans and convs start from a state or window that is not 0 */
    int64_t limits;     /* time_step_limit is finite on both sides */
    int64_t weight;     /* rmsnorm has one */
    int64_t norm;       /* the gate has a norm */
    int64_t norm_before_gate;
    int64_t mix;         /* the residual takes two branches */
    int64_t layer, step; /* recorded: where to cut */
    char trace[256];     /* recorded: trace file, */
    char model[256];     /* and the folder of its model */
    /* Who is judged; kept for the line, not read by gld_op_case_run. Empty: not said. */
    char engine[32], contract[64], fault[64];
} gld_op_case;

typedef enum {
    GLD_FIELD_SIZE,   /* smaller is simpler */
    GLD_FIELD_OPTION, /* 0 or 1 */
    GLD_FIELD_PLACE   /* seed, layer, step: another value is another case, not a simpler one */
} gld_field_kind;

/* One integer of a case: *(int64_t *)((char *)c + offset). */
typedef struct {
    const char *name; /* "T": the option is --T=N */
    size_t offset;
    int64_t min, max, usual;
    gld_field_kind kind;
    unsigned ops; /* bit 1u << gld_op of each op that reads it */
    const char *what;
} gld_op_field;

const gld_op_field *gld_op_field_at(int i); /* NULL past the last */
int64_t gld_op_field_get(const gld_op_field *f, const gld_op_case *c);
void gld_op_field_set(const gld_op_field *f, gld_op_case *c, int64_t v);

/* All fields usual: lattice, seed 1, bf16 weights. */
gld_op_case gld_op_case_new(gld_op op);
/* From options separated by blanks; --op is required, the rest is usual where absent. Checked as by gld_op_case_check.
 * FH1_E_INPUT names an unknown option, one that is given twice, or one that the op does not read. */
fh1_status gld_op_case_parse(const char *line, gld_op_case *out);
/* The line that parses to this case: op and regime, then what is not usual. Cut at `size`; returns buf. */
const char *gld_op_case_print(const gld_op_case *c, char *buf, size_t size);
/* Ranges, heads that divide, and no more than 2^24 numbers in one array. FH1_E_INPUT names the option. */
fh1_status gld_op_case_check(const gld_op_case *c);

/* Shapes, options and data all drawn from `seed`. */
gld_op_case gld_op_case_fuzzed(gld_op op, int64_t seed);
/* The cases that every engine runs: each op in five regimes, odd and even shapes. False past the last. */
bool gld_op_case_standard(int i, gld_op_case *c);

typedef struct {
    fh1_verdict verdict;
    double margin;           /* largest error / allowed; 0 or infinite on lattice data */
    double rms_ratio;        /* largest RMS error over the gauge's RMS, whole outputs and units; 0 without gauge */
    double max_err, allowed; /* at `where` */
    double judged, truth;    /* the values there */
    char where[96];          /* "y[3, 1, 0]" */
    char reason[256];        /* FAIL: which rule; MISTRUSTED: which input; SKIP: why */
} gld_op_result;

/* Runs the op in both engines and compares. `truth` is an exact engine with gauges. An engine that lacks the op is
 * SKIP. FH1_E_INPUT: a bad case, a trace or model that cannot be read; FH1_E_INTERNAL: memory, an op that fails. */
fh1_status gld_op_case_run(const gld_op_case *c, fh1_engine *truth, fh1_engine *judged, gld_op_result *r);
/* The same without asking whether a lost input would show: several times faster, never MISTRUSTED. For one honest case
 * against many faulty engines. */
fh1_status gld_op_case_compare(const gld_op_case *c, fh1_engine *truth, fh1_engine *judged, gld_op_result *r);
