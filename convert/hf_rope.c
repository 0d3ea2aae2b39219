#include "convert/hf_rope.h"

#include "convert/fault.h"

#include <stdio.h>
#include <string.h>

#define MAX_LENGTH (INT64_C(1) << 31)
#define MAX_KEYS 256 /* of an object of rope keys, each of which is looked for in the other form; some 15 are known */

static fh1_status contradiction(const cvt_fields *f, const char *key_a, const cJSON *a, const char *key_b,
                                const cJSON *b)
{
    char *text_a = a ? cJSON_PrintUnformatted(a) : NULL, *text_b = b ? cJSON_PrintUnformatted(b) : NULL;
    fh1_status s = fh1_where(FH1_BAD("%s = %.80s contradicts %s = %.80s", key_a, text_a ? text_a : "(absent)", key_b,
                                     text_b ? text_b : "(absent)"),
                             "%s", f->path);
    cJSON_free(text_a);
    cJSON_free(text_b);
    return fh1_hint(
        s, "transformers 4.5x reads rope_theta and rope_scaling, 5.x prefers rope_parameters: make them equal");
}

/* An object of rope keys; empty, null and absent are the same to both libraries. */
static fh1_status rope_object(const cvt_fields *f, const char *key, const char *prefix, cvt_fields *out)
{
    const cJSON *v = cvt_optional(f, key);
    *out = (cvt_fields){NULL, f->path, prefix};
    if (v && !cJSON_IsObject(v)) return cvt_bad_value(f, key, v, "the value is not an object", "an object or null");
    if (v && cJSON_GetArraySize(v) > MAX_KEYS)
        return fh1_expected(fh1_where(FH1_BAD("the object has too many keys"), "%s, key %s", f->path, key),
                            "at most %d", MAX_KEYS);
    if (v && v->child) out->object = v;
    return NULL;
}

/* `rope_type`, in older files `type`; the values must agree where both are there. */
static fh1_status rope_type_name(const cvt_fields *r, const char **out)
{
    const cJSON *now = cvt_optional(r, "rope_type"), *old = cvt_optional(r, "type");
    bool same = true;
    if (now && old) FH1_TRY(cvt_json_same(now, old, &same));
    if (!same) return contradiction(r, "rope_type", now, "type", old);
    return cvt_need_string(r, !now && old ? "type" : "rope_type", out);
}

static bool is_type_or_theta(const char *key)
{
    return strcmp(key, "type") == 0 || strcmp(key, "rope_type") == 0 || strcmp(key, "rope_theta") == 0;
}

/* Every other key of `a` must stand in `b` with the same value. */
static fh1_status compare_objects(const cvt_fields *f, const cvt_fields *a, const char *name_a, const cvt_fields *b,
                                  const char *name_b)
{
    char key_a[160], key_b[160];
    for (const cJSON *v = a->object->child; v; v = v->next) {
        if (is_type_or_theta(v->string) || cJSON_IsNull(v)) continue;
        const cJSON *other = cvt_optional(b, v->string);
        bool same = false;
        if (other) FH1_TRY(cvt_json_same(v, other, &same));
        if (same) continue;
        snprintf(key_a, sizeof key_a, "%s.%.100s", name_a, v->string);
        snprintf(key_b, sizeof key_b, "%s.%.100s", name_b, v->string);
        return contradiction(f, key_a, v, key_b, other);
    }
    return NULL;
}

static fh1_status compare_forms(const cvt_fields *f, const cvt_fields *v4, const cvt_fields *v5)
{
    const char *type4, *type5;
    FH1_TRY(rope_type_name(v4, &type4));
    FH1_TRY(rope_type_name(v5, &type5));
    if (strcmp(type4, type5) != 0) return contradiction(f, "rope_scaling", v4->object, "rope_parameters", v5->object);
    FH1_TRY(compare_objects(f, v4, "rope_scaling", v5, "rope_parameters"));
    return compare_objects(f, v5, "rope_parameters", v4, "rope_scaling");
}

/* theta may stand in three places; where it does, it must be the same. */
static fh1_status read_theta(const cvt_fields *f, const cvt_fields *v4, const cvt_fields *v5, double *theta)
{
    const cvt_fields *places[3] = {f, v5, v4};
    static const char *const names[3] = {"rope_theta", "rope_parameters.rope_theta", "rope_scaling.rope_theta"};
    const cJSON *first = NULL;
    int at = 0;
    for (int i = 0; i < 3; i++) {
        const cJSON *v = places[i]->object ? cvt_optional(places[i], "rope_theta") : NULL;
        if (!v) continue;
        FH1_TRY(cvt_need_number(places[i], "rope_theta", theta));
        if (first && CVT_FAULT(CONTRADICTION_ACCEPTED)) *theta = first->valuedouble;
        else if (first && first->valuedouble != v->valuedouble) return contradiction(f, names[at], first, names[i], v);
        if (!first) at = i;
        if (!first) first = v;
    }
    if (!first && CVT_FAULT(ROPE_PARAMETERS_IGNORED)) {
        *theta = 1e5; /* the default of the class */
        return NULL;
    }
    if (!first) return cvt_need_number(f, "rope_theta", theta);
    return NULL;
}

/* Only whole heads are rotated. */
static fh1_status check_partial(const cvt_fields *f)
{
    double partial = 1;
    if (!f->object) return NULL;
    FH1_TRY(cvt_may_number(f, "partial_rotary_factor", &partial));
    if (partial != 1)
        return cvt_bad_value(f, "partial_rotary_factor", cvt_optional(f, "partial_rotary_factor"),
                             "rotating a part of the head is not supported", "1");
    return NULL;
}

/* The length the model was trained for: as transformers 5.x, a top-level key wins, and without any
 * max_position_embeddings stands in. */
static fh1_status read_original_length(const cvt_fields *f, const cvt_fields *r, fh1_rope *rope)
{
    static const char key[] = "original_max_position_embeddings";
    if (cvt_optional(f, key)) return cvt_need_int(f, key, 1, MAX_LENGTH, &rope->original_max_position);
    if (cvt_optional(r, key)) return cvt_need_int(r, key, 1, MAX_LENGTH, &rope->original_max_position);
    FH1_TRY(cvt_need_int(f, "max_position_embeddings", 1, MAX_LENGTH, &rope->max_position));
    rope->original_max_position = rope->max_position;
    return NULL;
}

/* A scaling that may be given as null (yarn) or left out (longrope): then it is the ratio of the lengths. */
static fh1_status read_derivable_factor(const cvt_fields *f, const cvt_fields *r, fh1_rope *rope)
{
    FH1_TRY(cvt_may_number(r, "factor", &rope->factor));
    FH1_TRY(cvt_may_number(r, "attention_factor", &rope->attention_factor));
    const cJSON *a = cvt_optional(r, "attention_factor");
    if (a && !(rope->attention_factor > 0))
        return cvt_bad_value(r, "attention_factor", a, "the value is out of range", "a positive number");
    const cJSON *v = cvt_optional(r, "factor");
    if (v && !(rope->factor > 0))
        return cvt_bad_value(r, "factor", v, "the value is out of range", "a positive number");
    if (!v) return cvt_need_int(f, "max_position_embeddings", 1, MAX_LENGTH, &rope->max_position);
    return NULL;
}

static fh1_status read_yarn(const cvt_fields *f, const cvt_fields *r, fh1_rope *rope)
{
    if (!cJSON_GetObjectItemCaseSensitive(r->object, "factor")) return cvt_need_number(r, "factor", &rope->factor);
    FH1_TRY(read_derivable_factor(f, r, rope));
    FH1_TRY(read_original_length(f, r, rope));
    FH1_TRY(cvt_may_number(r, "beta_fast", &rope->beta_fast));
    FH1_TRY(cvt_may_number(r, "beta_slow", &rope->beta_slow));
    if (rope->beta_fast == 0) rope->beta_fast = 32; /* 0 and absent are the same to transformers */
    if (rope->beta_slow == 0) rope->beta_slow = 1;
    FH1_TRY(cvt_may_number(r, "mscale", &rope->mscale));
    FH1_TRY(cvt_may_number(r, "mscale_all_dim", &rope->mscale_all_dim));
    rope->truncate = true;
    /* null would count as false there: too surprising to follow silently */
    if (cJSON_GetObjectItemCaseSensitive(r->object, "truncate")) return cvt_need_bool(r, "truncate", &rope->truncate);
    return NULL;
}

static fh1_status read_llama3(const cvt_fields *f, const cvt_fields *r, fh1_rope *rope)
{
    FH1_TRY(cvt_need_number(r, "factor", &rope->factor));
    FH1_TRY(cvt_need_number(r, "low_freq_factor", &rope->low_freq_factor));
    FH1_TRY(cvt_need_number(r, "high_freq_factor", &rope->high_freq_factor));
    return read_original_length(f, r, rope);
}

static fh1_status read_longrope(const cvt_fields *f, const cvt_fields *r, fh1_config *c)
{
    const int64_t room = (int64_t)(sizeof c->factors[0] / sizeof c->factors[0][0]);
    if (c->A / 2 > room)
        return fh1_where(FH1_BAD("longrope with head_dim above %lld is not supported", (long long)(2 * room)), "%s",
                         f->path);
    FH1_TRY(read_derivable_factor(f, r, &c->rope));
    FH1_TRY(read_original_length(f, r, &c->rope));
    FH1_TRY(cvt_need_numbers(r, "long_factor", c->A / 2, c->factors[0]));
    FH1_TRY(cvt_need_numbers(r, "short_factor", c->A / 2, c->factors[1]));
    c->rope.long_factor = c->factors[0];
    c->rope.short_factor = c->factors[1];
    return NULL;
}

static fh1_status read_type(const cvt_fields *r, fh1_rope_type *type)
{
    const char *name;
    FH1_TRY(rope_type_name(r, &name));
    for (int t = FH1_ROPE_DEFAULT; t <= FH1_ROPE_LONGROPE; t++) {
        *type = (fh1_rope_type)t;
        if (strcmp(name, fh1_rope_type_name(*type)) == 0) return NULL;
    }
    const char *key = cvt_optional(r, "rope_type") ? "rope_type" : "type";
    return cvt_bad_value(r, key, cvt_optional(r, key), "unknown rope type",
                         "default, linear, dynamic, yarn, llama3 or longrope");
}

fh1_status cvt_hf_rope_parse(const cvt_fields *f, fh1_config *c)
{
    fh1_rope *rope = &c->rope;
    cvt_fields v4, v5;
    FH1_TRY(rope_object(f, "rope_scaling", "rope_scaling.", &v4));
    FH1_TRY(rope_object(f, "rope_parameters", "rope_parameters.", &v5));
    if (CVT_FAULT(ROPE_PARAMETERS_IGNORED)) v5.object = NULL;
    if (v4.object && v5.object) FH1_TRY(compare_forms(f, &v4, &v5));
    FH1_TRY(read_theta(f, &v4, &v5, &rope->theta));
    FH1_TRY(check_partial(f));
    FH1_TRY(check_partial(&v4));
    FH1_TRY(check_partial(&v5));
    FH1_TRY(cvt_may_int(f, "max_position_embeddings", 1, MAX_LENGTH, &rope->max_position));

    const cvt_fields *r = v5.object ? &v5 : &v4;
    rope->type = FH1_ROPE_DEFAULT;
    if (r->object) FH1_TRY(read_type(r, &rope->type));
    switch (rope->type) {
    case FH1_ROPE_DEFAULT: return NULL;
    case FH1_ROPE_LINEAR: return cvt_need_number(r, "factor", &rope->factor);
    case FH1_ROPE_DYNAMIC:
        FH1_TRY(cvt_need_int(f, "max_position_embeddings", 1, MAX_LENGTH, &rope->max_position));
        return cvt_need_number(r, "factor", &rope->factor);
    case FH1_ROPE_YARN: return read_yarn(f, r, rope);
    case FH1_ROPE_LLAMA3: return read_llama3(f, r, rope);
    case FH1_ROPE_LONGROPE: return read_longrope(f, r, c);
    }
    return NULL;
}
