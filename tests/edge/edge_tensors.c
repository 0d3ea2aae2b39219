/* D-106, D-107, D-109: what an engine reads, how large what it computes becomes, and how much it computes again; seen
 * by a sink, at the taps of a call. */
#include "tests/edge/edge_file_cases.h"
#include "tests/edge/edge_rows.h"

#include "convert/model_open.h"
#include "oracle/compare.h"
#include "oracle/random.h"

#include <math.h>
#include <string.h>

static bool on_device(const edge_run *r)
{
    return r->bit & (EDGE_CUDA_HOST | EDGE_CUDA);
}

/* ---- calls that are watched ---- */

enum { MOST_TAPS = 128, WORDS = 6 };

/* The values of one call, tap by tap in the order they come. */
typedef struct {
    fh1_tap_id id[MOST_TAPS];
    int64_t layer[MOST_TAPS];
    void *data[MOST_TAPS];
    size_t bytes[MOST_TAPS];
    int n;
} tape;

typedef struct {
    tape *record;       /* NULL: nothing is kept */
    const tape *forced; /* each tap is compared with this one and then set to it */
    int at;             /* the next tap */
    fh1_tap_id differs[MOST_TAPS];
    int64_t differs_layer[MOST_TAPS];
    int n_differs;
    int64_t tokens;                /* that entered the model */
    double largest[FH1_TAP_COUNT]; /* of any layer */
} watcher;

static fh1_status watch(void *user, const fh1_tap_event *e)
{
    watcher *w = user;
    const size_t n = fh1_n_bytes(&e->value);
    if (e->id == FH1_TAP_EMBED) w->tokens += e->value.shape[0];
    for (int64_t i = 0; i < fh1_n_elems(&e->value); ++i) {
        const double v = fabs(fh1_get(&e->value, i));
        if (!(v <= w->largest[e->id])) w->largest[e->id] = v;
    }
    if (w->at == MOST_TAPS) return fh1_fail(FH1_E_INTERNAL, "a call has more than %d taps", MOST_TAPS);
    const int i = w->at++;
    if (w->record) {
        tape *t = w->record;
        t->id[i] = e->id, t->layer[i] = e->layer, t->bytes[i] = n;
        if (!(t->data[i] = malloc(n + 1))) return fh1_no_memory(n, "a tap");
        memcpy(t->data[i], e->value.data, n);
        t->n = i + 1;
    }
    if (!w->forced) return NULL;
    if (i >= w->forced->n || w->forced->id[i] != e->id || w->forced->bytes[i] != n)
        return fh1_fail(FH1_E_WRONG, "two calls have different taps");
    if (memcmp(w->forced->data[i], e->value.data, n) == 0) return NULL;
    w->differs[w->n_differs] = e->id;
    w->differs_layer[w->n_differs++] = e->layer;
    memcpy(e->value.data, w->forced->data[i], n);
    return NULL;
}

static void tape_free(tape *t)
{
    for (int i = 0; i < t->n; ++i) free(t->data[i]);
    *t = (tape){0};
}

/* One row of n words on `cache`, NULL: an empty one; logits of the last word into `logits` if it is not NULL. */
static fh1_status call(fh1_engine *e, const fh1_model *m, const int64_t *ids, int64_t n, fh1_cache *cache, void *logits,
                       watcher *w)
{
    fh1_cache *own = cache;
    const fh1_tap_sink sink = {.user = w, .tap = watch};
    const fh1_batch b = {.B = 1, .T = n, .ids = ids};
    if (!own) FH1_TRY(fh1_cache_new(&m->config, e->dtype, 1, &own));
    fh1_status s = e->forward(e, m, &b, own, logits ? 1 : n, logits, w ? &sink : NULL);
    if (!cache) fh1_cache_free(own);
    return s;
}

static void words(const edge_run *r, const fh1_model *m, const char *name, int64_t n, int64_t *ids)
{
    const fh1_stream s = fh1_stream_open(r->seed, name);
    for (int64_t i = 0; i < n; ++i) ids[i] = fh1_random_below(s, (uint64_t)i, m->config.V);
}

/* ---- D-106 ---- */

static const struct {
    const char *part;
    fh1_tap_id tap;
} reads[] = {{"input_layernorm.", FH1_TAP_INPUT_LAYERNORM},
             {"self_attn.q_proj.", FH1_TAP_Q_PROJ},
             {"self_attn.k_proj.", FH1_TAP_K_PROJ},
             {"self_attn.v_proj.", FH1_TAP_V_PROJ},
             {"self_attn.o_proj.", FH1_TAP_O_PROJ},
             {"mamba.in_proj.", FH1_TAP_IN_PROJ},
             {"mamba.conv1d.", FH1_TAP_CONV_ACT},
             {"mamba.dt_bias", FH1_TAP_DT},
             {"mamba.A_log", FH1_TAP_SSD},
             {"mamba.D", FH1_TAP_SSD},
             {"mamba.norm.", FH1_TAP_GATED},
             {"mamba.out_proj.", FH1_TAP_OUT_PROJ},
             {"pre_ff_layernorm.", FH1_TAP_PRE_FF_LAYERNORM},
             {"feed_forward.gate_proj.", FH1_TAP_GATE_PROJ},
             {"feed_forward.up_proj.", FH1_TAP_UP_PROJ},
             {"feed_forward.down_proj.", FH1_TAP_DOWN_PROJ},
             {"final_layernorm.", FH1_TAP_FINAL_LAYERNORM},
             {"lm_head.", FH1_TAP_LOGITS},
             {"embed_tokens.", FH1_TAP_EMBED}};

static fh1_tap_id read_by(const char *name)
{
    for (size_t i = 0; i < sizeof reads / sizeof *reads; ++i)
        if (strstr(name, reads[i].part)) return reads[i].tap;
    return FH1_TAP_COUNT;
}

/* Every element is moved by a quarter of the tensor's RMS, or by 1/4. */
static void perturb(const fh1_tensor *t)
{
    fh1_rms all = {0};
    for (int64_t i = 0; i < fh1_n_elems(t); ++i) fh1_rms_add(&all, 0, fh1_get(t, i), i);
    const double by = fh1_rms_ref(&all) > 0 ? 0.25 * fh1_rms_ref(&all) : 0.25;
    for (int64_t i = 0; i < fh1_n_elems(t); ++i) fh1_set(t, i, fh1_get(t, i) + by);
}

/* A device is slow on the CPU: two words, which are no step. */
static int64_t words_of(const edge_run *r)
{
    return on_device(r) ? 2 : WORDS;
}

/* With all other taps set to what they were, exactly the tap of the tensor's own product, in its layer, differs. */
static fh1_status read_once(edge_run *r, const fh1_model *m, const fh1_weight *t, const tape *base, const int64_t *ids)
{
    fh1_engine *e;
    watcher w = {.forced = base};
    const size_t n = fh1_n_bytes(&t->t);
    void *was = malloc(n);
    if (!was) return fh1_no_memory(n, t->name);
    memcpy(was, t->t.data, n);
    perturb(&t->t);
    edge_contract(r, r->profile); /* another model */
    fh1_status s = edge_engine(r, m, &e);
    if (!s) s = call(e, m, ids, words_of(r), NULL, NULL, &w);
    memcpy(t->t.data, was, n);
    free(was);
    if (s) return s;
    const fh1_tap_id own = read_by(t->name);
    const bool tied = m->config.tied && own == FH1_TAP_EMBED;
    FH1_TRY(edge_require(r, w.n_differs > 0, "%s is not read: no tap differs", t->name));
    FH1_TRY(edge_require(r, w.n_differs == 1 + tied, "%s is read %d times", t->name, w.n_differs));
    int64_t layer = 0;
    sscanf(t->name, "model.layers.%ld.", &layer);
    FH1_TRY(edge_require(r, w.differs[0] == own && w.differs_layer[0] == layer, "%s is read elsewhere", t->name));
    return edge_require(r, !tied || w.differs[1] == FH1_TAP_LOGITS, "%s is not read as the head", t->name);
}

static fh1_status each_tensor(edge_run *r, const fh1_model *m, void *unused)
{
    (void)unused;
    fh1_engine *e;
    int64_t ids[WORDS];
    static tape base;
    watcher w = {.record = &base};
    words(r, m, "words", WORDS, ids);
    FH1_TRY(edge_engine(r, m, &e));
    fh1_status s = call(e, m, ids, words_of(r), NULL, NULL, &w);
    for (int64_t i = 0; i < m->n_weights && !s; ++i) {
        const char *name = m->weights[i].name;
        if (on_device(r) && strstr(name, "layers.") && !strstr(name, "layers.1.")) continue; /* slow: one layer */
        s = read_once(r, m, &m->weights[i], &base, ids);
    }
    tape_free(&base);
    return s;
}

/* A checkpoint that counts the rows that are asked of it. */
typedef struct {
    int64_t *rows; /* per tensor of `below` */
} counter;

static fh1_status count_rows(cvt_ckpt *c, int64_t t, int64_t first, int64_t n, void *dst)
{
    counter *k = c->state;
    __atomic_add_fetch(&k->rows[c->tensors[t].source], n, __ATOMIC_RELAXED);
    return cvt_ckpt_read_rows(c->below, c->tensors[t].source, first, n, dst);
}

static void nothing_to_free(cvt_ckpt *c)
{
    (void)c;
}

/* The reader asks for every row of every tensor once. */
static fh1_status loaded_once(edge_run *r, const fh1_model *m, void *unused)
{
    (void)unused;
    static const cvt_ckpt_ops ops = {.read_rows = count_rows, .free_state = nothing_to_free};
    char path[EDGE_PATH];
    int64_t rows[256] = {0};
    counter k = {rows};
    cvt_ckpt *below, *c;
    fh1_model back;
    FH1_TRY(edge_save(r, m, "counted", EDGE_FORM_5));
    FH1_TRY(cvt_ckpt_open(edge_path(r, "counted", path), &below));
    if (below->n_tensors > 256) return fh1_fail(FH1_E_INTERNAL, "too many tensors to count");
    FH1_TRY(cvt_ckpt_view(below, &c));
    c->state = &k;
    c->ops = &ops;
    fh1_status s = cvt_model_from_ckpt(c, &back);
    if (!s && edge_plants(r, "tensor_loaded_twice")) {
        fh1_model_free(&back);
        s = cvt_model_from_ckpt(c, &back);
    }
    if (!s) fh1_model_free(&back);
    for (int64_t i = 0; i < below->n_tensors && !s; ++i)
        s = edge_require(r, rows[i] == cvt_ckpt_rows(&below->tensors[i]), "%s: %d rows are read of %d",
                         below->tensors[i].name, (int)rows[i], (int)cvt_ckpt_rows(&below->tensors[i]));
    cvt_ckpt_close(c);
    return s;
}

fh1_status edge_each_tensor(edge_run *r)
{
    char tied[1024];
    snprintf(tied, sizeof tied, "%s,tied=1", edge_model_text(0));
    FH1_TRY(edge_on_model(r, edge_model_text(1), each_tensor, NULL));
    if (!on_device(r)) FH1_TRY(edge_on_model(r, tied, each_tensor, NULL));
    return r->bit == EDGE_F64 ? edge_on_model(r, edge_model_text(1), loaded_once, NULL) : NULL;
}

/* ---- D-107 ---- */

#define F16_MOST 65504.0
#define BF16_MOST 0x1.fep127

/* Sizes, then the multipliers of the 34B but for those that a fixture of two layers needs smaller to be in its place.
 */
#define SPEC                                                                                                 \
    "layers=2,D=24,F=20,V=29,Hq=4,Hkv=2,A=8,H=4,P=8,N=8,G=2,K=4,Q=8,conv_bias=1,rms_norm=1,weights=trained," \
    "m_emb=5.65685,m_lm=0.0078125,m_attn_out=0.0375,m_ssm_in=0.25,m_gate=0.176777"

static fh1_status ranges(edge_run *r, const fh1_model *m, watcher *w)
{
    fh1_engine *e;
    int64_t ids[WORDS];
    words(r, m, "words", WORDS, ids);
    FH1_TRY(edge_engine(r, m, &e));
    *w = (watcher){0};
    FH1_TRY(call(e, m, ids, WORDS, NULL, NULL, w));
    if (edge_plants(r, "range_seen_behind_the_multiplier")) { /* a fused kernel has no tap in front of it */
        w->largest[FH1_TAP_K_PROJ] *= fabs(m->config.m_key);
        w->largest[FH1_TAP_DOWN_PROJ] *= fabs(m->config.m_down);
    }
    return NULL;
}

/* The taps that would overflow f16 are these and no others; none would overflow bf16. */
static fh1_status report(edge_run *r, const fh1_model *m, const fh1_tap_id *over, int n)
{
    watcher w;
    FH1_TRY(ranges(r, m, &w));
    for (int id = 0; id < FH1_TAP_COUNT; ++id) {
        char name[FH1_TAP_NAME_SIZE];
        bool expected = false;
        for (int k = 0; k < n; ++k) expected |= over[k] == (fh1_tap_id)id;
        fh1_tap_name(FH1_FALCON_H1, (fh1_tap_id)id, 0, name);
        FH1_TRY(edge_require(r, (w.largest[id] > F16_MOST) == expected, "%s reaches %.4g: %s by f16", name,
                             w.largest[id], expected ? "held" : "not held"));
        FH1_TRY(edge_require(r, w.largest[id] <= BF16_MOST, "%s reaches %.4g: not held by bf16", name, w.largest[id]));
    }
    return edge_check_short(r, m);
}

static fh1_status in_range(edge_run *r, const fh1_model *m, void *unused)
{
    (void)unused;
    return report(r, m, NULL, 0);
}

/* The weights have grown by what these two multipliers take away, so what stands in front of them has. */
static fh1_status out_of_range(edge_run *r, const fh1_model *m, void *unused)
{
    (void)unused;
    static const fh1_tap_id over[] = {FH1_TAP_K_PROJ, FH1_TAP_DOWN_PROJ};
    return report(r, m, over, 2);
}

fh1_status edge_ranges(edge_run *r)
{
    FH1_TRY(edge_on_model(r, SPEC ",m_key=0.0110485,m_down=0.0111607", in_range, NULL));
    return edge_on_model(r, SPEC ",m_key=4e-7,m_down=4e-7", out_of_range, NULL);
}

/* ---- D-109 ---- */

enum { PREFIX = 13, MORE = 4 };

/* Restores and goes on; what a manager does that has thrown the snapshot away is to run the prefix again. */
static fh1_status go_on(edge_run *r, fh1_engine *e, const fh1_model *m, fh1_cache *cache, const fh1_cache *snapshot,
                        const int64_t *ids, int64_t p, void *logits, watcher *w)
{
    if (edge_plants(r, "restore_recomputes")) {
        e->cache_ops->reset(cache);
        FH1_TRY(call(e, m, ids, p, cache, NULL, w));
        w->at = 0;
    } else {
        FH1_TRY(e->cache_ops->restore(cache, snapshot));
    }
    return call(e, m, ids + p, MORE, cache, logits, w);
}

static fh1_status restored_at(edge_run *r, fh1_engine *e, const fh1_model *m, int64_t p)
{
    int64_t ids[PREFIX + MORE], other[MORE];
    fh1_cache *cache = NULL, *snapshot = NULL;
    double first[64], again[64]; /* the logits of one word, in f64 or f32 */
    watcher w = {0};
    if (m->config.V > 64) return fh1_fail(FH1_E_INTERNAL, "a large vocabulary");
    memset(first, 0, sizeof first);
    memset(again, 0, sizeof again);
    words(r, m, "words", PREFIX + MORE, ids);
    words(r, m, "other words", MORE, other);
    fh1_status s = fh1_cache_new(&m->config, e->dtype, 1, &cache);
    if (!s) s = call(e, m, ids, p, cache, NULL, NULL);
    if (!s) s = e->cache_ops->clone(cache, &snapshot);
    if (!s) s = call(e, m, ids + p, MORE, cache, first, NULL);
    if (!s) s = call(e, m, other, MORE, cache, NULL, NULL);
    if (!s) s = go_on(r, e, m, cache, snapshot, ids, p, again, &w);
    fh1_cache_free(cache);
    fh1_cache_free(snapshot);
    if (s) return s;
    FH1_TRY(edge_require(r, w.tokens == MORE, "restored at %d, %d tokens are computed for %d new ones", (int)p,
                         (int)w.tokens, MORE));
    return edge_require(r, memcmp(first, again, sizeof first) == 0, "restored at %d, the logits are others", (int)p);
}

static fh1_status restored(edge_run *r, const fh1_model *m, void *unused)
{
    (void)unused;
    static const int64_t at[] = {1, 8, PREFIX}; /* shorter than the window, on the grid of chunks, off it */
    fh1_engine *e;
    FH1_TRY(edge_engine(r, m, &e));
    for (int i = 0; i < 3; ++i) FH1_TRY(restored_at(r, e, m, at[i]));
    return NULL;
}

fh1_status edge_restore_counted(edge_run *r)
{
    FH1_TRY(edge_each_model(r, restored, NULL));
    return NULL;
}
