/* A second reader of JSON, beside convert/json.h and without a line of it, to judge it by: the grammar of RFC 8259
 * written down rule by rule, one function each, in no hurry. What fh1 refuses beyond the grammar is in slow_json.c
 * with the word "fh1". */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum { SLOW_NULL, SLOW_FALSE, SLOW_TRUE, SLOW_NUMBER, SLOW_STRING, SLOW_ARRAY, SLOW_OBJECT } slow_kind;

typedef struct slow_json {
    slow_kind kind;
    char *name;              /* of a member of an object, decoded; NULL elsewhere */
    char *text;              /* a string's, decoded; a number's, as it is written; NULL elsewhere */
    struct slow_json *first; /* of an array's elements or an object's members, in the order of the text */
    struct slow_json *next;
    size_t n; /* how many of these */
} slow_json;

/* NULL when the text is refused. At most max_depth brackets are open at any place. */
slow_json *slow_json_read(const char *text, size_t n, int max_depth);
void slow_json_free(slow_json *v); /* NULL is fine */

/* NULL when there is none. Also for v NULL or no object. */
const slow_json *slow_json_member(const slow_json *v, const char *name);

/* An integer written as one: no point, no exponent, not -0, from -2^53 to 2^53. */
bool slow_json_integer(const slow_json *v, int64_t *out);
/* The number as a double; v is a number. */
double slow_json_double(const slow_json *v);

/* The code point at text[*at], *at < n, in strict UTF-8; *at moves behind it. */
bool slow_code_point(const char *text, size_t n, size_t *at, uint32_t *out);

/* One rule less, for tests that show that a comparison notices: NULL (none), "duplicates", "surrogates", "utf8", "nul",
 * "depth" or "zeros" (leading ones). */
extern const char *slow_json_without;
