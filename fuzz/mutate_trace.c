#include "fuzz/mutate_trace.h"

#include "fuzz/slow_trace.h"

#include <stdio.h>
#include <string.h>

static const char *const words[] = {"step0/input_ids",
                                    "step1/input_ids",
                                    "step0/attention_mask",
                                    "step1/attention_mask",
                                    "step0/position_ids",
                                    "step0/seq_idx",
                                    "step1/seq_idx",
                                    "step0/labels",
                                    "step00/input_ids",
                                    "step1000000000/logits",
                                    "step0/logits",
                                    "step1/logits",
                                    "step0/loss",
                                    "step0/cache.1.key",
                                    "step0/cache.2.key",
                                    "step0/cache.0.ssm",
                                    "step0/model.layers.1",
                                    "step0/model.layers.01",
                                    "step0/model.layers.1.mid",
                                    "step0/model.layers.1.mid_ssm",
                                    "step0/backbone.layers.1",
                                    "step0/backbone.layers.0.mixer.scan",
                                    "step0/grad.backbone.layers.1.mixer.A_log",
                                    "SAM",
                                    "S_A_M",
                                    "step0/grad.lm_head.weight",
                                    "step0/grad.",
                                    "step0/grad.model.layers.0.mamba.D",
                                    "fh1.trace",
                                    "fh1.contract",
                                    "fh1.variant",
                                    "fh1.producer",
                                    "1",
                                    "2",
                                    "I64",
                                    "F64",
                                    "F32",
                                    "BF16",
                                    "F16",
                                    "U8",
                                    NULL};
static const char other[] =
    "{\"__metadata__\":{\"fh1.trace\":\"1\"},\"step0/input_ids\":{\"dtype\":\"I64\",\"shape\":[1,2],"
    "\"data_offsets\":[0,16]},\"step0/logits\":{\"dtype\":\"BF16\",\"shape\":[1,2,7],"
    "\"data_offsets\":[16,44]},\"step0/cache.0.conv\":{\"dtype\":\"F16\",\"shape\":[1,13,3],"
    "\"data_offsets\":[44,122]},\"step0/loss\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[122,126]}}";

/* -- inputs that make sense ----------------------------------------------------------------------------- */

static int64_t sensible(const char *name, int64_t i, fuzz_rng *r)
{
    if (strstr(name, "attention_mask") || strstr(name, "seq_idx")) return strstr(name, "mask") != NULL;
    if (strstr(name, "position_ids")) return i;
    if (strstr(name, "labels") && fuzz_below(r, 2)) return -100;
    return (int64_t)fuzz_below(r, 7);
}

static int64_t odd(fuzz_rng *r)
{
    static const int64_t list[] = {-1,        -100,     0, 1, 2, 7, INT64_C(1) << 53, (INT64_C(1) << 53) + 1,
                                   INT64_MAX, INT64_MIN};
    return list[fuzz_below(r, sizeof list / sizeof *list)];
}

/* Fills the I64 tensors of a sound file; where `one` is set, a single element becomes odd instead. */
static void fill(uint8_t *data, size_t size, bool one, fuzz_rng *r)
{
    slow_safetensors f;
    const bool sound = slow_safetensors_read(data, size, &f);
    const uint64_t chosen = fuzz_below(r, f.n);
    for (size_t k = 0; sound && k < f.n; k++) {
        const slow_tensor *t = &f.tensors[k];
        const int64_t n = (t->end - t->begin) / 8, which = (int64_t)fuzz_below(r, (uint64_t)n);
        if (strcmp(t->dtype, "I64") != 0 || (one && k != chosen)) continue;
        for (int64_t i = one ? which : 0; i < (one && which < n ? which + 1 : n); i++) {
            const int64_t v = one ? odd(r) : sensible(t->name, i, r);
            uint8_t *to = data + f.data + t->begin + 8 * i;
            for (int b = 0; b < 8; b++) to[b] = (uint8_t)((uint64_t)v >> (8 * b));
        }
    }
    slow_safetensors_free(&f);
}

/* -- a trace drawn anew ------------------------------------------------------------------------------------ */

typedef struct {
    slow_trace_model model;
    char *s;
    size_t n, room;
} header;

static void add(header *h, const char *step_and_name, const char *dtype, const char *shape, int64_t B, int64_t T,
                int64_t S)
{
    char text[400];
    size_t n = (size_t)snprintf(text, sizeof text, ",\"%s\":{\"dtype\":\"%s\",\"shape\":[", step_and_name, dtype);
    for (const char *axis = shape; *axis; axis++)
        n += (size_t)snprintf(text + n, sizeof text - n, "%s%lld", axis == shape ? "" : ",",
                              (long long)slow_trace_axis(h->model, *axis, B, T, S));
    n += (size_t)snprintf(text + n, sizeof text - n, "],\"data_offsets\":[0,0]}");
    if (n > h->room - h->n) return;
    memcpy(h->s + h->n, text, n);
    h->n += n;
}

/* A tap or a gradient of step j. */
static void add_tensor(header *h, slow_item_kind kind, int64_t j, int64_t B, int64_t T, int64_t S, fuzz_rng *r)
{
    static const char *const dtypes[] = {"F32", "BF16", "F16", "F64"};
    size_t n;
    const slow_trace_line *l = slow_trace_lines(kind, &n) + fuzz_below(r, n);
    if (!slow_trace_has(h->model, l)) return;
    char name[160];
    const char *mark = strchr(l->name, '#');
    const int before = mark ? (int)(mark - l->name) : (int)strlen(l->name);
    snprintf(name, sizeof name, "step%lld/%s%.*s%.1s%s", (long long)j, kind == SLOW_GRAD ? "grad." : "", before,
             l->name, mark ? fuzz_below(r, 2) ? "1" : "0" : "", mark ? mark + 1 : "");
    add(h, name, dtypes[fuzz_below(r, 4)], l->shape, B, T, S);
}

static size_t draw(uint8_t *data, size_t max_size, fuzz_rng *r)
{
    static const char *const inputs[] = {"input_ids", "attention_mask", "position_ids", "seq_idx", "labels"};
    static const char *const words_of[] = {"", "backbone.", "SAM", "S_A_M"};
    const uint64_t model = fuzz_below(r, 2 * SLOW_TRACE_MODELS);
    header h = {.model = model < SLOW_TRACE_MODELS ? (slow_trace_model)model : SLOW_RELEASED,
                .s = (char *)data + 8,
                .room = max_size / 2};
    const int64_t B = 1 + (int64_t)fuzz_below(r, 3), steps = 1 + (int64_t)fuzz_below(r, 3);
    h.n = (size_t)sprintf(h.s, "{\"__metadata__\":{\"fh1.trace\":\"1\",\"fh1.producer\":\"%s\"}", words_of[h.model]);
    for (int64_t j = 0, S = 0; j < steps; j++) {
        const int64_t T = 1 + (int64_t)fuzz_below(r, 3);
        S += T;
        for (int k = 0; k < 5; k++) {
            char name[64];
            snprintf(name, sizeof name, "step%lld/%s", (long long)j, inputs[k]);
            if (k == 0 || fuzz_below(r, 3) == 0) add(&h, name, "I64", k == 1 ? "BS" : "BT", B, T, S);
        }
        for (uint64_t n = fuzz_below(r, h.model == SLOW_MAMBA ? 12 : 4); n > 0; n--)
            add_tensor(&h, fuzz_below(r, 4) ? SLOW_TAP : SLOW_GRAD, j, B, T, S, r);
    }
    h.s[h.n++] = '}';
    for (int i = 0; i < 8; i++) data[i] = (uint8_t)((uint64_t)h.n >> (8 * i));
    const size_t size = fuzz_lay_out_safetensors(data, 8 + h.n, max_size, r);
    fill(data, size, false, r);
    return size;
}

size_t fuzz_mutate_trace(uint8_t *data, size_t size, size_t max_size, fuzz_rng *r)
{
    static const fuzz_json_stock stock = {other, sizeof other - 1, words};
    const uint64_t which = fuzz_below(r, 16);
    if (max_size >= 256 && (size < 10 || which == 0)) return draw(data, max_size, r);
    if (which < 6) {
        fill(data, size, which > 2, r);
        return size;
    }
    size = fuzz_mutate_safetensors(data, size, max_size, &stock, r);
    if (which < 14) fill(data, size, false, r);
    return size;
}
