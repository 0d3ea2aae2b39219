/* Laws of a sequence cut into calls: however it is cut, logits, keys, values, conv window and state are the same;
 * a token sees nothing that comes after it; logits_to_keep is a slice; threads do not count. */
#include "tests/tiny_model.h"

static int64_t ids[TINY_TOKENS];

/* Feed ids in calls of the given lengths. */
static tiny_session chunked(const fh1_model *m, const char *engine, int n_chunks, const int64_t *len)
{
    tiny_session s = tiny_open(m, engine, 0, 1);
    int64_t at = 0;
    for (int i = 0; i < n_chunks; ++i) {
        tiny_feed(&s, ids + at, len[i]);
        at += len[i];
    }
    return s;
}

static void check_chunks(const fh1_model *m, const char *engine, double tol, int n_chunks, const int64_t *len)
{
    int64_t T = 0;
    for (int i = 0; i < n_chunks; ++i) T += len[i];
    tiny_session whole = tiny_solo(m, engine, ids, T), cut = chunked(m, engine, n_chunks, len);
    TINY_HOLDS(tiny_gap(&cut, 0, &whole, 0), tol, "%s: %d calls from %lld, T = %lld", engine, n_chunks,
               (long long)len[0], (long long)T);
    tiny_close(&whole);
    tiny_close(&cut);
}

static void prefill_then_decode(int kind, const char *engine, double tol)
{
    fh1_model m;
    tiny_build_kind(&m, kind);
    const int64_t Q = m.config.Q, prefill[] = {1, 2, 3, 4, 5, Q - 1, Q, Q + 1, 2 * Q - 1, 2 * Q, 2 * Q + 1};
    const int steps[] = {1, 2, 5};
    tiny_ids(1, TINY_TOKENS, ids);
    for (size_t i = 0; i < sizeof prefill / sizeof *prefill; ++i)
        for (size_t j = 0; j < sizeof steps / sizeof *steps; ++j)
            check_chunks(&m, engine, tol, steps[j] + 1, (int64_t[]){prefill[i], 1, 1, 1, 1, 1});
    fh1_model_free(&m);
}

START_TEST(decode_continues_prefill)
{
    prefill_then_decode(_i, "ref-f64", TINY_F64);
}
END_TEST

/* The scan in chunks, cut anywhere, is the recurrence token by token. */
START_TEST(chunks_are_the_recurrence)
{
    fh1_model m;
    tiny_build_kind(&m, _i);
    tiny_ids(9, TINY_TOKENS, ids);
    for (int64_t T = 1; T <= 2 * m.config.Q + 1; ++T)
        for (int64_t more = 0; more <= m.config.Q + 1; more += 3) {
            tiny_session steps = chunked(&m, "ref-f64", 1, &T), s = chunked(&m, TINY_CHUNKED, 1, &T);
            for (int64_t t = T; t < T + more; ++t) tiny_feed(&steps, ids + t, 1);
            if (more > 0) tiny_feed(&s, ids + T, more);
            TINY_HOLDS(tiny_gap(&s, 0, &steps, 0), TINY_F64, "%d, then %d", (int)T, (int)more);
            if (T > 2) ck_assert(!tiny_same(&s, 0, &steps, 0)); /* by another road */
            tiny_close(&s);
            tiny_close(&steps);
        }
    fh1_model_free(&m);
}
END_TEST

START_TEST(every_split_of_nine_tokens)
{
    fh1_model m;
    tiny_build_kind(&m, _i);
    tiny_ids(2, TINY_TOKENS, ids);
    tiny_session whole = tiny_solo(&m, "ref-f64", ids, 9);
    for (unsigned cuts = 0; cuts < 256; ++cuts) { /* bit t: a call ends after token t */
        int64_t len[9] = {1};
        int n = 0;
        for (int t = 0; t < 8; ++t) {
            if (cuts >> t & 1) n++;
            len[n]++;
        }
        tiny_session cut = chunked(&m, "ref-f64", n + 1, len);
        TINY_HOLDS(tiny_gap(&cut, 0, &whole, 0), TINY_F64, "split 0x%02x", cuts);
        tiny_close(&cut);
    }
    tiny_close(&whole);
    fh1_model_free(&m);
}
END_TEST

/* What goes wrong between two calls in real engines, done to layer 1 only. */
static void window_dropped(tiny_session *s)
{
    const fh1_config *c = &s->m->config;
    memset(s->cache->rows[0].conv[1], 0, (size_t)(fh1_conv_dim(c) * (c->K - 1)) * sizeof(double));
}
static void window_shifted(tiny_session *s)
{
    double *w = s->cache->rows[0].conv[1];
    const int64_t n = fh1_conv_dim(&s->m->config) * (s->m->config.K - 1);
    memmove(w + 1, w, (size_t)(n - 1) * sizeof *w);
}
static void state_dropped(tiny_session *s)
{
    const fh1_config *c = &s->m->config;
    memset(s->cache->rows[0].ssm[1], 0, (size_t)(c->d_ssm * c->N) * sizeof(double));
}
static void state_rows_swapped(tiny_session *s)
{
    const int64_t N = s->m->config.N;
    double *S = s->cache->rows[0].ssm[1];
    for (int64_t i = 0; i < N; ++i) {
        const double v = S[i];
        S[i] = S[N + i];
        S[N + i] = v;
    }
}
static void state_decayed_once_more(tiny_session *s)
{
    const fh1_config *c = &s->m->config;
    const fh1_layer *l = &s->m->layers[1];
    double *S = s->cache->rows[0].ssm[1];
    for (int64_t i = 0; i < c->d_ssm * c->N; ++i) {
        const int64_t h = i / (c->P * c->N);
        S[i] *= exp(-log1p(exp(fh1_get(&l->dt_bias, h))) * exp(fh1_get(&l->A_log, h)));
    }
}
static void keys_swapped(tiny_session *s)
{
    double *k = s->cache->rows[0].key[1], other[16];
    const size_t A = (size_t)s->m->config.A;
    memcpy(other, k, A * sizeof *k);
    memcpy(k, k + A, A * sizeof *k);
    memcpy(k + A, other, A * sizeof *k);
}
static void first_key_masked(tiny_session *s)
{
    s->cache->rows[0].doc_begin++;
}

START_TEST(faults_between_calls_are_seen)
{
    static const struct {
        const char *name;
        void (*plant)(tiny_session *);
    } fault[] = {{"window dropped", window_dropped},
                 {"window shifted", window_shifted},
                 {"state dropped", state_dropped},
                 {"state rows swapped", state_rows_swapped},
                 {"state decayed once more", state_decayed_once_more},
                 {"keys swapped", keys_swapped},
                 {"first key masked", first_key_masked}};
    fh1_model m;
    tiny_build_kind(&m, _i);
    tiny_ids(4, TINY_TOKENS, ids);
    tiny_session whole = tiny_solo(&m, "ref-f64", ids, 8);
    for (size_t i = 0; i < sizeof fault / sizeof *fault; ++i) {
        tiny_session s = tiny_solo(&m, "ref-f64", ids, 6);
        fault[i].plant(&s);
        tiny_feed(&s, ids + 6, 2);
        TINY_BREAKS(tiny_gap_logits(&s, 0, 0, &whole, 0), "%s", fault[i].name);
        tiny_close(&s);
    }
    tiny_session late = tiny_solo(&m, "ref-f64", ids, 6); /* positions from 0 again */
    tiny_call(&late, &(fh1_batch){.B = 1, .T = 2, .ids = ids + 6, .positions = (int64_t[]){0, 1}});
    TINY_BREAKS(tiny_gap(&late, 0, &whole, 0), "positions restarted");
    tiny_session forgets = tiny_open(&m, "ref-f64", FH1_VAR_HISTORY_DROPPED, 1);
    tiny_feed(&forgets, ids, 6);
    tiny_feed(&forgets, ids + 6, 2);
    TINY_BREAKS(tiny_gap(&forgets, 0, &whole, 0), "history dropped");
    tiny_close(&late);
    tiny_close(&forgets);
    tiny_close(&whole);
    fh1_model_free(&m);
}
END_TEST

/* Layer 0 sees the change through one branch at a time: its context and its scan output. */
typedef struct {
    double context[TINY_TOKENS * 24], scan[TINY_TOKENS * 18];
} branches;

static fh1_status keep_branches(void *user, const fh1_tap_event *e)
{
    branches *b = user;
    if (e->layer > 0) return NULL;
    if (e->id == FH1_TAP_CONTEXT) memcpy(b->context, e->value.data, fh1_n_bytes(&e->value));
    if (e->id == FH1_TAP_SSD) memcpy(b->scan, e->value.data, fh1_n_bytes(&e->value));
    return NULL;
}

static tiny_session watched(const fh1_model *m, const int64_t *tokens, int64_t T, branches *seen)
{
    const fh1_tap_sink sink = {.user = seen, .tap = keep_branches};
    tiny_session s = tiny_open(m, "ref-f64", 0, 1);
    s.sink = &sink;
    tiny_feed(&s, tokens, T);
    s.sink = NULL;
    return s;
}

START_TEST(no_token_sees_the_future)
{
    enum { T = 11 };
    static branches before, after;
    fh1_model m;
    tiny_build_kind(&m, _i);
    tiny_ids(5, T, ids);
    tiny_session a = watched(&m, ids, T, &before);
    for (int64_t t = 0; t < T; ++t) {
        ids[t] = (ids[t] + 1) % TINY_V;
        tiny_session b = watched(&m, ids, T, &after);
        for (int64_t i = 0; i < T; ++i) {
            const double gap[3] = {tiny_gap_of(TINY_V, a.logits[0] + i * TINY_V, b.logits[0] + i * TINY_V),
                                   tiny_gap_of(24, before.context + i * 24, after.context + i * 24),
                                   tiny_gap_of(18, before.scan + i * 18, after.scan + i * 18)};
            for (int k = 0; k < 3; ++k)
                ck_assert_msg(fh1_within(gap[k], 0) == (i < t), "token %d, output %d of kind %d: gap %g", (int)t,
                              (int)i, k, gap[k]);
        }
        ids[t] = (ids[t] + TINY_V - 1) % TINY_V;
        tiny_close(&b);
    }
    tiny_close(&a);
    fh1_model_free(&m);
}
END_TEST

static void forward(const fh1_model *m, const char *engine, int64_t T, int64_t n_logits, double *logits)
{
    tiny_session s = tiny_open(m, engine, 0, 1);
    const fh1_batch b = {.B = 1, .T = T, .ids = ids};
    TINY_OK(s.e->forward(s.e, m, &b, s.cache, n_logits, logits, NULL));
    tiny_close(&s);
}

/* Bit for bit while one loop serves both counts of rows (up to 8); beyond that the matrix product of T rows comes
 * from the BLAS and that of 1 row does not, which is worth a few roundings. */
START_TEST(kept_logits_are_a_slice)
{
    static double full[16 * TINY_V], kept[16 * TINY_V];
    fh1_model m;
    tiny_build_kind(&m, _i);
    tiny_ids(6, 16, ids);
    for (int64_t T = 7; T <= 15; T += 8) {
        forward(&m, "ref-f64", T, T, full);
        for (int64_t n = 1; n <= T; ++n) {
            forward(&m, "ref-f64", T, n, kept);
            const double gap = tiny_gap_of(n * TINY_V, kept, full + (T - n) * TINY_V);
            TINY_HOLDS(gap, T <= 8 || n == T ? 0 : TINY_F64, "%d of %d", (int)n, (int)T);
            if (n < T) TINY_BREAKS(tiny_gap_of(n * TINY_V, kept, full), "the first %d of %d", (int)n, (int)T);
        }
        forward(&m, "ref-f64", T, 0, NULL); /* none wanted */
    }
    fh1_model_free(&m);
}
END_TEST

/* Wide enough that heads, queries and weight panels are spread over several pieces. */
START_TEST(threads_do_not_change_a_bit)
{
    static const char *const engine[] = {"ref-f64", "ref-f32"};
    fh1_config c = tiny_config(0);
    c.D = 96, c.V = 300, c.F = 200, c.H = 16, c.d_ssm = 48;
    fh1_model m;
    tiny_build(&m, &c, FH1_BF16, 9);
    tiny_ids(8, TINY_TOKENS, ids);
    for (int k = 0; k < 2; ++k) {
        fh1_set_threads(1);
        tiny_session one = tiny_solo(&m, engine[k], ids, 40);
        tiny_feed(&one, ids + 40, 1);
        for (int n = 2; n <= 5; ++n) {
            fh1_set_threads(n);
            tiny_session s = tiny_solo(&m, engine[k], ids, 40);
            tiny_feed(&s, ids + 40, 1);
            ck_assert_msg(tiny_same(&s, 0, &one, 0), "%s with %d threads", engine[k], n);
            tiny_close(&s);
        }
        fh1_tensor *w = &m.layers[0].in_w;
        const double was = fh1_get(w, 5);
        fh1_set(w, 5, was * (1 + 0x1p-7)); /* the comparison sees one bit of one weight */
        tiny_session other = tiny_solo(&m, engine[k], ids, 40);
        tiny_feed(&other, ids + 40, 1);
        ck_assert(!tiny_same(&other, 0, &one, 0));
        fh1_set(w, 5, was);
        tiny_close(&one);
        tiny_close(&other);
    }
    fh1_set_threads(1);
    fh1_model_free(&m);
}
END_TEST

int main(void)
{
    TCase *tc = tcase_create("split");
    tcase_add_loop_test(tc, decode_continues_prefill, 0, TINY_KINDS);
    tcase_add_loop_test(tc, chunks_are_the_recurrence, 0, TINY_KINDS);
    tcase_add_loop_test(tc, every_split_of_nine_tokens, 0, TINY_KINDS);
    tcase_add_loop_test(tc, faults_between_calls_are_seen, 0, TINY_KINDS);
    tcase_add_loop_test(tc, no_token_sees_the_future, 0, TINY_KINDS);
    tcase_add_loop_test(tc, kept_logits_are_a_slice, 0, TINY_KINDS);
    tcase_add_test(tc, threads_do_not_change_a_bit);
    return tiny_main(suite_create("laws_split"), tc);
}
