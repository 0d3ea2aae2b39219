/* What bitsandbytes keeps beside a quantised weight, and the arithmetic that turns both into numbers again. Pure
 * functions; convert/bnb.h reads the parts. */
#pragma once

#include "oracle/tensor.h"

typedef enum { CVT_BNB_NF4, CVT_BNB_FP4, CVT_BNB_INT8, CVT_BNB_KINDS } cvt_bnb_kind;

const char *cvt_bnb_kind_name(cvt_bnb_kind k); /* "nf4", "fp4", "int8" */

#define CVT_BNB_STATE_BYTES 4096 /* of the JSON; real ones have 80 to 170 */
#define CVT_BNB_MAP 256          /* entries of the map of doubly quantised scales */

/* The JSON of `quant_state.bitsandbytes__KIND`. */
typedef struct {
    cvt_bnb_kind kind;
    int64_t blocksize;
    fh1_dtype dtype; /* of the decoded weight */
    int rank;
    int64_t shape[FH1_MAX_RANK], n_elems;
    bool nested; /* the scales are quantised too */
    int64_t nested_blocksize;
    float nested_offset;
} cvt_bnb_state;

/* Strict: every key that bitsandbytes 0.50.2 writes and no other. `kind` is what the tensor's name says. */
fh1_status cvt_bnb_state_parse(const char *json, size_t n, cvt_bnb_kind kind, const char *what, cvt_bnb_state *out);

/* The sixteen values of a 4-bit code. */
const float *cvt_bnb_codes(cvt_bnb_kind kind);

/* Scales from bytes: fl(fl(map[code] · absmax[i div blocksize]) + offset). `first` is the number of code[0], absmax[0]
 * the scale of the block that holds it. */
void cvt_bnb_scales(const uint8_t *code, const float *map, const float *absmax, float offset, int64_t blocksize,
                    int64_t first, int64_t n, float *out);

/* Weights [first, first + n) of the flat numbering, blocks included: fl(codes[nibble] · scale[i div blocksize]).
 * packed[0] holds number first & ~1, scale[0] belongs to the block of number `first`. */
void cvt_bnb_decode4(cvt_bnb_kind kind, const uint8_t *packed, const float *scale, int64_t blocksize, int64_t first,
                     int64_t n, float *out);

/* One row: fl(fl(q · scb) · fl(1/127)). */
void cvt_bnb_decode8(const int8_t *q, float scb, int64_t n, float *out);
