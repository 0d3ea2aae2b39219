/* AdamW to the bit of torch's: the first step of four training runs of the real library (golden/gradients, train-f32
 * and train-f64), in which m, v and the moved weights are kept. The gradient is not, but m = (1 - beta1)·g leaves a few
 * numbers for it; one of them must give torch's m and v, and then the weight must be torch's too.
 *
 * In f32 the library's vectorised square root is now and then one ulp beside the nearest number (found by trying its
 * neighbours: with one of them each of the few weights that differ comes out to the bit). So one weight in fifty may be
 * off by what an ulp of the root makes of a move of about lr, 2^-23·lr, and the rounding of the sum. */
#include "convert/safetensors.h"
#include "tests/bwd_fixture.h"

static const char *const runs[] = {"mini-0.5b", "mini-34b", "odd", "mamba-tied"};

static double number(const cJSON *json, const char *key)
{
    const cJSON *n = cJSON_GetObjectItemCaseSensitive(json, key);
    ck_assert_msg(cJSON_IsNumber(n), "train.json has no %s", key);
    return n->valuedouble;
}

/* The settings of a run; the gradient is what was left of it after clipping. */
static fh1_adamw settings(const char *run, double rate)
{
    char path[256], text[4096];
    snprintf(path, sizeof path, "golden/gradients/%s/train.json", run);
    FILE *f = fopen(path, "r");
    ck_assert_msg(f != NULL, "%s", path);
    const size_t n = fread(text, 1, sizeof text - 1, f);
    fclose(f);
    text[n] = 0;
    cJSON *json = cJSON_Parse(text);
    const cJSON *betas = cJSON_GetObjectItemCaseSensitive(json, "betas");
    ck_assert_int_eq(cJSON_GetArraySize(betas), 2);
    const fh1_adamw o = {.lr = rate,
                         .beta1 = cJSON_GetArrayItem(betas, 0)->valuedouble,
                         .beta2 = cJSON_GetArrayItem(betas, 1)->valuedouble,
                         .eps = number(json, "eps"),
                         .decay = number(json, "weight_decay"),
                         .grad_scale = 1,
                         .t = 1};
    cJSON_Delete(json);
    return o;
}

/* A tensor as f64, exact for every type. */
static double *values(const cvt_st *f, const char *part, const char *name, int64_t *n)
{
    char full[256];
    snprintf(full, sizeof full, "%s%s", part, name);
    const cvt_st_entry *e = cvt_st_find(f, full);
    ck_assert_msg(e != NULL, "%s", full);
    *n = fh1_n_elems(&e->t);
    double *v = w_new(*n);
    for (int64_t i = 0; i < *n; ++i) v[i] = fh1_get(&e->t, i);
    return v;
}

static double next(const b_run *r, double v, int steps)
{
    const double to = steps > 0 ? (double)INFINITY : -(double)INFINITY;
    for (; steps != 0; steps += steps > 0 ? -1 : 1)
        v = r->e == w_f32 ? (double)nextafterf((float)v, (float)to) : nextafter(v, to);
    return v;
}

typedef struct {
    int64_t all, beside;
} tally;

/* One tensor after one step from zero moments: each gradient that m allows is tried on all elements at once. */
static void tensor(b_run *r, const fh1_adamw *o, int64_t n, const double *w, const double *m, const double *v,
                   const double *moved, tally *count)
{
    enum { AROUND = 3 };
    double *g = w_new(n), *got = w_copy(w, n);
    bool *found = w_bytes(n);
    memset(found, 0, (size_t)n);
    for (int d = -AROUND; d <= AROUND; ++d) {
        double *w1 = w_copy(w, n), *m1 = w_fill(n, 0), *v1 = w_fill(n, 0);
        for (int64_t i = 0; i < n; ++i) {
            const double about = m[i] / (1 - o->beta1);
            g[i] = next(r, r->e == w_f32 ? (double)(float)about : about, d);
        }
        r->ops->adamw(n, o, g, w1, m1, v1);
        for (int64_t i = 0; i < n; ++i)
            if (m1[i] == m[i] && v1[i] == v[i]) found[i] = true, got[i] = w1[i];
    }
    for (int64_t i = 0; i < n; ++i) {
        const double none = (double)NAN;
        if (!found[i]) b_agree(r, "a gradient that gives m and v", 1, &none, m + i, NULL);
    }
    double *gauge = w_new(n);
    for (int64_t i = 0; i < n; ++i) {
        gauge[i] = r->e == w_f32 ? 4 * o->lr + 2 * fabs(moved[i]) : 0;
        count->all += 1;
        count->beside += got[i] != moved[i];
    }
    b_agree(r, "w", n, got, moved, gauge);
}

static void first_step(b_run *r)
{
    tally count = {0, 0};
    for (size_t k = 0; k < sizeof runs / sizeof *runs; ++k) {
        char path[256];
        cvt_st *after, *before;
        snprintf(path, sizeof path, "golden/gradients/%s/train-%s.safetensors", runs[k], r->e == w_f32 ? "f32" : "f64");
        w_fine(cvt_st_open(path, &after));
        snprintf(path, sizeof path, "golden/models/%s/model.safetensors", runs[k]);
        w_fine(cvt_st_open(path, &before));
        int64_t n;
        const fh1_adamw o = settings(runs[k], values(after, "rate", "", &n)[0]);
        for (int64_t i = 0; i < cvt_st_count(after); ++i) {
            const char *name = cvt_st_at(after, i)->name, *prefix = "step1/master/";
            if (strncmp(name, prefix, strlen(prefix)) != 0) continue;
            name += strlen(prefix);
            const double *w = values(before, "", name, &n), *moved = values(after, prefix, name, &n);
            const double *m = values(after, "step1/m/", name, &n), *v = values(after, "step1/v/", name, &n);
            tensor(r, &o, n, w, m, v, moved, &count);
        }
        cvt_st_close(after);
        cvt_st_close(before);
    }
    ck_assert_int_gt(count.all, 400);
    if (r->ok && count.beside * 50 > count.all) {
        r->ok = false;
        snprintf(r->at, sizeof r->at, "%lld of %lld weights differ", (long long)count.beside, (long long)count.all);
    }
}

START_TEST(the_first_step_is_torchs)
{
    static const b_check check = {
        "first step",
        first_step,
        {FH1_FAULT_ADAMW_WITHOUT_BIAS_CORRECTION, FH1_FAULT_ADAMW_DECAY_COUPLED, FH1_FAULT_ADAMW_EPS_INSIDE_ROOT}};
    b_prove(&check);
}
END_TEST

int main(void)
{
    return w_main("adamw_torch", (w_test[]){the_first_step_is_torchs, NULL});
}
