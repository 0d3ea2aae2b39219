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
/* The same audit on headers that are read into memory (cvt_st_open_header), without warnings; no files when the folder
 * has neither of the two. */
fh1_status cvt_hf_files_scan(const char *dir, cvt_hf_files *out);
/* What cvt_hf_files_open says of a folder without weights. */
fh1_status cvt_hf_no_weights(const char *dir);
void cvt_hf_files_close(cvt_hf_files *f);
