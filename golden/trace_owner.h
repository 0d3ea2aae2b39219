/* The memory behind a gld_trace, for the files that build one. */
#pragma once

#include "convert/safetensors.h"
#include "golden/trace.h"

/* n_bytes of zeroes that live as long as the trace. */
fh1_status gld_trace_alloc(gld_trace *t, size_t n_bytes, const char *for_what, void **out);
/* Takes over a malloc'ed block, or an open file that views point into; freed at once if that fails. */
fh1_status gld_trace_adopt(gld_trace *t, void *block);
void gld_trace_adopt_file(gld_trace *t, cvt_st *file);
/* Room for one more tap in its place by order; its fields are set by the caller. FH1_E_INTERNAL if the
 * step has that tap already. */
fh1_status gld_step_insert(gld_step *s, fh1_tap_id id, int64_t layer, gld_tap **out);
/* The trace holds a tap of this type (gld_trace.dtype). */
void gld_trace_note_dtype(gld_trace *t, fh1_dtype dtype);
/* Puts a gradient in its place; FH1_E_INTERNAL if it is there already. */
fh1_status gld_step_put_grad(gld_step *s, const char *name, int64_t param, const fh1_tensor *t);
/* "'name' has another shape": expected and found, with what a map file could do. */
fh1_status gld_trace_wrong_shape(const char *name, const char *than, const fh1_tensor *found,
                                 const fh1_tensor *expected);
/* Reads one gradient; `list` is made of the model's parameters when it is first needed, freed by the caller. */
fh1_status gld_trace_read_grad(gld_step *s, const fh1_model *m, fh1_grads **list, const char *file_name,
                               const char *param, const fh1_tensor *t);
const gld_tap *gld_step_find(const gld_step *s, fh1_tap_id id, int64_t layer);
