/* Backward of ssd_scan, all seven gradients of a loss by y and by the final state. Three judges: the complex step
 * through the closed form, which judges the witness; the witness with its running error bound, which judges ref-f64 and
 * ref-f32; and laws: documents packed and apart, threads, what is not wanted, what is added to. */
#include "reference/faulty.h"
#include "tests/bwd_scan_witness.h"

static const int64_t docs[12] = {2, 2, 2, 2, 5, 6, 6, 6, 6, 6, 6, 6};

/* Every element at tiny shapes; long double gives the step 1e-18 of the sum of absolute terms, which err/units is near.
 */
START_TEST(the_witness_is_right)
{
    static const int64_t shape[][5] = {{1, 2, 2, 3, 1}, {3, 4, 1, 2, 2}, {5, 4, 2, 3, 4}, {12, 2, 1, 2, 1}};
    for (int k = 0; k < 8; ++k) {
        const int64_t *s = shape[k / 2];
        scan_input a = scan_make(s[0], s[1], s[2], s[3], s[4]);
        if (k % 2) a.doc = docs, a.state_doc = 2;
        if (k == 4) a.dstate_out = NULL;
        if (k == 5) a.state_doc = 1; /* the initial state is another document's */
        const int64_t n = scan_at(&a, S_PARTS);
        double *out = w_new(n), *gauge = w_new(n);
        scan_witness(&a, out, gauge);
        for (int64_t i = 0; i < n; ++i) {
            const double want = (double)scan_slope(&a, i);
            ck_assert_msg(fabs(out[i] - want) <= 0x1p-52 * gauge[i], "case %d, element %lld: %.17g, complex step %.17g",
                          k, (long long)i, out[i], want);
        }
    }
}
END_TEST

static void judge(const char *what, const scan_input *a)
{
    const int64_t n = scan_at(a, S_PARTS);
    double *want = w_new(n), *gauge = w_new(n), *f64 = scan_run(w_f64, a), *f32 = scan_run(w_f32, a);
    scan_witness(a, want, gauge);
    for (int part = 0; part < S_PARTS; ++part) {
        const int64_t at = scan_at(a, part), size = scan_size(a, part);
        char *name = w_bytes(96);
        snprintf(name, 96, "%s: %s", what, scan_part[part]);
        w_accepts(w_f64, name, size, f64 + at, want + at, gauge + at);
        w_accepts(w_f32, name, size, f32 + at, want + at, gauge + at);
    }
    w_exact(w_bf16, "a backward has no rounding points", n, scan_run(w_bf16, a), f32);
}

/* T around the chunk of 16 and the partial sum of 64, N below, at and above the vectors' 16 and 32. */
START_TEST(agrees_with_the_witness)
{
    static const int64_t shape[][5] = {{1, 1, 1, 1, 1},   {1, 6, 3, 33, 3},  {3, 4, 5, 16, 2},
                                       {15, 3, 1, 17, 1}, {16, 6, 7, 31, 2}, {17, 4, 2, 64, 4},
                                       {37, 8, 3, 5, 2},  {65, 2, 2, 40, 1}, {129, 4, 1, 8, 4}};
    for (int k = 0; k < 9; ++k) {
        const int64_t *s = shape[k];
        const scan_input a = scan_make(s[0], s[1], s[2], s[3], s[4]);
        judge("shapes", &a);
    }
}
END_TEST

/* Segments: T above 512, and 1029 with P so large that they are longer than 512. */
START_TEST(segments_meet)
{
    const scan_input a = scan_make(1029, 2, 1, 4, 1), b = scan_make(1029, 1, 520, 1, 1);
    judge("three segments", &a);
    judge("two longer segments", &b);
    const scan_input c = scan_make(20011, 1, 2, 2, 1);
    judge("40 segments", &c);
}
END_TEST

START_TEST(documents)
{
    int64_t *doc = w_ints(600);
    for (int64_t t = 0; t < 600; ++t) doc[t] = t / 7 + (t > 100) + (t > 511); /* begins at every place of a chunk */
    for (int k = 0; k < 4; ++k) {
        scan_input a = scan_make(k < 2 ? 12 : 600, 4, 2, k < 2 ? 20 : 3, 2);
        a.doc = k < 2 ? docs : doc;
        a.state_doc = k % 2 ? doc[0] - 1 : a.doc[0];
        judge(k % 2 ? "state of another document" : "state of the first document", &a);
    }
}
END_TEST

/* A packed sequence is its documents one after another: gradients of each alone to the bit, those of parameters their
 * sum. What lies in another document, NaN or not, is not seen. */
START_TEST(documents_do_not_meet)
{
    static const int64_t begin[] = {0, 4, 5, 12};
    scan_input a = scan_make(12, 4, 5, 35, 2);
    a.doc = docs, a.state_doc = -1, a.dstate_out = NULL;
    for (int64_t i = 0; i < scan_size(&a, S_STATE); ++i) a.state[i] = (double)NAN;
    const double *packed = scan_run(w_f32, &a);
    for (int i = 0; i < 3; ++i) {
        scan_input solo = a;
        solo.T = begin[i + 1] - begin[i];
        solo.x += begin[i] * 20, solo.dy += begin[i] * 20, solo.dt += begin[i] * 4;
        solo.B += begin[i] * 70, solo.C += begin[i] * 70, solo.doc = NULL;
        solo.state = w_fill(4 * 5 * 35, 0);
        const double *alone = scan_run(w_f32, &solo);
        static const int64_t per_token[] = {20, 70, 70, 4};
        for (int part = S_X; part <= S_DT; ++part)
            w_exact(w_f32, scan_part[part], scan_size(&solo, part),
                    packed + scan_at(&a, part) + begin[i] * per_token[part], alone + scan_at(&solo, part));
    }
    for (int64_t i = 0; i < 4 * 5 * 35; ++i) ck_assert(packed[scan_at(&a, S_STATE) + i] == 0);
}
END_TEST

START_TEST(threads_change_nothing)
{
    scan_input a = scan_make(700, 6, 2, 21, 3);
    fh1_set_threads(1);
    const double *one = scan_run(w_f32, &a);
    fh1_set_threads(3);
    w_exact(w_f32, "three threads", scan_at(&a, S_PARTS), scan_run(w_f32, &a), one);
    fh1_set_threads(0);
}
END_TEST

/* Parameters are added to, whatever is NULL is not computed and changes nothing else; T = 0 hands the state's on. */
START_TEST(what_is_wanted)
{
    scan_input a = scan_make(20, 4, 3, 5, 2);
    const double *all = scan_run(w_f64, &a);
    double *dA = w_fill(4, 0), *dD = w_fill(4, 0), *dC = w_new(scan_size(&a, S_C)), *before = w_new(60);
    for (int i = 0; i < 2; ++i)
        w_fine(w_f64->bwd_ops->ssd_scan(w_f64, 20, 4, 3, 5, 2, a.x, a.B, a.C, a.dt, &a.At, &a.Dt, NULL, 0, a.state,
                                        a.dy, a.dstate_out, NULL, NULL, i ? dC : NULL, NULL, i ? dA : NULL, dD, NULL));
    w_exact(w_f64, "dC alone", scan_size(&a, S_C), dC, all + scan_at(&a, S_C));
    w_exact(w_f64, "dA_log alone", 4, dA, all + scan_at(&a, S_A_LOG));
    for (int64_t h = 0; h < 4; ++h) ck_assert(dD[h] == 2 * all[scan_at(&a, S_D) + h]);
    w_fine(w_f64->bwd_ops->ssd_scan(w_f64, 0, 4, 3, 5, 2, a.x, a.B, a.C, a.dt, &a.At, &a.Dt, NULL, 0, a.state, a.dy,
                                    a.dstate_out, NULL, NULL, NULL, NULL, dA, dD, before));
    w_exact(w_f64, "no tokens", 60, before, a.dstate_out);
    w_exact(w_f64, "no tokens, dA_log", 4, dA, all + scan_at(&a, S_A_LOG));
}
END_TEST

/* Every planted fault of the scan is out of bounds in one of two ordinary calls, in both precisions. */
START_TEST(faults_are_rejected)
{
    scan_input calls[] = {scan_make(21, 4, 2, 5, 2), scan_make(21, 4, 2, 5, 2)};
    int64_t *doc = w_ints(21);
    for (int64_t t = 0; t < 21; ++t) doc[t] = t / 5;
    calls[1].doc = doc;
    const int64_t n = scan_at(&calls[0], S_PARTS);
    double *want[2], *gauge[2];
    for (int i = 0; i < 2; ++i) scan_witness(&calls[i], want[i] = w_new(n), gauge[i] = w_new(n));
    for (int f = FH1_FAULT_NONE + 1; f < FH1_FAULT_COUNT; ++f) {
        const fh1_fault_info *info = fh1_fault_get((fh1_fault)f);
        if (strcmp(info->op, "ssd_scan") != 0 || strncmp(info->name, "grad_", 5) != 0) continue;
        for (int k = 0; k < 2; ++k) {
            fh1_engine *e = ref_faulty_engine_new(k ? "ref-f32" : "ref-f64", NULL, 0, (fh1_fault)f);
            bool seen = false;
            for (int i = 0; i < 2; ++i)
                seen = !w_judge(e, n, scan_run(e, &calls[i]), want[i], gauge[i], FH1_F64).ok || seen;
            ck_assert_msg(seen, "the fault '%s' passes unseen (%s)", info->name, e->name);
            e->free(e);
        }
    }
}
END_TEST

int main(void)
{
    const w_test tests[] = {
        the_witness_is_right,   agrees_with_the_witness, segments_meet,       documents, documents_do_not_meet,
        threads_change_nothing, what_is_wanted,          faults_are_rejected, NULL};
    return w_main("ssd_scan backward", tests);
}
