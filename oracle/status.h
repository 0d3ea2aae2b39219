/* Errors are values: every function that can fail returns an fh1_status.
 *
 * A status is a pointer to an error record, NULL when all went well. The record lives in storage
 * of the calling thread and stays valid until the next error of that thread, so nothing is freed.
 * A message answers five questions: what went wrong, where (file, byte offset, key, tap), what was
 * expected, what was found, and what to do next.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

typedef enum {
    FH1_OK = 0,        /* good */
    FH1_E_WRONG = 1,   /* the thing judged is wrong */
    FH1_E_INPUT = 2,   /* bad usage or bad input, refusals included */
    FH1_E_INTERNAL = 3 /* out of memory, a full disk, a broken promise inside the program */
} fh1_code;            /* also the exit codes of every command */

typedef struct fh1_error {
    fh1_code code;
    char what[512];  /* one sentence, always present */
    char where[512]; /* file, offset, key or tap; may be empty, as the three below */
    char expected[256];
    char found[256];
    char hint[512];
} fh1_error;

typedef const fh1_error *fh1_status;

/* Start a new error with a printf-formatted sentence. Never returns NULL. */
fh1_status fh1_fail(fh1_code code, const char *what, ...) __attribute__((format(printf, 2, 3)));

/* Add a part to the error that `s` points to and return it; a part that is already set is kept,
 * except that `fh1_where` puts an outer place before an inner one: "outer: inner". NULL stays NULL. */
fh1_status fh1_where(fh1_status s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
fh1_status fh1_expected(fh1_status s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
fh1_status fh1_found(fh1_status s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
fh1_status fh1_hint(fh1_status s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Shorthands for the two commonest kinds. */
#define FH1_BAD(...) fh1_fail(FH1_E_INPUT, __VA_ARGS__)
fh1_status fh1_no_memory(size_t n_bytes, const char *for_what);

/* The whole message on one line, without a newline: "where: what (expected …, found …); hint".
 * Writes at most `size` bytes, the terminating zero included, and returns `buf`. Names from hostile
 * files cannot break the line: it is escaped as by fh1_printable. */
const char *fh1_status_line(fh1_status s, char *buf, size_t size);

/* `text` with control characters, line separators, direction overrides and bytes that are not UTF-8
 * written as \xNN; cut between characters, never inside one. Same promises as fh1_status_line. */
const char *fh1_printable(const char *text, char *buf, size_t size);

#define FH1_TRY(expr)                                \
    do {                                             \
        fh1_status fh1_try_status_ = (expr);         \
        if (fh1_try_status_) return fh1_try_status_; \
    } while (0)

/* As FH1_TRY in a function that has things to release: jumps to `label` with `var` set. */
#define FH1_TRY_GOTO(var, expr, label) \
    do {                               \
        (var) = (expr);                \
        if (var) goto label;           \
    } while (0)
