/* Laws of packed rows: several documents in one row, numbered by seq_idx, positions restarted, compute what each
 * computes alone; nothing of one document reaches the next. */
#include "tests/tiny_model.h"

enum { MAX_DOCS = 8 };
static int64_t ids[TINY_TOKENS];

typedef struct {
    int n;
    int64_t len[MAX_DOCS];
    int64_t T; /* their sum */
    int64_t seq_idx[TINY_TOKENS], positions[TINY_TOKENS];
} packing;

/* Documents are numbered in steps of `step`: ids need not be dense. */
static packing pack(int n, const int64_t *len, int64_t step)
{
    packing p = {.n = n};
    for (int d = 0; d < n; ++d) {
        p.len[d] = len[d];
        for (int64_t i = 0; i < len[d]; ++i, ++p.T) {
            p.seq_idx[p.T] = d * step;
            p.positions[p.T] = i;
        }
    }
    return p;
}

static void feed_packed(tiny_session *s, const packing *p, int64_t begin, int64_t n)
{
    tiny_call(
        s, &(fh1_batch){
               .B = 1, .T = n, .ids = ids + begin, .seq_idx = p->seq_idx + begin, .positions = p->positions + begin});
}

/* The largest gap of any document of the packed row to the same document alone. */
static double worst_document(const tiny_session *s, const packing *p, const char *engine)
{
    double worst = 0;
    int64_t begin = 0;
    for (int d = 0; d < p->n; ++d) {
        tiny_session solo = tiny_solo(s->m, engine, ids + begin, p->len[d]);
        worst = fmax(worst, tiny_gap_from(s, 0, begin, &solo, 0));
        begin += p->len[d];
        tiny_close(&solo);
    }
    return worst;
}

/* Documents around the widths of window and chunk, shortest first and in two shuffles. */
static void pack_everything(int kind, const char *engine, const char *solo_engine, double tol)
{
    static const int order[][7] = {{0, 1, 2, 3, 4, 5, 6}, {6, 0, 3, 1, 5, 2, 4}, {3, 6, 2, 0, 4, 1, 5}};
    fh1_model m;
    tiny_build_kind(&m, kind);
    const int64_t Q = m.config.Q, all[7] = {1, 2, 3, m.config.K, Q - 1, Q, Q + 1};
    tiny_ids(10, TINY_TOKENS, ids);
    for (size_t k = 0; k < sizeof order / sizeof *order; ++k) {
        int64_t len[7];
        for (int d = 0; d < 7; ++d) len[d] = all[order[k][d]];
        const packing p = pack(7, len, 1 + (int64_t)k);
        tiny_session s = tiny_open(&m, engine, 0, 1);
        feed_packed(&s, &p, 0, p.T);
        TINY_HOLDS(worst_document(&s, &p, solo_engine), tol, "%s, order %d", engine, (int)k);
        tiny_close(&s);
    }
    fh1_model_free(&m);
}

START_TEST(packed_is_solo)
{
    pack_everything(_i, "ref-f64", "ref-f64", TINY_F64);
    pack_everything(_i, TINY_CHUNKED, "ref-f64", TINY_F64);
}
END_TEST

/* The row cut into two calls at every column: at, before and behind the borders of documents. */
START_TEST(packed_row_in_two_calls)
{
    fh1_model m;
    tiny_build_kind(&m, _i);
    tiny_ids(11, TINY_TOKENS, ids);
    const packing p = pack(4, (int64_t[]){4, 1, 2, 5}, 3);
    for (int64_t cut = 1; cut < p.T; ++cut) {
        tiny_session s = tiny_open(&m, "ref-f64", 0, 1);
        feed_packed(&s, &p, 0, cut);
        feed_packed(&s, &p, cut, p.T - cut);
        TINY_HOLDS(worst_document(&s, &p, "ref-f64"), TINY_F64, "cut after %d", (int)cut);
        tiny_close(&s);
    }
    fh1_model_free(&m);
}
END_TEST

/* Two rows packed differently, one of them padded on the left, the other on the right. */
START_TEST(rows_are_packed_by_themselves)
{
    enum { T = 12 };
    fh1_model m;
    tiny_build_kind(&m, _i);
    tiny_ids(13, TINY_TOKENS, ids);
    const packing a = pack(3, (int64_t[]){2, 5, 3}, 1), b = pack(2, (int64_t[]){7, 2}, 4);
    const int64_t left = T - a.T, shift = 20; /* row 1 speaks ids + shift */
    int64_t in[2 * T] = {0}, mask[2 * T] = {0}, seq[2 * T] = {0}, pos[2 * T] = {0};
    for (int64_t t = 0; t < a.T; ++t) {
        in[left + t] = ids[t], mask[left + t] = 1, seq[left + t] = a.seq_idx[t], pos[left + t] = a.positions[t];
    }
    for (int64_t t = 0; t < b.T; ++t) {
        in[T + t] = ids[shift + t], mask[T + t] = 1, seq[T + t] = b.seq_idx[t], pos[T + t] = b.positions[t];
    }
    tiny_session s = tiny_open(&m, "ref-f64", 0, 2);
    tiny_call(&s,
              &(fh1_batch){.B = 2, .T = T, .ids = in, .mask = mask, .mask_len = T, .seq_idx = seq, .positions = pos});
    TINY_HOLDS(worst_document(&s, &a, "ref-f64"), TINY_F64, "row padded on the left");
    for (int64_t d = 0, begin = 0; d < b.n; begin += b.len[d++]) {
        tiny_session solo = tiny_solo(&m, "ref-f64", ids + shift + begin, b.len[d]);
        TINY_HOLDS(tiny_gap_from(&s, 1, begin, &solo, 0), TINY_F64, "row padded on the right");
        tiny_close(&solo);
    }
    tiny_close(&s);
    fh1_model_free(&m);
}
END_TEST

/* Token 11 is the last of document A only, and its embedding is NaN: B does not move by a bit. */
START_TEST(nan_stays_in_its_document)
{
    fh1_model m;
    fh1_config c = tiny_config(_i);
    c.tied = false; /* a tied head would have the NaN too */
    tiny_build(&m, &c, tiny_dtype(_i), 7);
    tiny_ids(14, TINY_TOKENS, ids);
    for (int64_t t = 0; t < TINY_TOKENS; ++t) ids[t] += ids[t] == 11;
    for (int64_t len_a = 1; len_a <= 5; len_a += 2) {
        const packing p = pack(2, (int64_t[]){len_a, 7}, 1);
        const int64_t was = ids[len_a - 1];
        ids[len_a - 1] = 11;
        tiny_session clean = tiny_open(&m, "ref-f64", 0, 1), dirty = tiny_open(&m, "ref-f64", 0, 1);
        feed_packed(&clean, &p, 0, p.T);
        fh1_model spoilt;
        tiny_build(&spoilt, &c, tiny_dtype(_i), 7);
        tiny_scale_rows(&spoilt, "embed_tokens.weight", 11, 12, NAN);
        dirty.m = &spoilt;
        feed_packed(&dirty, &p, 0, p.T);
        ck_assert(isnan(dirty.logits[0][(len_a - 1) * TINY_V]));

        tiny_session b = tiny_fork(&clean); /* document B of the clean row as a row of its own */
        memmove(b.logits[0], b.logits[0] + len_a * TINY_V, (size_t)(7 * TINY_V) * sizeof(double));
        ck_assert(fh1_within(tiny_gap_of(7 * TINY_V, dirty.logits[0] + len_a * TINY_V, b.logits[0]), 0));
        for (int part = FH1_CACHE_CONV; part <= FH1_CACHE_SSM; ++part)
            ck_assert(fh1_within(tiny_gap_part(&dirty, 0, 0, &clean, 0, (fh1_cache_part)part), 0));

        tiny_session leaks = tiny_open(&spoilt, "ref-f64", FH1_VAR_MIXER_LEAKS_DOCS, 1);
        feed_packed(&leaks, &p, 0, p.T);
        ck_assert(isnan(leaks.logits[0][len_a * TINY_V])); /* the comparison above would have seen it */
        tiny_close(&leaks);
        tiny_close(&b);
        tiny_close(&clean);
        tiny_close(&dirty);
        fh1_model_free(&spoilt);
        ids[len_a - 1] = was;
    }
    fh1_model_free(&m);
}
END_TEST

START_TEST(faults_of_packing_are_seen)
{
    fh1_model m;
    tiny_build_kind(&m, _i);
    tiny_ids(16, TINY_TOKENS, ids);
    const packing p = pack(3, (int64_t[]){4, 3, 5}, 1), late = pack(3, (int64_t[]){5, 2, 5}, 1);
    packing running = p, late_border = p;
    memcpy(late_border.seq_idx, late.seq_idx, sizeof late.seq_idx);
    for (int64_t t = 0; t < p.T; ++t) running.positions[t] = t;

    tiny_session s = tiny_open(&m, "ref-f64", 0, 1);
    tiny_call(&s, &(fh1_batch){.B = 1, .T = p.T, .ids = ids, .positions = p.positions});
    TINY_BREAKS(worst_document(&s, &p, "ref-f64"), "no seq_idx");
    tiny_close(&s);
    s = tiny_open(&m, "ref-f64", 0, 1);
    feed_packed(&s, &late_border, 0, p.T);
    TINY_BREAKS(worst_document(&s, &p, "ref-f64"), "border one token late");
    tiny_close(&s);
    s = tiny_open(&m, "ref-f64", FH1_VAR_MIXER_LEAKS_DOCS, 1);
    feed_packed(&s, &p, 0, p.T);
    TINY_BREAKS(worst_document(&s, &p, "ref-f64"), "the mixer runs on");
    tiny_close(&s);
    s = tiny_open(&m, "ref-f64", 0, 1);
    feed_packed(&s, &running, 0, p.T);
    TINY_BREAKS(worst_document(&s, &p, "ref-f64"), "positions not restarted: keys differ");
    tiny_close(&s);
    fh1_model_free(&m);
}
END_TEST

int main(void)
{
    TCase *tc = tcase_create("packing");
    tcase_add_loop_test(tc, packed_is_solo, 0, TINY_KINDS);
    tcase_add_loop_test(tc, packed_row_in_two_calls, 0, TINY_KINDS);
    tcase_add_loop_test(tc, rows_are_packed_by_themselves, 0, TINY_KINDS);
    tcase_add_loop_test(tc, nan_stays_in_its_document, 0, TINY_KINDS);
    tcase_add_loop_test(tc, faults_of_packing_are_seen, 0, TINY_KINDS);
    return tiny_main(suite_create("laws_packing"), tc);
}
