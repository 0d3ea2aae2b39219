/* fh1 diff: two traces against each other, without a model and without a judgement. */
#include "cli/commands.h"
#include "cli/options.h"
#include "convert/safetensors.h"
#include "oracle/compare.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char help[] =
    "usage: fh1 diff A B [--json] [--all]\n\n"
    "Compares two traces tensor by tensor, in the order of first divergence: largest absolute difference,\n"
    "RMS difference relative to the RMS of A, place of the largest. Nothing is judged: bits are equal or not.\n"
    "Tensors that only one of them has, and other types or shapes, are differences.\n\n"
    "  --all    also list the tensors that are equal (table form)\n"
    "  --json   one JSON line per tensor, then {\"summary\":true,\"equal\",\"differ\",\"first\"}\n\n"
    "exit codes: 0 all bits equal, 1 something differs, 2 bad input\n\n"
    "example: fh1 diff golden/traces/mini-0.5b/t37.safetensors mine.safetensors\n"
    "(mine: fh1 trace golden/models/mini-0.5b --engine ref-f32 --like golden/traces/mini-0.5b/t37.safetensors -o "
    "mine.safetensors)\n";

typedef struct {
    const char *name;          /* stepJ/tap, in one of the files */
    const cvt_st_entry *a, *b; /* NULL where the file does not have it */
    int64_t step, order;
} pair;

typedef struct {
    pair *pairs;
    int64_t n, n_layers;
} pair_list;

/* The step of "stepJ/rest" and where rest begins; other names sort behind all steps. */
static int64_t split_step(const char *name, const char **rest)
{
    char *end;
    *rest = name;
    if (strncmp(name, "step", 4) != 0 || name[4] < '0' || name[4] > '9') return INT64_MAX;
    long long step = strtoll(name + 4, &end, 10);
    if (*end != '/') return INT64_MAX;
    *rest = end + 1;
    return step;
}

/* Rank within the step: inputs first, taps in their order, unknown names last. */
static void place(pair *p, int64_t n_layers)
{
    const char *rest;
    fh1_tap_id id;
    int64_t layer;
    p->step = split_step(p->name, &rest);
    if (fh1_tap_parse_any(rest, n_layers, &id, &layer)) p->order = fh1_tap_order(NULL, id, layer, n_layers);
    else p->order = strchr(rest, '.') ? INT64_MAX : -1;
}

static int compare_pairs(const void *x, const void *y)
{
    const pair *a = x, *b = y;
    if (a->step != b->step) return a->step < b->step ? -1 : 1;
    if (a->order != b->order) return a->order < b->order ? -1 : 1;
    return strcmp(a->name, b->name);
}

/* One more than the highest layer number in any tap name: the order needs a number of layers. */
static void count_layers(const cvt_st *f, int64_t *n_layers)
{
    const int64_t any = 1 << 20;
    for (int64_t i = 0; i < cvt_st_count(f); i++) {
        const char *rest;
        fh1_tap_id id;
        int64_t layer;
        split_step(cvt_st_at(f, i)->name, &rest);
        if (fh1_tap_parse_any(rest, any, &id, &layer) && layer >= *n_layers) *n_layers = layer + 1;
    }
}

static fh1_status pair_up(const cvt_st *a, const cvt_st *b, pair_list *out)
{
    size_t most = (size_t)(cvt_st_count(a) + cvt_st_count(b)) + 1;
    out->pairs = calloc(most, sizeof *out->pairs);
    if (!out->pairs) return fh1_no_memory(most * sizeof *out->pairs, "the list of tensors");
    out->n_layers = 1;
    count_layers(a, &out->n_layers);
    count_layers(b, &out->n_layers);
    for (int64_t i = 0; i < cvt_st_count(a); i++) {
        const cvt_st_entry *e = cvt_st_at(a, i);
        out->pairs[out->n++] = (pair){.name = e->name, .a = e, .b = cvt_st_find(b, e->name)};
    }
    for (int64_t i = 0; i < cvt_st_count(b); i++) {
        const cvt_st_entry *e = cvt_st_at(b, i);
        if (!cvt_st_find(a, e->name)) out->pairs[out->n++] = (pair){.name = e->name, .b = e};
    }
    for (int64_t i = 0; i < out->n; i++) place(&out->pairs[i], out->n_layers);
    qsort(out->pairs, (size_t)out->n, sizeof *out->pairs, compare_pairs);
    return NULL;
}

typedef struct {
    bool equal;
    const char *why; /* where values cannot be compared; NULL otherwise */
    double max_err, rel_rms;
    int rank;
    int64_t where[FH1_MAX_RANK];
} difference;

static void unravel(const fh1_tensor *t, int64_t ordinal, difference *d)
{
    d->rank = t->rank;
    for (int k = t->rank - 1; k >= 0; k--) {
        d->where[k] = ordinal % t->shape[k];
        ordinal /= t->shape[k];
    }
}

static bool has_values(const fh1_tensor *t)
{
    return fh1_dtype_is_float(t->dtype) || t->dtype == FH1_I64 || t->dtype == FH1_I32 || t->dtype == FH1_U8 ||
           t->dtype == FH1_BOOL;
}

static double value(const fh1_tensor *t, int64_t i)
{
    return fh1_dtype_is_float(t->dtype) ? fh1_get(t, i) : (double)fh1_get_i64(t, i);
}

static difference compare(const pair *p)
{
    difference d = {.max_err = NAN, .rel_rms = NAN};
    if (!p->a || !p->b) {
        d.why = p->a ? "only in A" : "only in B";
        return d;
    }
    const fh1_tensor *a = &p->a->t, *b = &p->b->t;
    if (!fh1_same_shape(a, b)) {
        d.why = "other shape";
        return d;
    }
    d.equal = a->dtype == b->dtype && memcmp(a->data, b->data, fh1_n_bytes(a)) == 0;
    if (d.equal) {
        d.max_err = d.rel_rms = 0;
        return d;
    }
    if (!has_values(a) || !has_values(b)) {
        d.why = "other bytes";
        return d;
    }
    if (a->dtype != b->dtype) d.why = "other type";
    fh1_rms rms = {0};
    for (int64_t i = 0; i < fh1_n_elems(a); i++) {
        double x = value(a, i), y = value(b, i);
        /* Two NaN are the same here: nothing is judged. */
        double err = fh1_class(x) == 3 && fh1_class(y) == 3 ? 0 : fh1_error_of(y, x);
        fh1_rms_add(&rms, err, x, i);
    }
    d.max_err = rms.max_err;
    d.rel_rms = fh1_rms_err(&rms) / fh1_rms_ref(&rms);
    unravel(a, rms.argmax, &d);
    return d;
}

static void print_number(double v)
{
    if (fh1_class(v) == 0) printf("%.9g", v);
    else fputs("null", stdout);
}

static void print_json(const pair *p, const difference *d)
{
    const char *rest;
    int64_t step = split_step(p->name, &rest);
    fputs("{\"tap\":", stdout);
    cli_json_string(stdout, rest);
    if (step == INT64_MAX) fputs(",\"step\":null", stdout);
    else printf(",\"step\":%" PRId64, step);
    printf(",\"equal\":%s,\"max_err\":", d->equal ? "true" : "false");
    print_number(d->max_err);
    fputs(",\"rel_rms\":", stdout);
    print_number(d->rel_rms);
    fputs(",\"where\":[", stdout);
    for (int k = 0; k < d->rank; k++) printf("%s%" PRId64, k ? "," : "", d->where[k]);
    fputs("],\"note\":", stdout);
    if (d->why) cli_json_string(stdout, d->why);
    else fputs("null", stdout);
    fputs("}\n", stdout);
}

static void print_row(const pair *p, const difference *d)
{
    char name[256];
    printf("%-52s ", fh1_printable(p->name, name, sizeof name));
    if (d->equal) fputs("equal", stdout);
    else if (d->why && fh1_class(d->max_err) == 3) fputs(d->why, stdout);
    else {
        printf("max %-10.3g rms %-10.3g at [", d->max_err, d->rel_rms);
        for (int k = 0; k < d->rank; k++) printf("%s%" PRId64, k ? ", " : "", d->where[k]);
        printf("]%s%s", d->why ? "  " : "", d->why ? d->why : "");
    }
    putchar('\n');
}

static int print_all(const pair_list *l, bool json, bool all)
{
    const char *first = NULL;
    char name[256];
    int64_t n_equal = 0;
    for (int64_t i = 0; i < l->n; i++) {
        difference d = compare(&l->pairs[i]);
        n_equal += d.equal;
        if (!d.equal && !first) first = l->pairs[i].name;
        if (json) print_json(&l->pairs[i], &d);
        else if (all || !d.equal) print_row(&l->pairs[i], &d);
    }
    if (json) {
        printf("{\"summary\":true,\"fh1\":\"%s\",\"equal\":%" PRId64 ",\"differ\":%" PRId64 ",\"first\":",
               cli_version(), n_equal, l->n - n_equal);
        if (first) cli_json_string(stdout, first);
        else fputs("null", stdout);
        fputs("}\n", stdout);
    } else {
        printf("%" PRId64 " equal, %" PRId64 " differ%s%s\n", n_equal, l->n - n_equal, first ? ", first " : "",
               first ? fh1_printable(first, name, sizeof name) : "");
    }
    return first ? FH1_E_WRONG : FH1_OK;
}

static fh1_status run(const char *path_a, const char *path_b, bool json, bool all, int *code)
{
    cvt_st *a = NULL, *b = NULL;
    pair_list list = {0};
    fh1_status s = cvt_st_open(path_a, &a);
    if (!s) s = cvt_st_open(path_b, &b);
    if (!s) s = pair_up(a, b, &list);
    if (!s) *code = print_all(&list, json, all);
    free(list.pairs);
    if (a) cvt_st_close(a);
    if (b) cvt_st_close(b);
    return s;
}

fh1_status cmd_diff(int argc, char **argv, int *code)
{
    bool json = false, all = false, done;
    const cli_option options[] = {{"json", 0, CLI_FLAG, &json, 0, 0}, {"all", 0, CLI_FLAG, &all, 0, 0}};
    const cli_syntax syntax = {"diff", help, options, 2, 2, 2, "two traces, A and B"};
    cli_list words = {0};
    *code = 0;
    fh1_status s = cli_parse(&syntax, argc, argv, &words, &done);
    if (!s && !done) s = run(words.items[0], words.items[1], json, all, code);
    cli_list_free(&words);
    return s;
}
