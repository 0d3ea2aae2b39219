#include "oracle/grads.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ALIGN 64 /* bytes: each gradient begins on a line of the cache */

/* The tensors of one layer in backward order; an adapter of a product follows its bias. */
typedef struct {
    const char *name; /* behind the layer's */
    size_t weight, bias;
    int adapter; /* tap of the product, -1: none */
} slot;

#define L(field) offsetof(fh1_layer, field)
#define NONE ((size_t)-1)

static const slot of_h1[] = {
    {"feed_forward.down_proj", L(down_w), L(down_b), FH1_TAP_DOWN_PROJ},
    {"feed_forward.up_proj", L(up_w), L(up_b), FH1_TAP_UP_PROJ},
    {"feed_forward.gate_proj", L(gate_w), L(gate_b), FH1_TAP_GATE_PROJ},
    {"pre_ff_layernorm", L(pre_ff_layernorm), NONE, -1},
    {"self_attn.o_proj", L(o_w), L(o_b), FH1_TAP_O_PROJ},
    {"self_attn.v_proj", L(v_w), L(v_b), FH1_TAP_V_PROJ},
    {"self_attn.k_proj", L(k_w), L(k_b), FH1_TAP_K_PROJ},
    {"self_attn.q_proj", L(q_w), L(q_b), FH1_TAP_Q_PROJ},
    {"attn_layernorm", L(attn_layernorm), NONE, -1},
    {"mamba.out_proj", L(out_w), L(out_b), FH1_TAP_OUT_PROJ},
    {"mamba.norm", L(norm), NONE, -1},
    {"mamba.D", L(D), NONE, -1},
    {"mamba.A_log", L(A_log), NONE, -1},
    {"mamba.dt_bias", L(dt_bias), NONE, -1},
    {"mamba.conv1d", L(conv_w), L(conv_b), -1},
    {"mamba.in_proj", L(in_w), L(in_b), FH1_TAP_IN_PROJ},
    {"input_layernorm", L(input_layernorm), NONE, -1},
};

/* Falcon-Mamba's dt_bias is the bias of dt_proj. */
static const slot of_mamba[] = {
    {"mixer.out_proj", L(out_w), L(out_b), FH1_TAP_OUT_PROJ},
    {"mixer.D", L(D), NONE, -1},
    {"mixer.A_log", L(A_log), NONE, -1},
    {"mixer.dt_proj", L(dt_w), L(dt_bias), FH1_TAP_DT},
    {"mixer.x_proj", L(x_w), NONE, FH1_TAP_X_PROJ},
    {"mixer.conv1d", L(conv_w), L(conv_b), -1},
    {"mixer.in_proj", L(in_w), L(in_b), FH1_TAP_IN_PROJ},
    {"norm", L(input_layernorm), NONE, -1},
};

/* What a family calls its modules. */
static const struct {
    const char *final_norm;
    const slot *slots;
    int n_slots;
} families[] = {
    [FH1_FALCON_H1] = {"model.final_layernorm", of_h1, sizeof of_h1 / sizeof *of_h1},
    [FH1_FALCON_MAMBA] = {"backbone.norm_f", of_mamba, sizeof of_mamba / sizeof *of_mamba},
};

/* A_log, D and dt_bias are parameters of the mixer itself, not of a module with a weight. */
static bool is_bare(const slot *s)
{
    return s->weight == L(D) || s->weight == L(A_log) || s->weight == L(dt_bias);
}

typedef struct {
    fh1_grads *g;
    int64_t room;
} list;

static fh1_status put(list *l, const char *module, const char *suffix, fh1_tensor *value, int64_t layer, bool adapter)
{
    if (!value->data) return NULL;
    if (l->g->n == l->room) {
        const int64_t room = l->room ? 2 * l->room : 64;
        fh1_param *p = realloc(l->g->params, (size_t)room * sizeof *p);
        if (!p) return fh1_no_memory((size_t)room * sizeof *p, "a list of parameters");
        l->g->params = p;
        l->room = room;
    }
    fh1_param *p = &l->g->params[l->g->n++];
    *p = (fh1_param){.value = value, .layer = layer, .adapter = adapter};
    const int n = snprintf(p->name, sizeof p->name, "%s%s%s", adapter ? "base_model.model." : "", module, suffix);
    if (n >= (int)sizeof p->name) return fh1_fail(FH1_E_INTERNAL, "a parameter's name of %d bytes", n);
    return NULL;
}

/* The tensors of an adapter of one module. `embedding`: PEFT names them otherwise there. */
static fh1_status put_adapter(list *l, const char *module, fh1_lora *a, int64_t layer, bool embedding)
{
    if (!a) return NULL;
    if (a->next)
        return fh1_hint(FH1_BAD("%s has two adapters: gradients of several at once have no names", module),
                        "attach one of them, or merge the other (fh1 merge)");
    if (a->f)
        return fh1_hint(FH1_BAD("%s has a DoRA adapter: fh1 has no backward pass for it", module),
                        "merge it first (fh1 merge), or train plain LoRA");
    FH1_TRY(put(l, module, embedding ? ".lora_embedding_A" : ".lora_A.weight", &a->A, layer, true));
    FH1_TRY(put(l, module, embedding ? ".lora_embedding_B" : ".lora_B.weight", &a->B, layer, true));
    return put(l, module, ".lora_B.bias", &a->bias, layer, true);
}

static fh1_status put_layer(list *l, fh1_model *m, int64_t i)
{
    fh1_layer *layer = &m->layers[i];
    const fh1_family f = m->config.family;
    for (const slot *s = families[f].slots; s < families[f].slots + families[f].n_slots; ++s) {
        char module[FH1_PARAM_NAME];
        snprintf(module, sizeof module, "%s.%lld.%s", fh1_layers_module(f), (long long)i, s->name);
        FH1_TRY(put(l, module, is_bare(s) ? "" : ".weight", (fh1_tensor *)((char *)layer + s->weight), i, false));
        if (s->bias != NONE) FH1_TRY(put(l, module, ".bias", (fh1_tensor *)((char *)layer + s->bias), i, false));
        if (s->adapter >= 0) FH1_TRY(put_adapter(l, module, layer->lora[s->adapter], i, false));
    }
    return NULL;
}

/* A tied head that nobody untied is the embedding. */
static bool head_is_embedding(const fh1_model *m)
{
    return m->config.tied && m->lm_head.data == m->embed.data;
}

static fh1_status put_all(list *l, fh1_model *m)
{
    if (!head_is_embedding(m)) FH1_TRY(put(l, "lm_head", ".weight", &m->lm_head, -1, false));
    FH1_TRY(put_adapter(l, "lm_head", m->head_lora, -1, false));
    const char *embed = fh1_embed_module(m->config.family);
    FH1_TRY(put(l, families[m->config.family].final_norm, ".weight", &m->final_layernorm, -1, false));
    for (int64_t i = m->config.n_layers; i-- > 0;) FH1_TRY(put_layer(l, m, i));
    FH1_TRY(put(l, embed, ".weight", &m->embed, -1, false));
    return put_adapter(l, embed, m->embed_lora, -1, true);
}

/* One block for the gradients that are wanted. */
static fh1_status allocate(fh1_grads *g, bool (*wanted)(void *user, const fh1_param *p), void *user)
{
    const size_t width = (size_t)fh1_dtype_bits(g->dtype) / 8;
    for (int pass = 0; pass < 2; ++pass) {
        size_t at = 0;
        for (int64_t i = 0; i < g->n; ++i) {
            fh1_param *p = &g->params[i];
            const fh1_tensor *v = p->value;
            if (pass == 0) p->grad = fh1_view(NULL, g->dtype, v->rank, v->shape);
            if (wanted && !wanted(user, p)) continue;
            if (pass == 1) p->grad.data = (char *)g->memory + at;
            at += ((size_t)fh1_n_elems(v) * width + ALIGN - 1) / ALIGN * ALIGN;
        }
        if (pass == 1) return NULL;
        g->bytes = at;
        if (!(g->memory = calloc(at + ALIGN, 1))) return fh1_no_memory(at, "gradients");
    }
    return NULL;
}

/* An order for qsort without a place for the table. */
static _Thread_local const fh1_param *sorted;
static int by_address(const void *a, const void *b)
{
    const fh1_tensor *x = sorted[*(const int64_t *)a].value, *y = sorted[*(const int64_t *)b].value;
    return x < y ? -1 : x > y;
}

static fh1_status sort_by_address(fh1_grads *g)
{
    if (!(g->by_value = malloc((size_t)g->n * sizeof *g->by_value)))
        return fh1_no_memory((size_t)g->n * sizeof *g->by_value, "a list of parameters");
    for (int64_t i = 0; i < g->n; ++i) g->by_value[i] = i;
    sorted = g->params;
    qsort(g->by_value, (size_t)g->n, sizeof *g->by_value, by_address);
    return NULL;
}

fh1_status fh1_grads_new(fh1_model *m, fh1_dtype dtype, bool (*wanted)(void *user, const fh1_param *p), void *user,
                         fh1_grads **out)
{
    fh1_grads *g = calloc(1, sizeof *g);
    if (!g) return fh1_no_memory(sizeof *g, "gradients");
    g->dtype = dtype;
    list l = {g, 0};
    fh1_status s = put_all(&l, m);
    if (!s) s = allocate(g, wanted, user);
    if (!s) s = sort_by_address(g);
    g->embed = &m->embed;
    if (head_is_embedding(m)) g->tied_head = &m->lm_head;
    if (s) fh1_grads_free(g);
    else *out = g;
    return s;
}

void fh1_grads_free(fh1_grads *g)
{
    if (!g) return;
    free(g->params);
    free(g->by_value);
    free(g->memory);
    free(g);
}

void fh1_grads_zero(fh1_grads *g)
{
    memset(g->memory, 0, g->bytes);
}

void *fh1_grad_of(const fh1_grads *g, const fh1_tensor *value)
{
    if (!value) return NULL;
    if (value == g->tied_head) value = g->embed;
    int64_t lo = 0, hi = g->n;
    while (lo < hi) {
        const int64_t mid = (lo + hi) / 2;
        const fh1_param *p = &g->params[g->by_value[mid]];
        if (p->value == value) return p->grad.data;
        if (p->value < value) lo = mid + 1;
        else hi = mid;
    }
    return NULL;
}

int64_t fh1_grads_find(const fh1_grads *g, const char *name)
{
    for (int64_t i = 0; i < g->n; ++i)
        if (strcmp(g->params[i].name, name) == 0) return i;
    return -1;
}
