#include "reference/faulty_cache.h"

#include "reference/faulty.h"

#include <stdlib.h>
#include <string.h>

extern fh1_fault ref_fault_now;

static bool fault(fh1_fault f)
{
    return ref_fault_now == f;
}

/* -- window and state of a cache at one moment ------------------------------------------------------ */

typedef struct {
    const fh1_cache *of; /* compared, never followed: the cache may be gone */
    int64_t B, n_layers;
    size_t conv, ssm; /* bytes of one row of one layer */
    char *data;       /* [B, n_layers, conv + ssm] */
} moment;

enum { CONV = 1, SSM = 2 };

static size_t elem_size(const fh1_cache *c)
{
    return c->dtype == FH1_F64 ? sizeof(double) : sizeof(float);
}

static size_t conv_bytes(const fh1_cache *c)
{
    return (size_t)(fh1_conv_dim(c->config) * (c->config->K - 1)) * elem_size(c);
}

static size_t ssm_bytes(const fh1_cache *c)
{
    return (size_t)(c->config->d_ssm * c->config->N) * elem_size(c);
}

static void forget(moment *m)
{
    free(m->data);
    *m = (moment){0};
}

static char *part_of(const moment *m, int64_t b, int64_t layer)
{
    return m->data + (size_t)(b * m->n_layers + layer) * (m->conv + m->ssm);
}

static fh1_status save(moment *m, const fh1_cache *c)
{
    forget(m);
    *m = (moment){c, c->B, c->config->n_layers, conv_bytes(c), ssm_bytes(c), NULL};
    const size_t bytes = (size_t)(m->B * m->n_layers) * (m->conv + m->ssm);
    if (!(m->data = malloc(bytes ? bytes : 1))) {
        forget(m);
        return fh1_no_memory(bytes, "the states of a cache");
    }
    for (int64_t b = 0; b < m->B; b++)
        for (int64_t l = 0; l < m->n_layers; l++) {
            memcpy(part_of(m, b, l), c->rows[b].conv[l], m->conv);
            memcpy(part_of(m, b, l) + m->conv, c->rows[b].ssm[l], m->ssm);
        }
    return NULL;
}

/* Puts `parts` back into the rows that both have. */
static void load(const moment *m, fh1_cache *c, int parts)
{
    if (!m->data || m->n_layers != c->config->n_layers || m->conv != conv_bytes(c) || m->ssm != ssm_bytes(c)) return;
    for (int64_t b = 0; b < m->B && b < c->B; b++)
        for (int64_t l = 0; l < m->n_layers; l++) {
            if (parts & CONV) memcpy(c->rows[b].conv[l], part_of(m, b, l), m->conv);
            if (parts & SSM) memcpy(c->rows[b].ssm[l], part_of(m, b, l) + m->conv, m->ssm);
        }
}

static void clear(fh1_cache *c, int parts)
{
    for (int64_t b = 0; b < c->B; b++)
        for (int64_t l = 0; l < c->config->n_layers; l++) {
            if (parts & CONV) memset(c->rows[b].conv[l], 0, conv_bytes(c));
            if (parts & SSM) memset(c->rows[b].ssm[l], 0, ssm_bytes(c));
        }
}

/* -- between operations and calls: what shared storage and late copies need to remember -------------- */

static moment before_call; /* SNAPSHOT_ONE_CALL_BEHIND */
static struct {
    const fh1_cache *a, *b; /* SNAPSHOT_SHARES_STATE: the last copy and its original */
    moment last;            /* what the one that ran last made of the state */
} shared;
static const fh1_cache *replaying; /* RESTORE_REPLAYS_ONE_TOKEN */

fh1_status ref_faulty_cache_begin(fh1_cache *c)
{
    if (fault(FH1_FAULT_SNAPSHOT_SHARES_STATE) && (c == shared.a || c == shared.b)) load(&shared.last, c, SSM);
    return fault(FH1_FAULT_SNAPSHOT_ONE_CALL_BEHIND) ? save(&before_call, c) : NULL;
}

fh1_status ref_faulty_cache_end(fh1_cache *c)
{
    if (c == replaying) replaying = NULL;
    const bool shares = fault(FH1_FAULT_SNAPSHOT_SHARES_STATE) && (c == shared.a || c == shared.b);
    return shares ? save(&shared.last, c) : NULL;
}

bool ref_faulty_cache_replays(const fh1_cache *c)
{
    return c == replaying;
}

/* -- snapshot ------------------------------------------------------------------------------------- */

static void zero_keys(fh1_cache *c)
{
    const fh1_config *g = c->config;
    for (int64_t b = 0; b < c->B; b++) {
        const size_t bytes = (size_t)(g->Hkv * c->rows[b].cap * g->A) * elem_size(c);
        for (int64_t l = 0; l < g->n_layers; l++) {
            memset(c->rows[b].key[l], 0, bytes);
            memset(c->rows[b].value[l], 0, bytes);
        }
    }
}

static void round_states(fh1_cache *c)
{
    const int64_t n = c->config->d_ssm * c->config->N;
    for (int64_t b = 0; b < c->B; b++)
        for (int64_t l = 0; l < c->config->n_layers; l++)
            for (int64_t i = 0; i < n; i++) {
                if (c->dtype == FH1_F64) {
                    double *S = c->rows[b].ssm[l];
                    S[i] = fh1_round_f64(FH1_ROUND_BF16, S[i]);
                } else {
                    float *S = c->rows[b].ssm[l];
                    S[i] = fh1_round_f32(FH1_ROUND_BF16, S[i]);
                }
            }
}

/* Rows 1, 2, … take window and state of rows 0, 1, … */
static void shift_rows(fh1_cache *c)
{
    for (int64_t b = c->B - 1; b > 0; b--)
        for (int64_t l = 0; l < c->config->n_layers; l++) {
            memcpy(c->rows[b].conv[l], c->rows[b - 1].conv[l], conv_bytes(c));
            memcpy(c->rows[b].ssm[l], c->rows[b - 1].ssm[l], ssm_bytes(c));
        }
}

static fh1_status faulty_clone(const fh1_cache *c, fh1_cache **out)
{
    enum { BLOCK = 16 };
    FH1_TRY(fh1_cache_clone(c, out));
    fh1_cache *copy = *out;
    switch ((int)ref_fault_now) {
    case FH1_FAULT_SNAPSHOT_WITHOUT_KEYS: zero_keys(copy); break;
    case FH1_FAULT_SNAPSHOT_WITHOUT_CONV: clear(copy, CONV); break;
    case FH1_FAULT_SNAPSHOT_WITHOUT_SSM: clear(copy, SSM); break;
    case FH1_FAULT_SNAPSHOT_STATE_IN_BF16: round_states(copy); break;
    case FH1_FAULT_SNAPSHOT_OF_ROW_BEFORE: shift_rows(copy); break;
    case FH1_FAULT_SNAPSHOT_LENGTH_ROUNDED_UP: copy->n_cols = (copy->n_cols + BLOCK - 1) / BLOCK * BLOCK; break;
    case FH1_FAULT_SNAPSHOT_ONE_CALL_BEHIND:
        if (before_call.of == c) load(&before_call, copy, CONV | SSM);
        break;
    case FH1_FAULT_SNAPSHOT_SHARES_STATE:
        forget(&shared.last);
        shared.a = c;
        shared.b = copy;
        break;
    default: break;
    }
    return NULL;
}

/* -- restore --------------------------------------------------------------------------------------- */

static void layer_0_for_all(fh1_cache *c)
{
    for (int64_t b = 0; b < c->B; b++)
        for (int64_t l = 1; l < c->config->n_layers; l++) memcpy(c->rows[b].ssm[l], c->rows[b].ssm[0], ssm_bytes(c));
}

static fh1_status faulty_restore(fh1_cache *c, const fh1_cache *snapshot)
{
    moment old = {0};
    if (fault(FH1_FAULT_RESTORE_DOES_NOTHING)) return NULL;
    FH1_TRY(save(&old, c));
    fh1_status s = fh1_cache_restore(c, snapshot);
    if (!s) switch ((int)ref_fault_now) {
        case FH1_FAULT_RESTORE_KEYS_ONLY: load(&old, c, CONV | SSM); break;
        case FH1_FAULT_RESTORE_KEEPS_CONV: load(&old, c, CONV); break;
        case FH1_FAULT_RESTORE_STATE_OF_LAYER_0: layer_0_for_all(c); break;
        case FH1_FAULT_RESTORE_MUTATES_SNAPSHOT: clear((fh1_cache *)(uintptr_t)snapshot, CONV | SSM); break;
        case FH1_FAULT_RESTORE_REPLAYS_ONE_TOKEN: replaying = c; break;
        case FH1_FAULT_SNAPSHOT_SHARES_STATE:
            if (snapshot == shared.a || snapshot == shared.b) load(&shared.last, c, SSM);
            break;
        default: break;
        }
    forget(&old);
    return s;
}

/* -- reorder --------------------------------------------------------------------------------------- */

/* Exchanges what attention keeps of a row: keys and values, and which tokens they are of. */
static void exchange_keys(fh1_cache_row *a, fh1_cache_row *b)
{
    fh1_cache_row t = *a;
    *a = *b;
    *b = t;
    void **conv = a->conv, **ssm = a->ssm;
    a->conv = b->conv;
    a->ssm = b->ssm;
    b->conv = conv;
    b->ssm = ssm;
}

/* Where row i finds its old row when rows are moved one after another. */
static int64_t in_place(const int64_t *from, int64_t i)
{
    int64_t row = from[i];
    while (row < i) { /* written already: what stands there came from somewhere else */
        i = row;
        row = from[i];
    }
    return row;
}

static fh1_status reorder_rows(fh1_cache *c, const int64_t *from, int64_t n)
{
    if (!fault(FH1_FAULT_REORDER_OFF_BY_ONE) && !fault(FH1_FAULT_REORDER_IN_PLACE))
        return fh1_cache_reorder(c, from, n);
    int64_t *other = malloc((size_t)n * sizeof *other);
    if (!other) return fh1_no_memory((size_t)n * sizeof *other, "a reorder");
    for (int64_t i = 0; i < n; i++)
        other[i] = fault(FH1_FAULT_REORDER_IN_PLACE) ? in_place(from, i) : (from[i] + 1) % c->B;
    fh1_status s = fh1_cache_reorder(c, other, n);
    free(other);
    return s;
}

static fh1_status faulty_reorder(fh1_cache *c, const int64_t *from, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        if (from[i] < 0 || from[i] >= c->B) return fh1_cache_reorder(c, from, n); /* refused */
    moment old = {0};
    fh1_cache *copy = NULL;
    fh1_status s = save(&old, c);
    if (!s && fault(FH1_FAULT_REORDER_STATE_ONLY)) s = fh1_cache_clone(c, &copy);
    if (!s) s = reorder_rows(c, from, n);
    if (!s && fault(FH1_FAULT_REORDER_KEYS_ONLY)) load(&old, c, CONV | SSM);
    if (!s && fault(FH1_FAULT_REORDER_WITHOUT_CONV)) load(&old, c, CONV);
    for (int64_t b = 0; !s && copy && b < c->B && b < copy->B; b++) exchange_keys(&c->rows[b], &copy->rows[b]);
    fh1_cache_free(copy);
    forget(&old);
    return s;
}

/* -- reset and truncate ------------------------------------------------------------------------------ */

/* What an emptied row keeps of `old`; its document too, since a new one would not look at window and state. */
static void keep(const moment *old, const int64_t *doc, fh1_cache *c, int parts)
{
    load(old, c, parts);
    for (int64_t b = 0; b < c->B; b++) c->rows[b].doc = doc[b];
}

/* Keys and values stay, booked to the first column, which every later token sees. */
static void empty_memory_only(fh1_cache *c)
{
    clear(c, CONV | SSM);
    for (int64_t b = 0; b < c->B; b++)
        for (int64_t i = 0; i < c->rows[b].n; i++) c->rows[b].col[i] = 0;
    c->n_cols = 0;
    c->rope_seq_len = 0;
}

static void faulty_reset(fh1_cache *c)
{
    if (fault(FH1_FAULT_RESET_KEEPS_KEYS)) {
        empty_memory_only(c);
        return;
    }
    const int parts = fault(FH1_FAULT_RESET_KEEPS_CONV)                 ? CONV
                      : fault(FH1_FAULT_RESET_KEEPS_SSM)                ? SSM
                      : fault(FH1_FAULT_ONE_TOKEN_PROMPT_ON_DIRTY_SLOT) ? CONV | SSM
                                                                        : 0;
    const int64_t n_cols = c->n_cols;
    moment old = {0};
    int64_t *doc = malloc((size_t)c->B * sizeof *doc);
    const bool remembered = !save(&old, c) && doc;
    for (int64_t b = 0; remembered && b < c->B; b++) doc[b] = c->rows[b].doc;
    fh1_cache_reset(c);
    if (remembered && parts) keep(&old, doc, c, parts);
    if (fault(FH1_FAULT_RESET_KEEPS_POSITIONS)) c->n_cols = n_cols;
    free(doc);
    forget(&old);
}

/* Keys and values after the first n are gone, window and state stay. */
static void drop_keys(fh1_cache_row *r, int64_t n)
{
    r->n = n;
    if (r->doc_begin > n) r->doc_begin = n;
}

static fh1_status faulty_truncate(fh1_cache *c, int64_t b, int64_t n)
{
    if (b < 0 || b >= c->B || n < 0 || n > c->rows[b].n) return fh1_cache_truncate(c, b, n); /* refused */
    fh1_cache_row *r = &c->rows[b];
    if (fault(FH1_FAULT_TRUNCATE_DOES_NOTHING)) return NULL;
    if (fault(FH1_FAULT_TRUNCATE_LEAVES_STATE) || (fault(FH1_FAULT_TRUNCATE_OFF_BY_ONE) && n == r->n - 1)) {
        drop_keys(r, n);
        return NULL;
    }
    const int parts = fault(FH1_FAULT_TRUNCATE_KEEPS_CONV) ? CONV : fault(FH1_FAULT_SLOT_NOT_ZEROED) ? CONV | SSM : 0;
    if (!parts || n > 0) return fh1_cache_truncate(c, b, n);
    fh1_cache row = *c; /* the row alone */
    row.B = 1;
    row.rows = r;
    moment old = {0};
    const int64_t doc = r->doc;
    FH1_TRY(save(&old, &row));
    fh1_status s = fh1_cache_truncate(c, b, n);
    if (!s) keep(&old, &doc, &row, parts);
    forget(&old);
    return s;
}

const fh1_cache_ops ref_cache_ops_faulty = {.reset = faulty_reset,
                                            .clone = faulty_clone,
                                            .restore = faulty_restore,
                                            .reorder = faulty_reorder,
                                            .truncate = faulty_truncate};
