/* A naive model of the cache: a row is a list of tokens, everything stored is a function of that list. Kernels write
 * and read through the tables as those of the engine do; `differs` compares what the host exports. */
#pragma once

#include "cuda/cache_impl.h"
#include "tests/cuda/harness.h"

extern "C" {
#include "tests/small_config.h"
}

namespace
{

enum { MAX_ROWS = 5, MAX_TOKENS = 400, MAX_T = 70 };

struct naive_row {
    int64_t n, token[MAX_TOKENS], col[MAX_TOKENS];
};

struct naive {
    int64_t B, n_cols;
    naive_row row[MAX_ROWS];
};

/* Whole numbers below 256: exact in bf16. */
__host__ __device__ inline float value_of(int64_t token, int64_t layer, int part, int64_t element)
{
    return static_cast<float>(1 + (token * 7 + layer * 31 + part * 57 + element) % 251);
}

float state_of(const naive_row *r, int64_t layer, int part, int64_t element)
{
    return r->n ? value_of(r->token[r->n - 1] + 3 * r->n, layer, part, element) : 0.f;
}

/* ---- what an engine does ---- */

template <typename T>
__global__ void write_tokens(cu_kv kv, int64_t layer, int row, int first, int n, const int64_t *id)
{
    const int per_token = kv.Hkv * kv.A, i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
    if (i >= n * per_token) return;
    const int s = i / per_token, e = i % per_token;
    const int64_t at = cu_kv_at(kv, row, e / kv.A, first + s) + e % kv.A;
    static_cast<T *>(kv.key)[at] = static_cast<T>(value_of(id[s], layer, 0, e));
    static_cast<T *>(kv.value)[at] = static_cast<T>(value_of(id[s], layer, 1, e));
}

template <typename T>
__global__ void count_wrong(cu_kv kv, int64_t layer, int row, int n, const int64_t *id, int *wrong)
{
    const int per_token = kv.Hkv * kv.A, i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
    if (i >= n * per_token) return;
    const int s = i / per_token, e = i % per_token;
    const int64_t at = cu_kv_at(kv, row, e / kv.A, s) + e % kv.A;
    const float k = static_cast<float>(static_cast<T *>(kv.key)[at]),
                v = static_cast<float>(static_cast<T *>(kv.value)[at]);
    if (!(k == value_of(id[s], layer, 0, e)) || !(v == value_of(id[s], layer, 1, e))) atomicAdd(wrong, 1);
}

struct books {
    fh1_config g;
    cu_type type;
    cudaStream_t stream;
};

void write_row(const books *k, const cu_cache *cc, int64_t b, const naive_row *r, int64_t L)
{
    const int64_t n = L * k->g.Hkv * k->g.A, c = fh1_conv_dim(&k->g) * (k->g.K - 1), m = k->g.H * k->g.P * k->g.N;
    const int64_t *id = to_device(std::vector<int64_t>(r->token + r->n - L, r->token + r->n));
    const int slot = from_device(cu_cache_slot(cc) + b, 1)[0];
    for (int64_t l = 0; l < k->g.n_layers; ++l) {
        const dim3 grid(static_cast<unsigned>((n + 63) / 64));
        const int row = static_cast<int>(b), first = static_cast<int>(r->n - L), many = static_cast<int>(L);
        if (k->type == CU_F32)
            LAUNCH(write_tokens<float>, grid, 64, 0, k->stream, cu_cache_kv(cc, l), l, row, first, many, id);
        else LAUNCH(write_tokens<bf16>, grid, 64, 0, k->stream, cu_cache_kv(cc, l), l, row, first, many, id);
        good(cu_launched("write_tokens"));
        std::vector<float> conv(static_cast<size_t>(c)), ssm(static_cast<size_t>(m));
        for (int64_t i = 0; i < c; ++i) conv[static_cast<size_t>(i)] = state_of(r, l, 2, i);
        for (int64_t i = 0; i < m; ++i) ssm[static_cast<size_t>(i)] = state_of(r, l, 3, i);
        good(cudaStreamSynchronize(k->stream));
        if (c) good(cudaMemcpy(cu_cache_conv(cc, l) + slot * c, conv.data(), conv.size() * 4, cudaMemcpyHostToDevice));
        good(cudaMemcpy(cu_cache_ssm(cc, l) + slot * m, ssm.data(), ssm.size() * 4, cudaMemcpyHostToDevice));
    }
}

/* Wrong elements of the first n tokens, read through the tables on the device. */
int wrong_tokens(const books *k, const cu_cache *cc, int64_t b, const naive_row *r, int64_t n)
{
    const int64_t *id = to_device(std::vector<int64_t>(r->token, r->token + n));
    int *wrong = to_device(std::vector<int>{0});
    for (int64_t l = 0; l < k->g.n_layers && n; ++l) {
        const dim3 grid(static_cast<unsigned>((n * k->g.Hkv * k->g.A + 63) / 64));
        const int row = static_cast<int>(b), many = static_cast<int>(n);
        if (k->type == CU_F32)
            LAUNCH(count_wrong<float>, grid, 64, 0, k->stream, cu_cache_kv(cc, l), l, row, many, id, wrong);
        else LAUNCH(count_wrong<bf16>, grid, 64, 0, k->stream, cu_cache_kv(cc, l), l, row, many, id, wrong);
        good(cu_launched("count_wrong"));
    }
    return from_device(wrong, 1)[0];
}

/* One call: L[b] new tokens of each row, left-padded to T. Returns how many stored elements were wrong before it. */
int call(const books *k, fh1_cache *c, naive *n, const int64_t *L, int64_t T, int64_t first_token)
{
    std::vector<int64_t> ids(static_cast<size_t>(n->B * T)), mask;
    const int64_t len = n->n_cols + T;
    for (int64_t b = 0; b < n->B; ++b) {
        naive_row *r = &n->row[b];
        std::vector<int64_t> row(static_cast<size_t>(len));
        for (int64_t i = 0; i < r->n; ++i) row[static_cast<size_t>(r->col[i])] = 1;
        for (int64_t t = T - L[b]; t < T; ++t) {
            row[static_cast<size_t>(n->n_cols + t)] = 1;
            r->token[r->n] = first_token + b * T + t;
            r->col[r->n++] = n->n_cols + t;
        }
        mask.insert(mask.end(), row.begin(), row.end());
    }
    fh1_batch batch = {};
    batch.B = n->B;
    batch.T = T;
    batch.ids = ids.data();
    batch.mask = mask.data();
    batch.mask_len = len;
    fh1_tokens t;
    cu_cache *cc;
    int wrong = 0;
    good(fh1_tokens_pack(&batch, 23, c, &t));
    good(cu_cache_prepare(c, k->type, &t, k->stream, &cc));
    for (int64_t b = 0; b < n->B; ++b) {
        wrong += wrong_tokens(k, cc, b, &n->row[b], n->row[b].n - L[b]);
        if (L[b]) write_row(k, cc, b, &n->row[b], L[b]);
    }
    fh1_cache_commit(c, &t);
    fh1_tokens_free(&t);
    free_device();
    n->n_cols += T;
    return wrong;
}

/* ---- what the host sees ---- */

int part_differs(const fh1_cache *c, const naive *want, int64_t l, fh1_cache_part part)
{
    const fh1_tensor shape = fh1_cache_shape(c, part);
    const size_t n = static_cast<size_t>(fh1_n_elems(&shape));
    std::vector<double> v(n + 1, NAN), expected(n + 1, 0);
    fh1_tensor view = shape;
    view.data = v.data();
    view.dtype = FH1_F64;
    good(fh1_cache_export(c, l, part, &view));
    for (int64_t b = 0; b < want->B; ++b) {
        const naive_row *r = &want->row[b];
        const size_t per_row = n / static_cast<size_t>(want->B);
        double *row = expected.data() + static_cast<size_t>(b) * per_row;
        if (part == FH1_CACHE_CONV || part == FH1_CACHE_SSM) {
            for (size_t i = 0; i < per_row; ++i)
                row[i] = static_cast<double>(state_of(r, l, part, static_cast<int64_t>(i)));
            continue;
        }
        for (int64_t e = 0; e < c->config->Hkv * c->config->A; ++e)
            for (int64_t i = 0; i < r->n; ++i)
                row[(e / c->config->A * c->n_cols + r->col[i]) * c->config->A + e % c->config->A] =
                    static_cast<double>(value_of(r->token[i], l, part, e));
    }
    for (size_t i = 0; i < n; ++i)
        if (!(v[i] == expected[i])) return 1;
    return 0;
}

/* 0, or 1 + the part that differs, or 9 for the books. */
int differs(const fh1_cache *c, const naive *want)
{
    if (c->B != want->B || c->n_cols != want->n_cols) return 9;
    for (int64_t b = 0; b < c->B; ++b)
        if (c->rows[b].n != want->row[b].n) return 9;
    for (int64_t l = 0; l < c->config->n_layers; ++l)
        for (int part = FH1_CACHE_KEY; part <= FH1_CACHE_SSM; ++part)
            if (part_differs(c, want, l, static_cast<fh1_cache_part>(part))) return 1 + part;
    return 0;
}

inline books open_books(cu_type type)
{
    books k = {small_config(), type, nullptr};
    k.g.A = 4;
    good(cudaStreamCreate(&k.stream));
    return k;
}

} // namespace
