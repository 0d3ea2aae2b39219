#include "cli/ids.h"
#include "convert/file.h"

#include "cli/options.h"
#include "oracle/random.h"
#include "oracle/tensor.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The rows as read, before padding: row b is ids[begin[b]] .. ids[begin[b + 1] - 1]. */
typedef struct {
    int64_t *ids, *begin;
    int64_t n, cap, B, cap_rows;
} ragged;

static fh1_status grow(int64_t **array, int64_t *cap, int64_t need)
{
    if (need <= *cap) return NULL;
    int64_t n = *cap ? 2 * *cap : 256;
    int64_t *bigger = realloc(*array, (size_t)n * sizeof **array);
    if (!bigger) return fh1_no_memory((size_t)n * sizeof **array, "token ids");
    *array = bigger;
    *cap = n;
    return NULL;
}

static fh1_status read_word(const char *path, int64_t line, const char *start, const char *word, int64_t V, ragged *r)
{
    int64_t id, column = word - start + 1;
    char text[32];
    size_t n = 0;
    while (word[n] && !isspace((unsigned char)word[n]) && n < sizeof text - 1) n++;
    memcpy(text, word, n);
    text[n] = 0;
    if (!cli_read_int(text, &id) || id < 0 || id >= V) {
        fh1_status e = fh1_where(FH1_BAD("not a token id of this model"), "%s, line %" PRId64 ", column %" PRId64, path,
                                 line, column);
        return fh1_found(fh1_expected(e, "a whole number, 0 to %" PRId64, V - 1), "'%s'", text);
    }
    FH1_TRY(grow(&r->ids, &r->cap, r->n + 1));
    r->ids[r->n++] = id;
    return NULL;
}

static fh1_status read_line(const char *path, int64_t line, const char *text, int64_t V, ragged *r)
{
    int64_t before = r->n;
    for (const char *p = text; *p;) {
        if (isspace((unsigned char)*p)) {
            p++;
            continue;
        }
        FH1_TRY(read_word(path, line, text, p, V, r));
        while (*p && !isspace((unsigned char)*p)) p++;
    }
    if (r->n == before) return NULL;
    FH1_TRY(grow(&r->begin, &r->cap_rows, r->B + 2));
    r->begin[r->B++] = before;
    r->begin[r->B] = r->n;
    return NULL;
}

/* An empty line between rows would silently shift the row numbers, so only the end may be empty. */
static fh1_status read_rows(const char *path, FILE *f, int64_t V, ragged *r)
{
    char *text = NULL;
    size_t size = 0;
    ssize_t len;
    int64_t line = 0, empty = 0;
    fh1_status e = NULL;
    while (!e && (len = getline(&text, &size, f)) >= 0) {
        int64_t rows = r->B;
        line++;
        if (strlen(text) != (size_t)len)
            e = fh1_where(FH1_BAD("a zero byte in a text file"), "%s, line %" PRId64, path, line);
        else e = read_line(path, line, text, V, r);
        if (e) break;
        if (r->B == rows) empty = empty ? empty : line;
        else if (empty)
            e = fh1_where(fh1_expected(FH1_BAD("an empty line before the last row"), "one row of ids per line"),
                          "%s, line %" PRId64, path, empty);
    }
    if (!e && !feof(f)) e = fh1_where(cvt_cannot(errno, "cannot read"), "%s", path);
    if (!e && r->B == 0)
        e = fh1_where(fh1_expected(FH1_BAD("no token ids"), "one row per line, ids separated by blanks"), "%s, line 1",
                      path);
    free(text);
    return e;
}

static fh1_status ids_new(int64_t B, int64_t T, bool padded, cli_ids *out)
{
    int64_t n;
    memset(out, 0, sizeof *out);
    if (!fh1_mul_i64(B, T, &n) || n > INT64_MAX / 64)
        return FH1_BAD("a batch of %" PRId64 " rows of %" PRId64 " tokens is too large", B, T);
    size_t n_bytes = (size_t)n * sizeof *out->ids;
    out->ids = calloc((size_t)n, sizeof *out->ids);
    if (padded) {
        out->mask = calloc((size_t)n, sizeof *out->mask);
        out->positions = calloc((size_t)n, sizeof *out->positions);
    }
    if (!out->ids || (padded && (!out->mask || !out->positions))) {
        cli_ids_free(out);
        return fh1_no_memory(n_bytes, "token ids");
    }
    out->batch = (fh1_batch){
        .B = B, .T = T, .ids = out->ids, .mask = out->mask, .mask_len = padded ? T : 0, .positions = out->positions};
    return NULL;
}

static fh1_status pad_left(const ragged *r, cli_ids *out)
{
    int64_t T = 0;
    bool padded = false;
    for (int64_t b = 0; b < r->B; b++) {
        int64_t n = r->begin[b + 1] - r->begin[b];
        padded = padded || (b && n != T);
        T = n > T ? n : T;
    }
    FH1_TRY(ids_new(r->B, T, padded, out));
    for (int64_t b = 0; b < r->B; b++) {
        int64_t n = r->begin[b + 1] - r->begin[b], first = b * T + T - n;
        for (int64_t t = 0; t < n; t++) {
            out->ids[first + t] = r->ids[r->begin[b] + t];
            if (!padded) continue;
            out->mask[first + t] = 1;
            out->positions[first + t] = t;
        }
    }
    return NULL;
}

fh1_status cli_ids_read(const char *path, int64_t V, cli_ids *out)
{
    ragged r = {0};
    memset(out, 0, sizeof *out);
    FILE *f = fopen(path, "r");
    if (!f) return fh1_where(cvt_cannot(errno, "cannot open"), "%s", path);
    fh1_status e = read_rows(path, f, V, &r);
    if (!e) e = pad_left(&r, out);
    fclose(f);
    free(r.ids);
    free(r.begin);
    return e;
}

fh1_status cli_ids_seeded(uint64_t seed, int64_t B, int64_t T, int64_t V, cli_ids *out)
{
    FH1_TRY(ids_new(B, T, false, out));
    fh1_stream s = fh1_stream_open(seed, "fh1 trace ids");
    for (int64_t i = 0; i < B * T; i++) out->ids[i] = fh1_random_below(s, (uint64_t)i, V);
    return NULL;
}

void cli_ids_free(cli_ids *ids)
{
    free(ids->ids);
    free(ids->mask);
    free(ids->positions);
    memset(ids, 0, sizeof *ids);
}
