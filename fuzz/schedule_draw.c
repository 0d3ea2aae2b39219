#include "fuzz/schedule.h"

#include "golden/traffic_impl.h"

#include <math.h>
#include <string.h>

/* -- the model ----------------------------------------------------------------------------------- */

enum {
    HEAD_LAYERS,
    HEAD_D,
    HEAD_F,
    HEAD_V,
    HEAD_HQ,
    HEAD_HKV,
    HEAD_A,
    HEAD_H,
    HEAD_P,
    HEAD_N,
    HEAD_G,
    HEAD_K,
    HEAD_Q,
    HEAD_SWITCHES,
    HEAD_DTYPE,
    HEAD_WEIGHTS,
    HEAD_ROPE,
    HEAD_SCALING,
    HEAD_THETA,
    HEAD_LIMITS,
    HEAD_EPS,
    HEAD_SEED, /* 2 */
    HEAD_ROWS = HEAD_SEED + 2,
    HEAD_LONG,
    HEAD_MULTIPLIERS,
    HEAD_KIND = HEAD_MULTIPLIERS + 14,
    HEAD_END
};
_Static_assert((int)HEAD_END <= (int)SCHEDULE_HEAD, "the head has room");

#define PICK(byte, ...) pick(byte, (const int64_t[]){__VA_ARGS__}, sizeof((const int64_t[]){__VA_ARGS__}) / 8)
static int64_t pick(uint8_t byte, const int64_t *from, size_t n)
{
    return from[byte % n];
}

/* The k-th divisor of n, counted down from n itself: byte 0 is multi-head attention, one group per head. */
static int64_t divisor(uint8_t byte, int64_t n)
{
    int64_t divisors = 0;
    for (int64_t d = 1; d <= n; d++) divisors += n % d == 0;
    int64_t left = byte % divisors;
    for (int64_t d = n; d > 1; d--)
        if (n % d == 0 && left-- == 0) return d;
    return 1;
}

static void sizes(const uint8_t *head, fh1_config *c)
{
    c->n_layers = PICK(head[HEAD_LAYERS], 1, 2, 1, 2, 3);
    c->D = PICK(head[HEAD_D], 8, 4, 6, 7, 10, 12, 16, 5, 24);
    c->F = PICK(head[HEAD_F], 8, 4, 5, 11, 16, 24);
    c->V = PICK(head[HEAD_V], 11, 2, 3, 8, 16, 23, 32);
    c->Hq = PICK(head[HEAD_HQ], 2, 1, 3, 4, 6);
    c->Hkv = divisor(head[HEAD_HKV], c->Hq);
    c->A = PICK(head[HEAD_A], 4, 2, 6, 8, 12);
    c->H = PICK(head[HEAD_H], 2, 1, 3, 4, 6);
    c->P = PICK(head[HEAD_P], 4, 1, 2, 3, 5, 8);
    c->N = PICK(head[HEAD_N], 4, 1, 2, 3, 8, 16);
    c->G = divisor(head[HEAD_G], c->H);
    c->K = PICK(head[HEAD_K], 4, 2, 3, 5);
    c->Q = PICK(head[HEAD_Q], 8, 2, 3, 4, 5, 6, 7, 9, 12, 15, 16);
    c->d_ssm = c->H * c->P;
}

static const double eps[] = {1e-5, 1e-6, 1e-3, 1e-8, 0.25};

static void stored(const uint8_t *head, gld_seeded_spec *s)
{
    static const fh1_dtype dtypes[] = {FH1_F32, FH1_BF16, FH1_F16};
    s->dtype = dtypes[head[HEAD_DTYPE] % 3];
    s->weights = (gld_weights)(head[HEAD_WEIGHTS] % GLD_WEIGHTS_COUNT);
}

static void options(const uint8_t *head, gld_seeded_spec *s)
{
    static const double limits[][2] = {{0, (double)INFINITY},    {0.001, 0.1}, {0.01, 1}, {0, 0.25},
                                       {0.05, (double)INFINITY}, {0.02, 0.02}, {5, 40}}; /* the last: states vanish */
    fh1_config *c = &s->config;
    const unsigned on = head[HEAD_SWITCHES];
    c->attention_bias = on & 1;
    c->mlp_bias = on & 2;
    c->mamba_proj_bias = on & 4;
    c->projectors_bias = on & 8;
    c->mamba_conv_bias = !(on & 16);
    c->mamba_rms_norm = on & 32;
    c->norm_before_gate = on & 64;
    c->tied = on & 128;
    c->dt_lo = limits[head[HEAD_LIMITS] % 7][0];
    c->dt_hi = limits[head[HEAD_LIMITS] % 7][1];
    c->eps = eps[head[HEAD_EPS] % 5];
}

/* All different and none of them 1, so that one in the place of another shows. */
static void multipliers(const uint8_t *head, fh1_config *c)
{
    double *const at[] = {&c->m_emb,    &c->m_lm,      &c->m_key,    &c->m_attn_in, &c->m_attn_out,
                          &c->m_ssm_in, &c->m_ssm_out, &c->m_gate,   &c->m_down,    &c->m_ssm[0],
                          &c->m_ssm[1], &c->m_ssm[2],  &c->m_ssm[3], &c->m_ssm[4]};
    for (int i = 0; i < 14; i++) {
        const int byte = head[HEAD_MULTIPLIERS + i];
        const int step = byte ? byte : 33 + 5 * i; /* in 1/64 */
        *at[i] = (double)(16 * step + i + 1) / 1024;
    }
}

/* Frequencies of `dynamic` and `longrope` change once a sequence outgrows a length: for a batch as a whole and for keys
 * that are not there yet, so that what a row computes would no more be what it computes alone. That length is beyond
 * all traffic. */
static void rope(const uint8_t *head, fh1_config *c)
{
    static const double theta[] = {1e4, 10, 100, 1e6, 1e11};
    const int how = head[HEAD_SCALING];
    fh1_rope *r = &c->rope;
    *r = (fh1_rope){.type = (fh1_rope_type)(head[HEAD_ROPE] % (FH1_ROPE_LONGROPE + 1)),
                    .theta = theta[head[HEAD_THETA] % 5]};
    if (r->type == FH1_ROPE_DYNAMIC && c->A < 4) c->A = 4;
    if (r->type != FH1_ROPE_DEFAULT) r->factor = (double)PICK((uint8_t)(how & 3), 4, 2, 8, 32);
    if (r->type >= FH1_ROPE_YARN) r->original_max_position = how & 4 ? 8 : 32;
    if (r->type == FH1_ROPE_DYNAMIC || r->type == FH1_ROPE_LONGROPE) r->max_position = 1 << 14;
    if (r->type == FH1_ROPE_LONGROPE) {
        r->original_max_position = 1 << 13;
        for (int64_t i = 0; i < c->A / 2; i++) {
            c->factors[0][i] = 4 + (double)i;
            c->factors[1][i] = 1 + 0.125 * (double)(i + (how & 7));
        }
        r->long_factor = c->factors[0];
        r->short_factor = c->factors[1];
    } else if (r->type == FH1_ROPE_LLAMA3) {
        r->low_freq_factor = 1;
        r->high_freq_factor = how & 8 ? 4 : 2;
    } else if (r->type == FH1_ROPE_YARN) {
        r->beta_fast = how & 8 ? 32 : 4;
        r->beta_slow = 1;
        r->truncate = !(how & 16);
        if (how & 32) r->attention_factor = 0.75;
    }
}

/* Channels are H·P of the other family, so that the same bytes are a model of about the same size. */
static void falcon_mamba(const uint8_t *head, gld_seeded_spec *s)
{
    fh1_config *c = &s->config;
    const unsigned on = head[HEAD_SWITCHES];
    sizes(head, c);
    c->H = c->d_ssm;
    c->P = c->G = c->Q = 1;
    c->F = c->Hq = c->Hkv = c->A = 0;
    c->R = PICK(head[HEAD_G], 2, 1, 3, 4, 5);
    c->eps = eps[head[HEAD_EPS] % 5];
    c->mixer_eps = eps[(head[HEAD_LIMITS] + 1) % 5];
    c->mamba_proj_bias = c->projectors_bias = on & 8;
    c->mamba_conv_bias = !(on & 16);
    c->residual_in_fp32 = !(on & 32);
    c->tied = on & 128;
}

/* Byte 0: the released models. */
static void model(const uint8_t *head, gld_seeded_spec *s)
{
    enum { MAMBA = FH1_BLOCK_S_A_M + 1 };
    const int kind = (int)PICK(head[HEAD_KIND], FH1_BLOCK_SA_M, MAMBA, FH1_BLOCK_SAM, FH1_BLOCK_SA_M, FH1_BLOCK_S_A_M,
                               MAMBA, FH1_BLOCK_SA_M);
    if (kind == MAMBA) {
        const fh1_status status = gld_seeded_parse("family=falcon_mamba", s);
        FUZZ_CHECK(!status, "%s", status->what);
        falcon_mamba(head, s);
    } else {
        gld_seeded_usual(s);
        s->config.block = (fh1_block)kind;
        sizes(head, &s->config);
        options(head, s);
        multipliers(head, &s->config);
        rope(head, &s->config);
    }
    stored(head, s);
}

/* -- the traffic --------------------------------------------------------------------------------- */

/* Bytes below EDGE_BYTES are a small number, the others one of EDGES edges of K and Q. */
enum { EDGE_BYTES = 96, EDGES = 16 };
static int64_t number(uint8_t byte, const fh1_config *c)
{
    const int64_t K = c->K, Q = c->Q;
    const int64_t edge[EDGES] = {0,     1,         K - 2, K - 1,     K, K + 1, Q - 1,     Q,
                                 Q + 1, 2 * Q - 1, 2 * Q, 2 * Q + 1, 2, 3 * Q, 3 * Q + 1, Q + K};
    if (byte < EDGE_BYTES) return byte % 12;
    return edge[(byte - EDGE_BYTES) % EDGES];
}

uint8_t schedule_edge_byte(fuzz_rng *r)
{
    return (uint8_t)(EDGE_BYTES + fuzz_below(r, EDGES));
}

/* Calls and steps are most of what caches see, and what shows whether the rest was done right. */
static const gld_move_kind kinds[32] = {
    GLD_MOVE_CALL,    GLD_MOVE_STEPS,     GLD_MOVE_COPY,     GLD_MOVE_RESTORE, GLD_MOVE_REORDER, GLD_MOVE_RESTART,
    GLD_MOVE_RESET,   GLD_MOVE_SPECULATE, GLD_MOVE_ROLLBACK, GLD_MOVE_SWAP,    GLD_MOVE_NOTHING, GLD_MOVE_NEW,
    GLD_MOVE_CALL,    GLD_MOVE_STEPS,     GLD_MOVE_COPY,     GLD_MOVE_RESTORE, GLD_MOVE_REORDER, GLD_MOVE_RESTART,
    GLD_MOVE_RESET,   GLD_MOVE_SPECULATE, GLD_MOVE_CALL,     GLD_MOVE_CALL,    GLD_MOVE_CALL,    GLD_MOVE_CALL,
    GLD_MOVE_CALL,    GLD_MOVE_STEPS,     GLD_MOVE_STEPS,    GLD_MOVE_STEPS,   GLD_MOVE_COPY,    GLD_MOVE_RESTORE,
    GLD_MOVE_RESTART, GLD_MOVE_CALL};

/* What is there when a move is made: rows of each cache, 0: no such cache. */
typedef struct {
    int rows[GLD_TRAFFIC_CACHES];
    int64_t cells; /* left to be spent on columns times rows */
    bool is_long;
} world;

/* The which-th cache that is there (and has as many rows, 0: any). */
static int cache_that_is(const world *w, unsigned which, int rows)
{
    int n = 0, found[GLD_TRAFFIC_CACHES];
    for (int i = 0; i < GLD_TRAFFIC_CACHES; i++)
        if (w->rows[i] && (!rows || w->rows[i] == rows)) found[n++] = i;
    return found[which % (unsigned)n];
}

static void cuts(const uint8_t *at, const fh1_config *c, gld_move *m, int row)
{
    int64_t where = at[0] ? number((uint8_t)(at[0] - 1), c) : m->n[row];
    for (int k = 0; k < GLD_TRAFFIC_CUTS && where < m->n[row]; k++) {
        m->cut[row][m->n_cuts[row]++] = where;
        if (k + 1 == GLD_TRAFFIC_CUTS || !at[k + 1]) break;
        where += 1 + number((uint8_t)(at[k + 1] - 1), c);
    }
}

/* Numbers of tokens that fit into what may be spent. */
static void call(const uint8_t *at, const fh1_config *c, world *w, gld_move *m)
{
    const int rows = w->rows[m->cache];
    const int64_t most = w->cells / rows;
    int64_t columns = 0;
    for (int i = 0; i < rows; i++) {
        m->n[i] = number(at[MOVE_N + i], c);
        if (w->is_long && at[MOVE_N + i] % 4 == 3) m->n[i] = 65 << at[MOVE_N + i] / 4 % 4;
        if (m->n[i] > most) m->n[i] = most;
        m->left[i] = at[MOVE_LEFT + i] % 64 ? number(at[MOVE_LEFT + i], c) % 20 : 0;
        m->right[i] = at[MOVE_RIGHT + i] % 64 ? number(at[MOVE_RIGHT + i], c) % 20 : 0;
        cuts(at + MOVE_CUTS + 4 * i, c, m, i);
        const int64_t width = m->n[i] + m->left[i] + m->right[i];
        if (width > columns) columns = width;
    }
    w->cells -= columns * rows;
}

static void move_of(const uint8_t *at, const fh1_config *c, world *w, gld_move *m)
{
    memset(m, 0, sizeof *m);
    m->kind = kinds[at[MOVE_KIND] % 32];
    m->cache = cache_that_is(w, at[MOVE_CACHE] & 15, 0);
    const int rows = w->rows[m->cache];
    m->row = at[MOVE_ROWS] / 16 % rows;
    m->count = number(at[MOVE_COUNT], c);
    switch (m->kind) {
    case GLD_MOVE_NEW:
        m->cache = at[MOVE_CACHE] % GLD_TRAFFIC_CACHES;
        m->rows = w->rows[m->cache] = 1 + at[MOVE_ROWS] % GLD_TRAFFIC_ROWS;
        break;
    case GLD_MOVE_CALL: call(at, c, w, m); break;
    case GLD_MOVE_STEPS:
        if (m->count < 1) m->count = 1;
        if (m->count > 16) m->count = 1 + m->count % 16;
        w->cells -= m->count * rows;
        break;
    case GLD_MOVE_COPY: /* Y=X: `other` is the one that is made */
        m->other = at[MOVE_CACHE] / 16 % GLD_TRAFFIC_CACHES;
        if (m->other == m->cache) m->other = (m->other + 1) % GLD_TRAFFIC_CACHES;
        w->rows[m->other] = rows;
        break;
    case GLD_MOVE_RESTORE: m->other = cache_that_is(w, at[MOVE_CACHE] / 16, rows); break;
    case GLD_MOVE_REORDER:
        m->rows = rows;
        for (int i = 0; i < rows; i++) m->n[i] = at[MOVE_N + i] % rows;
        break;
    case GLD_MOVE_ROLLBACK:
        if (m->count < 1) m->count = 1;
        break;
    case GLD_MOVE_SPECULATE:
        m->count = 1 + m->count % 8;
        for (int i = 0; i < rows; i++) m->n[i] = number(at[MOVE_N + i], c) % (m->count + 1);
        w->cells -= 2 * m->count * rows;
        break;
    default: break;
    }
}

void schedule_of_bytes(const uint8_t *data, size_t size, schedule *out)
{
    uint8_t bytes[SCHEDULE_BYTES] = {0};
    if (size > sizeof bytes) size = sizeof bytes;
    if (size) memcpy(bytes, data, size);
    const fh1_config *c = &out->spec.config;
    model(bytes, &out->spec);
    out->seed = bytes[HEAD_SEED] + 256u * bytes[HEAD_SEED + 1];

    const int moves = size > SCHEDULE_HEAD ? (int)((size - SCHEDULE_HEAD + SCHEDULE_MOVE - 1) / SCHEDULE_MOVE) : 0;
    gld_traffic *t = &out->traffic;
    /* Most traffic is short, for there is more of it in a second; once in a while positions pass 256. */
    const bool is_long = bytes[HEAD_LONG] % 32 == 31;
    const int64_t columns = is_long ? 600 : 64, cells = is_long ? 900 : 360;
    world w = {.cells = cells, .is_long = is_long};
    memset(t, 0, sizeof *t);
    w.rows[0] = 1 + (bytes[HEAD_ROWS] + 1) % GLD_TRAFFIC_ROWS;
    t->move[t->n++] = (gld_move){.kind = GLD_MOVE_NEW, .rows = w.rows[0]};
    for (int i = 0; i < moves && w.cells > 0; i++)
        move_of(bytes + SCHEDULE_HEAD + i * SCHEDULE_MOVE, c, &w, &t->move[t->n++]);
    gld_traffic_repair_within(t, columns, cells);
    if (gld_traffic_cells(t) == 0 &&
        t->n < GLD_TRAFFIC_MOVES) /* nothing is promised of caches that never heard a word */
        t->move[t->n++] = (gld_move){.kind = GLD_MOVE_STEPS, .cache = t->move[0].cache, .count = 2};
}
