/* Which modules of a model an adapter's config adapts, and how, by the rules of PEFT 0.21.2. For
 * convert/adapter_*.c. */
#pragma once

#include "convert/adapter.h"
#include "convert/adapter_config.h"

typedef enum { CVT_MODULE_LINEAR, CVT_MODULE_EMBEDDING, CVT_MODULE_CONV, CVT_MODULE_OTHER } cvt_module_kind;

typedef struct {
    char *path; /* "model.layers.0.mamba.in_proj" */
    cvt_module_kind kind;
    int64_t out, in; /* of a Linear; embedding: V and D */
    bool has_bias;
    bool saved;     /* modules_to_save */
    bool targeted;  /* by target_modules */
    bool parameter; /* its weight by target_parameters */
    int64_t r;      /* of a targeted one, as the next */
    double scale;
} cvt_module;

/* A tensor of the base, also the head's of a tied one. */
typedef struct {
    char *name;
    int rank;
    int64_t shape[FH1_MAX_RANK];
    int64_t module; /* index, -1: a parameter of a mixer (A_log, D, dt_bias) */
    bool saved;     /* modules_to_save */
} cvt_base_tensor;

typedef struct {
    cvt_module *modules; /* n_modules, sorted by path */
    int64_t n_modules;
    cvt_base_tensor *tensors; /* n_tensors, sorted by name */
    int64_t n_tensors;
    const char *embed, *embed_weight; /* the embedding's path and tensor */
    bool tied;
} cvt_modules;

fh1_status cvt_modules_of(const fh1_config *c, cvt_modules *out);
void cvt_modules_free(cvt_modules *m);
cvt_module *cvt_modules_find(const cvt_modules *m, const char *path);
cvt_base_tensor *cvt_modules_tensor(const cvt_modules *m, const char *name);

/* Sets saved, targeted, parameter, r and scale. `path`: of adapter_config.json. Warnings go to `a`. */
fh1_status cvt_modules_match(cvt_modules *m, const cvt_adapter_config *c, const char *path, cvt_adapter *a);

/* A sentence for a->warnings. */
fh1_status cvt_adapter_warn(cvt_adapter *a, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* ---- patterns in Python's syntax ---- */

typedef struct cvt_pattern cvt_pattern;
typedef enum { CVT_MATCH_BEGIN, CVT_MATCH_FULL } cvt_match_kind; /* re.match, re.fullmatch */

/* prefix + pattern + suffix; `what` names the field in messages. Constructs that Python does not have, or reads in
 * another way, are refused. */
fh1_status cvt_pattern_new(const char *prefix, const char *pattern, const char *suffix, cvt_match_kind kind,
                           const char *what, cvt_pattern **out);
void cvt_pattern_free(cvt_pattern *p); /* NULL is fine */
/* number: of the group that ends the match, as an integer; NULL: not asked for. A pattern that backtracks without end
 * is FH1_E_INPUT. */
fh1_status cvt_pattern_match(const cvt_pattern *p, const char *text, bool *matched, int64_t *number);
