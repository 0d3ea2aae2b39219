/* The registry of the laws. */
#include "golden/law_impl.h"

#include <string.h>

enum { OF_H1 = 1u << FH1_FALCON_H1, OF_MAMBA = 1u << FH1_FALCON_MAMBA };

static const gld_law laws[] = {
    {"prefix", "the first outputs do not depend on how many more tokens a call has", gld_law_prefix, 0},
    {"split", "one call and several leave the same logits, keys, values, window and state", gld_law_split, 0},
    {"decode_prefill", "steps of one token go on as a prefill would", gld_law_decode_prefill, 0},
    {"single_token", "one token on an empty cache is a prefill, in a new cache and in a used one", gld_law_single_token,
     0},
    {"causality", "another id leaves every bit before it and moves what comes after", gld_law_causality, 0},
    {"run_to_run", "the same calls give the same bits, with one thread and with two", gld_law_run_to_run, 0},
    {"packing", "documents in one row compute what each computes alone", gld_law_packing, 0},
    {"cut_documents", "the same where calls cut the row at, before and behind a border", gld_law_cut_documents, 0},
    {"padding_left", "rows padded on the left compute what they compute alone", gld_law_padding_left, 0},
    {"padding_right", "rows padded on the right compute what they compute alone", gld_law_padding_right, 0},
    {"state_of_padding", "a row of nothing but padding keeps a window and a state of zeros", gld_law_state_of_padding,
     0},
    {"batch_mate", "neighbours do not count: other words, other lengths, none", gld_law_batch_mate, 0},
    {"batch_permutation", "ragged rows in another order compute the same", gld_law_batch_permutation, 0},
    {"snapshot", "a restored snapshot is the moment it was taken, again and again", gld_law_snapshot, 0},
    {"fork", "a copy and its original go on without each other", gld_law_fork, 0},
    {"reorder", "rows that change places take everything along: beams", gld_law_reorder, 0},
    {"reset", "a reset cache is a new one", gld_law_reset, 0},
    {"truncate", "a row keeps all tokens or none; anything else is refused", gld_law_truncate, 0},
    {"chunk_length", "the scan in chunks of any length is the recurrence", gld_law_chunk_length, OF_H1},
    {"linearity", "the scan is linear in x and state at fixed gates", gld_law_linearity, 0},
    {"head_permutation", "heads in another order compute the same: groups are runs", gld_law_head_permutation, 0},
    {"rope_shift", "positions larger by a constant change nothing but the keys", gld_law_rope_shift, OF_H1},
    {"inner_norm_scale", "x_proj times a power of two and mixer_rms_eps times its square change no bit",
     gld_law_inner_norm_scale, OF_MAMBA},
    {"norm_scale", "a norm of c·x with eps·c² is the norm of x", gld_law_norm_scale, 0},
    {"softmax_shift", "the same added to all scores changes nothing", gld_law_softmax_shift, 0},
};

const gld_law *gld_law_at(int i)
{
    return i >= 0 && (size_t)i < sizeof laws / sizeof *laws ? &laws[i] : NULL;
}

bool gld_law_concerns(const gld_law *law, fh1_family family)
{
    return law->families == 0 || (law->families & 1u << family) != 0;
}

const gld_law *gld_law_find(const char *name)
{
    for (int i = 0; gld_law_at(i); ++i)
        if (strcmp(laws[i].name, name) == 0) return &laws[i];
    return NULL;
}
