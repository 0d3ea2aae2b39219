/* What a model remembers between calls: per layer the keys and values of attention, the conv window
 * and the SSM state, for each row of the batch.
 *
 * Only real tokens are stored. A row knows which column of the padded [B, S] layout each of its
 * tokens came from, so that export and import speak the layout of the taps:
 *   key, value [B, Hkv, S, A]   rotated keys, scaled by key_multiplier; slots of padding are 0
 *   conv       [B, c, K-1]      pre-conv columns of the row's current document, oldest first, 0 if
 *                               there are fewer
 *   ssm        [B, H, P, N]     state after the last real token
 */
#pragma once

#include "oracle/batch.h"
#include "oracle/config.h"
#include "oracle/tensor.h"

typedef enum { FH1_CACHE_KEY, FH1_CACHE_VALUE, FH1_CACHE_CONV, FH1_CACHE_SSM } fh1_cache_part;

/* One row. Arrays per layer; elements are f32, f64 or complex f64 as the cache says. */
typedef struct {
    int64_t n;           /* real tokens stored */
    int64_t cap;         /* allocated tokens */
    int64_t *col;        /* [cap] column of each stored token in [0, n_cols) */
    int64_t doc;         /* id of the current document; -1 before the first token */
    int64_t doc_begin;   /* index of the first stored token of the current document */
    void **key, **value; /* per layer [Hkv, cap, A]: head-major so that a head's keys are one block */
    void **conv;         /* per layer [c, K-1] */
    void **ssm;          /* per layer [H, P, N] */
    bool used;           /* false: no call and no import yet, window and state are the zeros they were born with */
} fh1_cache_row;

struct fh1_cache;

/* Contents that an engine keeps elsewhere, in the memory of a device. Rows then keep the books alone (n, cap, col, doc,
 * doc_begin), their four arrays are NULL, and every function below does its work through this table. */
typedef struct fh1_cache_store {
    void (*free)(void *store);
    size_t (*bytes)(const void *store);
    /* Row b holds nothing from now on, window and state are zero. What goes wrong is told by the next one that can. */
    void (*reset_row)(void *store, int64_t b);
    /* A second store with the contents of c's: neither sees what happens to the other afterwards. */
    fh1_status (*clone)(const struct fh1_cache *c, void **out);
    /* Row i becomes the old row from[i] (all valid), n rows afterwards; all or nothing. Called before c's books move.
     */
    fh1_status (*reorder)(struct fh1_cache *c, const int64_t *from, int64_t n);
    /* A part of row b, dense, in c's type: [Hkv, n, A] for the n tokens of the row, [c, K-1] or [H, P, N]. */
    fh1_status (*read)(const struct fh1_cache *c, int64_t b, int64_t layer, fh1_cache_part part, void *out);
    fh1_status (*write)(struct fh1_cache *c, int64_t b, int64_t layer, fh1_cache_part part, const void *in);
} fh1_cache_store;

typedef struct fh1_cache {
    const fh1_config *config; /* borrowed */
    fh1_dtype dtype;          /* F32, F64 or C128 */
    int64_t B;
    int64_t n_cols;       /* columns so far, padding included; the same for every row */
    int64_t rope_seq_len; /* dynamic rope: longest sequence seen, 0 = none */
    fh1_cache_row *rows;
    void *store; /* where the contents are, NULL: in `rows` */
    const fh1_cache_store *store_ops;
} fh1_cache;

fh1_status fh1_cache_new(const fh1_config *c, fh1_dtype dtype, int64_t B, fh1_cache **out);
void fh1_cache_free(fh1_cache *c);

/* Make room for `n` more tokens in row b; contents are kept. Does not change n. */
fh1_status fh1_cache_reserve(fh1_cache *c, int64_t b, int64_t n);

/* The two ends of a call. Between them the engine writes, for each row b with L new tokens, keys and
 * values into slots n .. n+L-1 of every layer and updates conv and ssm in place (an engine that sees
 * the first token of a new document starts from zeros there).
 *
 * fh1_cache_prepare: room for the tokens of `t` in every row; the batch sizes must agree. Contents and
 * n stay as they are, so a call that fails before it writes leaves the cache as it was.
 * fh1_cache_commit: books the tokens: per row n, col, doc and doc_begin, then n_cols += T and
 * rope_seq_len = max(rope_seq_len, max_position + 1). Cannot fail after a prepare with the same `t`. */
fh1_status fh1_cache_prepare(fh1_cache *c, const fh1_tokens *t);
void fh1_cache_commit(fh1_cache *c, const fh1_tokens *t);

/* Back to the empty cache, all rows: keys, conv window, state, positions and documents. */
void fh1_cache_reset(fh1_cache *c);
/* A deep copy (snapshot, fork). */
fh1_status fh1_cache_clone(const fh1_cache *c, fh1_cache **out);
/* Make `c` equal to `snapshot`, which stays as it is; same config and dtype. The contents are afterwards where those of
 * the snapshot are: a cache with a store gives it up for a snapshot without one. */
fh1_status fh1_cache_restore(fh1_cache *c, const fh1_cache *snapshot);
/* Row b becomes the old row from[b]; B' = n rows afterwards, rows may repeat or be dropped. All four
 * parts move. FH1_E_INPUT if an index is outside the rows. */
fh1_status fh1_cache_reorder(fh1_cache *c, const int64_t *from, int64_t n);
/* Forget everything after the first n tokens of row b. Only n equal to the stored count (nothing to
 * do) or 0 (start again) are possible: the state of other moments is gone, which is FH1_E_INPUT. */
fh1_status fh1_cache_truncate(fh1_cache *c, int64_t b, int64_t n);

/* The shape of one part for the whole batch, in the layout above. */
fh1_tensor fh1_cache_shape(const fh1_cache *c, fh1_cache_part part);
/* Copy one part of one layer to / from a dense or strided view of that shape, any float type.
 * Import leaves tokens, columns and documents as they are and ignores slots of padding. FH1_E_INPUT: a cache of complex
 * numbers, which only rows show. */
fh1_status fh1_cache_export(const fh1_cache *c, int64_t layer, fh1_cache_part part, const fh1_tensor *out);
fh1_status fh1_cache_import(fh1_cache *c, int64_t layer, fh1_cache_part part, const fh1_tensor *in);

/* The same for one row and without padding, dense, in the cache's type: [Hkv, n, A] (n = rows[b].n), [c, K-1] or
 * [H, P, N]; for readers that must not care where the contents are. */
int64_t fh1_cache_row_elems(const fh1_cache *c, int64_t b, fh1_cache_part part);
fh1_status fh1_cache_row_read(const fh1_cache *c, int64_t b, int64_t layer, fh1_cache_part part, void *out);
fh1_status fh1_cache_row_write(fh1_cache *c, int64_t b, int64_t layer, fh1_cache_part part, const void *in);

/* Move the contents into `store`, which has c's rows, empty. Afterwards it belongs to c and the arrays of the rows are
 * gone; on failure c is as it was and the store stays the caller's. */
fh1_status fh1_cache_attach(fh1_cache *c, void *store, const fh1_cache_store *ops);

size_t fh1_cache_bytes(const fh1_cache *c); /* the store's bytes included */
