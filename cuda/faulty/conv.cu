/* Spoilers of the convolution and its windows, and of what lies in memory for rows that a call does not touch. */
#include "cuda/faulty/spoil.cuh"
#include "cuda/silu.h"

namespace CU_NS
{

static void move_slot(const int *slot, float *memory, int64_t size, int to, int from)
{
    const size_t bytes = static_cast<size_t>(size) * sizeof *memory;
    if (slot[to] != slot[from]) memcpy(memory + slot[to] * size, memory + slot[from] * size, bytes);
}

void cu_faulty_mix_slots(const cu_tokens &t, const int *slot, float *memory, int64_t size, bool before)
{
    const size_t bytes = static_cast<size_t>(size) * sizeof *memory;
    if (!of_model(t)) return;
    for (int b = 0; b < t.B; ++b) {
        const int n = t.row_begin[b + 1] - t.row_begin[b];
        if (before && CU_FAULT(HISTORY_DROPPED) && cu_faulty.tokens->T > 1) memset(memory + slot[b] * size, 0, bytes);
        if (before && CU_FAULT(PADDING_ROW_WRITES_LAST_SLOT) && n == 0) move_slot(slot, memory, size, t.B - 1, b);
        if (before && CU_FAULT(LAST_ROW_HAS_STALE_SLOT) && all_steps(t) && b > 0 && b == t.B - 1)
            move_slot(slot, memory, size, b, 0);
        if (!before && CU_FAULT(PADDING_ROW_WRITES_SLOT_0) && n == 0) move_slot(slot, memory, size, 0, b);
        if (!before && CU_FAULT(STATE_NOT_STORED_BY_PREFILL) && n > 1 && past_columns() == 0)
            memset(memory + slot[b] * size, 0, bytes);
    }
}

namespace
{

/* -- in_proj's columns as the readers meet them ----------------------------------------------------------- */

void swap_columns(cu_type type, void *p, int64_t a, int64_t b, int64_t n)
{
    for (int64_t i = 0; i < n; ++i) {
        const float first = get(type, p, a + i);
        put(type, p, a + i, get(type, p, b + i));
        put(type, p, b + i, first);
    }
}

/* Rank r of two holds columns [r·W/2, (r+1)·W/2) and takes them for its halves of z, x, B, C, dt. */
void join_even_halves(cu_type type, void *p, int64_t row, int64_t d, int64_t GN, int64_t H)
{
    const int64_t width[5] = {d, d, GN, GN, H}, all = 2 * d + 2 * GN + H;
    std::vector<float> from;
    for (int64_t i = 0; i < all; ++i) from.push_back(get(type, p, row + i));
    for (int64_t s = 0, first = 0; s < 5; first += width[s++])
        for (int64_t r = 0; r < 2; ++r)
            for (int64_t i = 0; i < width[s] / 2; ++i)
                put(type, p, row + first + r * (width[s] / 2) + i,
                    from[static_cast<size_t>(r * (all / 2) + first / 2 + i)]);
}

/* Falcon-Mamba's x | z, x first. */
void spoil_halves(const cu_conv1d *a)
{
    void *p = const_cast<void *>(a->x);
    const int64_t I = a->d_ssm;
    for (int64_t m = 0; m < a->t.M; ++m) {
        const int64_t row = m * a->ldx;
        if (CU_FAULT(IN_PROJ_Z_BEFORE_X)) swap_columns(a->type, p, row, row + I, I);
        if (CU_FAULT(IN_PROJ_SPLIT_EVENLY) && I % 2 == 0) swap_columns(a->type, p, row + I / 2, row + I, I / 2);
    }
}

void spoil_columns(const cu_conv1d *a)
{
    if (!of_model(a->t)) return;
    if (of_falcon_mamba()) {
        spoil_halves(a);
        return;
    }
    const int64_t d = a->d_ssm, GN = a->GN, H = cu_faulty.w->config->H, size = static_cast<int64_t>(cu_size(a->type));
    void *p = static_cast<char *>(const_cast<void *>(a->x)) - d * size;
    for (int64_t m = 0; m < a->t.M; ++m) {
        const int64_t row = m * a->ldx;
        if (CU_FAULT(IN_PROJ_X_BEFORE_Z)) swap_columns(a->type, p, row, row + d, d);
        if (CU_FAULT(IN_PROJ_C_BEFORE_B)) swap_columns(a->type, p, row + 2 * d, row + 2 * d + GN, GN);
        if (CU_FAULT(IN_PROJ_SPLIT_EVENLY) && d % 2 == 0 && GN % 2 == 0 && H % 2 == 0)
            join_even_halves(a->type, p, row, d, GN, H);
    }
}

/* -- the convolution in a plain loop ------------------------------------------------------------------------ */

struct row_of {
    const cu_conv1d *a;
    int begin, n;
    bool step;
    bool window_counts;        /* of the first document, whatever it says */
    std::vector<float> window; /* before the call */
};

float factor_of(const cu_conv1d *a, int j)
{
    return j < a->d_ssm ? a->m_x : j < a->d_ssm + a->GN ? a->m_B : a->m_C;
}

/* Column s of the row (of its window below 0) as token t sees it; false: skipped. */
bool column(const row_of *r, int s, int t, int j, float *out)
{
    const cu_conv1d *a = r->a;
    const int start = a->t.start[r->begin + t], W = a->K - 1;
    const bool goes_on = start < 0 || (r->window_counts && start == r->begin);
    if (s >= 0) {
        *out = get(a->type, a->x, (r->begin + s) * a->ldx + j) * factor_of(a, j);
        return goes_on || r->begin + s >= start;
    }
    const int i = W + s - CU_FAULT(CONV_WINDOW_READ_AS_K);
    if (!goes_on || i < 0) return false;
    *out = r->window[static_cast<size_t>(j * W + i)];
    return true;
}

float activated(const row_of *r, float v)
{
    const bool plain = CU_FAULT(CONV_WITHOUT_SILU) || (CU_FAULT(CONV_STEP_WITHOUT_SILU) && r->step) ||
                       (CU_FAULT(CONV_SILU_FIRST) && !r->step);
    return plain ? v : silu(v);
}

void convolve(const row_of *r, int t, int j)
{
    const cu_conv1d *a = r->a;
    const int c = a->d_ssm + 2 * a->GN;
    float sum = a->b ? a->b[j] : 0.f, col;
    for (int k = 0; k < a->K; ++k) {
        if (!column(r, t - (a->K - 1) + k, t, j, &col)) continue;
        if (CU_FAULT(CONV_SILU_FIRST) && !r->step) col = silu(col);
        sum += a->w[CU_FAULT(CONV_STRIDE_OF_FOUR) ? (4 * j + k) % (c * a->K) : j * a->K + k] * col;
    }
    put(a->type, a->y, static_cast<int64_t>(r->begin + t) * c + j, activated(r, sum));
}

/* Which column becomes place i of the window. */
int kept_column(const row_of *r, int i)
{
    const int W = r->a->K - 1;
    if (!r->step && CU_FAULT(CONV_WINDOW_FIRST_COLUMNS) && r->n >= W) return i;
    if (!r->step && CU_FAULT(CONV_WINDOW_LEFT_ALIGNED) && r->n < W) return i;
    if (!r->step && CU_FAULT(CONV_WINDOW_ONE_SHORT)) return r->n - W + i - 1;
    return r->n - W + i;
}

void store_window(const row_of *r, float *window)
{
    const cu_conv1d *a = r->a;
    const int W = a->K - 1, c = a->d_ssm + 2 * a->GN;
    if (CU_FAULT(CONV_WINDOW_FROZEN_IN_STEPS) && r->step) return;
    if (CU_FAULT(CONV_WINDOW_NOT_STORED_IN_SHORT_CALLS) && !r->step && r->n < W) return;
    for (int j = 0; j < c; ++j)
        for (int i = 0; i < W; ++i) {
            const int s = kept_column(r, i);
            float col = 0;
            if (s < -W || s >= r->n || !column(r, s, r->n - 1, j, &col)) col = 0;
            else if (CU_FAULT(CONV_WINDOW_POST_CONV) && s >= 0)
                col = get(a->type, a->y, static_cast<int64_t>(r->begin + s) * c + j);
            window[j * W + i] = col;
        }
}

bool by_hand()
{
    return CU_FAULT(CONV_WITHOUT_SILU) || CU_FAULT(CONV_STEP_WITHOUT_SILU) || CU_FAULT(CONV_SILU_FIRST) ||
           CU_FAULT(CONV_STRIDE_OF_FOUR) || CU_FAULT(CONV_CONTEXT_OF_ROW_BEFORE) ||
           CU_FAULT(CONV_WINDOW_FIRST_COLUMNS) || CU_FAULT(CONV_WINDOW_POST_CONV) || CU_FAULT(CONV_WINDOW_ONE_SHORT) ||
           CU_FAULT(CONV_WINDOW_READ_AS_K) || CU_FAULT(CONV_WINDOW_LEFT_ALIGNED) ||
           CU_FAULT(CONV_WINDOW_NOT_STORED_IN_SHORT_CALLS) || CU_FAULT(CONV_WINDOW_FROZEN_IN_STEPS);
}

void convolve_rows(const cu_conv1d *a)
{
    const int W = a->K - 1, c = a->d_ssm + 2 * a->GN;
    const int64_t size = static_cast<int64_t>(c) * W;
    for (int b = 0; b < a->t.B; ++b) {
        row_of r = {a, a->t.row_begin[b], a->t.row_begin[b + 1] - a->t.row_begin[b], all_steps(a->t), false, {}};
        float *window = a->window + a->slot[b] * size;
        if (r.n == 0) continue;
        if (CU_FAULT(CONV_CONTEXT_OF_ROW_BEFORE) && b > 0) {
            memcpy(window, a->window + a->slot[b - 1] * size, static_cast<size_t>(size) * sizeof *window);
            r.window_counts = true;
        }
        r.window.assign(window, window + size);
        for (int t = 0; t < r.n; ++t)
            for (int j = 0; j < c; ++j) convolve(&r, t, j);
        store_window(&r, window);
    }
}

/* -- Falcon-Mamba's calls on a cache --------------------------------------------------------------------------- */

/* Several tokens that take the one-token formula. */
bool one_token_formula(const cu_conv1d *a)
{
    const int64_t T = cu_faulty.tokens ? cu_faulty.tokens->T : 1;
    return CU_FAULT(CONV_OF_FIRST_TOKEN) && of_model(a->t) && past_columns() > 0 && T > 1 && T != a->K;
}

/* All tokens of a row have the conv of its first one, and that one alone enters the window. */
void conv_of_first_token(const cu_conv1d *a)
{
    const int W = a->K - 1, c = a->d_ssm;
    const int64_t size = static_cast<int64_t>(c) * W;
    for (int b = 0; b < a->t.B; ++b) {
        row_of r = {a, a->t.row_begin[b], a->t.row_begin[b + 1] - a->t.row_begin[b], false, false, {}};
        float *window = a->window + a->slot[b] * size;
        if (r.n == 0) continue;
        r.window.assign(window, window + size);
        for (int j = 0; j < c; ++j) convolve(&r, 0, j);
        for (int t = 1; t < r.n; ++t)
            for (int j = 0; j < c; ++j)
                put(a->type, a->y, static_cast<int64_t>(r.begin + t) * c + j,
                    get(a->type, a->y, static_cast<int64_t>(r.begin) * c + j));
        r.n = 1;
        store_window(&r, window);
    }
}

/* A step's column goes into the window at the number of its position, and none comes in at the end. */
void column_at_position(const cu_conv1d *a, void *columns)
{
    const int W = a->K - 1, c = a->d_ssm;
    const int64_t past = past_columns();
    for (int b = 0; b < a->t.B; ++b) {
        const int64_t m = a->t.row_begin[b];
        float *window = a->window + static_cast<int64_t>(a->slot[b]) * c * W;
        for (int j = 0; m < a->t.row_begin[b + 1] && j < c; ++j) {
            window[j * W + past] = get(a->type, a->x, m * a->ldx + j);
            put(a->type, columns, m * c + j, 0);
        }
    }
}

} // namespace

fh1_status cu_faulty_conv1d_fwd(cu_ctx *k, const cu_conv1d *given)
{
    if (cu_faulty.fault == FH1_FAULT_NONE) return cu_conv1d_fwd(k, given);
    cu_conv1d a = *given;
    const int c = a.d_ssm + 2 * a.GN;
    const int64_t size = static_cast<int64_t>(c) * (a.K - 1);
    FH1_TRY(settled(k));
    const std::vector<int> one_document(static_cast<size_t>(a.t.M) + 1, -1);
    if (CU_FAULT(CONV_LEAKS_DOCUMENTS) || CU_FAULT(MIXER_LEAKS_DOCUMENTS)) a.t.start = one_document.data();
    if (CU_FAULT(MUP_AFTER_CONV)) a.m_x = a.m_B = a.m_C = 1;
    if (CU_FAULT(MUP_ROUNDED_TO_BF16))
        for (float *m : {&a.m_x, &a.m_B, &a.m_C}) *m = in_bf16(*m);
    spoil_columns(given);
    cu_faulty_mix_slots(given->t, a.slot, a.window, size, true);
    const bool model = of_model(given->t) && of_falcon_mamba();
    cu_spoiled columns(a.type, static_cast<int64_t>(a.t.M) * c);
    if (CU_FAULT(CONV_RESTARTS_AT_K_TOKENS) && model && past_columns() > 0 && cu_faulty.tokens->T == a.K)
        for (int b = 0; b < a.t.B; ++b)
            memset(a.window + a.slot[b] * size, 0, static_cast<size_t>(size) * sizeof *a.window);
    if (CU_FAULT(CONV_COLUMN_AT_POSITION) && model && all_steps(a.t) && past_columns() < a.K - 1) {
        column_at_position(&a, columns.p());
        a.x = columns.p();
        a.ldx = c;
    }
    if (by_hand()) {
        convolve_rows(&a);
    } else if (one_token_formula(&a)) {
        conv_of_first_token(&a);
    } else {
        FH1_TRY(cu_conv1d_fwd(k, &a));
        FH1_TRY(settled(k));
    }
    cu_faulty_mix_slots(given->t, a.slot, a.window, size, false);
    for (int64_t i = 0; CU_FAULT(MUP_AFTER_CONV) && i < static_cast<int64_t>(a.t.M) * c; ++i)
        put(a.type, a.y, i, get(a.type, a.y, i) * factor_of(given, static_cast<int>(i % c)));
    return NULL;
}

} // namespace CU_NS
