/* The cases of the chapter on positions; the table stands in edge_positions.c. */
#pragma once

#include "tests/edge/edge_rows.h"

/* edge_rope.c */
fh1_status edge_rope_tables(edge_run *r);
fh1_status edge_rope_layout(edge_run *r);
