#include "cuda/engine.h"
#include "cuda/world.h"

#include <stdint.h>
#include <string.h>

static const cu_world *const worlds[] = {
    &cu_world_host,
#if FH1_NVCC
    &cu_world_gpu,
#endif
};
enum { N_WORLDS = sizeof worlds / sizeof *worlds };

static const cu_world *find(const char *name)
{
    for (int i = 0; i < N_WORLDS; ++i)
        if (strcmp(worlds[i]->name, name) == 0) return worlds[i];
    return NULL;
}

const char *cu_engine_name_at(int i)
{
    static const char *const names[] = {"cuda-host", "cuda"}; /* a name stays one where it was not built */
    return i >= 0 && i < 2 ? names[i] : NULL;
}

static fh1_status not_built(void)
{
    return fh1_hint(FH1_BAD("engine cuda: this program was built without nvcc"),
                    "build it with ci/build cuda, or take --engine cuda-host");
}

fh1_status cu_device_missing(void)
{
    const cu_world *w = find("cuda");
    return w ? w->missing() : not_built();
}

/* The world of a name, if it can run here. */
static fh1_status open_world(const char *name, const cu_world **out)
{
    *out = find(name);
    if (!*out) return strcmp(name, "cuda") == 0 ? not_built() : fh1_found(FH1_BAD("unknown engine"), "'%s'", name);
    return (*out)->missing();
}

fh1_status cu_engine_new(const char *name, const fh1_profile *profile, unsigned variants, fh1_engine **out)
{
    const cu_world *w;
    *out = NULL;
    FH1_TRY(open_world(name, &w));
    if (variants)
        return fh1_hint(FH1_BAD("engine %s has no variants: it follows the consistent semantics", name),
                        "the engines ref-f64, ref-f32 and ref-bf16 have them");
    return w->engine_new(profile, out);
}

fh1_status cu_device_describe(const char *name, char *line, size_t size)
{
    const cu_world *w;
    FH1_TRY(open_world(name, &w));
    return w->describe(line, size);
}

/* ---- sessions ---- */

static fh1_status check_session(const cu_session_options *o)
{
    fh1_status s = NULL;
    if (o->B < 1 || o->prompt < 1 || o->context < o->prompt)
        s = FH1_BAD("a session needs rows, a prompt and a context");
    if (!s && !(o->temperature >= 0 && o->temperature <= 1e30))
        s = fh1_found(fh1_expected(FH1_BAD("--temperature"), "0 (greedy) or more"), "%g", o->temperature);
    if (!s && !(o->top_p >= 0 && o->top_p <= 1))
        s = fh1_found(fh1_expected(FH1_BAD("--top-p"), "above 0, at most 1"), "%g", o->top_p);
    if (!s && (o->top_k < 0 || o->top_k > INT32_MAX))
        s = fh1_found(fh1_expected(FH1_BAD("--top-k"), "0 (all) or more"), "%lld", (long long)o->top_k);
    return s;
}

fh1_status cu_session_new(const fh1_model *m, const cu_session_options *o, cu_session **out)
{
    const cu_world *w;
    *out = NULL;
    FH1_TRY(check_session(o));
    FH1_TRY(open_world(o->engine, &w));
    return w->session_new(m, o, out);
}

void cu_session_free(cu_session *s)
{
    if (s) s->free(s);
}

fh1_status cu_session_prefill(cu_session *s, const fh1_batch *b)
{
    return s->prefill(s, b);
}

fh1_status cu_session_decode(cu_session *s, int64_t n, int64_t *tokens)
{
    return s->decode(s, n, tokens);
}

void cu_session_reset(cu_session *s)
{
    s->reset(s);
}

cu_session_facts cu_session_tell(const cu_session *s)
{
    return s->facts;
}

fh1_status cu_session_synthesize(cu_session *s, cu_recipe_of recipe, void *user)
{
    return s->synthesize(s, recipe, user);
}

fh1_status cu_session_limits(cu_session *s, int64_t n, double *copy, double *product)
{
    return s->limits(s, n, copy, product);
}

/* ---- trainers ---- */

fh1_status cu_trainer_new(fh1_model *m, const cu_trainer_options *o, cu_trainer **out)
{
    const cu_world *w;
    *out = NULL;
    FH1_TRY(open_world(o->engine, &w));
    return w->trainer_new(m, o, out);
}

void cu_trainer_free(cu_trainer *t)
{
    if (t) t->free(t);
}

fh1_status cu_trainer_synthesize(cu_trainer *t, cu_recipe_of recipe, void *user)
{
    return t->synthesize(t, recipe, user);
}

fh1_status cu_trainer_step(cu_trainer *t, const fh1_batch *b, const fh1_adamw *o, double max_norm, cu_trainer_result *r)
{
    return t->step(t, b, o, max_norm, r);
}

const fh1_grads *cu_trainer_parameters(const cu_trainer *t)
{
    return t->parameters(t);
}

fh1_status cu_trainer_read(cu_trainer *t, int64_t i, float *out)
{
    return t->read(t, i, out);
}
