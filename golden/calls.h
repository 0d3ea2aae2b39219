/* A schedule of calls on one cache as a short text; ids follow from a seed.
 *
 *   p37x3l:0,12,35;d2;c5r:1;d1        three rows of 37 columns, two of them padded left; two steps; five more
 *   p20x2k:1,5,7/13,17;c4k:0/1         documents that begin in these columns, rows separated by /
 *
 * pTxB comes first: T columns of B rows (x1 may be left out). cT: T more columns. dN: N calls of one column. Behind p
 * or c may stand l: and r:, columns of padding left and right, one number per row (missing rows: none); k: columns in
 * which a document begins; y: labels for the loss. */
#pragma once

#include "golden/trace.h"

#include <stdio.h>

enum { GLD_MAX_CALLS = 32, GLD_MAX_ROWS = 32, GLD_MAX_CUTS = 12 };

typedef struct {
    int64_t T;     /* columns */
    int64_t times; /* this call again and again; 1 but for plain calls of one column */
    bool labels;
    int64_t left[GLD_MAX_ROWS], right[GLD_MAX_ROWS];
    int64_t n_cuts[GLD_MAX_ROWS], cut[GLD_MAX_ROWS][GLD_MAX_CUTS]; /* rising columns */
} gld_call;

typedef struct {
    int64_t B;
    int n;
    gld_call call[GLD_MAX_CALLS];
    bool no_positions;      /* left to the engine's default; otherwise they count the real tokens of a document, */
    int64_t first_position; /* from here */
} gld_calls;

/* FH1_E_INPUT names the call (1 is the first) and what is wrong with it. Positions are not part of the text. */
fh1_status gld_calls_parse(const char *text, gld_calls *out);
fh1_status gld_calls_check(const gld_calls *s);
void gld_calls_print(const gld_calls *s, FILE *out);

int64_t gld_calls_steps(const gld_calls *s);
/* Which call makes step j, counted from 0. */
int gld_calls_of_step(const gld_calls *s, int64_t j);
/* Drops what comes after step j. */
void gld_calls_end_at(gld_calls *s, int64_t j);
bool gld_call_is_plain(const gld_call *k, int64_t B); /* no padding, documents or labels */

/* How many numbers a recording of all taps holds; a double does not overflow. */
double gld_calls_recorded(const gld_calls *s, const fh1_config *c);

/* Inputs only, a pure function of schedule, vocabulary and seed; freed by the caller. */
fh1_status gld_calls_trace(const gld_calls *s, int64_t V, uint64_t seed, gld_trace *out);
/* The schedule whose trace with this seed has exactly these inputs; *found is false where there is none. */
fh1_status gld_calls_of_trace(const gld_trace *t, int64_t V, uint64_t seed, gld_calls *out, bool *found);
