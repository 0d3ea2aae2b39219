/* Shared by edge.c, edge_main.c and edge_page.c. */
#pragma once

#include "tests/edge/edge.h"

#include <stdio.h>

extern const edge_chapter edge_chapters[]; /* ends with title NULL */
const edge_case *edge_find(const char *id);

void edge_engines_free(edge_run *r);

/* Whether a fault of this name needs the other program. */
bool edge_planted_elsewhere(const char *name);
/* Runs it ("D-90 --fault NAME …"): true where the case turned red, with the reason in `line`. */
bool edge_run_elsewhere(const char *command, char *line, size_t size);

/* Cases for the test of the harness itself, of which so many runs are bad. Ends with id NULL. */
typedef struct {
    edge_case the_case;
    int64_t bad;
} edge_liar;
extern const edge_liar edge_liars[];

/* docs/edge_cases.md. */
void edge_page(FILE *out);
