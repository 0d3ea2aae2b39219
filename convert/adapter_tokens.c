/* trainable_token_indices: rows of an embedding, or of the head, that the adapter replaces. */
#include "convert/adapter_parts.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DELTA "token_adapter.trainable_tokens_delta"

static const char head[] = "lm_head";

static const cvt_st_entry *delta_of(const cvt_adapter *a, const char *module)
{
    char name[512];
    snprintf(name, sizeof name, "base_model.model.%.200s." DELTA, module);
    const cvt_st_entry *e = cvt_st_find(a->file, name);
    if (e) return e;
    snprintf(name, sizeof name, "base_model.model.%.200s." DELTA ".default", module);
    return cvt_st_find(a->file, name);
}

/* The list of a module: a plain list is the embedding's; an object's keys are ends of paths. */
static const cJSON *list_of(const cJSON *v, const char *module)
{
    if (cJSON_IsArray(v)) return strcmp(module, head) != 0 ? v : NULL;
    for (const cJSON *c = v ? v->child : NULL; c; c = c->next) {
        size_t n = strlen(module), m = strlen(c->string);
        if (n >= m && strcmp(module + n - m, c->string) == 0) return c;
    }
    return NULL;
}

static bool same_list(const cJSON *a, const cJSON *b)
{
    return cJSON_Compare(a, b, true);
}

static fh1_status add(cvt_adapter *a, const cvt_module *m, const char *module, const cJSON *list, const cvt_st_entry *e)
{
    int64_t n = cJSON_GetArraySize(list), i = 0;
    const int64_t shape[2] = {n, m->in};
    char x[128], y[128];
    fh1_tensor want = fh1_view(NULL, e->t.dtype, 2, shape);
    if (!fh1_same_shape(&want, &e->t)) {
        fh1_status s = cvt_adapter_at(a, e->name, FH1_BAD("the tensor does not fit trainable_token_indices"));
        s = fh1_expected(s, "%s", fh1_shape_text(&want, x, sizeof x));
        return fh1_found(s, "%s", fh1_shape_text(&e->t, y, sizeof y));
    }
    cvt_token_rows *t = &a->tokens[a->n_tokens++];
    *t = (cvt_token_rows){
        .module = strdup(module), .n = n, .rows = calloc((size_t)n + 1, sizeof *t->rows), .values = e->t};
    if (!t->module || !t->rows) return fh1_no_memory((size_t)n * sizeof *t->rows, "token indices");
    for (const cJSON *c = list->child; c; c = c->next) {
        cvt_json_is_int(c, &t->rows[i]);
        if (t->rows[i] < 0 || t->rows[i] >= m->out)
            return fh1_found(fh1_expected(fh1_where(FH1_BAD("a token index is outside of the vocabulary"),
                                                    "%s, trainable_token_indices", a->path),
                                          "0 to %lld", (long long)m->out - 1),
                             "%lld", (long long)t->rows[i]);
        i++;
    }
    return NULL;
}

static fh1_status take_end(cvt_adapter *a, const cvt_modules *m, const cvt_adapter_config *c, const char *module)
{
    const cJSON *list = list_of(c->token_indices, module), *other = list_of(c->token_indices, m->embed);
    const cvt_module *x = cvt_modules_find(m, module);
    const cvt_st_entry *e = delta_of(a, module);
    /* PEFT gives the head of a tied model the embedding's rows, unless it has a list of its own that differs. */
    bool follows = m->tied && strcmp(module, head) == 0 && other && (!list || same_list(list, other));
    if (follows) {
        list = other;
        if (!e) e = delta_of(a, m->embed); /* with ensure_weight_tying the file may have the rows twice */
    }
    if (!list && !e) return NULL;
    if (!list)
        return cvt_adapter_at(a, e->name, FH1_BAD("trainable_token_indices says nothing of the rows of this tensor"));
    if (!e) return fh1_where(FH1_BAD("%.200s." DELTA " is missing", module), "%s", cvt_st_path(a->file));
    if (x->targeted)
        return fh1_where(FH1_BAD("LoRA and trainable_token_indices on the same module exclude each other"), "%s",
                         module);
    if (x->saved)
        return fh1_where(FH1_BAD("modules_to_save and trainable_token_indices on the same module exclude each other"),
                         "%s", module);
    return add(a, x, module, list, e);
}

/* A delta of any other module, and a key of the object that names none. */
static fh1_status check_left_over(const cvt_adapter *a, const cvt_modules *m, const cvt_adapter_config *c)
{
    for (int64_t i = 0; i < cvt_st_count(a->file); i++) {
        const cvt_st_entry *e = cvt_st_at(a->file, i);
        bool of_rows = strstr(e->name, ".token_adapter.") && !strstr(e->name, ".token_adapter.base_layer.");
        if (of_rows && e != delta_of(a, m->embed) && e != delta_of(a, head))
            return cvt_adapter_at(a, e->name, FH1_BAD("the tensor matches nothing of this base"));
    }
    for (const cJSON *v = cJSON_IsObject(c->token_indices) ? c->token_indices->child : NULL; v; v = v->next)
        if (list_of(c->token_indices, m->embed) != v && list_of(c->token_indices, head) != v)
            return fh1_where(FH1_BAD("the key \"%.100s\" names no embedding of this base", v->string),
                             "%s, trainable_token_indices", a->path);
    return NULL;
}

fh1_status cvt_adapter_take_tokens(cvt_adapter *a, const cvt_modules *m, const cvt_adapter_config *c)
{
    const cJSON *e = list_of(c->token_indices, m->embed), *h = list_of(c->token_indices, head);
    FH1_TRY(check_left_over(a, m, c));
    if (m->tied && c->ensure_weight_tying && e && h && !same_list(e, h))
        return fh1_where(FH1_BAD("ensure_weight_tying with different rows for the two ends"),
                         "%s, trainable_token_indices", a->path);
    a->tokens = calloc(2, sizeof *a->tokens);
    if (!a->tokens) return fh1_no_memory(2 * sizeof *a->tokens, "token rows");
    FH1_TRY(take_end(a, m, c, m->embed));
    return take_end(a, m, c, head);
}
