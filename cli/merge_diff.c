#include "cli/merge_diff.h"

#include "cli/commands.h"
#include "cli/interrupt.h"
#include "cli/merge_base.h"
#include "cli/progress.h"
#include "convert/bnb.h"
#include "convert/json.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

typedef struct {
    cvt_ckpt *a, *b;
    bool json;
    int64_t n_changed, n_same, n_only_a, n_only_b;
} diff;

static fh1_status open_decoded(const char *path, cvt_ckpt **out)
{
    cvt_ckpt *c;
    FH1_TRY(cvt_ckpt_open(path, &c));
    bool quantised;
    fh1_status s = cvt_bnb_is(c, &quantised);
    *out = NULL;
    if (s) cvt_ckpt_close(c);
    else if (quantised) s = cli_decode(c, out);
    else *out = c;
    return s;
}

static void print_only(const diff *d, const char *tensor, const char *where)
{
    char name[512];
    if (!d->json) {
        printf("%-48s only in %s\n", fh1_printable(tensor, name, sizeof name), where);
        return;
    }
    printf("{\"tensor\":");
    cli_json_string(stdout, tensor);
    printf(",\"only_in\":\"%s\"}\n", where);
}

static void print_difference(const diff *d, const char *tensor, const cli_difference *x)
{
    char name[512], rank[64] = "";
    double relative = x->rms_base > 0 ? x->rms / x->rms_base : INFINITY;
    if (d->json) {
        printf("{\"tensor\":");
        cli_json_string(stdout, tensor);
        printf(",\"changed\":%lld,\"of\":%lld,\"rms\":%.6g,\"max\":%.6g", (long long)x->n_changed, (long long)x->n,
               x->rms, x->max);
        if (isfinite(relative)) printf(",\"relative\":%.6g", relative);
        if (x->rank >= 0)
            printf(",\"rank\":%lld,\"at_least\":%s,\"share\":%.6g", (long long)x->rank, x->more ? "true" : "false",
                   x->share);
        printf("}\n");
        return;
    }
    if (x->rank >= 0)
        snprintf(rank, sizeof rank, ", rank %s%lld (%.4g %% of it)", x->more ? "at least " : "", (long long)x->rank,
                 100 * x->share);
    printf("%-48s %lld of %lld changed, RMS %.3g (relative %.3g), largest %.3g%s\n",
           fh1_printable(tensor, name, sizeof name), (long long)x->n_changed, (long long)x->n, x->rms, relative, x->max,
           rank);
}

static fh1_status compare_one(diff *d, int64_t t, int64_t u)
{
    const cvt_ckpt_tensor *x = &d->a->tensors[t], *y = &d->b->tensors[u];
    cli_difference result;
    bool same_shape = x->rank == y->rank && memcmp(x->shape, y->shape, (size_t)x->rank * sizeof *x->shape) == 0;
    if (!same_shape || !fh1_dtype_is_float(x->dtype) || !fh1_dtype_is_float(y->dtype))
        return fh1_hint(fh1_where(FH1_BAD("the tensor has another shape or kind in the two models"), "%s", x->name),
                        "is the second one merged from the first?");
    FH1_TRY(cli_difference_of(d->a, t, d->b, u, &result));
    if (result.n_changed == 0) d->n_same++;
    else {
        d->n_changed++;
        print_difference(d, y->name, &result);
    }
    return NULL;
}

/* The head of a tied base is its embedding. */
static int64_t base_of(const diff *d, const char *tensor)
{
    int64_t t = cvt_ckpt_find(d->a, tensor);
    if (t >= 0 || strcmp(tensor, "lm_head.weight") != 0) return t;
    t = cvt_ckpt_find(d->a, fh1_embed_weight(FH1_FALCON_H1));
    return t >= 0 ? t : cvt_ckpt_find(d->a, fh1_embed_weight(FH1_FALCON_MAMBA));
}

static fh1_status compare(diff *d)
{
    for (int64_t t = 0; t < d->a->n_tensors; t++)
        if (cvt_ckpt_find(d->b, d->a->tensors[t].name) < 0) {
            print_only(d, d->a->tensors[t].name, "base");
            d->n_only_a++;
        }
    for (int64_t u = 0; u < d->b->n_tensors; u++) {
        const char *tensor = d->b->tensors[u].name;
        int64_t t = base_of(d, tensor);
        FH1_TRY(cli_interrupted());
        if (t >= 0) FH1_TRY(compare_one(d, t, u));
        if (t >= 0 && cvt_ckpt_find(d->a, tensor) >= 0) continue;
        print_only(d, tensor, "merged");
        d->n_only_b++;
    }
    return NULL;
}

/* What the metadata say of merges, as JSON on one line; malloc'ed by cJSON, NULL when there is nothing. */
static char *provenance_of(const cvt_ckpt *c)
{
    const char *text = cvt_ckpt_meta(c, "fh1.merge");
    cJSON *json = NULL;
    if (!text || cvt_json_parse(text, strlen(text), 8, "fh1.merge", &json)) return NULL; /* not what fh1 writes */
    char *line = cJSON_PrintUnformatted(json);
    cJSON_Delete(json);
    return line;
}

static void print_summary(const diff *d)
{
    char *merges = provenance_of(d->b), text[4096];
    if (d->json)
        printf("{\"summary\":true,\"changed\":%lld,\"same\":%lld,\"only_in_base\":%lld,\"only_in_merged\":%lld,"
               "\"merges\":%s}\n",
               (long long)d->n_changed, (long long)d->n_same, (long long)d->n_only_a, (long long)d->n_only_b,
               merges ? merges : "null");
    else printf("%lld tensors changed, %lld are the same\n", (long long)d->n_changed, (long long)d->n_same);
    if (!d->json && merges) printf("merges: %s\n", fh1_printable(merges, text, sizeof text));
    cJSON_free(merges);
}

fh1_status cli_merge_diff(const char *base, const char *merged, bool json)
{
    diff d = {.json = json};
    fh1_status s = open_decoded(base, &d.a);
    if (!s) s = open_decoded(merged, &d.b);
    cli_interrupt_begin();
    if (!s) s = compare(&d);
    cli_interrupt_end();
    if (!s) print_summary(&d);
    cvt_ckpt_close(d.a);
    cvt_ckpt_close(d.b);
    return s;
}
