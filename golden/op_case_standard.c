/* The cases that every engine runs, and cases drawn from a seed. */
#include "golden/op_case.h"
#include "oracle/random.h"

#include <stdio.h>
#include <string.h>

/* Sizes by the letters an op reads, in this order in the tables below; what an op does not read is ignored. */
typedef struct {
    int64_t T, past, docs, D, F, V, H, P, N, G, K, Q, c, Hq, Hkv, A;
    int64_t bias, state, limits, norm, norm_before_gate, mix;
    fh1_dtype weights;
} shape;

/* Odd and even, below and above lanes, chunks, windows and blocks; several documents, heads per group and options. */
static const shape lattice_shapes[] = {
    {33, 9, 1, 64, 48, 96, 6, 8, 16, 2, 4, 16, 70, 8, 2, 8, 1, 1, 0, 1, 0, 1, FH1_BF16},
    {37, 5, 3, 35, 45, 97, 6, 7, 9, 3, 4, 8, 33, 6, 2, 16, 0, 0, 1, 1, 0, 0, FH1_F32},
    {2, 4, 1, 12, 7, 5, 4, 3, 33, 4, 2, 64, 9, 3, 3, 10, 1, 1, 0, 1, 1, 1, FH1_F32},
    {65, 66, 2, 260, 130, 300, 4, 5, 40, 1, 5, 32, 300, 4, 1, 64, 1, 1, 1, 0, 0, 1, FH1_BF16},
    {1, 40, 1, 33, 33, 33, 2, 16, 130, 2, 3, 16, 17, 10, 5, 4, 1, 1, 0, 1, 0, 1, FH1_F16},
};

static const shape trained_shapes[] = {
    {40, 9, 2, 64, 48, 96, 6, 8, 16, 2, 4, 16, 70, 8, 2, 8, 1, 1, 1, 1, 0, 1, FH1_BF16},
    {133, 3, 1, 96, 80, 64, 3, 16, 33, 3, 4, 64, 24, 6, 3, 32, 0, 1, 0, 1, 1, 0, FH1_F32},
    {4, 130, 1, 33, 45, 97, 6, 7, 9, 1, 3, 8, 33, 6, 1, 16, 1, 1, 0, 0, 0, 1, FH1_F32},
};

static const shape adversarial_shapes[] = {
    {24, 9, 1, 64, 48, 96, 8, 8, 16, 2, 4, 16, 70, 8, 2, 16, 1, 1, 0, 1, 0, 1, FH1_BF16},
    {67, 100000, 2, 33, 45, 97, 12, 7, 9, 3, 4, 32, 33, 6, 2, 32, 1, 1, 1, 1, 1, 0, FH1_F32},
};

/* The geometry of the recorded models (golden/models), so that heads, groups and channels are cut where they were. */
static const shape recorded_shapes[] = {
    {12, 3, 1, 32, 56, 96, 6, 10, 12, 1, 4, 32, 60, 8, 2, 8, 1, 1, 0, 0, 0, 1, FH1_F32},
    {9, 2, 2, 33, 45, 97, 6, 7, 9, 3, 4, 16, 42, 6, 2, 8, 1, 1, 1, 1, 1, 1, FH1_BF16},
    {12, 0, 1, 24, 24, 64, 1, 1, 8, 1, 4, 16, 48, 1, 1, 8, 0, 1, 0, 0, 0, 0, FH1_F32},
    {9, 0, 2, 27, 27, 61, 1, 1, 5, 1, 3, 16, 45, 1, 1, 8, 0, 1, 0, 0, 0, 0, FH1_BF16},
};

static const struct {
    const char *model, *trace;
    int64_t step, layer;
} recordings[] = {
    {"golden/models/mini-0.5b", "golden/traces/mini-0.5b/decode8.safetensors", 0, 1},
    {"golden/models/odd-bf16", "golden/traces/odd-bf16/decode8.safetensors", 0, 2},
    /* a state per channel */
    {"golden/models/mamba-untied", "golden/traces/mamba-untied/decode8.safetensors", 0, 1},
    {"golden/models/mamba-tied-bf16", "golden/traces/mamba-tied-bf16/decode8.safetensors", 0, 1},
};

#define COUNT(a) ((int)(sizeof(a) / sizeof *(a)))
enum { FUZZED = 2 }; /* cases of an op */

static void apply(const shape *s, gld_op_case *c)
{
    const struct {
        const char *name;
        int64_t v;
    } all[] = {{"T", s->T},           {"past", s->past},  {"docs", s->docs},
               {"D", s->D},           {"F", s->F},        {"V", s->V},
               {"H", s->H},           {"P", s->P},        {"N", s->N},
               {"G", s->G},           {"K", s->K},        {"Q", s->Q},
               {"c", s->c},           {"Hq", s->Hq},      {"Hkv", s->Hkv},
               {"A", s->A},           {"bias", s->bias},  {"state", s->state},
               {"limits", s->limits}, {"norm", s->norm},  {"norm_before_gate", s->norm_before_gate},
               {"mix", s->mix},       {"weight", s->norm}};
    c->weights = s->weights;
    for (int i = 0; gld_op_field_at(i); ++i) {
        const gld_op_field *f = gld_op_field_at(i);
        for (int k = 0; k < COUNT(all); ++k)
            if ((f->ops >> c->op & 1) && strcmp(f->name, all[k].name) == 0) gld_op_field_set(f, c, all[k].v);
    }
    if (c->op == GLD_OP_GATED_NORM) c->D -= c->D % c->G;
    /* positions of a rope are far; of too many keys that all but tie, one would not show */
    const bool keys = c->op == GLD_OP_ATTENTION || c->op == GLD_OP_ATTENTION_STEP;
    if (keys && c->past > 200) c->past = c->op == GLD_OP_ATTENTION ? 70 : 24;
    if (c->T == 1) c->state = 1; /* or the first taps and the decay would have nothing to act on */
}

/* One of 1, … most, the small ones as likely as the large ones. */
static int64_t size(fh1_stream s, uint64_t i, int64_t most)
{
    int64_t bits = 0;
    while ((int64_t)1 << bits < most) ++bits;
    const int64_t upto = (int64_t)1 << fh1_random_below(s, 2 * i, bits + 1);
    return 1 + fh1_random_below(s, 2 * i + 1, upto < most ? upto : most);
}

gld_op_case gld_op_case_fuzzed(gld_op op, int64_t seed)
{
    static const fh1_dtype weights[] = {FH1_F32, FH1_BF16, FH1_F16};
    const fh1_stream s = fh1_stream_open((uint64_t)seed, "op_case/shape");
    const int64_t G = size(s, 0, 4), Hkv = size(s, 1, 4), T = 1 + size(s, 2, 90);
    const shape drawn = {.T = T,
                         .past = size(s, 3, 100),
                         .docs = fh1_random_below(s, 100, 3) == 0 && T > 4 ? 2 : 1,
                         .D = G * (3 + size(s, 4, 64)),
                         .F = 3 + size(s, 5, 64),
                         .V = 7 + size(s, 6, 200),
                         .H = G * size(s, 7, 4),
                         .P = 3 + size(s, 8, 16),
                         .N = 3 + size(s, 9, 64),
                         .G = G,
                         .K = 1 + size(s, 10, 4),
                         .Q = size(s, 11, 64),
                         .c = 3 + size(s, 12, 70),
                         .Hq = Hkv * size(s, 13, 4),
                         .Hkv = Hkv,
                         .A = 2 + 2 * size(s, 14, 32),
                         .bias = fh1_random_below(s, 101, 2),
                         .state = 1,
                         .norm = fh1_random_below(s, 102, 3) > 0,
                         .norm_before_gate = fh1_random_below(s, 103, 2),
                         .mix = fh1_random_below(s, 104, 2),
                         .weights = weights[fh1_random_below(s, 105, 3)]};
    gld_op_case c = gld_op_case_new(op);
    c.regime = GLD_REGIME_FUZZED;
    apply(&drawn, &c);
    if (op == GLD_OP_SELECTIVE_STEP) c.c += 16; /* numbers in which a lost input can show */
    c.seed = seed;
    return c;
}

static void set_text(char *to, size_t n, const char *text)
{
    snprintf(to, n, "%s", text);
}

enum { RECORDED = 2 }; /* cases of an op: of the first two recordings, or of the last two */

static void recorded(int k, gld_op_case *c)
{
    if (c->op == GLD_OP_SELECTIVE_SCAN || c->op == GLD_OP_SELECTIVE_STEP) k += RECORDED;
    apply(&recorded_shapes[k], c);
    c->regime = GLD_REGIME_RECORDED;
    c->layer = recordings[k].layer;
    c->step = recordings[k].step;
    set_text(c->model, sizeof c->model, recordings[k].model);
    set_text(c->trace, sizeof c->trace, recordings[k].trace);
}

bool gld_op_case_standard(int i, gld_op_case *c)
{
    const int n_lattice = COUNT(lattice_shapes), n_trained = COUNT(trained_shapes);
    const int n_adversarial = COUNT(adversarial_shapes), n_recorded = RECORDED;
    const int per_op = n_lattice + n_trained + n_adversarial + n_recorded + FUZZED;
    if (i < 0 || i >= per_op * GLD_OP_COUNT) return false;
    *c = gld_op_case_new((gld_op)(i / per_op));
    int k = i % per_op;
    if (k < n_lattice) {
        apply(&lattice_shapes[k], c);
    } else if ((k -= n_lattice) < n_trained) {
        apply(&trained_shapes[k], c);
        c->regime = GLD_REGIME_TRAINED;
    } else if ((k -= n_trained) < n_adversarial) {
        apply(&adversarial_shapes[k], c);
        c->regime = GLD_REGIME_ADVERSARIAL;
    } else if ((k -= n_adversarial) < n_recorded) {
        recorded(k, c);
    } else {
        *c = gld_op_case_fuzzed(c->op, 101 + k - n_recorded);
        return true;
    }
    c->seed = 1 + i % per_op;
    return true;
}
