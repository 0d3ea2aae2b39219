#include "cli/train_data.h"

#include "cli/train_text.h"
#include "convert/hash.h"
#include "oracle/random.h"
#include "oracle/tensor.h" /* fh1_mul_i64 */

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Up to T tokens of one document that no row has taken yet. */
typedef struct {
    bool there;
    cli_train_place place; /* where it begins */
    int64_t n, *ids;       /* [T] */
} piece;

struct cli_train_data {
    cli_train_text text;
    int64_t T, shuffle;
    cli_train_facts facts;
    int64_t *offsets, *order; /* [documents] of their lines; this epoch's order of them; NULL: the file's */
    cli_train_place next;     /* where the text goes on */
    bool inside;              /* the text stands behind `next.token` tokens of the document, not before its line */
    piece ahead;
};

/* ---- the first look at the whole file ---- */

typedef struct {
    cli_train_data *d;
    int64_t room;
    cvt_hash *hash;
} survey;

static void hash_some(void *user, const void *data, size_t n)
{
    cvt_hash_add(((survey *)user)->hash, data, n);
}

static fh1_status note_document(survey *v, uint64_t offset, int64_t n)
{
    cli_train_data *d = v->d;
    cli_train_facts *f = &d->facts;
    if (n == 0) return NULL;
    if (d->shuffle >= 0 && f->documents == v->room) {
        v->room = v->room ? 2 * v->room : 1024;
        int64_t *grown = realloc(d->offsets, (size_t)v->room * sizeof *grown);
        if (!grown) return fh1_no_memory((size_t)v->room * sizeof *grown, "the places of documents");
        d->offsets = grown;
    }
    if (d->shuffle >= 0) d->offsets[f->documents] = (int64_t)offset;
    f->documents++;
    f->tokens += n;
    f->labels += n - (n + d->T - 1) / d->T; /* all but the first of each piece */
    return NULL;
}

static fh1_status read_all(survey *v)
{
    cli_train_text *t = &v->d->text;
    uint64_t begin = 0;
    int64_t n = 0, id;
    for (cli_text_kind kind = CLI_TEXT_ID; kind != CLI_TEXT_END;) {
        FH1_TRY(cli_train_text_next(t, &kind, &id));
        if (kind == CLI_TEXT_ID) {
            n++;
            continue;
        }
        FH1_TRY(note_document(v, begin, n));
        begin = cli_train_text_offset(t);
        n = 0;
    }
    return NULL;
}

static fh1_status look(cli_train_data *d)
{
    survey v = {.d = d};
    FH1_TRY(cvt_hash_new(&v.hash));
    d->text.seen = hash_some;
    d->text.user = &v;
    fh1_status s = read_all(&v);
    d->text.seen = NULL;
    d->facts.bytes = d->text.size;
    snprintf(d->facts.hash, sizeof d->facts.hash, "%s", cvt_hash_end(v.hash).hex);
    cvt_hash_free(v.hash);
    if (s || d->facts.labels > 0) return s;
    s = fh1_where(FH1_BAD("nothing to learn from: no token follows another in the same document"), "%s", d->text.path);
    return fh1_found(fh1_expected(s, "documents of two tokens or more, one per line"),
                     "%" PRId64 " documents, %" PRId64 " tokens", d->facts.documents, d->facts.tokens);
}

/* ---- orders ---- */

/* Fisher and Yates from the file's order, so that an epoch's order depends on nothing but seed and epoch. */
static void draw_order(cli_train_data *d)
{
    char name[64];
    if (!d->order) return;
    snprintf(name, sizeof name, "fh1 train epoch %" PRId64, d->next.epoch);
    const fh1_stream r = fh1_stream_open((uint64_t)d->shuffle, name);
    memcpy(d->order, d->offsets, (size_t)d->facts.documents * sizeof *d->order);
    for (int64_t i = d->facts.documents - 1; i > 0; i--) {
        const int64_t k = fh1_random_below(r, (uint64_t)i, i + 1), swap = d->order[i];
        d->order[i] = d->order[k];
        d->order[k] = swap;
    }
}

fh1_status cli_train_data_open(const char *path, int64_t V, int64_t T, int64_t shuffle, cli_train_data **out)
{
    *out = NULL;
    if (T < 2) return FH1_BAD("rows of %" PRId64 " columns hold nothing to predict", T);
    cli_train_data *d = calloc(1, sizeof *d);
    if (!d || T > INT64_MAX / 8 || !(d->ahead.ids = malloc((size_t)T * sizeof *d->ahead.ids))) {
        free(d);
        return fh1_no_memory((size_t)T * sizeof *d->ahead.ids, "a row of tokens");
    }
    d->T = T;
    d->shuffle = shuffle;
    fh1_status s = cli_train_text_open(path, V, &d->text);
    if (!s) s = look(d);
    if (!s && shuffle >= 0 && !(d->order = malloc((size_t)d->facts.documents * sizeof *d->order)))
        s = fh1_no_memory((size_t)d->facts.documents * sizeof *d->order, "the order of documents");
    if (s) {
        cli_train_data_free(d);
        return s;
    }
    draw_order(d);
    cli_train_text_seek(&d->text, 0);
    *out = d;
    return NULL;
}

void cli_train_data_free(cli_train_data *d)
{
    if (!d) return;
    cli_train_text_close(&d->text);
    free(d->ahead.ids);
    free(d->offsets);
    free(d->order);
    free(d);
}

const cli_train_facts *cli_train_data_facts(const cli_train_data *d)
{
    return &d->facts;
}

/* ---- pieces ---- */

static void next_epoch(cli_train_data *d)
{
    d->next = (cli_train_place){.epoch = d->next.epoch + 1};
    draw_order(d);
    cli_train_text_seek(&d->text, 0);
}

/* Before the first token of document `next`; lines without one are passed over. */
static fh1_status find_document(cli_train_data *d, cli_text_kind *kind, int64_t *id)
{
    if (d->order) {
        d->next.offset = d->order[d->next.document];
        cli_train_text_seek(&d->text, (uint64_t)d->next.offset);
    }
    do {
        if (!d->order) d->next.offset = (int64_t)cli_train_text_offset(&d->text);
        FH1_TRY(cli_train_text_next(&d->text, kind, id));
    } while (*kind == CLI_TEXT_LINE_END);
    return NULL;
}

/* Fills `ahead`, unless it is full. */
static fh1_status look_ahead(cli_train_data *d)
{
    piece *p = &d->ahead;
    cli_text_kind kind;
    int64_t id;
    if (p->there) return NULL;
    if (!d->inside) {
        if (d->next.document == d->facts.documents) next_epoch(d);
        FH1_TRY(find_document(d, &kind, &id));
    } else {
        FH1_TRY(cli_train_text_next(&d->text, &kind, &id));
    }
    p->place = d->next;
    for (p->n = 0; kind == CLI_TEXT_ID;) {
        p->ids[p->n++] = id;
        if (p->n == d->T) break;
        FH1_TRY(cli_train_text_next(&d->text, &kind, &id));
    }
    p->there = p->n > 0;
    d->next.token += p->n;
    d->inside = kind == CLI_TEXT_ID;
    if (!d->inside)
        d->next = (cli_train_place){d->next.epoch, d->next.document + 1, 0, (int64_t)cli_train_text_offset(&d->text)};
    return p->there ? NULL : look_ahead(d); /* a document whose length is a multiple of T ended before */
}

cli_train_place cli_train_data_tell(const cli_train_data *d)
{
    return d->ahead.there ? d->ahead.place : d->next;
}

fh1_status cli_train_data_seek(cli_train_data *d, const cli_train_place *to)
{
    cli_text_kind kind;
    int64_t id;
    const bool inside = to->epoch >= 0 && to->document >= 0 && to->document <= d->facts.documents && to->token >= 0 &&
                        to->offset >= 0 && (uint64_t)to->offset <= d->facts.bytes;
    if (!inside) return fh1_where(FH1_BAD("the place to go on from is not in the data"), "%s", d->text.path);
    d->next = *to;
    d->ahead.there = d->inside = false;
    draw_order(d);
    if (to->document == d->facts.documents) return NULL;
    cli_train_text_seek(&d->text, (uint64_t)to->offset);
    if (to->token == 0) return NULL;
    FH1_TRY(find_document(d, &kind, &id));
    for (int64_t i = 0; i < to->token && kind == CLI_TEXT_ID; i++) {
        if (i + 1 == to->token) d->inside = true;
        else FH1_TRY(cli_train_text_next(&d->text, &kind, &id));
    }
    if (d->inside) return NULL;
    return fh1_where(FH1_BAD("the place to go on from is not in the data"), "%s", d->text.path);
}

/* ---- rows ---- */

fh1_status cli_train_batch_new(int64_t B, int64_t T, cli_train_batch *b)
{
    int64_t n, all;
    *b = (cli_train_batch){0};
    if (!fh1_mul_i64(B, T, &n) || !fh1_mul_i64(n, 5, &all) || all > INT64_MAX / 8)
        return FH1_BAD("a batch of %" PRId64 " rows of %" PRId64 " tokens is too large", B, T);
    if (!(b->memory = calloc((size_t)all, sizeof *b->memory)))
        return fh1_no_memory((size_t)all * sizeof *b->memory, "a batch");
    b->batch = (fh1_batch){.B = B,
                           .T = T,
                           .ids = b->memory,
                           .mask = b->memory + n,
                           .mask_len = T,
                           .positions = b->memory + 2 * n,
                           .seq_idx = b->memory + 3 * n,
                           .labels = b->memory + 4 * n};
    return NULL;
}

void cli_train_batch_free(cli_train_batch *b)
{
    free(b->memory);
    *b = (cli_train_batch){0};
}

/* The arrays of a batch from one cell on. */
typedef struct {
    int64_t *ids, *mask, *positions, *seq_idx, *labels;
} cells;

static cells cells_of(const cli_train_batch *b, int64_t cell)
{
    const int64_t n = b->batch.B * b->batch.T;
    int64_t *at = b->memory + cell;
    return (cells){at, at + n, at + 2 * n, at + 3 * n, at + 4 * n};
}

static void put_piece(cli_train_batch *b, int64_t cell, int64_t document, const piece *p)
{
    const cells c = cells_of(b, cell);
    for (int64_t i = 0; i < p->n; i++) {
        c.ids[i] = p->ids[i];
        c.mask[i] = 1;
        c.positions[i] = i;
        c.seq_idx[i] = document;
        c.labels[i] = i ? p->ids[i] : -100;
    }
    b->n_tokens += p->n;
    b->n_labels += p->n - 1;
}

/* Padding belongs to the row's last document, whose number must not fall. */
static void put_padding(cli_train_batch *b, int64_t cell, int64_t document, int64_t n)
{
    const cells c = cells_of(b, cell);
    for (int64_t i = 0; i < n; i++) {
        c.ids[i] = c.mask[i] = c.positions[i] = 0;
        c.seq_idx[i] = document;
        c.labels[i] = -100;
    }
}

static fh1_status fill_row(cli_train_data *d, cli_train_batch *b, int64_t row)
{
    int64_t at = 0, document = 0, epoch = 0;
    for (;; document++) {
        FH1_TRY(look_ahead(d));
        if (at == 0) epoch = d->ahead.place.epoch;
        if (d->ahead.n > d->T - at || d->ahead.place.epoch != epoch) break;
        put_piece(b, row * d->T + at, document, &d->ahead);
        at += d->ahead.n;
        d->ahead.there = false;
    }
    put_padding(b, row * d->T + at, document - 1, d->T - at);
    return NULL;
}

fh1_status cli_train_data_next(cli_train_data *d, cli_train_batch *b)
{
    b->n_labels = b->n_tokens = 0;
    for (int64_t row = 0; row < b->batch.B; row++) FH1_TRY(fill_row(d, b, row));
    return NULL;
}
