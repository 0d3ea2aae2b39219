/* The cache as the model sees it, beyond golden/law_cache.c: beams with faults planted in each part of a reorder,
 * truncation at every length, export and import. */
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
    tcase_add_loop_test(tc, beams_are_their_own_history, 0, TINY_KINDS);
    tcase_add_loop_test(tc, truncate_keeps_all_or_nothing, 0, TINY_KINDS);
    tcase_add_loop_test(tc, exported_is_imported, 0, TINY_KINDS);
    return tiny_main(suite_create("laws_cache"), tc);
}
