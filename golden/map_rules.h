/* The parsed form of a map file, shared by its reader (map_read.c) and its users (map.c). */
#pragma once

#include "golden/map.h"

/* Sizes of a reshape that are no numbers; a number is positive. */
enum { GLD_SIZE_B = -10, GLD_SIZE_T, GLD_SIZE_S, GLD_SIZE_REST };

#define GLD_MAX_OPS 4

typedef struct {
    bool is_reshape; /* otherwise transpose */
    int n;
    int64_t arg[FH1_MAX_RANK]; /* sizes, or the order of the axes */
    char text[64];             /* as written, for messages */
} gld_map_op;

typedef struct {
    int line;
    char *foreign, *ours; /* with placeholders; ours without its step */
    int64_t step;         /* stepN/ before ours, -1 without: {j} of the foreign name or 0 */
    gld_map_op ops[GLD_MAX_OPS];
    int n_ops;
} gld_rule;

struct gld_map {
    char path[1024];
    gld_rule *rules;
    int n_rules;
    char **ignored; /* globs */
    int n_ignored;
};

bool gld_map_number(const char **s, int64_t *out);
/* A tap of a model with this config (NULL: of any), gradient or input name without a step: sets kind, and id and layer,
 * grad, or input. */
bool gld_map_ours(const fh1_config *c, const char *ours, int64_t n_layers, gld_name *out);
/* Levenshtein distance of a (n_a characters) and b, or anything above `limit` once it is sure to exceed it. */
int gld_map_distance(const char *a, int n_a, const char *b, int limit);
/* `ours` with the layer for {i}; false when it does not fit. */
bool gld_map_expand(const char *ours, int64_t layer, char *buf, size_t size);
