/* Gradients in a trace: stepJ/grad.<parameter>, in the shape of the parameter. */
#include "golden/map_rules.h"
#include "golden/trace_owner.h"

#include <string.h>

static bool none(void *user, const fh1_param *p)
{
    (void)user, (void)p;
    return false;
}

/* The parameter that is nearest to a name, where one is near: beyond a third another one is meant. */
static const char *nearest(const fh1_grads *list, const char *name)
{
    const int n = (int)strlen(name);
    int best = n / 3 + 1;
    const char *found = NULL;
    for (int64_t i = 0; i < list->n; i++) {
        const int d = gld_map_distance(name, n, list->params[i].name, best);
        if (d >= best) continue;
        best = d;
        found = list->params[i].name;
    }
    return found;
}

static fh1_status unknown(const fh1_grads *list, const char *file_name, const char *param)
{
    fh1_status s = FH1_BAD("'%.200s' is the gradient of no parameter of this model", file_name);
    const char *near = nearest(list, param);
    if (near) s = fh1_expected(s, "perhaps grad.%s", near);
    if (strstr(param, "lora_")) return fh1_hint(s, "--adapter DIR attaches the adapter that has it, by its key there");
    return fh1_hint(s,
                    "fh1 taps MODEL lists them; a tied head has the embedding's; a map file can rename or ignore it");
}

fh1_status gld_trace_read_grad(gld_step *s, const fh1_model *m, fh1_grads **list, const char *file_name,
                               const char *param, const fh1_tensor *t)
{
    if (!m->layers)
        return FH1_BAD("'%.200s' is a gradient, and only a model with its weights knows its parameters", file_name);
    /* The list borrows the addresses of the model's views and writes nothing. */
    if (!*list) FH1_TRY(fh1_grads_new((fh1_model *)m, FH1_F64, none, NULL, list));
    const int64_t i = fh1_grads_find(*list, param);
    if (i < 0) return unknown(*list, file_name, param);
    const fh1_tensor *expected = (*list)->params[i].value;
    if (!fh1_same_shape(t, expected)) return gld_trace_wrong_shape(file_name, "its parameter", t, expected);
    for (int64_t k = 0; k < s->n_grads; k++)
        if (s->grads[k].param == i) return FH1_BAD("two tensors both stand for grad.%.200s", param);
    return gld_step_put_grad(s, param, i, t);
}
