/* What the tests of repro lines share: the engines of this build, and lines that fail. */
#pragma once

#include "golden/shrink.h"
#include "oracle/thread.h"
#include "reference/engine.h"
#include "reference/faulty.h"
#include "tests/trace_fixture.h"

/* Four layers, 65 columns, three rows, steps and a continuation; the fault is in every key. */
#define BIG_LINE                                                                                      \
    "--make=layers=4,D=64,F=96,V=97,Hq=4,Hkv=2,A=16,H=8,P=8,N=16,G=2,K=4,Q=16,dtype=bf16,rms_norm=1," \
    "attention_bias=1,m_key=0.3,m_emb=2.5,m_gate=0.7 --engine=ref-f32 --seed=7 --schedule="           \
    "p65x3l:0,12,63;d3;c5k:1/0,3;d1"
#define BIG_FAULT " --fault=key_multiplier_dropped"

static inline fh1_engine *fixture_engine(const char *name, const fh1_profile *p, unsigned variants, fh1_fault fault)
{
    return fault == FH1_FAULT_NONE ? ref_engine_new(name, p, variants)
                                   : ref_faulty_engine_new(name, p, variants, fault);
}

static const gld_repro_env fixture_env = {fixture_engine, ref_engine_new, NULL};

static inline int fixture_main(Suite *suite, TCase *tc)
{
    fh1_set_threads(1); /* small models: waking a pool costs more than it gives */
    tcase_set_timeout(tc, 100);
    suite_add_tcase(suite, tc);
    SRunner *r = srunner_create(suite);
    srunner_run_all(r, CK_NORMAL);
    const int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
