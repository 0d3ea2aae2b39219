/* fh1 taps: the names that a trace of this model may use, their shapes, and what they mean. */
#include "cli/commands.h"
#include "cli/options.h"
#include "oracle/grads.h"

#include <inttypes.h>
#include <string.h>

static const char help[] =
    "usage: fh1 taps MODEL [--adapter DIR…] [--json]\n\n"
    "Lists every tap that a trace of MODEL may hold: its name, its shape and its definition. Record any\n"
    "subset of them in your engine, write them as stepJ/NAME into one .safetensors file (docs/traces.md)\n"
    "and judge the file with `fh1 check MODEL --trace FILE`.\n\n"
    "Gradients of parameters, step0/grad.NAME beside step0/labels, are judged with `fh1 gradcheck MODEL --trace "
    "FILE`.\n\n"
    "  --adapter DIR…   gradients of the tensors of these PEFT adapters too\n"
    "  --json   one JSON line per tap and layer: {\"tap\",\"layer\",\"shape\",\"letters\",\"definition\"}\n\n"
    "B rows, T tokens of this call, T' columns of logits, S columns of the cache after the call.\n\n"
    "example: fh1 taps golden/models/mini-0.5b\n";

/* The shapes in the letters of docs/numerics.md. */
static const char *const letters[FH1_TAP_COUNT] = {
    [FH1_TAP_EMBED] = "B,T,D",
    [FH1_TAP_INPUT] = "B,T,D",
    [FH1_TAP_INPUT_LAYERNORM] = "B,T,D",
    [FH1_TAP_Q_PROJ] = "B,T,Hq·A",
    [FH1_TAP_K_PROJ] = "B,T,Hkv·A",
    [FH1_TAP_V_PROJ] = "B,T,Hkv·A",
    [FH1_TAP_Q_ROPE] = "B,T,Hq,A",
    [FH1_TAP_K_ROPE] = "B,T,Hkv,A",
    [FH1_TAP_CONTEXT] = "B,T,Hq·A",
    [FH1_TAP_O_PROJ] = "B,T,D",
    [FH1_TAP_IN_PROJ] = "B,T,2·d_ssm+2GN+H",
    [FH1_TAP_CONV_ACT] = "B,T,d_ssm+2GN",
    [FH1_TAP_X_PROJ] = "B,T,R+2N",
    [FH1_TAP_DT] = "B,T,H",
    [FH1_TAP_SSD] = "B,T,d_ssm",
    [FH1_TAP_GATED] = "B,T,d_ssm",
    [FH1_TAP_OUT_PROJ] = "B,T,D",
    [FH1_TAP_MID_SSM] = "B,T,D",
    [FH1_TAP_ATTN_LAYERNORM] = "B,T,D",
    [FH1_TAP_MID] = "B,T,D",
    [FH1_TAP_PRE_FF_LAYERNORM] = "B,T,D",
    [FH1_TAP_GATE_PROJ] = "B,T,F",
    [FH1_TAP_UP_PROJ] = "B,T,F",
    [FH1_TAP_ACT] = "B,T,F",
    [FH1_TAP_DOWN_PROJ] = "B,T,D",
    [FH1_TAP_LAYER] = "B,T,D",
    [FH1_TAP_FINAL_LAYERNORM] = "B,T,D",
    [FH1_TAP_LOGITS] = "B,T',V",
    [FH1_TAP_CACHE_KEY] = "B,Hkv,S,A",
    [FH1_TAP_CACHE_VALUE] = "B,Hkv,S,A",
    [FH1_TAP_CACHE_CONV] = "B,d_ssm+2GN,K-1",
    [FH1_TAP_CACHE_SSM] = "B,H,P,N",
    [FH1_TAP_LOSS] = "-",
};

/* Falcon-Mamba's where they differ: I channels. */
static const char *const mamba_letters[FH1_TAP_COUNT] = {
    [FH1_TAP_IN_PROJ] = "B,T,2I",  [FH1_TAP_CONV_ACT] = "B,T,I", [FH1_TAP_DT] = "B,T,I",
    [FH1_TAP_SSD] = "B,T,I",       [FH1_TAP_GATED] = "B,T,I",    [FH1_TAP_CACHE_CONV] = "B,I,K-1",
    [FH1_TAP_CACHE_SSM] = "B,I,N",
};

static const char *letters_of(const fh1_config *c, fh1_tap_id id)
{
    return c->family == FH1_FALCON_MAMBA && mamba_letters[id] ? mamba_letters[id] : letters[id];
}

/* The axes whose length belongs to the call, not to the model; NULL for the others. */
static const char *call_axis(fh1_tap_id id, int axis)
{
    if (axis == 0) return "B";
    if (axis == 1 && !fh1_tap_is_cache(id)) return id == FH1_TAP_LOGITS ? "T'" : "T";
    if (axis == 2 && (id == FH1_TAP_CACHE_KEY || id == FH1_TAP_CACHE_VALUE)) return "S";
    return NULL;
}

static const char *shape_text(const fh1_config *c, fh1_tap_id id, bool json, char *buf, size_t size)
{
    fh1_tensor t = fh1_tap_shape(c, id, 1, 1, 1, 1);
    size_t n = (size_t)snprintf(buf, size, "[");
    for (int k = 0; k < t.rank && n < size; k++) {
        const char *comma = k ? (json ? "," : ", ") : "", *axis = call_axis(id, k);
        if (axis) n += (size_t)snprintf(buf + n, size - n, json ? "%s\"%s\"" : "%s%s", comma, axis);
        else n += (size_t)snprintf(buf + n, size - n, "%s%" PRId64, comma, t.shape[k]);
    }
    if (n < size) snprintf(buf + n, size - n, "]");
    return buf;
}

/* The name with i for the layer. */
static void generic_name(const fh1_config *c, fh1_tap_id id, char buf[FH1_TAP_NAME_SIZE])
{
    char name[FH1_TAP_NAME_SIZE];
    fh1_tap_name(c->family, id, 0, name);
    char *zero = fh1_tap_is_per_layer(id) ? strchr(name, '0') : NULL;
    if (zero) *zero = 'i';
    memcpy(buf, name, sizeof name);
}

static void print_json(const fh1_config *c, fh1_tap_id id, int64_t layer)
{
    char name[FH1_TAP_NAME_SIZE], shape[160];
    printf("{\"tap\":\"%s\",\"layer\":", fh1_tap_name(c->family, id, layer, name));
    if (fh1_tap_is_per_layer(id)) printf("%" PRId64, layer);
    else fputs("null", stdout);
    printf(",\"shape\":%s,\"letters\":", shape_text(c, id, true, shape, sizeof shape));
    cli_json_string(stdout, letters_of(c, id));
    fputs(",\"definition\":", stdout);
    cli_json_string(stdout, fh1_tap_definition(c->family, id));
    fputs("}\n", stdout);
}

/* ---- gradients ---- */

static bool none(void *user, const fh1_param *p)
{
    (void)user, (void)p;
    return false;
}

/* Adapters may be attached in ways that have no gradients: then there are none to list. */
static fh1_status print_grads(fh1_model *m, bool json)
{
    fh1_grads *g;
    fh1_status s = fh1_grads_new(m, FH1_F64, none, NULL, &g);
    if (s) return s->code == FH1_E_INPUT ? NULL : s;
    if (!json) printf("\nGradients, in the order of a backward pass; i = layer:\n");
    for (int64_t k = 0; k < g->n; k++) {
        const fh1_param *p = &g->params[k];
        char shape[160], name[FH1_PARAM_NAME];
        fh1_shape_text(p->value, shape, sizeof shape);
        snprintf(name, sizeof name, "%s", p->name);
        if (json) {
            printf("{\"tap\":\"grad.%s\",\"layer\":", p->name);
            if (p->layer < 0) fputs("null", stdout);
            else printf("%" PRId64, p->layer);
            printf(",\"shape\":%s,\"letters\":\"as the parameter\",\"definition\":\"d loss\"}\n", shape);
            continue;
        }
        if (p->layer > 0) continue;
        char *zero = p->layer == 0 ? strstr(name, "layers.0.") : NULL;
        if (zero) zero[7] = 'i';
        printf("grad.%-56s %s\n", name, shape);
    }
    fh1_grads_free(g);
    return NULL;
}

static void print_all_json(const fh1_config *c)
{
    fh1_tap_id ids[FH1_TAP_COUNT];
    fh1_taps_in_order(c, ids);
    for (int first = 0, end; first < FH1_TAP_COUNT; first = end) {
        const bool layers = fh1_tap_is_per_layer(ids[first]), cache = fh1_tap_is_cache(ids[first]);
        end = first + 1;
        while (layers && fh1_tap_is_per_layer(ids[end]) && fh1_tap_is_cache(ids[end]) == cache) end++;
        for (int64_t layer = 0; layer < (layers ? c->n_layers : 1); layer++)
            for (int k = first; k < end; k++)
                if (fh1_tap_exists(c, ids[k])) print_json(c, ids[k], layer);
    }
}

/* Characters of a UTF-8 text, for columns. */
static int columns(const char *s)
{
    int n = 0;
    for (; *s; s++) n += ((unsigned char)*s & 0xc0) != 0x80;
    return n;
}

static void print_table(const fh1_config *c)
{
    char name[FH1_TAP_NAME_SIZE], shape[160];
    printf("%-42s %-18s %-16s %s\n", "tap", "letters", "shape", "definition");
    fh1_tap_id ids[FH1_TAP_COUNT];
    fh1_taps_in_order(c, ids);
    for (int k = 0; k < FH1_TAP_COUNT; k++) {
        if (!fh1_tap_exists(c, ids[k])) continue;
        generic_name(c, ids[k], name);
        const char *axes = letters_of(c, ids[k]);
        printf("%-42s %s%*s %-16s %s\n", name, axes, 18 - columns(axes), "",
               shape_text(c, ids[k], false, shape, sizeof shape), fh1_tap_definition(c->family, ids[k]));
    }
    printf("\ni = 0 .. %" PRId64 ". In a file: stepJ/NAME, J = 0, 1, … for successive calls on one cache.\n",
           c->n_layers - 1);
}

fh1_status cmd_taps(int argc, char **argv, int *code)
{
    bool json = false, done;
    cli_list words = {0}, adapters = {0};
    const cli_option options[] = {{"json", 0, CLI_FLAG, &json, 0, 0}, {"adapter", 0, CLI_LIST, &adapters, 0, 0}};
    const cli_syntax syntax = {"taps", help, options, 2, 1, 1, "MODEL"};
    fh1_model model = {0};

    fh1_status s = cli_parse(&syntax, argc, argv, &words, &done);
    if (!s && !done) {
        s = cli_model_open(words.items[0], &adapters, &model);
        if (!s) {
            if (json) print_all_json(&model.config);
            else print_table(&model.config);
            s = print_grads(&model, json);
            fh1_model_free(&model);
        }
    }
    cli_list_free(&words);
    cli_list_free(&adapters);
    *code = 0;
    return s;
}
