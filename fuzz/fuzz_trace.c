/* The reader of traces (golden/trace.h) for small models of both families and of each block. It accepts what a second
 * reading of the rules accepts (slow_trace.h), with the same inputs, taps, gradients and metadata; twice the same; what
 * it accepts comes back from the writer; memory and time follow the size of the file, and nothing stays behind. */
#include "fuzz/folder.h"
#include "fuzz/message.h"
#include "fuzz/mutate_trace.h"
#include "fuzz/plant.h"
#include "fuzz/slow_trace.h"

#include "golden/seeded_model.h"
#include "golden/trace.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static fh1_model models[SLOW_TRACE_MODELS];
static const fh1_model *model; /* the one that the input names */

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    static const char *const specs[SLOW_TRACE_MODELS] = SLOW_TRACE_SPECS;
    gld_seeded_spec spec;
    (void)argc, (void)argv;
    slow_json_without = getenv("FH1_FUZZ_PLANT");
    for (int m = 0; m < SLOW_TRACE_MODELS; m++) {
        fh1_status s = gld_seeded_parse(specs[m], &spec);
        if (!s) s = gld_seeded_model_new(&spec, 1, &models[m]);
        FUZZ_CHECK(!s, "%s", s->what);
    }
    return 0;
}

static slow_trace_model named(void)
{
    return (slow_trace_model)(model - models);
}

typedef struct {
    const uint8_t *data;
    size_t size;
    const char *path;
} input;

/* -- against the second reading ------------------------------------------------------------------------- */

static void same_input(const slow_item *it, const int64_t *values, int64_t n)
{
    FUZZ_CHECK((it != NULL) == (values != NULL), "an input of %lld elements", (long long)n);
    for (int64_t i = 0; it && i < n; i++) {
        const int64_t want = slow_item_i64(it, i) + fuzz_planted("values");
        FUZZ_CHECK(values[i] == want, "%s, element %lld: %lld, not %lld", it->t->name, (long long)i,
                   (long long)values[i], (long long)want);
    }
}

static void same_batch(const slow_trace *slow, const slow_step *s, const fh1_batch *b)
{
    const int64_t n = slow->B * s->T;
    FUZZ_CHECK(b->B == slow->B && b->T == s->T, "%lld rows of %lld", (long long)b->B, (long long)b->T);
    FUZZ_CHECK(!b->mask || b->mask_len == s->past + s->T, "mask of %lld", (long long)b->mask_len);
    same_input(s->input[SLOW_IDS], b->ids, n);
    same_input(s->input[SLOW_MASK], b->mask, slow->B * (s->past + s->T));
    same_input(s->input[SLOW_POSITIONS], b->positions, n);
    same_input(s->input[SLOW_SEQ_IDX], b->seq_idx, n);
    same_input(s->input[SLOW_LABELS], b->labels, n);
}

/* The tensor of the second reading with that name is this one, byte for byte; counts it. */
static void same_tensor(const slow_trace *slow, slow_item_kind kind, int64_t step, const char *name,
                        const fh1_tensor *t, size_t *n)
{
    const slow_item *it = NULL;
    for (size_t i = 0; i < slow->n_items && !it; i++) {
        const slow_item *k = &slow->items[i];
        if (k->kind == kind && k->step == step && strcmp(k->name, name) == 0) it = k;
    }
    FUZZ_CHECK(it, "step %lld has no %s", (long long)step, name);
    FUZZ_CHECK(strcmp(fh1_dtype_name(t->dtype), it->t->dtype) == 0 && t->rank == it->t->rank, "%s", name);
    for (int k = 0; k < t->rank; k++) FUZZ_CHECK(t->shape[k] == it->t->shape[k], "%s, axis %d", name, k);
    const size_t bytes = (size_t)(it->t->end - it->t->begin);
    FUZZ_CHECK(fh1_n_bytes(t) == bytes, "%s, %zu bytes", name, bytes);
    fh1_tensor dense = *t;
    void *copy = fh1_is_dense(t) ? NULL : malloc(bytes + 1); /* a map may have turned its axes */
    if (copy) dense = fh1_view(copy, t->dtype, t->rank, t->shape);
    if (copy) fh1_copy(&dense, t);
    FUZZ_CHECK(memcmp(dense.data, it->data, bytes) == 0, "the elements of %s", name);
    free(copy);
    *n += 1;
}

static void same_step(const gld_trace *t, const slow_trace *slow, int64_t j, size_t *n)
{
    const gld_step *s = &t->steps[j];
    int64_t n_logits = 0, last = -1;
    same_batch(slow, &slow->steps[j], &s->batch);
    for (int k = SLOW_IDS; k <= SLOW_LABELS; k++) *n += slow->steps[j].input[k] != NULL;
    for (int64_t k = 0; k < s->n_taps; k++) {
        const gld_tap *tap = &s->taps[k];
        char name[FH1_TAP_NAME_SIZE];
        same_tensor(slow, SLOW_TAP, j, fh1_tap_name(model->config.family, tap->id, tap->layer, name), &tap->t, n);
        FUZZ_CHECK(gld_trace_find(t, j, tap->id, tap->layer) == tap, "%s is not found", name);
        const int64_t order = fh1_tap_order(NULL, tap->id, tap->layer, model->config.n_layers);
        FUZZ_CHECK(order > last, "%s is out of order", name);
        last = order;
        if (tap->id == FH1_TAP_LOGITS) n_logits = tap->t.shape[1];
    }
    FUZZ_CHECK(s->n_logits == n_logits, "%lld columns of logits", (long long)s->n_logits);
    for (int64_t k = 0; k < s->n_grads; k++) {
        same_tensor(slow, SLOW_GRAD, j, s->grads[k].name, &s->grads[k].t, n);
        FUZZ_CHECK(k == 0 || s->grads[k - 1].param < s->grads[k].param, "%s is out of order", s->grads[k].name);
    }
}

/* The narrowest float of the taps and gradients; F64 without one. */
static const char *narrowest(const slow_trace *slow, const char *found)
{
    int bits = 64;
    bool is_there = false;
    for (size_t i = 0; i < slow->n_items; i++)
        if (slow->items[i].kind >= SLOW_TAP && slow->items[i].t->bits < bits) bits = slow->items[i].t->bits;
    if (bits == 64) return "F64";
    for (size_t i = 0; i < slow->n_items; i++)
        if (slow->items[i].kind >= SLOW_TAP && slow->items[i].t->bits == bits)
            is_there = is_there || strcmp(slow->items[i].t->dtype, found) == 0;
    return is_there ? found : "one of the file's narrowest";
}

static void same_trace(const gld_trace *t, const slow_trace *slow)
{
    size_t n = 0;
    FUZZ_CHECK(t->n_steps == slow->n_steps, "%lld steps", (long long)t->n_steps);
    FUZZ_CHECK(strcmp(t->contract, slow->contract) == 0 && strcmp(t->variant, slow->variant) == 0 &&
                   strcmp(t->producer, slow->producer) == 0,
               "metadata '%s' '%s' '%s'", t->contract, t->variant, t->producer);
    for (int64_t j = 0; j < t->n_steps; j++) same_step(t, slow, j, &n);
    FUZZ_CHECK(n + fuzz_planted("count") == slow->n_items, "%zu of %zu tensors", n, slow->n_items);
    const char *found = fh1_dtype_name(t->dtype), *want = narrowest(slow, found);
    FUZZ_CHECK(strcmp(found, want) == 0, "type %s, not %s", found, want);
}

/* -- the checks -------------------------------------------------------------------------------------------- */

static void open_again(void *user)
{
    const input *in = user;
    gld_trace t;
    if (!gld_trace_open(in->path, model, NULL, &t)) gld_trace_free(&t);
}

static void same_again(const input *in, const slow_trace *slow, const char *line)
{
    char second[FUZZ_LINE];
    gld_trace t;
    const fh1_status s = gld_trace_open(in->path, model, NULL, &t);
    fuzz_check_message(s, in->path, second);
    if (fuzz_planted("message") && second[0]) second[1]++;
    FUZZ_CHECK(strcmp(line, second) == 0, "'%s' and then '%s'", line, second);
    if (!s) same_trace(&t, slow);
    gld_trace_free(&t);
}

/* Written and read again by both readings, it is the trace that it was. */
static void round_trip(const gld_trace *t)
{
    char path[128];
    gld_trace again;
    slow_trace slow;
    size_t size;
    snprintf(path, sizeof path, "%s/trace", fuzz_folder());
    fh1_status s = gld_trace_write(t, path, true, NULL);
    FUZZ_CHECK(!s, "%s", s->what);
    s = gld_trace_open(path, model, NULL, &again);
    FUZZ_CHECK(!s, "%s", s->what);
    uint8_t *file = fuzz_read(path, &size);
    if (fuzz_planted("writer") && size) file[size - 1]++;
    FUZZ_CHECK(slow_trace_read(file, size, named(), &slow), "the second reading refuses what was written");
    same_trace(&again, &slow);
    same_trace(t, &slow);
    slow_trace_free(&slow);
    gld_trace_free(&again);
    free(file);
    unlink(path);
}

typedef struct {
    const input *in;
    const char *text;
    gld_map *map;
    gld_trace t;
    char line[FUZZ_LINE];
} mapped;

static bool open_mapped(mapped *m)
{
    fh1_status s = gld_map_parse(m->text, strlen(m->text), m->in->path, &m->map);
    if (!s) s = gld_trace_open(m->in->path, model, m->map, &m->t);
    fuzz_check_message(s, m->in->path, m->line);
    return s == NULL;
}

static void close_mapped(mapped *m)
{
    gld_trace_free(&m->t);
    gld_map_free(m->map);
}

static void open_mapped_again(void *user)
{
    mapped m = *(const mapped *)user;
    m.map = NULL;
    memset(&m.t, 0, sizeof m.t);
    open_mapped(&m);
    close_mapped(&m);
}

/* The trace as a map reads it: nobody tells what it must be, but it must be one. */
static void through_map(const input *in, const char *text)
{
    mapped m = {.in = in, .text = text}, second = m;
    fuzz_bounds b;
    fuzz_bounds_begin(&b);
    const bool good = open_mapped(&m);
    /* A rule is 600 bytes and ten of the text at least; its array is copied when it grows. */
    fuzz_bounds_end(&b, in->size, 32768, 96 + 2 * 60, 20, 2, open_mapped_again, &m);
    FUZZ_CHECK(open_mapped(&second) == good && strcmp(m.line, second.line) == 0, "'%s' and then '%s'", m.line,
               second.line);
    if (good) round_trip(&m.t);
    close_mapped(&second);
    close_mapped(&m);
    fuzz_nothing_left(&b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    input in = {data, size, fuzz_file(0, data, size)};
    char line[FUZZ_LINE];
    fuzz_bounds b;
    gld_trace t;
    slow_trace slow;
    model = &models[slow_trace_model_of(data, size)];
    fuzz_bounds_begin(&b);
    const fh1_status s = gld_trace_open(in.path, model, NULL, &t);
    fuzz_check_message(s, in.path, line);
    /* The header takes 48 bytes for one of its own (fuzz_safetensors.c), and an entry of a trace, some 60 bytes, an
     * item of 160. An id, 8 bytes, is copied twice, packed into 8 numbers, and may be a row of its own, with a cache's
     * row of some 500 bytes. The list of parameters is 12 KiB. */
    fuzz_bounds_end(&b, size, 32768, fuzz_planted("memory") ? -1e3 : 96, 20, 2, open_again, &in);
    const bool good = slow_trace_read(data, size, named(), &slow);
    FUZZ_CHECK(good == (s == NULL), "the reader says: %s; the second one %s it", s ? line : "good",
               good ? "accepts" : "refuses");
    if (good) same_trace(&t, &slow);
    same_again(&in, &slow, line);
    if (good && size % 4 == 0) round_trip(&t); /* to the disk, even if in memory: not for each */
    if (!fuzz_planted("leak")) gld_trace_free(&t);
    const slow_json *map = slow_json_member(slow.file.metadata, "map");
    if (map && map->text) through_map(&in, map->text);
    slow_trace_free(&slow);
    fuzz_nothing_left(&b);
    return 0;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned int seed)
{
    fuzz_rng r = {seed};
    return fuzz_mutate_trace(data, size, max_size, &r);
}

size_t LLVMFuzzerCustomCrossOver(const uint8_t *a, size_t a_size, const uint8_t *b, size_t b_size, uint8_t *out,
                                 size_t max_size, unsigned int seed)
{
    fuzz_rng r = {seed};
    return fuzz_cross_safetensors(a, a_size, b, b_size, out, max_size, &r);
}
