/* What a server does to several sequences on the caches of one engine, as a short text; ids follow from a seed.
 *
 *   a=2;a+9,4<0,2;b=a;a*3;a@1,1,0;a<b;a!1;a+5
 *
 * Moves are separated by `;`. A cache is a letter a … h. X and Y are caches:
 *
 *   X=B           a new cache of B rows; what X was before is gone
 *   X+N           one call: N more tokens of every row. X+9,4,0: numbers per row (the last one goes on; 0: a row of
 *                 nothing but padding); the shorter rows are padded on the right up to the longest. Behind it may stand
 *     <L            columns of padding left, per row
 *     >R            more columns of padding right, per row
 *     |C/C          documents begin at these tokens of the call, per row: X+9,7|3,6/2
 *   X*N           N calls of one token of every row
 *   Y=X           Y becomes a copy of X: a snapshot, a fork; both go on with words of their own
 *   X<Y           X is restored from Y, which stays
 *   X@R,R,R       reorder: row i becomes the old row R
 *   X!R           row R is given to another sequence (truncated to nothing)
 *   X-R:N         row R shall go back by N tokens, 1 <= N < stored ones: an engine must refuse and leave X as it was
 *   X.            reset
 *   X~            every part of every layer is exported, and imported into a copy whose parts were overwritten
 *   X?K:J         speculation: K drafts in one call, J of them accepted (a copy before, restored unless J = K, the J
 *                 fed again); X?K:J/J per row is done with rows of padding
 *   X:            a call of no tokens for any row must be refused, X stays as it was
 *
 * The promise: every document of every row computes what it computes alone in one call on an empty cache, by the truth
 * in f64; window, state, keys and values at the end included. */
#pragma once

#include "golden/laws.h"

#include <stdio.h>

enum { GLD_TRAFFIC_MOVES = 64, GLD_TRAFFIC_CACHES = 8, GLD_TRAFFIC_ROWS = 4, GLD_TRAFFIC_CUTS = 4 };
enum { GLD_TRAFFIC_REPAIRED_COLUMNS = 40, GLD_TRAFFIC_REPAIRED_CELLS = 320 };

typedef enum {
    GLD_MOVE_NEW,
    GLD_MOVE_CALL,
    GLD_MOVE_STEPS,
    GLD_MOVE_COPY,
    GLD_MOVE_RESTORE,
    GLD_MOVE_REORDER,
    GLD_MOVE_RESTART,
    GLD_MOVE_ROLLBACK,
    GLD_MOVE_RESET,
    GLD_MOVE_SWAP,
    GLD_MOVE_SPECULATE,
    GLD_MOVE_NOTHING,
    GLD_MOVE_COUNT
} gld_move_kind;

typedef struct {
    gld_move_kind kind;
    int cache, other;                                        /* X, 0 … 7; `other` of COPY and RESTORE: Y */
    int rows;                                                /* NEW, REORDER: rows afterwards */
    int64_t n[GLD_TRAFFIC_ROWS];                             /* CALL: tokens; REORDER: old rows; SPECULATE: J */
    int64_t left[GLD_TRAFFIC_ROWS], right[GLD_TRAFFIC_ROWS]; /* CALL: padding beside those up to the longest */
    int64_t n_cuts[GLD_TRAFFIC_ROWS], cut[GLD_TRAFFIC_ROWS][GLD_TRAFFIC_CUTS]; /* CALL: rising tokens, 0 <= cut < n */
    int64_t row, count; /* RESTART, ROLLBACK: R; ROLLBACK, STEPS: N; SPECULATE: K */
} gld_move;

typedef struct {
    int n;
    gld_move move[GLD_TRAFFIC_MOVES];
} gld_traffic;

/* FH1_E_INPUT names the move (1 is the first) and what is wrong with it: a cache that is not there, a row that it does
 * not have, more than 1024 tokens in a row. Nothing is allocated. */
fh1_status gld_traffic_parse(const char *text, gld_traffic *out);
fh1_status gld_traffic_check(const gld_traffic *t);
/* The text that parses to this. */
void gld_traffic_print(const gld_traffic *t, FILE *out);
/* Columns of all calls times rows: what it costs. */
int64_t gld_traffic_cells(const gld_traffic *t);

/* Drops moves that cannot be done where they stand and folds numbers into what is possible, so that any struct becomes
 * traffic, of at most the columns per cache and cells above: for those who draw or edit moves. A second repair changes
 * nothing. */
void gld_traffic_repair(gld_traffic *t);

typedef struct {
    fh1_verdict verdict;
    double margin; /* largest error / allowed; infinite where a promise that is no number is broken */
    char tap[FH1_TAP_NAME_SIZE];
    int move;                              /* 0 is the first; of the call that computed it, -1: at the end */
    int cache;                             /* 0 is a */
    int64_t row, document, token, channel; /* -1 where it has none; token counts within its document */
    double value, truth, allowed;
    int64_t calls, tokens; /* of the judged engine */
    char sentence[320];    /* for people */
} gld_traffic_result;

/* Runs the traffic on a->engine and each document alone on a->truth. What an engine that rounds may be off by is what
 * the emulated pipeline of its contract is off by on the same traffic; where even that has lost the numbers, the
 * verdict is SKIP. a->tokens is not read. FH1_E_INPUT: traffic that gld_traffic_check refuses. */
fh1_status gld_traffic_judge(const gld_traffic *t, const gld_law_args *a, gld_traffic_result *r);
