/* The cases of the chapter on padding; the table stands in edge_padding.c. */
#pragma once

#include "tests/edge/edge_rows.h"

/* edge_padding_rows.c: what stands at padding, and rows of nothing else */
fh1_status edge_pad_ids(edge_run *r);
fh1_status edge_pad_embeddings(edge_run *r);
fh1_status edge_zero_before_first(edge_run *r);
fh1_status edge_neighbour(edge_run *r);
fh1_status edge_empty_row(edge_run *r);
/* edge_masks.c: masks themselves, and who sees what */
fh1_status edge_hole(edge_run *r);
fh1_status edge_mask_values(edge_run *r);
fh1_status edge_mask_length(edge_run *r);
fh1_status edge_blind_queries(edge_run *r);
fh1_status edge_causality(edge_run *r);
