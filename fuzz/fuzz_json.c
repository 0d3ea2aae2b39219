/* The strict door to JSON (convert/json.h) against a second reader (fuzz/slow_json.h): both accept the same texts and
 * read the same values; a value that is found by its key in the text is the one in the tree; what cJSON prints from a
 * tree is accepted as the same tree; integers are those that are written as one. Memory and time are bounded, nothing
 * is left. */
#include "fuzz/fuzz.h"

#include "convert/json.h"
#include "fuzz/mutate_json.h"
#include "fuzz/plant.h"
#include "fuzz/slow_json.h"

#include <stdlib.h>
#include <string.h>

enum { DEPTH = 16 };

typedef struct {
    const char *text;
    size_t n;
} source;

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned int seed)
{
    static const char *const words[] = {"a", "b", "metadata", "weight_map", "\\u0061", "1e308", NULL};
    fuzz_rng r = {(seed + UINT64_C(1)) * UINT64_C(0x9e3779b97f4a7c15)};
    if (fuzz_below(&r, 3) == 0) return LLVMFuzzerMutate(data, size, max_size);
    return fuzz_mutate_json((char *)data, size, max_size, &(fuzz_json_stock){.words = words}, &r);
}

static void again(void *user)
{
    const source *s = user;
    cJSON *v = NULL;
    if (!cvt_json_parse(s->text, s->n, DEPTH, "again", &v)) cJSON_Delete(v);
}

static bool is_kind(const cJSON *v, slow_kind kind)
{
    switch (kind) {
    case SLOW_NULL: return cJSON_IsNull(v);
    case SLOW_FALSE: return cJSON_IsFalse(v);
    case SLOW_TRUE: return cJSON_IsTrue(v);
    case SLOW_NUMBER: return cJSON_IsNumber(v);
    case SLOW_STRING: return cJSON_IsString(v);
    case SLOW_ARRAY: return cJSON_IsArray(v);
    default: return cJSON_IsObject(v);
    }
}

static void numbers_are_equal(const cJSON *v, const slow_json *w)
{
    int64_t mine = 0, slow = 0;
    const bool integer = cvt_json_is_int(v, &mine);
    FUZZ_CHECK(v->valuedouble == slow_json_double(w), "%s: %.17g", w->text, v->valuedouble);
    FUZZ_CHECK(integer == slow_json_integer(w, &slow) && mine == slow, "%s: an integer? %d", w->text, (int)integer);
}

static void trees_are_equal(const cJSON *v, const slow_json *w)
{
    FUZZ_CHECK(is_kind(v, w->kind), "kind %d of %s", (int)w->kind, w->name ? w->name : "an element");
    FUZZ_CHECK(!w->name || (v->string && !strcmp(v->string, w->name)), "%s", w->name);
    if (w->kind == SLOW_STRING) FUZZ_CHECK(!strcmp(v->valuestring, w->text), "%s", w->text);
    if (w->kind == SLOW_NUMBER) numbers_are_equal(v, w);
    const cJSON *a = v->child;
    const slow_json *b = w->first;
    for (; a && b; a = a->next, b = b->next) trees_are_equal(a, b);
    FUZZ_CHECK(!b && (!a || w->kind < SLOW_ARRAY), "another number of values");
}

/* Keys that are spelled with escapes are not found in the text; what is found is the value. */
static void values_are_found(const source *s, const cJSON *v)
{
    for (const cJSON *child = v->child; child; child = child->next) {
        size_t begin, end;
        if (!cvt_json_find_value(s->text, s->n, child->string, &begin, &end)) continue;
        FUZZ_CHECK(begin < end && end <= s->n, "value %zu to %zu of %zu bytes", begin, end, s->n);
        slow_json *part = slow_json_read(s->text + begin, end - begin, DEPTH);
        FUZZ_CHECK(part, "value of '%s'", child->string);
        trees_are_equal(child, part);
        slow_json_free(part);
    }
}

static void printed_is_the_same(const cJSON *v)
{
    cJSON *w = NULL;
    char *printed = cJSON_PrintUnformatted(v);
    FUZZ_CHECK(printed, "cJSON_PrintUnformatted");
    const fh1_status s = cvt_json_parse(printed, strlen(printed), DEPTH, "printed", &w);
    FUZZ_CHECK(!s, "%s: %s", printed, s->what);
    FUZZ_CHECK(cJSON_Compare(v, w, true), "%s", printed);
    cJSON_free(printed);
    cJSON_Delete(w);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    source s = {(const char *)data, size};
    fuzz_bounds b;
    cJSON *v = NULL;
    slow_json_without = getenv("FH1_FUZZ_PLANT");
    fuzz_bounds_begin(&b);
    const fh1_status status = cvt_json_parse(s.text, s.n, DEPTH, "input", &v);
    if (fuzz_planted("memory")) {
        void *volatile much = malloc((64 << 10) + 200 * size);
        free(much);
    }
    /* A node of cJSON and malloc's 16 bytes, 80, at most for every two bytes of text; names and strings are copies. */
    fuzz_bounds_end(&b, size, 16 << 10, 64, 20, 2, again, &s);
    slow_json *slow = slow_json_read(s.text, s.n, DEPTH);
    FUZZ_CHECK(!status == !!slow, "%s", status ? status->what : "accepted");
    FUZZ_CHECK(!status || (status->code == FH1_E_INPUT && status->what[0]), "code %d", (int)status->code);
    if (v) {
        trees_are_equal(v, slow);
        if (cJSON_IsObject(v)) values_are_found(&s, v);
        printed_is_the_same(v);
    }
    slow_json_free(slow);
    cJSON_Delete(v);
    if (fuzz_planted("leak") && size > 8) {
        void *volatile lost = malloc(size);
        (void)lost;
    }
    fuzz_nothing_left(&b);
    return 0;
}
