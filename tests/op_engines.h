/* The engines that tests of op cases run: truth and three that are judged. */
#pragma once

#include "reference/engine.h"

#include <check.h>

static fh1_engine *truth, *f32, *bf16, *fused;

static inline void open_engines(void)
{
    truth = ref_engine_new("ref-f64", NULL, 0);
    f32 = ref_engine_new("ref-f32", NULL, 0);
    bf16 = ref_engine_new("ref-bf16", NULL, 0);
    fused = ref_engine_new("ref-bf16", fh1_profile_find("cuda-bf16"), 0);
    ck_assert(truth && f32 && bf16 && fused);
}

static inline void close_engines(void)
{
    truth->free(truth);
    f32->free(f32);
    bf16->free(bf16);
    fused->free(fused);
}
