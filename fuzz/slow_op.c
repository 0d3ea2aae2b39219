/* The line of an op: --NAME=VALUE between white space; which names count is the op's. */
#include "fuzz/plant.h"
#include "fuzz/slow_repro.h"

#include <ctype.h>

/* What each op reads beside seed, layer and step, in the order of gld_op: docs/ops.md. */
static const struct {
    const char *name, *reads;
} ops[GLD_OP_COUNT] = {{"embed", "T D V"},
                       {"rmsnorm", "T D weight"},
                       {"linear", "T D F bias"},
                       {"conv1d", "T docs K c bias state"},
                       {"conv1d_step", "K c bias state"},
                       {"dt_softplus", "T H limits"},
                       {"ssd_scan", "T docs H P N G state"},
                       {"ssd_chunk", "T docs H P N G Q state"},
                       {"ssd_step", "H P N G state"},
                       {"selective_scan", "T docs N c state"},
                       {"selective_step", "N c state"},
                       {"gated_norm", "T D G norm norm_before_gate"},
                       {"rope", "T past Hq A"},
                       {"attention", "T past docs Hq Hkv A"},
                       {"attention_step", "past Hq Hkv A"},
                       {"swiglu", "T F"},
                       {"residual", "T D mix"},
                       {"lm_head", "T D V"},
                       {"cross_entropy", "T V"},
                       {"sample", "T V"}};

/* Integers: name, range, and what is usual. */
static const struct {
    const char *name;
    int64_t min, max, usual;
} numbers[] = {
    {"seed", 0, INT64_MAX, 1}, {"T", 1, 1048576, 5},
    {"past", 0, 1048576, 3},   {"docs", 1, 1048576, 1},
    {"D", 1, 1048576, 8},      {"F", 1, 1048576, 8},
    {"V", 2, 1048576, 16},     {"H", 1, 1048576, 2},
    {"P", 1, 1048576, 4},      {"N", 1, 1048576, 8},
    {"G", 1, 1048576, 1},      {"K", 1, 64, 4},
    {"Q", 1, 1048576, 16},     {"c", 1, 1048576, 8},
    {"Hq", 1, 1048576, 2},     {"Hkv", 1, 1048576, 1},
    {"A", 2, 8190, 8},         {"bias", 0, 1, 1},
    {"state", 0, 1, 1},        {"limits", 0, 1, 0},
    {"norm", 0, 1, 1},         {"norm_before_gate", 0, 1, 0},
    {"mix", 0, 1, 1},          {"layer", 0, 1048576, 0},
    {"step", 0, 1048576, 0},   {"weight", 0, 1, 1},
};
enum { N_NUMBERS = sizeof numbers / sizeof *numbers };

static int64_t *number_of(gld_op_case *c, int i)
{
    int64_t *const at[N_NUMBERS] = {&c->seed,  &c->T,
                                    &c->past,  &c->docs,
                                    &c->D,     &c->F,
                                    &c->V,     &c->H,
                                    &c->P,     &c->N,
                                    &c->G,     &c->K,
                                    &c->Q,     &c->c,
                                    &c->Hq,    &c->Hkv,
                                    &c->A,     &c->bias,
                                    &c->state, &c->limits,
                                    &c->norm,  &c->norm_before_gate,
                                    &c->mix,   &c->layer,
                                    &c->step,  &c->weight};
    return at[i];
}

static bool has_word(const char *list, const char *word)
{
    const size_t n = strlen(word);
    for (const char *p = strstr(list, word); p; p = strstr(p + 1, word))
        if ((p == list || p[-1] == ' ') && (p[n] == ' ' || p[n] == '\0')) return true;
    return false;
}

static bool op_reads(gld_op op, const char *name)
{
    return has_word("seed layer step", name) || has_word(ops[op].reads, name);
}

/* A sign or none, digits, within 64 bits; no more than 23 bytes. */
static bool whole(const char *text, int64_t *v)
{
    __int128 sum = 0;
    const char *p = text;
    if (*p == '+' || *p == '-') p++;
    if (*p == '\0' || strlen(text) > 23) return false;
    for (; *p; p++) {
        if (!isdigit((unsigned char)*p)) return false;
        sum = sum * 10 + (*p - '0');
    }
    if (text[0] == '-') sum = -sum;
    *v = (int64_t)sum;
    return sum >= INT64_MIN && sum <= INT64_MAX;
}

static int one_of(const char *value, const char *const *names, int n)
{
    for (int i = 0; i < n; i++)
        if (strcmp(value, names[i]) == 0) return i;
    return -1;
}

static bool keep(const char *value, char *to, size_t size)
{
    const size_t n = strlen(value);
    if (n == 0 || n >= size) return false;
    memcpy(to, value, n + 1);
    return true;
}

static bool take(const char *name, const char *value, gld_op_case *c)
{
    static const char *const regimes[] = {"lattice", "trained", "adversarial", "recorded", "fuzzed"};
    static const char *const weights[] = {"f32", "bf16", "f16"};
    static const fh1_dtype types[] = {FH1_F32, FH1_BF16, FH1_F16};
    int k;
    if (strcmp(name, "op") == 0) return true;
    if (strcmp(name, "trace") == 0) return keep(value, c->trace, sizeof c->trace);
    if (strcmp(name, "model") == 0) return keep(value, c->model, sizeof c->model);
    if (strcmp(name, "engine") == 0) return keep(value, c->engine, sizeof c->engine);
    if (strcmp(name, "contract") == 0) return keep(value, c->contract, sizeof c->contract);
    if (strcmp(name, "fault") == 0) return keep(value, c->fault, sizeof c->fault);
    if (strcmp(name, "regime") == 0) {
        k = one_of(value, regimes, 5);
        c->regime = (gld_regime)(k < 0 ? 0 : k);
        return k >= 0;
    }
    if (strcmp(name, "weights") == 0) {
        k = one_of(value, weights, 3);
        c->weights = types[k < 0 ? 0 : k];
        return k >= 0;
    }
    for (k = 0; k < N_NUMBERS; k++) {
        if (strcmp(name, numbers[k].name) != 0) continue;
        int64_t v;
        if (!op_reads(c->op, name) || !whole(value, &v) || v < numbers[k].min || v > numbers[k].max) return false;
        *number_of(c, k) = v;
        return true;
    }
    return false;
}

/* The numbers of one array, in doubles. */
static bool arrays_hold(const gld_op_case *c)
{
    const double T = (double)c->T, D = (double)c->D, F = (double)c->F, V = (double)c->V, A = (double)c->A;
    const double heads = (double)(c->H * c->P), groups = (double)(c->G * c->N), most = 16777216;
    const bool d = op_reads(c->op, "D"), f = op_reads(c->op, "F"), v = op_reads(c->op, "V");
    if (T > most || (d && T * D > most) || (f && T * F > most) || (v && T * V > most)) return false;
    if ((d && f && D * F > most) || (d && v && D * V > most)) return false;
    if (op_reads(c->op, "P") && (T * (heads + 2 * groups) > most || heads * (double)c->N > most)) return false;
    if (op_reads(c->op, "H") && T * (double)c->H > most) return false;
    if (op_reads(c->op, "c") && (T + (double)c->K) * (double)c->c > most) return false;
    if (op_reads(c->op, "c") && op_reads(c->op, "N") && (double)c->N * (T + (double)c->c) > most) return false;
    if (op_reads(c->op, "A") && T * (double)c->Hq * A > most) return false;
    return !op_reads(c->op, "Hkv") || (T + (double)c->past) * (double)c->Hkv * A <= most;
}

static bool holds(const gld_op_case *c)
{
    if (op_reads(c->op, "P") && c->H % c->G != 0) return false;
    if (c->op == GLD_OP_GATED_NORM && c->D % c->G != 0) return false;
    if (op_reads(c->op, "Hkv") && c->Hq % c->Hkv != 0) return false;
    if (op_reads(c->op, "A") && c->A % 2 != 0 && !fuzz_planted("odd")) return false;
    if (op_reads(c->op, "docs") && c->docs > c->T) return false;
    if (c->regime == GLD_REGIME_RECORDED && (!*c->trace || !*c->model)) return false;
    return arrays_hold(c);
}

static void usual(gld_op op, gld_op_case *c)
{
    memset(c, 0, sizeof *c);
    c->op = op;
    c->weights = FH1_BF16;
    for (int i = 0; i < N_NUMBERS; i++) *number_of(c, i) = numbers[i].usual;
    if (!op_reads(op, "T")) c->T = 1; /* one token at a time */
}

static bool read_words(const slow_words *w, gld_op_case *out)
{
    const char *names[sizeof numbers / sizeof *numbers + 8];
    int n = 0, op = -1;
    for (int i = 0; i < w->n; i++) {
        char *value = strchr(w->word[i], '=');
        if (strncmp(w->word[i], "--", 2) != 0 || !value) return false;
        *value = '\0';
        if (strcmp(w->word[i], "--op") != 0) continue;
        for (int k = 0; k < GLD_OP_COUNT; k++)
            if (strcmp(value + 1, ops[k].name) == 0) op = k;
    }
    if (op < 0) return false;
    usual((gld_op)op, out);
    for (int i = 0; i < w->n; i++) {
        const char *name = w->word[i] + 2;
        if (!take(name, name + strlen(name) + 1, out)) return false;
        for (int k = 0; k < n; k++)
            if (strcmp(names[k], name) == 0) return false;
        names[n++] = name;
    }
    return true;
}

bool slow_op_read(const char *line, gld_op_case *out)
{
    char *flat = strdup(line);
    for (char *p = flat; *p; p++)
        if (isspace((unsigned char)*p)) *p = ' ';
    slow_words w = slow_words_cut(flat, ' ');
    free(flat);
    int n = 0;
    for (int i = 0; i < w.n; i++)
        if (*w.word[i]) w.word[n++] = w.word[i];
    w.n = n;
    const bool good = read_words(&w, out);
    slow_words_free(&w);
    return good && holds(out);
}
