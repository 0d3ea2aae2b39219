/* The runs of the chapters on files, one file per topic; the cases stand in edge_files.c and edge_found.c. */
#pragma once

#include "tests/edge/edge_store.h"

/* edge_merges.c */
fh1_status edge_merges_of_peft(edge_run *r);    /* D-89 */
fh1_status edge_merge_again(edge_run *r);       /* D-93 */
fh1_status edge_merge_onto_images(edge_run *r); /* D-94 */
fh1_status edge_merge_initial(edge_run *r);     /* D-92 */
/* edge_adapters.c */
fh1_status edge_merge_closed_form(edge_run *r); /* D-90 */
fh1_status edge_merge_dora(edge_run *r);        /* D-91 */
fh1_status edge_merge_tied(edge_run *r);        /* D-96 */
fh1_status edge_adapter_coverage(edge_run *r);  /* D-110 */
/* edge_images.c */
fh1_status edge_merge_onto_images(edge_run *r); /* D-94 */
/* edge_folds.c */
fh1_status edge_folds(edge_run *r);         /* D-95 */
fh1_status edge_convert_twice(edge_run *r); /* D-100 */
/* edge_headers.c, edge_index.c, edge_nf4.c */
fh1_status edge_headers(edge_run *r); /* D-98 */
fh1_status edge_index(edge_run *r);   /* D-97 */
fh1_status edge_nf4(edge_run *r);     /* D-99 */
/* edge_pads.c */
fh1_status edge_left_pads(edge_run *r);   /* D-101 */
fh1_status edge_right_pads(edge_run *r);  /* D-102 */
fh1_status edge_conv_widths(edge_run *r); /* D-105 */
/* edge_configs.c */
fh1_status edge_config_forms(edge_run *r);    /* D-103 */
fh1_status edge_loaded_types(edge_run *r);    /* D-104 */
fh1_status edge_init_statistics(edge_run *r); /* D-112 */
/* edge_families.c */
fh1_status edge_mamba_configs(edge_run *r); /* D-113 */
fh1_status edge_block_configs(edge_run *r); /* D-114 */
/* edge_tensors.c */
fh1_status edge_each_tensor(edge_run *r);     /* D-106 */
fh1_status edge_ranges(edge_run *r);          /* D-107 */
fh1_status edge_restore_counted(edge_run *r); /* D-109 */
fh1_status edge_tiny_rows(edge_run *r);       /* D-111 */
/* edge_saves.c */
fh1_status edge_saves(edge_run *r); /* D-108 */

/* ---- merges in closed form ---- */

/* What an adapter of edge_save_adapter adds to MODULE.weight [out, in]: scale·B·A, of an embedding [V, D] its
 * transpose. */
typedef struct {
    const char *module;
    int64_t out, in, r;
    double scale, size; /* of the adapter's numbers: size·normal */
    bool embedding, bias, dora;
} edge_delta;

/* Every tensor of `merged` is the base's plus its difference, to one rounding of its type and the error of an f64 sum;
 * those without one are the base's bit for bit. The list ends with module NULL. A tied base whose ends differ
 * afterwards is compared by the two ends. */
fh1_status edge_is_merged(edge_run *r, const fh1_model *base, const fh1_model *merged, const edge_delta *d);
/* The adapter's folder of such a list. */
fh1_status edge_save_deltas(const edge_run *r, const char *name, const char *members, const edge_delta *d);

/* ---- GGUF ---- */

/* Takes the private keys of fh1 out of a file in r->folder, so that it is read as one of llama.cpp's: by the keys and
 * weights that stock readers see. */
fh1_status edge_hide_private(edge_run *r, const char *name);
/* What folded f32 weights may move the logits by, over their RMS (edge_distance). Each fold rounds a weight by 2^-24 of
 * it; a logit hangs on fewer than 2^5 products in a row, through which a relative error grows less than 2^4-fold. */
#define EDGE_FOLDED 0x1p-15
