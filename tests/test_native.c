/* The native container: everything comes back byte for byte, in any order, whatever the type, the size and the number
 * of threads. The planted faults: one byte that differs, planes in the wrong order, rows that are off by one, another
 * input that would have to give the same bytes. */
#include "convert/native_impl.h"
#include "oracle/thread.h"
#include "tests/native_fixture.h"

/* Tensors of all types in shapes around the edges of chunks, and side files of all kinds. */
static cvt_ckpt *large_checkpoint(void)
{
    static const int64_t lengths[] = {1, 7, 511, MIB / 2, MIB / 2 + 1, MIB / 2 - 1, 3 * MIB / 2 + 12};
    cvt_ckpt *c = memory_new();
    char *blob = malloc((size_t)(5 * MIB / 2)), name[64];
    ck_assert_ptr_nonnull(blob);
    for (int64_t i = 0; i < 5 * MIB / 2; i++) blob[i] = (char)(i % 251 * (i / MIB + 1) % 97);
    add_side_file(c, "config.json", "{}", 2);
    add_side_file(c, "tokenizer.json", blob, (size_t)(5 * MIB / 2));
    add_side_file(c, "a/b/exactly one chunk", blob, (size_t)MIB);
    add_side_file(c, "a/b.txt", "", 0);
    add_side_file(c, "z\xc3\xa9\n\"name\"", "x", 1);
    add_side_file(c, "caf\xe9", "a name that is not UTF-8", 24);
    free(blob);
    const int64_t file = add_weight_file(c, "model.safetensors"), more = add_weight_file(c, "b/more.safetensors");
    for (int t = 0; t < FH1_FILE_DTYPES; t++)
        add_weights(c, more, fh1_dtype_name((fh1_dtype)t), (fh1_dtype)t, 2, (const int64_t[]){3, 40});
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        snprintf(name, sizeof name, "bf16.%zu", i);
        add_weights(c, file, name, FH1_BF16, 1, &lengths[i]);
        snprintf(name, sizeof name, "f16.%zu", i);
        add_weights(c, more, name, FH1_F16, 2, (const int64_t[]){lengths[i], 1});
    }
    add_weights(c, file, "f32", FH1_F32, 2, (const int64_t[]){300, 1001});
    add_weights(c, file, "u8", FH1_U8, 1, (const int64_t[]){MIB + 1});
    add_weights(c, file, "none", FH1_F16, 3, (const int64_t[]){4, 0, 9});
    add_weights(c, file, "scalar", FH1_BF16, 0, NULL);
    return memory_done(c);
}

START_TEST(everything_comes_back)
{
    char dir[256], path[512];
    path_in(path, sizeof path, scratch_new(dir, sizeof dir), "m.fh1");
    cvt_ckpt *c = large_checkpoint();
    write_native(c, path);
    cvt_ckpt *back = open_native(path);
    const char *difference = first_difference(back, c);
    ck_assert_msg(!difference, "%s differs", difference);
    ck_assert_str_eq(cvt_ckpt_meta(back, "format"), "pt");
    expect_ok(cvt_native_verify(path, NULL), path);

    /* planted: one byte of one tensor */
    memory_state *m = c->state;
    const int64_t t = find_tensor(c, "bf16.6");
    m->data[c->tensors[t].source][2 * MIB + 3] ^= 1;
    ck_assert_str_eq(first_difference(back, c), "bf16.6");
    cvt_ckpt_close(back);
    cvt_ckpt_close(c);
    scratch_remove(dir);
}
END_TEST

/* All values of a 16-bit type, NaN payloads, infinities, subnormals and both zeros among them. */
START_TEST(every_pattern_of_sixteen_bits)
{
    enum { N = 65536 };
    unsigned char *raw = malloc(8 * N), *high = malloc(N), *low = malloc(N), *out = malloc(NATIVE_SPAN_MAX);
    unsigned char *back = malloc(8 * N);
    native_lane *lane;
    native_chunk k = {0};
    ck_assert(raw && high && low && out && back);
    for (int i = 0; i < N; i++) {
        raw[2 * i] = (unsigned char)i;
        raw[2 * i + 1] = (unsigned char)(i >> 8);
    }
    for (size_t n = N - 200; n <= N; n += 40) { /* tails of the vector loop, too */
        native_split_high(raw, high, n);
        native_split_low(raw, low, n);
        for (size_t i = 0; i < n; i++) {
            ck_assert_uint_eq(high[i], i >> 7 & 0xff);
            ck_assert_uint_eq(low[i], (i >> 15) << 7 | (i & 0x7f));
        }
        native_join(high, low, back, n);
        ck_assert_int_eq(memcmp(back, raw, 2 * n), 0);
        native_join(low, high, back, n); /* planted: the planes in the wrong order */
        ck_assert_int_ne(memcmp(back, raw, 2 * n), 0);
    }
    fill_weights(raw + 2 * N, FH1_BF16, 3 * N, 6 * N, 1); /* among others, or the exponents would not shrink */
    expect_ok(native_lane_new(&lane), "a lane");
    expect_ok(native_encode(lane, raw, 8 * N, true, out, &k), "encoding");
    ck_assert_uint_eq(k.layout, NATIVE_SPLIT16);
    expect_ok(native_decode(lane, &k, out, back), "decoding");
    ck_assert_int_eq(memcmp(back, raw, 8 * N), 0);
    native_lane_free(lane);
    free(raw);
    free(high);
    free(low);
    free(out);
    free(back);
}
END_TEST

typedef struct {
    cvt_ckpt *back;
    const unsigned char *want;
    int64_t t, off; /* off: the planted fault */
    int wrong[256];
} row_reads;

/* Rows anywhere, one to some hundred at once. */
static void read_some_rows(void *ctx, int64_t begin, int64_t end, int thread)
{
    row_reads *r = ctx;
    const cvt_ckpt_tensor *t = &r->back->tensors[r->t];
    const int64_t rows = cvt_ckpt_rows(t);
    const uint64_t width = cvt_ckpt_row_bytes(t);
    const fh1_stream s = fh1_stream_open(5, "rows");
    for (int64_t i = begin; i < end; i++) {
        const int64_t first = fh1_random_below(s, (uint64_t)(2 * i), rows - 1 - r->off);
        int64_t n = 1 + fh1_random_below(s, (uint64_t)(2 * i + 1), i % 5 == 0 ? 400 : 3);
        if (n > rows - first - r->off) n = rows - first - r->off;
        unsigned char *got = malloc((size_t)n * width);
        bool bad = !got || cvt_ckpt_read_rows(r->back, r->t, first + r->off, n, got) ||
                   memcmp(got, r->want + (uint64_t)first * width, (size_t)n * width) != 0;
        free(got);
        r->wrong[thread % 256] += bad;
    }
}

static int wrong_rows(cvt_ckpt *c, cvt_ckpt *back, const char *name, int64_t off)
{
    row_reads r = {.back = back, .t = find_tensor(c, name), .off = off};
    r.want = ((memory_state *)c->state)->data[c->tensors[r.t].source];
    fh1_parallel_for(300, 4, read_some_rows, &r);
    int n = 0;
    for (int i = 0; i < 256; i++) n += r.wrong[i];
    return n;
}

START_TEST(rows_in_any_order_by_several_threads)
{
    char dir[256], path[512];
    path_in(path, sizeof path, scratch_new(dir, sizeof dir), "m.fh1");
    cvt_ckpt *c = memory_new();
    const int64_t file = add_weight_file(c, "model.safetensors");
    add_weights(c, file, "bf16", FH1_BF16, 2, (const int64_t[]){3001, 601}); /* rows across the edges of chunks */
    add_weights(c, file, "f32", FH1_F32, 2, (const int64_t[]){1001, 333});
    memory_done(c);
    write_native(c, path);
    cvt_ckpt *back = open_native(path);
    fh1_set_threads(4);
    ck_assert_int_eq(wrong_rows(c, back, "bf16", 0), 0);
    ck_assert_int_eq(wrong_rows(c, back, "f32", 0), 0);
    ck_assert_int_eq(wrong_rows(c, back, "bf16", 1), 300); /* planted: the row behind */
    fh1_set_threads(0);

    unsigned char part[100];
    const int64_t t = find_tensor(back, "bf16");
    const uint64_t size = cvt_ckpt_tensor_bytes(&back->tensors[t]), at[] = {0, (uint64_t)MIB - 50, size - 100};
    for (int i = 0; i < 3; i++) {
        expect_ok(cvt_ckpt_read(back, t, at[i], 100, part), "a range of bytes");
        ck_assert_int_eq(memcmp(part, ((memory_state *)c->state)->data[0] + at[i], 100), 0);
    }
    expect_error(cvt_ckpt_read(back, t, size - 99, 100, part), FH1_E_INTERNAL, "outside", "a range beyond the end");
    cvt_ckpt_close(back);
    cvt_ckpt_close(c);
    scratch_remove(dir);
}
END_TEST

START_TEST(the_bytes_do_not_depend_on_threads)
{
    char dir[256], path[512], *first = NULL;
    size_t n_first = 0, n;
    path_in(path, sizeof path, scratch_new(dir, sizeof dir), "m.fh1");
    cvt_ckpt *c = large_checkpoint();
    for (int threads = 1; threads <= 5; threads += 2) {
        fh1_set_threads(threads);
        write_native(c, path);
        char *now = read_bytes(dir, "m.fh1", &n);
        ck_assert(!first || (n == n_first && memcmp(now, first, n) == 0));
        if (first) free(now);
        else first = now, n_first = n;
    }
    fh1_set_threads(0);
    /* planted: the last bit of another input */
    ((memory_state *)c->state)->data[c->tensors[find_tensor(c, "u8")].source][MIB] ^= 1;
    write_native(c, path);
    char *now = read_bytes(dir, "m.fh1", &n);
    ck_assert(n != n_first || memcmp(now, first, n) != 0);
    free(now);
    free(first);
    cvt_ckpt_close(c);
    scratch_remove(dir);
}
END_TEST

/* The size of n elements in the file, as a share of theirs in memory. */
static double share(fh1_dtype stored_as, bool constant)
{
    char dir[256], path[512];
    cvt_native_facts facts, none;
    path_in(path, sizeof path, scratch_new(dir, sizeof dir), "m.fh1");
    cvt_ckpt *c = memory_new();
    add_weights(c, add_weight_file(c, "model.safetensors"), "w", stored_as, 1, (const int64_t[]){2 * MIB});
    unsigned char *data = ((memory_state *)c->state)->data[0];
    fill_weights(data, FH1_BF16, 2 * MIB, 4 * (uint64_t)MIB, 1);
    for (int64_t i = 2; constant && i < 4 * MIB; i++) data[i] = data[i - 2];
    memory_done(c);
    write_native(c, path);
    cvt_ckpt *back = open_native(path);
    ck_assert_ptr_null(first_difference(back, c));
    expect_ok(cvt_native_info(back, &facts), path);
    ck_assert_int_eq(facts.chunks, 5); /* 4 and the header */
    ck_assert_int_eq(facts.major, 1);
    ck_assert_ptr_nonnull(strstr(facts.provenance, "\"tool\":\"fh1 "));
    expect_error(cvt_native_info(c, &none), FH1_E_INPUT, "not a native file", "facts of another checkpoint");
    cvt_ckpt_close(back);
    cvt_ckpt_close(c);
    scratch_remove(dir);
    return (double)facts.file_bytes / (4.0 * (double)MIB);
}

START_TEST(trained_weights_shrink)
{
    const double split = share(FH1_BF16, false);
    ck_assert_msg(split < 0.665, "%.4f of the bytes", split);
    /* planted: the same bytes as integers, which are not split */
    const double plain = share(FH1_U16, false);
    ck_assert_msg(plain > 0.7, "%.4f of the bytes", plain);
    ck_assert(share(FH1_BF16, true) < 0.01); /* constant ones shrink in both planes */
}
END_TEST

START_TEST(views_are_written_as_they_read)
{
    char dir[256], path[512];
    path_in(path, sizeof path, scratch_new(dir, sizeof dir), "m.fh1");
    cvt_ckpt *c = memory_new(), *cast, *edited;
    add_side_file(c, "config.json", "{\"model_type\": \"falcon_h1\", \"dtype\": \"float32\"}", 47);
    const int64_t file = add_weight_file(c, "model.safetensors");
    add_weights(c, file, "a", FH1_F32, 2, (const int64_t[]){700, 513});
    add_weights(c, file, "b", FH1_F16, 1, (const int64_t[]){99});
    memory_done(c);
    expect_ok(cvt_ckpt_cast(c, FH1_BF16, &cast), "a cast");
    write_native(cast, path);
    cvt_ckpt *back = open_native(path);
    ck_assert_ptr_null(first_difference(back, cast));
    ck_assert_int_eq(back->tensors[0].dtype, FH1_BF16);

    /* A view of the native file: written, it has the other config and the same tensors. */
    expect_ok(cvt_ckpt_view(back, &edited), "a view");
    expect_ok(cvt_ckpt_set_file(edited, "config.json", "{}", 2), "an edit");
    path_in(path, sizeof path, dir, "edited.fh1");
    write_native(edited, path);
    cvt_ckpt *again = open_native(path);
    ck_assert_ptr_null(first_difference(again, edited));
    ck_assert_str_eq(first_difference(again, cast), "config.json"); /* planted: the edit must show */
    cvt_ckpt_close(again);
    cvt_ckpt_close(edited);
    cvt_ckpt_close(cast);
    scratch_remove(dir);
}
END_TEST

static fh1_status stop_half_way(void *user, uint64_t done, uint64_t total)
{
    uint64_t *last = user;
    ck_assert(done >= *last && done <= total);
    *last = done;
    return done > total / 2 ? FH1_BAD("stopped half way") : NULL;
}

static fh1_status count_steps(void *user, uint64_t done, uint64_t total)
{
    uint64_t *last = user;
    ck_assert(done >= *last && done <= total);
    *last = done;
    return NULL;
}

START_TEST(a_target_appears_whole_or_not_at_all)
{
    char dir[256], path[512];
    uint64_t done = 0;
    path_in(path, sizeof path, scratch_new(dir, sizeof dir), "m.fh1");
    cvt_ckpt *c = large_checkpoint();
    const cvt_progress stop = {&done, stop_half_way}, count = {&done, count_steps};
    const cvt_write_options stopped = {.progress = &stop}, counted = {.progress = &count}, again = {.force = false};
    expect_error(cvt_native_write(c, path, &stopped), FH1_E_INPUT, "stopped half way", "an interrupted writer");
    ck_assert_int_eq(count_entries(dir), 0);
    done = 0;
    expect_ok(cvt_native_write(c, path, &counted), path);
    ck_assert_uint_eq(done, cvt_ckpt_total_bytes(c));
    expect_error(cvt_native_write(c, path, &again), FH1_E_INPUT, "exists", "a target that is there");
    ck_assert_int_eq(count_entries(dir), 1);
    done = 0;
    expect_ok(cvt_native_verify(path, &count), path);
    ck_assert_uint_eq(done, cvt_ckpt_total_bytes(c));
    done = 0; /* an interrupted verifier does not call the file damaged */
    expect_error(cvt_native_verify(path, &stop), FH1_E_INPUT, "stopped half way", "an interrupted verifier");
    cvt_ckpt_close(c);
    scratch_remove(dir);
}
END_TEST

/* The source must still be what it was when the work ends, or nothing is written. */
START_TEST(a_source_that_changed_is_noticed)
{
    char dir[256], path[512], target[512];
    const cvt_write_options o = {.force = false};
    path_in(path, sizeof path, scratch_new(dir, sizeof dir), "m.fh1");
    path_in(target, sizeof target, dir, "n.fh1");
    cvt_ckpt *c = small_checkpoint();
    write_native(c, path);
    cvt_ckpt *back = open_native(path);
    expect_ok(cvt_ckpt_unchanged(back), "nothing has happened");
    write_native(c, path); /* planted: the same bytes in another file */
    expect_error(cvt_native_write(back, target, &o), FH1_E_INPUT, "changed or replaced", "a replaced source");
    ck_assert_int_eq(count_entries(dir), 1);
    cvt_ckpt_close(back);
    cvt_ckpt_close(c);
    scratch_remove(dir);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {everything_comes_back,
                                  every_pattern_of_sixteen_bits,
                                  rows_in_any_order_by_several_threads,
                                  the_bytes_do_not_depend_on_threads,
                                  trained_weights_shrink,
                                  views_are_written_as_they_read,
                                  a_target_appears_whole_or_not_at_all,
                                  a_source_that_changed_is_noticed};
    return run_tests("native", tests, (int)(sizeof tests / sizeof *tests));
}
