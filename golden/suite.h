/* A suite: suite.json with a list of cases, each a model folder, a trace and what is expected of it. */
#pragma once

#include "oracle/status.h"

#include <stdint.h>

typedef struct {
    char *name, *model, *trace; /* model and trace are paths, resolved against the suite's folder */
    char *adapter;              /* a path too: attached to the model; NULL when absent */
    char *contract, *variant;   /* NULL when absent: the trace's own metadata counts */
    bool expect_fail;           /* "expect": "FAIL", a golden wrong trace */
    char *expect_tap;           /* the first divergence that must be found; NULL for PASS */
    int64_t expect_step;
    char *bug, *note; /* NULL when absent */
} gld_case;

typedef struct {
    gld_case *cases;
    int64_t n;
} gld_suite;

/* `dir` holds suite.json. Unknown keys, a missing file, or an expect_tap that is no tap name are FH1_E_INPUT. */
fh1_status gld_suite_read(const char *dir, gld_suite *out);
void gld_suite_free(gld_suite *s);
