/* What the tests of traffic share: small models made from a seed, and the judge over one line of traffic. */
#pragma once

#include "golden/seeded_model.h"
#include "golden/traffic.h"
#include "oracle/thread.h"
#include "reference/engine.h"
#include "reference/faulty.h"
#include "tests/trace_fixture.h"

/* Two layers, every kind of bias, chunks of four. */
#define TRAFFIC_MODEL                                                                                               \
    "layers=2,D=12,F=10,V=23,Hq=4,Hkv=2,A=4,H=4,P=3,N=5,G=2,K=4,Q=4,rms_norm=1,attention_bias=1,mamba_proj_bias=1," \
    "m_emb=2,m_key=0.5,m_attn_out=1.5,m_ssm_out=1.25,m_dt=0.75,weights=trained"

/* Not returned: its config may point into itself. */
static inline void traffic_model(const char *make, uint64_t seed, fh1_model *m)
{
    gld_seeded_spec spec;
    OK(gld_seeded_parse(make, &spec));
    OK(gld_seeded_model_new(&spec, seed, m));
}

static inline gld_traffic traffic_of(const char *text)
{
    gld_traffic t;
    OK(gld_traffic_parse(text, &t));
    return t;
}

/* The engine is the caller's. */
static inline gld_traffic_result traffic_judged(const gld_traffic *t, fh1_engine *e, const fh1_model *m, uint64_t seed)
{
    gld_traffic_result r;
    OK(fh1_engine_open(e, m));
    gld_law_args a = {.engine = e, .truth = ref_engine_new("ref-f64", NULL, 0), .model = m, .seed = seed};
    a.emulated = ref_engine_new("ref-bf16", e->profile, 0);
    ck_assert(a.truth && a.emulated);
    OK(gld_traffic_judge(t, &a, &r));
    a.truth->free(a.truth);
    a.emulated->free(a.emulated);
    return r;
}
