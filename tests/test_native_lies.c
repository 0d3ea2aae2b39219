/* Native files made to deceive: all their checksums fit, and they claim what the rules forbid. The control: a file that
 * is taken apart and put together again passes the same checks. */
#include "convert/native_impl.h"
#include "tests/native_fixture.h"

/* A file taken apart. */
typedef struct {
    unsigned char *bytes; /* everything before the index */
    native_header h;
    char *json;
    unsigned char *records;
    size_t n_json, n_records;
    int frames; /* of the index: 1, or 2 for a second empty one */
} parts;

static parts take_apart(const char *dir)
{
    parts p = {.frames = 1};
    size_t n;
    bool is;
    native_lane *lane;
    p.bytes = (unsigned char *)read_bytes(dir, "m.fh1", &n);
    expect_ok(native_header_read(p.bytes, n, &p.h, &is), "the header");
    unsigned char *index = malloc(p.h.index_bytes);
    ck_assert_ptr_nonnull(index);
    expect_ok(native_lane_new(&lane), "a lane");
    expect_ok(native_unzstd(lane, p.bytes + p.h.index_offset, p.h.index_stored, index, p.h.index_bytes), "the index");
    native_lane_free(lane);
    p.n_json = native_get(index, 8);
    p.n_records = p.h.index_bytes - 8 - p.n_json;
    p.json = calloc(1, p.n_json + 4096);
    p.records = malloc(p.n_records + 1);
    ck_assert(p.json && p.records);
    memcpy(p.json, index + 8, p.n_json);
    memcpy(p.records, index + 8 + p.n_json, p.n_records);
    free(index);
    return p;
}

/* Writes bad.fh1 with checksums that fit. */
static void put_together(const char *dir, parts *p)
{
    unsigned char *index, *stored, *file;
    size_t n_stored;
    while (p->n_json % 8 != 0) p->json[p->n_json++] = ' ';
    const size_t n = 8 + p->n_json + p->n_records;
    index = malloc(n);
    ck_assert_ptr_nonnull(index);
    native_put(index, p->n_json, 8);
    memcpy(index + 8, p->json, p->n_json);
    memcpy(index + 8 + p->n_json, p->records, p->n_records);
    expect_ok(native_zstd(index, n, 3, &stored, &n_stored), "the index");
    const size_t offset = p->h.index_offset, total = offset + n_stored * (size_t)p->frames;
    file = malloc(total + 64);
    ck_assert_ptr_nonnull(file);
    memcpy(file, p->bytes, offset);
    for (int i = 0; i < p->frames; i++) memcpy(file + offset + (size_t)i * n_stored, stored, n_stored);
    native_header h = p->h;
    h.index_stored = total - offset;
    h.index_checksum = cvt_hash64(file + offset, total - offset);
    h.file_bytes = total;
    h.index_bytes = n;
    native_header_write(&h, file);
    write_bytes(dir, "bad.fh1", file, total);
    free(index);
    free(stored);
    free(file);
}

static void drop(parts *p)
{
    free(p->bytes);
    free(p->json);
    free(p->records);
}

static void replace(parts *p, const char *old, const char *with)
{
    char *at = strstr(p->json, old);
    ck_assert_msg(at, "the index has no %s", old);
    const size_t n_old = strlen(old), n_new = strlen(with);
    memmove(at + n_new, at + n_old, p->n_json - (size_t)(at - p->json) - n_old + 1);
    memcpy(at, with, n_new);
    p->n_json = p->n_json + n_new - n_old;
}

static void expect_refused(const char *dir, const char *word, const char *what)
{
    char path[512];
    path_in(path, sizeof path, dir, "bad.fh1");
    expect_error(read_everything(path), FH1_E_INPUT, word, what);
    expect_error(cvt_native_verify(path, NULL), FH1_E_WRONG, word, what);
}

static const struct {
    const char *old, *with, *word;
} edits[] = {
    {"\"chunk_bytes\":1048576", "\"chunk_bytes\":1048577", "chunk_bytes"},
    {"\"chunk_bytes\":1048576", "\"chunk_bytes\":1e6", "chunk_bytes"},
    {"\"chunk_bytes\"", "\"chunk_size\"", "chunk_size"},
    {"\"provenance\":{", "\"provenance\":[{", "index"},
    {"\"name\":\"config.json\"", "\"name\":\"../config\"", "leads out"},
    {"\"name\":\"config.json\"", "\"name\":\"/config\"", "leads out"},
    {"\"name\":\"config.json\"", "\"name\":\"a//b\"", "leads out"},
    {"\"name\":\"config.json\"", "\"name\":\"a\\u0000b\"", "index"},
    {"\"name\":\"config.json\"", "\"name\":\"empty\"", "order of their names"},
    {"\"name\":\"config.json\"", "\"name_hex\":\"61\"", "not UTF-8"},
    {"\"name\":\"config.json\"", "\"name_hex\":\"e900\"", "not UTF-8"},
    {"\"name\":\"config.json\"", "\"name_hex\":\"E9\"", "not UTF-8"},
    {"\"name\":\"config.json\"", "\"name_hex\":\"e9\",\"name\":\"\"", "not UTF-8"},
    {"\"name\":\"config.json\"", "\"name_hex\":\"2e2e2fe9\"", "leads out"},
    {"\"name\":\"empty\"", "\"name\":\"config.json/x\"", "folder of another"},
    {"\"name\":\"config.json\",\"bytes\":28", "\"name\":\"config.json\",\"bytes\":29", "another size"},
    {"\"name\":\"config.json\",\"bytes\":28", "\"name\":\"config.json\",\"bytes\":9007199254740992", "too few chunks"},
    {"\"name\":\"config.json\",\"bytes\":28", "\"name\":\"config.json\",\"bytes\":-1", "bytes"},
    {"\"name\":\"config.json\",\"bytes\":28", "\"name\":\"config.json\"", "bytes"},
    {"\"name\":\"config.json\"", "\"name\":\"config.json\",\"extra\":1", "unknown"},
    {"\"name\":\"config.json\"", "\"name\":\"config.json\",\"chunk\":0", "twice"},
    {"\"chunk\":1", "\"chunk\":0", "not in order"},
    {"\"chunk\":1", "\"chunk\":9007199254740992", "not in order"},
    {"\"xxh3_128\":\"", "\"xxh3_128\":\"g", "provenance"}, /* the first is the model's: see below */
    {"\"dtype\":\"BF16\"", "\"dtype\":\"BF17\"", "unknown"},
    {"\"dtype\":\"BF16\"", "\"dtype\":\"F16\"", "disagree"},
    {"\"dtype\":\"F32\"", "\"dtype\":\"I32\"", "disagree"},
    {"\"shape\":[20,31]", "\"shape\":[31,20]", "disagree"},
    {"\"shape\":[20,31]", "\"shape\":[620]", "disagree"},
    {"\"shape\":[20,31]", "\"shape\":[20,32]", "another size"},
    {"\"shape\":[20,31]", "\"shape\":[4194304,4194304]", "too few chunks"},
    {"\"shape\":[20,31]", "\"shape\":[4503599627370496,4503599627370496]", "overflows"},
    {"\"shape\":[20,31]", "\"shape\":[1,1,1,1,1,1,1,20,31]", "shape"},
    {"\"shape\":[20,31]", "\"shape\":[-20,-31]", "shape"},
    {"\"shape\":[20,31]", "\"shape\":[[20,31]]", "shape"},
    {"\"name\":\"a.weight\"", "\"name\":\"a.scale\"", "same name"},
    {"\"name\":\"a.weight\"", "\"name\":\"a.other\"", "disagree"},
    {"\"header_bytes\":", "\"header_bytes\":9999999", "header_bytes"},
    {"\"tensors\":[", "\"tensors\":[7,", "not an object"},
    {"\"tensors\":[", "\"tensors\":[[[[[[[[[]]]]]]]],", "deep"},
};

START_TEST(an_index_that_lies)
{
    char dir[256], path[512];
    path_in(path, sizeof path, scratch_new(dir, sizeof dir), "m.fh1");
    cvt_ckpt *c = small_checkpoint();
    write_native(c, path);
    cvt_ckpt_close(c);
    path_in(path, sizeof path, dir, "bad.fh1");
    parts p = take_apart(dir);
    put_together(dir, &p);
    expect_ok(read_everything(path), "a file put together again");
    expect_ok(cvt_native_verify(path, NULL), "a file put together again");
    drop(&p);
    for (size_t i = 0; i < sizeof edits / sizeof *edits; i++) {
        p = take_apart(dir);
        replace(&p, edits[i].old, edits[i].with);
        put_together(dir, &p);
        if (strcmp(edits[i].word, "provenance") == 0) { /* no reader needs it, so verification says it */
            expect_ok(read_everything(path), edits[i].with);
            expect_error(cvt_native_verify(path, NULL), FH1_E_WRONG, edits[i].word, edits[i].with);
        } else {
            expect_refused(dir, edits[i].word, edits[i].with);
        }
        drop(&p);
    }
    scratch_remove(dir);
}
END_TEST

/* at: byte in the record; chunk 4 is a.weight in the split layout, chunk 0 config.json, raw. */
static const struct {
    int chunk, at, width;
    uint64_t value;
    const char *word;
} record_edits[] = {
    {4, 0, 8, 64, "does not begin where"},
    {4, 0, 8, UINT64_MAX - 63, "does not begin where"},
    {4, 16, 4, 1239, "another size"},
    {4, 16, 4, UINT32_MAX, "another size"},
    {4, 20, 4, UINT32_MAX, "too large"},
    {4, 20, 4, 0, "does not begin where"},
    {4, 24, 4, 1, "does not begin where"},
    {4, 28, 1, 0, "size of a plane"},
    {4, 28, 1, 2, "unknown"},
    {4, 29, 1, 2, "unknown"},
    {4, 29, 1, 0, "size of a plane"},
    {4, 30, 1, 1, "size of a plane"},
    {4, 31, 1, 1, "reserved byte"},
    {0, 28, 1, 1, "split layout"},
    {0, 29, 1, 1, "size of a plane"},
    {4, 8, 8, 0, "checksum of the chunk"},
    {0, 24, 4, 64, "does not begin where"},
};

START_TEST(records_that_lie)
{
    char dir[256], path[512];
    path_in(path, sizeof path, scratch_new(dir, sizeof dir), "m.fh1");
    cvt_ckpt *c = small_checkpoint();
    write_native(c, path);
    cvt_ckpt_close(c);
    for (size_t i = 0; i < sizeof record_edits / sizeof *record_edits; i++) {
        parts p = take_apart(dir);
        unsigned char *r = p.records + record_edits[i].chunk * NATIVE_RECORD;
        native_put(r + record_edits[i].at, record_edits[i].value, record_edits[i].width);
        put_together(dir, &p);
        expect_refused(dir, record_edits[i].word, record_edits[i].word);
        drop(&p);
    }
    parts p = take_apart(dir);
    p.n_records -= NATIVE_RECORD;
    put_together(dir, &p);
    expect_refused(dir, "chunks do not end where the index begins", "a record too few");
    p.n_records -= 5;
    put_together(dir, &p);
    expect_refused(dir, "another size than its parts", "half a record");
    drop(&p);
    scratch_remove(dir);
}
END_TEST

/* Content that is not what it was, under checksums that fit: only what the files hash to tells. */
START_TEST(another_content_under_right_checksums)
{
    char dir[256], path[512];
    path_in(path, sizeof path, scratch_new(dir, sizeof dir), "m.fh1");
    cvt_ckpt *c = small_checkpoint();
    write_native(c, path);
    cvt_ckpt_close(c);
    path_in(path, sizeof path, dir, "bad.fh1");
    parts p = take_apart(dir);
    const uint64_t at = native_get(p.records, 8);
    p.bytes[at] ^= 1; /* a brace of config.json */
    native_put(p.records + 8, cvt_hash64(p.bytes + at, 64), 8);
    put_together(dir, &p);
    expect_ok(read_everything(path), "another content");
    expect_error(cvt_native_verify(path, NULL), FH1_E_WRONG, "file \"config.json\"", "another content");

    p.bytes[at] ^= 1; /* restored; now the padding behind it, which must be zero */
    p.bytes[at + 30] = 1;
    native_put(p.records + 8, cvt_hash64(p.bytes + at, 64), 8);
    put_together(dir, &p);
    expect_refused(dir, "not zero", "bytes hidden between planes");
    drop(&p);
    scratch_remove(dir);
}
END_TEST

/* A frame in the place of the split plane of a.weight (620 exponents), with all checksums fitting. */
static void plant_frame(const char *dir, const unsigned char *frame, size_t n, const char *word)
{
    parts p = take_apart(dir);
    unsigned char *r = p.records + 4 * NATIVE_RECORD;
    const uint64_t at = native_get(r, 8), was = native_get(r + 20, 4);
    ck_assert_uint_eq(r[28], NATIVE_SPLIT16);
    ck_assert(native_pad(n) == native_pad(was) || n < was);
    ck_assert_uint_le(n, was);
    memset(p.bytes + at, 0, native_pad(was));
    memcpy(p.bytes + at, frame, n);
    if (native_pad(n) == native_pad(was)) native_put(r + 20, n, 4); /* else the frame is followed by zeros */
    native_put(r + 8, cvt_hash64(p.bytes + at, native_pad(was) + native_pad(native_get(r + 24, 4))), 8);
    put_together(dir, &p);
    expect_refused(dir, word, word);
    drop(&p);
}

START_TEST(frames_that_lie)
{
    char dir[256], path[512];
    unsigned char flat[4096] = {0}, *frame, bomb[64] = {0x28, 0xb5, 0x2f, 0xfd};
    size_t n;
    path_in(path, sizeof path, scratch_new(dir, sizeof dir), "m.fh1");
    cvt_ckpt *c = small_checkpoint();
    write_native(c, path);
    cvt_ckpt_close(c);
    expect_ok(native_zstd(flat, 619, 3, &frame, &n), "a frame");
    plant_frame(dir, frame, n, "declares another size");
    free(frame);
    expect_ok(native_zstd(flat, 620, 3, &frame, &n), "a frame");
    plant_frame(dir, frame, n, "something follows it"); /* zeros up to the size that the record tells */
    plant_frame(dir, frame, n - 1, "cut off, or something");
    free(frame);
    native_put(bomb + 4, 0xc0, 1); /* content size of 8 bytes, window descriptor next */
    native_put(bomb + 5, 0x00, 1);
    native_put(bomb + 6, UINT64_C(1) << 40, 8);
    plant_frame(dir, bomb, 20, "declares another size");
    native_put(bomb + 6, 620, 8);
    native_put(bomb + 5, 0xa0, 1); /* a window of 1 GiB */
    plant_frame(dir, bomb, 20, "asks for a window");
    plant_frame(dir, flat, 20, "no whole zstd frame");
    scratch_remove(dir);
}
END_TEST

static void with_header(const char *dir, const parts *p, size_t n, void (*edit)(native_header *h), const char *word,
                        fh1_code verify)
{
    char path[512];
    native_header h = p->h;
    unsigned char *file = malloc(n);
    ck_assert_ptr_nonnull(file);
    memcpy(file, p->bytes, n);
    edit(&h);
    native_header_write(&h, file);
    write_bytes(dir, "bad.fh1", file, n);
    free(file);
    path_in(path, sizeof path, dir, "bad.fh1");
    expect_error(read_everything(path), FH1_E_INPUT, word, word);
    expect_error(cvt_native_verify(path, NULL), verify, word, word);
}

static void next_major(native_header *h)
{
    h->major = 2;
}
static void huge_index(native_header *h)
{
    h->index_bytes = UINT64_C(1) << 40;
}
static void wide_index(native_header *h)
{
    h->index_bytes = 300 * h->index_stored;
}
static void other_index(native_header *h)
{
    h->index_bytes -= 8;
}
static void early_index(native_header *h)
{
    h->index_offset -= 64;
}
static void crooked_index(native_header *h)
{
    h->index_offset -= 1;
}
static void far_index(native_header *h)
{
    h->index_offset = UINT64_MAX - 63;
}
static void longer_file(native_header *h)
{
    h->file_bytes += 1;
}

START_TEST(headers_that_lie)
{
    char dir[256], path[512];
    path_in(path, sizeof path, scratch_new(dir, sizeof dir), "m.fh1");
    cvt_ckpt *c = small_checkpoint();
    write_native(c, path);
    cvt_ckpt_close(c);
    parts p = take_apart(dir);
    const size_t n = (size_t)p.h.file_bytes;
    with_header(dir, &p, n, next_major, "expected version 1", FH1_E_INPUT); /* another program's file is not damaged */
    with_header(dir, &p, n, next_major, "found version 2.0", FH1_E_INPUT);
    with_header(dir, &p, n, huge_index, "claims to be too large", FH1_E_WRONG);
    with_header(dir, &p, n, wide_index, "claims to be too large", FH1_E_WRONG);
    with_header(dir, &p, n, other_index, "declares another size", FH1_E_WRONG);
    with_header(dir, &p, n, early_index, "does not lie at the end", FH1_E_WRONG);
    with_header(dir, &p, n, crooked_index, "does not lie at the end", FH1_E_WRONG);
    with_header(dir, &p, n, far_index, "does not lie at the end", FH1_E_WRONG);
    with_header(dir, &p, n, longer_file, "cut off", FH1_E_WRONG);

    p.frames = 2;
    put_together(dir, &p);
    expect_refused(dir, "something follows it", "two frames");
    p.frames = 1;

    /* A later minor version may add keys that this one does not know. */
    p.h.minor = 1;
    replace(&p, "\"name\":\"config.json\"", "\"name\":\"config.json\",\"added\":[1]");
    put_together(dir, &p);
    path_in(path, sizeof path, dir, "bad.fh1");
    expect_ok(cvt_native_verify(path, NULL), "a later minor version");
    p.h.minor = 0;
    put_together(dir, &p);
    expect_refused(dir, "unknown", "the same key in this version");
    drop(&p);
    scratch_remove(dir);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {an_index_that_lies, records_that_lie, another_content_under_right_checksums,
                                  frames_that_lie, headers_that_lie};
    return run_tests("native_lies", tests, (int)(sizeof tests / sizeof *tests));
}
