/* Typed reading of the keys of one JSON object, with errors that name file and key. */
#pragma once

#include "convert/json.h"

typedef struct {
    const cJSON *object;
    const char *path;   /* the file */
    const char *prefix; /* put before keys in messages: "" or "rope_parameters." */
} cvt_fields;

/* The value of a key; NULL when it is absent or null. */
const cJSON *cvt_optional(const cvt_fields *f, const char *key);

/* A key that must be there: absent or null is an error, as are a wrong type and a value out of range. */
fh1_status cvt_need(const cvt_fields *f, const char *key, const cJSON **out);
fh1_status cvt_need_int(const cvt_fields *f, const char *key, int64_t min, int64_t max, int64_t *out);
fh1_status cvt_need_number(const cvt_fields *f, const char *key, double *out);
fh1_status cvt_need_bool(const cvt_fields *f, const char *key, bool *out);
fh1_status cvt_need_string(const cvt_fields *f, const char *key, const char **out);
fh1_status cvt_need_numbers(const cvt_fields *f, const char *key, int64_t n, double *out);

/* A key that may be absent or null; *out is left alone then. */
fh1_status cvt_may_int(const cvt_fields *f, const char *key, int64_t min, int64_t max, int64_t *out);
fh1_status cvt_may_number(const cvt_fields *f, const char *key, double *out);

/* "path, key: what (expected …, found VALUE)" */
fh1_status cvt_bad_value(const cvt_fields *f, const char *key, const cJSON *v, const char *what, const char *expected);
