/* cu_blas: products by the library, when it declines, and the file of tuned algorithms: written, read, ignored when it
 * is damaged or of another device. In cuda-host also the stand-in of the library itself, form by form. */
#include "cuda/blas.h"
#include "cuda/blas_tune.h"
#include "tests/cuda/linear_truth.h"

#include <dirent.h>
#include <string>
#include <sys/stat.h>
#include <unistd.h>
#if CU_HOST
#include "cuda/host/cublaslt.h"
#endif

static bool declined;

static fh1_status by_library(cu_ctx *k, const cu_linear *a)
{
    bool done = false;
    const fh1_status s = cu_blas_linear_fwd(k, a, &done);
    declined = !done;
    return s ? s : done ? NULL : cu_linear_general_fwd(k, a);
}

/* A context with the library; false where there is none on this machine. */
static bool open_context(cu_ctx *k, const char *file)
{
    *k = context();
    good(cu_blas_new(file, &k->blas));
    return cu_blas_version(k->blas) != 0;
}

START_TEST(products)
{
    cu_ctx k;
    const bool there = open_context(&k, "");
    for (int M = 1; M <= 130; M = 2 * M + 1) {
        product_check(&k, by_library, {CU_BF16, CU_BF16, M, 72, 136, false, 0.4f, 8, 8});
        ck_assert(declined == !there);
        product_check(&k, by_library, {CU_BF16, CU_F32, M, 64, 64, true, -1, 0, 4});
        ck_assert(declined == !there);
        product_check(&k, by_library, {CU_F32, CU_F32, M, 40, 68, M % 2 == 0, 3, 4, 0});
        ck_assert(declined == !there);
    }
    product_check(&k, by_library, {CU_BF16, CU_BF16, 70, 64, 64, true, 1, 0, 0});
    ck_assert(declined); /* it would round the bias */
    product_check(&k, by_library, {CU_BF16, CU_BF16, 7, 64, 0, false, 1, 8, 0});
    ck_assert(declined);
    cu_blas_free(k.blas);
    k.blas = NULL;
    product_check(&k, by_library, {CU_BF16, CU_BF16, 7, 64, 64, false, 1, 0, 0});
    ck_assert(declined);
}
END_TEST

/* One product that the library takes. */
static void multiply(cu_ctx *k, int M, int N)
{
    product_check(k, by_library, {CU_BF16, CU_BF16, M, N, 64, false, 1, 0, 0});
}

static std::string text_of(const std::string &path)
{
    std::string t;
    char buf[256];
    FILE *f = fopen(path.c_str(), "r");
    if (!f) return "(none)";
    for (size_t n; (n = fread(buf, 1, sizeof buf, f)) > 0;) t.append(buf, n);
    fclose(f);
    return t;
}
static void write_text(const std::string &path, const std::string &t)
{
    FILE *f = fopen(path.c_str(), "w");
    ck_assert(f && fwrite(t.data(), 1, t.size(), f) == t.size() && fclose(f) == 0);
}

/* A folder of this test alone. */
struct folder {
    std::string path, file;
};
static folder folder_new(void)
{
    char name[] = "cu_blas_XXXXXX";
    ck_assert(mkdtemp(name));
    return folder{name, std::string(name) + "/tune"};
}
/* Removes it; how many files were there. */
static int folder_free(const folder &f)
{
    int n = 0;
    DIR *d = opendir(f.path.c_str());
    ck_assert(d);
    while (const dirent *e = readdir(d)) {
        if (e->d_name[0] == '.') continue;
        ++n;
        unlink((f.path + "/" + e->d_name).c_str());
    }
    closedir(d);
    rmdir(f.path.c_str());
    return n;
}

static void counts_are(const cu_ctx *k, int tuned, int loaded)
{
    int t, l;
    cu_blas_counts(k->blas, &t, &l);
    ck_assert_int_eq(t, tuned);
    ck_assert_int_eq(l, loaded);
}

START_TEST(algorithms_are_remembered)
{
    const folder f = folder_new();
    cu_ctx k;
    const bool there = open_context(&k, f.file.c_str());
    if (there) {
        multiply(&k, 65, 64);
        multiply(&k, 100, 64); /* up to 128 rows share an algorithm */
        counts_are(&k, 1, 0);
        multiply(&k, 129, 64);
        multiply(&k, 65, 72);
        counts_are(&k, 3, 0);
        cu_blas_free(k.blas);
        open_context(&k, f.file.c_str());
        counts_are(&k, 0, 3);
        multiply(&k, 99, 64);
        counts_are(&k, 0, 3);
        cu_blas_free(k.blas);
        setenv("FH1_CUDA_TUNE_CACHE", f.file.c_str(), 1);
        open_context(&k, NULL);
        counts_are(&k, 0, 3);
        unsetenv("FH1_CUDA_TUNE_CACHE");
    }
    cu_blas_free(k.blas);
    ck_assert_int_eq(folder_free(f), there ? 1 : 0); /* no temporary file is left */
}
END_TEST

/* Every byte of the file changed, one at a time, and every length: nothing crashes, nothing wrong is taken, and the
 * next choice repairs the file. */
START_TEST(damaged_files_are_ignored)
{
    const folder f = folder_new();
    cu_ctx k;
    if (open_context(&k, f.file.c_str())) {
        multiply(&k, 65, 64);
        multiply(&k, 65, 72);
        const std::string whole = text_of(f.file);
        const size_t header = whole.find('\n') + 1;
        fflush(stderr);
        const int err = dup(2);
        ck_assert(freopen("/dev/null", "w", stderr));
        for (size_t i = 0; i <= whole.size(); ++i) {
            std::string t = whole;
            if (i < whole.size()) t[i] = t[i] == '7' ? '8' : '7';
            else t.resize(whole.size() - 10);
            write_text(f.file, t);
            cu_tune table;
            cu_tune_open(&table, f.file.c_str(), i % 2 ? "x" : "cuda-host", 1);
            cu_tune_close(&table);
            if (i % 17) continue;
            cu_blas_free(k.blas);
            open_context(&k, f.file.c_str());
            counts_are(&k, 0, 0);
            multiply(&k, 65, 64);
            counts_are(&k, 1, 0);
        }
        fflush(stderr);
        dup2(err, 2);
        close(err);
        ck_assert(text_of(f.file).substr(0, header) == whole.substr(0, header));
        write_text(f.file, whole);
        cu_blas_free(k.blas);
        open_context(&k, f.file.c_str());
        counts_are(&k, 0, 2);
    }
    cu_blas_free(k.blas);
    folder_free(f);
}
END_TEST

START_TEST(other_devices_and_versions_are_not_mixed)
{
    const folder f = folder_new();
    cu_tune t;
    cu_tune_open(&t, f.file.c_str(), "device\none", 7);
    cu_tune_entry e = {{128, 64, 32, CU_BF16, CU_F32, 1}, 12.5, {~0ull, 2, 3, 4, 5, 6, 7, 0xabc}};
    cu_tune_add(&t, &e);
    e.algo[3] = 99;
    cu_tune_add(&t, &e); /* replaces */
    cu_tune_close(&t);
    cu_tune_open(&t, f.file.c_str(), "device one", 7);
    ck_assert_int_eq(t.loaded, 1);
    const cu_tune_entry *found = cu_tune_find(&t, &e.key);
    ck_assert(found && found->algo[0] == ~0ull && found->algo[3] == 99 && found->microseconds == 12.5);
    e.key.bias = 0;
    ck_assert(!cu_tune_find(&t, &e.key));
    cu_tune_close(&t);
    cu_tune_open(&t, f.file.c_str(), "device two", 7);
    ck_assert_int_eq(t.loaded, 0);
    cu_tune_close(&t);
    cu_tune_open(&t, f.file.c_str(), "device one", 8);
    ck_assert_int_eq(t.loaded, 0);
    cu_tune_close(&t);
    folder_free(f);
}
END_TEST

#if CU_HOST
/* D = alpha·op(A)·op(B) + beta·C + bias in every form, with gaps between the lines. */
struct form {
    bool ta, tb, rows_a, rows_b, rows_d, bias;
    float alpha, beta;
    cu_type in, out;
};

static cublasLtMatrixLayout_t layout(cu_type t, int rows, int cols, bool by_rows, int64_t *ld)
{
    cublasLtMatrixLayout_t l;
    *ld = (by_rows ? cols : rows) + 3;
    ck_assert(!cublasLtMatrixLayoutCreate(&l, t == CU_F32 ? CUDA_R_32F : CUDA_R_16BF, static_cast<uint64_t>(rows),
                                          static_cast<uint64_t>(cols), *ld));
    const int32_t order = by_rows ? CUBLASLT_ORDER_ROW : CUBLASLT_ORDER_COL;
    ck_assert(!cublasLtMatrixLayoutSetAttribute(l, CUBLASLT_MATRIX_LAYOUT_ORDER, &order, sizeof order));
    return l;
}

static size_t element(bool by_rows, int64_t ld, int i, int j)
{
    return static_cast<size_t>(by_rows ? i * ld + j : j * ld + i);
}

static void form_check(const form &f, int m, int n, int k)
{
    int64_t lda, ldb, ldd, ldc;
    cublasLtHandle_t h;
    cublasLtMatmulDesc_t op;
    const int ar = f.ta ? k : m, ac = f.ta ? m : k, br = f.tb ? n : k, bc = f.tb ? k : n;
    const cublasLtMatrixLayout_t A = layout(f.in, ar, ac, f.rows_a, &lda), B = layout(f.in, br, bc, f.rows_b, &ldb),
                                 D = layout(f.out, m, n, f.rows_d, &ldd), C = layout(f.out, m, n, !f.rows_d, &ldc);
    const std::vector<float> a = as_stored(f.in, draw("a", static_cast<size_t>(lda * (f.rows_a ? ar : ac)))),
                             b = as_stored(f.in, draw("b", static_cast<size_t>(ldb * (f.rows_b ? br : bc)))),
                             c = as_stored(f.out, draw("c", static_cast<size_t>(ldc * (f.rows_d ? n : m)))),
                             bias = as_stored(f.out, draw("bias", static_cast<size_t>(m)));
    const size_t size = static_cast<size_t>(ldd * (f.rows_d ? m : n));
    void *d_bias = to_device(f.out, bias), *d = to_device(f.out, std::vector<float>(size, GAP));
    const int32_t ta = f.ta, tb = f.tb, epilogue = f.bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
    ck_assert(!cublasLtCreate(&h) && !cublasLtMatmulDescCreate(&op, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    ck_assert(!cublasLtMatmulDescSetAttribute(op, CUBLASLT_MATMUL_DESC_TRANSA, &ta, sizeof ta));
    ck_assert(!cublasLtMatmulDescSetAttribute(op, CUBLASLT_MATMUL_DESC_TRANSB, &tb, sizeof tb));
    ck_assert(!cublasLtMatmulDescSetAttribute(op, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue));
    ck_assert(!cublasLtMatmulDescSetAttribute(op, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &d_bias, sizeof d_bias));
    void *workspace = device_new<char>(256);
    const cublasLtMatmulAlgo_t algo = {{2, 0, 0, 0, 0, 0, 0, 0}};
    ck_assert(!cublasLtMatmul(h, op, &f.alpha, to_device(f.in, a), A, to_device(f.in, b), B, &f.beta,
                              f.beta == 0 ? d : to_device(f.out, c), C, d, D, &algo, workspace, 256, nullptr));
    const std::vector<float> got = from_device(f.out, d, size);
    size_t gaps = 0;
    for (float v : got) gaps += v == as_stored(f.out, {GAP})[0];
    ck_assert_uint_eq(gaps, size - static_cast<size_t>(m * n));
    for (int i = 0; i < m; ++i) {
        for (int j = 0; j < n; ++j) {
            double sum = 0, terms = 0;
            for (int q = 0; q < k; ++q) {
                const double t =
                    static_cast<double>(a[f.ta ? element(f.rows_a, lda, q, i) : element(f.rows_a, lda, i, q)]) *
                    b[f.tb ? element(f.rows_b, ldb, j, q) : element(f.rows_b, ldb, q, j)];
                sum += t;
                terms += fabs(t);
            }
            const double old = static_cast<double>(f.beta) * c[element(!f.rows_d, ldc, i, j)],
                         add = f.bias ? static_cast<double>(bias[static_cast<size_t>(i)]) : 0,
                         want = f.alpha * sum + old + add;
            /* K products and K additions of relative error 2^-24, then alpha, beta and two additions */
            const double err = ldexp(1, -24) * ((2 * k + 4) * fabs(f.alpha) * terms + 4 * fabs(old) + 2 * fabs(add));
            ck_assert(fabs(got[element(f.rows_d, ldd, i, j)] - want) <= err + half_ulp(f.out, fabs(want) + err));
        }
    }
    cublasLtMatrixLayoutDestroy(A);
    cublasLtMatrixLayoutDestroy(B);
    cublasLtMatrixLayoutDestroy(C);
    cublasLtMatrixLayoutDestroy(D);
    cublasLtMatmulDescDestroy(op);
    cublasLtDestroy(h);
    free_device();
}

START_TEST(stand_in_honours_every_form)
{
    for (int bits = 0; bits < 32; ++bits) {
        const bool ta = bits & 1, tb = bits & 2, ra = bits & 4, rb = bits & 8, rd = bits & 16;
        form_check({ta, tb, ra, rb, rd, !rd, 0.5f, rb ? 0.25f : 0.f, CU_BF16, ra ? CU_F32 : CU_BF16}, 37, 34, 19);
        form_check({ta, tb, ra, rb, rd, false, 1.f, ra ? -1.f : 0.f, CU_F32, CU_F32}, 5, 66, 131);
    }
}
END_TEST

START_TEST(stand_in_refuses_the_rest)
{
    cublasLtMatmulDesc_t op;
    cublasLtMatrixLayout_t l;
    ck_assert_int_eq(cublasLtMatmulDescCreate(&op, CUBLAS_COMPUTE_32F_FAST_TF32, CUDA_R_32F),
                     CUBLAS_STATUS_NOT_SUPPORTED);
    ck_assert_int_eq(cublasLtMatrixLayoutCreate(&l, CUDA_R_16F, 4, 4, 4), CUBLAS_STATUS_NOT_SUPPORTED);
    ck_assert(!cublasLtMatmulDescCreate(&op, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    const int32_t relu = CUBLASLT_EPILOGUE_RELU, two = 2;
    ck_assert_int_eq(cublasLtMatmulDescSetAttribute(op, CUBLASLT_MATMUL_DESC_EPILOGUE, &relu, sizeof relu),
                     CUBLAS_STATUS_NOT_SUPPORTED);
    ck_assert_int_eq(cublasLtMatmulDescSetAttribute(op, CUBLASLT_MATMUL_DESC_TRANSA, &two, 1),
                     CUBLAS_STATUS_INVALID_VALUE);
    cublasLtMatmulDescDestroy(op);
    ck_assert(!cublasLtMatrixLayoutCreate(&l, CUDA_R_32F, 4, 4, 4));
    ck_assert_int_eq(cublasLtMatrixLayoutSetAttribute(l, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &two, sizeof two),
                     CUBLAS_STATUS_NOT_SUPPORTED);
    cublasLtMatrixLayoutDestroy(l);
    /* operands of two types, results narrower than f32 operands, sizes that do not fit, lines shorter than a row */
    const struct {
        cudaDataType_t a, b, d;
        uint64_t k;
        int64_t ld;
    } bad[] = {{CUDA_R_32F, CUDA_R_16BF, CUDA_R_32F, 8, 8},
               {CUDA_R_32F, CUDA_R_32F, CUDA_R_16BF, 8, 8},
               {CUDA_R_32F, CUDA_R_32F, CUDA_R_32F, 7, 8},
               {CUDA_R_32F, CUDA_R_32F, CUDA_R_32F, 8, 7}};
    cublasLtHandle_t h;
    ck_assert(!cublasLtCreate(&h));
    for (const auto &c : bad) {
        cublasLtMatrixLayout_t A, B, D;
        ck_assert(!cublasLtMatmulDescCreate(&op, CUBLAS_COMPUTE_32F, CUDA_R_32F));
        ck_assert(!cublasLtMatrixLayoutCreate(&A, c.a, 8, 8, 8) && !cublasLtMatrixLayoutCreate(&B, c.b, c.k, 8, 8) &&
                  !cublasLtMatrixLayoutCreate(&D, c.d, 8, 8, c.ld));
        std::vector<float> v(64, 1.f);
        const float one = 1;
        ck_assert(cublasLtMatmul(h, op, &one, v.data(), A, v.data(), B, &one, v.data(), D, v.data(), D, NULL, NULL, 0,
                                 nullptr));
        cublasLtMatrixLayoutDestroy(A);
        cublasLtMatrixLayoutDestroy(B);
        cublasLtMatrixLayoutDestroy(D);
        cublasLtMatmulDescDestroy(op);
    }
    cublasLtDestroy(h);
}
END_TEST
#endif

int main(void)
{
    Suite *s = suite_create("cu_blas");
    TCase *c = tcase_create("blas");
    tcase_set_timeout(c, 0);
    tcase_add_test(c, products);
    tcase_add_test(c, algorithms_are_remembered);
    tcase_add_test(c, damaged_files_are_ignored);
    tcase_add_test(c, other_devices_and_versions_are_not_mixed);
#if CU_HOST
    tcase_add_test(c, stand_in_honours_every_form);
    tcase_add_test(c, stand_in_refuses_the_rest);
#endif
    suite_add_tcase(s, c);
    return run_suite(s);
}
