/* Damaged native files: any flipped bit is detected, by reading and by verification; a cut file, too. The control: the
 * undamaged file passes the same checks, before the damage and after it is undone. */
#include "convert/native_impl.h"
#include "tests/native_fixture.h"

#include <fcntl.h>

static void poke(int fd, size_t at, unsigned char value)
{
    ck_assert_int_eq(pwrite(fd, &value, 1, (off_t)at), 1);
}

/* The bytes 0 to 7 tell a native file from others, so damage there is another file's name for itself. */
static void expect_damage(fh1_status s, fh1_code code, size_t at, int flip, const char *by)
{
    char line[2048];
    ck_assert_msg(s != NULL, "byte %zu with bits %02x flipped: not noticed by %s", at, (unsigned)flip, by);
    fh1_status_line(s, line, sizeof line);
    ck_assert_msg(s->code == code, "byte %zu, %s: code %d: %s", at, by, (int)s->code, line);
}

START_TEST(a_flipped_bit_in_every_byte_of_a_small_file)
{
    char dir[256], path[512];
    size_t n;
    const fh1_stream random = fh1_stream_open(1, "flips");
    path_in(path, sizeof path, scratch_new(dir, sizeof dir), "m.fh1");
    cvt_ckpt *c = small_checkpoint();
    write_native(c, path);
    cvt_ckpt_close(c);
    unsigned char *good = (unsigned char *)read_bytes(dir, "m.fh1", &n);
    ck_assert_uint_lt(n, 8192);
    expect_ok(read_everything(path), "the undamaged file");
    expect_ok(cvt_native_verify(path, NULL), "the undamaged file");
    int fd = open(path, O_RDWR);
    ck_assert_int_ge(fd, 0);
    for (size_t at = 0; at < n; at++) {
        const int flip = 1 << fh1_random_below(random, at, 8);
        poke(fd, at, (unsigned char)(good[at] ^ flip));
        expect_damage(read_everything(path), FH1_E_INPUT, at, flip, "reading");
        expect_damage(cvt_native_verify(path, NULL), at < 8 ? FH1_E_INPUT : FH1_E_WRONG, at, flip, "verify");
        poke(fd, at, good[at]);
    }
    expect_ok(cvt_native_verify(path, NULL), "the restored file");
    close(fd);
    free(good);
    scratch_remove(dir);
}
END_TEST

/* Reads the chunk that holds byte `at` of the file, as a part of its stream. */
static fh1_status read_around(const char *path, uint64_t at)
{
    cvt_ckpt *c;
    const native_header *h;
    char data[8];
    FH1_TRY(cvt_native_open(path, &c));
    const native_index *ix = native_index_of(c, &h);
    int64_t chunk = ix->n_chunks - 1;
    while (chunk > 0 && ix->chunks[chunk].offset > at) chunk--;
    fh1_status s = FH1_BAD("no tensor holds chunk %lld", (long long)chunk);
    for (int64_t i = 0; i < c->n_tensors; i++) {
        const native_stream *st = &ix->streams[c->tensors[i].source];
        if (chunk >= st->first && chunk < st->first + native_chunks_of(st->bytes))
            s = cvt_ckpt_read(c, i, (uint64_t)(chunk - st->first) * NATIVE_CHUNK, 8, data);
    }
    cvt_ckpt_close(c);
    return s;
}

START_TEST(ten_thousand_random_bits_of_a_larger_file)
{
    enum { FLIPS = 10000 };
    char dir[256], path[512];
    size_t n;
    const fh1_stream random = fh1_stream_open(2, "flips");
    path_in(path, sizeof path, scratch_new(dir, sizeof dir), "m.fh1");
    cvt_ckpt *c = memory_new();
    char name[16];
    const int64_t file = add_weight_file(c, "model.safetensors");
    for (int i = 0; i < 40; i++) {
        snprintf(name, sizeof name, "w.%d", i);
        add_weights(c, file, name, i % 8 ? FH1_BF16 : FH1_F32, 2, (const int64_t[]){60 + i, 300});
    }
    memory_done(c);
    write_native(c, path);
    cvt_ckpt_close(c);
    unsigned char *good = (unsigned char *)read_bytes(dir, "m.fh1", &n);
    ck_assert_uint_gt(n, 1000000);
    expect_ok(read_around(path, n / 2), "the undamaged file");
    int fd = open(path, O_RDWR);
    ck_assert_int_ge(fd, 0);
    for (uint64_t i = 0; i < FLIPS; i++) {
        const size_t at = (size_t)fh1_random_below(random, 2 * i, (int64_t)n);
        const int flip = 1 << fh1_random_below(random, 2 * i + 1, 8);
        poke(fd, at, (unsigned char)(good[at] ^ flip));
        expect_damage(read_around(path, at), FH1_E_INPUT, at, flip, "reading");
        if (i % 100 == 0)
            expect_damage(cvt_native_verify(path, NULL), at < 8 ? FH1_E_INPUT : FH1_E_WRONG, at, flip, "verify");
        poke(fd, at, good[at]);
    }
    expect_ok(cvt_native_verify(path, NULL), "the restored file");
    close(fd);
    free(good);
    scratch_remove(dir);
}
END_TEST

START_TEST(cut_and_grown_files)
{
    char dir[256], path[512];
    size_t n;
    path_in(path, sizeof path, scratch_new(dir, sizeof dir), "m.fh1");
    cvt_ckpt *c = small_checkpoint();
    write_native(c, path);
    cvt_ckpt_close(c);
    char *good = read_bytes(dir, "m.fh1", &n);
    for (size_t k = 0; k < n; k++) {
        ck_assert_int_eq(truncate(path, (off_t)(n - 1 - k)), 0);
        expect_error(read_everything(path), FH1_E_INPUT, "m.fh1", "a cut file");
        fh1_status s = cvt_native_verify(path, NULL);
        ck_assert_msg(s && s->code == (n - 1 - k < 64 ? FH1_E_INPUT : FH1_E_WRONG), "cut at %zu", n - 1 - k);
    }
    char *more = calloc(1, n + 64);
    ck_assert_ptr_nonnull(more);
    memcpy(more, good, n);
    write_bytes(dir, "m.fh1", more, n + 1);
    expect_error(cvt_native_verify(path, NULL), FH1_E_WRONG, "something was added", "a byte behind the end");
    write_bytes(dir, "m.fh1", more, n);
    expect_ok(cvt_native_verify(path, NULL), "the restored file");

    /* Cut while it is open: an error, not a signal. */
    cvt_ckpt *back = open_native(path);
    char data[4096];
    ck_assert_int_eq(truncate(path, 100), 0);
    expect_error(cvt_ckpt_read(back, find_tensor(back, "b.weight"), 0, 600, data), FH1_E_INPUT, "changed meanwhile",
                 "a file that is cut while it is read");
    cvt_ckpt_close(back);
    free(more);
    free(good);
    scratch_remove(dir);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {a_flipped_bit_in_every_byte_of_a_small_file,
                                  ten_thousand_random_bits_of_a_larger_file, cut_and_grown_files};
    return run_tests("native_damage", tests, (int)(sizeof tests / sizeof *tests));
}
