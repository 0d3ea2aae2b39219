/* Damaged quantisation state: each kind of damage is refused with the tensor's name, before or while it is read. */
#include "convert/bnb_state.h"
#include "oracle/random.h"
#include "tests/bnb_fixture.h"

/* Opens, decodes and reads everything. */
static fh1_status decode_all(const char *dir)
{
    cvt_ckpt *below, *c = NULL;
    fh1_status s = cvt_ckpt_open(dir, &below);
    if (!s) s = cvt_ckpt_dequantise(below, FH1_DTYPE_COUNT, &c);
    for (int64_t t = 0; !s && t < c->n_tensors; t++) {
        uint64_t n = cvt_ckpt_tensor_bytes(&c->tensors[t]);
        void *data = malloc(n + 1);
        ck_assert_ptr_nonnull(data);
        s = cvt_ckpt_read(c, t, 0, n, data);
        free(data);
    }
    cvt_ckpt_close(c);
    return s;
}

typedef void damage_fn(bnb_folder *f, bnb_tensor *t, const char *arg);

static void drop(bnb_folder *f, bnb_tensor *t, const char *arg)
{
    (void)f;
    (void)arg;
    t->gone = true;
}

/* Everything that is named like it and goes on: the parts of a weight. */
static void drop_parts(bnb_folder *f, bnb_tensor *t, const char *arg)
{
    (void)arg;
    for (int64_t i = 0; i < f->n; i++)
        if (&f->t[i] != t && strncmp(f->t[i].name, t->name, strlen(t->name)) == 0) f->t[i].gone = true;
}

/* One row less. */
static void cut(bnb_folder *f, bnb_tensor *t, const char *arg)
{
    (void)f;
    (void)arg;
    t->n -= t->n / (size_t)t->shape[0];
    t->shape[0]--;
}

static void longer(bnb_folder *f, bnb_tensor *t, const char *arg)
{
    (void)f;
    size_t row = t->n / (size_t)t->shape[0], add = (size_t)atoi(arg);
    t->data = realloc(t->data, t->n + row * add);
    ck_assert_ptr_nonnull(t->data);
    memset(t->data + t->n, ' ', row * add);
    t->n += row * add;
    t->shape[0] += (int64_t)add;
}

/* The same bytes as another type. */
static void retype(bnb_folder *f, bnb_tensor *t, const char *arg)
{
    (void)f;
    int64_t before = fh1_dtype_bits(t->dtype);
    ck_assert(fh1_dtype_parse(arg, &t->dtype));
    if (t->rank == 0) {
        t->rank = 1; /* of bytes to match */
        t->shape[0] = 1;
    }
    t->shape[0] = t->shape[0] * before / fh1_dtype_bits(t->dtype);
    t->n = (size_t)fh1_dtype_bits(t->dtype) / 8;
    for (int i = 0; i < t->rank; i++) t->n *= (size_t)t->shape[i];
}

static void swap_axes(bnb_folder *f, bnb_tensor *t, const char *arg)
{
    (void)f;
    (void)arg;
    int64_t a = t->shape[0];
    t->shape[0] = t->shape[1];
    t->shape[1] = a;
}

static void flatten(bnb_folder *f, bnb_tensor *t, const char *arg)
{
    (void)f;
    (void)arg;
    for (; t->rank > 1; t->rank--) t->shape[0] *= t->shape[t->rank - 1];
}

static void rename_to(bnb_folder *f, bnb_tensor *t, const char *arg)
{
    (void)f;
    snprintf(t->name, sizeof t->name, "%s", arg);
}

/* "index value" in f32. */
static void poke(bnb_folder *f, bnb_tensor *t, const char *arg)
{
    (void)f;
    char *end;
    long i = strtol(arg, &end, 10);
    float v = strtof(end, NULL);
    memcpy(t->data + (size_t)i * sizeof v, &v, sizeof v);
}

static void poke_byte(bnb_folder *f, bnb_tensor *t, const char *arg)
{
    (void)f;
    t->data[0] = (unsigned char)atoi(arg);
}

/* "old|new" in a text. */
static void reword(bnb_folder *f, bnb_tensor *t, const char *arg)
{
    (void)f;
    char *old = strdup(arg), *bar = strchr(old, '|'), *text = strndup((char *)t->data, t->n);
    ck_assert(bar != NULL && text != NULL);
    *bar = '\0';
    char *at = strstr(text, old);
    ck_assert_msg(at != NULL, "%s is not in %s", old, text);
    free(t->data);
    ck_assert_int_gt(asprintf((char **)&t->data, "%.*s%s%s", (int)(at - text), text, bar + 1, at + strlen(old)), 0);
    t->n = strlen((char *)t->data);
    t->shape[0] = (int64_t)t->n;
    free(old);
    free(text);
}

static void reconfigure(bnb_folder *f, bnb_tensor *t, const char *arg)
{
    bnb_tensor config = {.data = (unsigned char *)f->config, .n = strlen(f->config)};
    (void)t;
    reword(f, &config, arg);
    f->config = (char *)config.data;
}

#define NF4 "model.layers.0.mamba.in_proj.weight"             /* [77, 27], blocks of 64 */
#define HALF "model.layers.0.self_attn.o_proj.weight"         /* NF4 of F16 in F16 */
#define NESTED "model.layers.0.feed_forward.gate_proj.weight" /* FP4 [35, 27], blocks of 256, quantised scales */
#define INT8 "model.layers.0.feed_forward.up_proj"
#define NF4_STATE NF4 ".quant_state.bitsandbytes__nf4"
#define NESTED_STATE NESTED ".quant_state.bitsandbytes__fp4"

static const struct {
    const char *tensor;
    damage_fn *how;
    const char *arg, *word;
} table[] = {
    {NF4 ".absmax", drop, "", "is missing"},
    {NF4 ".quant_map", drop, "", "is missing"},
    {NESTED ".nested_absmax", drop, "", "is missing"},
    {NESTED ".nested_quant_map", drop, "", "is missing"},
    {NF4_STATE, drop, "", "belongs to no quantised weight"},
    {NESTED_STATE, drop, "", "belongs to no quantised weight"},
    {NF4, drop, "", "not there"},
    {NF4, drop_parts, "", "nothing beside it"},
    {HALF, drop_parts, "", "nothing beside it"},
    {INT8 ".SCB", drop, "", "belongs to no quantised weight"},
    {INT8 ".weight", drop, "", "not there"},

    {NF4_STATE, rename_to, NF4 ".quant_state.bitsandbytes__int4", "unknown type"},
    {NF4_STATE, rename_to, NF4 ".quant_state.bitsandbytes__fp4", "quant_type"},
    {NF4_STATE, rename_to, NF4 ".quant_state.other__nf4", "unknown type"},
    {NF4_STATE, reword, "nf4|fp4", "quant_type"},
    {NF4_STATE, reword, "\"quant_type\"|\"type\"", "quant_type"},
    {NF4_STATE, reword, ": 64|: 48", "blocksize"},
    {NF4_STATE, reword, ": 64|: 16", "blocksize"},
    {NF4_STATE, reword, ": 64|: 8192", "blocksize"},
    {NF4_STATE, reword, ": 64|: 64.5", "blocksize"},
    {NF4_STATE, reword, ": 64|: \"64\"", "blocksize"},
    {NF4_STATE, reword, ": 64|: 128", "wrong type or shape"},
    {NF4_STATE, reword, "\"blocksize\": 64, |", "blocksize"},
    {NF4_STATE, reword, "bfloat16|float8", "unknown dtype"},
    {NF4_STATE, reword, "bfloat16|float64", "unknown dtype"},
    {NF4_STATE, reword, "[77, 27]|[27, 77]", "model's shape"},
    {NF4_STATE, reword, "[77, 27]|[2079]", "model's shape"},
    {NF4_STATE, reword, "[77, 27]|[77, 26]", "packed weight"},
    {NF4_STATE, reword, "[77, 27]|[-77, -27]", "shape"},
    {NF4_STATE, reword, "[77, 27]|[]", "shape"},
    {NF4_STATE, reword, "[77, 27]|[9007199254740992, 9007199254740992]", "shape"},
    {NF4_STATE, reword, "[77, 27]|\"77\"", "shape"},
    {NF4_STATE, reword, "\"shape\": [77, 27]|\"shape\": [77, 27], \"extra\": 1", "extra"},
    {NF4_STATE, reword, "\"shape\": [77, 27]|\"shape\": [77, 27], \"shape\": [77, 27]", "twice"},
    {NF4_STATE, reword, "]}|]", "quantisation state"},
    {NF4_STATE, reword, "[77, 27]}|[77, 27], \"nested_offset\": 0.1}", "nested_blocksize"},
    {NF4_STATE, longer, "5000", "no text"},
    {NF4_STATE, retype, "I8", "no text"},
    {NESTED_STATE, reword, "\"nested_offset\": |\"nested_offset\": NaN, \"x\": ", "NaN"},
    {NESTED_STATE, reword, "\"nested_offset\": 0.|\"nested_offset\": 9999999999999999999999999999999999999999.",
     "range"},
    {NESTED_STATE, reword, "\"nested_offset\": 0.|\"nested_offset\": \"0.5\", \"x\": 0.", "unknown key"},
    {NESTED_STATE, reword, "\"nested_dtype\": \"float32\"|\"nested_dtype\": \"float16\"", "nested_dtype"},
    {NESTED_STATE, reword, "\"nested_blocksize\": 256|\"nested_blocksize\": 0", "nested_blocksize"},
    {NESTED_STATE, reword, ", \"nested_blocksize\": 256|", "nested_blocksize"},

    {NF4 ".absmax", cut, "", "wrong type or shape"},
    {NF4 ".absmax", longer, "1", "wrong type or shape"},
    {NF4 ".absmax", retype, "U8", "scales are quantised"},
    {NF4 ".absmax", retype, "I32", "wrong type or shape"},
    {NF4 ".quant_map", cut, "", "wrong type or shape"},
    {NF4 ".quant_map", poke, "3 0.5", "code 3"},
    {NF4 ".quant_map", poke, "15 nan", "code 15"},
    {NF4, cut, "", "packed weight"},
    {NF4, longer, "1", "packed weight"},
    {NF4, retype, "BOOL", "packed weight"},
    {NF4, flatten, "", "packed weight"},
    {HALF, retype, "F64", "packed weight"},
    {NESTED ".absmax", cut, "", "wrong type or shape"},
    {NESTED ".absmax", retype, "I8", "wrong type or shape"},
    {NESTED ".nested_absmax", longer, "1", "wrong type or shape"},
    {NESTED ".nested_absmax", retype, "I32", "wrong type or shape"},
    {NESTED ".nested_quant_map", cut, "", "wrong type or shape"},
    {NESTED ".nested_quant_map", poke, "255 inf", "entry 255"},

    {NF4 ".absmax", poke, "32 nan", "scale 32 is NaN"},
    {NF4 ".absmax", poke, "0 inf", "scale 0 is infinite"},
    {NF4 ".absmax", poke, "7 -inf", "scale 7 is infinite"},
    {NESTED ".nested_absmax", poke, "0 nan", "scale 0 is NaN"},
    {HALF ".absmax", poke, "1 70000", "decodes to infinity in F16"},
    {INT8 ".SCB", poke, "34 nan", "scale 34 is NaN"},
    {INT8 ".SCB", poke, "0 inf", "scale 0 is infinite"},
    {INT8 ".SCB", cut, "", "wrong type or shape"},
    {INT8 ".SCB", retype, "I32", "wrong type or shape"},
    {INT8 ".weight", retype, "U8", "no int8 matrix"},
    {INT8 ".weight", flatten, "", "no int8 matrix"},
    {INT8 ".weight", swap_axes, "", "wrong type or shape"},
    {INT8 ".weight_format", poke_byte, "1", "not stored by rows"},
    {INT8 ".weight_format", retype, "I8", "wrong type"},
};

START_TEST(damage_is_named)
{
    size_t n = sizeof table / sizeof *table;
    char dir[256], line[2048], what[200];
    scratch_new(dir, sizeof dir);
    for (size_t i = 0; i < n; i++) {
        bnb_folder f = bnb_load(BNB_MIXED);
        bnb_tensor *t = bnb_find(&f, table[i].tensor);
        ck_assert_msg(t != NULL, "%s", table[i].tensor);
        table[i].how(&f, t, table[i].arg);
        bnb_store(&f, dir);
        bnb_free(&f);
        snprintf(what, sizeof what, "case %zu: %s %s", i, table[i].tensor, table[i].arg);
        fh1_status s = decode_all(dir);
        expect_error(s, FH1_E_INPUT, table[i].word, what);
        fh1_status_line(s, line, sizeof line);
        const char *end = strstr(table[i].tensor, ".weight");
        if (!end) end = strstr(table[i].tensor, ".SCB");
        char *name = strndup(table[i].tensor, (size_t)(end - table[i].tensor));
        ck_assert_msg(strstr(line, name) != NULL, "%s is not named: %s", name, line);
        free(name);
    }
    scratch_remove(dir);
}
END_TEST

/* Nothing changed, or only what bitsandbytes does not need: accepted. Shows that the table's refusals are its own. */
START_TEST(whole_folders_pass)
{
    char dir[256];
    scratch_new(dir, sizeof dir);
    for (int i = 0; i < 4; i++) {
        bnb_folder f = bnb_load(BNB_MIXED);
        if (i == 1) drop(&f, bnb_find(&f, INT8 ".weight_format"), "");
        if (i == 2) reconfigure(&f, NULL, "\"quantization_config\"|\"unread\"");
        if (i == 3) poke(&f, bnb_find(&f, NF4 ".absmax"), "3 1e-42");
        bnb_store(&f, dir);
        bnb_free(&f);
        expect_ok(decode_all(dir), "a whole folder");
    }
    scratch_remove(dir);
}
END_TEST

START_TEST(other_methods)
{
    char dir[256];
    scratch_new(dir, sizeof dir);
    static const char *const to[] = {"\"quant_method\": \"gptq\"", "\"method\": \"bitsandbytes\""};
    for (size_t i = 0; i < 2; i++) {
        char arg[200];
        bnb_folder f = bnb_load(BNB_MIXED);
        snprintf(arg, sizeof arg, "\"quant_method\": \"bitsandbytes\"|%s", to[i]);
        reconfigure(&f, NULL, arg);
        bnb_store(&f, dir);
        bnb_free(&f);
        expect_error(decode_all(dir), FH1_E_INPUT, "quant_method", to[i]);
    }
    scratch_remove(dir);
}
END_TEST

/* Random bytes in the text of a state: accepted with numbers that make sense, or refused; nothing else. */
START_TEST(random_states)
{
    static const char good[] =
        "{\"quant_type\": \"nf4\", \"blocksize\": 64, \"dtype\": \"bfloat16\", \"shape\": [77, 27], "
        "\"nested_blocksize\": 256, \"nested_dtype\": \"float32\", \"nested_offset\": 0.125}";
    static const char alphabet[] = "0123456789{}[]\",:.-+eEnaN \\u";
    fh1_stream r = fh1_stream_open(1, "quantisation states");
    uint64_t at = 0;
    int accepted = 0, refused = 0;
    for (int i = 0; i < 20000; i++) {
        char text[sizeof good];
        cvt_bnb_state s;
        memcpy(text, good, sizeof good);
        for (int64_t k = fh1_random_below(r, at++, 3); k >= 0; k--) {
            int64_t where = fh1_random_below(r, at++, sizeof good - 1);
            text[where] = alphabet[fh1_random_below(r, at++, sizeof alphabet - 1)];
        }
        size_t n = i % 10 ? sizeof good - 1 : (size_t)fh1_random_below(r, at++, sizeof good);
        fh1_status bad = cvt_bnb_state_parse(text, n, CVT_BNB_NF4, "state", &s);
        ck_assert(!bad || bad->code == FH1_E_INPUT);
        if (!bad)
            ck_assert_msg(s.blocksize >= 32 && s.blocksize <= 4096 && s.rank >= 1 && s.n_elems >= 0 &&
                              s.nested_blocksize >= 32 && isfinite(s.nested_offset),
                          "%.*s", (int)n, text);
        accepted += !bad;
        refused += bad != NULL;
    }
    ck_assert_int_gt(accepted, 100);
    ck_assert_int_gt(refused, 10000);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {damage_is_named, whole_folders_pass, other_methods, random_states};
    return run_tests("bnb_damage", tests, sizeof tests / sizeof *tests);
}
