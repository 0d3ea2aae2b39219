/* The GGUF container: what the writer writes, a plain second reader finds; what is damaged, the strict reader refuses
 * with the place and the reason. The damages are the planted faults, each made in a file that is accepted without it.
 */
#include "convert/gguf_file.h"
#include "tests/gguf_fixture.h"

/* ---- a file by hand ---- */

typedef struct {
    const char *what; /* NULL: ends the table */
    const char *word; /* of the message; NULL: the file is good */
    const char *magic;
    uint32_t version, kind, item, bool_value, dims, type;
    uint64_t n_tensors, n_kv, key_bytes, text_bytes, n_items, alignment, dim0, dim1, offset1, name_bytes;
    const char *key2, *name2;
    int64_t data_bytes; /* change of the file's length */
} damage;

typedef struct {
    unsigned char b[2048];
    size_t n;
} bytes;

static void put(bytes *f, uint64_t v, int n)
{
    for (int i = 0; i < n; i++) f->b[f->n++] = (unsigned char)(v >> (8 * i));
}

static void put_text(bytes *f, const char *text, uint64_t claimed)
{
    put(f, claimed ? claimed : strlen(text), 8);
    memcpy(f->b + f->n, text, strlen(text));
    f->n += strlen(text);
}

#define OR(field, otherwise) (d->field ? d->field : (otherwise))

/* Five keys, two tensors: [3, 2] F32 at 0 and [32] Q8_0 at 32. */
static void make_file(const damage *d, bytes *f)
{
    f->n = 0;
    memcpy(f->b, OR(magic, "GGUF"), 4);
    f->n = 4;
    put(f, OR(version, 3), 4);
    put(f, OR(n_tensors, 2), 8);
    put(f, OR(n_kv, 5), 8);
    put_text(f, "general.alignment", 0);
    put(f, CVT_GGUF_U32, 4);
    put(f, OR(alignment, 32), 4);
    put_text(f, "a.text", d->key_bytes);
    put(f, OR(kind, CVT_GGUF_STRING), 4);
    put_text(f, "hello", d->text_bytes);
    put_text(f, OR(key2, "a.list"), 0);
    put(f, CVT_GGUF_ARRAY, 4);
    put(f, OR(item, CVT_GGUF_I16), 4);
    put(f, OR(n_items, 3), 8);
    for (int i = 1; i <= 3; i++) put(f, (uint64_t)i, 2);
    put_text(f, "a.flag", 0);
    put(f, CVT_GGUF_BOOL, 4);
    put(f, OR(bool_value, 1), 1);
    put_text(f, "a.texts", 0);
    put(f, CVT_GGUF_ARRAY, 4);
    put(f, CVT_GGUF_STRING, 4);
    put(f, 2, 8);
    put_text(f, "one", 0);
    put_text(f, "", 0);
    put_text(f, "first", d->name_bytes);
    put(f, OR(dims, 2), 4);
    put(f, OR(dim0, 3), 8);
    put(f, OR(dim1, 2), 8);
    put(f, OR(type, CVT_GGUF_ID_F32), 4);
    put(f, 0, 8);
    put_text(f, OR(name2, "second"), 0);
    put(f, 1, 4);
    put(f, 32, 8);
    put(f, CVT_GGUF_ID_Q8_0, 4);
    put(f, OR(offset1, 32), 8);
    while (f->n % 32) put(f, 0, 1);
    for (int i = 0; i < 32 + 34; i++) put(f, (uint64_t)i, 1);
    f->n = (size_t)((int64_t)f->n + d->data_bytes);
}

static const damage damages[] = {
    {.what = "nothing"},
    {.what = "the last gap is written", .data_bytes = 30},
    {.what = "magic", .word = "not a GGUF", .magic = "GGML"},
    {.what = "version 1", .word = "version of GGUF", .version = 1},
    {.what = "version 2", .word = "2023-10", .version = 2},
    {.what = "version 4", .word = "version of GGUF", .version = 4},
    {.what = "big-endian", .word = "big-endian", .version = 0x03000000},
    {.what = "too many tensors", .word = "too many tensors", .n_tensors = UINT64_MAX},
    {.what = "tensors that are not there", .word = "byte", .n_tensors = 60000},
    {.what = "too many keys", .word = "too many keys", .n_kv = (uint64_t)1 << 60},
    {.what = "keys that are not there", .word = "byte", .n_kv = 60000},
    {.what = "a key past the end", .word = "the file ends inside of a key", .key_bytes = 60000},
    {.what = "a key too long", .word = "a key is too long", .key_bytes = (uint64_t)1 << 63},
    {.what = "a text past the end", .word = "key \"a.text\"", .text_bytes = 1 << 20},
    {.what = "a text too long", .word = "a text is too long", .text_bytes = UINT64_MAX - 7},
    {.what = "an unknown kind", .word = "a value is of no known type", .kind = 13},
    {.what = "an unknown item", .word = "an array is of no known type", .item = 99},
    {.what = "an array of arrays", .word = "array of arrays", .item = CVT_GGUF_ARRAY},
    {.what = "an array past the end", .word = "the file ends inside of an array", .n_items = 1 << 20},
    {.what = "an array whose size overflows", .word = "the array is too long", .n_items = (uint64_t)1 << 63},
    {.what = "a bool of 2", .word = "neither true nor false", .bool_value = 2},
    {.what = "a duplicate key", .word = "stands in the file twice", .key2 = "a.text"},
    {.what = "an empty key", .word = "a key is empty", .key2 = ""},
    {.what = "a key that is not UTF-8", .word = "not UTF-8", .key2 = "a\xff"},
    {.what = "alignment 0", .word = "alignment", .alignment = (uint64_t)1 << 32},
    {.what = "alignment 12", .word = "alignment", .alignment = 12},
    {.what = "alignment 2^21", .word = "alignment", .alignment = 1 << 21},
    {.what = "another alignment than the data has", .word = "not aligned", .alignment = 64},
    {.what = "a tensor's name too long", .word = "name of a tensor is too long", .name_bytes = 64},
    {.what = "a duplicate tensor", .word = "stands in the file twice", .name2 = "first"},
    {.what = "five dimensions", .word = "number of dimensions", .dims = 5},
    {.what = "a negative dimension", .word = "dimension is impossible", .dim0 = UINT64_MAX},
    {.what = "dimensions that overflow",
     .word = "overflows at dimension 1",
     .dim0 = (uint64_t)1 << 40,
     .dim1 = 1 << 30},
    {.what = "a size that overflows", .word = "size of the tensor overflows", .dim0 = (uint64_t)1 << 62, .dim1 = 1},
    {.what = "an unknown type", .word = "type of the tensor is not known", .type = 1000},
    {.what = "rows that blocks do not fill", .word = "whole number of blocks", .type = CVT_GGUF_ID_Q8_0},
    {.what = "a tensor larger than the file", .word = "the file ends before", .dim0 = 1 << 20},
    {.what = "a hole", .word = "hole before the tensor", .offset1 = 64},
    {.what = "two tensors at one place", .word = "overlap", .dim0 = 30},
    {.what = "not aligned", .word = "not aligned", .offset1 = 33},
    {.what = "one byte is missing", .word = "expected", .data_bytes = -1},
    {.what = "bytes behind the end", .word = "bytes behind the last tensor", .data_bytes = 31},
};

START_TEST(every_damage_is_refused)
{
    char dir[256], path[512];
    scratch_new(dir, sizeof dir);
    path_in(path, sizeof path, dir, "file.gguf");
    for (size_t i = 0; i < sizeof damages / sizeof *damages; i++) {
        bytes f = {0};
        cvt_gguf_file *g = NULL;
        make_file(&damages[i], &f);
        write_bytes(dir, "file.gguf", f.b, f.n);
        fh1_status s = cvt_gguf_file_open(path, &g);
        if (!damages[i].word) {
            expect_ok(s, damages[i].what);
            ck_assert_int_eq(g->n_kv, 5);
            ck_assert_int_eq(g->n_tensors, 2);
            cvt_gguf_file_close(g);
            continue;
        }
        expect_error(s, FH1_E_INPUT, damages[i].word, damages[i].what);
        expect_error(s, FH1_E_INPUT, path, damages[i].what);
        ck_assert_ptr_null(g);
    }
    scratch_remove(dir);
}
END_TEST

/* Cut at any byte, and with any byte another: refused or read, never anything else. The values stay what they are. */
START_TEST(no_byte_is_trusted)
{
    char dir[256], path[512];
    bytes f = {0};
    int accepted = 0;
    make_file(&damages[0], &f);
    scratch_new(dir, sizeof dir);
    path_in(path, sizeof path, dir, "file.gguf");
    for (size_t n = 0; n < f.n; n++) {
        cvt_gguf_file *g = NULL;
        write_bytes(dir, "file.gguf", f.b, n);
        expect_error(cvt_gguf_file_open(path, &g), FH1_E_INPUT, path, "a file cut off");
    }
    for (size_t i = 0; i < f.n; i++) {
        cvt_gguf_file *g = NULL;
        f.b[i] ^= (unsigned char)(1 << i % 8);
        write_bytes(dir, "file.gguf", f.b, f.n);
        f.b[i] ^= (unsigned char)(1 << i % 8);
        fh1_status s = cvt_gguf_file_open(path, &g);
        if (s) expect_error(s, FH1_E_INPUT, path, "a flipped bit");
        else accepted++;
        cvt_gguf_file_close(g);
    }
    ck_assert_int_gt(accepted, 32 + 34); /* the data, texts */
    ck_assert_int_lt(accepted, (int)f.n - 150);
    scratch_remove(dir);
}
END_TEST

START_TEST(values_are_read)
{
    char dir[256], path[512];
    bytes f = {0};
    cvt_gguf_file *g;
    uint64_t v = 77, n;
    float real = 5;
    const char *text = "kept";
    make_file(&damages[0], &f);
    write_bytes(scratch_new(dir, sizeof dir), "file.gguf", f.b, f.n);
    path_in(path, sizeof path, dir, "file.gguf");
    expect_ok(cvt_gguf_file_open(path, &g), path);
    expect_ok(cvt_gguf_get_uint(g, "general.alignment", &v), "a number");
    ck_assert_uint_eq(v, 32);
    expect_ok(cvt_gguf_get_uint(g, "absent", &v), "no number");
    ck_assert_uint_eq(v, 32);
    expect_ok(cvt_gguf_get_text(g, "absent", &text, &n), "no text");
    ck_assert_str_eq(text, "kept");
    expect_ok(cvt_gguf_get_text(g, "a.text", &text, &n), "a text");
    ck_assert(n == 5 && memcmp(text, "hello", 5) == 0);
    expect_error(cvt_gguf_get_uint(g, "a.text", &v), FH1_E_INPUT, "wrong type", "a text is no number");
    expect_error(cvt_gguf_get_real(g, "general.alignment", &real), FH1_E_INPUT, "float32", "a number is no float");
    expect_error(cvt_gguf_get_text(g, "a.list", &text, &n), FH1_E_INPUT, "array", "an array is no text");
    const cvt_gguf_kv *kv = cvt_gguf_find_kv(g, "a.texts");
    uint64_t at = kv->value_at;
    text = cvt_gguf_next_string(g, &at, &n);
    ck_assert(n == 3 && memcmp(text, "one", 3) == 0);
    cvt_gguf_next_string(g, &at, &n);
    ck_assert(n == 0 && at == kv->value_at + kv->bytes);
    const int64_t t = cvt_gguf_find_tensor(g, "second");
    unsigned char data[34];
    ck_assert_int_eq(t, 1);
    ck_assert_int_eq(cvt_gguf_find_tensor(g, "third"), -1);
    expect_ok(cvt_gguf_read(g, g->tensors[t].begin, 34, data), "data");
    ck_assert(data[0] == 32 && data[33] == 65);
    ck_assert_int_eq(truncate(path, (off_t)f.n - 40), 0);
    expect_error(cvt_gguf_read(g, g->tensors[t].begin, 34, data), FH1_E_INPUT, "shorter", "cut while it is open");
    expect_error(cvt_gguf_file_unchanged(g), FH1_E_INPUT, "changed", "cut while it is open");
    cvt_gguf_file_close(g);
    scratch_remove(dir);
}
END_TEST

static void write_with(const char *path, bool commit)
{
    const int64_t dim[2] = {32, 3}, one = 5;
    unsigned char data[3 * 34] = {1, 2, 3};
    cvt_gguf_writer w = {0};
    cvt_gguf_put_uint(&w, "a.number", 7);
    cvt_gguf_put_real(&w, "a.real", 1e-5);
    cvt_gguf_put_bool(&w, "a.flag", true);
    cvt_gguf_put_text(&w, "a.text", "x\"y", 3);
    cvt_gguf_put_array(&w, "a.texts", CVT_GGUF_STRING, 2);
    cvt_gguf_add_string(&w, "p", 1);
    cvt_gguf_add_string(&w, "q q", 3);
    cvt_gguf_put_array(&w, "a.later", CVT_GGUF_U64, 1);
    const uint64_t later = w.kv.n;
    cvt_gguf_add_number(&w, 0, 8);
    expect_ok(cvt_gguf_put_tensor(&w, "m", cvt_gguf_format_of(CVT_GGUF_ID_Q8_0), 2, dim), "a matrix");
    expect_ok(cvt_gguf_put_tensor(&w, "v", cvt_gguf_format_of(CVT_GGUF_ID_F32), 1, &one), "a vector");
    const uint64_t size = cvt_gguf_file_size(&w);
    expect_ok(cvt_gguf_begin(&w, path, false), path);
    expect_ok(cvt_gguf_put_data(&w, 1, 0, data, 20), "a vector's data");
    expect_ok(cvt_gguf_put_data(&w, 0, 34, data, 68), "two rows");
    expect_ok(cvt_gguf_put_data(&w, 0, 0, data, 34), "a row");
    expect_error(cvt_gguf_put_data(&w, 0, 100, data, 3), FH1_E_INTERNAL, "outside", "too much data");
    expect_ok(cvt_gguf_patch(&w, later, "\xff\0\0\0\0\0\0\1", 8), "a patch");
    if (commit) {
        struct stat st;
        expect_ok(cvt_gguf_commit(&w), path);
        ck_assert_int_eq(stat(path, &st), 0);
        ck_assert_uint_eq((uint64_t)st.st_size, size);
    }
    cvt_gguf_writer_free(&w);
}

START_TEST(what_is_written_is_read)
{
    char dir[256], path[512];
    cvt_gguf_file *g;
    plain_tensor t;
    uint32_t type;
    scratch_new(dir, sizeof dir);
    path_in(path, sizeof path, dir, "w.gguf");
    write_with(path, false);
    ck_assert_int_eq(count_entries(dir), 0);
    write_with(path, true);
    ck_assert_int_eq(count_entries(dir), 1);
    plain_gguf p = plain_open(dir, "w.gguf");
    expect_uint(&p, "a.number", 7);
    expect_float(&p, "a.real", 1e-5);
    expect_text(&p, "a.text", "x\"y");
    expect_item(&p, "a.texts", 1, "q q");
    ck_assert_uint_eq(plain_int(p.b + plain_find(&p, "a.later", &type) + 12, 8), ((uint64_t)1 << 56) + 255);
    ck_assert(plain_tensor_find(&p, "m", &t) && t.n_dims == 2 && t.dim[0] == 32 && t.dim[1] == 3 && t.type == 8);
    ck_assert(t.data[0] == 1 && t.data[34] == 1 && t.data[68] == 0);
    ck_assert(plain_tensor_find(&p, "v", &t) && t.n_dims == 1 && t.dim[0] == 5 && t.type == 0 && t.data[2] == 3);
    ck_assert((size_t)(t.data - p.b) % 32 == 0 && p.n % 32 == 0);
    expect_ok(cvt_gguf_file_open(path, &g), "the strict reader");
    cvt_gguf_file_close(g);
    cvt_gguf_writer w = {0};
    expect_error(cvt_gguf_begin(&w, path, false), FH1_E_INPUT, "exists", "no --force");
    cvt_gguf_writer_free(&w);
    free(p.b);
    scratch_remove(dir);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {every_damage_is_refused, no_byte_is_trusted, values_are_read,
                                  what_is_written_is_read};
    return run_tests("gguf", tests, sizeof tests / sizeof *tests);
}
