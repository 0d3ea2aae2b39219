/* Native files, `.fh1`.
 *
 * What opens, its tables and every byte that comes out are what the second reading says; `verify` is content where all
 * that decodes has the hashes of the index; what is sound is written again and opens to the same, and written a second
 * time it is the same file. */
#include "convert/native_impl.h"
#include "fuzz/fuzz.h"
#include "fuzz/mutate_native.h"
#include "fuzz/plant.h"
#include "fuzz/slow_native.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

/* Heap: the index as it decompresses, at most 256 times its size in the file; its JSON (fuzz_config.c: 100 bytes for
 * one); a header of safetensors likewise, by what the index says of it; a reader (a chunk as it lies in the file, one
 * decoded, its planes, zstd's tables) and verify's slots: four for the one thread, of two chunks each. */
enum { OPEN = 4 << 20, OPEN_PER_BYTE = 110, VERIFY = 13 << 20, MS = 20, MS_PER_KB = 4, MOST_DECODED = 4 << 20 };

static const char *path;

static void line_of(fh1_status s, char line[2048])
{
    line[0] = '\0';
    if (s) fh1_status_line(s, line, 2048);
}

static void reopen(void *unused)
{
    cvt_ckpt *c;
    (void)unused;
    cvt_native_open(path, &c);
    cvt_ckpt_close(c);
}

/* ---- tables and bytes ---- */

static void compare_files(const cvt_ckpt *c, const slow_native *s)
{
    FUZZ_CHECK((size_t)c->n_files == s->n_files, "%lld files, not %zu", (long long)c->n_files, s->n_files);
    for (size_t i = 0; i < s->n_files; i++) {
        const cvt_ckpt_file *a = &c->files[i];
        const slow_native_file *b = &s->files[i];
        FUZZ_CHECK(strcmp(a->name, b->name) == 0 && a->weights == b->weights && a->bytes == (uint64_t)b->bytes &&
                       a->header_bytes == (uint64_t)(b->weights ? b->header_bytes : 0) + fuzz_planted("file"),
                   "the file '%s' is another one", b->name);
    }
}

static int64_t find(const cvt_ckpt *c, const slow_native_tensor *t)
{
    const int64_t i = cvt_ckpt_find(c, t->name);
    FUZZ_CHECK(i >= 0, "there is no tensor '%s'", t->name);
    const cvt_ckpt_tensor *a = &c->tensors[i];
    bool same = strcmp(fh1_dtype_name(a->dtype), t->dtype) == 0 && a->rank == t->rank && (size_t)a->file == t->file &&
                a->begin == (uint64_t)t->begin;
    for (int k = 0; k < t->rank && same; k++) same = a->shape[k] == t->shape[k];
    FUZZ_CHECK(same && cvt_ckpt_tensor_bytes(a) == (uint64_t)t->bytes, "the tensor '%s' is another one", t->name);
    return i;
}

/* All of it, then a part that begins and ends anywhere. */
static void compare_tensor(cvt_ckpt *c, const slow_native *s, const slow_native_tensor *t)
{
    const uint64_t n = (uint64_t)t->bytes;
    const int64_t i = find(c, t);
    unsigned char *has = malloc(n + 1);
    uint8_t *want = slow_native_bytes(s, t->chunk, t->bytes);
    char line[2048];
    fh1_status e = cvt_ckpt_read(c, i, 0, n, has);
    line_of(e, line);
    FUZZ_CHECK(!e == (want != NULL), "'%s' %s: %s", t->name, want ? "is sound" : "is damaged", line);
    if (want) {
        FUZZ_CHECK(memcmp(has, want, n) == 0, "other bytes of '%s'", t->name);
        const uint64_t first = n ? XXH3_64bits(want, n) % n : 0, part = (n - first) / 2;
        FUZZ_CHECK(!cvt_ckpt_read(c, i, first, part, has) && memcmp(has, want + first, part) == 0,
                   "other bytes in the middle of '%s'", t->name);
    }
    free(has);
    free(want);
}

static void compare_file(cvt_ckpt *c, const slow_native *s, size_t i)
{
    const slow_native_file *f = &s->files[i];
    const int64_t n = f->weights ? f->header_bytes : f->bytes;
    uint8_t *want = slow_native_bytes(s, f->chunk, n);
    unsigned char *has = malloc((size_t)n + 1);
    if (f->weights) {
        FUZZ_CHECK(want && memcmp(c->files[i].header, want, (size_t)n) == 0, "another header of '%s'", f->name);
    } else {
        fh1_status e = cvt_ckpt_read_file(c, (int64_t)i, 0, (uint64_t)n, has);
        FUZZ_CHECK(!e == (want != NULL), "'%s' %s", f->name, want ? "is sound" : "is damaged");
        if (want) FUZZ_CHECK(memcmp(has, want, (size_t)n) == 0, "other bytes of '%s'", f->name);
    }
    free(has);
    free(want);
}

static void compare_all(cvt_ckpt *c, const slow_native *s)
{
    compare_files(c, s);
    FUZZ_CHECK((size_t)c->n_tensors == s->n_tensors, "%lld tensors, not %zu", (long long)c->n_tensors, s->n_tensors);
    if (s->decoded > MOST_DECODED) return;
    for (size_t i = 0; i < s->n_files; i++) compare_file(c, s, i);
    for (size_t i = 0; i < s->n_tensors; i++) compare_tensor(c, s, &s->tensors[i]);
}

/* ---- written again ---- */

static const char *folder(void)
{
    static char name[] = "/dev/shm/fuzz_native.XXXXXX";
    static bool made;
    if (!made && !mkdtemp(name)) {
        memcpy(name, "/tmp/fuzz_native.XXXXXX", 24);
        if (!mkdtemp(name)) abort();
    }
    made = true;
    return name;
}

static void remove_folder(void)
{
    rmdir(folder());
}

/* The bytes of what fh1 writes, malloc'ed. */
static void *written(cvt_ckpt *c, size_t *n)
{
    static bool registered;
    char name[64], line[2048];
    const cvt_write_options o = {.force = true};
    if (!registered) atexit(remove_folder);
    registered = true;
    snprintf(name, sizeof name, "%s/m.fh1", folder());
    fh1_status s = cvt_native_write(c, name, &o);
    line_of(s, line);
    FUZZ_CHECK(!s, "what opens cannot be written: %s", line);
    void *data = fuzz_read(name, n);
    unlink(name);
    return data;
}

static void write_again(cvt_ckpt *c, const slow_native *s)
{
    size_t n, m;
    cvt_ckpt *d, *e;
    slow_native t;
    uint8_t *first = written(c, &n);
    FUZZ_CHECK(!cvt_native_open(fuzz_file(1, first, n), &d), "what is written does not open");
    compare_all(d, s);
    uint8_t *second = written(d, &m); /* from a file of another name */
    cvt_ckpt_close(d);
    FUZZ_CHECK(!cvt_native_open(fuzz_file(1, second, m), &e), "what is written twice does not open");
    uint8_t *third = written(e, &n);
    cvt_ckpt_close(e);
    if (fuzz_planted("same")) third[n / 2]++;
    FUZZ_CHECK(n == m && memcmp(second, third, n) == 0, "the same model is written as another file");
    FUZZ_CHECK(slow_native_read(third, n, &t) == SLOW_NATIVE_GOOD && slow_native_sound(&t),
               "what is written is not sound");
    slow_native_free(&t);
    free(first);
    free(second);
    free(third);
}

/* ---- the whole ---- */

/* Of index and headers, as far as the file may say so: what memory may follow. */
static size_t unpacked(const uint8_t *data, size_t size, const slow_native *s)
{
    uint64_t n = 0;
    if (size >= 64) memcpy(&n, data + 40, 8);
    if (n > 256 * (uint64_t)size) n = 256 * (uint64_t)size;
    for (size_t i = 0; i < s->n_files; i++) n += (uint64_t)s->files[i].header_bytes;
    return size + (size_t)n;
}

static void check_verify(const slow_native *s, slow_native_verdict v, const char *opening)
{
    char line[2048];
    fuzz_bounds b;
    fuzz_bounds_begin(&b);
    fh1_status e = cvt_native_verify(path, NULL);
    fuzz_bounds_end(&b, unpacked(s->data, s->size, s) + s->decoded, VERIFY, OPEN_PER_BYTE, MS, MS_PER_KB, NULL, NULL);
    line_of(e, line);
    const fh1_code want = v == SLOW_NATIVE_OTHER                          ? FH1_E_INPUT
                          : v == SLOW_NATIVE_BAD || !slow_native_sound(s) ? FH1_E_WRONG
                                                                          : FH1_OK;
    FUZZ_CHECK((e ? e->code : FH1_OK) == want, "verify ends with %d, not %d: %s", e ? (int)e->code : 0, (int)want,
               line);
    if (v != SLOW_NATIVE_GOOD) FUZZ_CHECK(strcmp(line, opening) == 0, "opening says '%s', verify '%s'", opening, line);
}

/* What is made once is made: threads, tables of zstd, the room of messages. */
static void warm_up(void)
{
    static bool done;
    cvt_ckpt *c;
    if (done) return;
    done = true;
    setenv("FH1_THREADS", "1", 0);
    slow_json_without = getenv("FH1_FUZZ_PLANT");
    cvt_native_open("/proc/self/fd", &c);
}

static void open_again(const char *first)
{
    cvt_ckpt *c;
    char line[2048];
    fh1_status s = cvt_native_open(path, &c);
    line_of(s, line);
    cvt_ckpt_close(c);
    FUZZ_CHECK(strcmp(line, first) == 0, "'%s', then '%s'", first, line);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    cvt_ckpt *c;
    slow_native s;
    fuzz_bounds b;
    char line[2048];
    const uint64_t draw = XXH3_64bits(data, size); /* what costs more is checked on a part of the inputs */
    warm_up();
    path = fuzz_file(0, data, size);
    const slow_native_verdict v = slow_native_read(data, size, &s);
    const bool small = s.decoded <= MOST_DECODED;
    fuzz_bounds_begin(&b);
    fh1_status e = cvt_native_open(path, &c);
    fuzz_bounds_end(&b, unpacked(data, size, &s), OPEN, OPEN_PER_BYTE, MS, MS_PER_KB, reopen, NULL);
    line_of(e, line);
    FUZZ_CHECK((v == SLOW_NATIVE_GOOD) == !e, "the second reading %s it: %s", e ? "takes" : "refuses", line);
    if (!e) compare_all(c, &s);
    if (draw % 4 == 0) open_again(line);
    if (draw % 4 == 1 && small) check_verify(&s, v, line);
    if (draw % 16 == 2 && small && !e && slow_native_sound(&s)) write_again(c, &s);
    cvt_ckpt_close(c);
    fuzz_nothing_left(&b);
    slow_native_free(&s);
    return 0;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned int seed)
{
    fuzz_rng r = {(uint64_t)seed << 20 | (size + 1)};
    return fuzz_mutate_native(data, size, max_size, &r);
}
