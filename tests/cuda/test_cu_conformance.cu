/* What the instructions of warp_ops.h and sm90_ops.h make of numbers that do not come out exactly: products and sums of
 * the tensor cores, ex2.approx. Layouts are tested elsewhere on integers; here each result must lie within a bound of
 * the exact one that both the hardware and its twins on the CPU keep, and on a device equal to the bit what a device of
 * its kind gave once (golden/cuda/conformance.bin, where it is there).
 *
 * FH1_CONFORMANCE_OUT=DIR writes conformance.bin: the results as little-endian floats, in the order of `sections`. */
#include "cuda/sm90_ops.h"
#include "tests/cuda/harness.h"

#include <string>

enum { TILES = 4, POWERS = 512, KEPT = 8 }; /* KEPT of the 32 registers that each thread has of a wgmma */
enum { MMA = TILES * 128, WGMMA = 128 * KEPT, ALL = MMA + POWERS + WGMMA };

namespace CU_NS
{
namespace
{

__global__ void mma_random(const uint32_t *a, const uint32_t *b, const float *c, float *d)
{
    const int l = threadIdx.x, tile = blockIdx.x;
    uint32_t ra[4], rb[2];
    float rd[4];
    for (int i = 0; i < 4; ++i) ra[i] = a[tile * 128 + l * 4 + i];
    for (int i = 0; i < 2; ++i) rb[i] = b[tile * 64 + l * 2 + i];
    for (int i = 0; i < 4; ++i) rd[i] = c[tile * 128 + l * 4 + i];
    mma_m16n8k16_bf16(rd, ra, rb);
    for (int i = 0; i < 4; ++i) d[tile * 128 + l * 4 + i] = rd[i];
}

__global__ void powers(const float *x, float *y)
{
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < POWERS) y[i] = fast_exp2(x[i]);
}

struct tiles {
    bf16 *a, *b;
    uint64_t *bar;
};
__host__ __device__ inline size_t carve(tiles *t, unsigned char *base)
{
    cu_carve c(base);
    t->a = c.take<bf16>(64 * 64, 1024);
    t->b = c.take<bf16>(64 * 64, 1024);
    t->bar = c.take<uint64_t>(1);
    return c.off;
}

/* d = 1 + a·bᵀ, a and b [64, 64]. */
__global__ void __launch_bounds__(128) wgmma_random(TMAP_PARAM ma, TMAP_PARAM mb, float *o)
{
#if CU_SM90
    DYN_SMEM_1024(base);
    tiles t;
    carve(&t, base);
    if (threadIdx.x == 0) {
        mbar_init(t.bar, 1);
        mbar_fence_init();
        mbar_expect_tx(t.bar, 2 * 64 * 128);
        tma_load_2d(t.a, &ma, 0, 0, t.bar);
        tma_load_2d(t.b, &mb, 0, 0, t.bar);
    }
    __syncthreads();
    mbar_wait(t.bar, 0);
    float d[32];
    for (int i = 0; i < 32; ++i) d[i] = 1;
    wgmma_fence();
    for (int k = 0; k < 4; ++k)
        wgmma_m64n64k16_ss<false>(d, wgmma_desc_sw128(t.a + k * 16), wgmma_desc_sw128(t.b + k * 16), true);
    wgmma_commit();
    wgmma_wait<0>();
    for (int i = 0; i < KEPT; ++i) o[threadIdx.x * KEPT + i] = d[i];
#endif
}

} // namespace
} // namespace CU_NS

/* bf16 numbers over nine binades of both signs, so that sums cancel and small terms are cut off. */
static std::vector<float> wide(const char *name, size_t n)
{
    const fh1_stream s = fh1_stream_open(9, name);
    std::vector<float> v(n);
    for (size_t i = 0; i < n; ++i)
        v[i] = static_cast<float>(ldexp(fh1_random_normal(s, i), static_cast<int>(fh1_random_below(s, n + i, 9)) - 4));
    return as_stored(CU_BF16, v);
}

static uint32_t two(float lo, float hi)
{
    uint32_t l, h;
    memcpy(&l, &lo, 4);
    memcpy(&h, &hi, 4);
    return l >> 16 | (h & 0xffff0000u);
}

/* Terms are aligned to the largest and cut at 2^-23 of it or finer, and so is each of the sums of 16: for n terms and
 * the number that they are added to, (n + 2)·2^-23·Σ|terms| is more than that. */
static void within(const char *what, int i, float got, double want, double terms, int n)
{
    const double allowed = (n + 2) * ldexp(1, -23) * terms;
    ck_assert_msg(fabs(got - want) <= allowed, "%s %d is %.9g, not %.9g ± %.2g", what, i, got, want, allowed);
    ck_assert(!(fabs(got * 1.001 - want) <= allowed) || fabs(want) < 1e-2 * terms); /* three digits are not enough */
}

static void run_mma(float *out)
{
    const std::vector<float> A = wide("A", TILES * 256), B = wide("B", TILES * 128), C = wide("C", TILES * 128);
    std::vector<uint32_t> a(TILES * 128), b(TILES * 64);
    std::vector<float> c(TILES * 128);
    for (int t = 0; t < TILES; ++t)
        for (int l = 0; l < 32; ++l) {
            for (int i = 0; i < 4; ++i) {
                const int row = l / 4 + i % 2 * 8, col = l % 4 * 2 + i / 2 * 8;
                a[t * 128 + l * 4 + i] = two(A[t * 256 + row * 16 + col], A[t * 256 + row * 16 + col + 1]);
                c[t * 128 + l * 4 + i] = C[t * 128 + (l / 4 + i / 2 * 8) * 8 + l % 4 * 2 + i % 2];
            }
            for (int i = 0; i < 2; ++i) {
                const int k = l % 4 * 2 + i * 8;
                b[t * 64 + l * 2 + i] = two(B[t * 128 + k * 8 + l / 4], B[t * 128 + (k + 1) * 8 + l / 4]);
            }
        }
    float *d = device_new<float>(MMA);
    LAUNCH(mma_random, TILES, 32, 0, nullptr, to_device(a), to_device(b), to_device(c), d);
    const std::vector<float> got = from_device(d, MMA);
    for (int j = 0; j < MMA; ++j) {
        const int t = j / 128, l = j / 4 % 32, row = l / 4 + j % 4 / 2 * 8, col = l % 4 * 2 + j % 2;
        double want = C[t * 128 + row * 8 + col], terms = fabs(want);
        for (int k = 0; k < 16; ++k) {
            const double term = static_cast<double>(A[t * 256 + row * 16 + k]) * B[t * 128 + k * 8 + col];
            want += term;
            terms += fabs(term);
        }
        within("mma", j, got[j], want, terms, 16);
        out[j] = got[j];
    }
    free_device();
}

/* ex2.approx is good to 2^-22 relative; below 2^-126 its results may be zero. */
static void run_powers(float *out)
{
    std::vector<float> x(POWERS);
    for (int i = 0; i < POWERS; ++i) x[i] = -130 + static_cast<float>(i) * 0.507f;
    float *y = device_new<float>(POWERS);
    LAUNCH(powers, POWERS / 128, 128, 0, nullptr, to_device(x), y);
    const std::vector<float> got = from_device(y, POWERS);
    for (int i = 0; i < POWERS; ++i) {
        const double want = exp2(x[i]);
        if (x[i] < 128) ck_assert_double_le(fabs(got[i] - want), ldexp(want, -21) + ldexp(1, -126));
        out[i] = got[i];
    }
    free_device();
}

static bool run_wgmma(float *out)
{
#if CU_HOST
    const int arch = 90;
#else
    const int arch = context().arch;
#endif
    if (arch != 90) return false;
    const std::vector<float> A = wide("wide A", 64 * 64), B = wide("wide B", 64 * 64);
    float *o = device_new<float>(WGMMA);
    tensor_map ma, mb;
    good(tensor_map_2d(&ma, to_device(CU_BF16, A), 64, 64, 64, 64));
    good(tensor_map_2d(&mb, to_device(CU_BF16, B), 64, 64, 64, 64));
    tiles t;
    const size_t smem = carve(&t, nullptr);
    good(cudaFuncSetAttribute(wgmma_random, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(smem)));
    LAUNCH(wgmma_random, 1, 128, smem, nullptr, ma, mb, o);
    good(cudaGetLastError());
    const std::vector<float> got = from_device(o, WGMMA);
    for (int j = 0; j < WGMMA; ++j) {
        const int l = j / KEPT, i = j % KEPT;
        const int row = l / 32 * 16 + l % 32 / 4 + i % 4 / 2 * 8, col = i / 4 * 8 + l % 4 * 2 + i % 2;
        double want = 1, terms = 1;
        for (int k = 0; k < 64; ++k) {
            const double term = static_cast<double>(A[row * 64 + k]) * B[col * 64 + k];
            want += term;
            terms += fabs(term);
        }
        within("wgmma", j, got[j], want, terms, 64);
        out[j] = got[j];
    }
    free_device();
    return true;
}

static void compare(const std::vector<float> &got)
{
    FILE *f = fopen("golden/cuda/conformance.bin", "rb");
    if (!f) return; /* not measured yet: docs/gpu/README.md */
    std::vector<float> golden(ALL + 1);
    const size_t n = fread(golden.data(), sizeof(float), ALL + 1, f);
    fclose(f);
    ck_assert_uint_eq(n, ALL);
    int same = 0;
    for (int i = 0; i < ALL; ++i) same += memcmp(&got[i], &golden[i], sizeof(float)) == 0;
    printf("%d of %d results have the device's bits\n", same, static_cast<int>(ALL));
    if (!CU_HOST) ck_assert_int_eq(same, ALL);
}

START_TEST(random_numbers)
{
    std::vector<float> all(ALL);
    run_mma(all.data());
    run_powers(all.data() + MMA);
    if (!run_wgmma(all.data() + MMA + POWERS)) return;
    compare(all);
    const char *folder = getenv("FH1_CONFORMANCE_OUT");
    if (!folder || CU_HOST) return;
    const std::string path = std::string(folder) + "/conformance.bin";
    FILE *f = fopen(path.c_str(), "wb");
    ck_assert_msg(f != nullptr, "cannot write %s", path.c_str());
    ck_assert_uint_eq(fwrite(all.data(), sizeof(float), ALL, f), ALL);
    ck_assert_int_eq(fclose(f), 0);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("conformance");
    TCase *t = tcase_create("conformance");
    tcase_add_test(t, random_numbers);
    suite_add_tcase(s, t);
    return run_suite(s);
}
