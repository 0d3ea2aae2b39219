/* Sessions on the device (cuda-host): the tokens are those of the engine behind fh1_engine, by graph and without, in
 * one piece and in several; draws repeat by seed; what does not fit is refused. */
#include "cuda/engine.h"
#include "cuda/session.h"
#include "golden/record.h"
#include "golden/seeded_model.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

enum { B = 3, T = 7, N = 7 };

static const char usual[] = "layers=2,D=16,F=24,V=64,Hq=2,Hkv=1,A=8,H=2,P=8,N=16,G=2,K=4,Q=16,weights=trained";

static const char mamba[] = "family=falcon_mamba,layers=2,D=16,V=64,I=24,N=16,R=8,K=4,weights=trained";

static void good(fh1_status s)
{
    char line[2048];
    ck_assert_msg(!s, "%s", s ? fh1_status_line(s, line, sizeof line) : "");
}

static void refused(const char *says, fh1_status s)
{
    char line[2048];
    ck_assert(s && s->code == FH1_E_INPUT);
    ck_assert_msg(strstr(fh1_status_line(s, line, sizeof line), says) != NULL, "'%s' does not say '%s'", line, says);
}

static fh1_model make(const char *text, uint64_t seed)
{
    gld_seeded_spec spec;
    fh1_model m;
    good(gld_seeded_parse(text, &spec));
    good(gld_seeded_model_new(&spec, seed, &m));
    return m;
}

static const int64_t ids[B * T] = {3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3, 2, 3, 8, 4, 6};
static const int64_t left[B * T] = {1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 1};
static const int64_t right[B * T] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0};

static cu_session_options options(void)
{
    return (cu_session_options){.engine = "cuda-host", .B = B, .prompt = T, .context = T + N};
}

static void by_engine(const fh1_model *m, const fh1_batch *b, int64_t *tokens)
{
    fh1_engine *e;
    good(cu_engine_new("cuda-host", NULL, 0, &e));
    good(gld_record_greedy(e, m, b, N, NULL, tokens, NULL));
    e->free(e);
}

/* `pieces`: how many tokens each decode asks for, 0-terminated. */
static cu_session_facts by_session(const fh1_model *m, const cu_session_options *o, const fh1_batch *b,
                                   const int *pieces, int64_t *tokens)
{
    cu_session *s;
    int64_t at = 0, part[B * N];
    good(cu_session_new(m, o, &s));
    good(cu_session_prefill(s, b));
    for (; *pieces; at += *pieces++) {
        good(cu_session_decode(s, *pieces, part));
        for (int i = 0; i < B; ++i) memcpy(tokens + i * N + at, part + i * *pieces, (size_t)*pieces * sizeof *tokens);
    }
    ck_assert_int_eq(at, N);
    cu_session_facts f = cu_session_tell(s);
    cu_session_free(s);
    return f;
}

static void same_tokens(const char *what, const int64_t *a, const int64_t *b)
{
    for (int i = 0; i < B * N; ++i)
        ck_assert_msg(a[i] == b[i], "%s, row %d, token %d: %lld and %lld", what, i / N, i % N, (long long)a[i],
                      (long long)b[i]);
}

static const int whole[] = {N, 0}, parts[] = {1, 3, 1, N - 5, 0};

START_TEST(tokens_are_the_engines)
{
    static const char *const models[] = {"",
                                         ",dtype=bf16",
                                         ",rms_norm=1,G=1",
                                         ",rope=dynamic,factor=2,max_position=8",
                                         ",rope=yarn,factor=4,original_max_position=8",
                                         ",block=SAM",
                                         ",block=S_A_M,dtype=bf16",
                                         ",dtype=f32",
                                         ",dtype=bf16,residual_in_fp32=0"};
    const fh1_batch batches[] = {{.B = B, .T = T, .ids = ids},
                                 {.B = B, .T = T, .ids = ids, .mask = left, .mask_len = T},
                                 {.B = B, .T = T, .ids = ids, .mask = right, .mask_len = T},
                                 {.B = B, .T = 1, .ids = ids}};
    for (size_t i = 0; i < sizeof models / sizeof *models; ++i) {
        char text[300];
        snprintf(text, sizeof text, "%s%s", usual, models[i]);
        if (strstr(models[i], "G=1"))
            snprintf(text, sizeof text, "layers=2,D=16,F=24,V=64,H=2,P=8,N=16,rms_norm=1,weights=trained");
        if (i >= 7) snprintf(text, sizeof text, "%s%s", mamba, models[i]);
        fh1_model m = make(text, 7);
        for (size_t k = i >= 5; k < (i ? 2 : sizeof batches / sizeof *batches); ++k) {
            int64_t want[B * N], got[B * N];
            cu_session_options o = options();
            by_engine(&m, &batches[k], want);
            cu_session_facts f = by_session(&m, &o, &batches[k], whole, got);
            same_tokens("whole", want, got);
            if (strstr(models[i], "dynamic")) ck_assert_int_eq(f.graph_steps, 0);
            else ck_assert_int_eq(f.graph_steps, N - 2);
            if (k || i) continue;
            f = by_session(&m, &o, &batches[k], parts, got);
            same_tokens("in parts", want, got);
            ck_assert_int_eq(f.captures, 1);
            o.no_graph = true;
            f = by_session(&m, &o, &batches[k], whole, got);
            same_tokens("without a graph", want, got);
            ck_assert_int_eq(f.captures, 0);
        }
        fh1_model_free(&m);
    }
}
END_TEST

/* The cache grows past a page and a bucket of keys: the graph is made again and the tokens stay the engine's. */
START_TEST(graphs_follow_a_growing_cache)
{
    enum { LONG = 69 };
    fh1_model m = make("layers=1,D=16,F=16,V=32,Hq=2,Hkv=1,A=8,H=2,P=8,N=8,weights=trained", 2);
    int64_t *want = calloc(2 * B * LONG, sizeof *want), *got = want + B * LONG;
    const fh1_batch b = {.B = B, .T = T, .ids = ids};
    cu_session_options o = options();
    cu_session *s;
    fh1_engine *e;
    o.context = T + LONG;
    good(cu_engine_new("cuda-host", NULL, 0, &e));
    good(gld_record_greedy(e, &m, &b, LONG, NULL, want, NULL));
    good(cu_session_new(&m, &o, &s));
    good(cu_session_prefill(s, &b));
    int64_t part[B * LONG / 3];
    for (int k = 0; k < 3; ++k) {
        good(cu_session_decode(s, LONG / 3, part));
        for (int i = 0; i < B; ++i) memcpy(got + i * LONG + k * LONG / 3, part + i * LONG / 3, sizeof part / B);
    }
    ck_assert(memcmp(want, got, B * LONG * sizeof *want) == 0);
    ck_assert_int_ge(cu_session_tell(s).captures, 2);
    cu_session_free(s);
    e->free(e);
    free(want);
    fh1_model_free(&m);
}
END_TEST

START_TEST(draws_repeat)
{
    fh1_model m = make(usual, 3);
    const fh1_batch b = {.B = B, .T = T, .ids = ids};
    int64_t greedy[B * N], a[B * N], again[B * N], other[B * N], top[B * N];
    cu_session_options o = options();
    by_session(&m, &o, &b, whole, greedy);
    o.temperature = 1.5;
    o.seed = 4;
    by_session(&m, &o, &b, whole, a);
    by_session(&m, &o, &b, parts, again);
    same_tokens("the same seed", a, again);
    o.seed = 5;
    by_session(&m, &o, &b, whole, other);
    ck_assert(memcmp(a, other, sizeof a) != 0);
    ck_assert(memcmp(a, greedy, sizeof a) != 0);
    o.top_k = 1;
    by_session(&m, &o, &b, whole, top);
    same_tokens("top-k 1", greedy, top);
    fh1_model_free(&m);
}
END_TEST

START_TEST(a_session_goes_on)
{
    fh1_model m = make(usual, 3);
    cu_session_options o = options();
    cu_session *s;
    int64_t first[B * N], again[B * N], tokens[B * 3];
    const fh1_batch b = {.B = B, .T = T, .ids = ids};
    o.context = 2 * T + N;
    good(cu_session_new(&m, &o, &s));
    refused("after a prompt", cu_session_decode(s, 1, tokens));
    good(cu_session_prefill(s, &b));
    good(cu_session_decode(s, N, first));
    good(cu_session_prefill(s, &(fh1_batch){.B = B, .T = 2, .ids = ids}));
    good(cu_session_decode(s, 3, tokens));
    refused("context is full", cu_session_prefill(s, &b));
    cu_session_reset(s);
    good(cu_session_prefill(s, &b));
    good(cu_session_decode(s, N, again));
    same_tokens("after a reset", first, again);
    cu_session_free(s);
    fh1_model_free(&m);
}
END_TEST

START_TEST(bad_requests)
{
    static const int64_t empty_row[B * T] = {1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1};
    fh1_model m = make(usual, 3);
    cu_session_options o = options(), bad = o;
    cu_session *s;
    bad.engine = "cude";
    refused("unknown engine", cu_session_new(&m, &bad, &s));
    bad = o;
    bad.temperature = -1;
    refused("temperature", cu_session_new(&m, &bad, &s));
    bad = o;
    bad.top_p = 2;
    refused("top-p", cu_session_new(&m, &bad, &s));
    bad = o;
    bad.context = (int64_t)1 << 40;
    refused("", cu_session_new(&m, &bad, &s));
    good(cu_session_new(&m, &o, &s));
    refused("row 1", cu_session_prefill(s, &(fh1_batch){.B = B, .T = T, .ids = ids, .mask = empty_row, .mask_len = T}));
    refused("rows", cu_session_prefill(s, &(fh1_batch){.B = 1, .T = T, .ids = ids}));
    good(cu_session_prefill(s, &(fh1_batch){.B = B, .T = T, .ids = ids}));
    cu_session_free(s);
    ((float *)m.final_layernorm.data)[0] = 0.0f / 0.0f;
    good(cu_session_new(&m, &o, &s));
    fh1_status nan = cu_session_prefill(s, &(fh1_batch){.B = B, .T = T, .ids = ids});
    ck_assert(nan && nan->code == FH1_E_WRONG);
    cu_session_free(s);
    fh1_model_free(&m);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("cuda_session");
    TCase *t = tcase_create("cuda_session");
    suite_add_tcase(suite, t);
    tcase_set_timeout(t, 0);
    tcase_add_test(t, tokens_are_the_engines);
    tcase_add_test(t, graphs_follow_a_growing_cache);
    tcase_add_test(t, draws_repeat);
    tcase_add_test(t, a_session_goes_on);
    tcase_add_test(t, bad_requests);
    SRunner *r = srunner_create(suite);
    srunner_set_fork_status(r, CK_NOFORK);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
