#include "golden/map.h"

#include "golden/map_rules.h"

#include <assert.h>
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const input_names[GLD_INPUT_COUNT] = {
    [GLD_INPUT_IDS] = "input_ids",   [GLD_INPUT_MASK] = "attention_mask", [GLD_INPUT_POSITIONS] = "position_ids",
    [GLD_INPUT_SEQ_IDX] = "seq_idx", [GLD_INPUT_LABELS] = "labels",
};

const char *gld_input_name(gld_input i)
{
    assert((unsigned)i < GLD_INPUT_COUNT);
    return input_names[i];
}

/* -- names ------------------------------------------------------------------------------------- */

/* A number as it is printed: digits, no leading zero, below 10^9. Moves *s behind it. */
bool gld_map_number(const char **s, int64_t *out)
{
    const char *p = *s;
    if (*p < '0' || *p > '9' || (p[0] == '0' && p[1] >= '0' && p[1] <= '9')) return false;
    int64_t v = 0;
    for (; *p >= '0' && *p <= '9'; p++) {
        if (p - *s == 9) return false;
        v = v * 10 + (*p - '0');
    }
    *s = p;
    *out = v;
    return true;
}

bool gld_map_ours(const fh1_config *c, const char *ours, int64_t n_layers, gld_name *out)
{
    for (int i = 0; i < GLD_INPUT_COUNT; i++) {
        if (strcmp(ours, input_names[i]) != 0) continue;
        out->kind = GLD_NAME_INPUT;
        out->input = (gld_input)i;
        return true;
    }
    if (strncmp(ours, "grad.", 5) == 0 && ours[5] && strlen(ours + 5) < sizeof out->grad) {
        out->kind = GLD_NAME_GRAD;
        strcpy(out->grad, ours + 5);
        return true;
    }
    const bool is_tap =
        c ? fh1_tap_parse(c->family, ours, n_layers, &out->id, &out->layer) && fh1_tap_exists(c, out->id)
          : fh1_tap_parse_any(ours, n_layers, &out->id, &out->layer);
    if (!is_tap) return false;
    out->kind = GLD_NAME_TAP;
    return true;
}

static gld_name native(const fh1_config *c, const char *name)
{
    gld_name out = {.kind = GLD_NAME_UNKNOWN, .step = -1, .rule = -1};
    const char *p = name + 4;
    int64_t step;
    if (strncmp(name, "step", 4) != 0 || !gld_map_number(&p, &step) || *p != '/') return out;
    out.step = step;
    gld_map_ours(c, p + 1, c->n_layers, &out);
    return out;
}

/* Whether `name` is `pattern` with numbers for its placeholders. */
static bool fits(const char *pattern, const char *name, int64_t *layer, int64_t *step)
{
    *layer = *step = -1;
    while (*pattern) {
        bool is_layer = strncmp(pattern, "{i}", 3) == 0;
        if (is_layer || strncmp(pattern, "{j}", 3) == 0) {
            int64_t *slot = is_layer ? layer : step, v;
            if (!gld_map_number(&name, &v) || (*slot >= 0 && *slot != v)) return false;
            *slot = v;
            pattern += 3;
        } else if (*pattern++ != *name++) {
            return false;
        }
    }
    return *name == 0;
}

bool gld_map_expand(const char *ours, int64_t layer, char *buf, size_t size)
{
    const char *at = strstr(ours, "{i}");
    int n = at ? snprintf(buf, size, "%.*s%lld%s", (int)(at - ours), ours, (long long)layer, at + 3)
               : snprintf(buf, size, "%s", ours);
    return n >= 0 && (size_t)n < size;
}

static bool by_rule(const gld_map *m, int r, const fh1_config *c, const char *name, gld_name *out)
{
    const gld_rule *rule = &m->rules[r];
    int64_t layer, step;
    char ours[FH1_TAP_NAME_SIZE];
    if (!fits(rule->foreign, name, &layer, &step)) return false;
    *out = (gld_name){.kind = GLD_NAME_UNKNOWN, .rule = r};
    out->step = rule->step >= 0 ? rule->step : step >= 0 ? step : 0;
    if (gld_map_expand(rule->ours, layer, ours, sizeof ours)) gld_map_ours(c, ours, c->n_layers, out);
    return true;
}

gld_name gld_map_name(const gld_map *m, const fh1_config *c, const char *name)
{
    gld_name out;
    for (int r = 0; m && r < m->n_rules; r++)
        if (by_rule(m, r, c, name, &out)) return out;
    out = native(c, name);
    if (out.kind != GLD_NAME_UNKNOWN) return out;
    for (int i = 0; m && i < m->n_ignored; i++)
        if (fnmatch(m->ignored[i], name, 0) == 0) out.kind = GLD_NAME_IGNORED;
    return out;
}

int gld_map_n_rules(const gld_map *m)
{
    return m ? m->n_rules : 0;
}

int gld_map_line(const gld_map *m, int rule)
{
    assert(rule >= 0 && rule < m->n_rules);
    return m->rules[rule].line;
}

const char *gld_map_path(const gld_map *m)
{
    return m->path;
}

void gld_map_free(gld_map *m)
{
    if (!m) return;
    for (int r = 0; r < m->n_rules; r++) {
        free(m->rules[r].foreign);
        free(m->rules[r].ours);
    }
    for (int i = 0; i < m->n_ignored; i++) free(m->ignored[i]);
    free(m->rules);
    free(m->ignored);
    free(m);
}

/* -- operations -------------------------------------------------------------------------------- */

static fh1_status transpose(const gld_map_op *op, fh1_tensor *t)
{
    int order[FH1_MAX_RANK];
    if (op->n != t->rank) {
        char found[128];
        fh1_status s = FH1_BAD("transpose names another number of axes than the tensor has");
        s = fh1_expected(s, "%d axes", op->n);
        return fh1_found(s, "%s", fh1_shape_text(t, found, sizeof found));
    }
    for (int i = 0; i < op->n; i++) order[i] = (int)op->arg[i];
    *t = fh1_permute(t, order);
    return NULL;
}

/* The sizes that a reshape asks for; `n` elements are there. */
static bool sizes_of(const gld_map_op *op, int64_t B, int64_t T, int64_t S, int64_t n, int64_t *shape)
{
    int64_t product = 1;
    int open = -1;
    for (int i = 0; i < op->n; i++) {
        int64_t a = op->arg[i];
        shape[i] = a == GLD_SIZE_B ? B : a == GLD_SIZE_T ? T : a == GLD_SIZE_S ? S : a;
        if (a == GLD_SIZE_REST) open = i;
        else if (!fh1_mul_i64(product, shape[i], &product)) return false;
    }
    if (open < 0) return product == n;
    if (product == 0 || n % product != 0) return false;
    shape[open] = n / product;
    return true;
}

static fh1_status reshape(const gld_map_op *op, int64_t B, int64_t T, int64_t S, fh1_tensor *t, void **copy)
{
    int64_t shape[FH1_MAX_RANK];
    if (!sizes_of(op, B, T, S, fh1_n_elems(t), shape)) {
        char found[128];
        fh1_status s = FH1_BAD("reshape asks for another number of elements than the tensor has");
        s = fh1_expected(s, "%s (B = %lld, T = %lld, S = %lld)", op->text, (long long)B, (long long)T, (long long)S);
        return fh1_found(s, "%s", fh1_shape_text(t, found, sizeof found));
    }
    if (!fh1_is_dense(t)) {
        void *p = malloc(fh1_n_bytes(t));
        if (!p) return fh1_no_memory(fh1_n_bytes(t), "a transposed tensor of a trace");
        fh1_tensor dense = fh1_view(p, t->dtype, t->rank, t->shape);
        fh1_copy(&dense, t);
        *t = dense;
        free(*copy);
        *copy = p;
    }
    *t = fh1_view(t->data, t->dtype, op->n, shape);
    return NULL;
}

fh1_status gld_map_apply(const gld_map *m, int rule, int64_t B, int64_t T, int64_t S, fh1_tensor *t, void **copy)
{
    const gld_rule *r = &m->rules[rule];
    fh1_status s = NULL;
    *copy = NULL;
    for (int k = 0; k < r->n_ops && !s; k++)
        s = r->ops[k].is_reshape ? reshape(&r->ops[k], B, T, S, t, copy) : transpose(&r->ops[k], t);
    if (!s) return NULL;
    free(*copy);
    *copy = NULL;
    return fh1_where(s, "%s, line %d", m->path, r->line);
}
