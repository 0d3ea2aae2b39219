/* The closed form of a merge, written from the formulas: it shares nothing with the converters. W + s·B·A, its
 * transpose for an embedding, DoRA's m·V/‖V‖ by rows. */
#include "tests/edge/edge_file_cases.h"

#include "oracle/compare.h"
#include "oracle/random.h"

#include <math.h>
#include <string.h>

enum { MOST_TENSORS = 24 };

static const char *part_name(const edge_delta *d, char part, char buf[160])
{
    const char *end = part == 'm'    ? "lora_magnitude_vector"
                      : part == 'b'  ? "lora_B.bias"
                      : d->embedding ? (part == 'A' ? "lora_embedding_A" : "lora_embedding_B")
                      : part == 'A'  ? "lora_A.weight"
                                     : "lora_B.weight";
    snprintf(buf, 160, "%s.%s", d->module, end);
    return buf;
}

/* The numbers of one of its tensors, as edge_save_adapter draws them; NULL without memory. */
static double *numbers(const edge_run *r, const edge_delta *d, char part, int64_t n)
{
    char name[160];
    const fh1_stream s = fh1_stream_open(r->seed, part_name(d, part, name));
    double *v = malloc((size_t)n * sizeof *v);
    for (int64_t i = 0; v && i < n; ++i) v[i] = (double)(float)(d->size * fh1_random_normal(s, (uint64_t)i));
    return v;
}

fh1_status edge_save_deltas(const edge_run *r, const char *name, const char *members, const edge_delta *d)
{
    static char names[MOST_TENSORS][160];
    edge_adapter_tensor t[MOST_TENSORS + 1] = {{0}};
    int n = 0;
    for (; d->module && n + 4 <= MOST_TENSORS; ++d) {
        t[n] = (edge_adapter_tensor){part_name(d, 'A', names[n]), d->r, d->embedding ? d->out : d->in, d->size}, n++;
        t[n] = (edge_adapter_tensor){part_name(d, 'B', names[n]), d->embedding ? d->in : d->out, d->r, d->size}, n++;
        if (d->bias) t[n] = (edge_adapter_tensor){part_name(d, 'b', names[n]), d->out, 0, d->size}, n++;
        if (d->dora)
            t[n] = (edge_adapter_tensor){part_name(d, 'm', names[n]), d->embedding ? d->in : d->out, 0, d->size}, n++;
    }
    return edge_save_adapter(r, name, members, t);
}

/* W' in long double, and per element the sum of magnitudes that an f64 sum may lose its last bits of. */
typedef struct {
    double *A, *B, *m;
    long double *want;
    double *terms;
} form;

static void add_products(const edge_delta *d, const fh1_tensor *w, form *f)
{
    for (int64_t i = 0; i < d->out * d->in; ++i) {
        const int64_t row = i / d->in, col = i % d->in;
        f->want[i] = (long double)fh1_get(w, i);
        f->terms[i] = fabs((double)f->want[i]);
        for (int64_t k = 0; k < d->r; ++k) {
            const double a = f->A[d->embedding ? k * d->out + row : k * d->in + col],
                         b = f->B[d->embedding ? col * d->r + k : row * d->r + k];
            f->want[i] += (long double)d->scale * (long double)a * (long double)b;
            f->terms[i] += fabs(d->scale * a * b);
        }
    }
}

/* DoRA: lines are rows, of an embedding columns. */
static void scale_lines(const edge_delta *d, form *f)
{
    const int64_t lines = d->embedding ? d->in : d->out, m = d->embedding ? d->out : d->in;
    for (int64_t line = 0; line < lines; ++line) {
        long double sum = 0;
        const int64_t first = d->embedding ? line : line * d->in, step = d->embedding ? d->in : 1;
        for (int64_t k = 0; k < m; ++k) sum += f->want[first + k * step] * f->want[first + k * step];
        const long double factor = (long double)f->m[line] / sqrtl(sum);
        for (int64_t k = 0; k < m; ++k) {
            f->want[first + k * step] *= factor;
            f->terms[first + k * step] *= fabs((double)factor);
        }
    }
}

static void form_free(form *f)
{
    free(f->A);
    free(f->B);
    free(f->m);
    free(f->want);
    free(f->terms);
}

static fh1_status form_new(const edge_run *r, const edge_delta *d, const fh1_tensor *w, form *f)
{
    const size_t n = (size_t)(d->out * d->in);
    *f = (form){numbers(r, d, 'A', d->r * (d->embedding ? d->out : d->in)),
                numbers(r, d, 'B', d->r * (d->embedding ? d->in : d->out)),
                numbers(r, d, 'm', d->embedding ? d->in : d->out), malloc(n * sizeof *f->want),
                malloc(n * sizeof *f->terms)};
    if (!f->A || !f->B || !f->m || !f->want || !f->terms) {
        form_free(f);
        return fh1_no_memory(n * 24, "a closed form");
    }
    add_products(d, w, f);
    if (d->dora) scale_lines(d, f);
    return NULL;
}

/* One rounding to the type, half an ulp at most, and what f64 may be off by: each of fewer than 2^5 operations on an
 * element loses 2^-53 of the terms' sum, a norm over fewer than 2^7 squares as much again. */
static bool near(const fh1_tensor *got, int64_t i, long double want, double terms)
{
    const double err = (double)fabsl((long double)fh1_get(got, i) - want);
    return fh1_within(err, 0.5 * fh1_dtype_ulp(got->dtype, (double)want) + 0x1p-46 * terms);
}

static fh1_status compare_delta(edge_run *r, const edge_delta *d, const fh1_tensor *w, const fh1_tensor *got)
{
    form f;
    int64_t wrong = 0, at = 0;
    FH1_TRY(form_new(r, d, w, &f));
    for (int64_t i = 0; i < d->out * d->in; ++i)
        if (!near(got, i, f.want[i], f.terms[i]) && wrong++ == 0) at = i;
    fh1_status s =
        edge_require(r, wrong == 0, "%s: %d of %d elements are not the closed form's, the first %d: %.9g, not %.9g",
                     d->module, (int)wrong, (int)(d->out * d->in), (int)at, fh1_get(got, at), (double)f.want[at]);
    form_free(&f);
    return s;
}

static fh1_status compare_bias(edge_run *r, const edge_delta *d, const fh1_tensor *b, const fh1_tensor *got)
{
    double *add = numbers(r, d, 'b', d->out);
    int64_t wrong = 0;
    if (!add) return fh1_no_memory((size_t)d->out * sizeof *add, "a closed form");
    for (int64_t i = 0; i < d->out; ++i) {
        const long double delta = (long double)d->scale * (long double)add[i], was = (long double)fh1_get(b, i);
        wrong += !near(got, i, was + delta, (double)(fabsl(was) + fabsl(delta)));
    }
    free(add);
    return edge_require(r, wrong == 0, "%s.bias: %d elements are not b + s·b'", d->module, (int)wrong);
}

static const edge_delta *delta_of(const edge_delta *d, const char *tensor, const char *end)
{
    for (; d->module; ++d) {
        const size_t n = strlen(d->module);
        if (strncmp(d->module, tensor, n) == 0 && strcmp(tensor + n, end) == 0) return d;
    }
    return NULL;
}

/* Of a name that the base may not store: the head of a tied one. */
static const fh1_tensor *tensor_of(const fh1_model *m, const char *name)
{
    for (int64_t i = 0; i < m->n_weights; ++i)
        if (strcmp(m->weights[i].name, name) == 0) return &m->weights[i].t;
    return strcmp(name, "lm_head.weight") == 0 ? &m->lm_head : NULL;
}

fh1_status edge_is_merged(edge_run *r, const fh1_model *base, const fh1_model *merged, const edge_delta *d)
{
    for (const edge_delta *e = d; e->module; ++e) {
        char name[160];
        snprintf(name, sizeof name, "%s.weight", e->module);
        FH1_TRY(edge_require(r, tensor_of(merged, name) != NULL, "%s is missing", name));
    }
    for (int64_t i = 0; i < merged->n_weights; ++i) {
        const char *name = merged->weights[i].name;
        const fh1_tensor *got = &merged->weights[i].t, *was = tensor_of(base, name);
        const edge_delta *w = delta_of(d, name, ".weight"), *b = delta_of(d, name, ".bias");
        if (!was || !fh1_same_shape(was, got)) return edge_require(r, false, "%s is new", name);
        if (w) FH1_TRY(compare_delta(r, w, was, got));
        else if (b && b->bias) FH1_TRY(compare_bias(r, b, was, got));
        else
            FH1_TRY(edge_require(r, memcmp(was->data, got->data, fh1_n_bytes(was)) == 0, "%s is no longer the base's",
                                 name));
    }
    return NULL;
}
