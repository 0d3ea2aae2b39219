/* Which image of the base an adapter is merged onto: a quantised model has two, the one that QLoRA trained on and the
 * one that it was quantised from. */
#pragma once

#include "convert/checkpoint.h"

typedef struct {
    const char *path;     /* BASE */
    const char *image;    /* --base-image: "quantised", "original" or NULL */
    const char *original; /* --original DIR or NULL */
} cli_base_choice;

/* The base to merge onto, decoded when it is quantised (in the type that its config names); `other` is the other image
 * where there is one, else NULL. `model`: the path that holds the base's files and config. Both are the caller's. */
fh1_status cli_merge_base(const cli_base_choice *choice, cvt_ckpt **base, cvt_ckpt **other, const char **model);
/* The same base once more, NULL when `model` itself can be opened as a model. */
fh1_status cli_merge_base_image(const cli_base_choice *choice, cvt_ckpt **out);

/* A quantised checkpoint, decoded in the type that its config names. Takes c over, also when it fails. */
fh1_status cli_decode(cvt_ckpt *c, cvt_ckpt **out);
