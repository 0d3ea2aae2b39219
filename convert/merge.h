/* Merging adapters into a base: a view whose tensors are computed, rows at a time, when a sink reads them. */
#pragma once

#include "convert/adapter.h"

/* How W and ΔW are rounded. EXACT: all in f64, one rounding. The others repeat the chain of a library bit for bit. */
typedef enum {
    CVT_ROUND_EXACT,
    CVT_ROUND_PEFT,            /* merge_and_unload(), adapter in f32 */
    CVT_ROUND_PEFT_SAFE,       /* safe_merge=True */
    CVT_ROUND_PEFT_NOAUTOCAST, /* autocast_adapter_dtype=False */
    CVT_ROUND_PEFT_LOW_MEMORY, /* low_cpu_mem_usage=True on a 16-bit base */
    CVT_ROUND_UNSLOTH16,       /* from source, unproven */
    CVT_ROUND_COUNT
} cvt_rounding;

const char *cvt_rounding_name(cvt_rounding r); /* "exact", "peft", "peft-safe", … */
bool cvt_rounding_parse(const char *name, cvt_rounding *out);

typedef struct {
    const cvt_adapter *adapter;
    double weight; /* of its ΔW, 1 unless the user gave ADAPTER=W; exact rounding and plain LoRA only */
} cvt_merge_part;

typedef struct {
    cvt_rounding rounding;
    /* The other image of a base that was quantised: the original where `base` is the dequantised one, or the other way
     * round. Stays the caller's; NULL: there is none. */
    cvt_ckpt *other_image;
    /* Per adapted matrix: RMS of s·B·A, and of what quantisation changed (-1: no other image). May be NULL. */
    void (*tell)(void *user, const char *tensor, double rms_delta, double rms_quantisation);
    void (*warn)(void *user, const char *sentence); /* may be NULL */
    void *user;
} cvt_merge_options;

/* A view of `base`, which it takes over also when it fails, with the adapters merged one after the other: weights,
 * replacements, token rows, ties (docs/merge.md), provenance in the metadata. The adapters stay the caller's and must
 * outlive the view. The same adapter on a base that has it is refused. */
fh1_status cvt_ckpt_merge(cvt_ckpt *base, const cvt_merge_part *parts, int n, const cvt_merge_options *o,
                          cvt_ckpt **out);
