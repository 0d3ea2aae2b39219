/* Laws of padding: wherever it stands, whatever it holds and whoever the neighbours are, a row computes what it
 * computes alone, in logits, keys, values, conv window and state. */
#include "tests/tiny_model.h"

enum { STREAMS = 4, LENGTH = 32 };
static int64_t text[STREAMS][LENGTH]; /* what the rows say */

static void write_texts(void)
{
    for (int i = 0; i < STREAMS; ++i) tiny_ids(100 + (uint64_t)i, LENGTH, text[i]);
}

/* One row of a call: the next n tokens of a text between two paddings. */
typedef struct {
    int text;
    int64_t left, n, right;
} row_spec;

static int64_t tokens_fed(const tiny_session *s, int64_t b)
{
    return s->cache->rows[b].n;
}

/* One padded call. Positions count the row's tokens; at padding ids and positions are `pad_id`. A `flip`
 * >= 0 turns the mask of that column of row 0 around, and `no_positions` lets columns count. */
static void padded_call(tiny_session *s, int64_t B, const row_spec *spec, int64_t pad_id, int64_t flip,
                        bool no_positions)
{
    const int64_t T = spec[0].left + spec[0].n + spec[0].right, past = s->cache->n_cols, len = past + T;
    int64_t ids[TINY_ROWS * LENGTH], positions[TINY_ROWS * LENGTH], mask[TINY_ROWS * TINY_TOKENS] = {0};
    for (int64_t b = 0; b < B; ++b) {
        const fh1_cache_row *r = &s->cache->rows[b];
        ck_assert_int_eq(spec[b].left + spec[b].n + spec[b].right, T);
        for (int64_t i = 0; i < r->n; ++i) mask[b * len + r->col[i]] = 1;
        for (int64_t t = 0; t < T; ++t) {
            const int64_t i = t - spec[b].left;
            const bool real = i >= 0 && i < spec[b].n;
            ids[b * T + t] = real ? text[spec[b].text][tokens_fed(s, b) + i] : pad_id;
            positions[b * T + t] = real ? tokens_fed(s, b) + i : 0;
            mask[b * len + past + t] = real;
        }
    }
    if (flip >= 0) mask[past + flip] ^= 1;
    tiny_call(
        s,
        &(fh1_batch){
            .B = B, .T = T, .ids = ids, .mask = mask, .mask_len = len, .positions = no_positions ? NULL : positions});
}

/* The same row alone, in the same calls: `n_calls` lengths, 0 = the row had nothing in that call. */
static tiny_session alone(const fh1_model *m, const char *engine, int which, int n_calls, const int64_t *len)
{
    tiny_session s = tiny_open(m, engine, 0, 1);
    for (int i = 0; i < n_calls; ++i)
        if (len[i] > 0) tiny_feed(&s, text[which] + s.n[0], len[i]);
    return s;
}

static void check_row(const tiny_session *s, int64_t b, const char *engine, int which, int n_calls, const int64_t *len,
                      const char *what, int64_t p)
{
    tiny_session solo = alone(s->m, engine, which, n_calls, len);
    TINY_HOLDS(tiny_gap(s, b, &solo, 0), strcmp(engine, "ref-f32") ? TINY_F64 : TINY_F32, "%s, %s by %lld, row %lld",
               engine, what, (long long)p, (long long)b);
    tiny_close(&solo);
}

/* Row 0 padded by p on one side, alone and beside a row without padding and one with half of it; then two
 * one-token steps and a call of three. */
static void one_side(int kind, const char *engine, bool right)
{
    fh1_model m;
    tiny_build_kind(&m, kind);
    const int64_t K = m.config.K, amount[] = {1, 2, K - 2, K - 1, K, 7};
    const int64_t real[] = {1, 2, 9};
    write_texts();
    for (size_t i = 0; i < sizeof amount / sizeof *amount; ++i)
        for (size_t j = 0; j < sizeof real / sizeof *real; ++j)
            for (int64_t B = 1; B <= 3; B += 2) {
                const int64_t p = amount[i], n = real[j], h = p / 2;
                const row_spec spec[3] = {{0, right ? 0 : p, n, right ? p : 0},
                                          {1, 0, n + p, 0},
                                          {2, right ? 0 : h, n + p - h, right ? h : 0}};
                tiny_session s = tiny_open(&m, engine, 0, B);
                padded_call(&s, B, spec, 0, -1, false);
                for (int step = 0; step < 2; ++step)
                    padded_call(&s, B, (row_spec[]){{0, 0, 1, 0}, {1, 0, 1, 0}, {2, 0, 1, 0}}, 0, -1, false);
                padded_call(&s, B, (row_spec[]){{0, 0, 3, 0}, {1, 0, 3, 0}, {2, 0, 3, 0}}, 0, -1, false);
                for (int b = 0; b < B; ++b)
                    check_row(&s, b, engine, b, 4, (int64_t[]){spec[b].n, 1, 1, 3}, right ? "right" : "left", p);
                tiny_close(&s);
            }
    fh1_model_free(&m);
}

START_TEST(left_padding_changes_nothing)
{
    one_side(_i, "ref-f64", false);
}
END_TEST

START_TEST(right_padding_changes_nothing)
{
    one_side(_i, "ref-f64", true);
}
END_TEST

/* Left, right, both, none and nothing but padding, in every order of the rows; a second call gives the empty row its
 * first tokens and leaves padding in others. */
START_TEST(mixed_rows_in_any_order)
{
    static const int order[][5] = {{0, 1, 2, 3, 4}, {4, 3, 2, 1, 0}, {2, 4, 1, 0, 3}};
    static const row_spec first[5] = {{0, 5, 4, 0}, {1, 0, 3, 6}, {2, 0, 9, 0}, {3, 2, 6, 1}, {0, 9, 0, 0}};
    static const row_spec second[5] = {{0, 0, 3, 2}, {1, 4, 1, 0}, {2, 5, 0, 0}, {3, 0, 5, 0}, {0, 2, 2, 1}};
    fh1_model m;
    tiny_build_kind(&m, _i);
    write_texts();
    for (size_t k = 0; k < sizeof order / sizeof *order; ++k) {
        row_spec a[5], b[5];
        for (int i = 0; i < 5; ++i) {
            a[i] = first[order[k][i]];
            b[i] = second[order[k][i]];
        }
        tiny_session s = tiny_open(&m, "ref-f64", 0, 5);
        padded_call(&s, 5, a, 3, -1, false);
        for (int i = 0; i < 5; ++i) {
            const int64_t len[1] = {a[i].n};
            if (a[i].n > 0) check_row(&s, i, "ref-f64", a[i].text, 1, len, "first call, order", (int64_t)k);
            if (a[i].n > 0) continue;
            double *state; /* a row of padding stays as it was created */
            const int64_t n = tiny_part(&s, i, 2, FH1_CACHE_SSM, 0, 0, &state);
            for (int64_t e = 0; e < n; ++e) ck_assert(fh1_within(fabs(state[e]), 0));
            free(state);
        }
        padded_call(&s, 5, b, 3, -1, false);
        for (int i = 0; i < 5; ++i)
            check_row(&s, i, "ref-f64", a[i].text, 2, (int64_t[]){a[i].n, b[i].n}, "second call, order", (int64_t)k);
        tiny_close(&s);
    }
    fh1_model_free(&m);
}
END_TEST

static const row_spec ragged[3] = {{0, 4, 5, 0}, {1, 0, 6, 3}, {2, 0, 9, 0}};

/* The id at padding does not count, even one outside the vocabulary or one whose embedding is NaN. */
START_TEST(padding_ids_are_not_read)
{
    fh1_model m;
    tiny_build_kind(&m, _i);
    write_texts();
    tiny_session first = tiny_open(&m, "ref-f64", 0, 3);
    padded_call(&first, 3, ragged, 0, -1, false);
    for (int64_t id = -1; id <= TINY_V; ++id) {
        tiny_session s = tiny_open(&m, "ref-f64", 0, 3);
        padded_call(&s, 3, ragged, id, -1, false);
        for (int b = 0; b < 3; ++b) ck_assert_msg(tiny_same(&s, b, &first, b), "padding id %d, row %d", (int)id, b);
        tiny_close(&s);
    }
    tiny_close(&first);

    for (int b = 0; b < 3; ++b)
        for (int64_t t = 0; t < LENGTH; ++t)
            if (text[b][t] == 11) text[b][t] = 12; /* nobody says 11 */
    tiny_session clean = tiny_open(&m, "ref-f64", 0, 3), dirty = tiny_open(&m, "ref-f64", 0, 3);
    padded_call(&clean, 3, ragged, 11, -1, false);
    tiny_scale_rows(&m, "embed_tokens.weight", 11, 12, NAN);
    padded_call(&dirty, 3, ragged, 11, -1, false);
    for (int b = 0; b < 3; ++b) {
        if (m.config.tied) /* the head's row 11 is NaN too */
            for (int64_t t = 0; t < clean.n[b]; ++t)
                clean.logits[b][t * TINY_V + 11] = dirty.logits[b][t * TINY_V + 11] = 0;
        ck_assert_msg(tiny_same(&dirty, b, &clean, b), "a NaN in the embedding of padding reached row %d", b);
    }
    tiny_close(&clean);
    tiny_close(&dirty);
    fh1_model_free(&m);
}
END_TEST

/* Without positions columns count: rotated keys move, but attention only sees differences. */
START_TEST(a_common_shift_of_positions_cancels)
{
    fh1_model m;
    tiny_build_kind(&m, _i);
    write_texts();
    tiny_session s = tiny_open(&m, "ref-f64", 0, 3), solo = alone(&m, "ref-f64", 0, 1, (int64_t[]){5});
    padded_call(&s, 3, ragged, 0, -1, true);
    TINY_HOLDS(tiny_gap_logits(&s, 0, 0, &solo, 0), TINY_F64, "positions shifted by the padding");
    TINY_HOLDS(tiny_gap_part(&s, 0, 0, &solo, 0, FH1_CACHE_SSM), TINY_F64, "state, positions shifted");
    TINY_BREAKS(tiny_gap_part(&s, 0, 0, &solo, 0, FH1_CACHE_KEY), "keys rotated elsewhere");
    tiny_close(&s);
    tiny_close(&solo);
    fh1_model_free(&m);
}
END_TEST

/* Masks off by one, padding taken for tokens, and three libraries' mistakes. */
START_TEST(faults_of_padding_are_seen)
{
    fh1_model m;
    tiny_build_kind(&m, _i);
    write_texts();
    const row_spec left = {0, 3, 6, 0}, right = {0, 0, 6, 3};
    tiny_session solo = alone(&m, "ref-f64", 0, 1, (int64_t[]){6});
    const struct {
        const char *name;
        row_spec spec;
        int64_t flip;
        unsigned variant;
        bool applies;
    } fault[] = {
        {"a padding column unmasked", left, 2, 0, true},
        {"the first token masked", left, 3, 0, true},
        {"a padding column unmasked on the right", right, 6, 0, true},
        {"pads are tokens for the mixer", left, -1, FH1_VAR_PADS_IN_MIXER, true},
        {"bias of in_proj at pads", left, -1, FH1_VAR_IN_PROJ_BIAS_AT_PADS, m.config.mamba_proj_bias},
        {"window and state over right padding", right, -1, FH1_VAR_RIGHT_PAD_CACHE, true},
    };
    for (size_t i = 0; i < sizeof fault / sizeof *fault; ++i) {
        tiny_session s = tiny_open(&m, "ref-f64", fault[i].variant, 1);
        padded_call(&s, 1, &fault[i].spec, 5, fault[i].flip, false);
        if (fault[i].variant == FH1_VAR_PADS_IN_MIXER) { /* its session has logits at padding */
            s.n[0] = 6;
            s.cache->rows[0].n = 6;
        }
        if (fault[i].applies) TINY_BREAKS(tiny_gap(&s, 0, &solo, 0), "%s", fault[i].name);
        else TINY_HOLDS(tiny_gap(&s, 0, &solo, 0), TINY_F64, "%s, without that bias", fault[i].name);
        tiny_close(&s);
    }
    tiny_close(&solo);
    fh1_model_free(&m);
}
END_TEST

int main(void)
{
    TCase *tc = tcase_create("padding");
    tcase_add_loop_test(tc, left_padding_changes_nothing, 0, TINY_KINDS);
    tcase_add_loop_test(tc, right_padding_changes_nothing, 0, TINY_KINDS);
    tcase_add_loop_test(tc, mixed_rows_in_any_order, 0, TINY_KINDS);
    tcase_add_loop_test(tc, padding_ids_are_not_read, 0, TINY_KINDS);
    tcase_add_loop_test(tc, a_common_shift_of_positions_cancels, 0, TINY_KINDS);
    tcase_add_loop_test(tc, faults_of_padding_are_seen, 0, TINY_KINDS);
    return tiny_main(suite_create("laws_padding"), tc);
}
