/* The rule "gradient" of the fault matrix: an engine's gradients over models and batches on which faults of backward
 * passes show, and its backward ops alone. */
#include "cli/fault_bench.h"
#include "cli/gradcheck.h"

#include "convert/model_attach.h"
#include "convert/model_open.h"
#include "reference/engine.h"
#include "reference/faulty.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Ordinals of gradcheck_batch_name. */
enum { TWO_CHUNKS = 4, LEFT = 5, RIGHT = 6, PACKED = 7 };

/* `adapter`: a folder beside the golden gradients, or "out_proj": one that PEFT refuses to make. A fault meets those of
 * the family of its row, in this order. */
static const struct {
    const char *model, *adapter;
    int batch;
} wanted[] = {
    {"mini-0.5b", NULL, LEFT},
    {"odd", NULL, PACKED},
    {"mini-34b", NULL, TWO_CHUNKS},
    {"odd", NULL, RIGHT},
    {"mini-0.5b", NULL, PACKED},
    {"mini-34b", "linear", LEFT},
    {"odd", "bias", PACKED},
    {"mini-0.5b", "ends", PACKED},
    {"odd", "tied-ends", PACKED},
    {"mini-34b", "out_proj", LEFT},
    {"block-sam", NULL, PACKED},
    {"block-sequential", NULL, LEFT},
    {"mamba-untied", NULL, PACKED},
    {"mamba-tied", NULL, LEFT},
    {"mamba-untied", "mamba-linear", LEFT},
    {"mamba-tied", "mamba-tied-ends", PACKED},
    {"mamba-untied", "out_proj", LEFT},
};
enum { SETTINGS = sizeof wanted / sizeof *wanted, MOST_PROFILES = 6 };

static bool is_of(int i, fh1_family family)
{
    return (strncmp(wanted[i].model, "mamba-", 6) == 0) == (family == FH1_FALCON_MAMBA);
}

typedef struct {
    bool open;
    fh1_model m;
    fh1_lora out_proj;
    double *factors; /* of out_proj */
    gradcheck_batch batch;
    gld_grad_truth truth[MOST_PROFILES];
    int n_truths;
    fh1_grads *honest; /* f32, of the copy without a fault */
} setting;

struct fault_gradients {
    setting s[SETTINGS];
};

static void close_setting(setting *s)
{
    for (int i = 0; i < s->n_truths; ++i) gld_grad_truth_free(&s->truth[i]);
    if (s->factors) s->m.layers[0].lora[FH1_TAP_OUT_PROJ] = NULL; /* ours */
    fh1_grads_free(s->honest);
    gradcheck_batch_free(&s->batch);
    if (s->open) fh1_model_free(&s->m);
    free(s->factors);
}

void fault_gradients_free(struct fault_gradients *g)
{
    for (int i = 0; g && i < SETTINGS; ++i) close_setting(&g->s[i]);
    free(g);
}

/* A pair of rank 2 on the first out_proj. */
static fh1_status attach_out_proj(setting *s)
{
    const int64_t D = s->m.config.D, d = s->m.config.d_ssm;
    if (!(s->factors = malloc((size_t)(2 * (D + d)) * sizeof *s->factors))) return fh1_no_memory(64, "an adapter");
    for (int64_t i = 0; i < 2 * (D + d); ++i) s->factors[i] = 0.01 * (double)((i * 7) % 23 - 11);
    s->out_proj = (fh1_lora){
        .A = fh1_view2(s->factors, FH1_F64, 2, d), .B = fh1_view2(s->factors + 2 * d, FH1_F64, D, 2), .scale = 1.5};
    s->m.layers[0].lora[FH1_TAP_OUT_PROJ] = &s->out_proj;
    return NULL;
}

static fh1_status open_model(const fault_bench *b, int i, setting *s)
{
    char path[1024], folder[1024];
    const char *adapter = wanted[i].adapter, *list[] = {folder};
    snprintf(path, sizeof path, "%s/%s", b->folder, wanted[i].model);
    if (!adapter || strcmp(adapter, "out_proj") == 0) {
        FH1_TRY(cvt_model_open(path, &s->m));
        s->open = true;
        return adapter ? attach_out_proj(s) : NULL;
    }
    snprintf(folder, sizeof folder, "%s/../gradients/adapters/%s", b->folder, adapter);
    const cvt_attach a = {.adapters = list, .n = 1};
    FH1_TRY(cvt_model_open_attached(path, &a, &s->m));
    s->open = true;
    return NULL;
}

static fh1_status gradients(setting *s, fh1_engine *e, fh1_grads **g, double *loss)
{
    fh1_backward o = {0};
    FH1_TRY(gld_grads_new(&s->m, e->dtype, &o.grads));
    *g = o.grads;
    FH1_TRY(e->backward(e, &s->m, &s->batch.batch, &o));
    *loss = o.loss;
    return NULL;
}

static fh1_status open_setting(fault_bench *b, int i, setting **out)
{
    if (!b->gradients && !(b->gradients = calloc(1, sizeof *b->gradients)))
        return fh1_no_memory(sizeof *b->gradients, "gradients of a matrix of faults");
    setting *s = *out = &b->gradients->s[i];
    double loss;
    if (s->honest) return NULL;
    if (!s->open) FH1_TRY(open_model(b, i, s));
    if (!s->batch.memory) FH1_TRY(gradcheck_batch_new(&s->m.config, 1, wanted[i].batch, &s->batch));
    fh1_engine *e = ref_faulty_engine_new("ref-f32", NULL, 0, FH1_FAULT_NONE);
    if (!e) return fh1_no_memory(sizeof *e, "an engine");
    fh1_status st = gradients(s, e, &s->honest, &loss);
    e->free(e);
    return st;
}

static fh1_status truth_of(setting *s, const fh1_profile *p, const gld_grad_truth **out)
{
    for (int i = 0; i < s->n_truths; ++i)
        if (s->truth[i].profile == p) {
            *out = &s->truth[i];
            return NULL;
        }
    if (s->n_truths == MOST_PROFILES) return fh1_fail(FH1_E_INTERNAL, "more profiles than there is room for");
    gld_grad_truth *t = &s->truth[s->n_truths];
    fh1_status st = gld_grad_truth_new(&s->m, &s->batch.batch, p, 0, 0, ref_engine_new, t);
    if (st) gld_grad_truth_free(t);
    else s->n_truths++;
    *out = t;
    return st;
}

/* The judge without a report that anybody reads. */
static fh1_status judge(setting *s, fh1_engine *e, bool explain, fh1_grads **g, gld_grad_first *first)
{
    const gld_grad_truth *truth = NULL;
    double loss = 0;
    FILE *out = fopen("/dev/null", "w");
    fh1_report *report = NULL;
    fh1_status st = out ? fh1_report_new(FH1_REPORT_JSON, false, out, &report) : fh1_no_memory(0, "a report");
    fh1_tensor *grads = NULL;
    if (!st) st = truth_of(s, e->profile, &truth);
    if (!st) st = gradients(s, e, g, &loss);
    if (!st && !(grads = calloc((size_t)(*g)->n + 1, sizeof *grads))) st = fh1_no_memory(64, "gradients");
    for (int64_t k = 0; !st && k < (*g)->n; ++k) grads[k] = (*g)->params[k].grad;
    if (!st) {
        const gld_grad_judged j = {.subject = "row",
                                   .grads = grads,
                                   .loss = &loss,
                                   .stored = e->dtype,
                                   .make_faulty = explain ? ref_faulty_engine_new : NULL};
        st = gld_grad_judge(truth, &j, report, first);
    }
    free(grads);
    fh1_report_free(report);
    if (out) fclose(out);
    return st;
}

/* ---- a fault ---- */

/* The first parameter whose gradient has other bits than that of the copy without the fault; n: none. */
static int64_t first_change(const fh1_grads *a, const fh1_grads *b)
{
    const size_t width = (size_t)fh1_dtype_bits(a->dtype) / 8;
    for (int64_t k = 0; k < a->n; ++k) {
        const size_t bytes = (size_t)fh1_n_elems(&a->params[k].grad) * width;
        if (memcmp(a->params[k].grad.data, b->params[k].grad.data, bytes) != 0) return k;
    }
    return a->n;
}

/* The first parameter that the fault's op may spoil. One norm and one product stand for all of them in the registry. */
static int64_t earliest(const fh1_grads *g, const fh1_fault_info *info, int64_t n_layers)
{
    const bool any = strcmp(info->op, "linear") == 0, norm = strcmp(info->op, "rmsnorm") == 0;
    return gld_grad_first_of(g, any ? FH1_TAP_LOGITS : norm ? FH1_TAP_FINAL_LAYERNORM : info->tap, n_layers - 1);
}

static void place(const fh1_grads *g, int64_t k, char *buf, size_t size)
{
    const char *name = k < 0 ? "loss" : k < g->n ? g->params[k].name : "nothing";
    const char *at = strncmp(name, "model.", 6) == 0 ? name + 6 : strncmp(name, "backbone.", 9) == 0 ? name + 9 : name;
    snprintf(buf, size, "%.*s", (int)size - 1, at);
}

static void fill(const setting *s, const fh1_grads *g, fh1_fault f, const fh1_fault_info *info,
                 const gld_grad_first *first, fault_row *row)
{
    const int64_t changed = first_change(g, s->honest), least = earliest(g, info, s->m.config.n_layers);
    row->judged = row->acts = true;
    const bool loss = first->param < 0; /* a wrong loss comes before all gradients */
    row->right_tap = loss ? info->tap == FH1_TAP_LOSS : changed >= least;
    row->right_step = loss || first->param >= changed;
    row->late = !loss && first->param != changed;
    place(g, first->param, row->found, sizeof row->found);
    place(g, changed, row->changed, sizeof row->changed);
    place(g, least, row->wanted, sizeof row->wanted);
    for (int i = 0; i < first->n_suspects; ++i) {
        const size_t used = strlen(row->suspects);
        snprintf(row->suspects + used, sizeof row->suspects - used, "%s%s %.3f", i ? ", " : "", first->suspect[i].fault,
                 first->suspect[i].score);
        if (strcmp(first->suspect[i].fault, fh1_fault_get(f)->name) == 0) row->rank = i + 1;
    }
}

/* A registry entry of both families names the op as Falcon-H1 has it. */
static const char *op_of(const fh1_fault_info *info, fh1_family family)
{
    return family == FH1_FALCON_MAMBA && strcmp(info->op, "ssd_scan") == 0 ? "selective_scan" : info->op;
}

/* The op of the fault, or all (NULL); what is red is told in row->found. */
static fh1_status run_ops(fault_bench *b, fh1_engine *e, const char *op, fault_row *row)
{
    setting *s = NULL;
    FH1_TRY(open_setting(b, 0, &s));
    for (int i = 0; gradcheck_op_name(i); ++i) {
        fh1_tap_result r = {.verdict = FH1_SKIP};
        if (op && strcmp(op, gradcheck_op_name(i)) != 0) continue;
        FH1_TRY(gradcheck_op(i, e, b->truth, &s->m, &r));
        row->runs[FAULT_RULE_GRADIENT]++;
        if (r.verdict != FH1_FAIL) continue;
        row->red[FAULT_RULE_GRADIENT]++;
        snprintf(row->found, sizeof row->found, "backward.%s", gradcheck_op_name(i));
    }
    return NULL;
}

fh1_status fault_gradient_run(fault_bench *b, fh1_fault f, fh1_family family, const fh1_fault_info *info,
                              fault_row *row)
{
    fh1_engine *e = ref_faulty_engine_new("ref-f32", NULL, 0, f);
    if (!e) return fh1_no_memory(sizeof *e, "a faulty engine");
    fh1_status st = NULL;
    gld_grad_first first = {0};
    for (int i = 0; i < SETTINGS && !st && !first.failed; ++i) {
        setting *s = NULL;
        fh1_grads *g = NULL;
        if (!is_of(i, family)) continue;
        st = open_setting(b, i, &s);
        if (!st) st = judge(s, e, true, &g, &first);
        row->runs[FAULT_RULE_GRADIENT]++;
        if (!st && first.failed) fill(s, g, f, info, &first, row);
        fh1_grads_free(g);
    }
    row->red[FAULT_RULE_GRADIENT] = first.failed;
    if (!st && !first.failed) st = run_ops(b, e, op_of(info, family), row);
    e->free(e);
    return st;
}

/* ---- an honest engine ---- */

fh1_status fault_gradient_honest(fault_bench *b, fh1_engine *e, fault_row *row, char *text, size_t size)
{
    for (int i = 0; i < SETTINGS; ++i) {
        setting *s = NULL;
        gld_grad_first first = {0};
        fh1_grads *g = NULL;
        FH1_TRY(open_setting(b, i, &s));
        fh1_status st = judge(s, e, false, &g, &first);
        row->runs[FAULT_RULE_GRADIENT]++;
        row->red[FAULT_RULE_GRADIENT] += first.failed;
        if (!st && first.failed && !*text)
            snprintf(text, size, "gradient %s %s: %s, margin %.3g", wanted[i].model, s->batch.name, first.result.tap,
                     first.result.margin);
        fh1_grads_free(g);
        FH1_TRY(st);
    }
    const int red = row->red[FAULT_RULE_GRADIENT];
    FH1_TRY(run_ops(b, e, NULL, row));
    if (row->red[FAULT_RULE_GRADIENT] > red && !*text) snprintf(text, size, "gradient %s", row->found);
    return NULL;
}
