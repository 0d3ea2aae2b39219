/* Moving state: snapshots, slots, resets, batches that change. */
#include "tests/edge/edge.h"

static fh1_status reset_is_new(edge_run *r)
{
    return edge_named_law(r, "reset", 20);
}

const edge_case edge_state[] = {
    {.id = "D-47",
     .title = "reset, then the object again",
     .setup = "a cache that has seen other words is reset and used for the text",
     .invariant = "logits, keys, values, window and state are those of a new cache, bit for bit",
     .catches = "HF10a read in source: transformers",
     .faults = "reset_keeps_keys reset_keeps_conv reset_keeps_ssm reset_keeps_positions",
     .engines = EDGE_ALL,
     .run = reset_is_new},
    {.id = NULL},
};
