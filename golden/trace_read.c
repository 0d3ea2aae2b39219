#include "golden/trace_owner.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TABLE "the table of taps"
#define HOW "golden/hf/write_trace.py and docs/traces.md show how to write one"

/* One tensor of the file and what it stands for. */
typedef struct {
    const cvt_st_entry *entry;
    gld_name name;
} item;

typedef struct {
    gld_trace *t;
    const fh1_model *m;
    const fh1_config *c;
    fh1_grads *params; /* NULL before the first gradient */
    const gld_map *map;
    const cvt_st *file;
    item *items; /* in the order of the file's names */
    int64_t n_items;
    const item **inputs; /* [n_steps][GLD_INPUT_COUNT] */
    int64_t n_steps;
    int64_t *past;   /* [n_steps] columns of the earlier steps */
    bool *rule_used; /* [gld_map_n_rules] */
} reader;

/* -- metadata ---------------------------------------------------------------------------------- */

static fh1_status copy_metadata(const cvt_st *f, const char *key, char *to, size_t size)
{
    const char *value = cvt_st_metadata(f, key);
    if (!value) return NULL;
    if (strlen(value) >= size) {
        fh1_status s = FH1_BAD("metadata %s is too long", key);
        return fh1_found(fh1_expected(s, "at most %zu bytes", size - 1), "%zu", strlen(value));
    }
    memcpy(to, value, strlen(value) + 1);
    return NULL;
}

static fh1_status read_metadata(reader *r)
{
    const char *version = cvt_st_metadata(r->file, "fh1.trace");
    if (!version && !r->map) return fh1_hint(FH1_BAD("not an fh1 trace: metadata fh1.trace is missing"), HOW);
    if (version && strcmp(version, "1") != 0) {
        fh1_status s = fh1_expected(FH1_BAD("metadata fh1.trace has a version that is not known here"), "\"1\"");
        return fh1_hint(fh1_found(s, "\"%.80s\"", version), HOW);
    }
    gld_trace *t = r->t;
    FH1_TRY(copy_metadata(r->file, "fh1.contract", t->contract, sizeof t->contract));
    FH1_TRY(copy_metadata(r->file, "fh1.variant", t->variant, sizeof t->variant));
    return copy_metadata(r->file, "fh1.producer", t->producer, sizeof t->producer);
}

/* -- names ------------------------------------------------------------------------------------- */

static fh1_status name_items(reader *r)
{
    r->n_items = cvt_st_count(r->file);
    r->items = calloc((size_t)r->n_items + 1, sizeof *r->items);
    r->rule_used = calloc((size_t)gld_map_n_rules(r->map) + 1, 1);
    if (!r->items || !r->rule_used) return fh1_no_memory((size_t)r->n_items * sizeof *r->items, "a trace");
    for (int64_t k = 0; k < r->n_items; k++) {
        item *it = &r->items[k];
        it->entry = cvt_st_at(r->file, k);
        it->name = gld_map_name(r->map, r->c, it->entry->name);
        if (it->name.rule >= 0) r->rule_used[it->name.rule] = true;
    }
    return NULL;
}

static fh1_status ids_missing(int64_t step, bool any, int64_t last)
{
    fh1_status s = FH1_BAD("step%lld/input_ids is missing", (long long)step);
    s = fh1_expected(s, "the token ids of the call, I64 [B, T]");
    if (any || last < 0) return fh1_hint(s, HOW);
    return fh1_hint(s, "the last step is %lld, and steps are numbered from 0 without gaps", (long long)last);
}

/* Every step up to the last one that any tensor belongs to must have its ids. They are looked for
 * before other names are judged: without them nothing else of the step has a meaning. */
static fh1_status find_steps(reader *r)
{
    int64_t last = -1, n = r->n_items + 1; /* of n steps, one would have no tensor */
    unsigned char *seen = calloc((size_t)n, 1);
    if (!seen) return fh1_no_memory((size_t)n, "the steps of a trace");
    for (int64_t k = 0; k < r->n_items; k++) {
        const gld_name *name = &r->items[k].name;
        bool is_ids = name->kind == GLD_NAME_INPUT && name->input == GLD_INPUT_IDS;
        if (name->kind == GLD_NAME_IGNORED) continue;
        if (name->step > last) last = name->step;
        if (name->step >= 0 && name->step < n) seen[name->step] |= is_ids ? 3 : 1;
    }
    int64_t j = 0;
    while (j < n && seen[j] == 3) j++;
    bool complete = j > 0 && j > last, any = j < n && seen[j];
    free(seen);
    r->n_steps = j;
    return complete ? NULL : ids_missing(j, any, last);
}

static fh1_status unknown_name(const reader *r, const item *it)
{
    const char *name = it->entry->name;
    if (it->name.rule >= 0) {
        fh1_status s = FH1_BAD("'%.200s' becomes a tap that this model has not", name);
        s = fh1_where(s, "%s, line %d", gld_map_path(r->map), gld_map_line(r->map, it->name.rule));
        return fh1_hint(s, "the model has %lld layers; fh1 taps MODEL lists the taps", (long long)r->c->n_layers);
    }
    fh1_status s = FH1_BAD("'%.200s' is neither an input nor a tap of this model", name);
    char near[FH1_TAP_NAME_SIZE];
    bool found = gld_nearest_name(name, r->c, near);
    int64_t step = it->name.step >= 0 ? it->name.step : 0;
    if (found) s = fh1_expected(s, "perhaps step%lld/%s", (long long)step, near);
    return fh1_hint(s, "fh1 taps MODEL lists them; a map file (--map) can rename or ignore it");
}

static fh1_status check_names(reader *r)
{
    for (int64_t k = 0; k < r->n_items; k++)
        if (r->items[k].name.kind == GLD_NAME_UNKNOWN) return unknown_name(r, &r->items[k]);
    for (int i = 0; i < gld_map_n_rules(r->map); i++) {
        if (r->rule_used[i]) continue;
        fh1_status s = FH1_BAD("line %d of the map fits no tensor of this trace", gld_map_line(r->map, i));
        s = fh1_where(s, "%s", gld_map_path(r->map));
        return fh1_hint(s, "correct the name, or remove the line if the trace does not hold that tap");
    }
    return NULL;
}

/* -- shapes ------------------------------------------------------------------------------------ */

/* "0,2,1": the transpose that turns `found` into `expected`; false when there is none. */
static bool transpose_text(const fh1_tensor *found, const fh1_tensor *expected, char *buf, size_t size)
{
    unsigned used = 0;
    size_t at = 0;
    if (found->rank != expected->rank) return false;
    for (int k = 0; k < expected->rank; k++) {
        int axis = 0;
        while (axis < found->rank && ((used >> axis & 1u) || found->shape[axis] != expected->shape[k])) axis++;
        if (axis == found->rank) return false;
        used |= 1u << axis;
        at += (size_t)snprintf(buf + at, size - at, "%s%d", k ? "," : "", axis);
    }
    return true;
}

fh1_status gld_trace_wrong_shape(const char *name, const char *than, const fh1_tensor *found,
                                 const fh1_tensor *expected)
{
    char text[160], order[3 * FH1_MAX_RANK];
    fh1_status s = FH1_BAD("'%.200s' has another shape than %s", name, than);
    s = fh1_expected(s, "%s", fh1_shape_text(expected, text, sizeof text));
    s = fh1_found(s, "%s", fh1_shape_text(found, text, sizeof text));
    if (transpose_text(found, expected, order, sizeof order))
        return fh1_hint(s,
                        "transpose %s in a map file (--map) gives the expected axes; where sizes are equal,"
                        " check which is which",
                        order);
    if (fh1_n_elems(found) == fh1_n_elems(expected))
        return fh1_hint(s, "the number of elements is right: a reshape in a map file (--map) may be all it needs");
    return s;
}

static fh1_status wrong_type(const char *name, fh1_dtype found, const char *expected)
{
    fh1_status s = FH1_BAD("'%.200s' has another type", name);
    return fh1_found(fh1_expected(s, "%s", expected), "%s", fh1_dtype_name(found));
}

/* The tensor of an item in our layout: as it stands, or after its rule's operations. */
static fh1_status view_of(const reader *r, const item *it, int64_t B, int64_t T, int64_t S, fh1_tensor *out)
{
    void *copy = NULL;
    *out = it->entry->t;
    if (it->name.rule < 0) return NULL;
    fh1_status s = gld_map_apply(r->map, it->name.rule, B, T, S, out, &copy);
    if (s) return fh1_where(s, "'%.200s'", it->entry->name);
    return copy ? gld_trace_adopt(r->t, copy) : NULL;
}

/* -- inputs ------------------------------------------------------------------------------------ */

static fh1_status twice(const char *what, int64_t step, const item *a)
{
    fh1_status s = FH1_BAD("two tensors both stand for step%lld/%s", (long long)step, what);
    return fh1_found(s, "'%.200s' as the second", a->entry->name);
}

static fh1_status sort_inputs(reader *r)
{
    r->inputs = calloc((size_t)r->n_steps * GLD_INPUT_COUNT, sizeof *r->inputs);
    r->past = calloc((size_t)r->n_steps, sizeof *r->past);
    if (!r->inputs || !r->past) return fh1_no_memory((size_t)r->n_steps * sizeof *r->inputs, "the steps of a trace");
    for (int64_t k = 0; k < r->n_items; k++) {
        const item *it = &r->items[k];
        if (it->name.kind != GLD_NAME_INPUT) continue;
        const item **slot = &r->inputs[it->name.step * GLD_INPUT_COUNT + it->name.input];
        if (*slot) return twice(gld_input_name(it->name.input), it->name.step, it);
        *slot = it;
    }
    return NULL;
}

static fh1_status ids_shape(const item *it, const fh1_tensor *ids, int64_t B)
{
    char text[160];
    bool good = ids->rank == 2 && ids->shape[0] > 0 && ids->shape[1] > 0 && (B == 0 || ids->shape[0] == B);
    if (good) return NULL;
    fh1_status s = FH1_BAD("'%.200s' has a shape that no call can have", it->entry->name);
    if (B > 0) s = fh1_expected(s, "[%lld, T] with T >= 1, as many rows as in step 0", (long long)B);
    else s = fh1_expected(s, "[B, T] with B >= 1 and T >= 1");
    return fh1_found(s, "%s", fh1_shape_text(ids, text, sizeof text));
}

/* An input's view in our layout, shape not checked. */
static fh1_status input_view(const reader *r, const item *it, int64_t B, int64_t T, int64_t S, fh1_tensor *out)
{
    if (it->entry->t.dtype != FH1_I64) return wrong_type(it->entry->name, it->entry->t.dtype, "I64");
    return view_of(r, it, B, T, S, out);
}

static fh1_status read_values(const fh1_tensor *t, int64_t **out)
{
    int64_t n = fh1_n_elems(t);
    *out = malloc((size_t)n * sizeof **out);
    if (!*out) return fh1_no_memory((size_t)n * sizeof **out, "the inputs of a step");
    for (int64_t k = 0; k < n; k++) (*out)[k] = fh1_get_i64(t, k);
    return NULL;
}

static fh1_status read_inputs(const reader *r, int64_t j, int64_t *values[GLD_INPUT_COUNT], fh1_batch *b)
{
    const item *const *inputs = r->inputs + j * GLD_INPUT_COUNT;
    fh1_tensor t;
    b->B = j > 0 ? r->t->steps[0].batch.B : 0;
    FH1_TRY(input_view(r, inputs[GLD_INPUT_IDS], b->B, 0, 0, &t)); /* T is what the ids say */
    FH1_TRY(ids_shape(inputs[GLD_INPUT_IDS], &t, b->B));
    b->B = t.shape[0];
    b->T = t.shape[1];
    b->mask_len = r->past[j] + b->T;
    FH1_TRY(read_values(&t, &values[GLD_INPUT_IDS]));
    for (int which = GLD_INPUT_IDS + 1; which < GLD_INPUT_COUNT; which++) {
        fh1_tensor expected = fh1_view2(NULL, FH1_I64, b->B, which == GLD_INPUT_MASK ? b->mask_len : b->T);
        if (!inputs[which]) continue;
        FH1_TRY(input_view(r, inputs[which], b->B, b->T, b->mask_len, &t));
        if (!fh1_same_shape(&t, &expected))
            return gld_trace_wrong_shape(inputs[which]->entry->name, TABLE, &t, &expected);
        FH1_TRY(read_values(&t, &values[which]));
    }
    return NULL;
}

static fh1_status read_step(reader *r, int64_t j)
{
    int64_t *values[GLD_INPUT_COUNT] = {NULL};
    fh1_batch b = {0};
    if (j > 0) r->past[j] = r->past[j - 1] + r->t->steps[j - 1].batch.T;
    fh1_status s = read_inputs(r, j, values, &b);
    if (!s) {
        b.ids = values[GLD_INPUT_IDS];
        b.mask = values[GLD_INPUT_MASK];
        b.positions = values[GLD_INPUT_POSITIONS];
        b.seq_idx = values[GLD_INPUT_SEQ_IDX];
        b.labels = values[GLD_INPUT_LABELS];
        s = gld_trace_add_step(r->t, &b);
    }
    for (int which = 0; which < GLD_INPUT_COUNT; which++) free(values[which]);
    return s;
}

/* -- taps -------------------------------------------------------------------------------------- */

static fh1_status wrong_tap_shape(const reader *r, const item *it, const fh1_tensor *t, const fh1_tensor *expected)
{
    const gld_name *n = &it->name;
    int64_t T = r->t->steps[n->step].batch.T, S = r->past[n->step] + T;
    fh1_status s = gld_trace_wrong_shape(it->entry->name, TABLE, t, expected);
    bool one_axis = t->rank == expected->rank && t->rank > 2; /* the rest is right: hints below */
    for (int k = 0; one_axis && k < t->rank; k++) one_axis = k == 2 || t->shape[k] == expected->shape[k];
    if (n->id == FH1_TAP_LOGITS)
        return fh1_hint(s, "logits may be those of the last T' positions of the call, 1 <= T' <= %lld", (long long)T);
    if (one_axis && (n->id == FH1_TAP_CACHE_KEY || n->id == FH1_TAP_CACHE_VALUE))
        return fh1_hint(s, "the cache has a slot for every column so far, padding included: %lld after step %lld",
                        (long long)S, (long long)n->step);
    if (one_axis && n->id == FH1_TAP_CACHE_CONV && t->shape[2] == r->c->K)
        return fh1_hint(s, "keep the last %lld columns: the oldest is not read again", (long long)r->c->K - 1);
    return s;
}

static fh1_status read_tap(reader *r, const item *it)
{
    const gld_name *n = &it->name;
    gld_step *step = &r->t->steps[n->step];
    int64_t B = step->batch.B, T = step->batch.T, S = r->past[n->step] + T;
    fh1_tensor t;
    gld_tap *tap;
    char name[FH1_TAP_NAME_SIZE];
    if (!fh1_dtype_is_float(it->entry->t.dtype))
        return wrong_type(it->entry->name, it->entry->t.dtype, "F64, F32, BF16 or F16");
    FH1_TRY(view_of(r, it, B, T, S, &t));

    int64_t n_logits = t.rank == 3 && t.shape[1] >= 1 && t.shape[1] <= T ? t.shape[1] : T;
    fh1_tensor expected = fh1_tap_shape(r->c, n->id, B, T, n_logits, S);
    if (!fh1_same_shape(&t, &expected)) return wrong_tap_shape(r, it, &t, &expected);
    if (gld_step_find(step, n->id, n->layer))
        return twice(fh1_tap_name(r->c->family, n->id, n->layer, name), n->step, it);
    FH1_TRY(gld_step_insert(step, n->id, n->layer, &tap));
    tap->t = t;
    if (n->id == FH1_TAP_LOGITS) step->n_logits = n_logits;
    gld_trace_note_dtype(r->t, t.dtype);
    return NULL;
}

static fh1_status read_grad(reader *r, const item *it)
{
    gld_step *step = &r->t->steps[it->name.step];
    fh1_tensor t;
    if (!fh1_dtype_is_float(it->entry->t.dtype))
        return wrong_type(it->entry->name, it->entry->t.dtype, "F64, F32, BF16 or F16");
    FH1_TRY(view_of(r, it, step->batch.B, step->batch.T, r->past[it->name.step] + step->batch.T, &t));
    FH1_TRY(gld_trace_read_grad(step, r->m, &r->params, it->entry->name, it->name.grad, &t));
    gld_trace_note_dtype(r->t, t.dtype);
    return NULL;
}

static fh1_status read_all(reader *r)
{
    FH1_TRY(read_metadata(r));
    FH1_TRY(name_items(r));
    FH1_TRY(find_steps(r));
    FH1_TRY(check_names(r));
    FH1_TRY(sort_inputs(r));
    for (int64_t j = 0; j < r->n_steps; j++) FH1_TRY(read_step(r, j));
    for (int64_t k = 0; k < r->n_items; k++)
        if (r->items[k].name.kind == GLD_NAME_TAP) FH1_TRY(read_tap(r, &r->items[k]));
    for (int64_t k = 0; k < r->n_items; k++)
        if (r->items[k].name.kind == GLD_NAME_GRAD) FH1_TRY(read_grad(r, &r->items[k]));
    return gld_trace_check_inputs(r->t, r->c);
}

fh1_status gld_trace_open(const char *path, const fh1_model *m, const gld_map *map, gld_trace *out)
{
    cvt_st *file;
    memset(out, 0, sizeof *out);
    FH1_TRY(cvt_st_open(path, &file));
    fh1_status s = gld_trace_new(out);
    out->family = m->config.family;
    if (s) {
        cvt_st_close(file);
        return s;
    }
    gld_trace_adopt_file(out, file);
    snprintf(out->path, sizeof out->path, "%s", path);
    reader r = {.t = out, .m = m, .c = &m->config, .map = map, .file = file};
    s = read_all(&r);
    fh1_grads_free(r.params);
    free(r.items);
    free(r.inputs);
    free(r.past);
    free(r.rule_used);
    if (!s) return NULL;
    gld_trace_free(out);
    return fh1_where(s, "%s", path);
}
