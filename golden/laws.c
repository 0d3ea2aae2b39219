/* The registry of the laws. */
#include "golden/law_impl.h"

#include <string.h>

static const gld_law laws[] = {
    {"prefix", "the first outputs do not depend on how many more tokens a call has", gld_law_prefix},
    {"split", "one call and several leave the same logits, keys, values, window and state", gld_law_split},
    {"decode_prefill", "steps of one token go on as a prefill would", gld_law_decode_prefill},
    {"single_token", "one token on an empty cache is a prefill, in a new cache and in a used one",
     gld_law_single_token},
    {"causality", "another id leaves every bit before it and moves what comes after", gld_law_causality},
    {"run_to_run", "the same calls give the same bits, with one thread and with two", gld_law_run_to_run},
    {"packing", "documents in one row compute what each computes alone", gld_law_packing},
    {"cut_documents", "the same where calls cut the row at, before and behind a border", gld_law_cut_documents},
    {"padding_left", "rows padded on the left compute what they compute alone", gld_law_padding_left},
    {"padding_right", "rows padded on the right compute what they compute alone", gld_law_padding_right},
    {"state_of_padding", "a row of nothing but padding keeps a window and a state of zeros", gld_law_state_of_padding},
    {"batch_mate", "neighbours do not count: other words, other lengths, none", gld_law_batch_mate},
    {"batch_permutation", "ragged rows in another order compute the same", gld_law_batch_permutation},
    {"snapshot", "a restored snapshot is the moment it was taken, again and again", gld_law_snapshot},
    {"fork", "a copy and its original go on without each other", gld_law_fork},
    {"reorder", "rows that change places take everything along: beams", gld_law_reorder},
    {"reset", "a reset cache is a new one", gld_law_reset},
    {"truncate", "a row keeps all tokens or none; anything else is refused", gld_law_truncate},
    {"chunk_length", "the scan in chunks of any length is the recurrence", gld_law_chunk_length},
    {"linearity", "the scan is linear in x and state at fixed gates", gld_law_linearity},
    {"head_permutation", "heads in another order compute the same: groups are runs", gld_law_head_permutation},
    {"rope_shift", "positions larger by a constant change nothing but the keys", gld_law_rope_shift},
    {"norm_scale", "a norm of c·x with eps·c² is the norm of x", gld_law_norm_scale},
    {"softmax_shift", "the same added to all scores changes nothing", gld_law_softmax_shift},
};

const gld_law *gld_law_at(int i)
{
    return i >= 0 && (size_t)i < sizeof laws / sizeof *laws ? &laws[i] : NULL;
}

const gld_law *gld_law_find(const char *name)
{
    for (int i = 0; gld_law_at(i); ++i)
        if (strcmp(laws[i].name, name) == 0) return &laws[i];
    return NULL;
}
