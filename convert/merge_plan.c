#include "convert/merge_plan.h"

#include "convert/find_name.h"
#include "convert/merge_kernel.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char head[] = "lm_head.weight";

void cvt_merge_warn(const cvt_merge_plan *p, const char *fmt, ...)
{
    char text[1024];
    va_list args;
    if (!p->o->warn) return;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    p->o->warn(p->o->user, text);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const cvt_merge_target *)a)->name, ((const cvt_merge_target *)b)->name);
}

cvt_merge_target *cvt_merge_plan_find(const cvt_merge_plan *p, const char *tensor)
{
    const int64_t i = cvt_find_name(p->targets, p->n_targets, sizeof *p->targets, tensor);
    return i < 0 ? NULL : &p->targets[i];
}

void cvt_merge_plan_free(cvt_merge_plan *p)
{
    for (int64_t i = 0; i < p->n_targets; i++) {
        for (int k = 0; k < p->targets[i].n_ops; k++) free(p->targets[i].ops[k].norms);
        free(p->targets[i].ops);
        free(p->targets[i].name);
    }
    free(p->targets);
    p->targets = NULL;
    p->n_targets = 0;
}

fh1_status cvt_merge_plan_target(cvt_merge_plan *p, const char *tensor, cvt_merge_target **out)
{
    *out = cvt_merge_plan_find(p, tensor);
    if (*out) return NULL;
    int64_t source = cvt_ckpt_find(p->base, tensor);
    if (source < 0 && p->tied && strcmp(tensor, head) == 0) source = cvt_ckpt_find(p->base, p->embed);
    if (source < 0) return fh1_where(FH1_BAD("the base has no tensor %.200s", tensor), "%s", p->base->path);
    const cvt_ckpt_tensor *b = &p->base->tensors[source];
    if (!fh1_dtype_is_float(b->dtype))
        return fh1_found(
            fh1_where(FH1_BAD("the base's tensor is not of a float type"), "%s, %.200s", p->base->path, tensor), "%s",
            fh1_dtype_name(b->dtype));
    if (b->dtype == FH1_F64 && p->o->rounding != CVT_ROUND_EXACT)
        return fh1_where(FH1_BAD("an F64 base can be merged with --rounding exact only"), "%s, %.200s", p->base->path,
                         tensor);
    cvt_merge_target *grown = realloc(p->targets, ((size_t)p->n_targets + 1) * sizeof *grown);
    if (grown) p->targets = grown;
    cvt_merge_target t = {
        .name = strdup(tensor), .source = source, .dtype = b->dtype, .rows = cvt_ckpt_rows(b), .cols = 1};
    if (!grown || !t.name) {
        free(t.name);
        return fh1_no_memory(strlen(tensor), "a plan");
    }
    for (int i = 1; i < b->rank; i++) t.cols *= b->shape[i];
    int64_t at = p->n_targets++;
    for (; at > 0 && by_name(&p->targets[at - 1], &t) > 0; at--) p->targets[at] = p->targets[at - 1];
    p->targets[at] = t;
    *out = &p->targets[at];
    return NULL;
}

/* Are the values those of the base, once they are of its type? */
static fh1_status same_as_base(const cvt_merge_plan *p, const cvt_merge_target *t, const fh1_tensor *v, bool *out)
{
    size_t width = (size_t)(fh1_dtype_bits(t->dtype) / 8), n = (size_t)t->cols * width;
    char *base = malloc(2 * n);
    double *wide = malloc((size_t)t->cols * sizeof *wide);
    fh1_status s = base && wide ? NULL : fh1_no_memory(n, "a row");
    *out = true;
    for (int64_t i = 0; i < t->rows && !s && *out; i++) {
        s = cvt_ckpt_read_rows(p->base, t->source, i, 1, base);
        fh1_to_f64(wide, (const char *)v->data + i * t->cols * (fh1_dtype_bits(v->dtype) / 8), v->dtype, t->cols);
        cvt_kernel_narrow(base + n, t->dtype, wide, t->cols);
        *out = memcmp(base, base + n, n) == 0;
    }
    free(base);
    free(wide);
    return s;
}

/* A replacement behind another adapter's work would undo it, unless it is the base's own tensor, which PEFT stores
 * beside the LoRA of an embedding. */
static fh1_status may_replace(const cvt_merge_plan *p, const cvt_merge_target *t, const cvt_merge_op *op, bool *skip)
{
    *skip = false;
    for (int i = 0; i < t->n_ops; i++) {
        if (t->ops[i].part == op->part) continue;
        FH1_TRY(same_as_base(p, t, &op->t, skip));
        if (*skip) return NULL;
        return fh1_hint(fh1_where(FH1_BAD("the adapter replaces a tensor that an earlier one changed"), "%s, %s",
                                  p->parts[op->part].adapter->path, t->name),
                        "one of the two would be lost; merge them in the other order, or only one");
    }
    return NULL;
}

/* Rows, too: ΔW of an earlier adapter acts on the replaced rows as well, when both are attached. */
static fh1_status may_set_rows(const cvt_merge_plan *p, const cvt_merge_target *t, const cvt_merge_op *op)
{
    for (int i = 0; i < t->n_ops; i++)
        if (t->ops[i].kind == CVT_MERGE_DELTA)
            return fh1_hint(fh1_where(FH1_BAD("the adapter replaces rows of a tensor that an earlier one changed"),
                                      "%s, %s", p->parts[op->part].adapter->path, t->name),
                            "name the adapter with the rows first");
    return NULL;
}

/* low_cpu_mem_usage puts a full tensor of the file in the place of the base's as it is. */
static fh1_status may_replace_as_is(const cvt_merge_plan *p, const cvt_merge_target *t, const cvt_merge_op *op)
{
    if (p->o->rounding != CVT_ROUND_PEFT_LOW_MEMORY || op->t.dtype == t->dtype) return NULL;
    fh1_status s = fh1_where(FH1_BAD("with low_cpu_mem_usage PEFT would give the tensor the type that it has in the "
                                     "adapter"),
                             "%s, %s", p->parts[op->part].adapter->path, t->name);
    s = fh1_found(fh1_expected(s, "%s", fh1_dtype_name(t->dtype)), "%s", fh1_dtype_name(op->t.dtype));
    return fh1_hint(s, "use --rounding exact or peft");
}

static fh1_status push(cvt_merge_plan *p, const char *tensor, cvt_merge_op op)
{
    cvt_merge_target *t;
    bool skip = false;
    FH1_TRY(cvt_merge_plan_target(p, tensor, &t));
    if (op.kind == CVT_MERGE_REPLACE) FH1_TRY(may_replace_as_is(p, t, &op));
    if (op.kind == CVT_MERGE_REPLACE) FH1_TRY(may_replace(p, t, &op, &skip));
    if (op.kind == CVT_MERGE_ROWS) FH1_TRY(may_set_rows(p, t, &op));
    if (skip) return NULL;
    cvt_merge_op *grown = realloc(t->ops, ((size_t)t->n_ops + 1) * sizeof *grown);
    if (!grown) return fh1_no_memory(sizeof op, "a plan");
    t->ops = grown;
    t->ops[t->n_ops++] = op;
    return NULL;
}

/* On a tied base a tensor that is loaded into the parameter itself reaches both ends. */
static fh1_status push_replacement(cvt_merge_plan *p, const cvt_replacement *r, cvt_merge_op op)
{
    bool end = p->tied && (strcmp(r->name, p->embed) == 0 || strcmp(r->name, head) == 0), shared = end && !r->copy;
    bool kept = shared || (end && p->parts[op.part].adapter->ensure_weight_tying);
    if (kept && p->o->rounding == CVT_ROUND_PEFT_LOW_MEMORY)
        return fh1_hint(
            fh1_where(FH1_BAD("with low_cpu_mem_usage PEFT unties a base whose embedding is in the adapter"), "%s, %s",
                      p->parts[op.part].adapter->path, r->name),
            "use --rounding exact or peft");
    if (!shared) return push(p, r->name, op);
    const cvt_merge_target *t = cvt_merge_plan_find(p, p->embed);
    for (int i = 0; t && i < t->n_ops; i++) {
        const cvt_merge_op *first = &t->ops[i];
        if (first->part != op.part || first->kind != CVT_MERGE_REPLACE) continue;
        if (first->t.dtype == op.t.dtype && memcmp(first->t.data, op.t.data, fh1_n_bytes(&op.t)) == 0) return NULL;
        return fh1_where(FH1_BAD("the file has two different tensors for the one parameter of both ends"), "%s, %s",
                         p->parts[op.part].adapter->path, head);
    }
    FH1_TRY(push(p, p->embed, op));
    return push(p, head, op);
}

/* An end of a tied base that gets ΔW = 0 must not be untied for it. The chains write W + 0 as PEFT does. */
static bool adds_nothing(const cvt_merge_plan *p, const cvt_merge_op *op)
{
    return p->o->rounding == CVT_ROUND_EXACT && op->weight * op->lora->scale == 0 && !op->lora->magnitude.data;
}

static fh1_status add_part(cvt_merge_plan *p, int part)
{
    const cvt_adapter *a = p->parts[part].adapter;
    cvt_merge_op op = {.part = part, .weight = p->parts[part].weight};
    char name[512];
    op.kind = CVT_MERGE_REPLACE;
    for (int64_t i = 0; i < a->n_replacements; i++) {
        op.t = a->replacements[i].t;
        op.copy = a->replacements[i].copy;
        FH1_TRY(push_replacement(p, &a->replacements[i], op));
    }
    op.copy = false;
    op.kind = CVT_MERGE_ROWS;
    for (int64_t i = 0; i < a->n_tokens; i++) {
        op.tokens = &a->tokens[i];
        snprintf(name, sizeof name, "%.400s.weight", a->tokens[i].module);
        FH1_TRY(push(p, name, op));
    }
    for (int64_t i = 0; i < a->n_loras; i++) {
        op.lora = &a->loras[i];
        if (adds_nothing(p, &op)) continue;
        op.kind = CVT_MERGE_DELTA;
        snprintf(name, sizeof name, "%.400s.weight", a->loras[i].module);
        FH1_TRY(push(p, name, op));
        op.kind = CVT_MERGE_BIAS;
        snprintf(name, sizeof name, "%.400s.bias", a->loras[i].module);
        if (op.lora->bias.data) FH1_TRY(push(p, name, op));
    }
    return NULL;
}

static fh1_status refuse_part(const cvt_adapter *a, const char *what, const char *hint)
{
    return fh1_hint(fh1_where(FH1_BAD("%s", what), "%s", a->path), "%s", hint);
}

static fh1_status check_part(const cvt_merge_plan *p, int part)
{
    const cvt_adapter *a = p->parts[part].adapter;
    bool weighted = p->parts[part].weight != 1, special = a->dora || a->n_replacements || a->n_tokens;
    if (weighted && p->o->rounding != CVT_ROUND_EXACT)
        return refuse_part(a, "a weight other than 1 has no counterpart in the chains of other libraries",
                           "leave =W out, or use --rounding exact");
    if (weighted && special)
        return refuse_part(a, "a weight other than 1 is defined for plain LoRA only",
                           "DoRA, replaced tensors and token rows have no ΔW to scale");
    for (int i = 0; i < part; i++)
        if (strcmp(p->parts[i].adapter->hash, a->hash) == 0)
            return refuse_part(a, "the same adapter is named twice", "name it once, or with a weight: ADAPTER=2");
    if (p->o->rounding != CVT_ROUND_UNSLOTH16) return NULL;
    for (int64_t i = 0; i < a->n_loras; i++)
        if (a->loras[i].embedding || a->loras[i].bias.data || a->loras[i].magnitude.data || a->n_tokens)
            return refuse_part(a, "unsloth's 16-bit merge knows Linear layers without DoRA and lora_bias only",
                               "use --rounding exact or peft");
    return NULL;
}

/* DoRA behind another adapter has two meanings: attached together, its norm is that of the base with its own ΔW;
 * trained on the merged model, that of the merged weight. PEFT's merge has a third one, which rounds on the way. */
static fh1_status check_dora(const cvt_merge_plan *p, const cvt_merge_target *t)
{
    for (int i = 1; i < t->n_ops; i++) {
        const cvt_merge_op *op = &t->ops[i];
        bool behind = false;
        if (op->kind != CVT_MERGE_DELTA || !op->lora->magnitude.data) continue;
        for (int k = 0; k < i; k++) behind |= t->ops[k].kind == CVT_MERGE_DELTA && t->ops[k].part != op->part;
        if (!behind) continue;
        return fh1_hint(
            fh1_where(FH1_BAD("DoRA behind another adapter of the same module has no single meaning"), "%s, %s",
                      p->parts[op->part].adapter->path, t->name),
            "name the DoRA adapter first (as attached), or merge in two runs (as trained on the merged model)");
    }
    return NULL;
}

fh1_status cvt_merge_plan_make(cvt_merge_plan *p)
{
    for (int i = 0; i < p->n_parts; i++) FH1_TRY(check_part(p, i));
    for (int i = 0; i < p->n_parts; i++) FH1_TRY(add_part(p, i));
    if (p->tied) FH1_TRY(cvt_merge_plan_tie(p));
    for (int64_t i = 0; i < p->n_targets; i++) FH1_TRY(check_dora(p, &p->targets[i]));
    for (int64_t i = 0; i < p->n_targets; i++) FH1_TRY(cvt_merge_column_norms(p->base, &p->targets[i], p->o->rounding));
    return NULL;
}
