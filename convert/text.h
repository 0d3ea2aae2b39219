/* A growing text, for files that are made in memory. */
#pragma once

#include "oracle/status.h"

#include <stdarg.h>

typedef struct {
    char *s; /* malloc'ed, NULL while empty */
    size_t n, room;
    bool failed; /* memory ran out; what was added since is lost */
} cvt_text;

void cvt_text_add(cvt_text *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void cvt_text_bytes(cvt_text *b, const char *s, size_t n);
/* A JSON string: short escapes where JSON has them; UTF-8 as it is, or with `ascii` as \uXXXX. */
void cvt_text_json(cvt_text *b, const char *s, bool ascii);

/* The name of a file that is not UTF-8, for formats that know only UTF-8: two lower-case digits for each byte. */
void cvt_text_hex(cvt_text *b, const char *name);
/* Reads it back; false when it is no such name, or does not fit. */
bool cvt_text_unhex(const char *hex, char *out, size_t size);
