/* The strict door to cJSON: everything that fh1 reads as JSON comes through here.
 *
 * UTF-8, bracket depth and the lexical rules (convert/json_scan.h) are checked before cJSON parses;
 * duplicate keys (compared after unescaping), NUL in strings, trailing text, and numbers that are not JSON,
 * longer than 63 characters or too large for a double are refused. Messages name the byte offset. */
#pragma once

#include "oracle/status.h"

#include <cjson/cJSON.h>
#include <stdint.h>

/* Parse `n` bytes (no terminating zero needed). `what` names the source in messages. `max_depth` counts
 * open brackets. On success *out is freed by cJSON_Delete. */
fh1_status cvt_json_parse(const char *text, size_t n, int max_depth, const char *what, cJSON **out);

/* The whole file, at most `max_bytes`. */
fh1_status cvt_json_read(const char *path, size_t max_bytes, int max_depth, cJSON **out);

/* Integers exactly: written without point or exponent, not -0, within -2^53 .. 2^53. Only for numbers from
 * cvt_json_parse, which marks all others. */
bool cvt_json_is_int(const cJSON *v, int64_t *out);

/* Same types and values: numbers to the last bit (cJSON_Compare lets an ulp pass), objects in any order of their keys.
 * For values from cvt_json_parse. */
fh1_status cvt_json_same(const cJSON *a, const cJSON *b, bool *same);

/* One line that parses to the same value, malloc'ed; NULL without memory. For values from cvt_json_parse. */
char *cvt_json_print(const cJSON *v);

/* The bytes [*begin, *end) of the value of a key of the outermost object, in a text that cvt_json_parse
 * accepts; false when no key is spelled like that, as none with a backslash is. For edits that leave all other bytes
 * alone. */
bool cvt_json_find_value(const char *text, size_t n, const char *key, size_t *begin, size_t *end);
