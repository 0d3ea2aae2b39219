#include "golden/fault_inputs.h"

#include "convert/model_open.h"
#include "golden/record.h"
#include "oracle/random.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SEED = 1, MAX_ROWS = 3, MAX_CALLS = 6 };

/* One call: T new columns, of which the first `left` and the last `right` of a row are padding. */
typedef struct {
    int64_t T, left[MAX_ROWS], right[MAX_ROWS];
} call;

/* A schedule of calls on one cache. Documents of row b are doc_length[b] tokens long, 0: none is told. */
typedef struct {
    int64_t B;
    bool masked, counted, labelled; /* counted: positions are given and count real tokens from `first_position` */
    int64_t first_position, doc_length[MAX_ROWS];
    int n_calls;
    call calls[MAX_CALLS];
} schedule;

static schedule schedule_of(const fh1_config *c, int which)
{
    const int64_t Q = fh1_scan_chunk(c), K = c->K;
    switch (which) {
    case GLD_RIGHT_PADDED:
        return (schedule){.B = 3,
                          .masked = true,
                          .counted = true,
                          .n_calls = 4,
                          .calls = {{.T = Q + 5, .right = {0, 3, Q + 5 - (K > 3 ? K - 2 : 1)}},
                                    {.T = 1},
                                    {.T = 4, .right = {1, 0, 2}},
                                    {.T = 1}}};
    case GLD_MIXED_PADDING:
        return (schedule){.B = 3,
                          .masked = true,
                          .counted = true,
                          .n_calls = 4,
                          .calls = {{.T = 12, .left = {0, 5, 0}, .right = {0, 0, 7}},
                                    {.T = 1},
                                    {.T = 5, .left = {2, 0, 0}, .right = {0, 0, 3}},
                                    {.T = 1}}};
    case GLD_BATCH_OF_ONE_PADDED:
        return (schedule){.B = 1,
                          .masked = true,
                          .counted = true,
                          .n_calls = 3,
                          .calls = {{.T = Q + 4, .left = {3}}, {.T = 1}, {.T = 1}}};
    case GLD_LONG_POSITIONS:
        return (schedule){
            .B = 1, .counted = true, .first_position = 100003, .n_calls = 2, .calls = {{.T = 9}, {.T = 1}}};
    case GLD_SINGLE_TOKENS:
        return (schedule){.B = 2, .n_calls = 6, .calls = {{.T = 1}, {.T = 1}, {.T = 1}, {.T = 1}, {.T = 1}, {.T = 1}}};
    case GLD_SHORT_CALLS:
        return (schedule){.B = 2, .n_calls = 6, .calls = {{.T = 9}, {.T = 2}, {.T = 1}, {.T = 2}, {.T = 3}, {.T = 1}}};
    case GLD_LABELS:
        return (schedule){.B = 3,
                          .masked = true,
                          .counted = true,
                          .labelled = true,
                          .n_calls = 1,
                          .calls = {{.T = 14, .left = {0, 4}}}};
    case GLD_RUNNING_DOCUMENTS:
        return (schedule){
            .B = 2, .doc_length = {7, K + 1}, .n_calls = 4, .calls = {{.T = Q + 6}, {.T = 1}, {.T = 6}, {.T = 1}}};
    case GLD_EMPTY_ROW:
        return (schedule){.B = 3,
                          .masked = true,
                          .counted = true,
                          .n_calls = 2,
                          .calls = {{.T = 6, .left = {0, 6, 2}}, {.T = 1, .left = {0, 1, 0}}}};
    case GLD_LONG_PROMPTS: return (schedule){.B = 2, .n_calls = 2, .calls = {{.T = 3 * Q}, {.T = 1}}};
    default: return (schedule){.B = 1, .n_calls = 2, .calls = {{.T = 3 * Q + 5}, {.T = 1}}};
    }
}

/* What is carried from call to call. */
typedef struct {
    const schedule *s;
    fh1_stream ids;
    uint64_t drawn;
    int64_t V, past, n[MAX_ROWS]; /* columns, and real tokens of each row */
    int64_t *mask;                /* [B, past]: of the calls so far */
} builder;

/* Column t of row b of the call; arrays as in fh1_batch. */
static void fill(builder *w, const call *k, int64_t b, int64_t t, int64_t *id, int64_t *position, int64_t *doc,
                 int64_t *label)
{
    const schedule *s = w->s;
    const bool real = t >= k->left[b] && t < k->T - k->right[b];
    const int64_t at = b * k->T + t;
    id[at] = fh1_random_below(w->ids, w->drawn++, w->V);
    if (b == 0 && t == k->T - 1 - k->right[0]) id[at] = 0; /* what padding is made of is a token too */
    position[at] = s->first_position + w->n[b] - (!real && w->n[b] > 0);
    doc[at] = s->doc_length[b] ? w->n[b] / s->doc_length[b] : 0;
    label[at] = -100;
    if (real && w->n[b] > 0 && (t + b) % 4) label[at] = fh1_random_below(w->ids, w->drawn++, w->V);
    w->n[b] += real;
}

static fh1_status add_call(builder *w, const call *k, gld_trace *t)
{
    const schedule *s = w->s;
    const int64_t columns = w->past + k->T, cells = s->B * k->T;
    int64_t *mask = calloc((size_t)(s->B * columns + 4 * cells), sizeof *mask);
    if (!mask) return fh1_no_memory((size_t)(s->B * columns + 4 * cells) * sizeof *mask, "a schedule");
    int64_t *id = mask + s->B * columns, *position = id + cells, *doc = position + cells, *label = doc + cells;
    for (int64_t b = 0; b < s->B; b++) {
        for (int64_t i = 0; i < w->past; i++) mask[b * columns + i] = w->mask[b * w->past + i];
        for (int64_t i = 0; i < k->T; i++) {
            mask[b * columns + w->past + i] = i >= k->left[b] && i < k->T - k->right[b];
            fill(w, k, b, i, id, position, doc, label);
        }
    }
    const fh1_batch batch = {.B = s->B,
                             .T = k->T,
                             .ids = id,
                             .mask = s->masked ? mask : NULL,
                             .mask_len = s->masked ? columns : 0,
                             .positions = s->counted ? position : NULL,
                             .seq_idx = s->doc_length[0] ? doc : NULL,
                             .labels = s->labelled ? label : NULL};
    fh1_status status = gld_trace_add_step(t, &batch);
    free(w->mask);
    w->mask = mask; /* its first B·columns are what the next call calls the past */
    w->past = columns;
    return status;
}

static const char *const names[GLD_FAULT_INPUTS] = {
    "ragged",         "packed",         "right_padded", "mixed_padding", "batch_of_one_padded",
    "long_positions", "single_tokens",  "short_calls",  "labels",        "running_documents",
    "empty_row",      "one_chunk_more", "long_prompts"};

const char *gld_fault_input_name(int which)
{
    return which >= 0 && which < GLD_FAULT_INPUTS ? names[which] : NULL;
}

fh1_status gld_fault_inputs(const fh1_config *c, int which, gld_trace *out)
{
    if (which == GLD_RAGGED || which == GLD_PACKED) return gld_schedule_seeded(c, SEED, which == GLD_PACKED, out);
    const schedule s = schedule_of(c, which);
    builder w = {.s = &s, .ids = fh1_stream_open(SEED, names[which]), .V = c->V};
    FH1_TRY(gld_trace_new(out));
    snprintf(out->path, sizeof out->path, "%s", names[which]);
    fh1_status status = NULL;
    for (int i = 0; i < s.n_calls && !status; i++) status = add_call(&w, &s.calls[i], out);
    free(w.mask);
    if (status) gld_trace_free(out);
    return status;
}

/* -- models ------------------------------------------------------------------------------------- */

static fh1_rope scaled_rope(fh1_config *c, fh1_rope_type type)
{
    fh1_rope r = {.type = type, .theta = 1e4, .factor = 4, .max_position = 64};
    if (type == FH1_ROPE_YARN || type == FH1_ROPE_LLAMA3 || type == FH1_ROPE_LONGROPE) r.original_max_position = 16;
    if (type == FH1_ROPE_YARN) {
        r.beta_fast = 4;
        r.beta_slow = 1;
        r.truncate = true;
    }
    if (type == FH1_ROPE_LLAMA3) {
        r.low_freq_factor = 1;
        r.high_freq_factor = 4;
    }
    if (type == FH1_ROPE_DYNAMIC) r.max_position = 16;
    for (int64_t i = 0; i < c->A / 2 && i < 512; i++) {
        c->factors[0][i] = 4 + (double)i;
        c->factors[1][i] = 1 + 0.125 * (double)i;
    }
    return r;
}

static bool edit_config(fh1_config *c, const char *edit)
{
    for (int type = FH1_ROPE_LINEAR; type <= FH1_ROPE_LONGROPE; type++) {
        if (strcmp(edit, fh1_rope_type_name((fh1_rope_type)type)) != 0) continue;
        c->rope = scaled_rope(c, (fh1_rope_type)type);
        if (type == FH1_ROPE_LONGROPE) {
            c->rope.long_factor = c->factors[0];
            c->rope.short_factor = c->factors[1];
        }
        return true;
    }
    if (strcmp(edit, "faint") == 0) {
        c->m_emb /= 3000;
        c->m_ssm_out /= 1000;
        c->m_attn_out /= 1000;
        c->m_down /= 1000;
    } else if (strcmp(edit, "sharp") == 0) {
        c->m_key *= 300;
    } else if (strcmp(edit, "loud") == 0) {
        c->m_lm *= 3000;
    } else if (strcmp(edit, "wide") == 0) {
        c->dt_lo = 0;
        c->dt_hi = (double)INFINITY;
    } else if (strcmp(edit, "steep") == 0) {
        c->m_ssm[4] *= 60;
    } else {
        return false;
    }
    return true;
}

/* Weights of a model that are not its own file's. */
typedef struct {
    void *owner;
    void (*free_owner)(void *);
    int n;
    void *block[64];
} edited_owner;

static void free_edited(void *owner)
{
    edited_owner *e = owner;
    if (e->free_owner) e->free_owner(e->owner);
    for (int i = 0; i < e->n; i++) free(e->block[i]);
    free(e);
}

static fh1_status scale_weight(edited_owner *e, fh1_tensor *t, double factor)
{
    const int64_t n = fh1_n_elems(t);
    float *w = e->n < 64 ? malloc((size_t)n * sizeof *w) : NULL;
    if (!w) return fh1_no_memory((size_t)n * sizeof *w, "an edited weight");
    e->block[e->n++] = w;
    for (int64_t i = 0; i < n; i++) w[i] = (float)(fh1_get(t, i) * factor);
    t->data = w;
    t->dtype = FH1_F32;
    return NULL;
}

/* What multipliers do elsewhere; *known: there is such an edit. */
static fh1_status edit_mamba(fh1_model *m, const char *edit, bool *known)
{
    const bool faint = strcmp(edit, "faint") == 0, loud = strcmp(edit, "loud") == 0;
    *known = faint || loud || strcmp(edit, "steep") == 0;
    if (!*known) return NULL;
    edited_owner *e = calloc(1, sizeof *e);
    if (!e) return fh1_no_memory(sizeof *e, "an edited model");
    e->owner = m->owner;
    e->free_owner = m->free_owner;
    m->owner = e;
    m->free_owner = free_edited;
    if (faint) FH1_TRY(scale_weight(e, &m->embed, 1.0 / 3000));
    if (loud) FH1_TRY(scale_weight(e, &m->lm_head, 3000));
    for (int64_t i = 0; i < m->config.n_layers && !loud; i++)
        FH1_TRY(scale_weight(e, faint ? &m->layers[i].out_w : &m->layers[i].dt_w, faint ? 1e-3 : 60));
    return NULL;
}

/* A conv of one tap less, made of as many of the same weights as it needs. */
static void narrow(fh1_model *m)
{
    m->config.K -= 1;
    for (int64_t i = 0; i < m->config.n_layers; i++) {
        fh1_tensor *w = &m->layers[i].conv_w;
        w->shape[2] = w->stride[0] = w->stride[1] = m->config.K;
    }
}

fh1_status gld_fault_model_open(const char *folder, const char *name, fh1_model *out)
{
    char path[1024];
    const char *colon = strchr(name, ':');
    const int length = colon ? (int)(colon - name) : (int)strlen(name);
    if (snprintf(path, sizeof path, "%s/%.*s", folder, length, name) >= (int)sizeof path)
        return FH1_BAD("the path of model %s is too long", name);
    FH1_TRY(cvt_model_open(path, out));
    if (!colon) return NULL;
    bool known = strcmp(colon + 1, "narrow") == 0;
    fh1_status s = NULL;
    if (known) narrow(out);
    else if (out->config.family == FH1_FALCON_MAMBA) s = edit_mamba(out, colon + 1, &known);
    else known = edit_config(&out->config, colon + 1);
    if (!s && known) return NULL;
    fh1_model_free(out);
    FH1_TRY(s);
    return fh1_expected(FH1_BAD("no such edit of a model: %s", name),
                        "linear, dynamic, yarn, llama3, longrope, faint, sharp, loud, wide, steep or narrow");
}

/* -- cases -------------------------------------------------------------------------------------- */

/* An op that treats each token by itself needs no long call. */
static bool is_per_token(const char *op)
{
    static const char *const ops[] = {"embed", "rmsnorm", "linear", "rope", "swiglu", "residual", "lm_head"};
    for (size_t i = 0; i < sizeof ops / sizeof *ops; i++)
        if (strcmp(op, ops[i]) == 0) return true;
    return false;
}

fh1_family gld_fault_family(fh1_fault f)
{
    return fh1_fault_acts_on(f, FH1_FALCON_H1) ? FH1_FALCON_H1 : FH1_FALCON_MAMBA;
}

gld_fault_case gld_fault_case_of(fh1_fault f, fh1_family family)
{
    static const gld_fault_case cases[2][FH1_FAULT_COUNT] = {
#define FAULT_CASE(id, model, inputs) [FH1_FAULT_##id] = {model, inputs},
        [FH1_FALCON_H1] =
            {
#include "golden/fault_cases.h"
            },
        [FH1_FALCON_MAMBA] =
            {
#include "golden/fault_cases_mamba.h"
            },
#undef FAULT_CASE
    };
    if (cases[family][f].model) return cases[family][f];
    return (gld_fault_case){family == FH1_FALCON_MAMBA ? "mamba-untied" : "mini-0.5b",
                            is_per_token(fh1_fault_get(f)->op) ? GLD_MIXED_PADDING : GLD_RAGGED};
}
