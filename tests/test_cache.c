/* The cache against a naive model of it: each row is a list of tokens (number, column, document), and
 * everything stored is a function of that list. Random schedules of calls, reorders, clones, restores,
 * resets and truncations must keep the two equal; planted faults (a shallow copy, a key left behind by a
 * reorder, a lost column) must make the comparison fail. */
#include "oracle/cache.h"
#include "oracle/compare.h"
#include "oracle/random.h"
#include "tests/small_config.h"

#include <check.h>
#include <stdlib.h>

enum { MAX_ROWS = 6, MAX_TOKENS = 200 };

typedef struct {
    int64_t n, token[MAX_TOKENS], col[MAX_TOKENS], doc[MAX_TOKENS];
} naive_row;

typedef struct {
    int64_t B, n_cols, rope_seq_len;
    naive_row row[MAX_ROWS];
} naive;

/* A different number for every token, layer, part and element; small enough to be exact in f32. */
static double value_of(int64_t token, int64_t layer, int part, int64_t element)
{
    return (double)(1 + ((token * 7 + layer * 3 + part) * 131 + element) % 1000003);
}

/* What an engine would leave in conv and ssm after these tokens: any function of the row's history. */
static double state_of(const naive_row *r, int64_t layer, int part, int64_t element)
{
    return r->n ? value_of(r->token[r->n - 1] + r->n, layer, part, element) : 0;
}

static void put(const fh1_cache *c, void *p, int64_t i, double v)
{
    if (c->dtype == FH1_F64) ((double *)p)[i] = v;
    else ((float *)p)[i] = (float)v;
}

static double get(const fh1_cache *c, const void *p, int64_t i)
{
    return c->dtype == FH1_F64 ? ((const double *)p)[i] : (double)((const float *)p)[i];
}

/* One call, as an engine makes it. L[b] new tokens for each row, left-padded to T. */
static void call(fh1_cache *c, naive *n, const int64_t *L, int64_t T, int64_t first_token, bool new_docs)
{
    const fh1_config *g = c->config;
    int64_t ids[MAX_ROWS * 8] = {0}, docs[MAX_ROWS * 8] = {0}, mask[MAX_ROWS * (MAX_TOKENS + 8)] = {0};
    int64_t len = n->n_cols + T;
    for (int64_t b = 0; b < n->B; b++) {
        naive_row *r = &n->row[b];
        for (int64_t i = 0; i < r->n; i++) mask[b * len + r->col[i]] = 1;
        for (int64_t t = T - L[b]; t < T; t++) {
            int64_t doc = r->n ? r->doc[r->n - 1] : 0;
            if (new_docs && (t + b) % 2) doc++;
            docs[b * T + t] = doc;
            mask[b * len + n->n_cols + t] = 1;
            r->token[r->n] = first_token + b * T + t;
            r->col[r->n] = n->n_cols + t;
            r->doc[r->n++] = doc;
        }
    }
    fh1_batch batch = {.B = n->B, .T = T, .ids = ids, .mask = mask, .mask_len = len, .seq_idx = docs};
    fh1_tokens t;
    ck_assert(!fh1_tokens_pack(&batch, 23, c, &t));
    ck_assert(!fh1_cache_prepare(c, &t));
    for (int64_t b = 0; b < n->B; b++) {
        fh1_cache_row *r = &c->rows[b];
        ck_assert_int_ge(r->cap, r->n + L[b]);
        for (int64_t l = 0; l < g->n_layers; l++) {
            for (int64_t h = 0; h < g->Hkv; h++)
                for (int64_t i = r->n; i < r->n + L[b]; i++)
                    for (int64_t a = 0; a < g->A; a++) {
                        int64_t at = (h * r->cap + i) * g->A + a;
                        put(c, r->key[l], at, value_of(n->row[b].token[i], l, 0, h * g->A + a));
                        put(c, r->value[l], at, value_of(n->row[b].token[i], l, 1, h * g->A + a));
                    }
            for (int64_t i = 0; i < fh1_conv_dim(g) * (g->K - 1); i++)
                put(c, r->conv[l], i, state_of(&n->row[b], l, 2, i));
            for (int64_t i = 0; i < g->H * g->P * g->N; i++) put(c, r->ssm[l], i, state_of(&n->row[b], l, 3, i));
        }
    }
    fh1_cache_commit(c, &t);
    fh1_tokens_free(&t);
    n->n_cols += T;
    if (n->rope_seq_len < n->n_cols) n->rope_seq_len = n->n_cols;
}

static int row_differs(const fh1_cache *c, int64_t b, const naive_row *want)
{
    const fh1_config *g = c->config;
    const fh1_cache_row *r = &c->rows[b];
    if (r->n != want->n || r->cap < r->n) return 1;
    int64_t doc = want->n ? want->doc[want->n - 1] : -1, begin = want->n;
    while (begin > 0 && want->doc[begin - 1] == doc) begin--;
    if (r->doc != doc || r->doc_begin != begin) return 2;
    for (int64_t i = 0; i < r->n; i++)
        if (r->col[i] != want->col[i]) return 3;
    for (int64_t l = 0; l < g->n_layers; l++) {
        for (int64_t h = 0; h < g->Hkv; h++)
            for (int64_t i = 0; i < r->n; i++)
                for (int64_t a = 0; a < g->A; a++) {
                    int64_t at = (h * r->cap + i) * g->A + a, element = h * g->A + a;
                    double k = value_of(want->token[i], l, 0, element), v = value_of(want->token[i], l, 1, element);
                    if (!fh1_within(fabs(get(c, r->key[l], at) - k), 0)) return 4;
                    if (!fh1_within(fabs(get(c, r->value[l], at) - v), 0)) return 5;
                }
        for (int64_t i = 0; i < fh1_conv_dim(g) * (g->K - 1); i++)
            if (!fh1_within(fabs(get(c, r->conv[l], i) - state_of(want, l, 2, i)), 0)) return 6;
        for (int64_t i = 0; i < g->H * g->P * g->N; i++)
            if (!fh1_within(fabs(get(c, r->ssm[l], i) - state_of(want, l, 3, i)), 0)) return 7;
    }
    return 0;
}

/* 0 if the cache holds exactly what the naive model says, else which part of it does not. */
static int differs(const fh1_cache *c, const naive *want)
{
    if (c->B != want->B || c->n_cols != want->n_cols || c->rope_seq_len != want->rope_seq_len) return 8;
    for (int64_t b = 0; b < c->B; b++) {
        int d = row_differs(c, b, &want->row[b]);
        if (d) return d;
    }
    return 0;
}

/* Any two rows, of one cache or of two, own different memory. */
static bool aliased(const fh1_cache *a, const fh1_cache *b)
{
    for (int64_t i = 0; i < a->B; i++)
        for (int64_t k = 0; k < b->B; k++) {
            const fh1_cache_row *p = &a->rows[i], *q = &b->rows[k];
            if (p == q) continue;
            if (p->col == q->col || p->key == q->key || p->conv == q->conv) return true;
            for (int64_t l = 0; l < a->config->n_layers; l++)
                if (p->key[l] == q->key[l] || p->value[l] == q->value[l] || p->conv[l] == q->conv[l] ||
                    p->ssm[l] == q->ssm[l])
                    return true;
        }
    return false;
}

typedef struct {
    fh1_stream s;
    uint64_t i;
} dice;

static int64_t roll(dice *d, int64_t n)
{
    return fh1_random_below(d->s, d->i++, n);
}

static void random_call(fh1_cache *c, naive *n, dice *d, int64_t *token)
{
    int64_t L[MAX_ROWS], T = 1 + roll(d, 6);
    if (n->n_cols + T > MAX_TOKENS) return;
    for (int64_t b = 0; b < n->B; b++) L[b] = roll(d, 3) ? T : roll(d, T + 1);
    call(c, n, L, T, *token, roll(d, 4) == 0);
    *token += 100;
}

static void random_reorder(fh1_cache *c, naive *n, dice *d)
{
    static naive old;
    int64_t from[MAX_ROWS], k = 1 + roll(d, MAX_ROWS);
    old = *n;
    for (int64_t i = 0; i < k; i++) {
        from[i] = roll(d, old.B);
        n->row[i] = old.row[from[i]];
    }
    n->B = k;
    ck_assert(!fh1_cache_reorder(c, from, k));
}

static void one_schedule(const fh1_config *g, fh1_dtype dtype, uint64_t seed)
{
    static naive n, saved;
    dice d = {fh1_stream_open(seed, "cache"), 0};
    fh1_cache *c, *snapshot = NULL;
    int64_t token = 1;
    n = (naive){.B = 1 + roll(&d, MAX_ROWS)};
    ck_assert(!fh1_cache_new(g, dtype, n.B, &c));
    for (int step = 0; step < 40; step++) {
        int64_t op = roll(&d, 12), b = roll(&d, n.B);
        if (op < 6) random_call(c, &n, &d, &token);
        else if (op < 8) random_reorder(c, &n, &d);
        else if (op == 8) {
            fh1_cache_free(snapshot);
            ck_assert(!fh1_cache_clone(c, &snapshot));
            saved = n;
        } else if (op == 9 && snapshot) {
            ck_assert(!fh1_cache_restore(c, snapshot));
            n = saved;
        } else if (op == 10) {
            int64_t had = n.row[b].n;
            if (had > 1) ck_assert(fh1_cache_truncate(c, b, 1 + roll(&d, had - 1)));
            ck_assert(!fh1_cache_truncate(c, b, had));
            if (had > 1) ck_assert(fh1_cache_truncate(c, b, had + 1));
            if (roll(&d, 3) == 0) {
                ck_assert(!fh1_cache_truncate(c, b, 0));
                n.row[b].n = 0;
            }
        } else if (op == 11 && roll(&d, 4) == 0) {
            fh1_cache_reset(c);
            n = (naive){.B = n.B};
        }
        int bad = differs(c, &n);
        ck_assert_msg(!bad, "seed %d, step %d, op %d: part %d", (int)seed, step, (int)op, bad);
        ck_assert(!aliased(c, c));
        if (!snapshot) continue;
        ck_assert(!aliased(c, snapshot));
        ck_assert_int_eq(differs(snapshot, &saved), 0); /* whatever happened to c */
    }
    fh1_cache_free(snapshot);
    fh1_cache_free(c);
}

START_TEST(random_schedules)
{
    fh1_config g = small_config();
    if (_i % 5 == 0) g.K = 1; /* no conv window */
    one_schedule(&g, _i % 2 ? FH1_F32 : FH1_F64, (uint64_t)_i);
}
END_TEST

static fh1_cache *two_rows(const fh1_config *g, naive *n)
{
    fh1_cache *c;
    *n = (naive){.B = 2};
    ck_assert(!fh1_cache_new(g, FH1_F64, 2, &c));
    call(c, n, (int64_t[]){3, 2}, 3, 1, false);
    ck_assert_int_eq(differs(c, n), 0);
    return c;
}

/* A fork that shares memory looks right until one branch goes on. */
START_TEST(a_shallow_copy_is_noticed)
{
    static naive n;
    fh1_config g = small_config();
    fh1_cache *c = two_rows(&g, &n);
    n.row[1] = n.row[0];
    fh1_cache_row kept = c->rows[1];
    c->rows[1] = c->rows[0];
    ck_assert_int_eq(differs(c, &n), 0); /* values alone do not show it */
    ck_assert(aliased(c, c));
    c->rows[1] = kept;

    ck_assert(!fh1_cache_reorder(c, (int64_t[]){0, 0}, 2));
    ck_assert(!aliased(c, c));
    void **copied = c->rows[1].ssm;
    c->rows[1].ssm = c->rows[0].ssm; /* keys copied, states shared: the branches meet in the state */
    call(c, &n, (int64_t[]){1, 1}, 1, 500, false);
    ck_assert(differs(c, &n));
    c->rows[1].ssm = copied;
    fh1_cache_free(c);
}
END_TEST

/* What a careless reorder or roll-back leaves behind, one part at a time. */
START_TEST(planted_faults_are_noticed)
{
    static naive n;
    fh1_config g = small_config();
    for (int fault = 0; fault < 7; fault++) {
        fh1_cache *c = two_rows(&g, &n);
        fh1_cache_row *r = c->rows;
        void *t;
        switch (fault) {
        case 0: t = r[0].key[1], r[0].key[1] = r[1].key[1], r[1].key[1] = t; break;
        case 1: t = r[0].value[0], r[0].value[0] = r[1].value[0], r[1].value[0] = t; break;
        case 2: t = r[0].conv[1], r[0].conv[1] = r[1].conv[1], r[1].conv[1] = t; break;
        case 3: t = r[0].ssm[1], r[0].ssm[1] = r[1].ssm[1], r[1].ssm[1] = t; break;
        case 4: r[1].col[0]--; break;
        case 5: r[0].doc_begin = 1; break;
        default: r[0].n--; break; /* the last token forgotten, the state kept */
        }
        ck_assert_msg(differs(c, &n), "fault %d", fault);
        fh1_cache_free(c);
    }
}
END_TEST

START_TEST(a_document_begins_at_its_first_token)
{
    static naive n;
    fh1_config g = small_config();
    fh1_cache *c;
    n = (naive){.B = 1};
    ck_assert(!fh1_cache_new(&g, FH1_F64, 1, &c));
    ck_assert(c->rows[0].doc == -1 && c->rows[0].doc_begin == 0);
    call(c, &n, (int64_t[]){5}, 5, 1, true); /* documents 0 1 1 2 2 */
    ck_assert(c->rows[0].doc == 2 && c->rows[0].doc_begin == 3 && c->rows[0].n == 5);
    call(c, &n, (int64_t[]){2}, 2, 50, false);
    ck_assert(c->rows[0].doc == 2 && c->rows[0].doc_begin == 3 && c->rows[0].n == 7);
    fh1_cache_free(c);
}
END_TEST

/* Slots that hold no token are NaN, before and after growth and reset. */
START_TEST(unused_slots_are_nan)
{
    static naive n;
    fh1_config g = small_config();
    fh1_cache *c = two_rows(&g, &n);
    ck_assert(!fh1_cache_reserve(c, 0, 10));
    ck_assert_int_eq(differs(c, &n), 0);
    const fh1_cache_row *r = &c->rows[0];
    for (int64_t h = 0; h < g.Hkv; h++)
        for (int64_t i = r->n; i < r->cap; i++) ck_assert(isnan(get(c, r->value[1], (h * r->cap + i) * g.A)));
    fh1_cache_reset(c);
    for (int64_t i = 0; i < g.Hkv * r->cap * g.A; i++) ck_assert(isnan(get(c, r->key[0], i)));
    ck_assert(fh1_cache_reserve(c, 0, INT64_MAX));
    ck_assert(fh1_cache_reserve(c, 0, INT64_MAX / 64));
    n = (naive){.B = 2};
    ck_assert_int_eq(differs(c, &n), 0);
    fh1_cache_free(c);
}
END_TEST

/* Export scatters tokens to their columns and writes 0 elsewhere; import is its inverse and leaves what
 * padding slots say unread. */
START_TEST(the_padded_layout)
{
    static naive n;
    fh1_config g = small_config();
    fh1_cache *c = two_rows(&g, &n), *empty;
    fh1_tensor shape = fh1_cache_shape(c, FH1_CACHE_KEY);
    ck_assert(shape.shape[0] == 2 && shape.shape[1] == 2 && shape.shape[2] == 3 && shape.shape[3] == 8);
    float buffer[2 * 2 * 3 * 8];
    fh1_tensor t = fh1_view4(buffer, FH1_F32, 2, 2, 3, 8);
    for (int i = 0; i < 96; i++) buffer[i] = NAN;
    ck_assert(!fh1_cache_export(c, 1, FH1_CACHE_KEY, &t));
    ck_assert(fh1_within(fabs((double)buffer[0] - value_of(n.row[0].token[0], 1, 0, 0)), 0));
    /* row 1 has a padding column first: [1][h][0][.] is 0, [1][1][2][7] is its second token */
    for (int a = 0; a < 8; a++) ck_assert(fh1_within((double)fabsf(buffer[48 + a]), 0));
    ck_assert(fh1_within(fabs((double)buffer[95] - value_of(n.row[1].token[1], 1, 0, 15)), 0));

    /* the same values after a trip through a strided view of another order */
    double strided[96];
    fh1_tensor dense = fh1_view4(strided, FH1_F64, 3, 2, 2, 8), swapped = fh1_permute(&dense, (int[]){1, 2, 0, 3});
    ck_assert(!fh1_cache_export(c, 1, FH1_CACHE_KEY, &swapped));
    ck_assert(!fh1_cache_clone(c, &empty));
    fh1_cache_row *r = &empty->rows[1];
    for (int64_t i = 0; i < g.Hkv * r->cap * g.A; i++) put(empty, r->key[1], i, -1);
    ck_assert(differs(empty, &n));
    for (int h = 0; h < 2; h++)
        for (int a = 0; a < 8; a++) fh1_set(&swapped, ((2 + h) * 3 + 0) * 8 + a, (double)NAN); /* padding */
    ck_assert(!fh1_cache_import(empty, 1, FH1_CACHE_KEY, &swapped));
    ck_assert_int_eq(differs(empty, &n), 0);
    fh1_cache_free(empty);
    fh1_cache_free(c);
}
END_TEST

START_TEST(states_travel_whole)
{
    static naive n;
    for (int K = 1; K <= 4; K += 3) {
        fh1_config g = small_config();
        g.K = K;
        fh1_cache *c = two_rows(&g, &n), *other;
        double conv[2 * 32 * 3 + 1], ssm[2 * 4 * 3 * 5];
        fh1_tensor tc = fh1_view3(conv, FH1_F64, 2, 32, K - 1), ts = fh1_view4(ssm, FH1_F64, 2, 4, 3, 5);
        ck_assert(!fh1_cache_export(c, 0, FH1_CACHE_CONV, &tc));
        ck_assert(!fh1_cache_export(c, 0, FH1_CACHE_SSM, &ts));
        ck_assert(!fh1_cache_clone(c, &other));
        for (int64_t b = 0; b < 2; b++) {
            memset(other->rows[b].conv[0], 0, 32 * (size_t)(K - 1) * sizeof(double));
            memset(other->rows[b].ssm[0], 0, sizeof ssm / 2);
        }
        ck_assert(differs(other, &n));
        ck_assert(!fh1_cache_import(other, 0, FH1_CACHE_CONV, &tc));
        ck_assert(!fh1_cache_import(other, 0, FH1_CACHE_SSM, &ts));
        ck_assert_int_eq(differs(other, &n), 0);
        fh1_cache_free(other);
        fh1_cache_free(c);
    }
}
END_TEST

START_TEST(misuse_is_refused)
{
    static naive n;
    fh1_config g = small_config(), wider = small_config();
    wider.N++;
    fh1_cache *c = two_rows(&g, &n), *other;
    ck_assert(fh1_cache_new(&g, FH1_BF16, 1, &other) && fh1_cache_new(&g, FH1_F64, 0, &other));
    ck_assert(fh1_cache_reorder(c, (int64_t[]){0, 2}, 2) && fh1_cache_reorder(c, (int64_t[]){-1}, 1));
    ck_assert(fh1_cache_reorder(c, NULL, 0));
    ck_assert(fh1_cache_truncate(c, 2, 0) && fh1_cache_truncate(c, 0, -1));
    fh1_status s = fh1_cache_truncate(c, 0, 2);
    ck_assert(s && s->code == FH1_E_INPUT && strstr(s->hint, "snapshot"));

    ck_assert(!fh1_cache_new(&wider, FH1_F64, 2, &other));
    ck_assert(fh1_cache_restore(c, other));
    fh1_cache_free(other);
    ck_assert(!fh1_cache_new(&g, FH1_F32, 2, &other));
    ck_assert(fh1_cache_restore(c, other));
    fh1_cache_free(other);

    double buffer[96];
    fh1_tensor t = fh1_view4(buffer, FH1_F64, 2, 3, 2, 8), ints = fh1_view4(buffer, FH1_I64, 2, 2, 3, 8);
    s = fh1_cache_export(c, 0, FH1_CACHE_KEY, &t); /* [B, S, Hkv, A], a common other layout */
    ck_assert(s && strstr(s->expected, "[2, 2, 3, 8]") && strstr(s->found, "[2, 3, 2, 8]"));
    ck_assert(fh1_cache_export(c, 0, FH1_CACHE_KEY, &ints));
    t = fh1_cache_shape(c, FH1_CACHE_KEY);
    t.data = buffer;
    ck_assert(fh1_cache_export(c, 2, FH1_CACHE_KEY, &t) && fh1_cache_import(c, -1, FH1_CACHE_KEY, &t));
    ck_assert_int_eq(differs(c, &n), 0); /* a refusal changes nothing */
    fh1_cache_free(c);
}
END_TEST

START_TEST(bytes_count_what_is_held)
{
    static naive n;
    fh1_config g = small_config();
    fh1_cache *c = two_rows(&g, &n);
    size_t before = fh1_cache_bytes(c);
    size_t state = 2 * 2 * (size_t)(32 * 3 + 4 * 3 * 5) * sizeof(double); /* rows, layers */
    size_t keys = 2 * 2 * (size_t)(3 + 2) * 16 * sizeof(double);          /* layers, parts, tokens, Hkv·A */
    ck_assert(before >= state + keys && before < state + keys + 1024);
    ck_assert(!fh1_cache_reserve(c, 1, 100));
    ck_assert_uint_ge(fh1_cache_bytes(c), before + 2 * 2 * 100 * 16 * sizeof(double));
    fh1_cache_free(c);
    fh1_cache_free(NULL);
}
END_TEST

int main(void)
{
    TCase *t = tcase_create("cache");
    tcase_set_timeout(t, 120);
    tcase_add_loop_test(t, random_schedules, 0, 20);
    tcase_add_test(t, a_shallow_copy_is_noticed);
    tcase_add_test(t, planted_faults_are_noticed);
    tcase_add_test(t, a_document_begins_at_its_first_token);
    tcase_add_test(t, unused_slots_are_nan);
    tcase_add_test(t, the_padded_layout);
    tcase_add_test(t, states_travel_whole);
    tcase_add_test(t, misuse_is_refused);
    tcase_add_test(t, bytes_count_what_is_held);
    Suite *s = suite_create("cache");
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
