#include "cli/fault_matrix.h"

#include "cli/fault_bench.h"
#include "cli/progress.h"
#include "golden/record.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const rule_names[FAULT_RULES] = {"check",    "law",    "lattice", "trained", "adversarial",
                                                    "recorded", "fuzzed", "horizon", "gradient"};

const char *fault_rule_name(int rule)
{
    return rule_names[rule];
}

/* ---- what the registry asks for ---- */

typedef struct {
    const char *rest;
    char word[64];
} words;

static bool next_word(words *w)
{
    w->rest += strspn(w->rest, " ");
    const size_t n = strcspn(w->rest, " ");
    snprintf(w->word, sizeof w->word, "%.*s", (int)n, w->rest);
    w->rest += n;
    return n > 0;
}

static bool names_rule(const fh1_fault_info *info, const char *rule)
{
    for (words w = {.rest = info->caught_by}; next_word(&w);)
        if (strcmp(w.word, rule) == 0) return true;
    return false;
}

static bool names_law(const fh1_fault_info *info, const gld_law *law)
{
    char word[64];
    snprintf(word, sizeof word, "law.%s", law->name);
    return names_rule(info, word);
}

fh1_fault_info fault_info_of(fh1_fault f, fh1_family family)
{
    fh1_fault_info info = *fh1_fault_get(f);
    info.tap = fh1_fault_tap(f, family);
    return info;
}

const char *fault_caught_by(fh1_fault f, fh1_family family, const fh1_fault_info *info, char *buf, size_t size)
{
    const gld_fault_case c = gld_fault_case_of(f, family);
    char tap[96];
    buf[0] = 0;
    fault_place(family, -1, info->tap, 0, tap, sizeof tap);
    for (words w = {.rest = info->caught_by}; next_word(&w);) {
        const size_t used = strlen(buf);
        const char *comma = used ? ", " : "";
        if (strcmp(w.word, "check") == 0)
            snprintf(buf + used, size - used, "%scheck %s %s %s", comma, c.model, gld_fault_input_name((int)c.inputs),
                     tap);
        else if (strncmp(w.word, "law.", 4) == 0) snprintf(buf + used, size - used, "%s%s", comma, w.word);
        else snprintf(buf + used, size - used, "%s%s %s", comma, w.word, info->op);
    }
    return buf;
}

/* ---- the first changed bit ---- */

typedef struct {
    bool any;
    int64_t step, layer, order;
    fh1_tap_id tap;
} change;

/* Whether element i of a recorded tap belongs to a real token; states do, slots of padding do not. */
static bool is_real(const gld_step *step, const gld_tap *tap, int64_t i)
{
    const fh1_batch *b = &step->batch;
    const fh1_tensor *t = &tap->t;
    int64_t column = -1;
    if (!b->mask || t->rank < 2) return true;
    const int64_t row_size = fh1_n_elems(t) / t->shape[0], row = i / row_size;
    if (tap->id == FH1_TAP_CACHE_KEY || tap->id == FH1_TAP_CACHE_VALUE) column = i / t->shape[3] % t->shape[2];
    else if (!fh1_tap_is_cache(tap->id)) column = b->mask_len - t->shape[1] + i % row_size / (row_size / t->shape[1]);
    return column < 0 || b->mask[row * b->mask_len + column] != 0;
}

/* A tap that is not there was not computed: that shows later. */
static bool same_bits(const gld_step *step, const gld_tap *a, const gld_tap *b)
{
    if (!b) return true;
    const int64_t n = fh1_n_elems(&a->t), size = fh1_dtype_bits(a->t.dtype) / 8;
    if (fh1_n_elems(&b->t) != n) return false;
    const char *left = a->t.data, *right = b->t.data;
    if (memcmp(left, right, (size_t)(n * size)) == 0) return true;
    for (int64_t i = 0; i < n; ++i)
        if (memcmp(left + i * size, right + i * size, (size_t)size) != 0 && is_real(step, a, i)) return false;
    return true;
}

/* Both engines are one source: the first tap that differs in a bit is where the fault acts first. */
static change first_change(const gld_trace *honest, const gld_trace *faulty, const fh1_config *c)
{
    change first = {0};
    for (int64_t j = 0; j < honest->n_steps && !first.any; ++j)
        for (int64_t k = 0; k < honest->steps[j].n_taps; ++k) {
            const gld_tap *a = &honest->steps[j].taps[k];
            const int64_t order = fh1_tap_order(c, a->id, a->layer, c->n_layers);
            if ((first.any && order > first.order) ||
                same_bits(&honest->steps[j], a, gld_trace_find(faulty, j, a->id, a->layer)))
                continue;
            first = (change){true, j, a->layer, order, a->id};
        }
    return first;
}

/* ---- the rules ---- */

typedef struct {
    fh1_fault f;
    fh1_family family;
} target;

static fh1_status run_check(fault_bench *b, const target *t0, const fh1_fault_info *info, fault_row *row)
{
    const fh1_fault f = t0->f;
    const fault_setting *s;
    gld_trace t;
    fault_verdict v;
    FH1_TRY(fault_setting_of(b, f, t0->family, &s));
    fh1_engine *e;
    FH1_TRY(fault_engine_of(b, f, t0->family, &e));
    fh1_status st = gld_record_like(e, s->m, &s->in, NULL, &t);
    e->free(e);
    FH1_TRY(st);
    if (!(st = fault_judge(&t, s->m, f, &v))) {
        const change c = first_change(&s->honest, &t, &s->m->config);
        row->runs[FAULT_RULE_CHECK] = 1;
        row->red[FAULT_RULE_CHECK] = v.failed;
        row->judged = true;
        row->acts = c.any;
        row->rank = v.rank;
        row->right_tap = v.failed && v.tap == info->tap;
        /* A later one is right only where the bits that changed before are inside rounding: there the judge, whose
         * bounds know nothing of faults, passed them. An earlier one would be an honest engine rejected. */
        row->late = v.failed && c.any && (c.step != v.step || c.order != v.order);
        row->right_step = v.failed && c.any && (c.step < v.step || (c.step == v.step && c.order <= v.order));
        snprintf(row->suspects, sizeof row->suspects, "%s", v.suspects);
        if (v.failed) fault_place(s->m->config.family, v.step, v.tap, v.layer, row->found, sizeof row->found);
        if (c.any) fault_place(s->m->config.family, c.step, c.tap, c.layer, row->changed, sizeof row->changed);
        fault_place(s->m->config.family, -1, info->tap, 0, row->wanted, sizeof row->wanted);
    }
    gld_trace_free(&t);
    return st;
}

/* All laws on the small model; those that the registry names on the others too, until one is red. */
static fh1_status run_laws(fault_bench *b, fh1_family family, const fh1_fault_info *info, fh1_engine *e, fault_row *row)
{
    for (int i = 0; gld_law_at(i); ++i) {
        const gld_law *law = gld_law_at(i);
        const bool named = names_law(info, law);
        bool red = false;
        for (int m = 0; m < (named ? FAULT_LAW_MODELS : 1) && !red; ++m) {
            gld_law_result r;
            FH1_TRY(fault_law_run(b, law, family, m, e, &r));
            red = r.verdict == FH1_FAIL;
        }
        row->runs[FAULT_RULE_LAW]++;
        row->red[FAULT_RULE_LAW] += red;
        row->owes[FAULT_RULE_LAW] |= named && !red;
    }
    return NULL;
}

static bool of_a_scan(const fh1_fault_info *info)
{
    return strncmp(info->op, "ssd_", 4) == 0 || strncmp(info->op, "selective_", 10) == 0;
}

/* Ops that both families have are looked at in the row of Falcon-H1. */
static bool has_op_row(const target *t, const fh1_fault_info *info)
{
    return t->family == gld_fault_family(t->f) || of_a_scan(info);
}

/* What looks at the engine itself. Of cuda-host only what the registry asks for: it is slow. */
static fh1_status run_engine_rules(fault_bench *b, const target *t, const fh1_fault_info *info, fault_row *row)
{
    const bool ops = has_op_row(t, info) && (!b->cuda || names_rule(info, rule_names[FAULT_RULE_LATTICE]));
    const bool horizon = b->cuda ? names_rule(info, rule_names[FAULT_RULE_HORIZON]) : of_a_scan(info);
    fh1_engine *e;
    if (b->cuda && !ops && !horizon) return NULL;
    FH1_TRY(fault_engine_of(b, t->f, t->family, &e));
    fh1_status s = b->cuda ? NULL : run_laws(b, t->family, info, e, row);
    if (!s && ops) s = fault_regimes_run(b, info->op, t->family, false, e, row, NULL, 0);
    fh1_verdict v = FH1_SKIP;
    if (!s && horizon) s = fault_horizon_run(b, t->family, e, &v);
    row->runs[FAULT_RULE_HORIZON] = v != FH1_SKIP;
    row->red[FAULT_RULE_HORIZON] = v == FH1_FAIL;
    e->free(e);
    return s;
}

static fh1_status run_rules(fault_bench *b, const target *t, const fh1_fault_info *info, fault_row *row)
{
    row->right_tap = row->right_step = true;
    if (fh1_fault_is_gradient(t->f)) {
        FH1_TRY(fault_gradient_run(b, t->f, t->family, info, row));
        row->owes[FAULT_RULE_GRADIENT] = row->red[FAULT_RULE_GRADIENT] == 0;
        row->killed = !row->owes[FAULT_RULE_GRADIENT];
        return NULL;
    }
    if (names_rule(info, "check")) FH1_TRY(run_check(b, t, info, row));
    if (!b->bf16) FH1_TRY(run_engine_rules(b, t, info, row));
    row->killed = true;
    for (int r = 0; r < FAULT_RULES; ++r) {
        const bool of_op = r >= FAULT_RULE_LATTICE && r <= FAULT_RULE_FUZZED;
        if (r != FAULT_RULE_LAW && names_rule(info, rule_names[r]) && (!of_op || has_op_row(t, info)))
            row->owes[r] = row->red[r] == 0;
        if (!b->bf16 || r == FAULT_RULE_CHECK) row->killed = row->killed && !row->owes[r];
    }
    return NULL;
}

fh1_status fault_row_run(fault_bench *b, fh1_fault f, fh1_family family, const fh1_fault_info *info, fault_row *row)
{
    const target t = {f, family};
    const double start = cli_seconds();
    memset(row, 0, sizeof *row);
    row->job = fault_job(f, family);
    fh1_status s = run_rules(b, &t, info, row);
    row->seconds = cli_seconds() - start;
    return fh1_where(s, "%s", info->name);
}
