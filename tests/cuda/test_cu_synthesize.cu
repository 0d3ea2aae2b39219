/* Weights made on the device are those that convert/hf_recipe.c makes on the processor, to the bit. */
#include "cuda/synthesize.cuh"
#include "tests/cuda/harness.h"

extern "C" {
#include "oracle/round.h"
}

/* The formula of convert/hf_recipe.c, written down again. */
static double wanted(const cu_matrix_recipe *r, int64_t at)
{
    const fh1_stream s = {r->key};
    const uint64_t u = fh1_random_u64(s, static_cast<uint64_t>(at));
    double sum = 0;
    for (int i = 0; i < 4; ++i) sum += static_cast<double>(u >> (16 * i) & 0xffff);
    int k = 0;
    while (k < r->n_segments - 1 && at >= r->end[k]) k++;
    const double scaled = r->std[k] * ((sum - 4 * 32767.5) / 37837.227237206);
    return r->mean + scaled;
}

static cu_matrix_recipe recipe(uint64_t seed, const char *name)
{
    const cu_matrix_recipe r = {
        fh1_stream_open(seed, name).key, 0.25, 4, {100, 300, 301, 1 << 30}, {0.02, 1.5, 0.0625, 3e-4}};
    return r;
}

/* Elements [first, first + n) behind guards that must stay. */
static void run(cu_type type, const cu_matrix_recipe &r, int64_t first, int64_t n)
{
    enum { GUARD = 16 };
    const size_t all = static_cast<size_t>(n) + 2 * GUARD;
    std::vector<float> before(all, 7.f);
    void *p = to_device(type, before);
    const cu_ctx k = context();
    cu_synthetic a = {type, first, n, r, static_cast<char *>(p) + GUARD * cu_size(type)};
    good(cu_synthesize_fwd(&k, &a));
    const std::vector<float> got = from_device(type, p, all);
    int differ = 0;
    for (int64_t i = 0; i < n; ++i) {
        const double want = wanted(&r, first + i);
        const float stored = type == CU_F32 ? static_cast<float>(want) : fh1_bf16_to_f32(fh1_f64_to_bf16(want));
        ck_assert_msg(got[i + GUARD] == stored, "element %lld is %g, not %g", static_cast<long long>(first + i),
                      got[i + GUARD], stored);
        differ += wanted(&r, first + i + 1) != want;
    }
    ck_assert_int_ge(differ, static_cast<int>(n * 9 / 10)); /* an ordinal that is off by one would be seen */
    for (int i = 0; i < GUARD; ++i) ck_assert(got[i] == 7.f && got[all - 1 - i] == 7.f);
    free_device();
}

START_TEST(the_numbers_of_the_recipe)
{
    static const int64_t part[][2] = {{0, 1}, {0, 517}, {1, 4097}, {296, 9}, {(int64_t{1} << 32) - 3, 2050}, {5, 0}};
    const cu_matrix_recipe r = recipe(3, "model.layers.1.mamba.in_proj.weight");
    for (const int64_t *q : part)
        for (const cu_type t : {CU_F32, CU_BF16}) run(t, r, q[0], q[1]);
}
END_TEST

/* Moments of what is drawn: variance 1 within 5 standard errors (kurtosis of the bell: 2.7), no two neighbours alike.
 */
START_TEST(a_bell_of_variance_one)
{
    enum { N = 1 << 16 };
    const cu_matrix_recipe r = {fh1_stream_open(1, "bell").key, 0, 1, {N}, {1}};
    const cu_ctx k = context();
    float *p = device_new<float>(N);
    cu_synthetic a = {CU_F32, 0, N, r, p};
    good(cu_synthesize_fwd(&k, &a));
    const std::vector<float> v = from_device(p, N);
    double sum = 0, squares = 0, neighbours = 0;
    for (int i = 0; i < N; ++i) {
        sum += v[i], squares += v[i] * v[i], neighbours += v[i] * v[(i + 1) % N];
        ck_assert(v[i] != 0);
    }
    ck_assert_double_le(fabs(sum / N), 5 / sqrt(double{N}));
    ck_assert_double_le(fabs(squares / N - 1), 5 * sqrt(1.7 / N));
    ck_assert_double_le(fabs(neighbours / N), 5 / sqrt(double{N}));
    free_device();
}
END_TEST

int main(void)
{
    Suite *s = suite_create("synthesize");
    TCase *t = tcase_create("synthesize");
    tcase_add_test(t, the_numbers_of_the_recipe);
    tcase_add_test(t, a_bell_of_variance_one);
    suite_add_tcase(s, t);
    return run_suite(s);
}
