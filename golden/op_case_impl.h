/* What the files op_case_*.c share: a case laid out in arrays. Internal to golden/. */
#pragma once

#include "golden/op_case.h"
#include "oracle/arena.h"
#include "oracle/random.h"

/* What an array stands for in the model: decides how its data are drawn and where a recording is cut. */
typedef enum {
    GLD_KIND_HIDDEN, /* residual stream, before a norm */
    GLD_KIND_ACT,    /* after a norm: what linear layers read */
    GLD_KIND_WEIGHT,
    GLD_KIND_NORM,
    GLD_KIND_BIAS,
    GLD_KIND_CONV, /* columns that enter the conv */
    GLD_KIND_WINDOW,
    GLD_KIND_TAPS,
    GLD_KIND_CONV_BIAS,
    GLD_KIND_DT_RAW,
    GLD_KIND_DT_BIAS,
    GLD_KIND_DT,
    GLD_KIND_X,
    GLD_KIND_B,
    GLD_KIND_C,
    GLD_KIND_A_LOG,
    GLD_KIND_D,
    GLD_KIND_STATE,
    GLD_KIND_Y, /* scan output */
    GLD_KIND_Z, /* gate of the mixer */
    GLD_KIND_Q,
    GLD_KIND_KEY,
    GLD_KIND_VALUE,
    GLD_KIND_GATE, /* gate of the MLP */
    GLD_KIND_UP,
    GLD_KIND_BRANCH,
    GLD_KIND_LOGITS,
    GLD_KIND_TABLE
} gld_kind;

typedef struct {
    const char *name;
    gld_kind kind;
    bool param;       /* handed over as fh1_tensor in the case's weight type; else dense in the compute type */
    fh1_dtype stored; /* type that holds every value exactly */
    int rank;
    int64_t shape[3], n;
    double *v;    /* NULL: absent, an output, or not filled */
    fh1_tensor t; /* param only, or of an absent one with data NULL */
} gld_array;

/* Elements of an output that belong together: i belongs to unit (i / inner) % units. */
typedef struct {
    int64_t inner, units;
} gld_units;

/* One input that a fault could lose. Its elements (of unit `only`, -1: all) are set to `value`; then each unit of the
 * output must move by more than is allowed. */
typedef struct {
    const char *what;
    gld_array *array; /* one of array, scalar, ints; all NULL: documents become one */
    double *scalar;
    int64_t *ints; /* T of them, each goes one on, modulo `modulus` where that is > 0 */
    int64_t modulus;
    double value;
    gld_units picked;
    int64_t only;
    gld_units moves[2]; /* per output; units 0: not looked at. Where both have units, either may move */
    const char *unit;   /* "head" */
} gld_probe;

enum { GLD_MAX_IN = 8, GLD_MAX_OUT = 2, GLD_MAX_PROBES = 80 };

typedef struct {
    const gld_op_case *c;
    const fh1_profile *profile; /* of the judged engine */
    fh1_arena *arena;
    gld_array in[GLD_MAX_IN], out[GLD_MAX_OUT];
    int n_in, n_out;
    bool exact_out[GLD_MAX_OUT]; /* copies and choices: same bits in every regime */
    int64_t correlated;          /* elements of out[0] whose errors are not independent */
    fh1_round store;             /* how the contract rounds out[0]; on lattice data nothing else rounds */
    int64_t n_ints;
    int64_t *ints;  /* token ids, labels or positions [T]; NULL where the op has none */
    int64_t *doc;   /* [T]; NULL: one document */
    int64_t *first; /* attention: first key [T] */
    double eps, lo, hi, m[2];
    fh1_config config; /* rope */
    gld_probe probe[GLD_MAX_PROBES];
    int n_probes;
    char skip[160]; /* why there are no such data; empty: there are */
} gld_op_data;

/* An op being run: arrays in the compute type of `e`. */
typedef struct {
    fh1_engine *e;
    bool truth;
    const gld_op_data *d;
    void *in[GLD_MAX_IN]; /* NULL for params */
    void *out[GLD_MAX_OUT];
    fh1_arena *scratch;
} gld_op_call;

typedef struct {
    void (*lay_out)(gld_op_data *d); /* arrays, probes, constants; no values */
    bool (*offered)(const fh1_ops *ops);
    fh1_status (*call)(const gld_op_call *k);
    /* Gauges of the outputs that are not exact. *offered is false where the truth has none for the op. */
    fh1_status (*gauge)(const gld_op_data *d, const fh1_gauge_ops *ops, double *const *y, const fh1_gauge *g,
                        bool *offered);
} gld_op_def;

/* op_case_network.c has those without state, op_case_mixer.c the others. */
extern const gld_op_def gld_op_network[GLD_OP_COUNT], gld_op_mixer[GLD_OP_COUNT];
const gld_op_def *gld_op_def_of(gld_op op);

/* For lay_out: an input or output; a size of -1 ends the shape. */
gld_array *gld_add_in(gld_op_data *d, const char *name, gld_kind kind, int64_t n0, int64_t n1, int64_t n2);
gld_array *gld_add_param(gld_op_data *d, const char *name, gld_kind kind, int64_t n0, int64_t n1);
void gld_add_out(gld_op_data *d, const char *name, int64_t n0, int64_t n1, int64_t n2);
/* A probe that loses all of `a`; out[0] is looked at in units of `inner`. The result may be changed. */
gld_probe *gld_add_probe(gld_op_data *d, const char *what, gld_array *a, const char *unit, int64_t inner,
                         int64_t units);

/* Memory, values of all arrays, ids, documents; d->skip where the regime has none for this case. */
fh1_status gld_op_data_new(const gld_op_case *c, const fh1_profile *judged, gld_op_data *d);
void gld_op_data_free(gld_op_data *d);
/* After a->v changed: a->t again. */
void gld_array_store(gld_array *a);
/* Runs the op; outputs as f64 into y[k], NaN where it wrote nothing. *outside: it wrote where it must not. */
fh1_status gld_op_apply(fh1_engine *e, bool truth, const gld_op_data *d, fh1_arena *scratch, double *const *y,
                        bool *outside);

/* The regimes: assign a->v, before it is rounded to what is stored. */
fh1_status gld_fill_lattice(gld_op_data *d);
void gld_fill_drawn(gld_op_data *d);
fh1_status gld_fill_recorded(gld_op_data *d);

/* The type that the judged contract stores this tap in, where it is not that of its activations. */
static inline fh1_dtype gld_tap_type(const gld_op_data *d, fh1_tap_id id)
{
    return fh1_profile_tap_dtype(d->profile, id, false, NULL);
}

static inline gld_array *gld_find_in(gld_op_data *d, gld_kind kind)
{
    for (int i = 0; i < d->n_in; ++i)
        if (d->in[i].kind == kind) return &d->in[i];
    return NULL;
}
