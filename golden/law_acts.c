/* Inputs for the laws of single ops: what the truth computes in one layer of the model, exact in f32. */
#include "golden/law_impl.h"

#include "oracle/random.h"

#include <math.h>
#include <string.h>

typedef struct {
    law_acts *a;
    const fh1_config *c;
} recorder;

static void keep(double *to, const fh1_tap_event *e, int64_t begin, int64_t n, double factor)
{
    const int64_t rows = e->value.shape[0], width = fh1_n_elems(&e->value) / rows;
    const double *from = e->value.data;
    for (int64_t t = 0; t < rows; ++t)
        for (int64_t i = 0; i < n; ++i) to[t * n + i] = (double)(float)(factor * from[t * width + begin + i]);
}

/* B or C of Falcon-Mamba: columns of x_proj, normed. */
static void keep_normed(double *to, const fh1_tap_event *e, int64_t begin, const fh1_config *c)
{
    const int64_t rows = e->value.shape[0], N = c->N;
    keep(to, e, begin, N, 1);
    for (int64_t t = 0; t < rows; ++t) {
        double sum = 0;
        for (int64_t i = 0; i < N; ++i) sum += to[t * N + i] * to[t * N + i];
        const double scale = 1 / sqrt(sum / (double)N + c->mixer_eps);
        for (int64_t i = 0; i < N; ++i) to[t * N + i] = (double)(float)(scale * to[t * N + i]);
    }
}

static fh1_status record(void *user, const fh1_tap_event *e)
{
    const recorder *rec = user;
    law_acts *a = rec->a;
    const fh1_config *c = rec->c;
    const int64_t GN = c->G * c->N;
    const bool mamba = c->family == FH1_FALCON_MAMBA;
    int64_t before;
    if (e->id == fh1_tap_stream(c, a->layer, &before) && e->layer == before) keep(a->input, e, 0, c->D, 1);
    if (e->id == FH1_TAP_LOGITS) keep(a->logits, e, 0, a->vocabulary, 1);
    if (e->layer != a->layer) return NULL;
    if (e->id == FH1_TAP_CONV_ACT) {
        keep(a->x, e, 0, c->d_ssm, 1);
        if (!mamba) keep(a->B, e, c->d_ssm, GN, 1);
        if (!mamba) keep(a->C, e, c->d_ssm + GN, GN, 1);
    }
    if (e->id == FH1_TAP_X_PROJ) {
        keep_normed(a->B, e, c->R, c);
        keep_normed(a->C, e, c->R + c->N, c);
    }
    if (e->id == FH1_TAP_IN_PROJ) keep(a->z, e, fh1_in_proj_gate(c), c->d_ssm, c->m_ssm[0]);
    if (e->id == FH1_TAP_DT) keep(a->dt, e, 0, c->H, 1);
    if (e->id == FH1_TAP_SSD) keep(a->y, e, 0, c->d_ssm, 1);
    if (e->id == FH1_TAP_Q_PROJ) keep(a->q, e, 0, c->Hq * c->A, 1);
    if (e->id == FH1_TAP_K_PROJ) keep(a->k, e, 0, c->Hkv * c->A, c->m_key);
    if (e->id == FH1_TAP_V_PROJ) keep(a->v, e, 0, c->Hkv * c->A, 1);
    return NULL;
}

static fh1_status allocate(const fh1_config *c, law_acts *a)
{
    const int64_t T = a->T;
    struct {
        double **at;
        int64_t n;
    } part[] = {{&a->x, T * c->d_ssm},     {&a->B, T * c->G * c->N},        {&a->C, T * c->G * c->N},
                {&a->dt, T * c->H},        {&a->y, T * c->d_ssm},           {&a->z, T * c->d_ssm},
                {&a->q, T * c->Hq * c->A}, {&a->k, T * c->Hkv * c->A},      {&a->v, T * c->Hkv * c->A},
                {&a->input, T * c->D},     {&a->logits, T * a->vocabulary}, {&a->state, c->H * c->P * c->N}};
    int64_t total = 0;
    for (size_t i = 0; i < sizeof part / sizeof *part; ++i) total += part[i].n;
    if (!(a->memory = calloc((size_t)total, sizeof *a->memory)))
        return fh1_no_memory((size_t)total * sizeof *a->memory, "activations of a law");
    double *next = a->memory;
    for (size_t i = 0; i < sizeof part / sizeof *part; ++i) {
        *part[i].at = next;
        next += part[i].n;
    }
    return NULL;
}

fh1_status gld_acts_record(const gld_law_args *args, law_acts *a)
{
    const fh1_config *c = &args->model->config;
    const int64_t most = 1024; /* of the vocabulary: softmax needs no more */
    *a = (law_acts){.layer = c->n_layers / 2, .T = gld_law_tokens(args), .vocabulary = c->V < most ? c->V : most};
    int64_t ids[GLD_LAW_TOKENS];
    const fh1_stream s = fh1_stream_open(args->seed, "law text 0");
    for (int64_t t = 0; t < a->T; ++t) ids[t] = fh1_random_below(s, (uint64_t)t, c->V);
    recorder rec = {.a = a, .c = c};
    const fh1_tap_sink sink = {.user = &rec, .tap = record};
    const fh1_batch b = {.B = 1, .T = a->T, .ids = ids};
    fh1_cache *cache = NULL;
    fh1_status st = allocate(c, a);
    if (!st) st = fh1_cache_new(c, FH1_F64, 1, &cache);
    if (!st) st = args->truth->forward(args->truth, args->model, &b, cache, a->T, NULL, &sink);
    for (int64_t i = 0; !st && i < c->H * c->P * c->N; ++i)
        a->state[i] = (double)(float)((const double *)cache->rows[0].ssm[a->layer])[i];
    fh1_cache_free(cache);
    if (st) gld_acts_free(a);
    return st;
}

void gld_acts_free(law_acts *a)
{
    free(a->memory);
    *a = (law_acts){0};
}

fh1_status gld_law_judge_acts(const gld_law_args *a, law_walk walk, uint64_t notices, gld_law_result *r)
{
    law_acts acts;
    FH1_TRY(gld_acts_record(a, &acts));
    fh1_status s = gld_law_judge(a, walk, notices, &acts, r);
    gld_acts_free(&acts);
    return s;
}
