/* What the tests of the laws share: engines for one law, one line per verdict. */
#pragma once

#include "convert/hf_folder.h"
#include "golden/laws.h"
#include "tests/tiny_model.h"

typedef struct {
    fh1_engine *engine, *truth, *emulated;
} law_engines;

/* `engine` is judged and freed with the others; the emulated pipeline follows its contract. */
static inline law_engines law_engines_for(fh1_engine *engine)
{
    law_engines l = {engine, ref_engine_new("ref-f64", NULL, 0), ref_engine_new("ref-bf16", engine->profile, 0)};
    ck_assert(l.engine && l.truth && l.emulated);
    return l;
}

/* "ref-f32", or "ref-f32 in chunks". */
static inline law_engines law_engines_new(const char *name)
{
    char kind[32];
    snprintf(kind, sizeof kind, "%.*s", (int)strcspn(name, " "), name);
    law_engines l = law_engines_for(ref_engine_new(kind, NULL, 0));
    l.engine->chunked |= strchr(name, ' ') != NULL;
    return l;
}

static inline void law_engines_free(law_engines *l)
{
    l->engine->free(l->engine);
    l->truth->free(l->truth);
    l->emulated->free(l->emulated);
}

static inline gld_law_result law_run_one(const gld_law *law, const law_engines *l, const fh1_model *m, uint64_t seed)
{
    const gld_law_args a = {.engine = l->engine, .truth = l->truth, .emulated = l->emulated, .model = m, .seed = seed};
    gld_law_result r;
    TINY_OK(law->run(&a, &r));
    return r;
}

static inline void law_print(const char *model, const law_engines *l, const gld_law *law, const gld_law_result *r)
{
    printf("%-14s %-9s %-17s %-10s margin %-9.3g planted %-9.3g %s %s\n", model, l->engine->name, law->name,
           fh1_verdict_name(r->verdict), r->margin, r->planted, r->tap, r->sentence);
}
