#include "golden/merged.h"

#include "golden/judge.h"
#include "golden/record.h"
#include "oracle/random.h"

#include <stdlib.h>

/* One row: adapters do not care where in a batch a token stands. */
static fh1_status schedule(const fh1_config *c, uint64_t seed, gld_trace *out)
{
    static const int64_t calls[] = {9, 1, 3};
    const fh1_stream s = fh1_stream_open(seed, "ids");
    uint64_t drawn = 0;
    FH1_TRY(gld_trace_new(out));
    fh1_status st = NULL;
    for (size_t k = 0; k < sizeof calls / sizeof *calls && !st; k++) {
        int64_t ids[9];
        for (int64_t i = 0; i < calls[k]; i++) ids[i] = fh1_random_below(s, drawn++, c->V);
        st = gld_trace_add_step(out, &(fh1_batch){.B = 1, .T = calls[k], .ids = ids});
    }
    if (st) gld_trace_free(out);
    return st;
}

static fh1_status check_sizes(const fh1_config *a, const fh1_config *b)
{
    const struct {
        const char *name;
        int64_t attached, merged;
    } size[] = {{"layers", a->n_layers, b->n_layers}, {"hidden size", a->D, b->D},
                {"vocabulary", a->V, b->V},           {"MLP width", a->F, b->F},
                {"query heads", a->Hq, b->Hq},        {"key heads", a->Hkv, b->Hkv},
                {"head width", a->A, b->A},           {"width of in_proj", fh1_in_proj_dim(a), fh1_in_proj_dim(b)},
                {"mixer width", a->d_ssm, b->d_ssm},  {"state", a->N, b->N},
                {"rank of dt_proj", a->R, b->R}};
    if (a->family != b->family || a->block != b->block)
        return fh1_found(fh1_expected(FH1_BAD("the merged model is of another kind than its base"), "%s, block %s",
                                      fh1_family_name(a->family), fh1_block_name(a->block)),
                         "%s, block %s", fh1_family_name(b->family), fh1_block_name(b->block));
    for (size_t i = 0; i < sizeof size / sizeof *size; i++) {
        if (size[i].attached == size[i].merged) continue;
        fh1_status s = FH1_BAD("the merged model has another %s than its base", size[i].name);
        return fh1_found(fh1_expected(s, "%lld", (long long)size[i].attached), "%lld", (long long)size[i].merged);
    }
    return NULL;
}

fh1_status gld_judge_merged(const gld_merged *m, fh1_report *report)
{
    gld_trace inputs = {0}, recorded = {0};
    FH1_TRY(check_sizes(&m->attached->config, &m->merged->config));
    fh1_engine *e = m->make_engine(m->engine, NULL, 0);
    if (!e) return fh1_no_memory(sizeof *e, "an engine");
    const gld_judge_options o = {.model = m->attached,
                                 .profile = e->profile,
                                 .subject = m->subject,
                                 .merged = m->merged,
                                 /* the judge allows twice the gauge of `exact` */
                                 .merged_halves = e->dtype == FH1_F64 ? m->halves / 2 : m->halves,
                                 .make_engine = m->make_engine};
    fh1_status s = schedule(&m->merged->config, m->seed, &inputs);
    if (!s) s = gld_record_like(e, m->merged, &inputs, NULL, &recorded);
    if (!s) s = gld_judge(&recorded, &o, report);
    gld_trace_free(&recorded);
    gld_trace_free(&inputs);
    e->free(e);
    return s;
}
