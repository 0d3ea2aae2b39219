/* JSON that is written again: every number reads back as the same one, which cJSON's own printer does not promise (it
 * is content with 15 digits where they are within an ulp). */
#include "convert/json.h"
#include "convert/text.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void add_number(cvt_text *b, const cJSON *v)
{
    char text[40];
    int64_t n;
    if (cvt_json_is_int(v, &n)) {
        cvt_text_add(b, "%lld", (long long)n);
        return;
    }
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, v->valuedouble);
        if (strtod(text, NULL) == v->valuedouble) break;
    }
    cvt_text_add(b, "%s%s", text, strpbrk(text, ".e") ? "" : ".0"); /* no integer before, none afterwards */
}

/* The recursion is as deep as the brackets, which are bounded. */
static void add_value(cvt_text *b, const cJSON *v)
{
    if (cJSON_IsNumber(v)) add_number(b, v);
    else if (cJSON_IsString(v)) cvt_text_json(b, v->valuestring, false);
    else if (cJSON_IsBool(v)) cvt_text_add(b, cJSON_IsTrue(v) ? "true" : "false");
    else if (cJSON_IsNull(v)) cvt_text_add(b, "null");
    if (!cJSON_IsArray(v) && !cJSON_IsObject(v)) return;
    const bool object = cJSON_IsObject(v);
    cvt_text_add(b, object ? "{" : "[");
    for (const cJSON *c = v->child; c; c = c->next) {
        if (object) cvt_text_json(b, c->string, false);
        if (object) cvt_text_add(b, ":");
        add_value(b, c);
        if (c->next) cvt_text_add(b, ",");
    }
    cvt_text_add(b, object ? "}" : "]");
}

char *cvt_json_print(const cJSON *v)
{
    cvt_text b = {0};
    add_value(&b, v);
    if (!b.failed) return b.s;
    free(b.s);
    return NULL;
}
