/* The strict door to JSON (convert/json.h): what it accepts is a text that a second parse, of what cJSON prints from
 * it, accepts as the same value; what it finds in a text by key is the value of that key; it takes no more memory than
 * its nodes, and leaves nothing. */
#include "fuzz/fuzz.h"

#include "convert/json.h"

#include <stdlib.h>
#include <string.h>

enum { DEPTH = 32 };

typedef struct {
    const char *text;
    size_t n;
} source;

static void again(void *user)
{
    const source *s = user;
    cJSON *v = NULL;
    if (!cvt_json_parse(s->text, s->n, DEPTH, "again", &v)) cJSON_Delete(v);
}

static int depth_of(const cJSON *v)
{
    int most = 0;
    if (!cJSON_IsArray(v) && !cJSON_IsObject(v)) return 0;
    for (const cJSON *child = v->child; child; child = child->next) {
        const int d = depth_of(child);
        if (d > most) most = d;
    }
    return most + 1;
}

static void values_are_found(const source *s, const cJSON *v)
{
    for (const cJSON *child = v->child; child; child = child->next) {
        size_t begin, end;
        cJSON *part = NULL;
        if (!cvt_json_find_value(s->text, s->n, child->string, &begin, &end)) continue; /* spelled with escapes */
        FUZZ_CHECK(begin < end && end <= s->n, "value %zu to %zu of %zu bytes", begin, end, s->n);
        FUZZ_CHECK(!cvt_json_parse(s->text + begin, end - begin, DEPTH, "part", &part), "value of '%s'", child->string);
        FUZZ_CHECK(cJSON_Compare(child, part, true) || cJSON_IsNumber(child), "value of '%s'", child->string);
        cJSON_Delete(part);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    source s = {(const char *)data, size};
    fuzz_bounds b;
    cJSON *v = NULL, *w = NULL;
    fuzz_bounds_begin(&b);
    const fh1_status status = cvt_json_parse(s.text, s.n, DEPTH, "input", &v);
    if (status) {
        FUZZ_CHECK(status->code == FH1_E_INPUT && status->what[0], "code %d", (int)status->code);
    } else {
        FUZZ_CHECK(depth_of(v) <= DEPTH, "%d open brackets", depth_of(v));
        if (cJSON_IsObject(v)) values_are_found(&s, v);
        char *printed = cJSON_PrintUnformatted(v);
        FUZZ_CHECK(printed, "cJSON_PrintUnformatted");
        const fh1_status second = cvt_json_parse(printed, strlen(printed), DEPTH, "printed", &w);
        FUZZ_CHECK(!second, "%s", second->what);
        FUZZ_CHECK(cJSON_Compare(v, w, true), "%s", printed);
        cJSON_free(printed);
        cJSON_Delete(w);
        cJSON_Delete(v);
    }
    /* Nodes of 64 bytes and malloc's 16: at most one per two bytes of text, in up to three trees at once; what cJSON
     * prints is printed into buffers that double. */
    fuzz_bounds_end(&b, size, 16 << 10, 4 * 80, 20, 2, again, &s);
    fuzz_nothing_left(&b);
    return 0;
}
