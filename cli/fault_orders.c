#include "cli/fault_orders.h"

#include <math.h>
#include <stdlib.h>

static struct {
    fault_order order;
    bool fused;
    fh1_ops ops;
} now;

static float mul_add(float a, float b, float sum)
{
    return now.fused ? fmaf(a, b, sum) : a * b + sum;
}

static float dot(fault_order order, int64_t n, const float *a, const float *b)
{
    float lane[32] = {0}, sum = 0;
    switch (order) {
    case FAULT_PAIRWISE:
        if (n > 8) return dot(order, n / 2, a, b) + dot(order, n - n / 2, a + n / 2, b + n / 2);
        return dot(FAULT_SEQUENTIAL, n, a, b);
    case FAULT_SPLIT_K:
        for (int64_t p = 0; p < 4; ++p)
            sum += dot(FAULT_SEQUENTIAL, (p + 1) * n / 4 - p * n / 4, a + p * n / 4, b + p * n / 4);
        return sum;
    case FAULT_LANES:
        for (int64_t i = 0; i < n; ++i) lane[i % 32] = mul_add(a[i], b[i], lane[i % 32]);
        for (int w = 16; w > 0; w /= 2)
            for (int l = 0; l < w; ++l) lane[l] += lane[l + w];
        return lane[0];
    default:
        for (int64_t i = 0; i < n; ++i) sum = mul_add(a[i], b[i], sum);
        return sum;
    }
}

static fh1_status linear(fh1_engine *e, int64_t M, const void *x, const fh1_tensor *w, const fh1_tensor *b, void *y)
{
    const int64_t n = w->shape[0], k = w->shape[1];
    float *W = malloc((size_t)(n * k + 1) * sizeof *W), *out = y;
    if (!W) return fh1_no_memory((size_t)(n * k) * sizeof *W, "a weight");
    fh1_to_f32(W, w->data, w->dtype, n * k);
    for (int64_t i = 0; i < M * n; ++i) {
        const float v = dot(now.order, k, W + i % n * k, (const float *)x + i / n * k);
        out[i] = fh1_round_f32(e->profile->at[FH1_RP_LINEAR], b->data ? v + (float)fh1_get(b, i % n) : v);
    }
    free(W);
    return NULL;
}

void fault_order_set(fh1_engine *e, fault_order order, bool fused)
{
    now.order = order;
    now.fused = fused;
    now.ops = *e->ops;
    now.ops.linear = linear;
    e->ops = &now.ops;
}
