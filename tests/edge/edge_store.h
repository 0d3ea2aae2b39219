/* What the cases of files share: models written and opened again, refusals, and what is asked of malloc. */
#pragma once

#include "convert/checkpoint.h"
#include "convert/merge.h"
#include "tests/edge/edge.h"

enum { EDGE_PATH = 320 };

/* r->folder/name */
const char *edge_path(const edge_run *r, const char *name, char buf[EDGE_PATH]);
fh1_status edge_text(const edge_run *r, const char *name, const char *text); /* a file of this text, replaced */

/* Of a converter, which a planted fault may make fail: FH1_E_WRONG then. */
fh1_status edge_accepted(edge_run *r, fh1_status s, const char *what);
/* FH1_E_WRONG unless `s` is FH1_E_INPUT and its line has this word. */
fh1_status edge_refused(edge_run *r, fh1_status s, const char *word, const char *what);

/* ---- models as files ---- */

/* How config.json tells the rotation: in the form of transformers 5.x, of 4.5x, in both, or in words of the caller. */
typedef enum { EDGE_FORM_5, EDGE_FORM_4, EDGE_FORM_BOTH } edge_form;
/* The text of config.json, malloc'ed; `more`: further members, each ending with a comma ("": none). */
fh1_status edge_config_text(const fh1_config *c, fh1_dtype dtype, edge_form form, const char *more, char **out);
/* A folder `name` with config.json and model.safetensors, */
fh1_status edge_save(edge_run *r, const fh1_model *m, const char *name, edge_form form);
/* The weights alone. */
fh1_status edge_save_weights(const edge_run *r, const fh1_model *m, const char *path);

/* Bit for bit the same tensors and the same config: `what` names them in the message. */
fh1_status edge_same_model(edge_run *r, const fh1_model *a, const fh1_model *b, const char *what);
/* Largest difference of logits over their RMS, both models run by the truth on the same words; 9 columns, two rows. */
fh1_status edge_distance(edge_run *r, const fh1_model *a, const fh1_model *b, double *out);
/* What `path` holds is opened and judged on the engine under a short schedule; `like` (NULL: none) must have the same
 * logits in f64 within `most` of edge_distance. */
fh1_status edge_check_file(edge_run *r, const char *path, const fh1_model *like, double most);
/* The same of a model that is open. */
fh1_status edge_check_short(edge_run *r, const fh1_model *m);

/* ---- adapters ---- */

/* One tensor of an adapter: "MODULE.lora_A.weight", numbers scale·normal from the run's seed. */
typedef struct {
    const char *name;
    int64_t n0, n1; /* n1 = 0: a vector */
    double scale;
} edge_adapter_tensor;
/* A folder with adapter_config.json {"peft_type":"LORA",MEMBERS} and the tensors, up to a name that is NULL. */
fh1_status edge_save_adapter(const edge_run *r, const char *name, const char *members, const edge_adapter_tensor *t);
/* BASE with the adapter merged in f64, written as the folder `out` and opened. The merge's own errors come back. */
fh1_status edge_merge(const edge_run *r, const char *base, const char *adapter, const char *out, cvt_rounding rounding);

/* ---- malloc ---- */

void edge_alloc_begin(void);
/* The largest single request since then, by anything that is linked into the program. */
size_t edge_alloc_largest(void);
