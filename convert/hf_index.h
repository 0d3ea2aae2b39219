/* The files that hold the weights of a Hugging Face folder, opened and audited. */
#pragma once

#include "convert/safetensors.h"

typedef struct {
    cvt_st **files; /* n_files, closed by cvt_hf_files_close */
    int64_t n_files;
} cvt_hf_files;

/* model.safetensors, or else the shards that model.safetensors.index.json names. The index must be exact:
 * plain file names, every file there, every tensor in the file it is mapped to and in no other, no tensor
 * unmapped, and the right total_size if there is one. Weight files that are left out get one warning line
 * on stderr. */
fh1_status cvt_hf_files_open(const char *dir, cvt_hf_files *out);
void cvt_hf_files_close(cvt_hf_files *f);
