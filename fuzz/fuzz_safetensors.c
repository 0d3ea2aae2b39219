/* The reader of safetensors files (convert/safetensors.h). Every way into it says the same twice; it accepts what a
 * second reading of the rules accepts (slow_safetensors.h), with the same table; what it accepts comes back whole from
 * the writer; memory and time follow the size of the file, and nothing stays behind. */
#include "fuzz/folder.h"
#include "fuzz/mutate_safetensors.h"
#include "fuzz/plant.h"
#include "fuzz/slow_safetensors.h"

#include "convert/safetensors.h"
#include "convert/st_layout.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { LINE = 2560 };

typedef struct {
    const uint8_t *data;
    size_t size;
    const char *path; /* of a file with these bytes; also the name that messages have for the bytes in memory */
} input;

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    slow_json_without = getenv("FH1_FUZZ_PLANT");
    return 0;
}

/* -- messages --------------------------------------------------------------------------------------- */

/* A refusal is one line that names the file, without a control character, whatever the file is called inside. */
static void check_message(const input *in, fh1_status s, char line[LINE])
{
    line[0] = 0;
    if (!s) return;
    fh1_status_line(s, line, LINE);
    FUZZ_CHECK(s->code == FH1_E_INPUT && s->what[0], "code %d: %s", (int)s->code, line);
    FUZZ_CHECK(strncmp(line, in->path, strlen(in->path)) == 0, "%s", line);
    for (const char *c = line; *c; c++) FUZZ_CHECK((unsigned char)*c >= 0x20 && *c != 0x7f, "%s", line);
}

/* -- two tables of one file ------------------------------------------------------------------------- */

static bool same_text(const char *a, const char *b)
{
    return a && b ? strcmp(a, b) == 0 : !a && !b;
}

static void same_metadata(const cvt_st *a, const cvt_st *b)
{
    const cJSON *x = cvt_st_metadata_all(a), *y = cvt_st_metadata_all(b);
    int64_t n = 0, m = 0;
    for (; x; x = x->next, n++)
        FUZZ_CHECK(same_text(x->valuestring, cvt_st_metadata(b, x->string)), "metadata %s", x->string);
    for (; y; y = y->next) m++;
    FUZZ_CHECK(n == m, "%lld and %lld metadata", (long long)n, (long long)m);
}

/* Names, types and shapes; with `places` the bytes' places in the file too; with both files' data their bytes. */
static void same_tables(const cvt_st *a, const cvt_st *b, bool places)
{
    FUZZ_CHECK(cvt_st_count(a) == cvt_st_count(b), "%lld and %lld tensors", (long long)cvt_st_count(a),
               (long long)cvt_st_count(b));
    for (int64_t i = 0; i < cvt_st_count(a); i++) {
        const cvt_st_entry *x = cvt_st_at(a, i), *y = cvt_st_at(b, i);
        FUZZ_CHECK(strcmp(x->name, y->name) == 0, "%s and %s", x->name, y->name);
        FUZZ_CHECK(x->t.dtype == y->t.dtype && fh1_same_shape(&x->t, &y->t), "%s", x->name);
        FUZZ_CHECK(x->end - x->begin == y->end - y->begin, "%s", x->name);
        if (places)
            FUZZ_CHECK(x->begin == y->begin, "%s at %llu and %llu", x->name, (unsigned long long)x->begin,
                       (unsigned long long)y->begin);
        if (x->t.data && y->t.data)
            FUZZ_CHECK(memcmp(x->t.data, y->t.data, (size_t)(x->end - x->begin)) == 0, "bytes of %s", x->name);
    }
    same_metadata(a, b);
}

/* -- against the second reading ---------------------------------------------------------------------- */

static void same_entry(const input *in, const cvt_st *f, const slow_safetensors *slow, const slow_tensor *t)
{
    const cvt_st_entry *e = cvt_st_find(f, t->name);
    FUZZ_CHECK(e, "%s is not found", t->name);
    FUZZ_CHECK(strcmp(fh1_dtype_name(e->t.dtype), t->dtype) == 0 && fh1_dtype_bits(e->t.dtype) == t->bits, "%s",
               t->name);
    FUZZ_CHECK(e->t.rank == t->rank, "%s", t->name);
    int64_t stride = 1;
    for (int k = t->rank - 1; k >= 0; k--) {
        FUZZ_CHECK(e->t.shape[k] == t->shape[k] + fuzz_planted("table"), "%s, dimension %d", t->name, k);
        FUZZ_CHECK(e->t.stride[k] == stride || t->begin == t->end, "%s, stride %d", t->name, k);
        stride *= t->begin == t->end ? 1 : t->shape[k];
    }
    FUZZ_CHECK(e->begin == slow->data + (uint64_t)t->begin && e->end == slow->data + (uint64_t)t->end, "%s", t->name);
    FUZZ_CHECK((const uint8_t *)e->t.data == in->data + e->begin, "%s", t->name);
}

static void same_as_slow(const input *in, const cvt_st *f, const char *line)
{
    slow_safetensors slow;
    const bool good = slow_safetensors_read(in->data, in->size, &slow);
    FUZZ_CHECK(good == (f != NULL), "the reader says: %s; the second one %s it", f ? "good" : line,
               good ? "accepts" : "refuses");
    if (f) {
        const cJSON *pair = cvt_st_metadata_all(f);
        int64_t n = 0;
        FUZZ_CHECK((size_t)cvt_st_count(f) == slow.n, "%lld and %zu tensors", (long long)cvt_st_count(f), slow.n);
        for (size_t i = 0; i < slow.n; i++) same_entry(in, f, &slow, &slow.tensors[i]);
        for (int64_t i = 1; i < cvt_st_count(f); i++)
            FUZZ_CHECK(strcmp(cvt_st_at(f, i - 1)->name, cvt_st_at(f, i)->name) < 0, "%s", cvt_st_at(f, i)->name);
        for (; pair; pair = pair->next, n++) {
            const slow_json *m = slow_json_member(slow.metadata, pair->string);
            FUZZ_CHECK(m && strcmp(m->text, pair->valuestring) == 0, "metadata %s", pair->string);
        }
        FUZZ_CHECK((size_t)n == (slow.metadata ? slow.metadata->n : 0), "%lld metadata", (long long)n);
    }
    slow_safetensors_free(&slow);
}

/* -- the other ways in ------------------------------------------------------------------------------- */

typedef struct {
    const input *in;
    const cvt_st *first; /* NULL: refused with this line */
    char line[LINE];
} verdict;

static void same_verdict(const verdict *v, fh1_status s, cvt_st *again)
{
    char line[LINE];
    check_message(v->in, s, line);
    if (fuzz_planted("message") && line[0]) line[1]++;
    FUZZ_CHECK(strcmp(v->line, line) == 0, "'%s' and then '%s'", v->line, line);
    if (v->first) same_tables(v->first, again, true);
    cvt_st_close(again);
}

/* The bytes once more; every other time as a file, mapped, or its header alone; the header in memory. */
static void other_ways(const verdict *v)
{
    const input *in = v->in;
    cvt_st *f;
    fh1_status s = cvt_st_parse(in->data, in->size, in->path, &f);
    same_verdict(v, s, f);
    if (in->size % 2) {
        fuzz_file(0, in->data, in->size);
        s = in->size % 4 == 1 ? cvt_st_open(in->path, &f) : cvt_st_open_header(in->path, &f);
        same_verdict(v, s, f);
    }
    if (!v->first) return;
    size_t n;
    const char *header = cvt_st_header(v->first, &n);
    s = cvt_st_parse_header(header, n, in->size, in->path, &f);
    same_verdict(v, s, f);
}

/* -- written again ------------------------------------------------------------------------------------ */

static int by_key(const void *a, const void *b)
{
    return strcmp(((const cvt_pair *)a)->key, ((const cvt_pair *)b)->key);
}

/* The bytes that cvt_st_layout gives a file with the tensors and metadata of f, malloc'ed. */
static char *laid_out(const cvt_st *f, size_t *size)
{
    const size_t n = (size_t)cvt_st_count(f);
    cvt_st_item *items = calloc(n + 1, sizeof *items);
    cvt_pair *meta = NULL;
    char *header;
    size_t n_meta = 0, n_header, n_data = 0;
    for (const cJSON *m = cvt_st_metadata_all(f); m; m = m->next) {
        meta = realloc(meta, (n_meta + 1) * sizeof *meta);
        FUZZ_CHECK(meta, "memory");
        meta[n_meta++] = (cvt_pair){m->string, m->valuestring};
    }
    if (n_meta) qsort(meta, n_meta, sizeof *meta, by_key); /* as the writer has them */
    for (size_t i = 0; i < n; i++) {
        const cvt_st_entry *e = cvt_st_at(f, (int64_t)i);
        items[i] = (cvt_st_item){e->name, e->t.dtype, e->t.rank, e->t.shape, e->end - e->begin, 0, i};
        n_data += (size_t)(e->end - e->begin);
    }
    const fh1_status s = cvt_st_layout(items, n, meta, n_meta, &header, &n_header);
    FUZZ_CHECK(!s, "%s", s->what);
    char *file = malloc(n_header + n_data);
    FUZZ_CHECK(file, "memory");
    memcpy(file, header, n_header);
    for (size_t i = 0; i < n; i++)
        memcpy(file + n_header + items[i].begin, cvt_st_at(f, (int64_t)items[i].tag)->t.data, items[i].n_bytes);
    if (fuzz_planted("bytes") && n_data) file[n_header]++;
    free(header);
    free(meta);
    free(items);
    *size = n_header + n_data;
    return file;
}

/* cvt's writer makes of f these bytes. */
static void written(const cvt_st *f, const char *bytes, size_t size)
{
    cvt_st_writer *w;
    char path[128];
    snprintf(path, sizeof path, "%s/file", fuzz_folder());
    fh1_status s = cvt_st_writer_new(path, true, &w);
    FUZZ_CHECK(!s, "%s", s->what);
    for (const cJSON *m = cvt_st_metadata_all(f); m && !s; m = m->next)
        s = cvt_st_writer_meta(w, m->string, m->valuestring);
    for (int64_t i = 0; i < cvt_st_count(f) && !s; i++) {
        const cvt_st_entry *e = cvt_st_at(f, i);
        s = cvt_st_writer_declare(w, e->name, e->t.dtype, e->t.rank, e->t.shape);
    }
    for (int64_t i = cvt_st_count(f) - 1; i >= 0 && !s; i--) { /* the order is free */
        const cvt_st_entry *e = cvt_st_at(f, i);
        s = cvt_st_writer_put(w, e->name, 0, e->t.data, fh1_n_elems(&e->t));
    }
    if (!s) s = cvt_st_writer_commit(w);
    cvt_st_writer_free(w);
    FUZZ_CHECK(!s, "%s", s->what);
    size_t n;
    char *found = fuzz_read(path, &n);
    if (fuzz_planted("writer")) found[8]++;
    FUZZ_CHECK(n == size && memcmp(found, bytes, n) == 0, "the writer's file and the layout's differ");
    free(found);
    unlink(path);
}

/* The same tensors, bytes and metadata come back; a second time, the same file. The writer itself, which goes to the
 * disk, is asked for one in eight of them. */
static void round_trip(const input *in, const cvt_st *f)
{
    size_t size, size_again;
    char *file = laid_out(f, &size);
    cvt_st *g;
    const fh1_status s = cvt_st_parse(file, size, "written", &g);
    FUZZ_CHECK(!s, "%s", s->what);
    same_tables(f, g, false);
    char *again = laid_out(g, &size_again);
    if (!fuzz_planted("bytes"))
        FUZZ_CHECK(size == size_again && memcmp(file, again, size) == 0, "written twice, two files");
    if (in->size % 8 == 0) written(f, file, size);
    cvt_st_close(g);
    free(file);
    free(again);
}

/* -- the target ---------------------------------------------------------------------------------------- */

static void parse_again(void *user)
{
    const input *in = user;
    cvt_st *f;
    if (!cvt_st_parse(in->data, in->size, in->path, &f)) cvt_st_close(f);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *path; /* of the file that other_ways fills */
    if (!path) path = fuzz_file(0, "", 0);
    input in = {data, size, path};
    verdict v = {.in = &in};
    fuzz_bounds b;
    cvt_st *f;
    fuzz_bounds_begin(&b);
    const fh1_status s = cvt_st_parse(data, size, in.path, &f);
    FUZZ_CHECK((s == NULL) == (f != NULL), "a refusal and a table");
    check_message(&in, s, v.line);
    /* "a":0, are six bytes, for which cJSON takes a node and a name (64 and 8 bytes, rounded up by malloc to 72 and
     * 24), duplicates a key (16) and the table an entry (168): 47 times the text. */
    fuzz_bounds_end(&b, size, 4096, fuzz_planted("memory") ? 0 : 48, 5, 1, parse_again, &in);
    v.first = f;
    other_ways(&v);
    same_as_slow(&in, f, v.line);
    if (f) round_trip(&in, f);
    if (!fuzz_planted("leak")) cvt_st_close(f);
    fuzz_nothing_left(&b);
    return 0;
}

/* -- where inputs come from ---------------------------------------------------------------------------- */

static const char *const words[] = {
    "__metadata__", "dtype", "shape", "data_offsets", "format", "BOOL", "F4",  "F6_E2M3", "F8_E8M0", "U8",
    "I64",          "BF16",  "F32",   "F64",          "C64",    "C128", "f32", "a",       NULL};
static const char other[] = "{\"t\":{\"dtype\":\"F4\",\"shape\":[3,0],\"data_offsets\":[0,0],\"x\":null},"
                            "\"__metadata__\":{\"a\":\"\\u00e9\"},\"u\":{\"dtype\":\"F6_E3M2\",\"shape\":[2,2],"
                            "\"data_offsets\":[0,3]},\"v\":{\"dtype\":\"BF16\",\"shape\":[4294967296,4294967296,0],"
                            "\"data_offsets\":[0,2]},\"w\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[3,4]}}";

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned int seed)
{
    static const fuzz_json_stock stock = {other, sizeof other - 1, words};
    fuzz_rng r = {seed};
    return fuzz_mutate_safetensors(data, size, max_size, &stock, &r);
}

size_t LLVMFuzzerCustomCrossOver(const uint8_t *a, size_t a_size, const uint8_t *b, size_t b_size, uint8_t *out,
                                 size_t max_size, unsigned int seed)
{
    fuzz_rng r = {seed};
    return fuzz_cross_safetensors(a, a_size, b, b_size, out, max_size, &r);
}
