/* Laws of the cache as the model sees them: a snapshot is the moment it was taken, a fork leaves its parent alone, a
 * reorder moves everything a row remembers, a reset is a new cache, what is exported can be put back. */
#include "tests/tiny_model.h"

enum { LENGTH = 24 };
static int64_t text[4][LENGTH];

static void write_texts(void)
{
    for (int i = 0; i < 4; ++i) tiny_ids(200 + (uint64_t)i, LENGTH, text[i]);
}

/* T tokens for each of B rows; row b gets from[b][0 .. T). */
static void feed_rows(tiny_session *s, int64_t B, int64_t T, const int64_t *const *from)
{
    int64_t in[TINY_ROWS * LENGTH];
    for (int64_t b = 0; b < B; ++b) memcpy(in + b * T, from[b], (size_t)T * sizeof *in);
    tiny_call(s, &(fh1_batch){.B = B, .T = T, .ids = in});
}

/* Back to a snapshot of cache and logits. */
static void go_back(tiny_session *s, const tiny_session *snapshot)
{
    TINY_OK(fh1_cache_restore(s->cache, snapshot->cache));
    memcpy(s->n, snapshot->n, sizeof s->n);
}

START_TEST(snapshot_restored_twice)
{
    fh1_model m;
    tiny_build_kind(&m, _i);
    write_texts();
    /* moments before the window is full, within a chunk, and at its end */
    for (int64_t p = 1; p <= m.config.Q; ++p) {
        tiny_session s = tiny_solo(&m, "ref-f64", text[0], p), snapshot = tiny_fork(&s), untouched = tiny_fork(&s);
        tiny_feed(&s, text[0] + p, 3);
        tiny_feed(&s, text[0] + p + 3, 1);
        tiny_session first = tiny_fork(&s);
        for (int again = 0; again < 2; ++again) {
            go_back(&s, &snapshot);
            ck_assert(tiny_same(&s, 0, &untouched, 0));
            tiny_feed(&s, text[0] + p, 3);
            tiny_feed(&s, text[0] + p + 3, 1);
            ck_assert_msg(tiny_same(&s, 0, &first, 0), "restore %d at %d", again, (int)p);
            ck_assert(tiny_same(&snapshot, 0, &untouched, 0));
        }
        go_back(&s, &snapshot); /* a state that is not quite the snapshot's is noticed */
        ((double *)s.cache->rows[0].ssm[1])[4] += 1e-9;
        tiny_feed(&s, text[0] + p, 3);
        tiny_feed(&s, text[0] + p + 3, 1);
        ck_assert(!tiny_same(&s, 0, &first, 0));
        tiny_close(&s);
        tiny_close(&snapshot);
        tiny_close(&untouched);
        tiny_close(&first);
    }
    fh1_model_free(&m);
}
END_TEST

START_TEST(a_fork_leaves_its_parent_alone)
{
    fh1_model m;
    tiny_build_kind(&m, _i);
    write_texts();
    tiny_session parent = tiny_solo(&m, "ref-f64", text[0], 7), before = tiny_fork(&parent), child = tiny_fork(&parent);
    tiny_feed(&child, text[1], 5); /* other words */
    tiny_feed(&child, text[1] + 5, 1);
    ck_assert(tiny_same(&parent, 0, &before, 0));

    tiny_session alone = tiny_solo(&m, "ref-f64", text[0], 7);
    tiny_feed(&alone, text[0] + 7, 5);
    tiny_feed(&parent, text[0] + 7, 5);
    ck_assert(tiny_same(&parent, 0, &alone, 0));
    tiny_session child_alone = tiny_solo(&m, "ref-f64", text[0], 7);
    tiny_feed(&child_alone, text[1], 5);
    tiny_feed(&child_alone, text[1] + 5, 1);
    ck_assert(tiny_same(&child, 0, &child_alone, 0));
    TINY_BREAKS(tiny_gap_logits(&child, 0, 0, &parent, 0), "the child says something else");
    tiny_close(&parent);
    tiny_close(&before);
    tiny_close(&child);
    tiny_close(&alone);
    tiny_close(&child_alone);
    fh1_model_free(&m);
}
END_TEST

static void move_rows(tiny_session *s, const int64_t *from, int64_t n)
{
    const size_t bytes = (size_t)(TINY_TOKENS * s->m->config.V) * sizeof(double);
    tiny_session old = tiny_fork(s);
    TINY_OK(fh1_cache_reorder(s->cache, from, n));
    for (int64_t b = 0; b < n; ++b) {
        s->n[b] = old.n[from[b]];
        memcpy(s->logits[b], old.logits[from[b]], bytes);
    }
    tiny_close(&old);
}

/* Beam search: three rows with words of their own become (2, 2, 0, 1), go on with different words, then one is
 * dropped and the others change places. Each must be what its own history of tokens gives. */
static double beams(const fh1_model *m, void (*plant)(tiny_session *))
{
    static const int64_t spread[] = {2, 2, 0, 1}, compact[] = {3, 1, 0};
    const int64_t *const first[] = {text[0], text[1], text[2]};
    const int64_t *const second[] = {text[0] + 9, text[1] + 9, text[2] + 9, text[3] + 9};
    const int64_t *const third[] = {text[3] + 13, text[1] + 13, text[0] + 13};
    tiny_session s = tiny_open(m, "ref-f64", 0, 3);
    feed_rows(&s, 3, 7, first);
    feed_rows(&s, 3, 1, (const int64_t *const[]){text[0] + 7, text[1] + 7, text[2] + 7});
    move_rows(&s, spread, 4);
    if (plant) plant(&s);
    feed_rows(&s, 4, 1, second);
    feed_rows(&s, 4, 3, (const int64_t *const[]){second[0] + 1, second[1] + 1, second[2] + 1, second[3] + 1});
    move_rows(&s, compact, 3);
    feed_rows(&s, 3, 1, third);

    double worst = 0;
    for (int64_t b = 0; b < 3; ++b) {
        const int64_t beam = compact[b], source = spread[beam];
        tiny_session solo = tiny_solo(m, "ref-f64", text[source], 8);
        tiny_feed(&solo, second[beam], 4);
        tiny_feed(&solo, third[b], 1);
        worst = fmax(worst, tiny_gap(&s, b, &solo, 0));
        tiny_close(&solo);
    }
    tiny_close(&s);
    return worst;
}

/* A reorder that forgets one of the four parts: rows 2 and 3 of it change places, in layer 1. */
static void swap_part(void **a, void **b)
{
    void *kept = a[1];
    a[1] = b[1];
    b[1] = kept;
}
static void keys_left(tiny_session *s)
{
    swap_part(s->cache->rows[2].key, s->cache->rows[3].key);
}
static void values_left(tiny_session *s)
{
    swap_part(s->cache->rows[2].value, s->cache->rows[3].value);
}
static void windows_left(tiny_session *s)
{
    swap_part(s->cache->rows[2].conv, s->cache->rows[3].conv);
}
static void states_left(tiny_session *s)
{
    swap_part(s->cache->rows[2].ssm, s->cache->rows[3].ssm);
}
/* The second of two beams from one row starts with an empty state. */
static void state_not_copied(tiny_session *s)
{
    const fh1_config *c = &s->m->config;
    memset(s->cache->rows[1].ssm[1], 0, (size_t)(c->d_ssm * c->N) * sizeof(double));
}

START_TEST(beams_are_their_own_history)
{
    static void (*const plants[])(tiny_session *) = {keys_left, values_left, windows_left, states_left,
                                                     state_not_copied};
    fh1_model m;
    tiny_build_kind(&m, _i);
    write_texts();
    TINY_HOLDS(beams(&m, NULL), TINY_F64, "beams");
    for (size_t i = 0; i < sizeof plants / sizeof *plants; ++i)
        TINY_BREAKS(beams(&m, plants[i]), "reorder, fault %d", (int)i);
    tiny_session s = tiny_solo(&m, "ref-f64", text[0], 4), kept = tiny_fork(&s);
    ck_assert(fh1_cache_reorder(s.cache, (int64_t[]){0, 1}, 2) != NULL); /* there is no row 1 */
    ck_assert(tiny_same(&s, 0, &kept, 0));
    tiny_close(&s);
    tiny_close(&kept);
    fh1_model_free(&m);
}
END_TEST

START_TEST(reset_is_new)
{
    fh1_model m;
    tiny_build_kind(&m, _i);
    write_texts();
    tiny_session used = tiny_solo(&m, "ref-f64", text[0], 13);
    tiny_call(&used, &(fh1_batch){.B = 1, .T = 2, .ids = text[1], .seq_idx = (int64_t[]){4, 4}});
    fh1_cache_reset(used.cache);
    used.n[0] = 0;
    for (int64_t T = 1; T <= 3; T += 2) { /* the first call after it may be a single token */
        tiny_session fresh = tiny_solo(&m, "ref-f64", text[2], T);
        tiny_feed(&used, text[2], T);
        ck_assert(tiny_same(&used, 0, &fresh, 0));
        ck_assert_int_eq(used.cache->rope_seq_len, fresh.cache->rope_seq_len);
        ck_assert_int_eq(used.cache->rows[0].doc, fresh.cache->rows[0].doc);
        tiny_close(&fresh);
        fh1_cache_reset(used.cache);
        used.n[0] = 0;
    }
    tiny_session fresh = tiny_solo(&m, "ref-f64", text[2], 4);
    ((double *)used.cache->rows[0].ssm[0])[0] = 1; /* a reset that leaves one number behind */
    used.cache->rows[0].doc = 0;
    tiny_feed(&used, text[2], 4);
    ck_assert(!tiny_same(&used, 0, &fresh, 0));
    tiny_close(&fresh);
    tiny_close(&used);
    fh1_model_free(&m);
}
END_TEST

START_TEST(truncate_keeps_all_or_nothing)
{
    fh1_model m;
    tiny_build_kind(&m, _i);
    write_texts();
    const int64_t *const both[] = {text[0], text[1]};
    tiny_session s = tiny_open(&m, "ref-f64", 0, 2);
    feed_rows(&s, 2, 6, both);
    tiny_session kept = tiny_fork(&s);
    TINY_OK(fh1_cache_truncate(s.cache, 1, 6));
    for (int64_t n = -1; n <= 7; ++n) {
        if (n == 0 || n == 6) continue;
        fh1_status st = fh1_cache_truncate(s.cache, 1, n);
        ck_assert_msg(st && st->code == FH1_E_INPUT, "rollback to %d was not refused", (int)n);
    }
    ck_assert(tiny_same(&s, 0, &kept, 0) && tiny_same(&s, 1, &kept, 1));

    TINY_OK(fh1_cache_truncate(s.cache, 1, 0)); /* row 1 starts again, row 0 goes on; its old columns are padding */
    s.n[1] = 0;
    const int64_t in[] = {text[0][6], text[0][7], text[2][0], text[2][1]}, pos[] = {6, 7, 0, 1};
    const int64_t mask[] = {1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 1, 1};
    tiny_call(&s, &(fh1_batch){.B = 2, .T = 2, .ids = in, .mask = mask, .mask_len = 8, .positions = pos});
    tiny_session row0 = tiny_solo(&m, "ref-f64", text[0], 8), row1 = tiny_solo(&m, "ref-f64", text[2], 2);
    TINY_HOLDS(tiny_gap(&s, 0, &row0, 0), TINY_F64, "the row that goes on");
    TINY_HOLDS(tiny_gap(&s, 1, &row1, 0), TINY_F64, "the row that starts again");
    TINY_BREAKS(tiny_gap_logits(&kept, 1, 0, &row1, 0), "the row that did not start again");
    tiny_close(&s);
    tiny_close(&kept);
    tiny_close(&row0);
    tiny_close(&row1);
    fh1_model_free(&m);
}
END_TEST

/* Every part out into f64 tensors, then into a cache whose parts were spoilt; f32 holds what f32 computed. */
static void round_trip(const fh1_model *m, const char *engine, int skipped_part)
{
    tiny_session s = tiny_solo(m, engine, text[0], 6), t = tiny_fork(&s);
    const size_t wide = s.cache->dtype == FH1_F64 ? 8 : 4;
    for (int64_t l = 0; l < m->config.n_layers; ++l)
        for (int part = 0; part < 4; ++part) {
            fh1_tensor v = fh1_cache_shape(s.cache, (fh1_cache_part)part);
            fh1_cache_row *r = &t.cache->rows[0];
            void *const spoil[] = {r->key[l], r->value[l], r->conv[l], r->ssm[l]};
            v.dtype = FH1_F64;
            v.data = malloc(fh1_n_bytes(&v) + 1);
            TINY_OK(fh1_cache_export(s.cache, l, (fh1_cache_part)part, &v));
            memset(spoil[part], 0, (size_t)fh1_n_elems(&v) * wide);
            if (part != skipped_part) TINY_OK(fh1_cache_import(t.cache, l, (fh1_cache_part)part, &v));
            free(v.data);
        }
    tiny_feed(&s, text[0] + 6, 2);
    tiny_feed(&t, text[0] + 6, 2);
    ck_assert_msg(tiny_same(&t, 0, &s, 0) == (skipped_part < 0), "%s, part %d", engine, skipped_part);
    tiny_close(&s);
    tiny_close(&t);
}

START_TEST(exported_is_imported)
{
    fh1_model m;
    tiny_build_kind(&m, _i);
    write_texts();
    for (int part = -1; part < 4; ++part) {
        round_trip(&m, "ref-f64", part);
        round_trip(&m, "ref-f32", part);
    }
    fh1_model_free(&m);
}
END_TEST

int main(void)
{
    TCase *tc = tcase_create("cache");
    tcase_add_loop_test(tc, snapshot_restored_twice, 0, TINY_KINDS);
    tcase_add_loop_test(tc, a_fork_leaves_its_parent_alone, 0, TINY_KINDS);
    tcase_add_loop_test(tc, beams_are_their_own_history, 0, TINY_KINDS);
    tcase_add_loop_test(tc, reset_is_new, 0, TINY_KINDS);
    tcase_add_loop_test(tc, truncate_keeps_all_or_nothing, 0, TINY_KINDS);
    tcase_add_loop_test(tc, exported_is_imported, 0, TINY_KINDS);
    return tiny_main(suite_create("laws_cache"), tc);
}
