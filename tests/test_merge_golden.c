/* Merges against the real PEFT's (golden/hf/make_merges.py): every tensor of every case in every rounding, bit for bit;
 * DoRA, whose norms are sums in an order of the machine's, within one ulp. */
#include "convert/bnb.h"
#include "convert/hash.h"
#include "convert/hf_config.h"
#include "convert/merge.h"
#include "tests/convert_test.h"

#include <cjson/cJSON.h>

#define MERGES "golden/merges"
#define MAX_ADAPTERS 3

static cJSON *load_cases(void)
{
    size_t n;
    char *text = read_bytes(MERGES, "merges.json", &n);
    cJSON *json = cJSON_Parse(text);
    ck_assert_ptr_nonnull(json);
    free(text);
    return json;
}

static const char *text_of(const cJSON *object, const char *key)
{
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(object, key);
    return cJSON_IsString(v) ? v->valuestring : NULL;
}

/* The base as a plain checkpoint; quantised ones are decoded and rounded to the model's type. */
static cvt_ckpt *open_base(const char *name)
{
    char path[300];
    cvt_ckpt *c, *plain;
    cJSON *config;
    fh1_dtype dtype;
    snprintf(path, sizeof path, MERGES "/bases/%s", name);
    expect_ok(cvt_ckpt_open(path, &c), path);
    bool quantised;
    expect_ok(cvt_bnb_is(c, &quantised), path);
    if (!quantised) return c;
    expect_ok(cvt_ckpt_config_json(c, &config), path);
    expect_ok(cvt_hf_config_dtype_parse(config, path, &dtype), path);
    cJSON_Delete(config);
    expect_ok(cvt_ckpt_dequantise(c, dtype, &plain), path);
    return plain;
}

static void *read_all(cvt_ckpt *c, int64_t t)
{
    uint64_t n = cvt_ckpt_tensor_bytes(&c->tensors[t]);
    void *data = malloc(n + 1);
    ck_assert_ptr_nonnull(data);
    expect_ok(cvt_ckpt_read(c, t, 0, n, data), c->tensors[t].name);
    return data;
}

typedef struct {
    cvt_ckpt *base, *merged;
    cvt_adapter adapters[MAX_ADAPTERS];
    int n;
} merge;

/* `folder` holds the adapters. */
static void merge_begin(merge *m, const cJSON *entry, const char *folder, cvt_rounding rounding)
{
    cvt_merge_part parts[MAX_ADAPTERS];
    cvt_merge_options o = {.rounding = rounding};
    const char *base = text_of(entry, "base"), *name = text_of(entry, "name"), *initial = text_of(entry, "initial");
    cvt_ckpt *below = open_base(base);
    m->base = open_base(base);
    m->n = 0;
    for (const cJSON *a = cJSON_GetObjectItem(entry, "adapters")->child; a; a = a->next, m->n++) {
        char path[600], first[600];
        ck_assert_int_lt(m->n, MAX_ADAPTERS);
        snprintf(path, sizeof path, "%s/%s", folder, a->valuestring);
        snprintf(first, sizeof first, "%s/%s", folder, initial ? initial : "");
        expect_ok(cvt_adapter_open(path, initial ? first : NULL, below, &m->adapters[m->n]), path);
        parts[m->n] = (cvt_merge_part){&m->adapters[m->n], 1.0};
    }
    expect_ok(cvt_ckpt_merge(below, parts, m->n, &o, &m->merged), name);
}

static void merge_end(merge *m)
{
    cvt_ckpt_close(m->merged);
    cvt_ckpt_close(m->base);
    for (int i = 0; i < m->n; i++) cvt_adapter_free(&m->adapters[i]);
}

/* "BF16 [27, 35] 0123456789abcdef" */
static void describe(cvt_ckpt *c, int64_t t, const void *data, char *buf, size_t size)
{
    char shape[128];
    const cvt_ckpt_tensor *e = &c->tensors[t];
    fh1_tensor view = fh1_view(NULL, e->dtype, e->rank, e->shape);
    snprintf(buf, size, "%s %s %016llx", fh1_dtype_name(e->dtype), fh1_shape_text(&view, shape, sizeof shape),
             (unsigned long long)cvt_hash64(data, cvt_ckpt_tensor_bytes(e)));
}

/* Largest distance in ulps of the stored type from the values that PEFT computed. */
static double ulps(cvt_ckpt *c, int64_t t, void *data, const cJSON *run, const cvt_st *values)
{
    char key[300];
    const cvt_ckpt_tensor *e = &c->tensors[t];
    snprintf(key, sizeof key, "%s/%s", text_of(run, "rounding"), e->name);
    const cvt_st_entry *want = cvt_st_find(values, key);
    ck_assert_msg(want != NULL, "no values of %s", key);
    fh1_tensor got = fh1_view(data, e->dtype, e->rank, e->shape);
    ck_assert_msg(want->t.dtype == e->dtype && fh1_same_shape(&got, &want->t), "%s", key);
    double worst = 0;
    for (int64_t i = 0; i < fh1_n_elems(&got); i++) {
        double a = fh1_get(&got, i), b = fh1_get(&want->t, i), d = a > b ? a - b : b - a;
        double ulp = fh1_dtype_ulp(e->dtype, b);
        if (!(d <= worst * ulp)) worst = d / ulp;
    }
    return worst;
}

/* What a tensor must be: its line in the run, or the base's. */
static bool tensor_is_right(merge *m, int64_t t, const cJSON *run, const cvt_st *values)
{
    char now[200], before[200];
    const char *name = m->merged->tensors[t].name;
    const char *want = text_of(cJSON_GetObjectItem(run, "tensors"), name);
    void *data = read_all(m->merged, t);
    describe(m->merged, t, data, now, sizeof now);
    bool right = want && strcmp(now, want) == 0;
    if (!right && want && values) right = ulps(m->merged, t, data, run, values) <= 1;
    if (!want) {
        int64_t b = cvt_ckpt_find(m->base, name);
        void *old = b < 0 ? NULL : read_all(m->base, b);
        if (old) describe(m->base, b, old, before, sizeof before);
        right = old && strcmp(now, before) == 0;
        free(old);
    }
    free(data);
    return right;
}

static bool is_tied(cvt_ckpt *c)
{
    cJSON *config;
    expect_ok(cvt_ckpt_config_json(c, &config), "config.json");
    bool tied = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(config, "tie_word_embeddings"));
    cJSON_Delete(config);
    return tied;
}

/* Things that are not as the run says, the first of them into `first`. */
static int wrong_in(const cJSON *entry, const cJSON *run, const char *folder, cvt_rounding rounding, char *first,
                    size_t size)
{
    merge m;
    int wrong = 0;
    cvt_st *values = NULL;
    if (text_of(run, "values")) {
        char path[300];
        snprintf(path, sizeof path, MERGES "/%s", text_of(run, "values"));
        expect_ok(cvt_st_open(path, &values), path);
    }
    merge_begin(&m, entry, folder, rounding);
#define WRONG(...) (wrong++ == 0 ? (void)snprintf(first, size, __VA_ARGS__) : (void)0)
    for (int64_t t = 0; t < m.merged->n_tensors; t++)
        if (!tensor_is_right(&m, t, run, values)) WRONG("%s", m.merged->tensors[t].name);
    for (const cJSON *want = cJSON_GetObjectItem(run, "tensors")->child; want; want = want->next)
        if (cvt_ckpt_find(m.merged, want->string) < 0) WRONG("%s is missing", want->string);
    int64_t n_gone = 0;
    for (const cJSON *gone = cJSON_GetObjectItem(run, "gone")->child; gone; gone = gone->next, n_gone++)
        if (cvt_ckpt_find(m.merged, gone->valuestring) >= 0) WRONG("%s is still there", gone->valuestring);
    for (int64_t t = 0; t < m.base->n_tensors; t++)
        if (cvt_ckpt_find(m.merged, m.base->tensors[t].name) < 0 && n_gone-- <= 0)
            WRONG("%s is gone", m.base->tensors[t].name);
    if (is_tied(m.merged) != cJSON_IsTrue(cJSON_GetObjectItem(run, "tied"))) WRONG("tie_word_embeddings");
#undef WRONG
    merge_end(&m);
    if (values) cvt_st_close(values);
    return wrong;
}

static cvt_rounding rounding_of(const cJSON *run)
{
    cvt_rounding r;
    ck_assert_msg(cvt_rounding_parse(text_of(run, "rounding"), &r), "%s", text_of(run, "rounding"));
    return r;
}

START_TEST(every_case_in_every_rounding)
{
    cJSON *json = load_cases();
    int n_cases = 0, n_runs = 0, n_bad = 0;
    for (const cJSON *entry = cJSON_GetObjectItem(json, "cases")->child; entry; entry = entry->next, n_cases++)
        for (const cJSON *run = cJSON_GetObjectItem(entry, "runs")->child; run; run = run->next, n_runs++) {
            char first[300] = "";
            int n = wrong_in(entry, run, MERGES "/adapters", rounding_of(run), first, sizeof first);
            if (n == 0) continue;
            n_bad++;
            printf("%s, %s: %d wrong, first %s\n", text_of(entry, "name"), text_of(run, "rounding"), n, first);
        }
    cJSON_Delete(json);
    ck_assert_msg(n_bad == 0, "%d of %d runs are wrong", n_bad, n_runs);
    ck_assert_int_ge(n_cases, 25);
    ck_assert_int_ge(n_runs, 100);
}
END_TEST

/* The chains differ where they should: another rounding than the recorded one is seen. */
START_TEST(another_rounding_is_seen)
{
    static const char *const pairs[][3] = {
        {"qv", "peft", "peft-safe"},
        {"qv", "peft", "peft-noautocast"},
        {"free-bf16", "peft", "peft-low-memory"},
        {"free-bf16", "peft", "exact"},
        {"embed", "peft", "exact"},
        {"both-tied", "peft", "exact"},
        {"dora", "peft-noautocast", "peft"},
        {"rslora", "peft-safe", "exact"},
    };
    cJSON *json = load_cases();
    size_t seen = 0;
    for (const cJSON *entry = cJSON_GetObjectItem(json, "cases")->child; entry; entry = entry->next)
        for (const cJSON *run = cJSON_GetObjectItem(entry, "runs")->child; run; run = run->next)
            for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
                char first[300];
                cvt_rounding other;
                if (strcmp(pairs[i][0], text_of(entry, "name")) || strcmp(pairs[i][1], text_of(run, "rounding")))
                    continue;
                ck_assert(cvt_rounding_parse(pairs[i][2], &other));
                ck_assert_msg(wrong_in(entry, run, MERGES "/adapters", other, first, sizeof first) > 0,
                              "%s: %s passes for %s", pairs[i][0], pairs[i][2], pairs[i][1]);
                seen++;
            }
    ck_assert_uint_eq(seen, sizeof pairs / sizeof *pairs);
    cJSON_Delete(json);
}
END_TEST

/* One bit of one number of an adapter. */
START_TEST(a_flipped_bit_is_seen)
{
    char dir[256], path[600], first[300];
    const char *name = "free-bf16";
    size_t n;
    cJSON *json = load_cases(), *entry = NULL;
    for (cJSON *e = cJSON_GetObjectItem(json, "cases")->child; e; e = e->next)
        if (strcmp(text_of(e, "name"), name) == 0) entry = e;
    ck_assert_ptr_nonnull(entry);
    const cJSON *run = cJSON_GetObjectItem(entry, "runs")->child;
    scratch_new(dir, sizeof dir);
    snprintf(path, sizeof path, "%s/%s", dir, name);
    ck_assert_int_eq(mkdir(path, 0755), 0);
    char *config = read_bytes(MERGES "/adapters/free-bf16", "adapter_config.json", &n);
    write_bytes(path, "adapter_config.json", config, n);
    free(config);
    char *weights = read_bytes(MERGES "/adapters/free-bf16", "adapter_model.safetensors", &n);
    write_bytes(path, "adapter_model.safetensors", weights, n);
    ck_assert_int_eq(wrong_in(entry, run, dir, CVT_ROUND_PEFT, first, sizeof first), 0);
    weights[n - 1] ^= 0x01; /* an exponent bit of the last number of the file */
    write_bytes(path, "adapter_model.safetensors", weights, n);
    ck_assert_int_eq(wrong_in(entry, run, dir, CVT_ROUND_PEFT, first, sizeof first), 1);
    free(weights);
    scratch_remove(dir);
    cJSON_Delete(json);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {every_case_in_every_rounding, another_rounding_is_seen, a_flipped_bit_is_seen};
    return run_tests("merge_golden", tests, sizeof tests / sizeof *tests);
}
