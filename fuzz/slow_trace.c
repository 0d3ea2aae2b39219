#include "fuzz/slow_trace.h"

#include "fuzz/plant.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LAYERS = 2, VOCABULARY = 7 };

/* Axes by a letter: those of the call (B rows, T new columns, S columns so far, L the last ones of T), of the model and
 * of what its sizes make; in Falcon-H1 and in Falcon-Mamba. */
static const struct {
    char letter;
    int64_t h1, mamba;
} axes[] = {
    {'D', 5, 5},   {'F', 6, 0}, {'V', 7, 7}, {'h', 2, 0}, /* heads of queries */
    {'g', 1, 0},                                          /* heads of keys */
    {'A', 4, 0},   {'q', 8, 0}, {'k', 4, 0}, {'H', 3, 0},
    {'P', 3, 0},   {'N', 2, 3}, {'K', 4, 4}, {'w', 3, 3}, /* K - 1 */
    {'s', 9, 6},                                          /* d_ssm = H P, or I */
    {'c', 13, 6},                                         /* d_ssm + 2 G N, or I */
    {'i', 25, 12},                                        /* 2 d_ssm + 2 G N + H, or 2 I */
    {'x', 0, 8},   {'r', 0, 2},                           /* R + 2 N, R */
    {'1', 1, 1},
};

typedef slow_trace_line line;

enum { MAMBA = 1 << SLOW_MAMBA, SAM = 1 << SLOW_SAM, S_A_M = 1 << SLOW_S_A_M, RELEASED = 1 << SLOW_RELEASED };

static const line taps[] = {
    {"model.embed_tokens", "BTD", 0},
    {"model.layers.0.input", "BTD", 0},
    {"model.layers.#.input_layernorm", "BTD", 0},
    {"model.layers.#.self_attn.q_proj", "BTq", 0},
    {"model.layers.#.self_attn.k_proj", "BTk", 0},
    {"model.layers.#.self_attn.v_proj", "BTk", 0},
    {"model.layers.#.self_attn.q_rope", "BThA", 0},
    {"model.layers.#.self_attn.k_rope", "BTgA", 0},
    {"model.layers.#.self_attn.context", "BTq", 0},
    {"model.layers.#.self_attn.o_proj", "BTD", 0},
    {"model.layers.#.mamba.in_proj", "BTi", 0},
    {"model.layers.#.mamba.conv_act", "BTc", 0},
    {"model.layers.#.mamba.dt", "BTH", 0},
    {"model.layers.#.mamba.ssd", "BTs", 0},
    {"model.layers.#.mamba.gated", "BTs", 0},
    {"model.layers.#.mamba.out_proj", "BTD", 0},
    {"model.layers.#.mid_ssm", "BTD", S_A_M},
    {"model.layers.#.attn_layernorm", "BTD", S_A_M},
    {"model.layers.#.mid", "BTD", RELEASED | S_A_M},
    {"model.layers.#.pre_ff_layernorm", "BTD", RELEASED | S_A_M},
    {"model.layers.#.feed_forward.gate_proj", "BTF", 0},
    {"model.layers.#.feed_forward.up_proj", "BTF", 0},
    {"model.layers.#.feed_forward.act", "BTF", 0},
    {"model.layers.#.feed_forward.down_proj", "BTD", 0},
    {"model.layers.#", "BTD", 0},
    {"model.final_layernorm", "BTD", 0},
    {"logits", "BLV", RELEASED | SAM | S_A_M | MAMBA},
    {"cache.#.key", "BgSA", 0},
    {"cache.#.value", "BgSA", 0},
    {"cache.#.conv", "Bcw", RELEASED | SAM | S_A_M | MAMBA},
    {"cache.#.ssm", "BHPN", 0},
    {"cache.#.ssm", "BsN", MAMBA},
    {"loss", "", RELEASED | SAM | S_A_M | MAMBA},
    {"backbone.embeddings", "BTD", MAMBA},
    {"backbone.layers.#.norm", "BTD", MAMBA},
    {"backbone.layers.#.mixer.in_proj", "BTi", MAMBA},
    {"backbone.layers.#.mixer.conv_act", "BTs", MAMBA},
    {"backbone.layers.#.mixer.x_proj", "BTx", MAMBA},
    {"backbone.layers.#.mixer.dt", "BTs", MAMBA},
    {"backbone.layers.#.mixer.scan", "BTs", MAMBA},
    {"backbone.layers.#.mixer.gated", "BTs", MAMBA},
    {"backbone.layers.#.mixer.out_proj", "BTD", MAMBA},
    {"backbone.layers.#", "BTD", MAMBA},
    {"backbone.norm_f", "BTD", MAMBA},
};

static const line parameters[] = {
    {"model.embed_tokens.weight", "VD", 0},
    {"model.layers.#.feed_forward.gate_proj.weight", "FD", 0},
    {"model.layers.#.feed_forward.up_proj.weight", "FD", 0},
    {"model.layers.#.feed_forward.down_proj.weight", "DF", 0},
    {"model.layers.#.mamba.dt_bias", "H", 0},
    {"model.layers.#.mamba.A_log", "H", 0},
    {"model.layers.#.mamba.D", "H", 0},
    {"model.layers.#.mamba.conv1d.weight", "c1K", 0},
    {"model.layers.#.mamba.conv1d.bias", "c", 0},
    {"model.layers.#.mamba.in_proj.weight", "iD", 0},
    {"model.layers.#.mamba.norm.weight", "s", 0},
    {"model.layers.#.mamba.out_proj.weight", "Ds", 0},
    {"model.layers.#.self_attn.q_proj.weight", "qD", 0},
    {"model.layers.#.self_attn.k_proj.weight", "kD", 0},
    {"model.layers.#.self_attn.v_proj.weight", "kD", 0},
    {"model.layers.#.self_attn.o_proj.weight", "Dq", 0},
    {"model.layers.#.input_layernorm.weight", "D", 0},
    {"model.layers.#.attn_layernorm.weight", "D", S_A_M},
    {"model.layers.#.pre_ff_layernorm.weight", "D", RELEASED | S_A_M},
    {"model.final_layernorm.weight", "D", 0},
    {"lm_head.weight", "VD", RELEASED | SAM | S_A_M | MAMBA},
    {"backbone.embeddings.weight", "VD", MAMBA},
    {"backbone.layers.#.norm.weight", "D", MAMBA},
    {"backbone.layers.#.mixer.A_log", "sN", MAMBA},
    {"backbone.layers.#.mixer.D", "s", MAMBA},
    {"backbone.layers.#.mixer.conv1d.weight", "s1K", MAMBA},
    {"backbone.layers.#.mixer.conv1d.bias", "s", MAMBA},
    {"backbone.layers.#.mixer.in_proj.weight", "iD", MAMBA},
    {"backbone.layers.#.mixer.x_proj.weight", "xs", MAMBA},
    {"backbone.layers.#.mixer.dt_proj.weight", "sr", MAMBA},
    {"backbone.layers.#.mixer.dt_proj.bias", "s", MAMBA},
    {"backbone.layers.#.mixer.out_proj.weight", "Ds", MAMBA},
    {"backbone.norm_f.weight", "D", MAMBA},
};

static const char *const inputs[] = {"input_ids", "attention_mask", "position_ids", "seq_idx", "labels"};

static bool rule(bool holds, const char *name)
{
    return holds || fuzz_planted(name);
}

slow_trace_model slow_trace_model_of(const uint8_t *file, size_t size)
{
    static const char *const words[] = {"backbone.", "SAM", "S_A_M"};
    for (int m = SLOW_MAMBA; m < SLOW_TRACE_MODELS; m++)
        if (memmem(file, size, words[m - 1], strlen(words[m - 1]))) return (slow_trace_model)m;
    return SLOW_RELEASED;
}

const slow_trace_line *slow_trace_lines(slow_item_kind kind, size_t *n)
{
    *n = kind == SLOW_TAP ? sizeof taps / sizeof *taps : sizeof parameters / sizeof *parameters;
    return kind == SLOW_TAP ? taps : parameters;
}

bool slow_trace_has(slow_trace_model m, const slow_trace_line *l)
{
    return l->models ? l->models >> m & 1 : m != SLOW_MAMBA;
}

/* -- names ------------------------------------------------------------------------------------------- */

/* The line of the table whose name this is, with a layer for #. */
static const line *look_up(slow_trace_model m, const line *table, size_t n, const char *name)
{
    for (size_t i = 0; i < n; i++) {
        if (!slow_trace_has(m, &table[i]) && !fuzz_planted("model")) continue;
        const char *mark = strchr(table[i].name, '#');
        const size_t before = mark ? (size_t)(mark - table[i].name) : 0;
        if (!mark && strcmp(table[i].name, name) == 0) return &table[i];
        if (!mark || strncmp(table[i].name, name, before) != 0) continue;
        const bool layer = name[before] >= '0' && name[before] < '0' + LAYERS; /* one digit */
        if (layer && strcmp(mark + 1, name + before + 1) == 0) return &table[i];
    }
    return NULL;
}
#define LOOK_UP(m, table, name) look_up(m, table, sizeof(table) / sizeof *(table), name)

/* "step", a number as it is printed, of at most nine digits, "/"; then an input, a tap or the gradient of a parameter.
 */
static bool read_name(slow_trace_model m, const char *name, slow_item *it)
{
    char number[16] = "";
    const char *slash = strchr(name, '/');
    if (strncmp(name, "step", 4) != 0 || !slash || slash - name - 4 > 9) return false;
    memcpy(number, name + 4, (size_t)(slash - name - 4));
    it->step = strtol(number, NULL, 10);
    char printed[32];
    snprintf(printed, sizeof printed, "step%lld/", (long long)it->step);
    if (strncmp(printed, name, strlen(printed)) != 0 && !fuzz_planted("number")) return false;
    it->name = slash + 1;
    for (int k = SLOW_IDS; k <= SLOW_LABELS; k++) {
        it->kind = (slow_item_kind)k;
        if (strcmp(it->name, inputs[k]) == 0) return true;
    }
    it->kind = SLOW_TAP;
    if (LOOK_UP(m, taps, it->name)) return true;
    if (strncmp(it->name, "grad.", 5) != 0) return false;
    it->kind = SLOW_GRAD;
    it->name += 5;
    return rule(LOOK_UP(m, parameters, it->name) != NULL, "parameter");
}

static bool read_names(slow_trace *t, const uint8_t *file)
{
    t->items = calloc(t->file.n + 1, sizeof *t->items);
    if (!t->items) abort();
    for (size_t i = 0; i < t->file.n; i++) {
        slow_item *it = &t->items[t->n_items++];
        it->t = &t->file.tensors[i];
        it->data = file + t->file.data + it->t->begin;
        if (read_name(t->model, it->t->name, it)) continue;
        if (!fuzz_planted("name")) return false;
        t->n_items--;
    }
    return true;
}

/* -- steps -------------------------------------------------------------------------------------------- */

static const slow_item *find_input(const slow_trace *t, int64_t step, slow_item_kind kind)
{
    for (size_t i = 0; i < t->n_items; i++)
        if (t->items[i].step == step && t->items[i].kind == kind) return &t->items[i];
    return NULL;
}

/* Steps 0, 1, … have their ids, and nothing belongs to a later one. */
static bool read_steps(slow_trace *t)
{
    while (find_input(t, t->n_steps, SLOW_IDS)) t->n_steps++;
    if (t->n_steps == 0) return false;
    for (size_t i = 0; i < t->n_items; i++) {
        if (t->items[i].step < t->n_steps) continue;
        if (!fuzz_planted("gap")) return false;
        t->items[i--] = t->items[--t->n_items];
    }
    t->steps = calloc((size_t)t->n_steps, sizeof *t->steps);
    if (!t->steps) abort();
    for (int64_t j = 0; j < t->n_steps; j++)
        for (int k = SLOW_IDS; k <= SLOW_LABELS; k++) t->steps[j].input[k] = find_input(t, j, (slow_item_kind)k);
    return true;
}

static bool has_shape(const slow_tensor *t, int rank, int64_t first, int64_t second)
{
    return t->rank == rank && t->shape[0] == first && t->shape[1] == second;
}

static bool read_inputs(slow_trace *t)
{
    int64_t past = 0;
    for (int64_t j = 0; j < t->n_steps; j++) {
        slow_step *s = &t->steps[j];
        const slow_tensor *ids = s->input[SLOW_IDS]->t;
        if (ids->rank != 2 || ids->shape[0] < 1 || ids->shape[1] < 1) return false;
        if (j == 0) t->B = ids->shape[0];
        if (!rule(ids->shape[0] == t->B, "rows")) return false;
        s->T = ids->shape[1];
        s->past = past;
        for (int k = SLOW_IDS; k <= SLOW_LABELS; k++) {
            const slow_item *in = s->input[k];
            if (in && !rule(strcmp(in->t->dtype, "I64") == 0, "input_type")) return false;
            const int64_t columns = s->T + (k == SLOW_MASK ? past : 0);
            if (in && k > SLOW_IDS && !rule(has_shape(in->t, 2, t->B, columns), "input_shape")) return false;
        }
        past += s->T;
    }
    return true;
}

/* -- shapes ------------------------------------------------------------------------------------------- */

int64_t slow_trace_axis(slow_trace_model m, char axis, int64_t B, int64_t T, int64_t S)
{
    if (axis == 'B') return B;
    if (axis == 'T' || axis == 'L') return T;
    if (axis == 'S') return S;
    for (size_t i = 0; i < sizeof axes / sizeof *axes; i++)
        if (axes[i].letter == axis) return m == SLOW_MAMBA ? axes[i].mamba : axes[i].h1;
    abort();
}

static bool fits(const slow_trace *t, const slow_item *it, const char *shape)
{
    const slow_step *s = &t->steps[it->step];
    if (it->t->rank != (int)strlen(shape)) return false;
    for (int k = 0; k < it->t->rank; k++) {
        int64_t n = it->t->shape[k];
        if (shape[k] == 'L' ? n < 1 || n > s->T : n != slow_trace_axis(t->model, shape[k], t->B, s->T, s->past + s->T))
            return false;
    }
    return true;
}

static bool read_taps(const slow_trace *t)
{
    static const char *const floats[] = {"F64", "F32", "BF16", "F16"};
    for (size_t i = 0; i < t->n_items; i++) {
        const slow_item *it = &t->items[i];
        bool known = false;
        if (it->kind < SLOW_TAP) continue;
        for (int k = 0; k < 4; k++) known = known || strcmp(it->t->dtype, floats[k]) == 0;
        if (!rule(known, "tap_type")) return false;
        const line *l =
            it->kind == SLOW_TAP ? LOOK_UP(t->model, taps, it->name) : LOOK_UP(t->model, parameters, it->name);
        if (l && !rule(fits(t, it, l->shape), it->kind == SLOW_TAP ? "tap_shape" : "grad_shape")) return false;
    }
    return true;
}

/* -- the walk: what an engine would find in the inputs ------------------------------------------------- */

int64_t slow_item_i64(const slow_item *it, int64_t i)
{
    uint64_t v = 0;
    if (it->t->bits != 64 || 8 * (i + 1) > it->t->end - it->t->begin) return 0; /* by a plant alone */
    for (int k = 0; k < 8; k++) v |= (uint64_t)it->data[8 * i + k] << (8 * k);
    return (int64_t)v;
}

/* A mask: 1 for a token and 0 for padding, in the past what it was; no padding between two new tokens. */
static bool walk_mask(const slow_trace *t, const slow_step *s, int64_t b, uint8_t *real)
{
    const slow_item *mask = s->input[SLOW_MASK];
    const int64_t n = s->past + s->T;
    int starts = 0;
    for (int64_t c = 0; c < n; c++) {
        int64_t v = mask ? slow_item_i64(mask, b * n + c) : c < s->past ? real[c] : 1;
        if (c < s->past && !rule(v == real[c], "past")) return false;
        if (c < s->past) continue;
        if (!rule(v == 0 || v == 1, "mask")) return false;
        real[c] = v == 1;
        starts += real[c] && (c == s->past || !real[c - 1]);
    }
    (void)t;
    return rule(starts <= 1, "hole");
}

/* One real token, column c of the step. */
static bool walk_token(const slow_step *s, int64_t i, int64_t *document)
{
    const slow_item *ids = s->input[SLOW_IDS], *positions = s->input[SLOW_POSITIONS], *seq = s->input[SLOW_SEQ_IDX];
    const int64_t id = slow_item_i64(ids, i);
    if (!rule(id >= 0 && id < VOCABULARY, "id")) return false;
    const int64_t position = positions ? slow_item_i64(positions, i) : 0;
    if (!rule(position >= 0 && position <= INT64_C(1) << 53, "position")) return false;
    if (!seq) return true;
    const int64_t d = slow_item_i64(seq, i);
    if (!rule(d >= *document, "document")) return false;
    *document = d;
    return true;
}

static bool walk_row(const slow_trace *t, int64_t b, uint8_t *real)
{
    int64_t document = 0;
    for (int64_t j = 0; j < t->n_steps; j++) {
        const slow_step *s = &t->steps[j];
        if (!walk_mask(t, s, b, real)) return false;
        for (int64_t c = 0; c < s->T; c++) {
            const int64_t label = s->input[SLOW_LABELS] ? slow_item_i64(s->input[SLOW_LABELS], b * s->T + c) : 0;
            if (!rule(label == -100 || (label >= 0 && label < VOCABULARY), "label")) return false;
            if (real[s->past + c] && !walk_token(s, b * s->T + c, &document)) return false;
        }
    }
    return true;
}

static bool walk(const slow_trace *t)
{
    const slow_step *last = &t->steps[t->n_steps - 1];
    uint8_t *real = calloc(1, (size_t)(last->past + last->T));
    bool good = true;
    if (!real) abort();
    for (int64_t b = 0; b < t->B && good; b++) good = walk_row(t, b, real);
    free(real);
    return good;
}

/* -- the whole ------------------------------------------------------------------------------------------ */

static bool metadata(const slow_trace *t, const char *key, size_t most, const char **out)
{
    const slow_json *v = slow_json_member(t->file.metadata, key);
    *out = v && v->text ? v->text : "";
    return rule(strlen(*out) <= most, "long");
}

bool slow_trace_read(const uint8_t *file, size_t size, slow_trace_model model, slow_trace *out)
{
    memset(out, 0, sizeof *out);
    out->model = model;
    if (!slow_safetensors_read(file, size, &out->file)) return false;
    if (!metadata(out, "fh1.trace", SIZE_MAX, &out->version) || !rule(strcmp(out->version, "1") == 0, "version"))
        return false;
    if (!metadata(out, "fh1.contract", 127, &out->contract) || !metadata(out, "fh1.variant", 255, &out->variant) ||
        !metadata(out, "fh1.producer", 255, &out->producer))
        return false;
    return read_names(out, file) && read_steps(out) && read_inputs(out) && read_taps(out) && walk(out);
}

void slow_trace_free(slow_trace *t)
{
    slow_safetensors_free(&t->file);
    free(t->items);
    free(t->steps);
    memset(t, 0, sizeof *t);
}
