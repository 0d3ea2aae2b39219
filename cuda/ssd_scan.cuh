/* The scan: per row and head h, group g = h / (H/G), with a = exp(dt·A[h]),
 *   S = a·S + dt·x ⊗ B[g],   y = R(S·C[g] + D[h]·x),
 * S [P,N] in f32, zero at the first token of a document, else the row's state. Afterwards the state is that after the
 * row's last token. Three ways, one function (oracle/contract.h, cuda-bf16): token by token (the general path, and
 * f32), in three kernels over spans of chunks (span states, the pass between spans, outputs), and fused in one. */
#pragma once

#include "cuda/tokens.h"

namespace CU_NS
{

struct cu_ssd {
    cu_type type;
    cu_tokens t;
    int H, P, N, G;
    const void *xbc; /* [M, ldx]: x [H,P] | B [G,N] | C [G,N] */
    int64_t ldx;
    const float *dt; /* [M, H] */
    const float *A;  /* [H] -exp(A_log) */
    const float *D;  /* [H] */
    float *state;    /* [slots, H, P, N], read and updated */
    const int *slot; /* [B] */
    void *y;         /* [M, H·P] */
    void *scratch;   /* cu_ssd_scratch bytes, may be NULL where that is 0, and under CU_SSD_AUTO */
};

enum cu_ssd_way { CU_SSD_AUTO, CU_SSD_SEQUENTIAL, CU_SSD_CHUNKS, CU_SSD_FUSED };

/* Bytes that `way` needs for calls of up to M tokens in up to B rows with these shapes. */
size_t cu_ssd_scratch(const cu_ssd *a, cu_ssd_way way, int M, int B);
/* A way that these shapes cannot take becomes the sequential one. */
fh1_status cu_ssd_scan_fwd(cu_ctx *k, const cu_ssd *a, cu_ssd_way way);

/* The ways one by one, for cu_ssd_scan_fwd. Those over chunks ask that cu_ssd_tiled says yes, and that the device has
 * the shared memory: for two chunks at a time (2), where `several` follow each other, for one (1), or not (0). */
bool cu_ssd_tiled(const cu_ssd *a);
int cu_ssd_stages(const cu_ctx *k, const cu_ssd *a, bool several);
fh1_status cu_ssd_fused_fwd(cu_ctx *k, const cu_ssd *a);
fh1_status cu_ssd_chunk_fwd(cu_ctx *k, const cu_ssd *a);
size_t cu_ssd_chunk_scratch(const cu_ssd *a, int M, int B);

} // namespace CU_NS
