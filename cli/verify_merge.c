#include "cli/verify_merge.h"

#include "cli/commands.h"
#include "cli/report_out.h"
#include "convert/model_attach.h"
#include "convert/model_open.h"
#include "golden/merged.h"
#include "reference/engine.h"

/* How many half ulps a merged weight may be off. Exact: its one rounding. The chains round the sum, and some of them
 * ΔW, once per adapter; without autocast also B·A, its scaling, and for DoRA the norm and the factor. The small rest is
 * what f32 loses before the last rounding. */
static double half_ulps(const cli_verify *v)
{
    const double small = 1.0 / 64;
    switch (v->rounding) {
    case CVT_ROUND_EXACT: return 1 + 1e-6;
    case CVT_ROUND_PEFT:
    case CVT_ROUND_PEFT_SAFE:
    case CVT_ROUND_PEFT_LOW_MEMORY: return (2 + small) * v->n;
    default: return 8 * v->n;
    }
}

/* The attached model whose numbers the merge promised. */
static cvt_attach_as attached_as(cvt_rounding r)
{
    if (r == CVT_ROUND_EXACT) return CVT_ATTACH_EXACT;
    return r == CVT_ROUND_PEFT_NOAUTOCAST || r == CVT_ROUND_PEFT_LOW_MEMORY ? CVT_ATTACH_BASE_DTYPE : CVT_ATTACH_PEFT;
}

static fh1_status judge(const cli_verify *v, const fh1_model *attached, bool json, int *code)
{
    fh1_model merged = {0};
    cli_report out;
    FH1_TRY(cvt_model_open(v->merged, &merged));
    const gld_merged m = {.attached = attached,
                          .merged = &merged,
                          .engine = v->rounding == CVT_ROUND_EXACT ? "ref-f64" : "ref-f32",
                          .halves = half_ulps(v),
                          .seed = (uint64_t)v->seed,
                          .subject = "merged, against attached",
                          .make_engine = ref_engine_new};
    fh1_status s = cli_report_open(json, false, &out);
    if (!s) s = gld_judge_merged(&m, out.report);
    if (!s) fh1_report_end_subject(out.report, m.subject, NULL, 0);
    if (!s) s = cli_report_finish(&out, v->repro, code);
    s = cli_report_close(&out, s);
    fh1_model_free(&merged);
    return s;
}

fh1_status cli_verify_merge(const cli_verify *v, bool json, int *code)
{
    const cvt_attach a = {.adapters = v->adapters,
                          .weights = v->weights,
                          .n = v->n,
                          .as = attached_as(v->rounding),
                          .initial = v->initial,
                          .base = v->image};
    fh1_model attached = {0};
    FH1_TRY(cvt_model_open_attached(v->base, &a, &attached));
    fh1_status s = judge(v, &attached, json, code);
    fh1_model_free(&attached);
    return s;
}
