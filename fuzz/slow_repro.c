#include "fuzz/slow_repro.h"

#include "fuzz/plant.h"
#include "fuzz/slow_rules.h"

#include <ctype.h>
#include <fnmatch.h>
#include <math.h>

/* ---- words and numbers ---- */

slow_words slow_words_cut(const char *text, char separator)
{
    slow_words w = {.text = strdup(text), .n = 1};
    for (const char *p = text; *p; p++) w.n += *p == separator;
    w.word = calloc((size_t)w.n, sizeof *w.word);
    w.word[0] = w.text;
    int i = 1;
    for (char *p = w.text; *p; p++) {
        if (*p != separator) continue;
        *p = '\0';
        w.word[i++] = p + 1;
    }
    return w;
}

void slow_words_free(slow_words *w)
{
    free(w->text);
    free(w->word);
}

bool slow_integer(const char *text, int64_t *v)
{
    const bool negative = text[0] == '-';
    const char *p = text + (negative ? 1 : 0);
    const size_t n = strlen(p);
    *v = 0;
    if (n < 1 || n > 18) return false;
    for (; *p; p++) {
        if (*p < '0' || *p > '9') return false;
        *v = *v * 10 + (*p - '0');
    }
    if (negative) *v = -*v;
    return true;
}

static const char *digits(const char *p)
{
    while (*p >= '0' && *p <= '9') p++;
    return p;
}

bool slow_number(const char *text, double *v)
{
    const char *p = text;
    if (*p == '+' || *p == '-') p++;
    if (strcmp(p, "inf") == 0) {
        *v = text[0] == '-' ? -(double)INFINITY : (double)INFINITY;
        return true;
    }
    const char *point = digits(p), *end = point;
    if (*point == '.') end = digits(point + 1);
    if (end - p == (*point == '.' ? 1 : 0)) return false; /* no digit at all */
    if (*end == 'e') {
        const char *exponent = end + 1 + (end[1] == '+' || end[1] == '-');
        end = digits(exponent);
        if (end == exponent) return false;
    }
    *v = strtod(text, NULL);
    return *end == '\0';
}

/* ---- words of a line: blanks between, a backslash keeps what follows ---- */

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\n';
}

static slow_words words_of(const char *line)
{
    const size_t n = strlen(line);
    slow_words w = {.text = calloc(1, n + 1), .word = calloc(n + 1, sizeof *w.word)};
    char *to = w.text;
    bool inside = false;
    for (const char *p = line; *p; p++) {
        if (is_blank(*p)) {
            *to++ = '\0';
            inside = false;
            continue;
        }
        if (!inside) w.word[w.n++] = to;
        inside = true;
        if (*p == '\\' && p[1] != '\0') p++;
        *to++ = *p;
    }
    return w;
}

/* ---- a model's line ---- */

typedef struct {
    const char *model, *make, *engine, *seed, *schedule, *traffic, *positions, *contract, *variant, *fault, *tap, *step;
} values;

static bool sort_values(const slow_words *w, values *v)
{
    const struct {
        const char *name;
        const char **value;
    } options[] = {{"--model=", &v->model},       {"--make=", &v->make},         {"--engine=", &v->engine},
                   {"--seed=", &v->seed},         {"--schedule=", &v->schedule}, {"--positions=", &v->positions},
                   {"--contract=", &v->contract}, {"--variant=", &v->variant},   {"--fault=", &v->fault},
                   {"--tap=", &v->tap},           {"--step=", &v->step},         {"--traffic=", &v->traffic}};
    const int n = sizeof options / sizeof *options;
    for (int i = 0; i < w->n; i++) {
        int k = 0;
        while (k < n && strncmp(w->word[i], options[k].name, strlen(options[k].name)) != 0) k++;
        if (k == n || (*options[k].value && !fuzz_planted("twice"))) return false;
        *options[k].value = w->word[i] + strlen(options[k].name);
    }
    return true;
}

static bool take_text(const char *value, char *to, size_t size)
{
    if (!value) return true;
    if (strlen(value) < 1 || strlen(value) > size - 1) return false;
    memcpy(to, value, strlen(value) + 1);
    return true;
}

static bool take_count(const char *value, int64_t *to)
{
    return !value || (slow_integer(value, to) && *to >= 0);
}

/* Every glob of the list is the name of a tap at least. */
static bool taps_hold(const char *list, const fh1_config *c)
{
    slow_words globs = slow_words_cut(list, ',');
    bool all = true;
    for (int g = 0; g < globs.n && all; g++) {
        bool any = false;
        for (int id = 0; id < FH1_TAP_COUNT && !any; id++) {
            const int64_t layers = fh1_tap_is_per_layer((fh1_tap_id)id) ? c->n_layers : 1;
            for (int64_t i = 0; fh1_tap_exists(c, (fh1_tap_id)id) && i < layers && !any; i++) {
                char name[FH1_TAP_NAME_SIZE];
                any = fnmatch(globs.word[g], fh1_tap_name(c->family, (fh1_tap_id)id, i, name), 0) == 0;
            }
        }
        all = any;
    }
    slow_words_free(&globs);
    return all;
}

static int64_t steps_of(const gld_calls *s)
{
    int64_t n = 0;
    for (int i = 0; i < s->n; i++) n += s->call[i].times;
    return n;
}

static bool known_to_the_oracle(const values *v)
{
    const fh1_profile *profile;
    unsigned set;
    return (!v->contract || !fh1_contract_parse(v->contract, &profile, &set)) &&
           (!v->variant || !fh1_variants_parse(v->variant, &set)) &&
           (!v->fault || fh1_fault_find(v->fault) != FH1_FAULT_NONE);
}

static bool read_positions(const char *value, gld_calls *calls)
{
    if (!value) return true;
    calls->no_positions = strcmp(value, "none") == 0;
    return calls->no_positions ||
           (take_count(value, &calls->first_position) && calls->first_position <= INT64_C(1) << 40);
}

/* Logits of every token, and keys and values as often as somebody may look at them. */
static double kept_of(const gld_repro *r, double cells)
{
    const fh1_config *c = &r->make.config;
    const double of_token = 2. * (double)c->n_layers * (double)c->Hkv * (double)c->A;
    return cells * ((double)c->V + (r->traffic.n + 1) * of_token);
}

static bool read_traffic(const values *v, gld_repro *out)
{
    double cells;
    out->is_traffic = true;
    if (v->schedule || v->positions || v->tap || v->step) return false;
    if (!slow_traffic_read(v->traffic, &out->traffic, &cells)) return false;
    if (v->make && !slow_spec_read(v->make, &out->make)) return false;
    return v->model || kept_of(out, cells) <= (double)(1 << 28);
}

static bool read_model_line(const values *v, gld_repro *out)
{
    int64_t seed = 1;
    if (!v->model == !v->make || !v->schedule == !v->traffic || !v->engine) return false;
    if (!known_to_the_oracle(v)) return false;
    if (!take_text(v->model, out->model, sizeof out->model) || !take_text(v->engine, out->engine, sizeof out->engine) ||
        !take_text(v->contract, out->contract, sizeof out->contract) ||
        !take_text(v->variant, out->variant, sizeof out->variant) ||
        !take_text(v->fault, out->fault, sizeof out->fault) || !take_text(v->tap, out->taps, sizeof out->taps))
        return false;
    if (!take_count(v->seed, &seed) || !take_count(v->step, &out->step)) return false;
    out->seed = (uint64_t)seed;
    if (v->traffic) return read_traffic(v, out);
    if (!read_positions(v->positions, &out->calls) || !slow_calls_read(v->schedule, &out->calls)) return false;
    if (v->make && !slow_spec_read(v->make, &out->make)) return false;
    if (out->step >= steps_of(&out->calls) && !fuzz_planted("step")) return false;
    if (v->model) return true;
    return (!v->tap || taps_hold(v->tap, &out->make.config)) &&
           slow_recorded(&out->calls, &out->make.config) <= (double)(1 << 28);
}

static bool read_op_line(const char *line, gld_repro *out)
{
    const fh1_profile *profile;
    unsigned set;
    out->is_op = true;
    if (!slow_op_read(line, &out->op)) return false;
    if (*out->op.fault && fh1_fault_find(out->op.fault) == FH1_FAULT_NONE) return false;
    if (*out->op.contract && fh1_contract_parse(out->op.contract, &profile, &set)) return false;
    if (!*out->op.engine) memcpy(out->op.engine, "ref-f32", sizeof "ref-f32");
    return true;
}

bool slow_repro_read(const char *line, gld_repro *out)
{
    memset(out, 0, sizeof *out);
    out->seed = 1;
    out->step = -1;
    slow_spec_usual(&out->make);
    if (strlen(line) > 16383) return false;
    slow_words w = words_of(line);
    values v = {0};
    bool op = false;
    for (int i = 0; i < w.n; i++) op |= strncmp(w.word[i], "--op=", 5) == 0;
    const bool good = op ? read_op_line(line, out) : sort_values(&w, &v) && read_model_line(&v, out);
    slow_words_free(&w);
    return good;
}
