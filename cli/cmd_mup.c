/* fh1 mup: do the forward multipliers of a model follow the µP width law, and what are they at another width? */
#include "cli/commands.h"
#include "cli/mup_groups.h"
#include "cli/mup_widths.h"
#include "convert/file.h"
#include "convert/hf_config.h"
#include "convert/model_open.h"
#include "golden/words.h"

#include <inttypes.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char help[] =
    "usage: fh1 mup CONFIG [--groups FILE] [--kinds] [--json]\n"
    "       fh1 mup CONFIG --width D[,D…] [--attention-width …] [--d-ssm …] [--mlp-width …] [--head-dim …]\n"
    "               [--state …] [--json]\n\n"
    "CONFIG is a config.json, a folder that holds one, or a .fh1 file; weights are not read. Checks the 14 forward\n"
    "multipliers against the µP width law of the released models (docs/allocation.md): each follows the law to the\n"
    "last bits, is the law rounded (to bf16, f16, f32, or to so many digits), or deviates, and by how much.\n"
    "With --width: prints the multipliers of the law for other widths of this model instead of checking it.\n\n"
    "  --width D[,D…]           hidden sizes\n"
    "  --attention-width …      query heads times head_dim \\\n"
    "  --d-ssm …                mamba_d_ssm                 \\ one number for all widths, or one for each; without\n"
    "  --mlp-width …            intermediate_size           / it in proportion to D, by whole heads\n"
    "  --head-dim …             head_dim of attention       \\ without it as in CONFIG\n"
    "  --state …                mamba_d_state               /\n"
    "  --groups FILE            a file of fh1 train --mup: what its groups fit, with their factors of learning rate\n"
    "                           and weight decay\n"
    "  --kinds                  the kinds of parameters that such a file can name; Falcon-Mamba has them too\n"
    "  --json                   JSON lines\n\n"
    "exit codes: 0 follows (rounded or not), 1 a multiplier deviates, 2 bad usage or a model without multipliers\n\n"
    "example: fh1 mup golden/configs/Falcon-H1-7B.json\n"
    "example: fh1 mup golden/configs/Falcon-H1-1.5B-Deep.json --width 640,2560 --head-dim 64,128\n";

/* ---- reading ---- */

static fh1_status read_native(const char *path, fh1_config *c)
{
    cvt_ckpt *ckpt;
    fh1_model *m = calloc(1, sizeof *m);
    if (!m) return fh1_no_memory(sizeof *m, "a model");
    fh1_status s = cvt_ckpt_open(path, &ckpt);
    if (!s) {
        s = cvt_model_outline(ckpt, m);
        if (!s) fh1_config_copy(c, &m->config);
        fh1_model_free(m);
        cvt_ckpt_close(ckpt);
    }
    free(m);
    return s;
}

static fh1_status read_config(const char *path, fh1_config *c)
{
    char inside[PATH_MAX];
    cvt_kind kind;
    FH1_TRY(cvt_path_join(inside, sizeof inside, path, "config.json"));
    if (cvt_path_exists(inside)) return cvt_hf_config_read(inside, c);
    if (cvt_has_suffix(path, ".json")) return cvt_hf_config_read(path, c);
    FH1_TRY(cvt_ckpt_kind(path, &kind));
    if (kind == CVT_KIND_NATIVE) return read_native(path, c);
    if (kind == CVT_KIND_GGUF)
        return fh1_hint(fh1_where(FH1_BAD("the multipliers of a GGUF file are folded into its weights"), "%s", path),
                        "give the config.json of the model that it was made from");
    return fh1_hint(fh1_where(FH1_BAD("this holds no config"), "%s", path),
                    "give a config.json, a folder that holds one, or a .fh1 file");
}

static fh1_status need_multipliers(const char *path, const fh1_config *c)
{
    if (c->family == FH1_FALCON_H1) return NULL;
    return fh1_hint(fh1_where(FH1_BAD("%s has no multipliers", fh1_family_name(c->family)), "%s", path),
                    "the width law is that of falcon_h1; --kinds and --groups work for both");
}

/* ---- the check ---- */

typedef struct {
    int n[FH1_MUP_DEVIATES + 1];
} tally;

static const char *verdict_name(fh1_mup_verdict v)
{
    static const char *const names[] = {"follows", "rounded", "deviates"};
    return names[v];
}

static void print_finding(int i, double value, double law, const fh1_mup_finding *f, bool json)
{
    char v[32], l[32];
    gld_number_text(value, v);
    gld_number_text(law, l);
    if (json) {
        char relative[32] = "null";
        if (isfinite(f->relative)) snprintf(relative, sizeof relative, "%.6g", f->relative);
        printf("{\"multiplier\":\"%s\",\"value\":%s,\"law\":%s,\"relative\":%s,\"verdict\":\"%s\",\"rounded_to\":",
               fh1_multiplier_name(i), v, l, relative, verdict_name(f->verdict));
        if (*f->rounded) cli_json_string(stdout, f->rounded);
        else fputs("null", stdout);
        puts("}");
        return;
    }
    printf("  %-26s %-22s %-22s ", fh1_multiplier_name(i), v, l);
    switch (f->verdict) {
    case FH1_MUP_FOLLOWS: puts("follows"); break;
    case FH1_MUP_ROUNDED: printf("the law rounded to %s, %+.2g\n", f->rounded, f->relative); break;
    case FH1_MUP_DEVIATES:
        if (fabs(f->relative) < 0.5) printf("DEVIATES by %+.3g %%\n", 100 * f->relative);
        else printf("DEVIATES, %.4g times the law\n", value / law);
        break;
    }
}

/* Which ones fit where most do not: a constant that is 1 for everybody says nothing about a law. */
static void print_exceptions(const fh1_mup_finding f[FH1_N_MULTIPLIERS])
{
    fputs("this model does not follow the width law; what fits it is ", stdout);
    bool any = false;
    for (int i = 0; i < FH1_N_MULTIPLIERS; i++) {
        if (f[i].verdict == FH1_MUP_DEVIATES) continue;
        printf("%s%s", any ? ", " : "", fh1_multiplier_name(i));
        any = true;
    }
    puts(any ? "" : "nothing");
}

static void print_summary(const tally *t, const fh1_mup_finding f[FH1_N_MULTIPLIERS], bool json)
{
    const int follows = t->n[FH1_MUP_FOLLOWS], rounded = t->n[FH1_MUP_ROUNDED], deviates = t->n[FH1_MUP_DEVIATES];
    if (json) {
        printf("{\"summary\":true,\"fh1\":\"%s\",\"schema\":1,\"verdict\":\"%s\",\"follow\":%d,\"rounded\":%d,"
               "\"deviate\":%d}\n",
               cli_version(), deviates ? "DEVIATES" : "FOLLOWS", follows, rounded, deviates);
        return;
    }
    printf("%s: %d of %d follow the law, %d are the law rounded, %d deviate\n", deviates ? "DEVIATES" : "FOLLOWS",
           follows, FH1_N_MULTIPLIERS, rounded, deviates);
    if (deviates > FH1_N_MULTIPLIERS / 2) print_exceptions(f);
}

static void check(const fh1_config *c, bool json, int *code)
{
    const fh1_mup_widths w = fh1_mup_widths_of(c);
    double value[FH1_N_MULTIPLIERS], law[FH1_N_MULTIPLIERS];
    fh1_mup_finding f[FH1_N_MULTIPLIERS];
    tally t = {{0}};
    fh1_multipliers_of(c, value);
    fh1_mup_law(&w, law);
    if (!json)
        printf("widths: model %" PRId64 ", attention %" PRId64 " (head_dim %" PRId64 "), d_ssm %" PRId64
               ", MLP %" PRId64 ", state %" PRId64 "\n  %-26s %-22s %s\n",
               w.D, w.attention, w.A, w.d_ssm, w.F, w.N, "multiplier", "here", "law");
    for (int i = 0; i < FH1_N_MULTIPLIERS; i++) {
        f[i] = fh1_mup_judge(law[i], value[i]);
        t.n[f[i].verdict]++;
        print_finding(i, value[i], law[i], &f[i], json);
    }
    print_summary(&t, f, json);
    *code = t.n[FH1_MUP_DEVIATES] > 0;
}

/* ---- other widths ---- */

static const char *const option_name[CLI_MUP_OTHERS] = {"--attention-width", "--d-ssm", "--mlp-width", "--head-dim",
                                                        "--state"};

static void print_plan(const cli_mup_plan *p, const fh1_config *c, bool json)
{
    const char *const in_proportion = "in proportion", *const same = "as in CONFIG";
    const struct {
        const char *key, *text;
        int64_t v, heads, head;
        const char *assumed;
    } rows[CLI_MUP_OTHERS] = {
        {"attention_width", "attention width", p->w.attention, p->Hq, p->w.A, in_proportion},
        {"d_ssm", "d_ssm", p->w.d_ssm, p->H, c->P, in_proportion},
        {"mlp_width", "MLP width", p->w.F, 0, 0, in_proportion},
        {"head_dim", "head_dim", p->w.A, 0, 0, same},
        {"state", "state", p->w.N, 0, 0, same},
    };
    if (json) {
        printf("{\"width\":%" PRId64 ",\"heads\":%" PRId64 ",\"mamba_heads\":%" PRId64, p->w.D, p->Hq, p->H);
        for (int k = 0; k < CLI_MUP_OTHERS; k++) printf(",\"%s\":%" PRId64, rows[k].key, rows[k].v);
        fputs(",\"assumed\":[", stdout);
        for (int k = 0, n = 0; k < CLI_MUP_OTHERS; k++)
            if (!p->given[k]) printf("%s\"%s\"", n++ ? "," : "", rows[k].key);
        putchar(']');
        return;
    }
    printf("width %" PRId64 "\n", p->w.D);
    for (int k = 0; k < CLI_MUP_OTHERS; k++) {
        printf("  %-26s %" PRId64, rows[k].text, rows[k].v);
        if (rows[k].heads) printf(", %" PRId64 " heads of %" PRId64, rows[k].heads, rows[k].head);
        printf(" (%s)\n", p->given[k] ? "given" : rows[k].assumed);
    }
}

static void print_law(const cli_mup_plan *p, const fh1_config *c, bool json)
{
    double law[FH1_N_MULTIPLIERS];
    char text[32];
    fh1_mup_law(&p->w, law);
    print_plan(p, c, json);
    if (json) fputs(",\"multipliers\":{", stdout);
    for (int i = 0; i < FH1_N_MULTIPLIERS; i++) {
        gld_number_text(law[i], text);
        if (json) printf("%s\"%s\":%s", i ? "," : "", fh1_multiplier_name(i), text);
        else printf("  %-26s %s\n", fh1_multiplier_name(i), text);
    }
    if (json) puts("}}");
}

static fh1_status print_widths(const fh1_config *c, const cli_mup_list *width, const cli_mup_list *other, bool json)
{
    for (int i = 0; i < width->n; i++) { /* all of them, before anything is printed */
        cli_mup_plan p;
        FH1_TRY(cli_mup_plan_at(c, width->v[i], other, i, &p));
    }
    for (int i = 0; i < width->n; i++) {
        cli_mup_plan p;
        FH1_TRY(cli_mup_plan_at(c, width->v[i], other, i, &p));
        print_law(&p, c, json);
    }
    return NULL;
}

static fh1_status read_lists(cli_mup_list *width, cli_mup_list *other)
{
    FH1_TRY(cli_mup_list_read(width));
    for (int k = 0; k < CLI_MUP_OTHERS; k++) {
        FH1_TRY(cli_mup_list_read(&other[k]));
        if (other[k].n == 0) continue;
        if (width->n == 0) return FH1_BAD("%s needs --width", other[k].option);
        if (other[k].n > 1 && other[k].n != width->n)
            return fh1_found(
                fh1_expected(FH1_BAD("%s: as many numbers as widths, or one", other[k].option), "1 or %d", width->n),
                "%d", other[k].n);
    }
    return NULL;
}

typedef struct {
    const char *config, *groups;
    bool kinds, json;
    cli_mup_list width, other[CLI_MUP_OTHERS];
} request;

static fh1_status run(request *r, int *code)
{
    FH1_TRY(read_lists(&r->width, r->other));
    if (r->width.n && (r->groups || r->kinds))
        return FH1_BAD("--width prints the law; %s counts the parameters of CONFIG itself",
                       r->groups ? "--groups" : "--kinds");
    fh1_config *c = malloc(sizeof *c);
    if (!c) return fh1_no_memory(sizeof *c, "a config");
    fh1_status s = read_config(r->config, c);
    const bool groups = r->groups || r->kinds;
    if (!s && !groups) s = need_multipliers(r->config, c);
    if (!s && groups) s = cli_mup_groups(c, r->groups, r->json);
    else if (!s && r->width.n) s = print_widths(c, &r->width, r->other, r->json);
    else if (!s) check(c, r->json, code);
    free(c);
    return s;
}

fh1_status cmd_mup(int argc, char **argv, int *code)
{
    request r = {.width.option = "--width"};
    for (int k = 0; k < CLI_MUP_OTHERS; k++) r.other[k].option = option_name[k];
    const cli_option options[] = {
        {"width", 0, CLI_TEXT, &r.width.text, 0, 0},
        {"attention-width", 0, CLI_TEXT, &r.other[CLI_MUP_ATTENTION].text, 0, 0},
        {"d-ssm", 0, CLI_TEXT, &r.other[CLI_MUP_D_SSM].text, 0, 0},
        {"mlp-width", 0, CLI_TEXT, &r.other[CLI_MUP_MLP].text, 0, 0},
        {"head-dim", 0, CLI_TEXT, &r.other[CLI_MUP_HEAD].text, 0, 0},
        {"state", 0, CLI_TEXT, &r.other[CLI_MUP_STATE].text, 0, 0},
        {"groups", 0, CLI_TEXT, &r.groups, 0, 0},
        {"kinds", 0, CLI_FLAG, &r.kinds, 0, 0},
        {"json", 0, CLI_FLAG, &r.json, 0, 0},
    };
    const cli_syntax syntax = {"mup", help, options, 9, 1, 1, "CONFIG"};
    cli_list words = {0};
    bool done;
    *code = 0;
    fh1_status s = cli_parse(&syntax, argc, argv, &words, &done);
    if (!s && !done) {
        r.config = words.items[0];
        s = run(&r, code);
    }
    cli_list_free(&words);
    return s;
}
