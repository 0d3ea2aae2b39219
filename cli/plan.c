#include "cli/plan.h"

#include "cli/commands.h"
#include "convert/file.h"
#include "convert/model_open.h"
#include "golden/record.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* One more slot in an array of `n` elements. */
static fh1_status extend(void *array, int n, size_t size)
{
    void **p = array;
    void *bigger = realloc(*p, ((size_t)n + 1) * size);
    if (!bigger) return fh1_no_memory(((size_t)n + 1) * size, "the list of subjects");
    *p = bigger;
    return NULL;
}

static bool same_adapters(const cli_list *a, const cli_list *b)
{
    bool same = a->n == b->n;
    for (int i = 0; same && i < a->n; i++) same = strcmp(a->items[i], b->items[i]) == 0;
    return same;
}

static fh1_status add_model(check_plan *p, const char *path, const cli_list *adapters, const fh1_model **out)
{
    char *canonical = realpath(path, NULL);
    if (!canonical) return fh1_where(cvt_cannot(errno, "cannot open the model folder"), "%s", path);
    for (int i = 0; i < p->n_models; i++) {
        if (strcmp(p->models[i]->path, canonical) != 0 || !same_adapters(&p->models[i]->adapters, adapters)) continue;
        free(canonical);
        *out = &p->models[i]->m;
        return NULL;
    }
    check_model *m = calloc(1, sizeof *m);
    fh1_status s = m ? extend(&p->models, p->n_models, sizeof *p->models) : fh1_no_memory(sizeof *m, "a model");
    if (!s) s = cli_model_open(path, adapters, &m->m);
    if (s) {
        free(m);
        free(canonical);
        return s;
    }
    m->path = canonical;
    m->adapters = *adapters; /* the words of the command line, or of the suite, outlive the plan's models */
    p->models[p->n_models++] = m;
    *out = &m->m;
    return NULL;
}

/* A new slot for a trace; it is freed with the plan even if what fills it fails. */
static fh1_status add_trace(check_plan *p, gld_trace **out)
{
    FH1_TRY(extend(&p->traces, p->n_traces, sizeof *p->traces));
    *out = calloc(1, sizeof **out);
    if (!*out) return fh1_no_memory(sizeof **out, "a trace");
    p->traces[p->n_traces++] = *out;
    return NULL;
}

static fh1_status add_subject(check_plan *p, const check_subject *s)
{
    FH1_TRY(extend(&p->subjects, p->n_subjects, sizeof *p->subjects));
    p->subjects[p->n_subjects++] = *s;
    return NULL;
}

/* Contract and variants of a trace: the command line before the suite before the file's own metadata before
 * what the type of its tensors says. A contract's switches are variants. */
static fh1_status set_contract(const check_options *o, const gld_case *c, check_subject *s)
{
    const gld_trace *t = s->trace;
    unsigned switches = 0;
    const char *text = o->contract ? o->contract : c && c->contract ? c->contract : t->contract;
    const char *variant = o->variant ? o->variant : c && c->variant ? c->variant : t->variant;
    fh1_status e = NULL;
    if (*text) e = fh1_contract_parse(text, &s->profile, &switches);
    else s->profile = fh1_profile_for_dtype(t->dtype);
    if (!e) e = fh1_variants_parse(variant, &s->variants);
    s->variants |= switches;
    return e ? fh1_where(e, "%s", t->path) : NULL;
}

static fh1_status add_trace_subject(const check_options *o, check_plan *p, const fh1_model *m, const gld_trace *t,
                                    const gld_case *c, const char *name)
{
    check_subject s = {.model = m, .trace = t};
    snprintf(s.label, sizeof s.label, "trace %s", name);
    if (c) {
        s.expect_fail = c->expect_fail;
        s.expect_tap = c->expect_fail ? c->expect_tap : NULL;
        s.expect_step = c->expect_step;
    }
    FH1_TRY(set_contract(o, c, &s));
    return add_subject(p, &s);
}

/* The engine over the inputs of a trace. It is judged with the variants that it runs, none unless asked for:
 * what a library got wrong on these inputs is no excuse for it. */
static fh1_status add_engine_subject(const check_options *o, check_plan *p, const fh1_model *m, const gld_trace *t,
                                     const char *engine, const char *name)
{
    check_subject s = {.model = m, .trace = t, .engine = engine};
    unsigned switches = 0;
    snprintf(s.label, sizeof s.label, "%s %s", engine, name);
    if (o->contract) FH1_TRY(fh1_contract_parse(o->contract, &s.profile, &switches));
    if (o->variant) FH1_TRY(fh1_variants_parse(o->variant, &s.variants));
    s.variants |= switches;
    return add_subject(p, &s);
}

/* `attached`: an adapter belongs to the case; the CUDA engines run merged models only, so it is none of theirs. */
static fh1_status add_engines(const check_options *o, check_plan *p, const fh1_model *m, const gld_trace *t,
                              const char *name, bool attached)
{
    for (int i = 0; i < o->engines.n; i++) {
        if (attached && cli_engine_is_cuda(o->engines.items[i])) continue;
        FH1_TRY(add_engine_subject(o, p, m, t, o->engines.items[i], name));
    }
    return NULL;
}

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

static fh1_status plan_traces(const check_options *o, check_plan *p)
{
    const fh1_model *m;
    FH1_TRY(add_model(p, o->model, &o->adapters, &m));
    for (int i = 0; i < o->traces.n; i++) {
        const char *path = o->traces.items[i];
        gld_trace *t;
        FH1_TRY(add_trace(p, &t));
        FH1_TRY(gld_trace_open(path, m, p->map, t));
        FH1_TRY(add_trace_subject(o, p, m, t, NULL, base_name(path)));
        FH1_TRY(add_engines(o, p, m, t, base_name(path), false));
    }
    return NULL;
}

static fh1_status plan_case(const check_options *o, check_plan *p, const gld_case *c)
{
    const fh1_model *m;
    gld_trace *t;
    fh1_status e;
    const cli_list adapters = {(const char **)&c->adapter, c->adapter != NULL};
    FH1_TRY_GOTO(e, add_model(p, c->model, &adapters, &m), bad);
    FH1_TRY_GOTO(e, add_trace(p, &t), bad);
    FH1_TRY_GOTO(e, gld_trace_open(c->trace, m, NULL, t), bad);
    FH1_TRY_GOTO(e, add_trace_subject(o, p, m, t, c, c->name), bad);
    /* The inputs of a wrong trace may be what went wrong; its right twin in the suite has them too. */
    if (!c->expect_fail) FH1_TRY_GOTO(e, add_engines(o, p, m, t, c->name, c->adapter != NULL), bad);
    return NULL;
bad:
    return fh1_where(e, "case %s", c->name);
}

static fh1_status plan_suite(const check_options *o, check_plan *p)
{
    char *only = NULL;
    int n = 0;
    fh1_status e = gld_suite_read(o->suite, &p->suite);
    if (e) return e;
    if (o->model && !(only = realpath(o->model, NULL)))
        return fh1_where(cvt_cannot(errno, "cannot open the model folder"), "%s", o->model);
    for (int64_t i = 0; i < p->suite.n && !e; i++) {
        char *folder = only ? realpath(p->suite.cases[i].model, NULL) : NULL;
        if (!only || (folder && strcmp(folder, only) == 0)) {
            e = plan_case(o, p, &p->suite.cases[i]);
            n++;
        }
        free(folder);
    }
    free(only);
    if (!e && n == 0) {
        e = fh1_where(FH1_BAD("no case for this model"), "%s/suite.json", o->suite);
        if (o->model) e = fh1_found(e, "%" PRId64 " cases for other models than %s", p->suite.n, o->model);
    }
    return e;
}

static fh1_status plan_seeded(const check_options *o, check_plan *p)
{
    static const char *const names[] = {"ragged", "packed"};
    const fh1_model *m;
    FH1_TRY(add_model(p, o->model, &o->adapters, &m));
    for (int which = 0; which < 2; which++) {
        char name[64];
        gld_trace *t;
        FH1_TRY(add_trace(p, &t));
        FH1_TRY(gld_schedule_seeded(&m->config, (uint64_t)o->seed, which, t));
        snprintf(name, sizeof name, "seed %" PRId64 " %s", o->seed, names[which]);
        FH1_TRY(add_engines(o, p, m, t, name, false));
    }
    return NULL;
}

fh1_status check_plan_make(const check_options *o, check_plan *p)
{
    memset(p, 0, sizeof *p);
    if (!o->model && !o->suite)
        return fh1_hint(fh1_expected(FH1_BAD("an argument is missing"), "MODEL, or --suite DIR"),
                        "see fh1 check --help");
    if (o->traces.n && !o->model) return FH1_BAD("--trace needs the MODEL that made it, before the options");
    if (o->adapters.n && o->suite) return FH1_BAD("--adapter does not go with --suite: a case names its own adapter");
    if (o->map && !o->traces.n) return FH1_BAD("--map goes with --trace");
    for (int i = 0; i < o->engines.n; i++) {
        fh1_status e = cli_engine_known(o->engines.items[i]);
        if (e) return fh1_hint(e, "MODEL stands before --engine, which takes every word up to the next option");
    }
    if (o->map) FH1_TRY(gld_map_read(o->map, &p->map));
    if (o->traces.n) FH1_TRY(plan_traces(o, p));
    if (o->suite) FH1_TRY(plan_suite(o, p));
    return o->traces.n || o->suite ? NULL : plan_seeded(o, p);
}

void check_plan_free(check_plan *p)
{
    for (int i = 0; i < p->n_traces; i++) {
        gld_trace_free(p->traces[i]);
        free(p->traces[i]);
    }
    for (int i = 0; i < p->n_models; i++) {
        fh1_model_free(&p->models[i]->m);
        free(p->models[i]->path);
        free(p->models[i]);
    }
    free(p->traces);
    free(p->models);
    free(p->subjects);
    gld_suite_free(&p->suite);
    if (p->map) gld_map_free(p->map);
    memset(p, 0, sizeof *p);
}
