/* Shared by golden/traffic_*.c: what a move does to the books, walking traffic on an engine, and what it leaves. */
#pragma once

#include "golden/traffic.h"

/* ---- the books of all caches, without any model ---- */

typedef struct {
    bool there;
    int rows;
    int64_t columns;
    int64_t stored[GLD_TRAFFIC_ROWS]; /* tokens per row */
} traffic_cache;

typedef struct {
    traffic_cache cache[GLD_TRAFFIC_CACHES];
    int64_t cells;  /* columns times rows of all calls so far */
    int64_t tokens; /* real ones among them */
    int64_t room;   /* columns of the longest cache, drafts included */
    int64_t widest; /* cells of the largest call */
} traffic_state;

enum { TRAFFIC_COLUMNS = 1024 }; /* of one cache */

/* Does a move; FH1_E_INPUT says why it cannot be done, the state is as it was. */
fh1_status gld_traffic_step(traffic_state *s, const gld_move *m);
/* Columns of a CALL: those of its longest row. */
int64_t gld_move_columns(const gld_move *m, int rows);
/* gld_traffic_repair with bounds of the caller: columns of a cache, cells of all calls. */
void gld_traffic_repair_within(gld_traffic *t, int64_t columns, int64_t cells);
void gld_move_print(const gld_move *m, int rows, FILE *out);

/* ---- tokens: the documents of all rows are paths in one forest, forks are branches ---- */

typedef struct {
    int parent;                             /* the token before it in its document; -1: the first one */
    int move, cache, row, document, branch; /* who said it; document of the row; branch: tokens that go on from it */
    int64_t id, position;
} traffic_token;

/* What lay in a row when it was looked at: at the end, and before it vanished. */
typedef struct {
    int move, cache, row; /* looked at before this move; -1: at the end */
    int64_t n;            /* tokens */
    int *token;           /* [n] */
    double *kv;           /* [layers, 2, n, Hkv A] */
    double *memory;       /* [layers, window and state, thinned out] */
} traffic_look;

typedef struct {
    traffic_token *token;
    int n_tokens;
    double *logits; /* [tokens, kept] */
    traffic_look *look;
    int n_looks, room;
    int64_t calls, longest; /* longest: one more than the highest position that was ever given */
    int move, cache;        /* where it ended, if it did not reach the end */
} traffic_road;

static inline double traffic_number(const void *p, fh1_dtype t, int64_t i)
{
    return t == FH1_F64 ? ((const double *)p)[i] : (double)((const float *)p)[i];
}

/* How much of a model's numbers is kept: all of small ones. */
typedef struct {
    int64_t kept, stride;          /* logits of a token */
    int64_t kv;                    /* Hkv A */
    int64_t window, window_stride; /* kept elements of a layer */
    int64_t state, state_stride;
} traffic_sizes;
traffic_sizes gld_traffic_sizes(const fh1_config *c);

/* Walks the traffic on an engine. FH1_E_WRONG: a promise that is no number is broken. The road is freed by the caller
 * in any case. */
fh1_status gld_traffic_walk(const gld_traffic *t, const fh1_model *m, fh1_engine *e, uint64_t seed, traffic_road *out);
void gld_traffic_road_free(traffic_road *r);
/* Window and state of a row, kv of its tokens from `first` on, as f64. Either may be NULL. */
fh1_status gld_traffic_read(const fh1_cache *c, int64_t row, int64_t first, double *kv, double *memory);

/* ---- documents alone ---- */

/* A document up to one of its tokens, in one call on an empty cache. */
typedef struct {
    int last;       /* token */
    int64_t n, own; /* its tokens, and the last `own` of them that no other solo shows */
    double *memory; /* window and state after it; NULL: nobody looked */
} traffic_solo;

/* What one engine computes of all documents alone. */
typedef struct {
    double *logits; /* [tokens, kept] */
    double *kv;     /* [tokens, layers, 2, Hkv A] */
    traffic_solo *run;
    int n, *of; /* of[token]: the solo whose memory was taken behind it, or -1 */
} traffic_alone;

/* Runs every document of the road alone; solos are the same for all engines. The result, zero before, is freed by the
 * caller in any case. */
fh1_status gld_traffic_alone(const traffic_road *road, const fh1_model *m, fh1_engine *e, traffic_alone *out);
void gld_traffic_alone_free(traffic_alone *a);
/* The tokens of a solo's document, its first one first. */
void gld_traffic_path(const traffic_road *road, const traffic_solo *s, int64_t *path);
/* Where `other` is farther from the truth than `to`, its number takes the place. */
void gld_traffic_farther(const traffic_road *road, const fh1_model *m, traffic_alone *to, const traffic_alone *other,
                         const traffic_alone *truth);
