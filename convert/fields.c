#include "convert/fields.h"

#include <stdio.h>
#include <string.h>

const cJSON *cvt_optional(const cvt_fields *f, const char *key)
{
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(f->object, key);
    return v && !cJSON_IsNull(v) ? v : NULL;
}

fh1_status cvt_bad_value(const cvt_fields *f, const char *key, const cJSON *v, const char *what, const char *expected)
{
    char *text = cJSON_PrintUnformatted(v);
    fh1_status s = fh1_where(FH1_BAD("%s", what), "%s, key %s%s", f->path, f->prefix, key);
    s = fh1_found(fh1_expected(s, "%s", expected), "%.80s%s", text ? text : "?",
                  text && strlen(text) > 80 ? "..." : "");
    cJSON_free(text);
    return s;
}

fh1_status cvt_need(const cvt_fields *f, const char *key, const cJSON **out)
{
    *out = cvt_optional(f, key);
    if (*out) return NULL;
    bool null = cJSON_GetObjectItemCaseSensitive(f->object, key) != NULL;
    return fh1_hint(fh1_where(FH1_BAD("the key %s%s is %s", f->prefix, key, null ? "null" : "missing"), "%s", f->path),
                    "it changes the result, so fh1 does not guess it: take the value from the model's original config");
}

static fh1_status to_int(const cvt_fields *f, const char *key, const cJSON *v, int64_t min, int64_t max, int64_t *out)
{
    char range[80];
    int64_t i;
    snprintf(range, sizeof range, "a whole number from %lld to %lld", (long long)min, (long long)max);
    if (!cvt_json_is_int(v, &i)) return cvt_bad_value(f, key, v, "the value is not a whole number", range);
    if (i < min || i > max) return cvt_bad_value(f, key, v, "the value is out of range", range);
    *out = i;
    return NULL;
}

static fh1_status to_number(const cvt_fields *f, const char *key, const cJSON *v, double *out)
{
    if (!cJSON_IsNumber(v)) return cvt_bad_value(f, key, v, "the value is not a number", "a number");
    *out = v->valuedouble;
    return NULL;
}

fh1_status cvt_need_int(const cvt_fields *f, const char *key, int64_t min, int64_t max, int64_t *out)
{
    const cJSON *v;
    FH1_TRY(cvt_need(f, key, &v));
    return to_int(f, key, v, min, max, out);
}

fh1_status cvt_need_number(const cvt_fields *f, const char *key, double *out)
{
    const cJSON *v;
    FH1_TRY(cvt_need(f, key, &v));
    return to_number(f, key, v, out);
}

fh1_status cvt_need_bool(const cvt_fields *f, const char *key, bool *out)
{
    const cJSON *v;
    FH1_TRY(cvt_need(f, key, &v));
    if (!cJSON_IsBool(v)) return cvt_bad_value(f, key, v, "the value is not a truth value", "true or false");
    *out = cJSON_IsTrue(v);
    return NULL;
}

fh1_status cvt_need_string(const cvt_fields *f, const char *key, const char **out)
{
    const cJSON *v;
    FH1_TRY(cvt_need(f, key, &v));
    if (!cJSON_IsString(v)) return cvt_bad_value(f, key, v, "the value is not a string", "a string");
    *out = v->valuestring;
    return NULL;
}

fh1_status cvt_need_numbers(const cvt_fields *f, const char *key, int64_t n, double *out)
{
    const cJSON *v;
    char expected[60];
    FH1_TRY(cvt_need(f, key, &v));
    snprintf(expected, sizeof expected, "a list of %lld numbers", (long long)n);
    if (!cJSON_IsArray(v)) return cvt_bad_value(f, key, v, "the value is not a list", expected);
    if (cJSON_GetArraySize(v) != n) return cvt_bad_value(f, key, v, "the list has the wrong length", expected);
    for (const cJSON *e = v->child; e; e = e->next) {
        if (!cJSON_IsNumber(e)) return cvt_bad_value(f, key, v, "the list holds something else than numbers", expected);
        *out++ = e->valuedouble;
    }
    return NULL;
}

fh1_status cvt_may_int(const cvt_fields *f, const char *key, int64_t min, int64_t max, int64_t *out)
{
    const cJSON *v = cvt_optional(f, key);
    return v ? to_int(f, key, v, min, max, out) : NULL;
}

fh1_status cvt_may_number(const cvt_fields *f, const char *key, double *out)
{
    const cJSON *v = cvt_optional(f, key);
    return v ? to_number(f, key, v, out) : NULL;
}
