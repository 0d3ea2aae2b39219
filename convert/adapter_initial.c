/* PiSSA and its relatives train on W − s·B₀·A₀. On W itself the trained adapter is s·(B·A − B₀·A₀), which is again one
 * adapter, of twice the rank. */
#include "convert/adapter_parts.h"

#include <string.h>

static const cvt_lora *find(const cvt_adapter *a, const char *module)
{
    for (int64_t i = 0; i < a->n_loras; i++)
        if (strcmp(a->loras[i].module, module) == 0) return &a->loras[i];
    return NULL;
}

/* Joins x and y along the axis that counts the rank; y times `sign`. */
static fh1_status join(cvt_adapter *a, const fh1_tensor *x, const fh1_tensor *y, int axis, double sign, fh1_tensor *out)
{
    fh1_dtype type = x->dtype == FH1_F64 || y->dtype == FH1_F64 ? FH1_F64 : FH1_F32; /* holds both exactly */
    int64_t shape[2] = {x->shape[0], x->shape[1]};
    shape[axis] += y->shape[axis];
    fh1_tensor t = fh1_view2(NULL, type, shape[0], shape[1]);
    t.data = cvt_adapter_own(a, fh1_n_bytes(&t));
    if (!t.data) return fh1_no_memory(fh1_n_bytes(&t), "an adapter");
    for (int64_t i = 0; i < shape[0]; i++)
        for (int64_t k = 0; k < shape[1]; k++) {
            bool first = axis == 0 ? i < x->shape[0] : k < x->shape[1];
            int64_t at = axis == 0 ? (i - x->shape[0]) * y->shape[1] + k : i * y->shape[1] + k - x->shape[1];
            double v = first ? fh1_get(x, i * x->shape[1] + k) : sign * fh1_get(y, at);
            fh1_set(&t, i * shape[1] + k, v);
        }
    *out = t;
    return NULL;
}

static bool same_bytes(const fh1_tensor *x, const fh1_tensor *y)
{
    return x->dtype == y->dtype && fh1_n_bytes(x) == fh1_n_bytes(y) && memcmp(x->data, y->data, fh1_n_bytes(x)) == 0;
}

fh1_status cvt_adapter_add_initial(cvt_adapter *a, const cvt_adapter *initial)
{
    fh1_status s = NULL;
    if (initial->n_loras != a->n_loras || initial->dora || initial->n_replacements || initial->n_tokens)
        s = FH1_BAD("the initial adapter does not adapt the same modules as the trained one");
    int64_t n_same = 0;
    for (int64_t i = 0; i < a->n_loras && !s; i++) {
        cvt_lora *l = &a->loras[i];
        const cvt_lora *first = find(initial, l->module);
        fh1_tensor A, B;
        if (!first || first->embedding != l->embedding || first->r != l->r || first->scale != l->scale) {
            s = fh1_hint(FH1_BAD("the initial adapter has no part for %.200s of the same rank and scale", l->module),
                         "it is the adapter that was saved before the first step of training");
            break;
        }
        n_same += same_bytes(&l->A, &first->A) && same_bytes(&l->B, &first->B);
        s = join(a, &l->A, &first->A, 0, 1, &A);
        if (!s) s = join(a, &l->B, &first->B, 1, -1, &B);
        if (s) break;
        l->A = A;
        l->B = B;
        l->r *= 2;
    }
    if (!s && n_same == a->n_loras)
        s = fh1_hint(FH1_BAD("the initial adapter is the trained one: what is between them is nothing"),
                     "give the adapter that was saved before the first step of training");
    return fh1_where(s, "%s", initial->path);
}
