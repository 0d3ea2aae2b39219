/* The scan in three kernels, for calls with too few rows and heads to fill the device one after another. A row is cut
 * into spans of a few chunks that blocks work on side by side: first the state that each span would leave behind if it
 * began empty, then a pass over the spans that puts the state before each of them in its place, then the outputs, each
 * span from its own state. Spans are wider in longer calls: the states that pass through memory are the price. */
#include "cuda/ssd_chunk.cuh"

namespace CU_NS
{
namespace
{

/* Chunks a span, so that long calls carry fewer states. */
int span_tokens(int M)
{
    return SSD_CHUNK * (M < 1024 ? 1 : M < 4096 ? 2 : 4);
}

/* Spans of row b have the numbers from first_span on. Enough of them: a row of n tokens that begins at r has
 * ceil(n / span) <= (r + n) / span - r / span + 1 (integer quotients) spans. */
CU_FN int64_t first_span(const cu_ssd &a, int row, int span)
{
    return a.t.row_begin[row] / span + row;
}

size_t spans(int M, int B, int span)
{
    return static_cast<size_t>(M / span) + static_cast<size_t>(B);
}

/* Scratch: the states [spans, H, P, N], then how much of the state before is left after a span [spans, H], -1: none. */
struct span_states {
    int span, stages; /* tokens; of shared memory */
    float *state, *left;
};

CU_FN float *state_of(const cu_ssd &a, const span_states &w, int64_t at, int h)
{
    return w.state + (at * a.H + h) * a.P * static_cast<int64_t>(a.N);
}

/* grid (slices · H, spans of a row, rows), as the next */
template <int NT> __global__ void __launch_bounds__(SSD_THREADS, 1) ssd_span_states(cu_ssd a, span_states w, int slices)
{
    DYN_SMEM(base);
    ssd_tiles s;
    ssd_carve(&s, base, a.N, w.stages, false);
    const int row = blockIdx.z, h = blockIdx.x / slices, slice = blockIdx.x % slices;
    const ssd_place b = ssd_place_of(a, row, h, slice);
    const int64_t begin = a.t.row_begin[row] + static_cast<int64_t>(blockIdx.y) * w.span;
    const int64_t end = min(begin + w.span, static_cast<int64_t>(a.t.row_begin[row + 1]));
    if (begin >= end) return;
    const int64_t at = first_span(a, row, w.span) + blockIdx.y;
    float S[NT][2][4] = {};
    const float left = ssd_chunks<NT, false, true>(a, s, w.stages, b, begin, end, S);
    ssd_store_state<NT>(state_of(a, w, at, h), b, a.N, S);
    if (slice == 0 && threadIdx.x == 0) w.left[at * a.H + h] = left;
}

constexpr int PASS_THREADS = 128, AHEAD = 4; /* spans that are read before they are needed */

CU_FN float4 pass(float4 S, float left, float4 add)
{
    if (left < 0.f) return add; /* a document began: what was before is gone, whatever it was */
    return make_float4(fmaf(left, S.x, add.x), fmaf(left, S.y, add.y), fmaf(left, S.z, add.z), fmaf(left, S.w, add.w));
}

/* Four elements of the state a thread, over all spans of the row. grid (P·N / 4 / PASS_THREADS, H, rows) */
__global__ void __launch_bounds__(PASS_THREADS) ssd_span_pass(cu_ssd a, span_states w)
{
    const int row = blockIdx.z, h = blockIdx.y;
    const int64_t e = 4 * (static_cast<int64_t>(blockIdx.x) * PASS_THREADS + threadIdx.x);
    const int64_t begin = a.t.row_begin[row], tokens = a.t.row_begin[row + 1] - begin;
    if (tokens == 0 || e >= static_cast<int64_t>(a.P) * a.N) return;
    float4 *state = reinterpret_cast<float4 *>(
        a.state + (static_cast<int64_t>(a.slot[row]) * a.H + h) * a.P * static_cast<int64_t>(a.N) + e);
    const int64_t at = first_span(a, row, w.span), n = (tokens + w.span - 1) / w.span;
    float4 S = a.t.start[begin] < 0 ? *state : make_float4(0.f, 0.f, 0.f, 0.f);
    for (int64_t i0 = 0; i0 < n; i0 += AHEAD) {
        float4 add[AHEAD];
        float left[AHEAD];
#pragma unroll
        for (int i = 0; i < AHEAD; ++i)
            if (i0 + i < n) {
                add[i] = *reinterpret_cast<const float4 *>(state_of(a, w, at + i0 + i, h) + e);
                left[i] = w.left[(at + i0 + i) * a.H + h];
            }
#pragma unroll
        for (int i = 0; i < AHEAD; ++i)
            if (i0 + i < n) {
                *reinterpret_cast<float4 *>(state_of(a, w, at + i0 + i, h) + e) = S;
                S = pass(S, left[i], add[i]);
            }
    }
    *state = S;
}

template <int NT>
__global__ void __launch_bounds__(SSD_THREADS, 1) ssd_span_outputs(cu_ssd a, span_states w, int slices)
{
    DYN_SMEM(base);
    ssd_tiles s;
    ssd_carve(&s, base, a.N, w.stages, true);
    const int row = blockIdx.z, h = blockIdx.x / slices;
    const ssd_place b = ssd_place_of(a, row, h, blockIdx.x % slices);
    const int64_t begin = a.t.row_begin[row] + static_cast<int64_t>(blockIdx.y) * w.span;
    const int64_t end = min(begin + w.span, static_cast<int64_t>(a.t.row_begin[row + 1]));
    if (begin >= end) return;
    float S[NT][2][4];
    ssd_load_state<NT>(state_of(a, w, first_span(a, row, w.span) + blockIdx.y, h), b, a.N, S);
    ssd_chunks<NT, true, false>(a, s, w.stages, b, begin, end, S);
}

template <int NT> fh1_status launch(cu_ctx *k, const cu_ssd &a)
{
    const int slices = (a.P + SSD_SLICE - 1) / SSD_SLICE, span = span_tokens(a.t.M);
    const int stages = cu_ssd_stages(k, &a, span > SSD_CHUNK);
    const size_t states = spans(a.t.M, a.t.B, span) * static_cast<size_t>(a.H);
    float *scratch = static_cast<float *>(a.scratch);
    const span_states w = {span, stages, scratch,
                           scratch + states * static_cast<size_t>(a.P) * static_cast<size_t>(a.N)};
    const dim3 grid(static_cast<unsigned>(slices * a.H), static_cast<unsigned>((a.t.longest + span - 1) / span),
                    static_cast<unsigned>(a.t.B));
    const dim3 elements(static_cast<unsigned>((a.P * a.N / 4 + PASS_THREADS - 1) / PASS_THREADS),
                        static_cast<unsigned>(a.H), static_cast<unsigned>(a.t.B));
    ssd_tiles s;
    const size_t in = ssd_carve(&s, nullptr, a.N, stages, false), out = ssd_carve(&s, nullptr, a.N, stages, true);
    CU_TRY(cudaFuncSetAttribute(ssd_span_states<NT>, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(in)),
           "the shared memory of ssd_span_states");
    CU_TRY(
        cudaFuncSetAttribute(ssd_span_outputs<NT>, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(out)),
        "the shared memory of ssd_span_outputs");
    LAUNCH(ssd_span_states<NT>, grid, SSD_THREADS, in, k->stream, a, w, slices);
    FH1_TRY(cu_launched("ssd_span_states"));
    LAUNCH(ssd_span_pass, elements, PASS_THREADS, 0, k->stream, a, w);
    FH1_TRY(cu_launched("ssd_span_pass"));
    LAUNCH(ssd_span_outputs<NT>, grid, SSD_THREADS, out, k->stream, a, w, slices);
    return cu_launched("ssd_span_outputs");
}

} // namespace

/* A shorter call may cut finer and need more: the most of any number of tokens up to M. */
size_t cu_ssd_chunk_scratch(const cu_ssd *a, int M, int B)
{
    size_t most = spans(M, B, span_tokens(M));
    const int steps[] = {1023, 4095};
    for (int m : steps)
        if (m < M && spans(m, B, span_tokens(m)) > most) most = spans(m, B, span_tokens(m));
    return most * static_cast<size_t>(a->H) * (static_cast<size_t>(a->P) * static_cast<size_t>(a->N) + 1) *
           sizeof(float);
}

fh1_status cu_ssd_chunk_fwd(cu_ctx *k, const cu_ssd *a)
{
    if (a->N <= 32) return launch<1>(k, *a);
    if (a->N <= 64) return launch<2>(k, *a);
    if (a->N <= 128) return launch<4>(k, *a);
    return launch<8>(k, *a);
}

} // namespace CU_NS
