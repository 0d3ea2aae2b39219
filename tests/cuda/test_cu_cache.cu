/* The cache on the device against a naive model of it (cache_fixture.h): random schedules of calls, forks, orders,
 * restores and resets must keep the two equal; a write into a page that others hold must make them differ. */
#include "tests/cuda/cache_fixture.h"

namespace
{

/* Every page has the holders that tables say, and free ones are not in a table. */
void check_holders(const fh1_cache *a, const fh1_cache *b)
{
    const cu_cache *first = static_cast<const cu_cache *>(a->store);
    if (!first) return;
    std::vector<int> held(static_cast<size_t>(first->pool->n_pages));
    for (const fh1_cache *c : {a, b}) {
        const cu_cache *cc = c ? static_cast<const cu_cache *>(c->store) : nullptr;
        if (!cc || cc->pool != first->pool) continue;
        for (int64_t r = 0; r < cc->B; ++r)
            for (int64_t k = 0; k < cc->n_pages[r]; ++k) held[static_cast<size_t>(cc->table[r * cc->width + k])]++;
    }
    int64_t n_free = 0;
    for (size_t i = 0; i < held.size(); ++i) {
        ck_assert_int_eq(held[i], first->pool->holders[i]);
        n_free += held[i] == 0;
    }
    ck_assert_int_eq(n_free, first->pool->n_free_pages);
}

struct dice {
    fh1_stream s;
    uint64_t i;
};

int64_t roll(dice *d, int64_t n)
{
    return fh1_random_below(d->s, d->i++, n);
}

void random_call(const books *k, fh1_cache *c, naive *n, dice *d, int64_t *token)
{
    int64_t L[MAX_ROWS], T = roll(d, 2) ? 1 + roll(d, 3) : 1 + roll(d, MAX_T);
    if (n->n_cols + T > MAX_TOKENS) return;
    for (int64_t b = 0; b < n->B; ++b) L[b] = roll(d, 3) ? T : roll(d, T + 1);
    ck_assert_int_eq(call(k, c, n, L, T, *token), 0);
    *token += 100;
}

void random_reorder(fh1_cache *c, naive *n, dice *d)
{
    static naive old;
    int64_t from[MAX_ROWS], many = 1 + roll(d, MAX_ROWS);
    old = *n;
    for (int64_t i = 0; i < many; ++i) {
        from[i] = roll(d, old.B);
        n->row[i] = old.row[from[i]];
    }
    n->B = many;
    good(fh1_cache_reorder(c, from, many));
}

void one_schedule(cu_type type, uint64_t seed)
{
    static naive n, saved;
    books k = open_books(type);
    if (seed % 4 == 3) k.g.K = 1; /* no conv window */
    dice d = {fh1_stream_open(seed, "cu cache"), 0};
    fh1_cache *c, *snapshot = NULL;
    int64_t token = 1;
    n = naive{};
    n.B = 1 + roll(&d, MAX_ROWS);
    good(fh1_cache_new(&k.g, seed % 2 ? FH1_F32 : FH1_F64, n.B, &c));
    for (int step = 0; step < 30; ++step) {
        const int64_t op = roll(&d, 12), b = roll(&d, n.B);
        if (op < 6) random_call(&k, c, &n, &d, &token);
        else if (op < 8) random_reorder(c, &n, &d);
        else if (op == 8) {
            fh1_cache_free(snapshot);
            good(fh1_cache_clone(c, &snapshot));
            saved = n;
        } else if (op == 9 && snapshot) {
            good(fh1_cache_restore(c, snapshot));
            n = saved;
        } else if (op == 10) {
            good(fh1_cache_truncate(c, b, 0));
            n.row[b].n = 0;
        } else if (op == 11 && roll(&d, 4) == 0) {
            fh1_cache_reset(c);
            const int64_t B = n.B;
            n = naive{};
            n.B = B;
        }
        const int bad = differs(c, &n);
        ck_assert_msg(!bad, "seed %d, step %d, op %d: part %d", (int)seed, step, (int)op, bad);
        check_holders(c, snapshot);
        if (snapshot) ck_assert_int_eq(differs(snapshot, &saved), 0); /* whatever happened to c */
    }
    fh1_cache_free(snapshot);
    fh1_cache_free(c);
    good(cudaStreamDestroy(k.stream));
}

START_TEST(random_schedules)
{
    one_schedule(_i % 4 < 2 ? CU_F32 : CU_BF16, static_cast<uint64_t>(_i));
}
END_TEST

fh1_cache *two_rows(const books *k, naive *n, int64_t tokens)
{
    fh1_cache *c;
    const int64_t L[] = {tokens, tokens - 1};
    *n = naive{};
    n->B = 2;
    good(fh1_cache_new(&k->g, FH1_F32, 2, &c));
    call(k, c, n, L, tokens, 1);
    ck_assert_int_eq(differs(c, n), 0);
    return c;
}

const cu_cache *store_of(const fh1_cache *c)
{
    return static_cast<const cu_cache *>(c->store);
}

/* Full pages are shared by copies for good, the last one until somebody writes. */
START_TEST(copies_share_pages)
{
    static naive n, m;
    const books k = open_books(CU_BF16);
    fh1_cache *c = two_rows(&k, &n, 100), *fork;
    const int64_t one[] = {1, 1};
    ck_assert(!c->rows[0].key && !c->rows[0].ssm); /* nothing is kept twice */
    ck_assert_int_eq(store_of(c)->pool->n_pages - store_of(c)->pool->n_free_pages, 4);
    good(fh1_cache_clone(c, &fork));
    m = n;
    ck_assert(store_of(c)->pool == store_of(fork)->pool);
    ck_assert_int_eq(store_of(c)->pool->n_pages - store_of(c)->pool->n_free_pages, 4);
    call(&k, c, &n, one, 1, 500);
    ck_assert_int_eq(store_of(c)->pool->n_pages - store_of(c)->pool->n_free_pages, 6);
    ck_assert_int_eq(store_of(c)->table[0], store_of(fork)->table[0]);
    call(&k, fork, &m, one, 1, 700); /* the only holder by now: no copy */
    ck_assert_int_eq(store_of(c)->pool->n_pages - store_of(c)->pool->n_free_pages, 6);
    ck_assert(!differs(c, &n) && !differs(fork, &m));
    check_holders(c, fork);
    fh1_cache_free(c);
    ck_assert_int_eq(differs(fork, &m), 0);
    ck_assert_int_eq(store_of(fork)->pool->n_pages - store_of(fork)->pool->n_free_pages, 4);
    fh1_cache_free(fork);
    good(cudaStreamDestroy(k.stream));
}
END_TEST

/* The same without the copy before the write. */
START_TEST(a_write_into_a_shared_page_is_noticed)
{
    static naive n, m;
    const books k = open_books(CU_F32);
    fh1_cache *c = two_rows(&k, &n, 70), *fork;
    const int64_t both[] = {1, 1};
    good(fh1_cache_clone(c, &fork));
    m = n;
    const int page = store_of(c)->table[1];
    store_of(c)->pool->holders[page] = 1; /* the mistake */
    call(&k, c, &n, both, 1, 500);
    call(&k, fork, &m, both, 1, 700);
    store_of(c)->pool->holders[page] = 2;
    ck_assert_int_eq(differs(fork, &m), 0);
    ck_assert_int_eq(differs(c, &n), 1);
    fh1_cache_free(c);
    fh1_cache_free(fork);
    good(cudaStreamDestroy(k.stream));
}
END_TEST

/* What came into a cache on the host moves to the device, and back again by a restore. */
START_TEST(contents_change_places)
{
    static naive n;
    const books k = open_books(CU_BF16);
    fh1_cache *c = two_rows(&k, &n, 67), *host, *empty, *same;
    const int64_t L[] = {3, 0};
    good(fh1_cache_new(&k.g, FH1_F32, 2, &host));
    good(fh1_cache_new(&k.g, FH1_F32, 2, &empty));
    good(fh1_cache_clone(c, &same));
    for (int64_t b = 0; b < 2; ++b) { /* books as in c, contents by import */
        good(fh1_cache_reserve(host, b, c->rows[b].n));
        memcpy(host->rows[b].col, c->rows[b].col, static_cast<size_t>(c->rows[b].n) * sizeof(int64_t));
        host->rows[b].n = c->rows[b].n;
        host->rows[b].doc = c->rows[b].doc;
    }
    host->n_cols = c->n_cols;
    host->rope_seq_len = c->rope_seq_len;
    for (int64_t l = 0; l < k.g.n_layers; ++l)
        for (int part = 0; part < 4; ++part) {
            fh1_tensor v = fh1_cache_shape(c, static_cast<fh1_cache_part>(part));
            std::vector<float> buffer(static_cast<size_t>(fh1_n_elems(&v)));
            v.data = buffer.data();
            good(fh1_cache_export(c, l, static_cast<fh1_cache_part>(part), &v));
            good(fh1_cache_import(host, l, static_cast<fh1_cache_part>(part), &v));
            good(fh1_cache_import(same, l, static_cast<fh1_cache_part>(part), &v));
        }
    ck_assert(!host->store && !differs(host, &n) && !differs(same, &n));
    check_holders(c, same); /* an import writes into pages of its own */
    static naive before;
    before = n;
    ck_assert_int_eq(call(&k, host, &n, L, 3, 900), 0); /* uploads */
    ck_assert(host->store && !host->rows[0].key && !differs(host, &n));

    good(fh1_cache_restore(host, c));
    ck_assert(host->store && !differs(host, &before));
    good(fh1_cache_restore(c, empty));
    n = naive{};
    n.B = 2;
    ck_assert(!c->store && !differs(c, &n));
    ck_assert_int_eq(call(&k, c, &n, L, 3, 40), 0);
    ck_assert(c->store && !differs(c, &n));
    for (fh1_cache *x : {c, host, empty, same}) fh1_cache_free(x);
    good(cudaStreamDestroy(k.stream));
}
END_TEST

/* Reused slots are zero and reused pages NaN; the pool does not grow for them. */
START_TEST(what_is_freed_is_clean_when_it_comes_back)
{
    static naive n;
    const books k = open_books(CU_F32);
    fh1_cache *c = two_rows(&k, &n, 130);
    const int64_t few[] = {1, 1}, same[] = {1, 1}, pages = store_of(c)->pool->n_pages;
    good(fh1_cache_reorder(c, same, 2)); /* row 0 is dropped, row 1 twice */
    n.row[0] = n.row[1];
    ck_assert_int_eq(differs(c, &n), 0);
    good(fh1_cache_truncate(c, 0, 0));
    n.row[0].n = 0;
    ck_assert_int_eq(differs(c, &n), 0);
    fh1_cache_reset(c);
    n = naive{};
    n.B = 2;
    call(&k, c, &n, few, 1, 7);
    ck_assert_int_eq(differs(c, &n), 0);
    ck_assert_int_eq(store_of(c)->pool->n_pages, pages);
#if CU_HOST
    const cu_kv kv = cu_cache_kv(store_of(c), 1);
    const float *key = static_cast<const float *>(kv.key) + cu_kv_at(kv, 0, 0, 0);
    ck_assert(!std::isnan(key[0]) && std::isnan(key[kv.A]));
#endif
    fh1_cache_free(c);
    good(cudaStreamDestroy(k.stream));
}
END_TEST

/* Pointers stay while a graph runs in what was reserved, and a change shows in the generation. */
START_TEST(reserved_room_stays_in_place)
{
    static naive n;
    const books k = open_books(CU_BF16);
    fh1_cache *c = two_rows(&k, &n, 10);
    cu_cache *cc = static_cast<cu_cache *>(c->store);
    const int64_t one[] = {1, 1};
    good(cu_cache_reserve(cc, 200, k.stream));
    const uint64_t generation = cu_cache_generation(cc);
    const void *key = cu_cache_kv(cc, 1).key, *table = cu_cache_kv(cc, 1).table;
    const std::vector<int> begin = from_device(cu_cache_kv(cc, 1).table, 8);
    for (int64_t i = 0; i < 150; ++i) call(&k, c, &n, one, 1, 1000 + 10 * i);
    ck_assert_int_eq(differs(c, &n), 0);
    ck_assert(cu_cache_generation(cc) == generation && cu_cache_kv(cc, 1).key == key &&
              cu_cache_kv(cc, 1).table == table);
    ck_assert(from_device(cu_cache_kv(cc, 1).table, 8) == begin);
    good(cu_cache_reserve(cc, 400, k.stream));
    ck_assert(cu_cache_generation(cc) != generation);
    ck_assert_int_eq(differs(c, &n), 0);

    /* Too much: refused, nothing lost. */
    ck_assert(cu_cache_reserve(cc, INT64_C(1) << 41, k.stream) != NULL);
    ck_assert(cu_cache_reserve(cc, INT64_C(1) << 34, k.stream) != NULL);
    ck_assert_int_eq(call(&k, c, &n, one, 1, 5000), 0);
    ck_assert_int_eq(differs(c, &n), 0);
    fh1_cache_free(c);
    good(cudaStreamDestroy(k.stream));
}
END_TEST

START_TEST(misuse_is_refused)
{
    static naive n;
    const books k = open_books(CU_BF16);
    fh1_cache *c = two_rows(&k, &n, 5), *wide;
    cu_cache *cc;
    fh1_tokens t;
    const int64_t ids[] = {1, 2, 3};
    fh1_batch batch = {};
    batch.B = 2;
    batch.T = 1;
    batch.ids = ids;
    good(fh1_tokens_pack(&batch, 23, c, &t));
    ck_assert(cu_cache_prepare(c, CU_F32, &t, k.stream, &cc) != NULL); /* attached as bf16 */
    good(cu_cache_prepare(c, CU_BF16, &t, k.stream, &cc));
    good(fh1_cache_new(&k.g, FH1_F32, 3, &wide));
    ck_assert(cu_cache_prepare(wide, CU_BF16, &t, k.stream, &cc) != NULL);
    ck_assert_int_eq(differs(c, &n), 0);
    ck_assert(fh1_cache_bytes(c) > cu_cache_bytes(&k.g, CU_BF16, 2, 6));
    fh1_tokens_free(&t);
    fh1_cache_free(wide);
    fh1_cache_free(c);
    good(cudaStreamDestroy(k.stream));
}
END_TEST

} // namespace

int main(void)
{
    TCase *t = tcase_create("cache");
    tcase_set_timeout(t, 120);
    tcase_add_loop_test(t, random_schedules, 0, 8);
    tcase_add_test(t, copies_share_pages);
    tcase_add_test(t, a_write_into_a_shared_page_is_noticed);
    tcase_add_test(t, contents_change_places);
    tcase_add_test(t, what_is_freed_is_clean_when_it_comes_back);
    tcase_add_test(t, reserved_room_stays_in_place);
    tcase_add_test(t, misuse_is_refused);
    Suite *s = suite_create("cu_cache");
    suite_add_tcase(s, t);
    return run_suite(s);
}
