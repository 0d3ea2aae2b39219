#include "cli/train_adapter.h"

#include "cli/options.h"
#include "cli/train_numbers.h"
#include "convert/file.h"
#include "oracle/random.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name;
    fh1_tap_id tap;
} known[] = {{"in_proj", FH1_TAP_IN_PROJ},     {"out_proj", FH1_TAP_OUT_PROJ},  {"q_proj", FH1_TAP_Q_PROJ},
             {"k_proj", FH1_TAP_K_PROJ},       {"v_proj", FH1_TAP_V_PROJ},      {"o_proj", FH1_TAP_O_PROJ},
             {"gate_proj", FH1_TAP_GATE_PROJ}, {"up_proj", FH1_TAP_UP_PROJ},    {"down_proj", FH1_TAP_DOWN_PROJ},
             {"lm_head", FH1_TAP_LOGITS},      {"embed_tokens", FH1_TAP_EMBED}, {"x_proj", FH1_TAP_X_PROJ},
             {"dt_proj", FH1_TAP_DT},          {"embeddings", FH1_TAP_EMBED}};
enum { N_KNOWN = sizeof known / sizeof *known };

/* ---- the option ---- */

static fh1_status unknown_target(const char *name)
{
    char list[256] = "";
    for (int i = 0; i < N_KNOWN; i++) {
        const size_t n = strlen(list);
        snprintf(list + n, sizeof list - n, "%s%s", n ? " " : "", known[i].name);
    }
    return fh1_found(fh1_expected(FH1_BAD("--lora: a target that matches no module"), "%s", list), "'%.50s'", name);
}

static fh1_status add_target(cli_lora_spec *s, const char *name)
{
    if (strcmp(name, "conv1d") == 0)
        return fh1_hint(
            FH1_BAD("--lora: conv1d cannot have an adapter: it is a depthwise kernel of K taps per channel, "
                    "no matrix, and the fused kernels read its weight raw"),
            "train it in full with --train '*conv1d*', or choose in_proj, whose output it filters");
    if (strcmp(name, "all-linear") == 0)
        return fh1_hint(FH1_BAD("--lora: all-linear takes out_proj too, and PEFT refuses that for this architecture"),
                        "name the modules: in_proj+q_proj+k_proj+v_proj+o_proj+gate_proj+up_proj+down_proj, of "
                        "Falcon-Mamba in_proj+x_proj+dt_proj");
    bool exists = false;
    for (int i = 0; i < N_KNOWN; i++) exists |= strcmp(known[i].name, name) == 0;
    if (!exists) return unknown_target(name);
    if (cli_lora_has(s, name)) return FH1_BAD("--lora: %s is named twice", name);
    snprintf(s->targets[s->n++], sizeof s->targets[0], "%s", name);
    return NULL;
}

bool cli_lora_has(const cli_lora_spec *s, const char *target)
{
    for (int i = 0; i < s->n; i++)
        if (strcmp(s->targets[i], target) == 0) return true;
    return false;
}

/* Text up to the next comma; false when there is none or it is long. */
static bool take_field(const char **at, char *out, size_t size)
{
    const size_t n = strcspn(*at, ",");
    if ((*at)[n] != ',' || n >= size) return false;
    memcpy(out, *at, n);
    out[n] = '\0';
    *at += n + 1;
    return true;
}

fh1_status cli_lora_parse(const char *text, cli_lora_spec *out)
{
    char r[32], alpha[32], name[32];
    const char *at = text;
    *out = (cli_lora_spec){0};
    if (!take_field(&at, r, sizeof r) || !take_field(&at, alpha, sizeof alpha) || !*at)
        return fh1_found(fh1_expected(FH1_BAD("--lora: not an adapter"), "RANK,ALPHA,TARGETS as in 8,16,q_proj+v_proj"),
                         "'%.100s'", text);
    if (!cli_read_int(r, &out->r) || out->r < 1 || out->r > 1 << 20)
        return fh1_found(fh1_expected(FH1_BAD("--lora: not a rank"), "a whole number of 1 or more"), "'%s'", r);
    FH1_TRY(cli_read_number("--lora: alpha", alpha, -1e6, 1e6, &out->alpha));
    if (out->alpha == 0) return FH1_BAD("--lora: with alpha 0 the adapter has no effect and no gradient");
    for (; *at; at += strspn(at, "+ ,")) {
        const size_t n = strcspn(at, "+ ,");
        snprintf(name, sizeof name, "%.*s", (int)(n < 31 ? n : 31), at);
        if (n > 0) FH1_TRY(add_target(out, name));
        at += n;
    }
    return out->n ? NULL : unknown_target("");
}

/* ---- the pairs ---- */

struct cli_adapter {
    fh1_lora *pairs; /* n */
    float **blocks;  /* A and B of each */
    int64_t n;
};

static fh1_status take_numbers(fh1_tensor *t, int64_t rows, int64_t cols, float **block)
{
    int64_t n;
    if (!fh1_mul_i64(rows, cols, &n) || n > INT64_MAX / 8) return FH1_BAD("an adapter of this rank is too large");
    if (!(*block = calloc((size_t)n, sizeof **block))) return fh1_no_memory((size_t)n * sizeof **block, "an adapter");
    *t = fh1_view2(*block, FH1_F32, rows, cols);
    return NULL;
}

/* kaiming_uniform with a = √5 is uniform in ±1/√in. */
static void draw_A(float *A, int64_t n, int64_t in, uint64_t seed, const char *module)
{
    char name[256];
    snprintf(name, sizeof name, "fh1 train %s.lora_A", module);
    const fh1_stream r = fh1_stream_open(seed, name);
    const double bound = 1 / sqrt((double)in);
    for (int64_t i = 0; i < n; i++) A[i] = (float)((2 * fh1_random_uniform(r, (uint64_t)i) - 1) * bound);
}

static void draw_embedding_B(float *B, int64_t n, uint64_t seed, const char *module)
{
    char name[256];
    snprintf(name, sizeof name, "fh1 train %s.lora_embedding_B", module);
    const fh1_stream r = fh1_stream_open(seed, name);
    for (int64_t i = 0; i < n; i++) B[i] = (float)fh1_random_normal(r, (uint64_t)i);
}

typedef struct {
    fh1_model *m;
    const cli_lora_spec *spec;
    uint64_t seed;
    cli_adapter *a;
    cli_lora_cover *cover;
} builder;

static fh1_status add_pair(builder *b, const char *module, int64_t in, int64_t out, bool embedding, fh1_lora **list)
{
    cli_adapter *a = b->a;
    const int64_t r = b->spec->r;
    if (r > (in < out ? in : out))
        return fh1_hint(fh1_found(FH1_BAD("--lora: the rank is larger than a side of %s", module),
                                  "%" PRId64 " on [%" PRId64 ", %" PRId64 "]", r, out, in),
                        "a pair of that rank holds more numbers than the matrix: choose a smaller rank");
    fh1_lora *x = &a->pairs[a->n];
    float **block = &a->blocks[2 * a->n++];
    x->scale = b->spec->alpha / (b->spec->rslora ? sqrt((double)r) : (double)r);
    FH1_TRY(take_numbers(&x->A, r, in, &block[0]));
    FH1_TRY(take_numbers(&x->B, out, r, &block[1]));
    if (embedding) draw_embedding_B(block[1], out * r, b->seed, module);
    else draw_A(block[0], r * in, in, b->seed, module);
    while (*list) list = &(*list)->next;
    *list = x;
    b->cover->modules++;
    b->cover->params += r * (in + out);
    return NULL;
}

static fh1_status add_linear(builder *b, fh1_tap_id tap, int64_t layer)
{
    char module[FH1_TAP_NAME_SIZE];
    const fh1_linear x = fh1_model_linear(b->m, tap, layer);
    if (!x.w->data) return NULL;
    const char *name = fh1_tap_linear_module(b->m->config.family, tap, layer, module);
    return add_pair(b, name, x.w->shape[1], x.w->shape[0], false, x.lora);
}

static fh1_status add_named(builder *b, int which)
{
    const fh1_tap_id tap = known[which].tap;
    const int64_t before = b->cover->modules;
    const fh1_tensor *embed = &b->m->embed;
    const char *table = fh1_embed_module(b->m->config.family);
    if (tap == FH1_TAP_EMBED && cvt_has_suffix(table, known[which].name))
        return add_pair(b, table, embed->shape[0], embed->shape[1], true, &b->m->embed_lora);
    if (tap == FH1_TAP_LOGITS) return add_linear(b, tap, 0);
    for (int64_t i = 0; tap != FH1_TAP_EMBED && i < b->m->config.n_layers; i++) FH1_TRY(add_linear(b, tap, i));
    if (b->cover->modules > before) return NULL;
    return FH1_BAD("--lora: the target %s matches no module of this model", known[which].name);
}

static fh1_status build(builder *b)
{
    const bool mamba = b->m->config.family == FH1_FALCON_MAMBA;
    const int64_t most = b->m->config.n_layers * (mamba ? 4 : 9) + 2;
    b->a->pairs = calloc((size_t)most, sizeof *b->a->pairs);
    b->a->blocks = calloc((size_t)(2 * most), sizeof *b->a->blocks);
    if (!b->a->pairs || !b->a->blocks) return fh1_no_memory((size_t)most * sizeof *b->a->pairs, "an adapter");
    b->cover->linears = most;
    for (int64_t i = 0; i < b->m->n_weights; i++) b->cover->base += fh1_n_elems(&b->m->weights[i].t);
    for (int i = 0; i < N_KNOWN; i++)
        if (cli_lora_has(b->spec, known[i].name)) FH1_TRY(add_named(b, i));
    return NULL;
}

fh1_status cli_adapter_new(fh1_model *m, const cli_lora_spec *spec, uint64_t seed, cli_adapter **out,
                           cli_lora_cover *cover)
{
    *cover = (cli_lora_cover){0};
    if (!(*out = calloc(1, sizeof **out))) return fh1_no_memory(sizeof **out, "an adapter");
    builder b = {m, spec, seed, *out, cover};
    fh1_status s = build(&b); /* after an error the model holds pairs that are not whole: it is not used */
    return s;
}

void cli_adapter_free(cli_adapter *a)
{
    if (!a) return;
    for (int64_t i = 0; i < 2 * a->n; i++) free(a->blocks[i]);
    free(a->blocks);
    free(a->pairs);
    free(a);
}
