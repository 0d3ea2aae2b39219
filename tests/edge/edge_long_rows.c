/* Rows and tables so large that an index of 16 or of 32 bits comes round. Small geometry: one channel, one state, many
 * tokens; and tables of which only the pages that are read exist. */
#include "tests/edge/edge_prefill.h"

#include "oracle/compare.h"
#include "oracle/random.h"

#include <math.h>
#include <string.h>
#include <sys/mman.h>

/* ---- 8192, 8193, 2^15 + 1, 2^16 + 1 and 115 713 tokens: scans and conv in one call against the truth in blocks ----
 */

enum { BLOCK = 4096, LONGEST = 115713, K = 4 };

typedef enum { CONV, SCAN, CHUNKED, SELECTIVE } long_op;
static const char *const op_name[] = {"conv", "scan", "chunked scan", "selective scan"};
enum { CHUNK = 256 };

typedef struct {
    int64_t T;
    double *x, *B, *C, *dt, *y, *got; /* [T] */
    double memory[K];                 /* state, or window */
    float A_log, D, taps[K], bias;
    fh1_tensor a_log, rates, d, w, b; /* A_log of a head, and of a channel's states */
} long_row;

static void free_row(long_row *row)
{
    free(row->x);
    *row = (long_row){0};
}

/* Multiples of 1/8: they are themselves in every type. dt keeps the state alive over hundreds of tokens. */
static fh1_status draw_row(const edge_run *r, int64_t T, long_row *row)
{
    const fh1_stream s = fh1_stream_open(r->seed, "a long row");
    *row = (long_row){.T = T, .A_log = -3, .D = 0.5f, .taps = {0.5f, -0.25f, 1, 0.75f}, .bias = 0.125f};
    if (!(row->x = malloc((size_t)(6 * T) * sizeof(double)))) return fh1_no_memory((size_t)T * 48, "a long row");
    row->B = row->x + T;
    row->C = row->x + 2 * T;
    row->dt = row->x + 3 * T;
    row->y = row->x + 4 * T;
    row->got = row->x + 5 * T;
    for (int64_t t = 0; t < 3 * T; ++t) row->x[t] = (double)(fh1_random_below(s, (uint64_t)t, 33) - 16) / 8;
    for (int64_t t = 0; t < T; ++t) row->dt[t] = (double)(1 + fh1_random_below(s, (uint64_t)(3 * T + t), 7)) / 8;
    row->a_log = fh1_view1(&row->A_log, FH1_F32, 1);
    row->rates = fh1_view2(&row->A_log, FH1_F32, 1, 1);
    row->d = fh1_view1(&row->D, FH1_F32, 1);
    row->w = fh1_view3(row->taps, FH1_F32, 1, 1, K);
    row->b = fh1_view1(&row->bias, FH1_F32, 1);
    return NULL;
}

/* T tokens of the op on any engine, whose inputs are in its type. */
static fh1_status call_op(fh1_engine *e, const long_row *row, long_op op, int64_t T, const void *x, const void *B,
                          const void *C, const void *dt, void *memory, void *y)
{
    const fh1_ops *o = e->ops;
    switch (op) {
    case CONV: return o->conv1d(e, T, 1, K, x, &row->w, &row->b, NULL, 0, memory, y);
    case SCAN: return o->ssd_scan(e, T, 1, 1, 1, 1, x, B, C, dt, &row->a_log, &row->d, NULL, 0, memory, y);
    case CHUNKED: return o->ssd_chunk(e, T, 1, 1, 1, 1, CHUNK, x, B, C, dt, &row->a_log, &row->d, NULL, 0, memory, y);
    case SELECTIVE: break;
    }
    return o->selective_scan(e, T, 1, 1, x, B, C, dt, &row->rates, &row->d, NULL, 0, memory, y);
}

/* The truth in blocks that are told what the ones before left. */
static fh1_status in_blocks(fh1_engine *truth, long_row *row, long_op op)
{
    memset(row->memory, 0, sizeof row->memory);
    for (int64_t t = 0; t < row->T; t += BLOCK) {
        const int64_t n = row->T - t < BLOCK ? row->T - t : BLOCK;
        FH1_TRY(call_op(truth, row, op == CHUNKED ? SCAN : op, n, row->x + t, row->B + t, row->C + t, row->dt + t,
                        row->memory, row->y + t));
    }
    return NULL;
}

/* One array as the engine reads it; with the planted fault token t is read at t mod 2^16. */
static void *input(const edge_run *r, const fh1_engine *e, const double *v, int64_t T, void *room)
{
    const size_t size = e->dtype == FH1_F64 ? 8 : 4;
    fh1_from_f64(room, e->dtype, v, T);
    if (edge_plants(r, "token_index_of_16_bits"))
        for (int64_t t = 1 << 16; t < T; ++t)
            memcpy((char *)room + (size_t)t * size, (char *)room + (size_t)(t & 0xffff) * size, size);
    return room;
}

/* The judged op in one call. */
static fh1_status at_once(const edge_run *r, fh1_engine *e, const long_row *row, long_op op)
{
    const int64_t T = row->T;
    char *room = malloc((size_t)(5 * T) * 8);
    double memory[K] = {0};
    if (!room) return fh1_no_memory((size_t)T * 40, "a long row");
    void *x = input(r, e, row->x, T, room), *B = input(r, e, row->B, T, room + T * 8), *y = room + 4 * T * 8;
    void *C = input(r, e, row->C, T, room + 2 * T * 8), *dt = input(r, e, row->dt, T, room + 3 * T * 8);
    fh1_status s = call_op(e, row, op, T, x, B, C, dt, memory, y);
    fh1_to_f64(row->got, y, e->dtype, T);
    free(room);
    return s;
}

/* What an honest engine of this contract may be off by. */
static fh1_status gauge_op(const fh1_gauge_ops *of, const fh1_profile *contract, const long_row *row, long_op op,
                           const fh1_gauge *g)
{
    const int64_t T = row->T, Q = op == CHUNKED ? CHUNK : 0;
    const double zeros[K] = {0};
    if (op == CONV) return of->conv1d(contract, T, 1, K, row->x, &row->w, &row->b, NULL, 0, zeros, row->y, g);
    if (op == SELECTIVE)
        return of->selective_scan(contract, T, 1, 1, row->x, row->B, row->C, row->dt, &row->rates, &row->d, NULL, 0,
                                  zeros, row->y, NULL, NULL, NULL, g);
    return of->ssd_scan(contract, T, 1, 1, 1, 1, Q, row->x, row->B, row->C, row->dt, &row->a_log, &row->d, NULL, 0,
                        zeros, row->y, NULL, g);
}

static fh1_status judge_row(edge_run *r, const fh1_engine *e, const fh1_engine *truth, const long_row *row, long_op op)
{
    fh1_gauge g;
    const double sigmas = fh1_gauge_sigmas(row->T);
    FH1_TRY(fh1_gauge_new(row->T, &g));
    fh1_status s = gauge_op(truth->gauges, e->profile, row, op, &g);
    for (int64_t t = 0; t < row->T && !s; ++t)
        if (!fh1_within(fh1_error_of(row->got[t], row->y[t]), fh1_gauge_allowed(fh1_gauge_at(&g, t), sigmas)))
            s = edge_require(r, false, "%s of %lld tokens at once: token %lld is %.9g, in blocks of %d it is %.9g",
                             op_name[op], (long long)row->T, (long long)t, row->got[t], BLOCK, row->y[t]);
    fh1_gauge_free(&g);
    return s ? s : edge_require(r, true, "a long row");
}

static fh1_status one_length(edge_run *r, fh1_engine *e, fh1_engine *truth, bool mamba, int64_t T)
{
    long_row row;
    fh1_status s = draw_row(r, T, &row);
    /* Falcon-Mamba's conv is Falcon-H1's */
    for (int op = mamba ? SELECTIVE : CONV; op <= (mamba ? SELECTIVE : CHUNKED) && !s; ++op) {
        s = in_blocks(truth, &row, (long_op)op);
        if (!s) s = at_once(r, e, &row, (long_op)op);
        if (!s) s = judge_row(r, e, truth, &row, (long_op)op);
    }
    free_row(&row);
    return s;
}

/* ---- elements beyond 2^31 ---- */

enum { WIDTH = 4096, OVER = 8 };
static const int64_t ROWS = (INT64_C(1) << 31) / WIDTH + OVER;

/* Address space; a page exists once it is touched. */
static void *sparse(size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

/* What stands in column j of row i of every table here. */
static double element(int64_t i, int64_t j)
{
    return (double)((i * 7 + j * 3) % 61 - 30) / 8;
}

/* The row that an element index of 32 bits, counted round at 2^31, reaches. */
static int64_t row_reached(const edge_run *r, int64_t row)
{
    return edge_plants(r, "element_index_of_31_bits") ? row * WIDTH % (INT64_C(1) << 31) / WIDTH : row;
}

static fh1_status look_up(edge_run *r, fh1_engine *e)
{
    const int64_t id[] = {1, ROWS - OVER - 1, ROWS - OVER, ROWS - 1};
    enum { M = 4 };
    int64_t reached[M];
    float *table = sparse((size_t)(ROWS * WIDTH) * sizeof *table);
    double *y = malloc(M * WIDTH * sizeof *y), *want = malloc(M * WIDTH * sizeof *want);
    if (!table || !y || !want) return fh1_no_memory((size_t)(ROWS * WIDTH) * sizeof *table, "a table of 2^31 elements");
    for (int m = 0; m < M; ++m)
        for (int64_t j = 0; j < WIDTH; ++j) table[id[m] * WIDTH + j] = (float)(want[m * WIDTH + j] = element(id[m], j));
    for (int m = 0; m < M; ++m) reached[m] = row_reached(r, id[m]);
    const fh1_tensor t = fh1_view2(table, FH1_F32, ROWS, WIDTH);
    void *out = calloc(M * WIDTH, 8);
    fh1_status s = out ? e->ops->embed(e, M, reached, &t, out) : fh1_no_memory(M * WIDTH * 8, "embeddings");
    if (!s) {
        fh1_to_f64(y, out, e->dtype, M * WIDTH);
        s = edge_same_bits(r, want, y, M * WIDTH, "rows of a table of more than 2^31 elements");
    }
    free(out);
    free(y);
    free(want);
    munmap(table, (size_t)(ROWS * WIDTH) * sizeof *table);
    return s;
}

/* Keys or values [S, WIDTH] in the engine's type: the last OVER rows are written, from row S - OVER - behind on. */
static void write_rows(const edge_run *r, const fh1_engine *e, void *table, int64_t S, int64_t seed)
{
    const size_t size = e->dtype == FH1_F64 ? 8 : 4;
    double row[WIDTH];
    for (int64_t i = 0; i < OVER; ++i) {
        const int64_t at = S - OVER + i;
        for (int64_t j = 0; j < WIDTH; ++j) row[j] = element(i + seed, j) / 64;
        fh1_from_f64((char *)table + (size_t)(row_reached(r, at) * WIDTH) * size, e->dtype, row, WIDTH);
    }
}

/* T queries over the last keys of S, which are the same for every S. */
static fh1_status attend(const edge_run *r, fh1_engine *e, int64_t S, int64_t T, double *out)
{
    const size_t size = e->dtype == FH1_F64 ? 8 : 4, bytes = (size_t)(S * WIDTH) * size;
    const int64_t first[2] = {S - OVER + 1, S - OVER + 1};
    double q[2 * WIDTH];
    char *k = sparse(bytes), *v = sparse(bytes), *in = malloc(2 * WIDTH * 8), *y = malloc(2 * WIDTH * 8);
    if (!k || !v || !in || !y) return fh1_no_memory(bytes, "keys of 2^31 elements");
    write_rows(r, e, k, S, 3);
    write_rows(r, e, v, S, 11);
    for (int64_t j = 0; j < 2 * WIDTH; ++j) q[j] = element(5, j) / 8;
    fh1_from_f64(in, e->dtype, q, T * WIDTH);
    fh1_status s = T == 1 ? e->ops->attention_step(e, S, 1, 1, WIDTH, in, k, v, first[0], y)
                          : e->ops->attention(e, T, S, 1, 1, WIDTH, in, k, v, first, y);
    fh1_to_f64(out, y, e->dtype, T * WIDTH);
    munmap(k, bytes);
    munmap(v, bytes);
    free(in);
    free(y);
    return s;
}

static fh1_status far_keys(edge_run *r, fh1_engine *e)
{
    static double far[2 * WIDTH], near[2 * WIDTH];
    for (int64_t T = 1; T <= 2; ++T) {
        FH1_TRY(attend(r, e, ROWS, T, far));
        FH1_TRY(attend(r, e, OVER, T, near));
        FH1_TRY(edge_same_bits(r, near, far, T * WIDTH, "attention to keys beyond element 2^31"));
    }
    return NULL;
}

/* ---- the case ---- */

/* The engines of CUDA copy every table of an op as a whole: they get long rows only, two of them, and of the selective
 * scan the one behind an index of 16 bits. */
static fh1_status on_ops(edge_run *r, const fh1_model *m, void *data)
{
    static const int64_t lengths[] = {8192, 8193, (1 << 15) + 1, (1 << 16) + 1, LONGEST};
    const bool mamba = m->config.family == FH1_FALCON_MAMBA;
    fh1_engine *e, *truth;
    (void)data;
    FH1_TRY(edge_engine(r, m, &e));
    FH1_TRY(edge_truth(r, &truth));
    for (int i = 0; i < 5; ++i)
        if (r->bit == EDGE_F64 || i == 3 || (i == 1 && !(mamba && edge_is_slow(r))) || (i == 4 && !edge_is_slow(r)))
            FH1_TRY(one_length(r, e, truth, mamba, lengths[i]));
    if (edge_is_slow(r) || mamba) return NULL; /* tables are the same op in both */
    FH1_TRY(look_up(r, e));
    return far_keys(r, e);
}

fh1_status edge_long_rows(edge_run *r)
{
    FH1_TRY(edge_on_model(r, edge_model_text(0), on_ops, NULL));
    return edge_on_mamba(r, on_ops, NULL);
}
