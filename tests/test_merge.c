/* Merges against an independent witness in long double, which is written from the formulas and shares nothing with
 * convert/merge*.c: W' = R(W + s·B·A), DoRA, embeddings, biases, replaced tensors, rows. Each case also computes the
 * witness with a planted fault, a mistake that merge tools have made, and asserts that it would be noticed. */
#include "tests/adapter_fixture.h"

#include <math.h>

#define Q0 "model.layers.0.self_attn.q_proj"
#define EMBED "model.embed_tokens"

typedef enum {
    RIGHT,
    ALPHA_ALONE,    /* s = alpha */
    RSLORA_IGNORED, /* s = alpha / r */
    NO_SCALE,       /* of the bias */
    TRANSPOSED,     /* ΔW read in the other layout */
    SWAPPED,        /* rows and columns of B mixed up */
    COLUMN_NORM,    /* DoRA over the wrong axis */
    BASE_NORM,      /* DoRA with the norm of W alone */
    NO_MAGNITUDE,   /* DoRA as plain LoRA */
    EMBED_UNSCALED, /* s = 1 */
    TWICE           /* ΔW added twice */
} fault;

/* The parts of one module, as numbers. */
typedef struct {
    int64_t rows, cols, r;
    double *W, *A, *B, *m;
    long double scale;
    bool embedding;
} parts;

static long double delta_at(const parts *p, int64_t i, int64_t j, fault f)
{
    long double sum = 0, s = f == EMBED_UNSCALED ? 1 : f == ALPHA_ALONE ? p->scale * p->r : p->scale;
    if (f == RSLORA_IGNORED) s = p->scale / sqrtl(p->r);
    if (f == TWICE) s *= 2;
    int64_t n = p->rows * p->cols, flat = j * p->rows + i; /* the layout of the transposed ΔW */
    if (f == TRANSPOSED) {
        i = flat % n / p->cols;
        j = flat % p->cols;
    }
    for (int64_t k = 0; k < p->r; k++) {
        int64_t bi = p->embedding ? j : i, aj = p->embedding ? i : j;
        int64_t n_a = p->embedding ? p->rows : p->cols, n_b = p->embedding ? p->cols : p->rows;
        double b = f == SWAPPED ? p->B[k * n_b + bi] : p->B[bi * p->r + k];
        sum += (long double)b * (long double)p->A[k * n_a + aj];
    }
    return s * sum;
}

/* Before the rounding: all of W', malloc'ed. */
static long double *merged_by_hand(const parts *p, fault f)
{
    int64_t n = p->rows * p->cols;
    long double *v = malloc((size_t)n * sizeof *v), *norm = calloc((size_t)(p->rows + p->cols), sizeof *norm);
    bool by_column = p->embedding != (f == COLUMN_NORM);
    for (int64_t i = 0; i < n; i++) v[i] = (long double)p->W[i] + delta_at(p, i / p->cols, i % p->cols, f);
    for (int64_t i = 0; i < n; i++) {
        long double x = f == BASE_NORM ? (long double)p->W[i] : v[i];
        norm[by_column ? i % p->cols : i / p->cols] += x * x;
    }
    for (int64_t i = 0; p->m && f != NO_MAGNITUDE && i < n; i++) {
        int64_t at = by_column ? i % p->cols : i / p->cols, unit = p->embedding ? i % p->cols : i / p->cols;
        v[i] *= (long double)p->m[unit] / sqrtl(norm[at]);
    }
    free(norm);
    return v;
}

/* How many elements are not the nearest of their type to the witness; one at a tie may be either, none of these is. */
static int64_t count_wrong(const double *merged, const long double *want, fh1_dtype t, int64_t n)
{
    int64_t wrong = 0;
    for (int64_t i = 0; i < n; i++) {
        double nearest;
        uint64_t raw;
        double rounded_once = (double)want[i];
        fh1_from_f64(&raw, t, &rounded_once, 1);
        fh1_to_f64(&nearest, &raw, t, 1);
        wrong += merged[i] != nearest;
    }
    return wrong;
}

typedef struct {
    char scratch[256], dir[300];
    cvt_ckpt *merged;
    cvt_adapter a;
} world;

static void merge_made(world *w, const char *base, const made_adapter *a, double weight)
{
    cvt_ckpt *c = open_base(base);
    const cvt_merge_options o = {.rounding = CVT_ROUND_EXACT};
    scratch_new(w->scratch, sizeof w->scratch);
    path_in(w->dir, sizeof w->dir, w->scratch, "adapter");
    made_write(a, w->dir);
    expect_ok(cvt_adapter_open(w->dir, NULL, c, &w->a), "adapter");
    const cvt_merge_part part = {&w->a, weight};
    expect_ok(cvt_ckpt_merge(c, &part, 1, &o, &w->merged), "merge");
}

static void teardown(world *w)
{
    cvt_ckpt_close(w->merged);
    cvt_adapter_free(&w->a);
    scratch_remove(w->scratch);
}

static double *adapter_numbers(const world *w, const char *name)
{
    char full[256];
    snprintf(full, sizeof full, PEFT_PREFIX "%s", name);
    const cvt_st_entry *e = cvt_st_find(w->a.file, full);
    ck_assert_msg(e != NULL, "%s", full);
    double *v = malloc((size_t)fh1_n_elems(&e->t) * sizeof *v);
    fh1_to_f64(v, e->t.data, e->t.dtype, fh1_n_elems(&e->t));
    return v;
}

static parts parts_of(world *w, const char *module, const char *a, const char *b, const char *m, bool embedding,
                      long double scale)
{
    char name[256];
    int64_t n;
    snprintf(name, sizeof name, "%s.weight", module);
    const cvt_ckpt_tensor *t = tensor_of(w->merged, name);
    parts p = {.rows = t->shape[0], .cols = t->shape[1], .r = w->a.loras[0].r, .embedding = embedding, .scale = scale};
    p.W = numbers_of(w->merged->below, name, &n);
    p.A = adapter_numbers(w, a);
    p.B = adapter_numbers(w, b);
    p.m = m ? adapter_numbers(w, m) : NULL;
    return p;
}

/* The merged tensor is the witness's, and that of each fault is another one. */
static void judge(world *w, const char *module, const parts *p, const fault *faults)
{
    char name[256];
    int64_t n;
    snprintf(name, sizeof name, "%s.weight", module);
    fh1_dtype t = tensor_of(w->merged, name)->dtype;
    double *merged = numbers_of(w->merged, name, &n);
    long double *want = merged_by_hand(p, RIGHT);
    int64_t wrong = count_wrong(merged, want, t, n);
    ck_assert_msg(wrong == 0, "%s: %d of %d elements are wrong", name, (int)wrong, (int)n);
    for (; *faults != RIGHT; faults++) {
        long double *planted = merged_by_hand(p, *faults);
        wrong = count_wrong(merged, planted, t, n);
        ck_assert_msg(wrong > n / 8, "%s: the fault %d is noticed in %d of %d elements only", name, (int)*faults,
                      (int)wrong, (int)n);
        free(planted);
    }
    free(merged);
    free(want);
    free(p->W);
    free(p->A);
    free(p->B);
    free(p->m);
}

START_TEST(plain_and_rslora)
{
    static const fault plain[] = {ALPHA_ALONE, TRANSPOSED, SWAPPED, TWICE, RIGHT};
    static const fault rslora[] = {ALPHA_ALONE, RSLORA_IGNORED, RIGHT};
    static const char *const bases[] = {"plain-bf16", "plain-f16", "plain-f32"};
    for (int i = 0; i < 6; i++) {
        made_adapter a = {0};
        world w;
        made_lora(&a, Q0, 24, 27, 5);
        made_config(&a, i % 2 ? "\"r\":5,\"lora_alpha\":7,\"use_rslora\":true,\"target_modules\":[\"" Q0 "\"]"
                              : "\"r\":5,\"lora_alpha\":7,\"target_modules\":[\"" Q0 "\"]");
        merge_made(&w, bases[i / 2], &a, 1);
        long double s = i % 2 ? 7 / sqrtl(5) : 7.0L / 5;
        parts p = parts_of(&w, Q0, Q0 ".lora_A.weight", Q0 ".lora_B.weight", NULL, false, s);
        judge(&w, Q0, &p, i % 2 ? rslora : plain);
        teardown(&w);
    }
}
END_TEST

START_TEST(a_weight_scales_the_difference)
{
    static const fault faults[] = {TWICE, RIGHT};
    made_adapter a = {0};
    world w;
    made_lora(&a, Q0, 24, 27, 2);
    made_config(&a, "\"r\":2,\"lora_alpha\":4,\"target_modules\":[\"" Q0 "\"]");
    merge_made(&w, "plain-f32", &a, -0.75);
    parts p = parts_of(&w, Q0, Q0 ".lora_A.weight", Q0 ".lora_B.weight", NULL, false, -1.5L);
    judge(&w, Q0, &p, faults);
    teardown(&w);
}
END_TEST

START_TEST(dora_by_rows)
{
    static const fault faults[] = {COLUMN_NORM, BASE_NORM, NO_MAGNITUDE, RIGHT};
    for (int i = 0; i < 2; i++) {
        made_adapter a = {0};
        world w;
        made_lora(&a, Q0, 24, 27, 3);
        made_add(&a, i ? Q0 ".lora_magnitude_vector.weight" : Q0 ".lora_magnitude_vector", 24, 0)->scale = 2;
        made_config(&a, "\"r\":3,\"lora_alpha\":6,\"use_dora\":true,\"target_modules\":[\"" Q0 "\"]");
        merge_made(&w, i ? "plain-f32" : "plain-bf16", &a, 1);
        parts p = parts_of(&w, Q0, Q0 ".lora_A.weight", Q0 ".lora_B.weight",
                           i ? Q0 ".lora_magnitude_vector.weight" : Q0 ".lora_magnitude_vector", false, 2);
        judge(&w, Q0, &p, faults);
        teardown(&w);
    }
}
END_TEST

static void made_embedding(made_adapter *a, bool dora)
{
    made_add(a, EMBED ".lora_embedding_A", 3, 53);
    made_add(a, EMBED ".lora_embedding_B", 27, 3);
    if (dora) made_add(a, EMBED ".lora_magnitude_vector", 27, 0)->scale = 2;
    made_config(a, dora ? "\"r\":3,\"lora_alpha\":7,\"use_dora\":true,\"target_modules\":[\"embed_tokens\"]"
                        : "\"r\":3,\"lora_alpha\":7,\"target_modules\":[\"embed_tokens\"]");
}

START_TEST(embeddings)
{
    static const fault plain[] = {EMBED_UNSCALED, TRANSPOSED, SWAPPED, RIGHT};
    static const fault dora[] = {COLUMN_NORM, BASE_NORM, NO_MAGNITUDE, RIGHT};
    for (int i = 0; i < 2; i++) {
        made_adapter a = {0};
        world w;
        made_embedding(&a, i);
        merge_made(&w, "plain-bf16", &a, 1);
        parts p = parts_of(&w, EMBED, EMBED ".lora_embedding_A", EMBED ".lora_embedding_B",
                           i ? EMBED ".lora_magnitude_vector" : NULL, true, 7.0L / 3);
        judge(&w, EMBED, &p, i ? dora : plain);
        teardown(&w);
    }
}
END_TEST

START_TEST(a_bias_is_scaled)
{
    made_adapter a = {0};
    world w;
    int64_t n;
    made_lora(&a, Q0, 24, 27, 2);
    made_add(&a, Q0 ".lora_B.bias", 24, 0);
    made_config(&a, "\"r\":2,\"lora_alpha\":6,\"lora_bias\":true,\"target_modules\":[\"" Q0 "\"]");
    merge_made(&w, "bias-bf16", &a, 1);
    double *base = numbers_of(w.merged->below, Q0 ".bias", &n), *merged = numbers_of(w.merged, Q0 ".bias", &n);
    double *b = adapter_numbers(&w, Q0 ".lora_B.bias");
    for (int scale = 1; scale <= 3; scale += 2) {
        long double want[24];
        for (int64_t i = 0; i < n; i++) want[i] = (long double)base[i] + scale * (long double)b[i];
        int64_t wrong = count_wrong(merged, want, FH1_BF16, n);
        ck_assert_msg(scale == 3 ? wrong == 0 : wrong > n / 8, "scale %d: %d wrong", scale, (int)wrong);
    }
    free(base);
    free(merged);
    free(b);
    teardown(&w);
}
END_TEST

/* Rows and whole tensors come as they are; of a row that is named twice the last one counts. */
START_TEST(rows_and_whole_tensors)
{
    made_adapter a = {0};
    world w;
    int64_t n;
    made_add(&a, EMBED ".token_adapter.trainable_tokens_delta", 4, 27);
    made_add(&a, "model.final_layernorm.weight", 27, 0)->dtype = FH1_BF16;
    made_config(
        &a, "\"target_modules\":[],\"modules_to_save\":[\"final_layernorm\"],\"trainable_token_indices\":[7,52,0,7]");
    merge_made(&w, "plain-bf16", &a, 1);
    double *rows = adapter_numbers(&w, EMBED ".token_adapter.trainable_tokens_delta");
    double *base = numbers_of(w.merged->below, EMBED ".weight", &n),
           *merged = numbers_of(w.merged, EMBED ".weight", &n);
    static const int from[53] = {[0] = 3, [7] = 4, [52] = 2}; /* 1-based */
    for (int64_t v = 0; v < 53; v++) {
        long double want[27];
        for (int k = 0; k < 27; k++)
            want[k] = from[v] ? (long double)rows[(from[v] - 1) * 27 + k] : (long double)base[v * 27 + k];
        ck_assert_int_eq(count_wrong(merged + v * 27, want, FH1_BF16, 27), 0);
        if (v != 7) continue;
        for (int k = 0; k < 27; k++) want[k] = (long double)rows[k]; /* the planted fault: the first one counts */
        ck_assert_int_gt(count_wrong(merged + v * 27, want, FH1_BF16, 27), 20);
    }
    free(rows);
    free(base);
    free(merged);
    ck_assert(w.a.n_replacements == 1 && w.a.replacements[0].copy);
    merged = numbers_of(w.merged, "model.final_layernorm.weight", &n);
    rows = adapter_numbers(&w, "model.final_layernorm.weight");
    ck_assert_int_eq(memcmp(merged, rows, (size_t)n * sizeof *rows), 0);
    free(rows);
    free(merged);
    teardown(&w);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {plain_and_rslora, a_weight_scales_the_difference, dora_by_rows, embeddings,
                                  a_bias_is_scaled, rows_and_whole_tensors};
    return run_tests("merge", tests, 6);
}
