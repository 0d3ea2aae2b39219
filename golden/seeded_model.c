#include "golden/seeded_model.h"

#include "convert/hf_recipe.h"
#include "oracle/random.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* -- weights ------------------------------------------------------------------------------------- */

static bool ends(const char *name, const char *end)
{
    const size_t n = strlen(name), k = strlen(end);
    return n >= k && strcmp(name + n - k, end) == 0;
}

static double std_at(const cvt_recipe *r, int64_t i)
{
    int k = 0;
    while (k < r->n_segments - 1 && i >= r->end[k]) k++;
    return r->std[k];
}

/* Trained checkpoints: one norm channel in 32 six times as large, the others spread over a factor of e; matrices with
 * heavy tails; A_log over three powers of ten. `v` is what fh1 init would take. */
static double trained(fh1_stream s, const char *name, const cvt_recipe *r, int64_t i, double v)
{
    const uint64_t at = (uint64_t)i;
    if (ends(name, "A_log")) return log(16) - 7 * fh1_random_uniform(s, at);
    if (r->kind == CVT_RECIPE_DT_BIAS) return v;
    if (ends(name, "mamba.D") || ends(name, "mixer.D")) return 1 + 0.7 * fh1_random_normal(s, at);
    if (ends(name, "norm.weight")) return exp(0.5 * fh1_random_normal(s, at)) * (i % 32 == 17 ? 6 : 1);
    const double g = fh1_random_normal(s, at);
    return v * (0.6 + 0.4 * g * g); /* kurtosis about 9 */
}

/* A few multiples of a power of two, never all zero. */
static double lattice(fh1_stream s, const char *name, const cvt_recipe *r, int64_t i)
{
    static const double around_one[] = {0.5, 1, 1, 2};
    const int64_t draw = fh1_random_below(s, (uint64_t)i, 4);
    if (ends(name, "A_log")) return 0.5 * (double)(draw - 2);
    if (r->kind == CVT_RECIPE_DT_BIAS) return -0.5 * (double)draw;
    if (r->mean != 0) return around_one[draw];
    const double unit = std_at(r, i) > 0 ? exp2(round(log2(std_at(r, i)))) : 0;
    return unit * (draw == 0 ? -2 : draw == 1 ? -1 : draw == 2 ? 1 : 0.5);
}

static void fill(const gld_seeded_spec *s, uint64_t seed, const char *name, const cvt_recipe *r, const fh1_tensor *t)
{
    enum { CHUNK = 1024 };
    double v[CHUNK];
    char own[160];
    snprintf(own, sizeof own, "%s of %s", name, s->weights == GLD_WEIGHTS_LATTICE ? "lattice" : "trained");
    const fh1_stream stream = fh1_stream_open(seed, own);
    for (int64_t first = 0, total = fh1_n_elems(t); first < total; first += CHUNK) {
        const int64_t n = total - first < CHUNK ? total - first : CHUNK;
        cvt_hf_recipe_fill(&s->config, r, seed, name, first, n, v);
        for (int64_t i = 0; i < n; i++) {
            if (s->weights == GLD_WEIGHTS_TRAINED) v[i] = trained(stream, name, r, first + i, v[i]);
            if (s->weights == GLD_WEIGHTS_LATTICE) v[i] = lattice(stream, name, r, first + i);
            fh1_set(t, first + i, v[i]);
        }
    }
}

/* -- memory -------------------------------------------------------------------------------------- */

typedef struct {
    const gld_seeded_spec *spec;
    uint64_t seed;
    fh1_weight *weights; /* NULL while counting */
    int64_t n;
    size_t bytes; /* of all tensors, each rounded up to a cache line */
    char *next;   /* where the next one goes */
} maker;

static fh1_status count(void *user, const char *name, int rank, const int64_t *shape)
{
    maker *k = user;
    const fh1_tensor t = fh1_view(NULL, k->spec->dtype, rank, shape);
    (void)name;
    k->n++;
    k->bytes += (fh1_n_bytes(&t) + 63) / 64 * 64;
    return NULL;
}

static fh1_status make(void *user, const char *name, int rank, const int64_t *shape)
{
    maker *k = user;
    cvt_recipe recipe;
    fh1_weight *w = &k->weights[k->n];
    w->t = fh1_view(k->next, k->spec->dtype, rank, shape);
    w->name = strdup(name);
    if (!w->name) return fh1_no_memory(strlen(name), "a tensor's name");
    k->n++;
    k->next += (fh1_n_bytes(&w->t) + 63) / 64 * 64;
    FH1_TRY(cvt_hf_recipe(&k->spec->config, name, fh1_n_elems(&w->t), &recipe));
    fill(k->spec, k->seed, name, &recipe, &w->t);
    return NULL;
}

static fh1_status allocate(maker *k, void **owner)
{
    FH1_TRY(fh1_config_weights(&k->spec->config, count, k));
    *owner = aligned_alloc(64, k->bytes);
    k->weights = calloc((size_t)k->n, sizeof *k->weights);
    if (!*owner || !k->weights) return fh1_no_memory(k->bytes, "the weights of a seeded model");
    k->next = *owner;
    k->n = 0;
    return fh1_config_weights(&k->spec->config, make, k);
}

fh1_status gld_seeded_model_new(const gld_seeded_spec *s, uint64_t seed, fh1_model *out)
{
    memset(out, 0, sizeof *out);
    FH1_TRY(gld_seeded_check(s));
    maker k = {.spec = s, .seed = seed};
    void *owner = NULL;
    fh1_status status = allocate(&k, &owner);
    if (status) {
        for (int64_t i = 0; k.weights && i < k.n; i++) free(k.weights[i].name);
        free(k.weights);
        free(owner);
        return status;
    }
    status = fh1_model_bind(out, &s->config, k.weights, k.n);
    out->owner = owner;
    out->free_owner = free;
    if (status) {
        fh1_model_free(out);
        memset(out, 0, sizeof *out);
        return status;
    }
    snprintf(out->revision, sizeof out->revision, "seed %llu", (unsigned long long)seed);
    return NULL;
}
