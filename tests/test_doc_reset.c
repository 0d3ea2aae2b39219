/* Documents reset by a log-decay of -80 (variant doc_reset_80) beside the exact cut: what is left of the state, what is
 * not reset at all, what sums of a chunk lose. `test_doc_reset --table` prints the table of docs/numerics.md. */
#include "reference/faulty.h"
#include "tests/scan_bench.h"

#define RESET FH1_VAR_DOC_RESET_80

/* Equal documents, numbered from 1; the incoming state is that of document 0. */
static void pack(scan *s, int64_t n_docs)
{
    int64_t *doc = w_ints(s->T);
    for (int64_t t = 0; t < s->T; ++t) doc[t] = 1 + t * n_docs / s->T;
    s->doc = doc;
    s->state_doc = 0;
}

static scan packed(int64_t T, int64_t n_docs, unsigned variants)
{
    scan s = new_scan(FP32, TRAINED, 1, T, 20);
    pack(&s, n_docs);
    s.variants = variants;
    return s;
}

/* y [T,H·P], then the state. */
static double *run(const scan *s, fh1_engine *e, int64_t Q)
{
    const int64_t d = s->H * s->P, n = s->T * d;
    void *state = w_to(e, s->state, n_state(s)), *y = w_out(e, n), *x = w_to(e, s->x, n);
    void *B = w_to(e, s->B, s->T * s->G * s->N), *C = w_to(e, s->C, s->T * s->G * s->N);
    void *dt = w_to(e, s->dt, s->T * s->H);
    if (Q)
        w_fine(e->ops->ssd_chunk(e, s->T, s->H, s->P, s->N, s->G, Q, x, B, C, dt, &s->At, &s->Dt, s->doc, s->state_doc,
                                 state, y));
    else
        w_fine(e->ops->ssd_scan(e, s->T, s->H, s->P, s->N, s->G, x, B, C, dt, &s->At, &s->Dt, s->doc, s->state_doc,
                                state, y));
    double *out = w_new(n + n_state(s));
    fh1_to_f64(out, y, e->dtype, n);
    fh1_to_f64(out + n, state, e->dtype, n_state(s));
    e->free(e);
    return out;
}

static double largest(const double *v, int64_t n)
{
    double most = 0;
    for (int64_t i = 0; i < n; ++i) most = fmax(most, fabs(v[i]));
    return most;
}

/* The law: a reset document is within 1e-30 of a cut one, relative to the state that was there. y reads the state
 * through N terms of C. `gap` over what is allowed. */
static double law(const scan *s, const double *cut, const double *reset, bool *differs)
{
    const int64_t n = s->T * s->H * s->P;
    const double state = largest(s->state, n_state(s)), read = (double)s->N * largest(s->C, s->T * s->G * s->N);
    double worst = 0;
    *differs = false;
    for (int64_t i = 0; i < n + n_state(s); ++i) {
        const double gap = fabs(reset[i] - cut[i]) / (1e-30 * state * (i < n ? fmax(1, read) : 1));
        worst = gap > worst || isnan(gap) ? gap : worst;
        *differs |= reset[i] != cut[i];
    }
    return worst;
}

/* With inputs, what is left lies below the last bit; with x = 0 behind the border it is all there is. */
START_TEST(equals_the_exact_cut)
{
    for (int k = 0; k < 6; ++k) {
        scan s = packed(k % 3 == 0 ? 1 : 40, k % 3 == 2 ? 7 : 1, 0);
        const bool silent = k / 3;
        if (silent) memset(s.x, 0, (size_t)(s.T * s.H * s.P) * sizeof *s.x);
        bool differs;
        const double *cut = run(&s, ref_engine_new("ref-f64", NULL, 0), 0);
        const double *reset = run(&s, ref_engine_new("ref-f64", NULL, RESET), 0);
        const double *weak = run(&s, ref_faulty_engine_new("ref-f64", NULL, RESET, FH1_FAULT_DOC_RESET_BY_8), 0);
        const double gap = law(&s, cut, reset, &differs);
        ck_assert_msg(fh1_within(gap, 1), "case %d: %.3g of what is allowed", k, gap);
        ck_assert_msg(differs == silent, "case %d: what is left of the state is%s seen", k, differs ? "" : " not");
        ck_assert_msg(!fh1_within(law(&s, cut, weak, &differs), 1), "case %d: a reset of -8 is not noticed", k);
    }
}
END_TEST

/* One token, x = 0: S = exp(-80)·S, in a scan and in a chunk, whatever Δ is. */
START_TEST(one_token_leaves_exp_minus_80)
{
    const double left = exp(-80);
    for (int k = 0; k < 4; ++k) {
        scan s = packed(1, 1, RESET);
        memset(s.x, 0, (size_t)(s.H * s.P) * sizeof *s.x);
        for (int64_t h = 0; h < s.H; ++h) s.dt[h] = k / 2 ? 30 : 1e-3;
        const double *got = run(&s, ref_engine_new("ref-f64", NULL, RESET), k % 2) + s.H * s.P;
        for (int64_t i = 0; i < n_state(&s); ++i)
            ck_assert_msg(fabs(got[i] - left * s.state[i]) <= 4 * 0x1p-52 * left * fabs(s.state[i]),
                          "case %d: %g of %g", k, got[i], s.state[i]);
    }
}
END_TEST

/* A state of no document (a fresh cache) has nothing to reset, and one that goes on is not touched. */
START_TEST(only_between_documents)
{
    for (int Q = 0; Q <= 8; Q += 8) {
        scan s = packed(24, 1, 0);
        s.state_doc = -1;
        w_exact(w_f64, "no document before", s.T * s.H * s.P + n_state(&s),
                run(&s, ref_engine_new("ref-f64", NULL, RESET), Q), run(&s, ref_engine_new("ref-f64", NULL, 0), Q));
        s.state_doc = 1;
        w_exact(w_f64, "the same document", s.T * s.H * s.P + n_state(&s),
                run(&s, ref_engine_new("ref-f64", NULL, RESET), Q), run(&s, ref_engine_new("ref-f64", NULL, 0), Q));
        s.doc = NULL;
        w_exact(w_f64, "no documents", s.T * s.H * s.P + n_state(&s),
                run(&s, ref_engine_new("ref-f64", NULL, RESET), Q), run(&s, ref_engine_new("ref-f64", NULL, 0), Q));
    }
}
END_TEST

/* 1.8e-35·NaN is NaN: a cut is proof against what lies before it, a decay is not. */
START_TEST(nan_survives_a_reset)
{
    for (int k = 0; k < 4; ++k) {
        const char *name = k % 2 ? "ref-f32" : "ref-f64";
        const int64_t Q = k / 2 ? 16 : 0;
        scan s = packed(40, 4, 0);
        const int64_t d = s.H * s.P;
        for (int64_t i = 0; i < d; ++i) s.x[15 * d + i] = (double)NAN; /* in the second document */
        const double *cut = run(&s, ref_engine_new(name, NULL, 0), Q);
        const double *reset = run(&s, ref_engine_new(name, NULL, RESET), Q);
        for (int64_t i = 0; i < s.T * d + n_state(&s); ++i) {
            const int64_t t = i / d;
            ck_assert_msg(isnan(cut[i]) == (t == 15 || (t > 15 && t < 20)), "%s, Q %d: cut, token %d", name, (int)Q,
                          (int)t);
            ck_assert_msg(isnan(reset[i]) == (t >= 15), "%s, Q %d: reset, token %d", name, (int)Q, (int)t);
        }
    }
}
END_TEST

/* ---- Falcon-Mamba's scan ---- */

enum { I = 34, N = 6, T = 24, BORDER = 10 };

/* The selective scan over two documents behind another one, a NaN in the first of them at `poisoned` (-1: nowhere); y
 * [T,I], then the state [I,N]. `x` 0: nothing but what is left of the state. */
static double *selective(const char *name, unsigned variants, fh1_fault f, double x, int64_t poisoned)
{
    fh1_engine *e = ref_faulty_engine_new(name, NULL, variants, f);
    int64_t *doc = w_ints(T);
    for (int64_t t = 0; t < T; ++t) doc[t] = 1 + (t >= BORDER);
    double *in = w_normal("x", T * I, x), *A_log = w_normal("A_log", I * N, 0.5), *D = w_normal("D", I, 1);
    double *dt = w_new(T * I);
    for (int64_t i = 0; i < T * I; ++i) dt[i] = 0.001 * (double)(1 + i % 50);
    if (poisoned >= 0) in[poisoned * I] = (double)NAN;
    const fh1_tensor rates = w_store2(FH1_F32, A_log, I, N), skip = w_store(FH1_F32, D, I);
    void *state = w_to(e, w_normal("state", I * N, 1), I * N), *y = w_out(e, T * I);
    const void *B = w_to(e, w_normal("B", T * N, 1), T * N), *C = w_to(e, w_normal("C", T * N, 1), T * N);
    w_fine(e->ops->selective_scan(e, T, I, N, w_to(e, in, T * I), B, C, w_to(e, dt, T * I), &rates, &skip, doc, 0,
                                  state, y));
    double *out = w_new(T * I + I * N);
    fh1_to_f64(out, y, e->dtype, T * I);
    fh1_to_f64(out + T * I, state, e->dtype, I * N);
    e->free(e);
    return out;
}

START_TEST(the_selective_scan_resets_too)
{
    const int64_t n = T * I + I * N;
    for (int silent = 0; silent < 2; ++silent) {
        const double x = silent ? 0 : 1, *cut = selective("ref-f64", 0, FH1_FAULT_NONE, x, -1);
        const double *reset = selective("ref-f64", RESET, FH1_FAULT_NONE, x, -1);
        const double *weak = selective("ref-f64", RESET, FH1_FAULT_DOC_RESET_BY_8, x, -1);
        double gap = 0, weak_gap = 0;
        for (int64_t i = 0; i < n; ++i) {
            gap = fmax(gap, fabs(reset[i] - cut[i]));
            weak_gap = fmax(weak_gap, fabs(weak[i] - cut[i]));
        }
        const double allowed = 1e-30 * largest(w_normal("state", I * N, 1), I * N) * N * 5; /* |C| < 5 */
        ck_assert_msg(fh1_within(gap, allowed) && (gap > 0) == silent, "%g of the state is left", gap);
        ck_assert_msg(!fh1_within(weak_gap, allowed), "-8 is not noticed");
    }
    for (int k = 0; k < 4; ++k) {
        const char *name = k / 2 ? "ref-bf16" : "ref-f32";
        const double *v = selective(name, k % 2 ? RESET : 0, FH1_FAULT_NONE, 1, 3);
        for (int64_t t = 0; t < T; ++t) /* channel 0 */
            ck_assert_msg(isnan(v[t * I]) == (t >= 3 && (t < BORDER || k % 2)), "%s: token %d", name, (int)t);
    }
}
END_TEST

/* ---- what a chunk loses ---- */

static double rms(const double *a, const double *b, int64_t n)
{
    double sum = 0, of = 0;
    for (int64_t i = 0; i < n; ++i) sum += (a[i] - b[i]) * (a[i] - b[i]), of += b[i] * b[i];
    return sqrt(sum / of);
}

typedef struct {
    double ulp;                    /* of Λ at the end of the chunk, f32 */
    double cut, reset;             /* RMS error of y in f32, chunks of 256, over the RMS of y */
    double worst_cut, worst_reset; /* largest error of y over its RMS */
} loss;

enum { CHUNK = 256 };

static double worst(const double *a, const double *b, int64_t n)
{
    double most = 0, of = 0;
    for (int64_t i = 0; i < n; ++i) most = fmax(most, fabs(a[i] - b[i])), of += b[i] * b[i];
    return most / sqrt(of / (double)n);
}

static loss measure(int64_t n_docs)
{
    scan s = packed(CHUNK, n_docs, 0);
    memset(s.D, 0, (size_t)s.H * sizeof *s.D); /* y is what the scan makes of the tokens before */
    s.Dt = w_store(FH1_F32, s.D, s.H);
    const int64_t n = s.T * s.H * s.P;
    const double *truth = run(&s, ref_engine_new("ref-f64", NULL, 0), 0);
    const double *cut = run(&s, ref_engine_new("ref-f32", NULL, 0), CHUNK);
    const double *reset = run(&s, ref_engine_new("ref-f32", NULL, RESET), CHUNK);
    return (loss){.ulp = fh1_dtype_ulp(FH1_F32, 80 * (double)n_docs),
                  .cut = rms(cut, truth, n),
                  .reset = rms(reset, truth, n),
                  .worst_cut = worst(cut, truth, n),
                  .worst_reset = worst(reset, truth, n)};
}

/* A decay inside a document is exp(Λ_t - Λ_s), and each of the k additions between the two rounds Λ by ulp/√12 on
 * average, the ulp that of 80 times the documents before: √(k/12) ulps of a term. A document of n tokens has k < n, the
 * first documents have small sums, and the term of the token itself, k = 0, is exact: so the RMS error of y lies below
 * √(n/12) ulps of the last sum, but not by more than a factor of ten or so. The exact cut loses none of this. */
START_TEST(chunks_lose_an_ulp_of_the_sum)
{
    for (int64_t n_docs = 10; n_docs <= 50; n_docs += 20) {
        const loss l = measure(n_docs);
        const double most = sqrt((double)CHUNK / (double)n_docs / 12) * l.ulp;
        ck_assert_msg(l.reset > most / 20 && l.reset < most, "%d documents: %.3g, an ulp is %.3g", (int)n_docs, l.reset,
                      l.ulp);
        ck_assert_msg(l.reset > 20 * l.cut, "%d documents: %.3g reset, %.3g cut", (int)n_docs, l.reset, l.cut);
    }
}
END_TEST

/* Honest kernels that reset are within the gauge of the variant, and not within that of the exact cut. */
START_TEST(the_gauge_knows)
{
    for (int k = 0; k < 6; ++k) {
        scan s = packed(300, k < 3 ? 10 : 60, RESET), exact;
        if (k % 3 == 2) pack(&s, 1);
        exact = s;
        exact.variants = 0;
        exact.g = g_new(s.T * s.H * s.P), exact.g_state = g_new(n_state(&s)), exact.y = w_new(s.T * s.H * s.P);
        true_scan(FP32, &s, 0, s.T, 256);
        true_scan(FP32, &exact, 0, s.T, 256);
        const result scanned = engine_scan(FP32, "ref-f32", &s, 0), chunked = engine_scan(FP32, "ref-f32", &s, 256);
        const result tree = tree_chunks(&s, (operands){0});
        honest(FP32, "reset, scan", &s, &scanned);
        honest(FP32, "reset, chunks", &s, &chunked);
        honest(FP32, "reset, chunks of sums by a tree", &s, &tree);
        if (k % 3 < 2)
            g_fault(FP32, "-80 per document where a cut was promised", s.T * s.H * s.P, chunked.y, exact.y, &exact.g);
        fh1_engine *e = ref_faulty_engine_new("ref-f32", NULL, RESET, FH1_FAULT_DOC_RESET_BY_8);
        g_fault(FP32, "-8 per document", s.T * s.H * s.P, run(&s, e, 0), s.y, &s.g);
    }
}
END_TEST

START_TEST(table)
{
    static const int64_t docs[] = {1, 2, 5, 10, 25, 50, 100};
    puts("| documents in a chunk of 256 | ulp of the sum | RMS error, cut | RMS error, reset | largest, cut | largest, "
         "reset |\n"
         "|---|---|---|---|---|---|");
    for (size_t i = 0; i < sizeof docs / sizeof *docs; ++i) {
        const loss l = measure(docs[i]);
        printf("| %d | %.1e | %.1e | %.1e | %.1e | %.1e |\n", (int)docs[i], l.ulp, l.cut, l.reset, l.worst_cut,
               l.worst_reset);
    }
}
END_TEST

int main(int argc, char **argv)
{
    const w_test print[] = {table, NULL};
    if (argc == 2 && strcmp(argv[1], "--table") == 0) return w_main("doc_reset", print);
    const w_test tests[] = {equals_the_exact_cut,          one_token_leaves_exp_minus_80,
                            only_between_documents,        nan_survives_a_reset,
                            chunks_lose_an_ulp_of_the_sum, the_gauge_knows,
                            the_selective_scan_resets_too, NULL};
    return w_main("doc_reset", tests);
}
