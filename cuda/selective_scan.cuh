/* The selective scan of Mamba-1, a state of N numbers per channel: per row and channel i, with a = exp(dt[i]·A[i,n]),
 *   S[n] = a·S[n] + dt[i]·B[n]·x[i],   y[i] = R(Σ_n S[n]·C[n] + D[i]·x[i]),
 * S [I,N] in f32, zero at the first token of a document (by selection), else the row's state. Afterwards the state is
 * that after the row's last token. B and C are shared by all channels. Where z is given the gate follows in the same
 * kernel: gated = R(R(y)·silu(z)). Decays are powers of two, of dt·(A·log2 e) in f32. */
#pragma once

#include "cuda/tokens.h"

namespace CU_NS
{

struct cu_selective {
    cu_type type;
    cu_tokens t;
    int I, N;
    const void *x; /* [M, ldx] */
    int64_t ldx;
    const void *B, *C; /* [M, ldbc] each */
    int64_t ldbc;
    const float *dt; /* [M, I] */
    const float *A;  /* [I, N] -exp(A_log) */
    const float *D;  /* [I] */
    float *state;    /* [slots, I, N], read and updated */
    const int *slot; /* [B] */
    void *y;         /* [M, I], or NULL */
    const void *z;   /* [M, ldz], or NULL: no gate */
    int64_t ldz;
    void *gated; /* [M, I] */
};

/* Many tokens per row: a few lanes share a channel, the state in registers, tokens in tiles. */
fh1_status cu_selective_scan_fwd(cu_ctx *k, const cu_selective *a);
/* One token per row: all loads of the state at once, 16 bytes a lane. */
fh1_status cu_selective_step_fwd(cu_ctx *k, const cu_selective *a);
/* What both fall back to: any shape, the state where it is stored. */
fh1_status cu_selective_general_fwd(cu_ctx *k, const cu_selective *a);

/* For the way back: the states of columns n0 .. n0+256 before token 0, every, 2·every … of each row, f32; nothing else
 * is written. Row b's are marks[row_begin[b] / every + b] and those behind it, [I, N] each. A state or slots that are
 * NULL: no row goes on; slot b is row b. `every` of the shape: cu_selective_every. */
int cu_selective_every(int N);
fh1_status cu_selective_marks(cu_ctx *k, const cu_selective *a, int n0, float *marks);

/* How threads are cut, for N <= 16, 64 and above: lanes of a channel, columns of the state in each, tokens between two
 * marks. */
struct cu_selective_narrow {
    static constexpr int LANES = 4, PER = 4, TILE = 32, EVERY = 8;
};
struct cu_selective_middle {
    static constexpr int LANES = 16, PER = 4, TILE = 16, EVERY = 8;
};
struct cu_selective_wide {
    static constexpr int LANES = 32, PER = 8, TILE = 8, EVERY = 4;
};
enum { CU_SELECTIVE_THREADS = 128, CU_SELECTIVE_COLUMNS = 256 };

} // namespace CU_NS
