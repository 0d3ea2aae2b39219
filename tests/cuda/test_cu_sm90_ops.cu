/* cuda/sm90_ops.h against plain formulas: where the swizzle puts each element, what each register of a product holds,
 * and a product through the whole pipeline of a producer warp, copies, mbarriers and wgmma. */
#include "cuda/sm90_ops.h"
#include "tests/cuda/harness.h"

namespace CU_NS
{
namespace
{

/* The box at (x, y, z) as it lies in shared memory, and a bulk copy of `linear`; box of 64 columns and 16 rows (2 x 8).
 */
__global__ void load_boxes(TMAP_PARAM m, TMAP_PARAM m3, const uint16_t *linear, int x, int y, int z, uint16_t *o)
{
#if CU_SM90
    DYN_SMEM_1024(base);
    cu_carve c(base);
    uint16_t *flat = c.take<uint16_t>(1024, 1024), *deep = c.take<uint16_t>(1024, 1024), *row = c.take<uint16_t>(1024);
    uint64_t *bar = c.take<uint64_t>(1);
    if (threadIdx.x == 0) {
        mbar_init(bar, 1);
        mbar_fence_init();
    }
    __syncthreads();
    for (int round = 0; round < 2; ++round) {
        if (threadIdx.x == 0) {
            mbar_expect_tx(bar, 3 * 2048);
            tma_load_2d(flat, &m, x, y + round, bar);
            tma_load_3d(deep, &m3, x, y + round, z, bar);
            bulk_load(row, linear + 8 * round, 2048, bar);
        }
        mbar_wait(bar, round);
        for (int i = threadIdx.x; i < 1024; i += blockDim.x) {
            o[round * 3072 + i] = flat[i];
            o[round * 3072 + 1024 + i] = deep[i];
            o[round * 3072 + 2048 + i] = row[i];
        }
        __syncthreads(); /* all have read before the next round writes */
    }
#endif
}

template <int N> struct tiles {
    bf16 *a, *b;
    uint64_t *bar;
};
template <int N> __host__ __device__ inline size_t carve(tiles<N> *t, unsigned char *base)
{
    cu_carve c(base);
    t->a = c.take<bf16>(64 * 64, 1024);
    t->b = c.take<bf16>(64 * N, 1024);
    t->bar = c.take<uint64_t>(1);
    return c.off;
}

template <int N, bool TRANS_B, bool REGISTERS>
CU_FN void product(float (&d)[N / 2], const tiles<N> &t, const uint32_t (&a)[4][4], bool add)
{
#if CU_SM90
    wgmma_fence();
    for (int k = 0; k < 4; ++k) {
        const bool sum = add || k > 0;
        const uint64_t da = wgmma_desc_sw128(t.a + k * 16);
        const uint64_t db = TRANS_B ? wgmma_desc_sw128(t.b + k * 16 * 64, 64 * 64 * 2) : wgmma_desc_sw128(t.b + k * 16);
        if constexpr (REGISTERS && N == 64) wgmma_m64n64k16_rs<TRANS_B>(d, a[k], db, sum);
        if constexpr (REGISTERS && N == 128) wgmma_m64n128k16_rs<TRANS_B>(d, a[k], db, sum);
        if constexpr (REGISTERS && N == 256) wgmma_m64n256k16_rs<TRANS_B>(d, a[k], db, sum);
        if constexpr (!REGISTERS && N == 64) wgmma_m64n64k16_ss<TRANS_B>(d, da, db, sum);
        if constexpr (!REGISTERS && N == 128) wgmma_m64n128k16_ss<TRANS_B>(d, da, db, sum);
        if constexpr (!REGISTERS && N == 256) wgmma_m64n256k16_ss<TRANS_B>(d, da, db, sum);
    }
    wgmma_commit();
    wgmma_wait<0>();
#endif
}

/* d: what the registers hold, [128, N / 2]: (from 1, added) and then (from nothing). B: boxes of 64 x 64, of columns
 * where transposed, else of rows. */
template <int N, bool TRANS_B, bool REGISTERS>
__global__ void __launch_bounds__(128) multiply(TMAP_PARAM ma, TMAP_PARAM mb, const uint32_t *fragments, float *o)
{
#if CU_SM90
    DYN_SMEM_1024(base);
    tiles<N> t;
    carve(&t, base);
    if (threadIdx.x == 0) {
        mbar_init(t.bar, 1);
        mbar_fence_init();
        mbar_expect_tx(t.bar, (64 + N) * 128);
        tma_load_2d(t.a, &ma, 0, 0, t.bar);
        for (int i = 0; i < N / 64; ++i)
            tma_load_2d(t.b + i * 4096, &mb, TRANS_B ? 64 * i : 0, TRANS_B ? 0 : 64 * i, t.bar);
    }
    __syncthreads();
    mbar_wait(t.bar, 0);
    uint32_t a[4][4];
    for (int i = 0; i < 16; ++i) a[i / 4][i % 4] = fragments[threadIdx.x * 16 + i];
    float d[N / 2];
    for (int i = 0; i < N / 2; ++i) d[i] = 1;
    product<N, TRANS_B, REGISTERS>(d, t, a, true);
    for (int i = 0; i < N / 2; ++i) o[threadIdx.x * (N / 2) + i] = d[i];
    product<N, TRANS_B, REGISTERS>(d, t, a, false);
    for (int i = 0; i < N / 2; ++i) o[(128 + threadIdx.x) * (N / 2) + i] = d[i];
#endif
}

/* c[M,N] = a[M,K]·b[N,K]: tiles of 64 x 64, a producer warp, two stages. mistake: 1 no wait for full stages, 2 none for
 * empty ones, 3 none for the products, 4 too many bytes are awaited. */
struct ring {
    bf16 *a, *b; /* stage s at + s·4096 */
    uint64_t *full, *empty;
};
__host__ __device__ inline size_t carve(ring *t, unsigned char *base)
{
    cu_carve c(base);
    t->a = c.take<bf16>(2 * 4096, 1024);
    t->b = c.take<bf16>(2 * 4096, 1024);
    t->full = c.take<uint64_t>(2);
    t->empty = c.take<uint64_t>(2);
    return c.off;
}
__global__ void __launch_bounds__(160) gemm(TMAP_PARAM ma, TMAP_PARAM mb, float *c, int M, int N, int K, int mistake)
{
#if CU_SM90
    DYN_SMEM_1024(base);
    ring t;
    carve(&t, base);
    const int m0 = blockIdx.y * 64, n0 = blockIdx.x * 64, steps = (K + 63) / 64;
    if (threadIdx.x == 0) {
        for (int i = 0; i < 2; ++i) {
            mbar_init(&t.full[i], 1);
            mbar_init(&t.empty[i], 128);
        }
        mbar_fence_init();
    }
    __syncthreads();
    if (threadIdx.x >= 128) {
        if (threadIdx.x == 128)
            for (int k = 0; k < steps; ++k) {
                const int s = k & 1;
                if (mistake != 2) mbar_wait(&t.empty[s], (k / 2 & 1) ^ 1);
                mbar_expect_tx(&t.full[s], 2 * 8192 + (mistake == 4 ? 16 : 0));
                tma_load_2d(t.a + s * 4096, &ma, k * 64, m0, &t.full[s]);
                tma_load_2d(t.b + s * 4096, &mb, k * 64, n0, &t.full[s]);
            }
        return;
    }
    float d[32] = {};
    for (int k = 0; k < steps; ++k) {
        const int s = k & 1;
        if (mistake != 1) mbar_wait(&t.full[s], k / 2 & 1);
        wgmma_fence();
        for (int kk = 0; kk < 4; ++kk)
            wgmma_m64n64k16_ss<false>(d, wgmma_desc_sw128(t.a + s * 4096 + kk * 16),
                                      wgmma_desc_sw128(t.b + s * 4096 + kk * 16));
        wgmma_commit();
        if (mistake != 3) wgmma_wait<0>();
        mbar_arrive(&t.empty[s]);
    }
    const int w = threadIdx.x / 32, l = threadIdx.x % 32;
    for (int i = 0; i < 32; ++i) {
        const int row = m0 + w * 16 + l / 4 + i / 2 % 2 * 8, column = n0 + i / 4 * 8 + l % 4 * 2 + i % 2;
        if (row < M && column < N) c[static_cast<int64_t>(row) * N + column] = d[i];
    }
    if (mistake == 3) wgmma_wait<0>();
#endif
}

} // namespace
} // namespace CU_NS

/* false, and the test is over, on a device that is older. */
static bool has_sm90(void)
{
    cudaDeviceProp p;
    good(cudaGetDeviceProperties(&p, 0));
    return p.major == 9;
}

static std::vector<bf16> small_integers(size_t n, unsigned step)
{
    std::vector<bf16> v(n);
    for (size_t i = 0; i < n; ++i)
        v[i] = __float2bfloat16_rn(static_cast<float>(static_cast<int>((i * step + i / 7) % 9) - 4));
    return v;
}

static float number(bf16 h)
{
    return __bfloat162float(h);
}

START_TEST(boxes_lie_swizzled)
{
    if (!has_sm90()) return;
    enum { W = 72, ROWS = 20, PLANES = 3 };
    std::vector<uint16_t> x(PLANES * ROWS * W);
    for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<uint16_t>(i + 1);
    const uint16_t *d = to_device(x);
    tensor_map m, m3;
    good(tensor_map_2d(&m, d, ROWS, W, 16, 64));
    const int64_t dim[3] = {W, ROWS, PLANES}, stride[3] = {2, W * 2, ROWS * W * 2};
    const int box[3] = {64, 8, 2};
    good(tensor_map_make(&m3, d, 3, dim, stride, box, true));
    uint16_t *o = device_new<uint16_t>(6144);
    static const int at[4][3] = {{0, 0, 0}, {-3, -2, 1}, {32, 9, 2}, {70, 18, -1}};
    for (const auto &p : at) {
        good(cudaFuncSetAttribute(load_boxes, cudaFuncAttributeMaxDynamicSharedMemorySize, 8192));
        LAUNCH(load_boxes, 1, 64, 8192, nullptr, m, m3, d, p[0], p[1], p[2], o);
        const std::vector<uint16_t> got = from_device(o, 6144);
        for (int i = 0; i < 6144; ++i) {
            const int round = i / 3072, what = i / 1024 % 3, e = i % 1024, r = e / 64;
            const int piece = e / 8 % 8 ^ r % 8, column = p[0] + piece * 8 + e % 8;
            int row = p[1] + round + r, plane = 0;
            if (what == 1) row = p[1] + round + r % 8, plane = p[2] + r / 8;
            const bool in = column >= 0 && column < W && row >= 0 && row < ROWS && plane >= 0 && plane < PLANES;
            const int want = what == 2 ? 8 * round + e + 1 : in ? (plane * ROWS + row) * W + column + 1 : 0;
            ck_assert_msg(got[i] == want, "at %d,%d,%d, element %d: %d, not %d", p[0], p[1], p[2], i, got[i], want);
        }
    }
    ck_assert(tensor_map_2d(&m, d, ROWS, W, 16, 32) != NULL); /* 64-byte rows are not swizzled this way */
    ck_assert(tensor_map_2d(&m, d, ROWS, W, 257, 64) != NULL);
    ck_assert(tensor_map_2d(&m, d, ROWS, W, 16, 64, 71) != NULL);
    free_device();
}
END_TEST

template <int N, bool TRANS_B, bool REGISTERS> static void check_product(void)
{
    const std::vector<bf16> a = small_integers(64 * 64, 5), b = small_integers(64 * N, 7); /* b [N,64], or [64,N] */
    tensor_map ma, mb;
    const bf16 *db = to_device(b);
    good(tensor_map_2d(&ma, to_device(a), 64, 64, 64, 64));
    good(tensor_map_2d(&mb, db, TRANS_B ? 64 : N, TRANS_B ? N : 64, 64, 64));
    std::vector<uint32_t> fragments(128 * 16);
    for (int t = 0; t < 128; ++t)
        for (int i = 0; i < 16; ++i) {
            const int row = t / 32 * 16 + t % 32 / 4 + i % 2 * 8, k = i / 4 * 16 + t % 4 * 2 + i / 2 % 2 * 8;
            fragments[t * 16 + i] = __bfloat16_as_ushort(a[row * 64 + k]) |
                                    static_cast<uint32_t>(__bfloat16_as_ushort(a[row * 64 + k + 1])) << 16;
        }
    float *o = device_new<float>(2 * 64 * N);
    tiles<N> t;
    const size_t bytes = carve(&t, nullptr);
    good(cudaFuncSetAttribute(multiply<N, TRANS_B, REGISTERS>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                              static_cast<int>(bytes)));
    LAUNCH((multiply<N, TRANS_B, REGISTERS>), 1, 128, bytes, nullptr, ma, mb, to_device(fragments), o);
    good(cudaGetLastError());
    const std::vector<float> got = from_device(o, 2 * 64 * N);
    for (int th = 0; th < 128; ++th)
        for (int i = 0; i < N / 2; ++i) {
            const int row = th / 32 * 16 + th % 32 / 4 + i / 2 % 2 * 8, column = i / 4 * 8 + th % 4 * 2 + i % 2;
            float want = 0; /* exact: integers */
            for (int k = 0; k < 64; ++k)
                want += number(a[row * 64 + k]) * number(TRANS_B ? b[k * N + column] : b[column * 64 + k]);
            ck_assert_msg(got[th * (N / 2) + i] == want + 1, "thread %d register %d: %g, not %g", th, i,
                          got[th * (N / 2) + i], want + 1);
            ck_assert(got[(128 + th) * (N / 2) + i] == want);
        }
    free_device();
}

START_TEST(products_by_descriptors)
{
    if (!has_sm90()) return;
    check_product<64, false, false>();
    check_product<128, false, false>();
    check_product<256, false, false>();
    check_product<64, true, false>();
    check_product<128, true, false>();
    check_product<256, true, false>();
}
END_TEST

START_TEST(products_from_registers)
{
    if (!has_sm90()) return;
    check_product<64, false, true>();
    check_product<128, false, true>();
    check_product<256, false, true>();
    check_product<64, true, true>();
    check_product<128, true, true>();
    check_product<256, true, true>();
}
END_TEST

static std::vector<float> run_gemm(int M, int N, int K, int mistake)
{
    tensor_map ma, mb;
    good(tensor_map_2d(&ma, to_device(small_integers(static_cast<size_t>(M) * K, 5)), M, K, 64, 64));
    good(tensor_map_2d(&mb, to_device(small_integers(static_cast<size_t>(N) * K, 7)), N, K, 64, 64));
    float *c = device_new<float>(static_cast<size_t>(M) * N);
    ring t;
    const size_t bytes = carve(&t, nullptr);
    good(cudaFuncSetAttribute(gemm, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)));
    LAUNCH(gemm, dim3((N + 63) / 64, (M + 63) / 64), 160, bytes, nullptr, ma, mb, c, M, N, K, mistake);
    good(cudaGetLastError());
    const std::vector<float> got = from_device(c, static_cast<size_t>(M) * N);
    free_device();
    return got;
}

START_TEST(a_pipeline_multiplies)
{
    if (!has_sm90()) return;
    const int M = 100, N = 136, K = 328; /* ragged: zeros are loaded past the ends */
    const std::vector<bf16> a = small_integers(static_cast<size_t>(M) * K, 5),
                            b = small_integers(static_cast<size_t>(N) * K, 7);
    const std::vector<float> c = run_gemm(M, N, K, 0);
    for (int i = 0; i < M; ++i)
        for (int j = 0; j < N; ++j) {
            float want = 0;
            for (int k = 0; k < K; ++k) want += number(a[i * K + k]) * number(b[j * K + k]);
            ck_assert(c[i * N + j] == want);
        }
#if CU_HOST
    /* Accumulators that are read before the wait are NaN. */
    bool nan = false;
    for (float v : run_gemm(64, 64, 64, 3)) nan = nan || v != v;
    ck_assert(nan);
#endif
}
END_TEST

#if CU_HOST
#include "tests/cuda/dies.h"

START_TEST(mistakes_in_a_pipeline_are_found)
{
    ck_assert(dies([] { run_gemm(64, 64, 320, 1); }, NULL));
    ck_assert(dies([] { run_gemm(64, 64, 320, 2); }, NULL));
    ck_assert(dies([] { run_gemm(64, 64, 320, 4); }, "deadlock"));
}
END_TEST
#endif

int main()
{
    Suite *s = suite_create("sm90_ops");
    TCase *c = tcase_create("sm90_ops");
    tcase_add_test(c, boxes_lie_swizzled);
    tcase_add_test(c, products_by_descriptors);
    tcase_add_test(c, products_from_registers);
    tcase_add_test(c, a_pipeline_multiplies);
#if CU_HOST
    tcase_add_test(c, mistakes_in_a_pipeline_are_found);
#endif
    suite_add_tcase(s, c);
    return run_suite(s);
}
