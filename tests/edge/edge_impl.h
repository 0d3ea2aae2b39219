/* Shared by edge.c, edge_main.c and edge_page.c. */
#pragma once

#include "tests/edge/edge.h"

#include <stdio.h>

extern const edge_chapter edge_chapters[]; /* ends with title NULL */
const edge_case *edge_find(const char *id);

void edge_engines_free(edge_run *r);

/* docs/edge_cases.md. */
void edge_page(FILE *out);
