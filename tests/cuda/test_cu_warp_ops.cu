/* cuda/warp_ops.h, each operation against an independent definition: fragment layouts as plain index formulas of the
 * PTX ISA. On the CPU this tests the twins, on a device the instructions: together they are the conformance test. */
#include "tests/cuda/harness.h"

namespace CU_NS
{
namespace
{

/* Thread l's registers of a fragment: the element (row, col) of its i-th bf16 (mma.m16n8k16). */
struct element {
    int row, col;
};
element a_at(int l, int i) /* 16 x 16 */
{
    return {l / 4 + (i % 4 >= 2 ? 8 : 0), l % 4 * 2 + i % 2 + (i >= 4 ? 8 : 0)};
}
element b_at(int l, int i) /* 16 x 8, k the row */
{
    return {l % 4 * 2 + i % 2 + (i >= 2 ? 8 : 0), l / 4};
}
element c_at(int l, int i) /* 16 x 8 */
{
    return {l / 4 + (i >= 2 ? 8 : 0), l % 4 * 2 + i % 2};
}

__global__ void mma(const uint32_t *a, const uint32_t *b, const float *c, float *d)
{
    const int l = threadIdx.x;
    uint32_t ra[4], rb[2];
    float rd[4];
    for (int i = 0; i < 4; ++i) ra[i] = a[l * 4 + i];
    for (int i = 0; i < 2; ++i) rb[i] = b[l * 2 + i];
    for (int i = 0; i < 4; ++i) rd[i] = c[l * 4 + i];
    mma_m16n8k16_bf16(rd, ra, rb);
    for (int i = 0; i < 4; ++i) d[l * 4 + i] = rd[i];
}

/* Four 8 x 8 matrices, matrix i's rows at 24·i elements and on, in a tile of rows 40 elements apart. */
__global__ void load_matrices(const uint16_t *x, uint32_t *plain, uint32_t *transposed)
{
    SHARED(uint16_t, tile, [8][104]);
    const int l = threadIdx.x;
    for (int i = l; i < 8 * 104; i += 32) tile[i / 104][i % 104] = x[i];
    __syncwarp();
    uint32_t r[4];
    ldmatrix_x4(r, &tile[l % 8][l / 8 * 24]);
    for (int i = 0; i < 4; ++i) plain[l * 4 + i] = r[i];
    ldmatrix_x4_trans(r, &tile[l % 8][l / 8 * 24]);
    for (int i = 0; i < 4; ++i) transposed[l * 4 + i] = r[i];
}

/* Two groups of copies, one of them partly of zeros; the first is read while the second may be in flight. */
__global__ void copies(const uint32_t *x, uint32_t *y)
{
    SHARED(uint32_t, s, [2][128]);
    const int t = threadIdx.x;
    cp_async16(&s[0][t * 4], x + t * 4, t != 5);
    cp_async_commit();
    cp_async16(&s[1][t * 4], x + 128 + t * 4);
    cp_async_commit();
    cp_async_wait<1>();
    __syncthreads();
    for (int i = 0; i < 4; ++i) y[t * 4 + i] = s[0][(t * 4 + i) ^ 64];
    cp_async_wait<0>();
    __syncthreads();
    for (int i = 0; i < 4; ++i) y[128 + t * 4 + i] = s[1][(t * 4 + i) ^ 4];
}

enum { REDUCTIONS = 6 };
__global__ void reductions(const float *x, float *y)
{
    SHARED(float, red, [32]);
    const int t = threadIdx.x;
    y[t * REDUCTIONS] = warp_sum(x[t]);
    y[t * REDUCTIONS + 1] = warp_max(x[t]);
    y[t * REDUCTIONS + 2] = quad_sum(x[t]);
    y[t * REDUCTIONS + 3] = quad_max(x[t]);
    y[t * REDUCTIONS + 4] = block_sum(x[t], red);
    y[t * REDUCTIONS + 5] = block_sum(2 * x[t], red); /* `red` is free again */
}

__global__ void conversions(const float *x, const bf16 *h, int n, uint32_t *packed, float *wide, float *rounded_f)
{
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    packed[i] = pack_bf16(x[i], -x[i]);
    wide[i] = unpack_bf16(static_cast<uint32_t>(i) << 16 | static_cast<uint32_t>(i)).x;
    wide[n + i] = load(h + i);
    rounded_f[i] = rounded<bf16>(x[i]);
}

__global__ void streams_and_powers(const uint4 *p, uint4 *q, const float *x, float *y)
{
    const int t = threadIdx.x;
    q[t] = ld_stream16(p + t);
    y[t] = fast_exp2(x[t]);
}

} // namespace
} // namespace CU_NS

static float bf(float x)
{
    return __bfloat162float(__float2bfloat16_rn(x));
}

static uint32_t bits(float x)
{
    uint32_t u;
    memcpy(&u, &x, 4);
    return u;
}

static uint32_t two(float lo, float hi)
{
    return bits(lo) >> 16 | (bits(hi) & 0xffff0000u);
}

/* Small integers: every sum is exact, so the layout is all that can be wrong. */
START_TEST(mma_multiplies_as_the_isa_lays_it_out)
{
    float A[16][16], B[16][8], C[16][8];
    for (int i = 0; i < 16; ++i)
        for (int j = 0; j < 16; ++j) A[i][j] = static_cast<float>((i * 7 + j * 3) % 15 - 7);
    for (int i = 0; i < 16; ++i)
        for (int j = 0; j < 8; ++j)
            B[i][j] = static_cast<float>((i * 5 + j * 11) % 13 - 6), C[i][j] = static_cast<float>(i * 8 + j);
    std::vector<uint32_t> a(128), b(64);
    std::vector<float> c(128);
    for (int l = 0; l < 32; ++l) {
        for (int i = 0; i < 4; ++i) {
            const element e = a_at(l, 2 * i), f = a_at(l, 2 * i + 1);
            a[l * 4 + i] = two(A[e.row][e.col], A[f.row][f.col]);
            c[l * 4 + i] = C[c_at(l, i).row][c_at(l, i).col];
        }
        for (int i = 0; i < 2; ++i) {
            const element e = b_at(l, 2 * i), f = b_at(l, 2 * i + 1);
            b[l * 2 + i] = two(B[e.row][e.col], B[f.row][f.col]);
        }
    }
    float *d = device_new<float>(128);
    LAUNCH(mma, 1, 32, 0, nullptr, to_device(a), to_device(b), to_device(c), d);
    const std::vector<float> got = from_device(d, 128);
    int other = 0;
    for (int l = 0; l < 32; ++l)
        for (int i = 0; i < 4; ++i) {
            const element e = c_at(l, i);
            float want = C[e.row][e.col], transposed = want;
            for (int k = 0; k < 16; ++k) {
                want += A[e.row][k] * B[k][e.col];
                transposed += A[k][e.row] * B[k][e.col];
            }
            ck_assert_msg(got[l * 4 + i] == want, "lane %d register %d: %g, not %g", l, i, got[l * 4 + i], want);
            other += want != transposed;
        }
    ck_assert_int_gt(other, 64); /* a transposed A would have shown */
    free_device();
}
END_TEST

/* Real numbers: |error| <= 17 f32 roundings (or truncations: a tensor core aligns and cuts) of the sum of |terms|. */
START_TEST(mma_sums_in_f32)
{
    const std::vector<float> x = draw("a", 256, 1), y = draw("b", 128, 1);
    std::vector<uint32_t> a(128), b(64);
    float A[16][16], B[16][8];
    for (int i = 0; i < 256; ++i) A[i / 16][i % 16] = bf(x[i]);
    for (int i = 0; i < 128; ++i) B[i / 8][i % 8] = bf(y[i]);
    for (int l = 0; l < 32; ++l) {
        for (int i = 0; i < 4; ++i)
            a[l * 4 + i] =
                two(A[a_at(l, 2 * i).row][a_at(l, 2 * i).col], A[a_at(l, 2 * i + 1).row][a_at(l, 2 * i + 1).col]);
        for (int i = 0; i < 2; ++i)
            b[l * 2 + i] =
                two(B[b_at(l, 2 * i).row][b_at(l, 2 * i).col], B[b_at(l, 2 * i + 1).row][b_at(l, 2 * i + 1).col]);
    }
    const std::vector<float> c = draw("c", 128, 3);
    float *d = device_new<float>(128);
    LAUNCH(mma, 1, 32, 0, nullptr, to_device(a), to_device(b), to_device(c), d);
    const std::vector<float> got = from_device(d, 128);
    for (int l = 0; l < 32; ++l)
        for (int i = 0; i < 4; ++i) {
            const element e = c_at(l, i);
            double want = c[l * 4 + i], size = fabs(want);
            for (int k = 0; k < 16; ++k) {
                want += static_cast<double>(A[e.row][k]) * B[k][e.col];
                size += fabs(static_cast<double>(A[e.row][k]) * B[k][e.col]);
            }
            ck_assert(fabs(got[l * 4 + i] - want) <= 17 * ldexp(size, -23));
        }
    free_device();
}
END_TEST

START_TEST(ldmatrix_reads_rows_and_columns)
{
    std::vector<uint16_t> x(8 * 104);
    for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<uint16_t>(i);
    uint32_t *p = device_new<uint32_t>(128), *t = device_new<uint32_t>(128);
    LAUNCH(load_matrices, 1, 32, 0, nullptr, to_device(x), p, t);
    const std::vector<uint32_t> plain = from_device(p, 128), transposed = from_device(t, 128);
    for (int l = 0; l < 32; ++l)
        for (int m = 0; m < 4; ++m) {
            /* Thread l: row l / 4, columns 2 (l % 4) and the next; transposed the same of the transposed matrix. */
            const int r = l / 4, c = l % 4 * 2;
            const uint32_t want = x[r * 104 + m * 24 + c] | static_cast<uint32_t>(x[r * 104 + m * 24 + c + 1]) << 16;
            const uint32_t turned = x[c * 104 + m * 24 + r] | static_cast<uint32_t>(x[(c + 1) * 104 + m * 24 + r])
                                                                  << 16;
            ck_assert_uint_eq(plain[l * 4 + m], want);
            ck_assert_uint_eq(transposed[l * 4 + m], turned);
        }
    free_device();
}
END_TEST

START_TEST(copies_arrive)
{
    std::vector<uint32_t> x(256);
    for (size_t i = 0; i < x.size(); ++i) x[i] = 1000 + static_cast<uint32_t>(i);
    uint32_t *y = device_new<uint32_t>(256);
    LAUNCH(copies, 1, 32, 0, nullptr, to_device(x), y);
    const std::vector<uint32_t> got = from_device(y, 256);
    for (int i = 0; i < 128; ++i) {
        const int j = i ^ 64;
        ck_assert_uint_eq(got[i], j / 4 == 5 ? 0 : x[j]);
        ck_assert_uint_eq(got[128 + i], x[128 + (i ^ 4)]);
    }
    free_device();
}
END_TEST

START_TEST(reductions_reduce)
{
    enum { T = 160 };
    std::vector<float> x(T); /* integers: exact in any order */
    for (int i = 0; i < T; ++i) x[i] = static_cast<float>((i * 37) % 101 - 50);
    float *y = device_new<float>(T * REDUCTIONS);
    LAUNCH(reductions, 1, T, 0, nullptr, to_device(x), y);
    const std::vector<float> r = from_device(y, T * REDUCTIONS);
    float all = 0;
    for (float v : x) all += v;
    for (int t = 0; t < T; ++t) {
        float ws = 0, wm = -INFINITY, qs = 0, qm = -INFINITY;
        for (int i = t & ~31; i < (t & ~31) + 32; ++i) ws += x[i], wm = fmaxf(wm, x[i]);
        for (int i = t & ~3; i < (t & ~3) + 4; ++i) qs += x[i], qm = fmaxf(qm, x[i]);
        const float *g = &r[t * REDUCTIONS];
        ck_assert(g[0] == ws && g[1] == wm && g[2] == qs && g[3] == qm && g[4] == all && g[5] == 2 * all);
    }
    free_device();
}
END_TEST

/* Nearest even by the definition: of the two neighbours the nearer, at a tie the even one. */
static uint16_t nearest_bf16(float x)
{
    const uint32_t u = bits(x);
    if (x != x) return 0x7fff;
    const uint32_t down = u >> 16, rest = u & 0xffffu;
    return static_cast<uint16_t>(rest > 0x8000u || (rest == 0x8000u && (down & 1)) ? down + 1 : down);
}

START_TEST(conversions_round_to_nearest_even)
{
    enum { N = 65536 };
    std::vector<float> x(N);
    std::vector<uint16_t> h(N);
    for (uint32_t i = 0; i < N; ++i) {
        /* Every bf16, with the lower half just below, at and just above the middle, and anything. */
        static const uint32_t low[4] = {0x7fffu, 0x8000u, 0x8001u, 0u};
        const uint32_t u = i << 16 | (i % 5 == 4 ? i * 40503u & 0xffffu : low[i % 5]);
        memcpy(&x[i], &u, 4);
        h[i] = static_cast<uint16_t>(i);
    }
    uint32_t *packed = device_new<uint32_t>(N);
    float *wide = device_new<float>(2 * N), *back = device_new<float>(N);
    LAUNCH(conversions, N / 256, 256, 0, nullptr, to_device(x), reinterpret_cast<const bf16 *>(to_device(h)),
           static_cast<int>(N), packed, wide, back);
    const std::vector<uint32_t> p = from_device(packed, N);
    const std::vector<float> w = from_device(wide, 2 * N), r = from_device(back, N);
    for (uint32_t i = 0; i < N; ++i) {
        ck_assert_uint_eq(p[i] & 0xffffu, nearest_bf16(x[i]));
        ck_assert_uint_eq(p[i] >> 16, nearest_bf16(-x[i]));
        ck_assert_uint_eq(bits(w[i]), i << 16);
        ck_assert_uint_eq(bits(w[N + i]), i << 16);
        ck_assert_uint_eq(bits(r[i]), static_cast<uint32_t>(nearest_bf16(x[i])) << 16);
    }
    free_device();
}
END_TEST

/* ex2.approx: relative error up to 2^-22 (PTX ISA), and the argument's results below 2^-126 may be flushed to 0. */
START_TEST(powers_of_two_and_streaming_loads)
{
    std::vector<uint32_t> u(32 * 4);
    for (size_t i = 0; i < u.size(); ++i) u[i] = static_cast<uint32_t>(i * 2654435761u);
    std::vector<float> x(32);
    for (int i = 0; i < 32; ++i) x[i] = static_cast<float>(i - 16) * 3.7f;
    x[0] = -INFINITY, x[1] = 0, x[2] = -200, x[3] = 10;
    uint4 *q = reinterpret_cast<uint4 *>(to_device(std::vector<uint32_t>(128)));
    float *y = device_new<float>(32);
    LAUNCH(streams_and_powers, 1, 32, 0, nullptr, reinterpret_cast<const uint4 *>(to_device(u)), q, to_device(x), y);
    ck_assert(from_device(reinterpret_cast<uint32_t *>(q), 128) == u);
    const std::vector<float> got = from_device(y, 32);
    ck_assert(got[0] == 0 && got[1] == 1 && got[3] == 1024);
    for (int i = 0; i < 32; ++i) {
        const double want = exp2(static_cast<double>(x[i]));
        ck_assert(fabs(got[i] - want) <= ldexp(want, -22) + ldexp(1, -126));
    }
    free_device();
}
END_TEST

int main()
{
    Suite *s = suite_create("warp_ops");
    TCase *c = tcase_create("warp_ops");
    tcase_add_test(c, mma_multiplies_as_the_isa_lays_it_out);
    tcase_add_test(c, mma_sums_in_f32);
    tcase_add_test(c, ldmatrix_reads_rows_and_columns);
    tcase_add_test(c, copies_arrive);
    tcase_add_test(c, reductions_reduce);
    tcase_add_test(c, conversions_round_to_nearest_even);
    tcase_add_test(c, powers_of_two_and_streaming_loads);
    suite_add_tcase(s, c);
    return run_suite(s);
}
