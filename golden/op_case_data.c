/* A case laid out: arrays, documents, constants, and the one way to run an op over them. */
#include "golden/op_case_impl.h"

#include <stdio.h>
#include <string.h>

const gld_op_def *gld_op_def_of(gld_op op)
{
    return gld_op_network[op].call ? &gld_op_network[op] : &gld_op_mixer[op];
}

/* -- arrays ------------------------------------------------------------------------------------ */

static gld_array make(const char *name, int64_t n0, int64_t n1, int64_t n2)
{
    gld_array a = {.name = name, .n = 1};
    const int64_t size[3] = {n0, n1, n2};
    for (int i = 0; i < 3 && size[i] >= 0; ++i) {
        a.shape[a.rank++] = size[i];
        a.n *= size[i];
    }
    return a;
}

gld_array *gld_add_in(gld_op_data *d, const char *name, gld_kind kind, int64_t n0, int64_t n1, int64_t n2)
{
    gld_array *a = &d->in[d->n_in++];
    *a = make(name, n0, n1, n2);
    a->kind = kind;
    a->stored = d->profile->storage;
    return a;
}

gld_array *gld_add_param(gld_op_data *d, const char *name, gld_kind kind, int64_t n0, int64_t n1)
{
    gld_array *a = gld_add_in(d, name, kind, n0, n1, -1);
    a->param = true;
    a->stored = d->c->weights;
    return a;
}

void gld_add_out(gld_op_data *d, const char *name, int64_t n0, int64_t n1, int64_t n2)
{
    d->out[d->n_out++] = make(name, n0, n1, n2);
}

gld_probe *gld_add_probe(gld_op_data *d, const char *what, gld_array *a, const char *unit, int64_t inner, int64_t units)
{
    gld_probe *p = &d->probe[d->n_probes++];
    *p = (gld_probe){.what = what, .array = a, .picked = {1, 1}, .only = -1, .unit = unit};
    p->moves[0] = (gld_units){inner, units};
    /* zeros strewn anywhere, or a real weight that happens to be small, may hide a channel, never the whole */
    const bool real = d->c->regime == GLD_REGIME_RECORDED && strcmp(unit, "channel") == 0;
    if (d->c->regime == GLD_REGIME_FUZZED || real) p->moves[0] = (gld_units){d->out[0].n, 1};
    return p;
}

void gld_array_store(gld_array *a)
{
    if (!a->param || !a->v) return;
    fh1_from_f64(a->t.data, a->stored, a->v, a->n);
}

/* To what is stored, in one rounding: both engines then see the same numbers. f64 storage takes f32 numbers. */
static void round_to_stored(gld_array *a)
{
    static const fh1_round kind[] = {[FH1_BF16] = FH1_ROUND_BF16, [FH1_F16] = FH1_ROUND_F16};
    const fh1_round r = a->stored == FH1_BF16 || a->stored == FH1_F16 ? kind[a->stored] : FH1_ROUND_F32;
    for (int64_t i = 0; i < a->n; ++i) a->v[i] = fh1_round_f64(r, a->v[i]);
}

static fh1_status numbers(fh1_arena *arena, int64_t n, const char *name, double **v)
{
    void *p;
    FH1_TRY(fh1_arena_get(arena, (size_t)(n > 0 ? n : 1) * sizeof(double), name, &p));
    *v = p;
    return NULL;
}

static fh1_status allocate(gld_op_data *d)
{
    for (int i = 0; i < d->n_in; ++i) {
        gld_array *a = &d->in[i];
        a->t = fh1_view(NULL, a->stored, a->rank, a->shape);
        if (a->n == 0) continue;
        FH1_TRY(numbers(d->arena, a->n, a->name, &a->v));
        if (a->param) FH1_TRY(fh1_arena_get(d->arena, fh1_n_bytes(&a->t), a->name, &a->t.data));
    }
    return NULL;
}

/* -- documents --------------------------------------------------------------------------------- */

/* Cuts at random places; ids rise, not always by one. */
static void cut_documents(gld_op_data *d)
{
    const int64_t T = d->c->T, docs = d->c->docs;
    const fh1_stream s = fh1_stream_open((uint64_t)d->c->seed, "op_case/documents");
    int64_t left = docs - 1, id = 2;
    for (int64_t t = 0; t < T; ++t) {
        const bool cut = t > 0 && left > 0 && fh1_random_below(s, (uint64_t)t, T - t) < left;
        if (cut) {
            --left;
            id += 1 + (t & 1);
        }
        d->doc[t] = id;
    }
}

/* The first key that a query sees: its document's; the oldest column of the first document may be padding. */
static void first_keys(gld_op_data *d)
{
    int64_t first = d->c->past > 1 ? 1 : 0;
    for (int64_t t = 0; t < d->c->T; ++t) {
        if (d->doc && t > 0 && d->doc[t] != d->doc[t - 1]) first = d->c->past + t;
        d->first[t] = first;
    }
}

static fh1_status whole_numbers(gld_op_data *d)
{
    const size_t bytes = (size_t)d->c->T * sizeof(int64_t);
    void *p[3];
    for (int i = 0; i < 3; ++i) FH1_TRY(fh1_arena_get(d->arena, bytes, "ids and documents", &p[i]));
    d->ints = p[0];
    d->first = p[1];
    d->doc = d->c->docs > 1 ? p[2] : NULL;
    for (int64_t t = 0; t < d->c->T; ++t) d->ints[t] = 0;
    if (d->doc) cut_documents(d);
    first_keys(d);
    return NULL;
}

/* Token ids, labels (a few that do not count, never the last) or positions. */
static void fill_ints(gld_op_data *d)
{
    const gld_op_case *c = d->c;
    const fh1_stream s = fh1_stream_open((uint64_t)c->seed, "op_case/ids");
    for (int64_t t = 0; t < c->T; ++t) {
        if (c->op == GLD_OP_ROPE) d->ints[t] = c->past + t;
        else d->ints[t] = fh1_random_below(s, (uint64_t)t, c->V);
        const bool ignored = c->op == GLD_OP_CROSS_ENTROPY && t + 1 < c->T && t % 5 == 2;
        if (ignored) d->ints[t] = -100;
    }
}

/* -- rope -------------------------------------------------------------------------------------- */

/* The rope types with the parameters that published models use. */
static void choose_rope(gld_op_data *d)
{
    fh1_rope *r = &d->config.rope;
    const fh1_stream s = fh1_stream_open((uint64_t)d->c->seed, "op_case/rope");
    const int type = d->c->regime == GLD_REGIME_TRAINED ? 0 : (int)fh1_random_below(s, 0, 5);
    d->config.A = d->c->A;
    *r = (fh1_rope){.type = (fh1_rope_type)type, .theta = type == 0 ? 1e11 : 1e5, .max_position = 4096};
    if (type == 0) return;
    r->factor = 4;
    r->original_max_position = 1024;
    r->beta_fast = 32;
    r->beta_slow = 1;
    r->truncate = true;
    r->low_freq_factor = 1;
    r->high_freq_factor = 4;
}

/* -- the whole --------------------------------------------------------------------------------- */

static fh1_status fill(gld_op_data *d)
{
    d->eps = 1e-5;
    fill_ints(d);
    choose_rope(d);
    switch (d->c->regime) {
    case GLD_REGIME_LATTICE: FH1_TRY(gld_fill_lattice(d)); break;
    case GLD_REGIME_RECORDED: FH1_TRY(gld_fill_recorded(d)); break;
    default: gld_fill_drawn(d);
    }
    for (int i = 0; i < d->n_in; ++i) {
        gld_array *a = &d->in[i];
        const bool before = a->kind == GLD_KIND_STATE || a->kind == GLD_KIND_WINDOW;
        for (int64_t k = 0; k < a->n && before && !d->c->state; ++k) a->v[k] = 0;
        if (!a->v || *d->skip) continue;
        round_to_stored(a);
        gld_array_store(a);
    }
    return NULL;
}

fh1_status gld_op_data_new(const gld_op_case *c, const fh1_profile *judged, gld_op_data *d)
{
    memset(d, 0, sizeof *d);
    FH1_TRY(gld_op_case_check(c));
    d->c = c;
    d->profile = judged;
    d->correlated = 1;
    fh1_status s = fh1_arena_new(&d->arena);
    if (!s) s = whole_numbers(d);
    if (!s) gld_op_def_of(c->op)->lay_out(d);
    if (!s) s = allocate(d);
    if (!s) s = fill(d);
    if (s) gld_op_data_free(d);
    return s;
}

void gld_op_data_free(gld_op_data *d)
{
    fh1_arena_free(d->arena);
    d->arena = NULL;
}

/* -- running ----------------------------------------------------------------------------------- */

static fh1_status buffers(gld_op_call *k)
{
    const gld_op_data *d = k->d;
    const int64_t bytes = fh1_dtype_bits(k->e->dtype) / 8;
    for (int i = 0; i < d->n_in; ++i) {
        const gld_array *a = &d->in[i];
        if (a->param) continue;
        FH1_TRY(fh1_arena_get(k->scratch, (size_t)((a->n + 1) * bytes), a->name, &k->in[i]));
        if (a->n > 0) fh1_from_f64(k->in[i], k->e->dtype, a->v, a->n);
    }
    for (int i = 0; i < d->n_out; ++i)
        FH1_TRY(fh1_arena_get(k->scratch, (size_t)((d->out[i].n > 0 ? d->out[i].n : 1) * bytes), d->out[i].name,
                              &k->out[i]));
    return NULL;
}

fh1_status gld_op_apply(fh1_engine *e, bool truth, const gld_op_data *d, fh1_arena *scratch, double *const *y,
                        bool *outside)
{
    gld_op_call k = {.e = e, .truth = truth, .d = d, .scratch = scratch};
    *outside = false;
    fh1_status s = buffers(&k);
    if (!s) s = gld_op_def_of(d->c->op)->call(&k);
    if (!s) *outside = fh1_arena_check(scratch) != NULL;
    for (int i = 0; i < d->n_out && !s; ++i) fh1_to_f64(y[i], k.out[i], e->dtype, d->out[i].n);
    fh1_arena_clear(scratch);
    return s;
}
