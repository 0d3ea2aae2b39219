/* The modules of a model, from the tensors that a config requires. */
#include "convert/adapter_match.h"
#include "oracle/model.h"

#include <stdlib.h>
#include <string.h>

#define HEAD "lm_head.weight"

static cvt_module_kind kind_of(const cvt_modules *m, const char *path)
{
    static const char *const linear[] = {"in_proj", "out_proj", "x_proj",    "dt_proj", "q_proj",    "k_proj",
                                         "v_proj",  "o_proj",   "gate_proj", "up_proj", "down_proj", "lm_head"};
    const char *point = strrchr(path, '.'), *last = point ? point + 1 : path;
    for (size_t i = 0; i < sizeof linear / sizeof linear[0]; i++)
        if (strcmp(last, linear[i]) == 0) return CVT_MODULE_LINEAR;
    if (strcmp(path, m->embed) == 0) return CVT_MODULE_EMBEDDING;
    return strcmp(last, "conv1d") == 0 ? CVT_MODULE_CONV : CVT_MODULE_OTHER;
}

static fh1_status count(void *user, const char *name, int rank, const int64_t *shape)
{
    int64_t *n = user;
    (void)name, (void)rank, (void)shape;
    ++*n;
    return NULL;
}

static fh1_status add_tensor(void *user, const char *name, int rank, const int64_t *shape)
{
    cvt_modules *m = user;
    cvt_base_tensor *t = &m->tensors[m->n_tensors];
    *t = (cvt_base_tensor){.name = strdup(name), .rank = rank, .module = -1};
    if (!t->name) return fh1_no_memory(strlen(name), "a name");
    memcpy(t->shape, shape, (size_t)rank * sizeof *shape);
    m->n_tensors++;
    return NULL;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const cvt_base_tensor *)a)->name, ((const cvt_base_tensor *)b)->name);
}

static int by_path(const void *a, const void *b)
{
    return strcmp(((const cvt_module *)a)->path, ((const cvt_module *)b)->path);
}

/* Length of the module's path in a tensor's name: up to ".weight" or ".bias"; 0: the tensor is a bare parameter. */
static size_t module_len(const char *name)
{
    const char *point = strrchr(name, '.');
    return point && (strcmp(point, ".weight") == 0 || strcmp(point, ".bias") == 0) ? (size_t)(point - name) : 0;
}

static fh1_status add_module(cvt_modules *m, const cvt_base_tensor *t)
{
    size_t n = module_len(t->name);
    if (n == 0 || strcmp(t->name + n, ".weight") != 0) return NULL;
    cvt_module *x = &m->modules[m->n_modules];
    *x = (cvt_module){.path = strndup(t->name, n)};
    if (!x->path) return fh1_no_memory(n, "a name");
    m->n_modules++;
    x->kind = kind_of(m, x->path);
    if (t->rank == 2) {
        x->out = t->shape[0];
        x->in = t->shape[1];
    }
    return NULL;
}

static fh1_status build(const fh1_config *c, cvt_modules *m)
{
    int64_t n = 1; /* the head of a tied model */
    FH1_TRY(fh1_config_weights(c, count, &n));
    m->tensors = calloc((size_t)n, sizeof *m->tensors);
    m->modules = calloc((size_t)n, sizeof *m->modules);
    if (!m->tensors || !m->modules) return fh1_no_memory((size_t)n * sizeof *m->tensors, "the modules of a model");
    FH1_TRY(fh1_config_weights(c, add_tensor, m));
    if (c->tied) FH1_TRY(add_tensor(m, HEAD, 2, (const int64_t[]){c->V, c->D}));
    qsort(m->tensors, (size_t)m->n_tensors, sizeof *m->tensors, by_name);
    for (int64_t i = 0; i < m->n_tensors; i++) FH1_TRY(add_module(m, &m->tensors[i]));
    qsort(m->modules, (size_t)m->n_modules, sizeof *m->modules, by_path);
    for (int64_t i = 0; i < m->n_tensors; i++) {
        char path[512];
        size_t len = module_len(m->tensors[i].name);
        if (len == 0 || len >= sizeof path) continue;
        memcpy(path, m->tensors[i].name, len);
        path[len] = '\0';
        cvt_module *x = cvt_modules_find(m, path);
        if (!x) continue;
        m->tensors[i].module = x - m->modules;
        x->has_bias |= strcmp(m->tensors[i].name + len, ".bias") == 0;
    }
    return NULL;
}

fh1_status cvt_modules_of(const fh1_config *c, cvt_modules *out)
{
    *out = (cvt_modules){
        .tied = c->tied, .embed = fh1_embed_module(c->family), .embed_weight = fh1_embed_weight(c->family)};
    fh1_status s = build(c, out);
    if (s) cvt_modules_free(out);
    return s;
}

void cvt_modules_free(cvt_modules *m)
{
    for (int64_t i = 0; i < m->n_tensors; i++) free(m->tensors[i].name);
    for (int64_t i = 0; i < m->n_modules; i++) free(m->modules[i].path);
    free(m->tensors);
    free(m->modules);
    *m = (cvt_modules){0};
}

cvt_module *cvt_modules_find(const cvt_modules *m, const char *path)
{
    union {
        const char *in;
        char *out;
    } p = {path}; /* the key of bsearch has the type of an element */
    cvt_module key = {.path = p.out};
    return bsearch(&key, m->modules, (size_t)m->n_modules, sizeof key, by_path);
}

cvt_base_tensor *cvt_modules_tensor(const cvt_modules *m, const char *name)
{
    union {
        const char *in;
        char *out;
    } p = {name};
    cvt_base_tensor key = {.name = p.out};
    return bsearch(&key, m->tensors, (size_t)m->n_tensors, sizeof key, by_name);
}
