#include "oracle/gauge_request.h"

#include <stdlib.h>
#include <string.h>

static int64_t window_size(const fh1_config *c)
{
    return fh1_conv_dim(c) * (c->K - 1);
}

static int64_t state_size(const fh1_config *c)
{
    return c->H * c->P * c->N;
}

fh1_status fh1_gauge_cache_new(const fh1_config *c, int64_t B, fh1_gauge_cache *g)
{
    const int64_t n = c->n_layers * B;
    *g = (fh1_gauge_cache){.n_layers = c->n_layers, .B = B};
    g->conv = calloc((size_t)(n > 0 ? n : 1), sizeof *g->conv);
    g->ssm = calloc((size_t)(n > 0 ? n : 1), sizeof *g->ssm);
    fh1_status s = g->conv && g->ssm ? NULL : fh1_no_memory((size_t)n * sizeof *g->conv, "the gauges of a cache");
    for (int64_t i = 0; i < n && !s; ++i) {
        s = fh1_gauge_new(window_size(c), &g->conv[i]);
        if (!s) s = fh1_gauge_new(state_size(c), &g->ssm[i]);
    }
    if (s) fh1_gauge_cache_free(g);
    return s;
}

void fh1_gauge_cache_free(fh1_gauge_cache *g)
{
    for (int64_t i = 0; i < g->n_layers * g->B; ++i) {
        if (g->conv) fh1_gauge_free(&g->conv[i]);
        if (g->ssm) fh1_gauge_free(&g->ssm[i]);
    }
    free(g->conv);
    free(g->ssm);
    *g = (fh1_gauge_cache){0};
}

void fh1_gauge_cache_forget(fh1_gauge_cache *g, const fh1_config *c, int64_t layer, fh1_cache_part part)
{
    for (int64_t b = 0; b < g->B; ++b) {
        const int64_t i = layer * g->B + b;
        if (part == FH1_CACHE_CONV) memset(g->conv[i].worst, 0, 3 * (size_t)window_size(c) * sizeof(double));
        if (part == FH1_CACHE_SSM) memset(g->ssm[i].worst, 0, 3 * (size_t)state_size(c) * sizeof(double));
    }
}
