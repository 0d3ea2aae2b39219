/* Is what lies at a path whole? For `fh1 verify`.
 *
 * A model folder, an adapter folder, a native file, a GGUF file, a safetensors file (traces among them) is read to its
 * last byte and checked by every rule of its format. Damage is FH1_E_WRONG and names the first place; what is no such
 * thing, cannot be read, or changes meanwhile is FH1_E_INPUT. */
#pragma once

#include "convert/checkpoint.h"
#include "convert/text.h"

typedef struct {
    const char *kind; /* "model folder" … */
    int64_t tensors, files;
    uint64_t bytes;  /* read, all together */
    cvt_text notes;  /* what is odd but no damage: lines that end in '\n' */
    int64_t n_notes; /* beyond a bound they are only counted */
} cli_verified;

/* `out` is freed by the next function in any case. */
fh1_status cli_verify(const char *path, const cvt_progress *progress, cli_verified *out);
void cli_verified_free(cli_verified *v);

/* ---- for the cli/verify_*.c ---- */

void cli_verify_note(cli_verified *v, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* What is seen while somebody writes is no damage: is it the same file, unchanged, and what to say if not. */
struct stat;
bool cli_same_file(const struct stat *a, const struct stat *b);
/* The same error as damage; others than FH1_E_INPUT stay what they are. */
fh1_status cli_damage(fh1_status s);

fh1_status cli_verify_model_folder(const char *dir, const cvt_progress *progress, cli_verified *out);
fh1_status cli_verify_adapter_folder(const char *dir, const cvt_progress *progress, cli_verified *out);
fh1_status cli_verify_safetensors(const char *path, const cvt_progress *progress, cli_verified *out);

/* Reads every tensor and every side file; NaN and infinity in floats become notes. */
fh1_status cli_verify_contents(cvt_ckpt *c, const cvt_progress *progress, cli_verified *out);
/* The same for one file of safetensors, by its open header. */
struct cvt_st;
fh1_status cli_verify_values(const struct cvt_st *f, const cvt_progress *progress, cli_verified *out);

/* Counts of NaN and infinity in n elements of a float type, and the first of them (n: none). */
typedef struct {
    int64_t nan, inf, first;
} cli_odd_values;
cli_odd_values cli_find_odd(const void *data, fh1_dtype dtype, int64_t n);
