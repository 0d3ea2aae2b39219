/* The tokens of a JSON text (RFC 8259), with the lexical strictness that cJSON lacks: strict UTF-8, no raw
 * control characters, no lone surrogates, no NUL, numbers in JSON's own grammar, only JSON's white space. */
#pragma once

#include "oracle/status.h"

typedef enum {
    CVT_TOKEN_OPEN,
    CVT_TOKEN_CLOSE,
    CVT_TOKEN_COLON,
    CVT_TOKEN_COMMA,
    CVT_TOKEN_STRING,
    CVT_TOKEN_NUMBER,
    CVT_TOKEN_WORD,
    CVT_TOKEN_END
} cvt_token;

typedef struct {
    const char *text; /* set by the caller, with n, what and at = 0 */
    size_t n;
    const char *what;  /* source, for messages */
    size_t at;         /* where the next token is looked for */
    cvt_token kind;    /* of the last token, as the three below */
    size_t begin, end; /* its bytes; a string with its quotes */
    bool exact;        /* a number without point or exponent, not -0, of at most 2^53 */
} cvt_scan;

fh1_status cvt_scan_next(cvt_scan *s);

/* Length of the UTF-8 sequence at s[0..n), 0 when it is none (overlong, surrogate, above U+10FFFF, cut). */
size_t cvt_utf8_len(const char *s, size_t n);
