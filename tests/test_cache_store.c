/* A cache whose contents are in a store against one that holds them itself: the same calls, reorders, snapshots, resets
 * and imports must leave the same behind, wherever and whenever the store was attached. The store here is plain memory;
 * its planted mistakes must show, and its failures must leave the cache as it was. */
#include "oracle/random.h"
#include "tests/fake_store.h"
#include "tests/small_config.h"

/* ---- two caches side by side ---- */

typedef struct {
    fh1_stream s;
    uint64_t i;
} dice;

static int64_t roll(dice *d, int64_t n)
{
    return fh1_random_below(d->s, d->i++, n);
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

static double value_of(uint64_t call, int64_t b, int64_t l, int part, int64_t i)
{
    return (double)fh1_random_below(fh1_stream_open(call, "store"), (uint64_t)(((b * 8 + l) * 8 + part) * 4096 + i),
                                    1000);
}

static void *buffer_for(const fh1_cache *c, int64_t b, fh1_cache_part part, int64_t more)
{
    return calloc((size_t)(fh1_cache_row_elems(c, b, part) + more) + 1, 8);
}

/* Keys and values: what was there, and new ones for L tokens. */
static void append(fh1_cache *c, int64_t b, int64_t l, fh1_cache_part part, int64_t L, void *old, uint64_t call)
{
    const fh1_config *g = c->config;
    const int64_t n = c->rows[b].n, before = n - L;
    void *now = buffer_for(c, b, part, 0);
    for (int64_t h = 0; h < g->Hkv; h++)
        for (int64_t i = 0; i < n * g->A; i++) {
            const bool kept = i < before * g->A;
            const double v =
                kept ? get(c, old, h * before * g->A + i) : value_of(call, b, l, part, h * 512 + i - before * g->A);
            put(c, now, h * n * g->A + i, v);
        }
    ck_assert(!fh1_cache_row_write(c, b, l, part, now));
    free(now);
}

/* One call as an engine makes it, through reads and writes of rows. */
static void call(fh1_cache *c, const fh1_tokens *t, uint64_t number)
{
    void *old[MAX_ROWS][LAYERS][2];
    for (int64_t b = 0; b < c->B; b++)
        for (int64_t l = 0; l < LAYERS; l++)
            for (int part = 0; part < 2; part++) {
                old[b][l][part] = buffer_for(c, b, (fh1_cache_part)part, 0);
                ck_assert(!fh1_cache_row_read(c, b, l, (fh1_cache_part)part, old[b][l][part]));
            }
    ck_assert(!fh1_cache_prepare(c, t));
    ck_assert(!c->store || !c->rows[0].key);
    fh1_cache_commit(c, t);
    for (int64_t b = 0; b < c->B; b++) {
        const int64_t L = t->row_begin[b + 1] - t->row_begin[b];
        for (int64_t l = 0; l < LAYERS; l++)
            for (int part = 0; part < PARTS; part++) {
                if (part < 2) {
                    append(c, b, l, (fh1_cache_part)part, L, old[b][l][part], number);
                    free(old[b][l][part]);
                } else if (L > 0) {
                    void *state = buffer_for(c, b, (fh1_cache_part)part, 0);
                    for (int64_t i = 0; i < fh1_cache_row_elems(c, b, (fh1_cache_part)part); i++)
                        put(c, state, i, value_of(number, b, l, part, i));
                    ck_assert(!fh1_cache_row_write(c, b, l, (fh1_cache_part)part, state));
                    free(state);
                }
            }
    }
}

static bool same_part(const fh1_cache *a, const fh1_cache *b, int64_t l, fh1_cache_part part)
{
    fh1_tensor shape = fh1_cache_shape(a, part), u = shape, v = shape;
    const size_t n = (size_t)fh1_n_elems(&shape);
    u.dtype = v.dtype = FH1_F64;
    u.data = calloc(n + 1, 8);
    v.data = calloc(n + 1, 8);
    ck_assert(!fh1_cache_export(a, l, part, &u) && !fh1_cache_export(b, l, part, &v));
    const bool same = memcmp(u.data, v.data, n * 8) == 0;
    free(u.data);
    free(v.data);
    return same;
}

static bool same(const fh1_cache *a, const fh1_cache *b)
{
    if (a->B != b->B || a->n_cols != b->n_cols || a->rope_seq_len != b->rope_seq_len) return false;
    for (int64_t i = 0; i < a->B; i++) {
        const fh1_cache_row *p = &a->rows[i], *q = &b->rows[i];
        if (p->n != q->n || p->doc != q->doc || p->doc_begin != q->doc_begin) return false;
        if (p->n && memcmp(p->col, q->col, (size_t)p->n * sizeof *p->col) != 0) return false;
    }
    for (int64_t l = 0; l < LAYERS; l++)
        for (int part = 0; part < PARTS; part++)
            if (!same_part(a, b, l, (fh1_cache_part)part)) return false;
    return true;
}

/* An engine with a device attaches its store at its first call, and again after a restore from a cache without one. */
static void attach(fh1_cache *c, const fh1_cache_store *o)
{
    if (c->store) return;
    fake *f = new_fake(c);
    ck_assert(!fh1_cache_attach(c, f, o));
    for (int64_t b = 0; b < c->B; b++)
        ck_assert(!c->rows[b].key && !c->rows[b].value && !c->rows[b].conv && !c->rows[b].ssm);
}

static void random_call(fh1_cache *plain, fh1_cache *stored, dice *d, uint64_t number)
{
    const int64_t T = 1 + roll(d, 5), len = plain->n_cols + T;
    int64_t ids[MAX_ROWS * 5] = {0}, *mask = calloc((size_t)(plain->B * len), sizeof *mask);
    for (int64_t b = 0; b < plain->B; b++) {
        for (int64_t i = 0; i < plain->rows[b].n; i++) mask[b * len + plain->rows[b].col[i]] = 1;
        for (int64_t i = roll(d, T + 1); i < T; i++) mask[b * len + plain->n_cols + i] = 1;
    }
    const fh1_batch batch = {.B = plain->B, .T = T, .ids = ids, .mask = mask, .mask_len = len};
    fh1_tokens t;
    ck_assert(!fh1_tokens_pack(&batch, 23, plain, &t));
    call(plain, &t, number);
    call(stored, &t, number);
    fh1_tokens_free(&t);
    free(mask);
}

static void random_import(fh1_cache *plain, fh1_cache *stored, dice *d)
{
    const fh1_cache_part part = (fh1_cache_part)roll(d, PARTS);
    const int64_t l = roll(d, LAYERS);
    fh1_tensor v = fh1_cache_shape(plain, part);
    v.data = calloc((size_t)fh1_n_elems(&v) + 1, 8);
    for (int64_t i = 0; i < fh1_n_elems(&v); i++) fh1_set(&v, i, (double)roll(d, 100));
    ck_assert(!fh1_cache_import(plain, l, part, &v) && !fh1_cache_import(stored, l, part, &v));
    free(v.data);
}

typedef struct {
    fh1_cache *c[2], *snapshot[2]; /* without a store, with one */
} pair;

static void one_step(pair *p, dice *d, uint64_t number, const fh1_cache_store *o)
{
    const int64_t op = roll(d, 12), B = p->c[0]->B, b = roll(d, B), n = 1 + roll(d, MAX_ROWS);
    int64_t from[MAX_ROWS];
    for (int64_t i = 0; i < n; i++) from[i] = roll(d, B);
    if (op < 5) {
        attach(p->c[1], o);
        random_call(p->c[0], p->c[1], d, number);
        return;
    }
    for (int i = 0; i < 2; i++) {
        if (op < 7) ck_assert(!fh1_cache_reorder(p->c[i], from, n));
        if (op == 7) {
            fh1_cache_free(p->snapshot[i]);
            ck_assert(!fh1_cache_clone(p->c[i], &p->snapshot[i]));
            ck_assert((p->snapshot[i]->store != NULL) == (p->c[i]->store != NULL));
        }
        if (op == 8 && p->snapshot[i]) ck_assert(!fh1_cache_restore(p->c[i], p->snapshot[i]));
        if (op == 9) ck_assert(!fh1_cache_truncate(p->c[i], b, 0));
        if (op == 10 && b == 0) fh1_cache_reset(p->c[i]);
    }
    if (op == 11) random_import(p->c[0], p->c[1], d);
}

/* True when both were the same after every step. */
static bool one_schedule(uint64_t seed, const fh1_cache_store *o)
{
    fh1_config g = small_config();
    if (seed % 5 == 0) g.K = 1;
    dice d = {fh1_stream_open(seed, "store"), 0};
    pair p = {{NULL, NULL}, {NULL, NULL}};
    const int64_t B = 1 + roll(&d, MAX_ROWS);
    bool good = true;
    for (int i = 0; i < 2; i++) ck_assert(!fh1_cache_new(&g, seed % 2 ? FH1_F32 : FH1_F64, B, &p.c[i]));
    for (int step = 0; step < 40 && good; step++) {
        one_step(&p, &d, seed * 64 + (uint64_t)step, o);
        good = same(p.c[0], p.c[1]) && (!p.snapshot[0] || same(p.snapshot[0], p.snapshot[1]));
    }
    for (int i = 0; i < 2; i++) {
        fh1_cache_free(p.snapshot[i]);
        fh1_cache_free(p.c[i]);
    }
    ck_assert_int_eq(n_stores, 0);
    return good;
}

START_TEST(a_store_makes_no_difference)
{
    ck_assert_msg(one_schedule((uint64_t)_i, &fake_ops), "seed %d", _i);
}
END_TEST

START_TEST(mistakes_of_a_store_are_noticed)
{
    for (fault = NO_FAULT + 1; fault < N_FAULTS; fault++) {
        int noticed = 0;
        for (uint64_t seed = 0; seed < 20; seed++) noticed += !one_schedule(seed, &fake_ops);
        ck_assert_msg(noticed > 2, "fault %d: %d of 20", (int)fault, noticed);
    }
    fault = NO_FAULT;
}
END_TEST

static fh1_cache *two_rows(const fh1_config *g, const fh1_cache_store *o)
{
    fh1_cache *c;
    ck_assert(!fh1_cache_new(g, FH1_F32, 2, &c));
    attach(c, o);
    const int64_t ids[6] = {0};
    const fh1_batch batch = {.B = 2, .T = 3, .ids = ids};
    fh1_tokens t;
    ck_assert(!fh1_tokens_pack(&batch, 23, c, &t));
    call(c, &t, 1);
    fh1_tokens_free(&t);
    return c;
}

/* The mistake of a store that counts references and forgets to: both write into one. */
static fh1_status shared_clone(const fh1_cache *c, void **out)
{
    FH1_TRY(fake_clone(c, out));
    fake *copy = *out;
    const fake *f = c->store;
    for (int64_t b = 0; b < f->B; b++)
        for (int l = 0; l < LAYERS; l++) {
            free(copy->row[b].part[l][FH1_CACHE_CONV].p);
            copy->row[b].part[l][FH1_CACHE_CONV] = f->row[b].part[l][FH1_CACHE_CONV];
        }
    return NULL;
}

static fh1_status shared_write(fh1_cache *c, int64_t b, int64_t layer, fh1_cache_part part, const void *in)
{
    fake *f = c->store;
    if (part != FH1_CACHE_CONV) return fake_write(c, b, layer, part, in);
    memcpy(f->row[b].part[layer][part].p, in, f->row[b].part[layer][part].n);
    return NULL;
}

/* A fork that shares memory is right until one of the two goes on. */
START_TEST(a_shared_fork_is_noticed)
{
    const fh1_cache_store shared = {fake_free,    fake_bytes, fake_reset_row, shared_clone,
                                    fake_reorder, fake_read,  shared_write};
    fh1_config g = small_config();
    fh1_cache *c = two_rows(&g, &shared), *fork, *right;
    const int64_t n = fh1_cache_row_elems(c, 0, FH1_CACHE_CONV);
    float *window = calloc((size_t)n, sizeof *window);
    ck_assert(!fh1_cache_clone(c, &fork));
    c->store_ops = &fake_ops;
    ck_assert(!fh1_cache_clone(c, &right));
    c->store_ops = &shared;
    ck_assert(same(c, fork) && same(c, right));
    ck_assert(!fh1_cache_row_write(c, 0, 0, FH1_CACHE_CONV, window));
    ck_assert(!same(c, right));
    ck_assert(same(c, fork)); /* the fork went along: the mistake */
    free(window);
    fake *f = fork->store;
    for (int64_t b = 0; b < f->B; b++)
        for (int l = 0; l < LAYERS; l++) f->row[b].part[l][FH1_CACHE_CONV] = new_blob(NULL, 0); /* not its own */
    fh1_cache_free(fork);
    fh1_cache_free(right);
    fh1_cache_free(c);
}
END_TEST

/* Whatever fails, the cache is as it was. */
START_TEST(a_failing_store_changes_nothing)
{
    fh1_config g = small_config();
    fh1_cache *c = two_rows(&g, &fake_ops), *kept, *other = NULL;
    ck_assert(!fh1_cache_clone(c, &kept));
    fail_in = 1;
    ck_assert(fh1_cache_clone(c, &other) && !other);
    fail_in = 1;
    ck_assert(fh1_cache_reorder(c, (int64_t[]){1, 0, 1}, 3));
    fail_in = 1;
    ck_assert(fh1_cache_restore(c, kept));
    fail_in = 0;
    ck_assert(same(c, kept));
    ck_assert(!fh1_cache_truncate(c, 1, 3) && fh1_cache_truncate(c, 1, 2) && same(c, kept));

    float all[512];
    fh1_tensor t = fh1_cache_shape(c, FH1_CACHE_KEY);
    t.data = all;
    fail_in = 1;
    ck_assert(fh1_cache_export(c, 0, FH1_CACHE_KEY, &t));
    fail_in = 0;
    ck_assert(!fh1_cache_export(c, 0, FH1_CACHE_KEY, &t));
    fail_in = 1;
    ck_assert(fh1_cache_import(c, 0, FH1_CACHE_KEY, &t));
    fail_in = 0;
    ck_assert(same(c, kept));

    /* An attach that fails half-way leaves the contents in the rows. */
    fh1_cache *plain;
    ck_assert(!fh1_cache_new(&g, FH1_F32, 2, &plain));
    t = fh1_cache_shape(plain, FH1_CACHE_SSM);
    t.data = all;
    for (int i = 0; i < 120; i++) all[i] = (float)i;
    ck_assert(!fh1_cache_import(plain, 1, FH1_CACHE_SSM, &t)); /* before any call */
    fake *f = new_fake(plain);
    for (int tried = 1; tried <= 8; tried++) { /* two rows, two layers, two parts that have elements */
        fail_in = tried;
        ck_assert(fh1_cache_attach(plain, f, &fake_ops));
        ck_assert(!plain->store && !plain->store_ops && plain->rows[1].ssm);
        ck_assert(get(plain, plain->rows[1].ssm[1], 59) > 118.5);
    }
    fail_in = 0;
    ck_assert(!fh1_cache_attach(plain, f, &fake_ops));
    ck_assert(plain->store == f && fh1_cache_attach(plain, f, &fake_ops));
    memset(all, 0, sizeof all);
    ck_assert(!fh1_cache_row_read(plain, 1, 1, FH1_CACHE_SSM, all));
    ck_assert(all[59] > 118.5f);
    ck_assert_uint_ge(fh1_cache_bytes(plain), sizeof(fake));
    fh1_cache_free(plain);
    fh1_cache_free(kept);
    fh1_cache_free(c);
    ck_assert_int_eq(n_stores, 0);
}
END_TEST

int main(void)
{
    TCase *t = tcase_create("cache_store");
    tcase_set_timeout(t, 120);
    tcase_add_loop_test(t, a_store_makes_no_difference, 0, 30);
    tcase_add_test(t, mistakes_of_a_store_are_noticed);
    tcase_add_test(t, a_shared_fork_is_noticed);
    tcase_add_test(t, a_failing_store_changes_nothing);
    Suite *s = suite_create("cache_store");
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
