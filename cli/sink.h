/* Where convert and merge write a checkpoint to: a format by name or by the target's name, checks that the sources stay
 * intact, progress, and what came out. */
#pragma once

#include "convert/checkpoint.h"
#include "convert/gguf.h"

typedef enum { CLI_TO_HF, CLI_TO_FH1, CLI_TO_GGUF } cli_format;

/* "hf", "fh1", "gguf"; NULL: by the name of `out` (.fh1, .gguf, else a Hugging Face folder). */
fh1_status cli_format_parse(const char *to, const char *out, cli_format *f);
const char *cli_format_name(cli_format f);

/* FH1_E_INPUT when writing `out` would touch `source`: the same file or folder by any path or link, one inside the
 * other, or a file of the source folder that is a link into `out`. `c`: the opened source, may be NULL. */
fh1_status cli_check_apart(const char *source, const cvt_ckpt *c, const char *out);

typedef struct {
    const char *what; /* "convert"; a literal */
    cli_format to;
    cvt_gguf_type gguf;
    bool force; /* an existing target is replaced if it is a model */
    bool quiet;
} cli_sink;

/* Writes all of c, laid out by the sink. */
fh1_status cli_write(cvt_ckpt *c, const char *out, const cli_sink *sink);

/* Sentences of cvt_gguf_losses, as notes on stderr. */
void cli_print_losses(const char *path, const char *losses);
/* What the way back from a new GGUF file could not undo, and a type that was asked for and fits no matrix. */
void cli_print_folding(const char *path, cvt_gguf_type asked);

/* Bytes of a model file, or of all files of the folder that c is (laid out). */
uint64_t cli_model_bytes(const char *path, const cvt_ckpt *c);

/* "500MB", "5GB", "2.5TB", "1KB" (powers of ten, as Hugging Face), or bytes. */
fh1_status cli_shard_size(const char *text, uint64_t *out);
