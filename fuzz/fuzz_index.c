/* The audit of model.safetensors.index.json and its shards (convert/hf_index.h). It says what a second audit says
 * (slow_index.h), twice the same, with bounds of memory and time.
 *
 * An input is the index, a NUL, and what four files hold, separated by NULs: lines `tensor=bytes`, or behind `!` the
 * bytes of a file that need not be safetensors. The files a.safetensors to d.safetensors are always in the folder. */
#include "fuzz/folder.h"
#include "fuzz/message.h"
#include "fuzz/mutate_json.h"
#include "fuzz/plant.h"
#include "fuzz/slow_index.h"

#include "convert/hf_index.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SHARDS = 4 };

static const char *const shard_names[SHARDS] = {"a.safetensors", "b.safetensors", "c.safetensors", "d.safetensors"};

/* A file of the folder, and what was written to it last: most inputs change one of them. */
typedef struct {
    uint8_t *bytes;
    size_t size;
} kept;

typedef struct {
    const char *index; /* the text */
    size_t n_index, n_all;
    slow_shard shards[SHARDS];
} input;

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    slow_json_without = getenv("FH1_FUZZ_PLANT");
    fuzz_folder_link("model.safetensors.index.json", fuzz_file(0, "", 0));
    for (int i = 0; i < SHARDS; i++) fuzz_folder_link(shard_names[i], fuzz_file(1 + i, "", 0));
    return 0;
}

/* -- files from an input ---------------------------------------------------------------------------- */

/* Bytes up to the next NUL; *at moves behind it. */
static const char *part(const char *data, size_t size, size_t *at, size_t *n)
{
    const char *begin = data + *at, *nul = memchr(begin, 0, size - *at);
    *n = nul ? (size_t)(nul - begin) : size - *at;
    *at += *n + (nul != NULL);
    return begin;
}

/* One line of a list becomes an entry of the header; how many bytes it has. */
static size_t add_entry(char *header, size_t *n, const char *line, size_t n_line, size_t begin)
{
    size_t n_name = n_line, bytes = 0;
    for (size_t i = 0; i < n_line; i++)
        if (line[i] == '=') n_name = i;
    for (size_t i = n_name + 1; i < n_line && i < n_name + 3; i++)
        if (line[i] >= '0' && line[i] <= '9') bytes = bytes * 10 + (size_t)(line[i] - '0');
    *n += (size_t)sprintf(header + *n, "%c\"", *n > 1 ? ',' : ' ');
    for (size_t i = 0; i < n_name; i++) {
        const bool escaped = (unsigned char)line[i] < 0x20 || line[i] == '"' || line[i] == '\\';
        *n += (size_t)sprintf(header + *n, escaped ? "\\u%04x" : "%c", (unsigned char)line[i]);
    }
    *n += (size_t)sprintf(header + *n, "\":{\"dtype\":\"U8\",\"shape\":[%zu],\"data_offsets\":[%zu,%zu]}", bytes, begin,
                          begin + bytes);
    return bytes;
}

/* The file that a list describes, malloc'ed. */
static uint8_t *file_of(const char *list, size_t n_list, size_t *size)
{
    enum { MOST = 90 };                                 /* of an entry, without its name */
    char *file = malloc(16 + n_list * (6 + MOST + 99)); /* a line of one byte stands for 99 bytes of data at most */
    size_t n = 1, n_data = 0;
    if (!file) abort();
    if (n_list > 0 && list[0] == '!') {
        memcpy(file, list + 1, n_list - 1);
        *size = n_list - 1;
        return (uint8_t *)file;
    }
    char *header = file + 8;
    header[0] = '{';
    for (size_t at = 0; at < n_list;) {
        const char *line = list + at, *end = memchr(line, '\n', n_list - at);
        const size_t n_line = end ? (size_t)(end - line) : n_list - at;
        if (n_line) n_data += add_entry(header, &n, line, n_line, n_data);
        at += n_line + 1;
    }
    header[n++] = '}';
    for (int i = 0; i < 8; i++) file[i] = (char)(unsigned char)((uint64_t)n >> (8 * i));
    memset(header + n, 0x2a, n_data);
    *size = 8 + n + n_data;
    return (uint8_t *)file;
}

static void set_file(int slot, const void *bytes, size_t size)
{
    static kept last[1 + SHARDS];
    kept *k = &last[slot];
    if (k->bytes && k->size == size && memcmp(k->bytes, bytes, size) == 0) return;
    free(k->bytes);
    k->bytes = malloc(size ? size : 1);
    if (!k->bytes) abort();
    memcpy(k->bytes, bytes, size);
    k->size = size;
    fuzz_file(slot, bytes, size);
}

static void make_files(const uint8_t *data, size_t size, input *in)
{
    size_t at = 0, n;
    memset(in, 0, sizeof *in);
    in->index = part((const char *)data, size, &at, &in->n_index);
    set_file(0, in->index, in->n_index);
    in->n_all = in->n_index;
    for (int i = 0; i < SHARDS; i++) {
        slow_shard *s = &in->shards[i];
        const char *list = part((const char *)data, size, &at, &n);
        s->name = shard_names[i];
        s->data = file_of(list, n, &s->size);
        set_file(1 + i, s->data, s->size);
        in->n_all += s->size;
    }
}

static void free_files(input *in)
{
    for (int i = 0; i < SHARDS; i++) free((void *)(uintptr_t)in->shards[i].data);
}

/* -- checks ------------------------------------------------------------------------------------------- */

/* The files that are named, sorted, each with its tensors. */
static void same_files(const input *in, const cvt_hf_files *f)
{
    int64_t at = 0;
    for (int i = 0; i < SHARDS; i++) {
        const slow_shard *s = &in->shards[i];
        if (!s->named) continue;
        FUZZ_CHECK(at < f->n_files, "%lld files", (long long)f->n_files);
        const cvt_st *file = f->files[at++];
        const char *path = cvt_st_path(file), *name = strrchr(path, '/');
        FUZZ_CHECK(name && strcmp(name + 1, s->name) == 0, "%s, not %s", path, s->name);
        FUZZ_CHECK((size_t)cvt_st_count(file) == s->read.n + fuzz_planted("table"), "%s", path);
        for (size_t k = 0; k < s->read.n; k++) {
            const slow_tensor *t = &s->read.tensors[k];
            const cvt_st_entry *e = cvt_st_find(file, t->name);
            FUZZ_CHECK(e && e->end - e->begin == (uint64_t)(t->end - t->begin), "%s in %s", t->name, path);
        }
    }
    FUZZ_CHECK(at == f->n_files, "%lld files instead of %lld", (long long)f->n_files, (long long)at);
}

static void scan_again(void *user)
{
    cvt_hf_files f;
    (void)user;
    if (!cvt_hf_files_scan(fuzz_folder(), &f)) cvt_hf_files_close(&f);
}

/* Another time; with the files mapped, where no warning about one that is left out goes to stderr. */
static void same_again(const input *in, bool mapped, const char *line)
{
    char second[FUZZ_LINE];
    cvt_hf_files f;
    const fh1_status s = mapped ? cvt_hf_files_open(fuzz_folder(), &f) : cvt_hf_files_scan(fuzz_folder(), &f);
    fuzz_check_message(s, fuzz_folder(), second);
    if (fuzz_planted("message") && second[0]) second[1]++;
    FUZZ_CHECK(strcmp(line, second) == 0, "'%s' and then '%s'", line, second);
    if (!s) same_files(in, &f);
    cvt_hf_files_close(&f);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    input in;
    fuzz_bounds b;
    cvt_hf_files f;
    char line[FUZZ_LINE];
    make_files(data, size, &in);
    fuzz_bounds_begin(&b);
    const fh1_status s = cvt_hf_files_scan(fuzz_folder(), &f);
    fuzz_check_message(s, fuzz_folder(), line);
    /* The text itself; a node of cJSON for two bytes of it ("[0,"), 36 times the text; a header's entry is 47 times
     * (fuzz_safetensors.c). The index holds a path of 4096 bytes, a file one of 100. */
    fuzz_bounds_end(&b, in.n_all, 16384, fuzz_planted("memory") ? -1e3 : 48, 10, 1, scan_again, NULL);
    const bool good = slow_index_audit(in.index, in.n_index, in.shards, SHARDS);
    FUZZ_CHECK(good == (s == NULL), "the audit says: %s; the second one %s it", s ? line : "good",
               good ? "accepts" : "refuses");
    if (good) same_files(&in, &f);
    bool all = good;
    for (int i = 0; i < SHARDS; i++) all = all && in.shards[i].named;
    if (good || in.n_index % 4 == 0) same_again(&in, all, line);
    slow_index_free(in.shards, SHARDS);
    if (!fuzz_planted("leak")) cvt_hf_files_close(&f);
    fuzz_nothing_left(&b);
    free_files(&in);
    return 0;
}

/* -- where inputs come from ---------------------------------------------------------------------------- */

static const char *const words[] = {"weight_map",
                                    "metadata",
                                    "total_size",
                                    "a.safetensors",
                                    "b.safetensors",
                                    "c.safetensors",
                                    "d.safetensors",
                                    "e.safetensors",
                                    "../a.safetensors",
                                    "x/a.safetensors",
                                    "x\\\\a.safetensors",
                                    ".safetensors",
                                    "a.safetensors.bak",
                                    "a.bin",
                                    "A.safetensors",
                                    "a",
                                    "b",
                                    "c",
                                    "lm_head.weight",
                                    NULL};
static const char other[] =
    "{\"metadata\":{\"total_size\":12,\"total_parameters\":3.0},\"weight_map\":{\"a\":\"a.safetensors\","
    "\"b\":\"b.safetensors\",\"\\u0061b\":\"d.safetensors\"}}";

/* An index that fits the lists, as most of them do not for long. */
static size_t exact_index(const char *lists, size_t n_lists, char *out, size_t room)
{
    size_t at = 0, n = 0, n_list, total = 0;
    if (room < 64) return 0;
    n += (size_t)sprintf(out, "{\"weight_map\":{");
    for (int i = 0; i < SHARDS; i++) {
        const char *list = part(lists, n_lists, &at, &n_list);
        for (size_t k = 0; k < n_list && list[0] != '!';) {
            const char *name = list + k;
            size_t n_name = 0, bytes = 0;
            while (k + n_name < n_list && !strchr("=\n\"\\", name[n_name])) n_name++;
            k += n_name;
            if (k < n_list && list[k] == '=') bytes = (size_t)atoi(list + k + 1) % 100;
            while (k < n_list && list[k] != '\n') k++;
            k++;
            if (n_name == 0) continue;
            if (n + n_name + 64 > room) return 0;
            total += bytes;
            n += (size_t)sprintf(out + n, "%s\"%.*s\":\"%s\"", out[n - 1] == '{' ? "" : ",", (int)n_name, name,
                                 shard_names[i]);
        }
    }
    return n + (size_t)snprintf(out + n, 48, "},\"metadata\":{\"total_size\":%zu}}", total);
}

/* The index and the rest of an input, each with a terminating NUL. */
typedef struct {
    char *index, *lists;
    size_t n_index, n_lists;
} parts;

static parts take_apart(const uint8_t *data, size_t size, size_t max_size)
{
    parts p = {.index = calloc(1, max_size + 1), .lists = calloc(1, max_size + 1)};
    size_t at = 0;
    if (!p.index || !p.lists) abort();
    const char *index = part((const char *)data, size, &at, &p.n_index);
    memcpy(p.index, index, p.n_index);
    p.n_lists = size - at;
    memcpy(p.lists, data + at, p.n_lists);
    return p;
}

static size_t put_together(parts *p, uint8_t *data, size_t max_size)
{
    size_t n = p->n_index < max_size ? p->n_index : max_size, rest = 0;
    memcpy(data, p->index, n);
    if (n < max_size) {
        data[n++] = 0;
        rest = p->n_lists < max_size - n ? p->n_lists : max_size - n;
        memcpy(data + n, p->lists, rest);
    }
    free(p->index);
    free(p->lists);
    return n + rest;
}

static void change_lists(parts *p, size_t max_size, fuzz_rng *r)
{
    static const char *const lines[] = {"a=1\n", "b=2\n", "c=\n", "lm_head.weight=12\n", "__metadata__=0\n", "\xff=1\n",
                                        "!\2",   "!",     "\n"};
    const char *line = lines[fuzz_below(r, sizeof lines / sizeof *lines)];
    const size_t n = strlen(line), at = fuzz_below(r, p->n_lists + 1);
    switch (fuzz_below(r, 4)) {
    case 0: p->n_lists = LLVMFuzzerMutate((uint8_t *)p->lists, p->n_lists, max_size); break;
    case 1: /* a line goes */
        for (size_t k = at; k < p->n_lists; k++) {
            const bool last = p->lists[k] == '\n';
            memmove(p->lists + k, p->lists + k + 1, p->n_lists-- - k - 1);
            k--;
            if (last) break;
        }
        break;
    case 2: /* another file begins */
        if (at < p->n_lists) p->lists[at] = p->lists[at] ? 0 : '\n';
        break;
    default:
        if (p->n_lists + n > max_size) break;
        memmove(p->lists + at + n, p->lists + at, p->n_lists - at);
        memcpy(p->lists + at, line, n);
        p->n_lists += n;
    }
    p->lists[p->n_lists] = 0;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned int seed)
{
    const fuzz_json_stock stock = {other, sizeof other - 1, words};
    fuzz_rng r = {seed};
    if (max_size < 64 || fuzz_below(&r, 32) == 0) return LLVMFuzzerMutate(data, size, max_size);
    parts p = take_apart(data, size, max_size);
    const bool lists = fuzz_below(&r, 3) == 0;
    if (lists) change_lists(&p, max_size, &r);
    if (fuzz_below(&r, lists ? 2 : 12) == 0) p.n_index = exact_index(p.lists, p.n_lists, p.index, max_size);
    else if (!lists || p.n_index == 0)
        for (uint64_t i = 1 + fuzz_below(&r, 2); i > 0; i--)
            p.n_index = fuzz_mutate_json(p.index, p.n_index, max_size, &stock, &r);
    return put_together(&p, data, max_size);
}
