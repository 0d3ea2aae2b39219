/* The parts of the export to GGUF. Internal to the gguf_*.c. */
#pragma once

#include "convert/checkpoint.h"
#include "convert/gguf.h"
#include "convert/gguf_map.h"

/* A checkpoint whose weights already contain the multipliers says so: in config.json, or in the metadata of its
 * safetensors files. */
#define CVT_GGUF_FOLDED_KEY "fh1_folded"
#define CVT_GGUF_FOLDED_META "fh1.folded"

/* Private keys: what the format has no place for. Stock llama.cpp ignores them. */
#define CVT_GGUF_KEY_VERSION "fh1.version"     /* uint32: of the private keys */
#define CVT_GGUF_KEY_FOLDED "fh1.folded"       /* bool */
#define CVT_GGUF_KEY_TOOL "fh1.tool"           /* name and version of the writer */
#define CVT_GGUF_KEY_FILES "fh1.files"         /* names of side files; the contents are fh1.file.0, … */
#define CVT_GGUF_KEY_LEFT_OUT "fh1.left_out"   /* names of those that are too large */
#define CVT_GGUF_KEY_TENSORS "fh1.tensors"     /* names of the original tensors */
#define CVT_GGUF_KEY_DTYPES "fh1.dtypes"       /* and their types */
#define CVT_GGUF_KEY_META "fh1.metadata"       /* key, value, key, … of the safetensors metadata */
#define CVT_GGUF_KEY_KEPT "fh1.originals"      /* names of originals that folding loses: fh1.original.0, … */
#define CVT_GGUF_KEY_INEXACT "fh1.inexact"     /* uint64 [2]: elements that do not come back, of how many */
#define CVT_GGUF_KEY_CHECKSUMS "fh1.checksums" /* uint64: XXH3-64 of the table of tensors, then of each tensor */
#define CVT_GGUF_PRIVATE_VERSION 1

bool cvt_gguf_is_source(const cvt_ckpt *c); /* opened by cvt_gguf_open */

/* llama.cpp's graph falcon-h1 is that of Falcon-H1 in the order SA_M, which is all that these files hold. `where`: the
 * config.json. */
fh1_status cvt_gguf_check_graph(const fh1_config *g, const char *where);

/* Refuses what stock llama.cpp cannot represent, and what is folded already. */
fh1_status cvt_gguf_check_config(cvt_ckpt *c, const cJSON *config, const fh1_config *g);

/* Tensor by tensor, what is written and from what. */
typedef struct {
    const cvt_gguf_entry *e;
    int64_t source; /* tensor of the checkpoint; -1: zeros */
    const cvt_gguf_format *format;
    int64_t written; /* index in the file; -1: not written */
    bool kept;       /* the original travels in a private key */
} cvt_gguf_job;

/* The keys of the model, of its vocabulary, and the private ones. */
fh1_status cvt_gguf_put_model_keys(cvt_gguf_writer *w, cvt_ckpt *c, const fh1_config *g, cvt_gguf_type type);
fh1_status cvt_gguf_put_vocabulary(cvt_gguf_writer *w, cvt_ckpt *c, const fh1_config *g);
fh1_status cvt_gguf_put_private(cvt_gguf_writer *w, cvt_ckpt *c, cvt_gguf_job *jobs, int64_t n);

/* One piece: rows [first, first + n) as they are stored in the file; counts the elements that do not come back. */
fh1_status cvt_gguf_fold_piece(cvt_ckpt *c, const cvt_gguf_job *j, int64_t first, int64_t n, unsigned char *out,
                               uint64_t *inexact);
uint64_t cvt_gguf_row_bytes(const cvt_gguf_job *j); /* in the file */
