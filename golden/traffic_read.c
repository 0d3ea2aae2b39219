/* What is kept of a model's logits and of its caches. */
#include "golden/traffic_impl.h"

#include <stdlib.h>

static int64_t thin(int64_t n, int64_t most)
{
    return n <= most ? 1 : ((n + most - 1) / most) | 1; /* odd: heads and windows are even */
}

traffic_sizes gld_traffic_sizes(const fh1_config *c)
{
    traffic_sizes z = {.kv = c->Hkv * c->A};
    const int64_t window = fh1_conv_dim(c) * (c->K - 1), state = c->H * c->P * c->N;
    z.stride = thin(c->V, 1024);
    z.kept = (c->V + z.stride - 1) / z.stride;
    z.window_stride = thin(window, 16384);
    z.window = (window + z.window_stride - 1) / z.window_stride;
    z.state_stride = thin(state, 16384);
    z.state = (state + z.state_stride - 1) / z.state_stride;
    return z;
}

static int64_t largest(const fh1_cache *c, int64_t row)
{
    int64_t most = 0;
    for (int part = FH1_CACHE_KEY; part <= FH1_CACHE_SSM; part++) {
        const int64_t n = fh1_cache_row_elems(c, row, (fh1_cache_part)part);
        if (n > most) most = n;
    }
    return most;
}

/* Tokens [first, n) of [Hkv, n, A], token by token. */
static void take_tokens(const fh1_cache *c, const void *from, int64_t n, int64_t first, double *to)
{
    const int64_t A = c->config->A, Hkv = c->config->Hkv;
    for (int64_t h = 0; h < Hkv; h++)
        for (int64_t i = first; i < n; i++)
            for (int64_t a = 0; a < A; a++)
                to[((i - first) * Hkv + h) * A + a] = traffic_number(from, c->dtype, (h * n + i) * A + a);
}

fh1_status gld_traffic_read(const fh1_cache *c, int64_t row, int64_t first, double *kv, double *memory)
{
    const traffic_sizes z = gld_traffic_sizes(c->config);
    const int64_t n = c->rows[row].n;
    const size_t bytes = (size_t)largest(c, row) * (c->dtype == FH1_F64 ? 8 : 4) + 1;
    void *part = malloc(bytes);
    fh1_status s = part ? NULL : fh1_no_memory(bytes, "a part of a cache");
    for (int64_t l = 0; !s && l < c->config->n_layers; l++) {
        for (int p = FH1_CACHE_KEY; !s && kv && p <= FH1_CACHE_VALUE; p++, kv += (n - first) * z.kv) {
            s = fh1_cache_row_read(c, row, l, (fh1_cache_part)p, part);
            if (!s) take_tokens(c, part, n, first, kv);
        }
        for (int p = FH1_CACHE_CONV; !s && memory && p <= FH1_CACHE_SSM; p++) {
            const int64_t kept = p == FH1_CACHE_CONV ? z.window : z.state;
            const int64_t stride = p == FH1_CACHE_CONV ? z.window_stride : z.state_stride;
            s = fh1_cache_row_read(c, row, l, (fh1_cache_part)p, part);
            for (int64_t i = 0; !s && i < kept; i++) *memory++ = traffic_number(part, c->dtype, i * stride);
        }
    }
    free(part);
    return s;
}
