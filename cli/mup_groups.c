#include "cli/mup_groups.h"

#include "cli/commands.h"
#include "cli/train_groups.h"
#include "golden/words.h"
#include "oracle/model.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    int64_t tensors;
    double parameters; /* of all layers together there may be more than an int64_t counts */
    int64_t undecayed; /* tensors that transformers' Trainer does not decay */
} tally;

enum { MOST_KINDS = 32 };

typedef struct {
    const cli_groups *groups;
    tally *of_group;
    bool *fits_one; /* of each group: a tensor, taken or not */
    tally of_kind[MOST_KINDS];
} counter;

static int ordinal(const char *kind)
{
    int i = 0;
    while (cli_param_kinds[i] && strcmp(cli_param_kinds[i], kind) != 0) i++;
    return i;
}

static fh1_status count(void *user, const char *name, int rank, const int64_t *shape)
{
    counter *k = user;
    tally *t = &k->of_kind[ordinal(cli_param_kind(name))];
    bool taken = false;
    for (int i = 0; i < k->groups->n; i++) {
        if (!cli_group_fits(&k->groups->groups[i], name)) continue;
        k->fits_one[i] = true;
        if (!taken) t = &k->of_group[i];
        taken = true;
    }
    double n = 1;
    for (int i = 0; i < rank; i++) n *= (double)shape[i];
    t->tensors++;
    t->parameters += n;
    t->undecayed += !cli_decays_in_hf(name);
    return NULL;
}

static void print_string(const char *text)
{
    if (text) cli_json_string(stdout, text);
    else fputs("null", stdout);
}

/* A row of the table; group -1: a kind of its own. */
static void print_line(int group, const char *match, const char *kind, cli_factors f, const tally *t)
{
    char lr[32], decay[32], name[16] = "-", fits[160], some[32] = "";
    if (group >= 0) snprintf(name, sizeof name, "%d", group);
    if (match && kind) snprintf(fits, sizeof fits, "%.80s, kind %.40s", match, kind);
    else snprintf(fits, sizeof fits, "%.140s", match ? match : kind);
    if (t->undecayed && t->undecayed < t->tensors) snprintf(some, sizeof some, "%" PRId64 " ", t->undecayed);
    printf("  %-5s %-34s %-8s %-8s %8" PRId64 " %14.0f", name, fits, gld_number_text(f.lr, lr),
           gld_number_text(f.decay, decay), t->tensors, t->parameters);
    if (t->undecayed) printf("  %snot decayed under --decay hf", some);
    putchar('\n');
}

static void print_object(int group, const char *match, const char *kind, cli_factors f, const tally *t)
{
    char lr[32], decay[32], name[16] = "null";
    if (group >= 0) snprintf(name, sizeof name, "%d", group);
    printf("{\"group\":%s,\"match\":", name);
    print_string(match);
    fputs(",\"kind\":", stdout);
    print_string(kind);
    printf(",\"lr\":%s,\"weight_decay\":%s,\"tensors\":%" PRId64 ",\"parameters\":%.0f"
           ",\"undecayed_in_hf\":%" PRId64 "}\n",
           gld_number_text(f.lr, lr), gld_number_text(f.decay, decay), t->tensors, t->parameters, t->undecayed);
}

/* What `fh1 train` would refuse on a model whose every weight is trained. */
static fh1_status refuse_idle(const counter *k, const char *path)
{
    for (int i = 0; i < k->groups->n; i++)
        if (k->of_group[i].tensors == 0) {
            const cli_group *g = &k->groups->groups[i];
            const char *why = k->fits_one[i] ? " that no earlier group has taken" : "";
            return fh1_found(fh1_where(FH1_BAD("group %d fits no parameter%s", i, why), "%s", path), "'%.200s'",
                             g->match ? g->match : g->kind);
        }
    return NULL;
}

static fh1_status count_and_print(const fh1_config *c, counter *k, const char *path, bool json)
{
    FH1_TRY(fh1_config_weights(c, count, k));
    FH1_TRY(refuse_idle(k, path));
    void (*const print)(int, const char *, const char *, cli_factors, const tally *) = json ? print_object : print_line;
    if (!json)
        printf("factors of learning rate and weight decay%s\n  %-5s %-34s %-8s %-8s %8s %14s\n",
               path ? "" : " (no file of groups: all 1)", "group", "fits", "lr", "decay", "tensors", "parameters");
    for (int i = 0; i < k->groups->n; i++) {
        const cli_group *g = &k->groups->groups[i];
        print(i, g->match, g->kind, g->f, &k->of_group[i]);
    }
    for (int i = 0; i < MOST_KINDS && cli_param_kinds[i]; i++)
        if (k->of_kind[i].tensors) print(-1, NULL, cli_param_kinds[i], (cli_factors){1, 1}, &k->of_kind[i]);
    return NULL;
}

fh1_status cli_mup_groups(const fh1_config *c, const char *path, bool json)
{
    cli_groups groups = {0};
    counter k = {.groups = &groups};
    if (path) FH1_TRY(cli_groups_read(path, &groups));
    k.of_group = calloc((size_t)groups.n + 1, sizeof *k.of_group);
    k.fits_one = calloc((size_t)groups.n + 1, sizeof *k.fits_one);
    fh1_status s = k.of_group && k.fits_one ? NULL : fh1_no_memory((size_t)groups.n, "groups");
    if (!s) s = count_and_print(c, &k, path, json);
    free(k.of_group);
    free(k.fits_one);
    cli_groups_free(&groups);
    return s;
}
