/* Which tensor lies where: shards, headers, the index. */
#include "convert/checkpoint.h"
#include "convert/json.h"
#include "convert/st_layout.h"
#include "convert/text.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SINGLE "model.safetensors"
#define INDEX "model.safetensors.index.json"
#define MAX_INDEX ((size_t)64 << 20)
#define MAX_DEPTH 8

/* ---- shards ---- */

/* Two whole numbers in decimal digits of any length. */
static int by_number(const char *a, size_t n, const char *b, size_t m)
{
    while (n > 0 && *a == '0') a++, n--;
    while (m > 0 && *b == '0') b++, m--;
    return n != m ? (n < m ? -1 : 1) : memcmp(a, b, n);
}

/* Two parts of names: numbers before texts, numbers at the end of equal texts by value. */
static int by_part(const char *a, size_t n, const char *b, size_t m)
{
    size_t x = n, y = m; /* the text without the digits at its end */
    while (x > 0 && isdigit((unsigned char)a[x - 1])) x--;
    while (y > 0 && isdigit((unsigned char)b[y - 1])) y--;
    bool a_number = x == 0 && n > 0, b_number = y == 0 && m > 0;
    if (a_number != b_number) return a_number ? -1 : 1;
    int order = memcmp(a, b, x < y ? x : y);
    if (order || x != y) return order ? order : x < y ? -1 : 1;
    if ((n > x) != (m > y)) return n > x ? 1 : -1;
    return by_number(a + x, n - x, b + y, m - y);
}

/* The order in which transformers fills shards: parts between dots, numbers by value, so that layer 2 is before 10. */
static int by_layer(const void *p, const void *q, void *tensors)
{
    const cvt_ckpt_tensor *t = tensors;
    const char *const x = t[*(const int64_t *)p].name, *const y = t[*(const int64_t *)q].name;
    const char *a = x, *b = y;
    for (;;) {
        size_t n = strcspn(a, "."), m = strcspn(b, ".");
        int order = by_part(a, n, b, m);
        if (order) return order;
        if (!a[n] || !b[m]) return a[n] ? 1 : b[m] ? -1 : strcmp(x, y);
        a += n + 1;
        b += m + 1;
    }
}

/* The shard of each tensor; returns how many there are. `order` has room for all. */
static int64_t cut(const cvt_ckpt *c, uint64_t shard_bytes, int64_t *order, int64_t *shard)
{
    int64_t at = 0;
    uint64_t size = 0;
    for (int64_t i = 0; i < c->n_tensors; i++) order[i] = i;
    qsort_r(order, (size_t)c->n_tensors, sizeof *order, by_layer, c->tensors);
    for (int64_t i = 0; i < c->n_tensors; i++) {
        uint64_t n = cvt_ckpt_tensor_bytes(&c->tensors[order[i]]);
        if (shard_bytes && i > 0 && (size > shard_bytes || n > shard_bytes - size)) {
            at++;
            size = 0;
        }
        shard[order[i]] = at;
        size += n;
    }
    return at + 1;
}

/* All pairs of the old files, the first of each key, for the new ones. */
static fh1_status gather_meta(const cvt_ckpt *c, cvt_ckpt_file *to)
{
    for (int64_t i = 0; i < c->n_files; i++) {
        const cvt_ckpt_file *f = &c->files[i];
        for (int k = 0; k < f->n_meta; k++) {
            bool known = false;
            for (int j = 0; j < to->n_meta; j++) known |= strcmp(to->meta[j].key, f->meta[k].key) == 0;
            if (!known) FH1_TRY(cvt_ckpt_push_meta(to, f->meta[k].key, f->meta[k].value));
        }
    }
    return NULL;
}

static fh1_status push_shards(cvt_ckpt *c, int64_t n_shards, const cvt_ckpt_file *meta)
{
    char name[64] = SINGLE;
    for (int64_t i = 0; i < n_shards; i++) {
        if (n_shards > 1)
            snprintf(name, sizeof name, "model-%05lld-of-%05lld.safetensors", (long long)i + 1, (long long)n_shards);
        FH1_TRY(cvt_ckpt_push_file(c, name, true, 0, -1));
        cvt_ckpt_file *f = &c->files[c->n_files - 1];
        for (int k = 0; k < meta->n_meta; k++) FH1_TRY(cvt_ckpt_push_meta(f, meta->meta[k].key, meta->meta[k].value));
    }
    return NULL;
}

/* The old files of weights go; only side files keep their places. */
static void remove_weights(cvt_ckpt *c)
{
    int64_t kept = 0;
    for (int64_t i = 0; i < c->n_files; i++) {
        if (c->files[i].weights) cvt_ckpt_clear_file(&c->files[i]);
        else c->files[kept++] = c->files[i];
    }
    c->n_files = kept;
}

fh1_status cvt_ckpt_reshard(cvt_ckpt *c, uint64_t shard_bytes)
{
    if (c->n_tensors == 0) return NULL;
    int64_t *shard = malloc(2 * (size_t)c->n_tensors * sizeof *shard);
    if (!shard) return fh1_no_memory(2 * (size_t)c->n_tensors * sizeof *shard, "the shards");
    int64_t n_shards = cut(c, shard_bytes, shard + c->n_tensors, shard);
    cvt_ckpt_file meta = {0};
    fh1_status s = gather_meta(c, &meta);
    if (!s) {
        remove_weights(c);
        int64_t first = c->n_files;
        s = push_shards(c, n_shards, &meta);
        for (int64_t i = 0; i < c->n_tensors; i++) {
            c->tensors[i].file = first + shard[i];
            c->tensors[i].begin = 0;
        }
    }
    if (!s) s = cvt_ckpt_finish(c);
    cvt_ckpt_clear_file(&meta);
    free(shard);
    return s;
}

/* ---- headers ---- */

/* Files of weights that edits have left without a tensor: gone, unless there is no other. */
static void drop_empty(cvt_ckpt *c)
{
    for (int64_t i = c->n_files; i-- > 0;) {
        int64_t inside = 0, others = 0;
        if (!c->files[i].weights || c->files[i].header) continue;
        for (int64_t k = 0; k < c->n_tensors; k++) inside += c->tensors[k].file == i;
        for (int64_t k = 0; k < c->n_files; k++) others += c->files[k].weights && k != i;
        if (inside == 0 && others > 0) cvt_ckpt_remove_file(c, c->files[i].name);
    }
}

static fh1_status make_header(cvt_ckpt *c, int64_t file, cvt_st_item *items)
{
    cvt_ckpt_file *f = &c->files[file];
    size_t n = 0, header_bytes = 0;
    for (int64_t i = 0; i < c->n_tensors; i++) {
        const cvt_ckpt_tensor *t = &c->tensors[i];
        if (t->file != file) continue;
        FH1_TRY(fh1_where(cvt_st_check_name(t->name), "tensor \"%.120s\"", t->name));
        items[n++] = (cvt_st_item){.name = t->name,
                                   .dtype = t->dtype,
                                   .rank = t->rank,
                                   .shape = t->shape,
                                   .n_bytes = cvt_ckpt_tensor_bytes(t),
                                   .tag = (size_t)i};
    }
    for (int k = 0; k < f->n_meta; k++) {
        FH1_TRY(cvt_st_check_text(f->meta[k].key));
        FH1_TRY(cvt_st_check_text(f->meta[k].value));
    }
    FH1_TRY(cvt_st_layout(items, n, f->meta, (size_t)f->n_meta, &f->header, &header_bytes));
    f->header_bytes = f->bytes = header_bytes;
    for (size_t i = 0; i < n; i++) {
        c->tensors[items[i].tag].begin = header_bytes + items[i].begin;
        f->bytes += items[i].n_bytes;
    }
    return NULL;
}

/* ---- the index ---- */

typedef struct {
    const char *key; /* owned by the old index */
    char *value;     /* JSON, malloc'ed */
} member;

static int by_key(const void *a, const void *b)
{
    return strcmp(((const member *)a)->key, ((const member *)b)->key);
}

/* Bytes of all tensors, and their elements; *plain: all are floats, so that the elements are parameters. */
static uint64_t count(const cvt_ckpt *c, uint64_t *n_elems, bool *plain)
{
    uint64_t bytes = 0;
    *n_elems = 0;
    *plain = true;
    for (int64_t i = 0; i < c->n_tensors; i++) {
        const cvt_ckpt_tensor *t = &c->tensors[i];
        uint64_t n = cvt_ckpt_tensor_bytes(t);
        bytes += n;
        *n_elems += n * 8 / (uint64_t)fh1_dtype_bits(t->dtype);
        *plain &= fh1_dtype_is_float(t->dtype);
    }
    return bytes;
}

static char *number(uint64_t n)
{
    char *text;
    return asprintf(&text, "%llu", (unsigned long long)n) < 0 ? NULL : text;
}

/* The members of "metadata": those of the old index, with the sizes of now. */
static fh1_status gather_members(const cvt_ckpt *c, const cJSON *old, member **out, size_t *n)
{
    uint64_t n_elems, room = 2;
    bool plain;
    uint64_t bytes = count(c, &n_elems, &plain);
    const cJSON *first = cJSON_IsObject(old) ? old->child : NULL;
    for (const cJSON *v = first; v; v = v->next) room++;
    member *m = *out = calloc(room, sizeof *m);
    if (!m) return fh1_no_memory(room * sizeof *m, "the index");
    m[(*n)++] = (member){"total_size", number(bytes)};
    if (plain) m[(*n)++] = (member){"total_parameters", number(n_elems)};
    for (const cJSON *v = first; v; v = v->next) {
        if (strcmp(v->string, "total_size") == 0 || (plain && strcmp(v->string, "total_parameters") == 0)) continue;
        m[(*n)++] = (member){v->string, cvt_json_print(v)};
    }
    for (size_t i = 0; i < *n; i++)
        if (!m[i].value) return fh1_no_memory(64, "the index");
    qsort(m, *n, sizeof *m, by_key);
    return NULL;
}

static void add_index(cvt_text *b, const cvt_ckpt *c, const member *m, size_t n)
{
    cvt_text_add(b, "{\n  \"metadata\": {");
    for (size_t i = 0; i < n; i++) {
        cvt_text_add(b, "%s\n    ", i ? "," : "");
        cvt_text_json(b, m[i].key, true);
        cvt_text_add(b, ": %s", m[i].value);
    }
    cvt_text_add(b, "\n  },\n  \"weight_map\": {");
    for (int64_t i = 0; i < c->n_tensors; i++) {
        cvt_text_add(b, "%s\n    ", i ? "," : "");
        cvt_text_json(b, c->tensors[i].name, true);
        cvt_text_add(b, ": ");
        cvt_text_json(b, c->files[c->tensors[i].file].name, true);
    }
    cvt_text_add(b, "%s}\n}\n", c->n_tensors ? "\n  " : "");
}

/* The old index, NULL when there is none that can be read. */
static cJSON *old_index(cvt_ckpt *c)
{
    char *text;
    size_t n;
    cJSON *json = NULL;
    int64_t at = cvt_ckpt_find_file(c, INDEX);
    if (at < 0 || c->files[at].weights || cvt_ckpt_file_text(c, at, MAX_INDEX, &text, &n)) return NULL;
    if (cvt_json_parse(text, n, MAX_DEPTH, INDEX, &json)) json = NULL;
    free(text);
    return json;
}

static fh1_status make_index(cvt_ckpt *c)
{
    member *m = NULL;
    size_t n = 0;
    cvt_text b = {0};
    cJSON *old = old_index(c);
    fh1_status s = gather_members(c, cJSON_GetObjectItemCaseSensitive(old, "metadata"), &m, &n);
    if (!s) add_index(&b, c, m, n);
    if (!s) s = b.failed ? fh1_no_memory(b.n, "the index") : cvt_ckpt_set_file(c, INDEX, b.s, b.n);
    for (size_t i = 0; i < n; i++) free(m[i].value);
    free(m);
    free(b.s);
    cJSON_Delete(old);
    return s;
}

fh1_status cvt_ckpt_lay_out(cvt_ckpt *c)
{
    int64_t n_weights = 0, missing = 0;
    drop_empty(c);
    for (int64_t i = 0; i < c->n_files; i++) {
        n_weights += c->files[i].weights;
        missing += c->files[i].weights && !c->files[i].header;
    }
    if (missing == 0) return NULL;
    cvt_st_item *items = calloc((size_t)c->n_tensors + 1, sizeof *items);
    if (!items) return fh1_no_memory((size_t)c->n_tensors * sizeof *items, "the table of tensors");
    fh1_status s = NULL;
    for (int64_t i = 0; !s && i < c->n_files; i++)
        if (c->files[i].weights && !c->files[i].header)
            s = fh1_where(make_header(c, i, items), "%s, %s", c->path, c->files[i].name);
    free(items);
    if (s) return s;
    int64_t single = cvt_ckpt_find_file(c, SINGLE);
    if (n_weights > 1 || single < 0 || !c->files[single].weights) return make_index(c);
    cvt_ckpt_remove_file(c, INDEX);
    return NULL;
}
