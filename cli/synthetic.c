#include "cli/synthetic.h"

#include "convert/hf_config.h"
#include "convert/hf_recipe.h"
#include "oracle/random.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

bool cli_synthetic_named(const char *path)
{
    const size_t n = strlen(path);
    return n > 5 && strcmp(path + n - 5, ".json") == 0;
}

/* Everything with two dimensions; the conv's taps have three. */
static bool is_matrix(int rank)
{
    return rank == 2;
}

/* What the model owns: the vectors' values, and the zeros that all matrices see. */
typedef struct {
    void *zeros;
    size_t n_zeros;
    char vectors[];
} storage;

static void free_storage(void *owner)
{
    storage *s = owner;
    if (s && s->zeros) munmap(s->zeros, s->n_zeros);
    free(s);
}

typedef struct {
    const fh1_config *config;
    uint64_t seed;
    storage *own;
    fh1_weight *weights; /* NULL while counting */
    int64_t n;
    size_t vectors, largest; /* bytes: of all vectors, of the largest matrix */
} maker;

static fh1_status count(void *user, const char *name, int rank, const int64_t *shape)
{
    maker *k = user;
    const fh1_tensor t = fh1_view(NULL, FH1_BF16, rank, shape);
    const size_t n = fh1_n_bytes(&t);
    (void)name;
    k->n++;
    if (!is_matrix(rank)) k->vectors += (n + 63) / 64 * 64;
    else if (k->largest < n) k->largest = n;
    return NULL;
}

static fh1_status fill_vector(const maker *k, const char *name, const fh1_tensor *t)
{
    cvt_recipe r;
    double v[1024];
    FH1_TRY(cvt_hf_recipe(k->config, name, fh1_n_elems(t), &r));
    for (int64_t first = 0, n; first < fh1_n_elems(t); first += n) {
        n = fh1_n_elems(t) - first < 1024 ? fh1_n_elems(t) - first : 1024;
        cvt_hf_recipe_fill(k->config, &r, k->seed, name, first, n, v);
        fh1_from_f64((uint16_t *)t->data + first, FH1_BF16, v, n);
    }
    return NULL;
}

static fh1_status make(void *user, const char *name, int rank, const int64_t *shape)
{
    maker *k = user;
    fh1_weight *w = &k->weights[k->n];
    w->t = fh1_view(is_matrix(rank) ? k->own->zeros : k->own->vectors + k->vectors, FH1_BF16, rank, shape);
    w->name = strdup(name);
    if (!w->name) return fh1_no_memory(strlen(name), "a tensor's name");
    k->n++;
    if (is_matrix(rank)) return NULL;
    k->vectors += (fh1_n_bytes(&w->t) + 63) / 64 * 64;
    return fill_vector(k, name, &w->t);
}

static fh1_status allocate(maker *k)
{
    FH1_TRY(fh1_config_weights(k->config, count, k));
    k->own = calloc(1, sizeof *k->own + k->vectors);
    k->weights = calloc((size_t)k->n, sizeof *k->weights);
    if (!k->own || !k->weights) return fh1_no_memory(k->vectors, "the vectors of a model");
    void *p = mmap(NULL, k->largest, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) return fh1_no_memory(k->largest, "a view of zeros");
    k->own->zeros = p;
    k->own->n_zeros = k->largest;
    k->n = 0;
    k->vectors = 0;
    return fh1_config_weights(k->config, make, k);
}

static fh1_status build(const fh1_config *c, uint64_t seed, fh1_model *out)
{
    maker k = {.config = c, .seed = seed};
    fh1_status s = allocate(&k);
    if (s) {
        for (int64_t i = 0; k.weights && i < k.n; i++) free(k.weights[i].name);
        free(k.weights);
    } else {
        s = fh1_model_bind(out, c, k.weights, k.n);
    }
    if (s) {
        free_storage(k.own);
        return s;
    }
    out->owner = k.own;
    out->free_owner = free_storage;
    snprintf(out->revision, sizeof out->revision, "seed %llu", (unsigned long long)seed);
    return NULL;
}

fh1_status cli_synthetic_open(const char *config_path, uint64_t seed, fh1_model *out)
{
    memset(out, 0, sizeof *out);
    fh1_config *c = calloc(1, sizeof *c);
    if (!c) return fh1_no_memory(sizeof *c, "a config");
    fh1_status s = cvt_hf_config_read(config_path, c);
    if (!s) s = build(c, seed, out);
    if (!s) snprintf(out->path, sizeof out->path, "%s", config_path);
    else memset(out, 0, sizeof *out);
    free(c);
    return s;
}

typedef struct {
    const fh1_config *config;
    uint64_t seed;
} drawing;

static fh1_status recipe_of(void *user, const char *name, int64_t n_elems, cu_matrix_recipe *out)
{
    const drawing *d = user;
    cvt_recipe r;
    FH1_TRY(cvt_hf_recipe(d->config, name, n_elems, &r));
    *out = (cu_matrix_recipe){.key = fh1_stream_open(d->seed, name).key, .mean = r.mean, .n_segments = r.n_segments};
    memcpy(out->end, r.end, sizeof out->end);
    memcpy(out->std, r.std, sizeof out->std);
    return NULL;
}

fh1_status cli_synthetic_fill(cu_session *s, const fh1_model *m, uint64_t seed)
{
    drawing d = {&m->config, seed};
    return cu_session_synthesize(s, recipe_of, &d);
}

fh1_status cli_synthetic_matrices(cu_trainer *t, const fh1_model *m, uint64_t seed)
{
    drawing d = {&m->config, seed};
    return cu_trainer_synthesize(t, recipe_of, &d);
}
