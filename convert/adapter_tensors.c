/* The tensors of an adapter file: what each one is, and that none is missing, left over, misshapen or not finite. */
#include "convert/adapter_parts.h"

#include "convert/fault.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PREFIX "base_model.model."
#define TOKENS ".token_adapter"
#define BASE_LAYER ".base_layer"

typedef enum { PART_A, PART_B, PART_EMBED_A, PART_EMBED_B, PART_BIAS, PART_MAGNITUDE, N_PARTS } part;

/* What the file has for one module. */
typedef struct {
    const cvt_st_entry *of[N_PARTS];
} slot;

typedef struct {
    cvt_adapter *a;
    const cvt_modules *m;
    const cvt_adapter_config *c;
    slot *slots; /* one per module */
    bool *seen;  /* one per base tensor: replaced */
} sorter;

fh1_status cvt_adapter_at(const cvt_adapter *a, const char *tensor, fh1_status s)
{
    return fh1_where(s, "%s, \"%.200s\"", cvt_st_path(a->file), tensor);
}

fh1_status cvt_adapter_check_values(const cvt_adapter *a, const cvt_st_entry *e)
{
    enum { PIECE = 4096 };
    double v[PIECE];
    if (!fh1_dtype_is_float(e->t.dtype))
        return fh1_found(
            fh1_expected(cvt_adapter_at(a, e->name, FH1_BAD("the tensor is not of a float type")), "F32, BF16 or F16"),
            "%s", fh1_dtype_name(e->t.dtype));
    int64_t n = fh1_n_elems(&e->t);
    for (int64_t i = 0; i < n; i += PIECE) {
        int64_t some = n - i < PIECE ? n - i : PIECE;
        fh1_to_f64(v, (const char *)e->t.data + i * (fh1_dtype_bits(e->t.dtype) / 8), e->t.dtype, some);
        for (int64_t k = 0; k < some; k++)
            if (!isfinite(v[k]))
                return fh1_hint(fh1_found(cvt_adapter_at(a, e->name, FH1_BAD("the tensor is not finite")),
                                          "%s at element %lld", isnan(v[k]) ? "NaN" : "infinity", (long long)(i + k)),
                                "the training that made it diverged, or the file is damaged");
    }
    return NULL;
}

void *cvt_adapter_own(cvt_adapter *a, size_t n)
{
    void **grown = realloc(a->owned, ((size_t)a->n_owned + 1) * sizeof *grown);
    void *p = grown ? malloc(n ? n : 1) : NULL;
    if (grown) a->owned = grown;
    if (p) grown[a->n_owned++] = p;
    return p;
}

static fh1_status no_match(const cvt_adapter *a, const char *name)
{
    if (CVT_FAULT(UNMATCHED_TENSOR_SKIPPED)) return NULL;
    return fh1_hint(cvt_adapter_at(a, name, FH1_BAD("the tensor matches nothing of this base")),
                    "is it the base that the adapter was trained on? PEFT would drop the tensor silently");
}

/* ".lora_A.weight", ".lora_A.default.weight", … : the part that a name ends in, and the length of the module's path
 * before it; false when it is no tensor of LoRA. */
static bool parse_part(const char *name, part *p, size_t *len)
{
    static const struct {
        const char *word;
        part weight;
        bool bare, suffixed; /* may stand without, with ".weight" */
    } words[] = {{".lora_A", PART_A, false, true},
                 {".lora_B", PART_B, false, true},
                 {".lora_embedding_A", PART_EMBED_A, true, false},
                 {".lora_embedding_B", PART_EMBED_B, true, false},
                 {".lora_magnitude_vector", PART_MAGNITUDE, true, true}};
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        const char *at = strstr(name, words[i].word), *rest = at ? at + strlen(words[i].word) : "";
        if (!at || (*rest != '\0' && *rest != '.')) continue;
        if (strncmp(rest, ".default", 8) == 0 && (rest[8] == '\0' || rest[8] == '.')) rest += 8;
        *p = words[i].weight;
        *len = (size_t)(at - name);
        if (*rest == '\0' && words[i].bare) return true;
        if (strcmp(rest, ".weight") == 0 && words[i].suffixed) return true;
        if (strcmp(rest, ".bias") == 0 && words[i].weight == PART_B) {
            *p = PART_BIAS;
            return true;
        }
    }
    return false;
}

static fh1_status take_part(sorter *x, const cvt_st_entry *e, const char *name, part p, size_t len)
{
    char path[512];
    snprintf(path, sizeof path, "%.*s", (int)len, name);
    const cvt_module *m = len < sizeof path ? cvt_modules_find(x->m, path) : NULL;
    if (!m) return no_match(x->a, e->name);
    if (!m->targeted && (CVT_FAULT(UNMATCHED_TENSOR_SKIPPED) || CVT_FAULT(MIXER_TARGETS_DROPPED))) return NULL;
    if (!m->targeted)
        return fh1_hint(cvt_adapter_at(x->a, e->name, FH1_BAD("adapter_config.json does not adapt this module")),
                        "PEFT would drop the tensor silently; correct target_modules, exclude_modules or "
                        "layers_to_transform");
    slot *s = &x->slots[m - x->m->modules];
    if (s->of[p]) return cvt_adapter_at(x->a, e->name, FH1_BAD("the tensor is there twice, under two spellings"));
    s->of[p] = e;
    return NULL;
}

/* The embedding, or the head. */
static bool is_end(const cvt_modules *m, const char *tensor)
{
    return strncmp(tensor, m->embed, strlen(m->embed)) == 0 || strncmp(tensor, "lm_head", strlen("lm_head")) == 0;
}

/* MODULE.base_layer.weight, MODULE.token_adapter.base_layer.weight and a plain name all mean the base's tensor. */
static fh1_status take_replacement(sorter *x, const cvt_st_entry *e, const char *name)
{
    char plain[512];
    const char *word = strstr(name, TOKENS BASE_LAYER ".") ? TOKENS BASE_LAYER : BASE_LAYER, *at = strstr(name, word);
    if (at) snprintf(plain, sizeof plain, "%.*s%s", (int)(at - name), name, at + strlen(word));
    else snprintf(plain, sizeof plain, "%s", name);
    const cvt_base_tensor *t = strlen(name) < sizeof plain ? cvt_modules_tensor(x->m, plain) : NULL;
    if (!t) return no_match(x->a, e->name);
    fh1_tensor want = fh1_view(NULL, e->t.dtype, t->rank, t->shape);
    if (!fh1_same_shape(&want, &e->t)) {
        char a[128], b[128];
        fh1_status s = cvt_adapter_at(x->a, e->name, FH1_BAD("the tensor does not fit the one that it replaces"));
        s = fh1_found(fh1_expected(s, "%s", fh1_shape_text(&want, a, sizeof a)), "%s",
                      fh1_shape_text(&e->t, b, sizeof b));
        return is_end(x->m, plain) ? fh1_hint(s, "was the vocabulary resized? Resize the base in the same way first")
                                   : s;
    }
    bool *seen = &x->seen[t - x->m->tensors];
    if (*seen) return cvt_adapter_at(x->a, e->name, FH1_BAD("the tensor is there twice, under two spellings"));
    *seen = true;
    cvt_replacement *r = &x->a->replacements[x->a->n_replacements++];
    *r = (cvt_replacement){strdup(t->name), t->saved, e->t};
    if (!r->name) return fh1_no_memory(strlen(t->name), "a name");
    const char *end = strrchr(plain, '.');
    bool named = t->saved || at || x->c->bias != CVT_BIAS_NONE || strcmp(end, ".bias") != 0;
    named &= t->saved || at || strcmp(end, ".bias") == 0 || is_end(x->m, plain);
    return named ? NULL
                 : cvt_adapter_warn(x->a,
                                    "%s is in the adapter's file and replaces the base's, although "
                                    "adapter_config.json does not say so (as PEFT does)",
                                    t->name);
}

/* Beside MODULE.weight, the copy that modules_to_save trained, PEFT's save_embedding_layers and bias options also write
 * MODULE.modules_to_save.weight, the same again, and MODULE.original_module.weight, the base's. */
static fh1_status take_wrapped(const sorter *x, const cvt_st_entry *e, const char *name, bool *taken)
{
    static const char *const words[] = {".modules_to_save.default", ".modules_to_save", ".original_module"};
    char plain[512];
    *taken = false;
    for (int i = 0; i < 3; i++) {
        const char *at = strstr(name, words[i]);
        if (!at || at[strlen(words[i])] != '.' || strlen(e->name) >= sizeof plain) continue;
        snprintf(plain, sizeof plain, PREFIX "%.*s%s", (int)(at - name), name, at + strlen(words[i]));
        const cvt_base_tensor *t = cvt_modules_tensor(x->m, plain + strlen(PREFIX));
        const cvt_st_entry *copy = cvt_st_find(x->a->file, plain);
        if (!t || !t->saved || !copy) return no_match(x->a, e->name);
        *taken = true;
        if (i == 2 || (copy->t.dtype == e->t.dtype && fh1_same_shape(&copy->t, &e->t) &&
                       memcmp(copy->t.data, e->t.data, fh1_n_bytes(&e->t)) == 0))
            return NULL;
        return cvt_adapter_at(x->a, e->name, FH1_BAD("the tensor is there twice, with different values"));
    }
    return NULL;
}

static fh1_status sort_one(sorter *x, const cvt_st_entry *e)
{
    bool wrapped;
    part p;
    size_t len;
    if (strncmp(e->name, PREFIX, strlen(PREFIX)) != 0)
        return fh1_hint(fh1_expected(cvt_adapter_at(x->a, e->name, FH1_BAD("the name is not one of PEFT's")),
                                     "a name that begins with " PREFIX),
                        "save the adapter with PeftModel.save_pretrained");
    FH1_TRY(cvt_adapter_check_values(x->a, e));
    const char *name = e->name + strlen(PREFIX);
    if (parse_part(name, &p, &len)) return take_part(x, e, name, p, len);
    if (strstr(name, TOKENS ".") && !strstr(name, TOKENS BASE_LAYER ".")) return NULL; /* cvt_adapter_take_tokens */
    FH1_TRY(take_wrapped(x, e, name, &wrapped));
    return wrapped ? NULL : take_replacement(x, e, name);
}

static fh1_status missing(const sorter *x, const char *module, const char *part_name)
{
    return fh1_hint(
        fh1_where(FH1_BAD("%s of module %.200s is missing", part_name, module), "%s", cvt_st_path(x->a->file)),
        "the file is incomplete, or adapter_config.json names more modules than were trained");
}

static fh1_status check_shape(const sorter *x, const cvt_st_entry *e, int rank, int64_t n0, int64_t n1)
{
    const int64_t shape[2] = {n0, n1};
    char a[128], b[128];
    fh1_tensor want = fh1_view(NULL, e->t.dtype, rank, shape);
    if (fh1_same_shape(&want, &e->t)) return NULL;
    fh1_status s = cvt_adapter_at(x->a, e->name, FH1_BAD("the tensor has another shape than config and base say"));
    return fh1_found(fh1_expected(s, "%s", fh1_shape_text(&want, a, sizeof a)), "%s",
                     fh1_shape_text(&e->t, b, sizeof b));
}

/* The other kind's matrices, biases and magnitudes that the config does not know. */
static fh1_status check_extra(const sorter *x, const cvt_module *m, const slot *s)
{
    bool embedding = m->kind == CVT_MODULE_EMBEDDING && !m->parameter;
    for (int p = 0; p < N_PARTS; p++) {
        const cvt_st_entry *e = s->of[p];
        bool of_embedding = p == PART_EMBED_A || p == PART_EMBED_B, of_linear = p == PART_A || p == PART_B;
        if (!e) continue;
        if ((of_embedding && !embedding) || (of_linear && embedding)) return no_match(x->a, e->name);
        if (p == PART_BIAS && !x->c->lora_bias)
            return cvt_adapter_at(x->a, e->name, FH1_BAD("there is a bias, but lora_bias is false"));
        if (p == PART_MAGNITUDE && !x->c->dora)
            return cvt_adapter_at(x->a, e->name, FH1_BAD("there is a magnitude, but use_dora is false"));
    }
    return NULL;
}

static fh1_status check_bias(const sorter *x, const cvt_module *m, const slot *s)
{
    if (!x->c->lora_bias) return NULL;
    if (m->kind == CVT_MODULE_EMBEDDING)
        return fh1_where(FH1_BAD("lora_bias has no meaning for an embedding"), "%s", m->path);
    if (!s->of[PART_BIAS]) return missing(x, m->path, "lora_B.bias");
    if (!m->has_bias)
        return fh1_hint(cvt_adapter_at(x->a, s->of[PART_BIAS]->name,
                                       FH1_BAD("the module has no bias that lora_bias could be added to")),
                        "the merged model has no place for it");
    return check_shape(x, s->of[PART_BIAS], 1, m->out, 0);
}

/* Takes the matrices for those of a layer that stores its weight [in, out]. */
static fh1_status faulty_fan_in(cvt_adapter *a, fh1_tensor *t)
{
    fh1_tensor v = fh1_view2(cvt_adapter_own(a, fh1_n_bytes(t)), t->dtype, t->shape[0], t->shape[1]);
    if (!v.data) return fh1_no_memory(fh1_n_bytes(t), "an adapter");
    for (int64_t i = 0; i < v.shape[0]; i++)
        for (int64_t k = 0; k < v.shape[1]; k++) fh1_set(&v, i * v.shape[1] + k, fh1_get(t, k * v.shape[0] + i));
    *t = v;
    return NULL;
}

/* Modules whose weight the library reads instead of calling them: an adapter beside it does nothing there. */
static fh1_status warn_passed_by(cvt_adapter *a, const char *path)
{
    static const struct {
        const char *module, *what;
    } all[] = {
        {".out_proj", "PEFT does not load adapters of this module, and fused kernels of training pass them by"},
        {".x_proj", "fused kernels of training pass adapters of this module by"},
        {".dt_proj", "transformers passes adapters of this module by, in training and attached, unless the model is "
                     "quantised; PEFT merges them"},
    };
    const char *last = strrchr(path, '.');
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (last && strcmp(last, all[i].module) == 0) return cvt_adapter_warn(a, "%s: %s", path, all[i].what);
    return NULL;
}

static fh1_status take_lora(sorter *x, const cvt_module *m, const slot *s)
{
    bool embedding = m->kind == CVT_MODULE_EMBEDDING && !m->parameter;
    const cvt_st_entry *A = s->of[embedding ? PART_EMBED_A : PART_A], *B = s->of[embedding ? PART_EMBED_B : PART_B];
    FH1_TRY(check_extra(x, m, s));
    if (!A) return missing(x, m->path, embedding ? "lora_embedding_A" : "lora_A.weight");
    if (!B) return missing(x, m->path, embedding ? "lora_embedding_B" : "lora_B.weight");
    FH1_TRY(check_shape(x, A, 2, m->r, embedding ? m->out : m->in));
    FH1_TRY(check_shape(x, B, 2, embedding ? m->in : m->out, m->r));
    FH1_TRY(check_bias(x, m, s));
    if (x->c->dora && !s->of[PART_MAGNITUDE]) return missing(x, m->path, "lora_magnitude_vector");
    if (x->c->dora) FH1_TRY(check_shape(x, s->of[PART_MAGNITUDE], 1, embedding ? m->in : m->out, 0));
    cvt_lora *l = &x->a->loras[x->a->n_loras++];
    *l = (cvt_lora){.module = strdup(m->path), .embedding = embedding, .parameter = m->parameter, .r = m->r};
    if (!l->module) return fh1_no_memory(strlen(m->path), "a name");
    l->mica = strcmp(x->c->init_name, "mica") == 0;
    l->scale = m->scale;
    l->A = A->t;
    l->B = B->t;
    if (CVT_FAULT(FAN_IN_OBEYED) && x->c->fan_in_fan_out) FH1_TRY(faulty_fan_in(x->a, &l->A));
    if (CVT_FAULT(FAN_IN_OBEYED) && x->c->fan_in_fan_out) FH1_TRY(faulty_fan_in(x->a, &l->B));
    if (s->of[PART_BIAS]) l->bias = s->of[PART_BIAS]->t;
    if (s->of[PART_MAGNITUDE]) l->magnitude = s->of[PART_MAGNITUDE]->t;
    if (l->scale == 0) FH1_TRY(cvt_adapter_warn(x->a, "%s: lora_alpha is 0, the adapter adds nothing", m->path));
    return warn_passed_by(x->a, m->path);
}

/* What the config promises besides the matrices. */
static fh1_status check_promises(const sorter *x)
{
    for (int64_t i = 0; i < x->m->n_tensors; i++) {
        const cvt_base_tensor *t = &x->m->tensors[i];
        const char *end = strrchr(t->name, '.');
        bool bias = end && strcmp(end, ".bias") == 0;
        bool adapted = t->module >= 0 && x->m->modules[t->module].targeted;
        bool promised = bias && (x->c->bias == CVT_BIAS_ALL || (x->c->bias == CVT_BIAS_LORA_ONLY && adapted));
        if (x->seen[i] || !(t->saved || promised)) continue;
        return fh1_hint(fh1_where(FH1_BAD("%.200s is missing", t->name), "%s", cvt_st_path(x->a->file)),
                        "adapter_config.json says that it was trained (%s)", t->saved ? "modules_to_save" : "bias");
    }
    return NULL;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const cvt_replacement *)a)->name, ((const cvt_replacement *)b)->name);
}

static fh1_status sort_all(sorter *x)
{
    int64_t n = cvt_st_count(x->a->file);
    for (int64_t i = 0; i < n; i++) FH1_TRY(sort_one(x, cvt_st_at(x->a->file, i)));
    for (int64_t i = 0; i < x->m->n_modules; i++)
        if (x->m->modules[i].targeted) FH1_TRY(take_lora(x, &x->m->modules[i], &x->slots[i]));
    if (x->a->n_replacements > 1)
        qsort(x->a->replacements, (size_t)x->a->n_replacements, sizeof *x->a->replacements, by_name);
    FH1_TRY(check_promises(x));
    return cvt_adapter_take_tokens(x->a, x->m, x->c);
}

fh1_status cvt_adapter_sort_tensors(cvt_adapter *a, const cvt_modules *m, const cvt_adapter_config *c)
{
    sorter x = {.a = a, .m = m, .c = c};
    size_t n = (size_t)cvt_st_count(a->file);
    x.slots = calloc((size_t)m->n_modules, sizeof *x.slots);
    x.seen = calloc((size_t)m->n_tensors, sizeof *x.seen);
    a->replacements = calloc(n + 1, sizeof *a->replacements);
    a->loras = calloc((size_t)m->n_modules, sizeof *a->loras);
    fh1_status s =
        x.slots && x.seen && a->replacements && a->loras ? NULL : fh1_no_memory(n * sizeof *x.slots, "an adapter");
    if (!s) s = sort_all(&x);
    free(x.slots);
    free(x.seen);
    return s;
}
