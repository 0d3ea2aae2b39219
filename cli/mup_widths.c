#include "cli/mup_widths.h"

#include "cli/options.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define MOST_WIDTH (INT64_C(1) << 31) /* as in config.json */

fh1_status cli_mup_list_read(cli_mup_list *l)
{
    l->n = 0;
    if (!l->text) return NULL;
    for (const char *at = l->text;; at++) {
        char word[32];
        const size_t n = strcspn(at, ",");
        snprintf(word, sizeof word, "%.*s", n < sizeof word ? (int)n : 0, at);
        if (l->n == CLI_MUP_MOST) return FH1_BAD("%s: more than %d numbers", l->option, CLI_MUP_MOST);
        int64_t *v = &l->v[l->n++];
        if (!cli_read_int(word, v) || *v < 1 || *v > MOST_WIDTH)
            return fh1_found(fh1_expected(FH1_BAD("%s: not a width", l->option),
                                          "whole numbers from 1 to %" PRId64 ", with commas between", MOST_WIDTH),
                             "'%.100s'", l->text);
        at += n;
        if (*at == '\0') return NULL;
    }
}

/* The multiple of `unit` that is nearest to v, at least one. */
static int64_t nearest(double v, int64_t unit)
{
    const int64_t n = (int64_t)llround(v / (double)unit);
    return (n > 0 ? n : 1) * unit;
}

/* The number of heads that make `width`, or the message. */
static fh1_status heads_of(const char *option, int64_t width, int64_t head, int64_t share, const char *shared,
                           int64_t *out)
{
    *out = width / head;
    if (width % head == 0 && *out % share == 0) return NULL;
    fh1_status s = FH1_BAD("%s: %" PRId64 " is not a whole number of heads", option, width);
    s = fh1_expected(s, "a multiple of %" PRId64 " (head width %" PRId64 ", %" PRId64 " %s)", head * share, head, share,
                     shared);
    return fh1_hint(s, "the nearest is %" PRId64, nearest((double)width, head * share));
}

/* `width` of the model times `by`. */
static fh1_status in_proportion(const char *what, int64_t width, double by, int64_t unit, int64_t *out)
{
    if ((double)width * by > (double)MOST_WIDTH)
        return fh1_expected(FH1_BAD("--width: the %s would be too wide in proportion", what), "at most %" PRId64,
                            MOST_WIDTH);
    *out = nearest((double)width * by, unit);
    return NULL;
}

fh1_status cli_mup_plan_at(const fh1_config *c, int64_t D, const cli_mup_list other[CLI_MUP_OTHERS], int i,
                           cli_mup_plan *out)
{
    const double by = (double)D / (double)c->D;
    int64_t v[CLI_MUP_OTHERS];
    *out = (cli_mup_plan){0};
    for (int k = 0; k < CLI_MUP_OTHERS; k++) {
        out->given[k] = other[k].n > 0;
        if (out->given[k]) v[k] = other[k].v[other[k].n > 1 ? i : 0];
    }
    if (!out->given[CLI_MUP_HEAD]) v[CLI_MUP_HEAD] = c->A;
    if (!out->given[CLI_MUP_STATE]) v[CLI_MUP_STATE] = c->N;
    const int64_t kv_heads = v[CLI_MUP_HEAD] * c->Hkv; /* both at most 2^31 */
    if (!out->given[CLI_MUP_ATTENTION])
        FH1_TRY(in_proportion("attention", c->Hq * c->A, by, kv_heads, &v[CLI_MUP_ATTENTION]));
    if (!out->given[CLI_MUP_D_SSM]) FH1_TRY(in_proportion("mixer", c->d_ssm, by, c->P * c->G, &v[CLI_MUP_D_SSM]));
    if (!out->given[CLI_MUP_MLP]) FH1_TRY(in_proportion("MLP", c->F, by, 2, &v[CLI_MUP_MLP]));
    FH1_TRY(heads_of("--attention-width", v[CLI_MUP_ATTENTION], v[CLI_MUP_HEAD], c->Hkv, "key/value heads", &out->Hq));
    FH1_TRY(heads_of("--d-ssm", v[CLI_MUP_D_SSM], c->P, c->G, "groups", &out->H));
    out->w = (fh1_mup_widths){.D = D,
                              .attention = v[CLI_MUP_ATTENTION],
                              .d_ssm = v[CLI_MUP_D_SSM],
                              .F = v[CLI_MUP_MLP],
                              .A = v[CLI_MUP_HEAD],
                              .N = v[CLI_MUP_STATE]};
    return NULL;
}
