/* Honest engines against every rule of the fault matrix: what rejects one of them is wrong, however many faults it
 * kills. */
#include "cli/fault_bench.h"
#include "cli/fault_cuda.h"
#include "cli/fault_orders.h"

#include "cli/progress.h"
#include "golden/record.h"
#include "reference/engine.h"
#include "reference/faulty.h"

#include <stdio.h>
#include <string.h>

enum { CASES = 1, LAWS = 2, OPS = 4, LONG = 8, GRADS = 16, ALL = 31 };

static const struct {
    const char *name, *engine, *profile; /* profile NULL: the engine's own */
    int rules;                           /* under which it is something of its own */
    bool copy;                           /* the faulty copy with no fault switched on */
    bool chunked;                        /* prefill scans in chunks: */
    int64_t Q;                           /* so long, 0: as the model says */
    fault_order order;                   /* of matrix products, 0: its own */
    bool fused;
    const char *threads; /* cuda-host: the order in which threads run */
    bool general;        /* its general path */
} honest[] = {
    {.name = "ref-f32", .engine = "ref-f32", .rules = ALL},
    {.name = "ref-f64", .engine = "ref-f64", .rules = ALL},
    {.name = "ref-bf16", .engine = "ref-bf16", .rules = ALL, .chunked = true},
    {.name = "ref-bf16, no chunks", .engine = "ref-bf16", .rules = CASES | LAWS},
    {.name = "emulated fp32", .engine = "ref-bf16", .profile = "fp32", .rules = ALL, .chunked = true},
    {.name = "emulated fp16", .engine = "ref-bf16", .profile = "hf-eager-fp16", .rules = ALL, .chunked = true},
    {.name = "emulated cuda-bf16", .engine = "ref-bf16", .profile = "cuda-bf16", .rules = ALL, .chunked = true},
    {.name = "ref-f32 without fault", .engine = "ref-f32", .rules = ALL, .copy = true},
    {.name = "ref-bf16 without fault", .engine = "ref-bf16", .rules = ALL, .copy = true, .chunked = true},
    {.name = "chunks of 16", .engine = "ref-f32", .rules = CASES, .chunked = true, .Q = 16},
    {.name = "chunks of 64", .engine = "ref-f32", .rules = CASES, .chunked = true, .Q = 64},
    {.name = "chunks of 128", .engine = "ref-f32", .rules = CASES, .chunked = true, .Q = 128},
    {.name = "chunks of 256", .engine = "ref-f32", .rules = CASES, .chunked = true, .Q = 256},
    {.name = "sequential sums", .engine = "ref-f32", .rules = OPS, .order = FAULT_SEQUENTIAL},
    {.name = "sequential sums, fused", .engine = "ref-f32", .rules = OPS, .order = FAULT_SEQUENTIAL, .fused = true},
    {.name = "pairwise sums", .engine = "ref-f32", .rules = OPS, .order = FAULT_PAIRWISE},
    {.name = "32 lanes", .engine = "ref-f32", .rules = OPS, .order = FAULT_LANES},
    {.name = "32 lanes, fused", .engine = "ref-f32", .rules = OPS, .order = FAULT_LANES, .fused = true},
    {.name = "split-K", .engine = "ref-f32", .rules = OPS, .order = FAULT_SPLIT_K},
    {.name = "split-K in bf16", .engine = "ref-bf16", .rules = OPS, .order = FAULT_SPLIT_K},
    {.name = "cuda-host", .engine = "cuda-host", .profile = "fp32", .rules = CASES | OPS | LONG, .threads = "forward"},
    {.name = "cuda-host, reverse", .engine = "cuda-host", .profile = "fp32", .rules = OPS, .threads = "reverse"},
    {.name = "cuda-host, random:1", .engine = "cuda-host", .profile = "fp32", .rules = OPS, .threads = "random:1"},
    {.name = "cuda-host, general",
     .engine = "cuda-host",
     .profile = "fp32",
     .rules = OPS,
     .threads = "forward",
     .general = true},
    {.name = "cuda-bf16", .engine = "cuda-host", .profile = "cuda-bf16", .rules = OPS, .threads = "forward"},
    {.name = "cuda-bf16, reverse", .engine = "cuda-host", .profile = "cuda-bf16", .rules = OPS, .threads = "reverse"},
    {.name = "cuda-bf16, random:1", .engine = "cuda-host", .profile = "cuda-bf16", .rules = OPS, .threads = "random:1"},
    {.name = "cuda-bf16, general",
     .engine = "cuda-host",
     .profile = "cuda-bf16",
     .rules = OPS,
     .threads = "forward",
     .general = true},
};

const char *fault_honest_name(int i)
{
    return i >= 0 && i < (int)(sizeof honest / sizeof *honest) ? honest[i].name : NULL;
}

bool fault_honest_is_cuda(int i)
{
    return strcmp(honest[i].engine, "cuda-host") == 0;
}

static fh1_status make(int i, fh1_engine **out)
{
    const fh1_profile *p = honest[i].profile ? fh1_profile_find(honest[i].profile) : NULL;
    if (fault_honest_is_cuda(i)) return fault_cuda_honest_new(p, honest[i].threads, honest[i].general, out);
    fh1_engine *e = honest[i].copy ? ref_faulty_engine_new(honest[i].engine, p, 0, FH1_FAULT_NONE)
                                   : ref_engine_new(honest[i].engine, p, 0);
    if (!e) return fh1_no_memory(sizeof *e, "an engine");
    e->chunked = honest[i].chunked;
    if (honest[i].order) fault_order_set(e, honest[i].order, honest[i].fused);
    *out = e;
    return NULL;
}

static void reject(fault_row *row, fault_rule rule, const char *by)
{
    row->red[rule]++;
    if (!*row->rejected) snprintf(row->rejected, sizeof row->rejected, "%s", by);
}

/* The engine's model: the one that is judged, in chunks of its own. */
static fh1_status record(fh1_engine *e, const fault_setting *s, int64_t Q, gld_trace *t)
{
    fh1_model m = *s->m;
    fh1_config_copy(&m.config, &s->m->config);
    if (Q > 0) m.config.Q = Q;
    return gld_record_like(e, &m, &s->in, NULL, t);
}

/* Every model with every inputs on which a fault is judged. */
static fh1_status run_cases(fault_bench *b, fh1_engine *e, int64_t Q, fault_row *row)
{
    const fault_setting *seen[FAULT_MOST_CASES] = {0};
    int n = 0;
    for (int job = 1; job < 2 * FH1_FAULT_COUNT; ++job) {
        const fault_setting *s;
        const fh1_fault f = fault_of_job(job);
        const fh1_family family = fault_family_of_job(job);
        bool known = false;
        if (f == FH1_FAULT_NONE || !fh1_fault_acts_on(f, family)) continue;
        if (Q > 0 && family == FH1_FALCON_MAMBA) continue; /* it has no chunks: Q is 1 */
        if (fh1_fault_is_gradient(f) || (b->cuda && (!fault_cuda_has(f) || family != gld_fault_family(f)))) continue;
        FH1_TRY(fault_setting_of(b, f, family, &s));
        for (int i = 0; i < n && !known; ++i) known = seen[i] == s;
        if (known) continue;
        seen[n++] = s;
        gld_trace t;
        fault_verdict v;
        FH1_TRY(record(e, s, Q, &t));
        fh1_status st = fault_judge(&t, s->m, FH1_FAULT_NONE, &v);
        gld_trace_free(&t);
        FH1_TRY(st);
        row->runs[FAULT_RULE_CHECK]++;
        if (!v.failed) continue;
        char place[128], text[256];
        const gld_fault_case c = gld_fault_case_of(f, family);
        fault_place(s->m->config.family, v.step, v.tap, v.layer, place, sizeof place);
        snprintf(text, sizeof text, "check %s %s: %s", c.model, gld_fault_input_name((int)c.inputs), place);
        reject(row, FAULT_RULE_CHECK, text);
    }
    return NULL;
}

static fh1_status run_laws(fault_bench *b, fh1_engine *e, fault_row *row)
{
    for (int i = 0; gld_law_at(i); ++i)
        for (int m = 0; m < 2 * FAULT_LAW_MODELS; ++m) {
            gld_law_result r;
            char text[256];
            const fh1_family family = m < FAULT_LAW_MODELS ? FH1_FALCON_H1 : FH1_FALCON_MAMBA;
            FH1_TRY(fault_law_run(b, gld_law_at(i), family, m % FAULT_LAW_MODELS, e, &r));
            if (r.verdict == FH1_SKIP) continue;
            row->runs[FAULT_RULE_LAW]++;
            if (r.verdict == FH1_PASS) continue;
            snprintf(text, sizeof text, "law.%s is %s: %.200s", gld_law_at(i)->name, fh1_verdict_name(r.verdict),
                     r.sentence);
            reject(row, FAULT_RULE_LAW, text);
        }
    return NULL;
}

static fh1_status run(fault_bench *b, fh1_engine *e, int rules, int64_t Q, fault_row *row)
{
    if (b->bf16) rules &= CASES;
    if (rules & CASES) FH1_TRY(run_cases(b, e, Q, row));
    if (rules & LAWS) FH1_TRY(run_laws(b, e, row));
    if (rules & OPS)
        FH1_TRY(fault_regimes_run(b, NULL, FH1_FALCON_H1, true, e, row, row->rejected, sizeof row->rejected));
    if (rules & LONG) {
        for (int family = FH1_FALCON_H1; family <= FH1_FALCON_MAMBA; ++family) {
            fh1_verdict v;
            FH1_TRY(fault_horizon_run(b, (fh1_family)family, e, &v));
            row->runs[FAULT_RULE_HORIZON]++;
            if (v != FH1_PASS) reject(row, FAULT_RULE_HORIZON, "50 100 tokens in one scan");
        }
    }
    return rules & GRADS ? fault_gradient_honest(b, e, row, row->rejected, sizeof row->rejected) : NULL;
}

fh1_status fault_engine_run(fault_bench *b, fh1_engine *e, fault_row *row)
{
    memset(row, 0, sizeof *row);
    return run(b, e, ALL, 0, row);
}

fh1_status fault_honest_run(fault_bench *b, int i, fault_row *row)
{
    const double start = cli_seconds();
    memset(row, 0, sizeof *row);
    row->job = -1 - i;
    fh1_engine *e;
    FH1_TRY(make(i, &e));
    fh1_status s = run(b, e, honest[i].rules, honest[i].Q, row);
    e->free(e);
    row->seconds = cli_seconds() - start;
    return fh1_where(s, "%s", honest[i].name);
}
