/* A second reading of repro lines beside golden/repro.c, golden/words.c, golden/calls_text.c, golden/traffic_text.c,
 * golden/seeded_text.c and golden/op_case.c: texts are cut into lists of words first, then looked at one by one. */
#pragma once

#include "golden/repro.h"

/* False: refused. Faults, variants and contracts are those of oracle/. */
bool slow_repro_read(const char *line, gld_repro *out);

/* ---- parts of it ---- */

typedef struct {
    char *text; /* owns the bytes of all words */
    char **word;
    int n;
} slow_words;

/* Cut at each `separator`: one more word than separators. */
slow_words slow_words_cut(const char *text, char separator);
void slow_words_free(slow_words *w);

/* -?[0-9]{1,18} */
bool slow_integer(const char *text, int64_t *v);
/* A decimal number, or inf, with a sign. */
bool slow_number(const char *text, double *v);

bool slow_calls_read(const char *text, gld_calls *out); /* slow_calls.c; positions are those of *out */
bool slow_calls_hold(const gld_calls *s);
bool slow_traffic_read(const char *text, gld_traffic *out, double *cells);
bool slow_spec_read(const char *text, gld_seeded_spec *out); /* slow_spec.c */
void slow_spec_usual(gld_seeded_spec *s);
bool slow_op_read(const char *line, gld_op_case *out); /* slow_op.c */
