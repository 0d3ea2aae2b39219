/* Honest engines against every rule of the fault matrix: what rejects one of them is wrong, however many faults it
 * kills. */
#include "cli/fault_bench.h"

#include "golden/record.h"
#include "reference/engine.h"
#include "reference/faulty.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

static const struct {
    const char *name, *engine, *profile; /* profile NULL: the engine's own */
    bool copy;                           /* the faulty copy with no fault switched on */
    bool chunked;                        /* prefill scans in chunks */
} honest[] = {
    {"ref-f32", "ref-f32", NULL, false, false},
    {"ref-f32 in chunks", "ref-f32", NULL, false, true},
    {"ref-f64", "ref-f64", NULL, false, false},
    {"ref-bf16", "ref-bf16", NULL, false, true},
    {"ref-bf16 sequential", "ref-bf16", NULL, false, false},
    {"emulated fp32", "ref-bf16", "fp32", false, true},
    {"emulated fp16", "ref-bf16", "hf-eager-fp16", false, true},
    {"ref-f32 without fault", "ref-f32", NULL, true, false},
    {"ref-bf16 without fault", "ref-bf16", NULL, true, true},
};

const char *fault_honest_name(int i)
{
    return i >= 0 && i < (int)(sizeof honest / sizeof *honest) ? honest[i].name : NULL;
}

static fh1_engine *make(int i)
{
    const fh1_profile *p = honest[i].profile ? fh1_profile_find(honest[i].profile) : NULL;
    fh1_engine *e = honest[i].copy ? ref_faulty_engine_new(honest[i].engine, p, 0, FH1_FAULT_NONE)
                                   : ref_engine_new(honest[i].engine, p, 0);
    if (e) e->chunked = honest[i].chunked;
    return e;
}

static void reject(fault_row *row, fault_rule rule, const char *by)
{
    row->red[rule]++;
    if (!*row->rejected) snprintf(row->rejected, sizeof row->rejected, "%s", by);
}

/* Every model with every inputs on which a fault is judged. */
static fh1_status run_cases(fault_bench *b, fh1_engine *e, fault_row *row)
{
    const fault_setting *seen[FAULT_MOST_CASES] = {0};
    int n = 0;
    for (int f = 1; f < FH1_FAULT_COUNT; ++f) {
        const fault_setting *s;
        bool known = false;
        FH1_TRY(fault_setting_of(b, (fh1_fault)f, &s));
        for (int i = 0; i < n && !known; ++i) known = seen[i] == s;
        if (known) continue;
        seen[n++] = s;
        gld_trace t;
        fault_verdict v;
        FH1_TRY(gld_record_like(e, s->m, &s->in, NULL, &t));
        fh1_status st = fault_judge(&t, s->m, FH1_FAULT_NONE, &v);
        gld_trace_free(&t);
        FH1_TRY(st);
        row->runs[FAULT_RULE_CHECK]++;
        if (!v.failed) continue;
        char place[128], text[256];
        const gld_fault_case c = gld_fault_case_of((fh1_fault)f);
        fault_place(v.step, v.tap, v.layer, place, sizeof place);
        snprintf(text, sizeof text, "check %s %s: %s", c.model, gld_fault_input_name((int)c.inputs), place);
        reject(row, FAULT_RULE_CHECK, text);
    }
    return NULL;
}

static fh1_status run_laws(fault_bench *b, fh1_engine *e, fault_row *row)
{
    for (int i = 0; gld_law_at(i); ++i)
        for (int m = 0; m < FAULT_LAW_MODELS; ++m) {
            gld_law_result r;
            char text[256];
            FH1_TRY(fault_law_run(b, gld_law_at(i), m, e, &r));
            if (r.verdict == FH1_SKIP) continue;
            row->runs[FAULT_RULE_LAW]++;
            if (r.verdict == FH1_PASS) continue;
            snprintf(text, sizeof text, "law.%s is %s: %.200s", gld_law_at(i)->name, fh1_verdict_name(r.verdict),
                     r.sentence);
            reject(row, FAULT_RULE_LAW, text);
        }
    return NULL;
}

fh1_status fault_honest_run(fault_bench *b, int i, fault_row *row)
{
    struct timespec start, end;
    clock_gettime(CLOCK_MONOTONIC, &start);
    memset(row, 0, sizeof *row);
    row->job = -1 - i;
    fh1_engine *e = make(i);
    if (!e) return fh1_no_memory(sizeof *e, "an engine");
    fh1_status s = run_cases(b, e, row);
    if (!s && !b->bf16) s = run_laws(b, e, row);
    if (!s && !b->bf16) s = fault_regimes_run(b, NULL, true, e, row, row->rejected, sizeof row->rejected);
    fh1_verdict v = FH1_SKIP;
    if (!s && !b->bf16) s = fault_horizon_run(b, e, &v);
    row->runs[FAULT_RULE_HORIZON] = v != FH1_SKIP;
    if (v != FH1_SKIP && v != FH1_PASS) reject(row, FAULT_RULE_HORIZON, "50 100 tokens in one scan");
    e->free(e);
    clock_gettime(CLOCK_MONOTONIC, &end);
    row->seconds = (double)(end.tv_sec - start.tv_sec) + (double)(end.tv_nsec - start.tv_nsec) * 1e-9;
    return fh1_where(s, "%s", honest[i].name);
}
