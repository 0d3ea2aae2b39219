#include "golden/op_case.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const op_names[GLD_OP_COUNT] = {
    "embed",          "rmsnorm",  "linear",         "conv1d",         "conv1d_step",   "dt_softplus", "ssd_scan",
    "ssd_chunk",      "ssd_step", "selective_scan", "selective_step", "gated_norm",    "rope",        "attention",
    "attention_step", "swiglu",   "residual",       "lm_head",        "cross_entropy", "sample"};

static const char *const regime_names[GLD_REGIME_COUNT] = {"lattice", "trained", "adversarial", "recorded", "fuzzed"};

const char *gld_op_name(gld_op op)
{
    return (unsigned)op < GLD_OP_COUNT ? op_names[op] : "unknown";
}

const char *gld_regime_name(gld_regime r)
{
    return (unsigned)r < GLD_REGIME_COUNT ? regime_names[r] : "unknown";
}

/* -- fields ------------------------------------------------------------------------------------ */

#define ON(op) (1u << GLD_OP_##op)
#define ALL_OPS ((1u << GLD_OP_COUNT) - 1)
#define STEPS (ON(CONV1D_STEP) | ON(SSD_STEP) | ON(SELECTIVE_STEP) | ON(ATTENTION_STEP))
#define SCANS (ON(SSD_SCAN) | ON(SSD_CHUNK) | ON(SSD_STEP))
#define SELECTIVES (ON(SELECTIVE_SCAN) | ON(SELECTIVE_STEP))
#define CONVS (ON(CONV1D) | ON(CONV1D_STEP))
#define ATTENTIONS (ON(ATTENTION) | ON(ATTENTION_STEP))
#define MATRICES (ON(LINEAR) | ON(LM_HEAD))
#define AT(field) #field, offsetof(gld_op_case, field)
#define WIDEST (1 << 20)

static const gld_op_field fields[] = {
    {AT(seed), 0, INT64_MAX, 1, GLD_FIELD_PLACE, ALL_OPS, "of all random numbers"},
    {AT(T), 1, WIDEST, 5, GLD_FIELD_SIZE, ALL_OPS & ~STEPS, "tokens, or rows"},
    {AT(past), 0, WIDEST, 3, GLD_FIELD_SIZE, ATTENTIONS | ON(ROPE), "columns before the call"},
    {AT(docs), 1, WIDEST, 1, GLD_FIELD_SIZE,
     ON(CONV1D) | ON(SSD_SCAN) | ON(SSD_CHUNK) | ON(SELECTIVE_SCAN) | ON(ATTENTION), "documents in the tokens"},
    {AT(D), 1, WIDEST, 8, GLD_FIELD_SIZE, MATRICES | ON(EMBED) | ON(RMSNORM) | ON(GATED_NORM) | ON(RESIDUAL),
     "width of the rows"},
    {AT(F), 1, WIDEST, 8, GLD_FIELD_SIZE, ON(LINEAR) | ON(SWIGLU), "outputs"},
    {AT(V), 2, WIDEST, 16, GLD_FIELD_SIZE, ON(EMBED) | ON(LM_HEAD) | ON(CROSS_ENTROPY) | ON(SAMPLE), "vocabulary"},
    {AT(H), 1, WIDEST, 2, GLD_FIELD_SIZE, SCANS | ON(DT_SOFTPLUS), "mixer heads"},
    {AT(P), 1, WIDEST, 4, GLD_FIELD_SIZE, SCANS, "mixer head width"},
    {AT(N), 1, WIDEST, 8, GLD_FIELD_SIZE, SCANS | SELECTIVES, "state width"},
    {AT(G), 1, WIDEST, 1, GLD_FIELD_SIZE, SCANS | ON(GATED_NORM), "groups; divides H, or D"},
    {AT(K), 1, 64, 4, GLD_FIELD_SIZE, CONVS, "conv taps"},
    {AT(Q), 1, WIDEST, 16, GLD_FIELD_SIZE, ON(SSD_CHUNK), "chunk length"},
    {AT(c), 1, WIDEST, 8, GLD_FIELD_SIZE, CONVS | SELECTIVES, "channels of a conv, or of a selective scan"},
    {AT(Hq), 1, WIDEST, 2, GLD_FIELD_SIZE, ATTENTIONS | ON(ROPE), "query heads, or heads to rotate"},
    {AT(Hkv), 1, WIDEST, 1, GLD_FIELD_SIZE, ATTENTIONS, "key and value heads; divides Hq"},
    {AT(A), 2, 8190, 8, GLD_FIELD_SIZE, ATTENTIONS | ON(ROPE), "attention head width; even"},
    {AT(bias), 0, 1, 1, GLD_FIELD_OPTION, CONVS | ON(LINEAR), "1: there is one"},
    {AT(state), 0, 1, 1, GLD_FIELD_OPTION, SCANS | SELECTIVES | CONVS, "1: the incoming state or window is not 0"},
    {AT(limits), 0, 1, 0, GLD_FIELD_OPTION, ON(DT_SOFTPLUS), "1: time_step_limit cuts on both sides"},
    {AT(weight), 0, 1, 1, GLD_FIELD_OPTION, ON(RMSNORM), "1: there is one"},
    {AT(norm), 0, 1, 1, GLD_FIELD_OPTION, ON(GATED_NORM), "1: the gate has a norm"},
    {AT(norm_before_gate), 0, 1, 0, GLD_FIELD_OPTION, ON(GATED_NORM), "1: the norm comes first"},
    {AT(mix), 0, 1, 1, GLD_FIELD_OPTION, ON(RESIDUAL), "1: two branches"},
    {AT(layer), 0, WIDEST, 0, GLD_FIELD_PLACE, ALL_OPS, "recorded: layer to cut from"},
    {AT(step), 0, WIDEST, 0, GLD_FIELD_PLACE, ALL_OPS, "recorded: call to cut from"},
};
enum { N_FIELDS = sizeof fields / sizeof *fields };

const gld_op_field *gld_op_field_at(int i)
{
    return i >= 0 && i < N_FIELDS ? &fields[i] : NULL;
}

int64_t gld_op_field_get(const gld_op_field *f, const gld_op_case *c)
{
    int64_t v;
    memcpy(&v, (const char *)c + f->offset, sizeof v);
    return v;
}

void gld_op_field_set(const gld_op_field *f, gld_op_case *c, int64_t v)
{
    memcpy((char *)c + f->offset, &v, sizeof v);
}

/* One token at a time: T is no option of theirs. */
static bool is_step(gld_op op)
{
    return (STEPS >> op & 1) != 0;
}

gld_op_case gld_op_case_new(gld_op op)
{
    gld_op_case c;
    memset(&c, 0, sizeof c);
    c.op = op;
    c.weights = FH1_BF16;
    for (int i = 0; i < N_FIELDS; ++i) gld_op_field_set(&fields[i], &c, fields[i].usual);
    if (is_step(op)) c.T = 1;
    return c;
}

/* The texts of a case. */
static const struct {
    const char *name;
    size_t offset, size;
} texts[] = {
    {AT(trace), sizeof((gld_op_case *)0)->trace},   {AT(model), sizeof((gld_op_case *)0)->model},
    {AT(engine), sizeof((gld_op_case *)0)->engine}, {AT(contract), sizeof((gld_op_case *)0)->contract},
    {AT(fault), sizeof((gld_op_case *)0)->fault},
};
enum { N_TEXTS = sizeof texts / sizeof *texts };

/* -- lines ------------------------------------------------------------------------------------- */

typedef struct {
    char name[32];
    const char *value;
    size_t n_value;
} option;

/* The next "--name=value" of *rest; *found is false at the end. */
static fh1_status next_option(const char **rest, option *o, bool *found)
{
    while (isspace((unsigned char)**rest)) ++*rest;
    *found = **rest != '\0';
    if (!*found) return NULL;
    const char *word = *rest, *end = word;
    while (*end && !isspace((unsigned char)*end)) ++end;
    *rest = end;
    const char *equals = memchr(word, '=', (size_t)(end - word));
    const int shown = end - word > 80 ? 80 : (int)(end - word);
    if (strncmp(word, "--", 2) != 0 || !equals || equals == word + 2)
        return fh1_expected(FH1_BAD("'%.*s' is no option of an op case", shown, word), "--NAME=VALUE");
    const size_t n = (size_t)(equals - word - 2);
    if (n >= sizeof o->name) return FH1_BAD("unknown option '%.*s' of an op case", shown, word);
    memcpy(o->name, word + 2, n);
    o->name[n] = '\0';
    o->value = equals + 1;
    o->n_value = (size_t)(end - equals - 1);
    return NULL;
}

static fh1_status bad_value(const option *o)
{
    fh1_status s = fh1_where(FH1_BAD("bad value"), "--%s", o->name);
    return fh1_found(s, "'%.*s'", o->n_value > 80 ? 80 : (int)o->n_value, o->value);
}

static fh1_status read_integer(const option *o, int64_t *v)
{
    char text[24], *end;
    if (o->n_value == 0 || o->n_value >= sizeof text) return fh1_expected(bad_value(o), "an integer");
    memcpy(text, o->value, o->n_value);
    text[o->n_value] = '\0';
    errno = 0;
    *v = strtoll(text, &end, 10);
    return *end || errno || isspace((unsigned char)*text) ? fh1_expected(bad_value(o), "an integer") : NULL;
}

/* The index of the value in a list of names. */
static fh1_status read_name(const option *o, const char *const *names, int n, int *found)
{
    char known[256] = "";
    for (int i = 0; i < n; ++i) {
        if (strlen(names[i]) == o->n_value && memcmp(names[i], o->value, o->n_value) == 0) {
            *found = i;
            return NULL;
        }
        const size_t used = strlen(known);
        snprintf(known + used, sizeof known - used, "%s%s", i ? ", " : "", names[i]);
    }
    return fh1_expected(bad_value(o), "one of %s", known);
}

static const char *const weight_names[] = {"f32", "bf16", "f16"};
static const fh1_dtype weight_types[] = {FH1_F32, FH1_BF16, FH1_F16};

/* Bits of the options that a line has given: fields, then texts, then op, regime, weights. */
enum { BIT_TEXT = N_FIELDS, BIT_OP = N_FIELDS + N_TEXTS, BIT_REGIME, BIT_WEIGHTS };

static fh1_status take(const option *o, gld_op_case *c, int *bit)
{
    int k = 0;
    if (strcmp(o->name, "op") == 0) {
        *bit = BIT_OP;
        return NULL; /* read before the others */
    }
    if (strcmp(o->name, "regime") == 0) {
        *bit = BIT_REGIME;
        FH1_TRY(read_name(o, regime_names, GLD_REGIME_COUNT, &k));
        c->regime = (gld_regime)k;
        return NULL;
    }
    if (strcmp(o->name, "weights") == 0) {
        *bit = BIT_WEIGHTS;
        FH1_TRY(read_name(o, weight_names, 3, &k));
        c->weights = weight_types[k];
        return NULL;
    }
    for (*bit = 0; *bit < N_FIELDS; ++*bit) {
        const gld_op_field *f = &fields[*bit];
        if (strcmp(o->name, f->name) != 0) continue;
        int64_t v = 0;
        if (!(f->ops >> c->op & 1)) return FH1_BAD("%s does not read --%s", gld_op_name(c->op), f->name);
        FH1_TRY(read_integer(o, &v));
        gld_op_field_set(f, c, v);
        return NULL;
    }
    for (int i = 0; i < N_TEXTS; ++i) {
        if (strcmp(o->name, texts[i].name) != 0) continue;
        *bit = BIT_TEXT + i;
        if (o->n_value == 0 || o->n_value >= texts[i].size)
            return fh1_expected(bad_value(o), "1 to %zu bytes", texts[i].size - 1);
        char *text = (char *)c + texts[i].offset;
        memcpy(text, o->value, o->n_value);
        text[o->n_value] = '\0';
        return NULL;
    }
    fh1_status s = FH1_BAD("unknown option --%s of an op case", o->name);
    return fh1_hint(s, "op, regime, weights, T, D, H … : see golden/op_case.h");
}

fh1_status gld_op_case_parse(const char *line, gld_op_case *out)
{
    const char *rest = line;
    option o;
    bool found, has_op = false;
    for (;;) { /* the op decides which options there are */
        FH1_TRY(next_option(&rest, &o, &found));
        if (!found) break;
        if (strcmp(o.name, "op") != 0) continue;
        int op = 0;
        FH1_TRY(read_name(&o, op_names, GLD_OP_COUNT, &op));
        *out = gld_op_case_new((gld_op)op);
        has_op = true;
    }
    if (!has_op) return fh1_expected(FH1_BAD("an op case without its op"), "--op=NAME");
    uint64_t given = 0;
    for (rest = line;;) {
        int bit;
        FH1_TRY(next_option(&rest, &o, &found));
        if (!found) break;
        FH1_TRY(take(&o, out, &bit));
        if (given >> bit & 1) return FH1_BAD("option --%s is given twice", o.name);
        given |= (uint64_t)1 << bit;
    }
    return gld_op_case_check(out);
}

static void add(char *buf, size_t size, const char *name, const char *value)
{
    const size_t used = strlen(buf);
    snprintf(buf + used, size - used, "%s--%s=%s", used ? " " : "", name, value);
}

const char *gld_op_case_print(const gld_op_case *c, char *buf, size_t size)
{
    if (size == 0) return buf;
    buf[0] = '\0';
    add(buf, size, "op", gld_op_name(c->op));
    add(buf, size, "regime", gld_regime_name(c->regime));
    for (int i = 0; i < 3; ++i)
        if (c->weights == weight_types[i] && c->weights != FH1_BF16) add(buf, size, "weights", weight_names[i]);
    for (int i = 0; i < N_FIELDS; ++i) {
        const int64_t v = gld_op_field_get(&fields[i], c);
        if (!(fields[i].ops >> c->op & 1) || v == fields[i].usual) continue;
        char text[24];
        snprintf(text, sizeof text, "%lld", (long long)v);
        add(buf, size, fields[i].name, text);
    }
    for (int i = 0; i < N_TEXTS; ++i) {
        const char *text = (const char *)c + texts[i].offset;
        if (*text) add(buf, size, texts[i].name, text);
    }
    return buf;
}

/* -- checks ------------------------------------------------------------------------------------ */

static fh1_status divides(const char *what, int64_t d, const char *of, int64_t n)
{
    if (n % d == 0) return NULL;
    return fh1_where(FH1_BAD("%lld does not divide %s=%lld", (long long)d, of, (long long)n), "--%s", what);
}

static bool reads(const gld_op_case *c, const char *name)
{
    for (int i = 0; i < N_FIELDS; ++i)
        if (strcmp(fields[i].name, name) == 0) return (fields[i].ops >> c->op & 1) != 0;
    return false;
}

/* The largest array: a product of at most four sizes, in doubles, which cannot overflow. */
static double largest(const gld_op_case *c)
{
    const double T = (double)c->T, S = T + (double)c->past, D = (double)c->D, F = (double)c->F, V = (double)c->V;
    const double H = (double)c->H, P = (double)c->P, N = (double)c->N, G = (double)c->G;
    const double Hq = (double)c->Hq, Hkv = (double)c->Hkv, A = (double)c->A;
    double n = T;
    const double each[] = {reads(c, "D") ? T * D : 0,
                           reads(c, "F") ? T * F : 0,
                           reads(c, "V") ? T * V : 0,
                           reads(c, "D") && reads(c, "F") ? D * F : 0,
                           reads(c, "D") && reads(c, "V") ? D * V : 0,
                           reads(c, "P") ? T * (H * P + 2 * G * N) : 0,
                           reads(c, "P") ? H * P * N : 0,
                           reads(c, "H") ? T * H : 0,
                           reads(c, "c") ? (T + (double)c->K) * (double)c->c : 0,
                           reads(c, "c") && reads(c, "N") ? N * (T + (double)c->c) : 0,
                           reads(c, "A") ? T * Hq * A : 0,
                           reads(c, "Hkv") ? S * Hkv * A : 0};
    for (size_t i = 0; i < sizeof each / sizeof *each; ++i)
        if (each[i] > n) n = each[i];
    return n;
}

fh1_status gld_op_case_check(const gld_op_case *c)
{
    if ((unsigned)c->op >= GLD_OP_COUNT || (unsigned)c->regime >= GLD_REGIME_COUNT)
        return FH1_BAD("an op case with an unknown op or regime");
    for (int i = 0; i < N_FIELDS; ++i) {
        const gld_op_field *f = &fields[i];
        const int64_t v = gld_op_field_get(f, c);
        if (!(f->ops >> c->op & 1) || (v >= f->min && v <= f->max)) continue;
        fh1_status s = fh1_where(FH1_BAD("out of range (%s)", f->what), "--%s", f->name);
        s = fh1_expected(s, "%lld to %lld", (long long)f->min, (long long)f->max);
        return fh1_found(s, "%lld", (long long)v);
    }
    if (is_step(c->op) && c->T != 1) return fh1_where(FH1_BAD("%s takes one token", gld_op_name(c->op)), "--T");
    if (reads(c, "P")) FH1_TRY(divides("G", c->G, "H", c->H));
    if (c->op == GLD_OP_GATED_NORM) FH1_TRY(divides("G", c->G, "D", c->D));
    if (reads(c, "Hkv")) FH1_TRY(divides("Hkv", c->Hkv, "Hq", c->Hq));
    if (reads(c, "A") && c->A % 2) return fh1_where(FH1_BAD("an odd head width cannot be rotated"), "--A");
    if (reads(c, "docs") && c->docs > c->T)
        return fh1_where(FH1_BAD("more documents than tokens (T=%lld)", (long long)c->T), "--docs");
    if (c->regime == GLD_REGIME_RECORDED && (!*c->trace || !*c->model)) {
        fh1_status s = FH1_BAD("recorded data need their source");
        return fh1_expected(fh1_where(s, *c->trace ? "--model" : "--trace"), "--trace=FILE --model=FOLDER");
    }
    if (!(largest(c) <= (double)(1 << 24))) {
        fh1_status s = FH1_BAD("an array of %.3g numbers is too large for one case", largest(c));
        return fh1_expected(fh1_where(s, "--op=%s", gld_op_name(c->op)), "at most 2^24");
    }
    return NULL;
}
