/* Planted faults of cache operations. No trace of one cache shows them, so each is proven here by what its law says: an
 * operation and a call after it give what the tokens alone give, run by the right engine on a cache of its own, bit for
 * bit. The first tap that differs is the one that the registry names. */
#include "oracle/random.h"
#include "tests/faults_fixture.h"

static const fh1_fault cache_faults[] = {
#define FH1_FAULT(id, name, op, tap, source, caught_by, what) FH1_FAULT_##id,
#include "oracle/fault_list_cache.h"
#undef FH1_FAULT
};

/* --- one call and its taps --- */

/* Few enough tokens in a call that each row of a product is a sum of its own, whatever else is in the batch. */
enum { T = 2, MAX_B = 3, MAX_TAPS = 96 };

typedef struct {
    int n;
    struct {
        fh1_tap_id id;
        int64_t n;
        float *v;
    } tap[MAX_TAPS];
} taps;

static fh1_status collect(void *user, const fh1_tap_event *e)
{
    taps *t = user;
    ck_assert_int_lt(t->n, MAX_TAPS);
    const int64_t n = fh1_n_elems(&e->value);
    t->tap[t->n].id = e->id;
    t->tap[t->n].n = n;
    t->tap[t->n].v = malloc((size_t)n * sizeof(float));
    memcpy(t->tap[t->n++].v, e->value.data, (size_t)n * sizeof(float));
    return NULL;
}

static void forget(taps *t)
{
    while (t->n > 0) free(t->tap[--t->n].v);
}

/* Call number `call` of a text: `n` tokens in each row; row b says what row says[b] of the text says. Positions count
 * from `position` where that is not negative. */
typedef struct {
    int64_t text, call, n, position;
    int64_t says[MAX_B];
} words;

static void say(fh1_engine *e, const fh1_model *m, fh1_cache *c, words w, taps *out)
{
    int64_t ids[MAX_B * T], positions[MAX_B * T];
    const fh1_stream s = fh1_stream_open((uint64_t)w.text, "words");
    for (int64_t b = 0; b < c->B; b++)
        for (int64_t i = 0; i < w.n; i++) {
            ids[b * w.n + i] = fh1_random_below(s, (uint64_t)((w.says[b] * 64 + w.call) * T + i), m->config.V);
            positions[b * w.n + i] = w.position + i;
        }
    const fh1_batch batch = {.B = c->B, .T = w.n, .ids = ids, .positions = w.position < 0 ? NULL : positions};
    const fh1_tap_sink sink = {.user = out, .tap = collect};
    OK(e->forward(e, m, &batch, c, -1, NULL, out ? &sink : NULL));
}

static words in_order(int64_t text, int64_t call)
{
    return (words){text, call, T, -1, {0, 1, 2}};
}

static fh1_cache *new_cache(const fh1_model *m, int64_t B)
{
    fh1_cache *c;
    OK(fh1_cache_new(&m->config, FH1_F32, B, &c));
    return c;
}

/* The first tap in which two calls differ, FH1_TAP_COUNT if none does. */
static fh1_tap_id first_difference(const taps *a, const taps *b)
{
    ck_assert_int_eq(a->n, b->n);
    ck_assert_int_gt(a->n, 0);
    for (int i = 0; i < a->n; i++) {
        ck_assert_int_eq(a->tap[i].id, b->tap[i].id);
        if (memcmp(a->tap[i].v, b->tap[i].v, (size_t)a->tap[i].n * sizeof(float)) != 0) return a->tap[i].id;
    }
    return FH1_TAP_COUNT;
}

/* What follows on `c` and on the cache of the right engine: the first difference; both caches are freed. */
static fh1_tap_id compare(fh1_engine *e, fh1_engine *right, const fh1_model *m, fh1_cache *c, fh1_cache *solo, words w)
{
    taps mine = {0}, wanted = {0};
    say(e, m, c, w, &mine);
    say(right, m, solo, w, &wanted);
    const fh1_tap_id id = first_difference(&mine, &wanted);
    forget(&mine);
    forget(&wanted);
    fh1_cache_free(c);
    fh1_cache_free(solo);
    return id;
}

static fh1_tap_id or_else(fh1_tap_id a, fh1_tap_id b)
{
    return a == FH1_TAP_COUNT ? b : a;
}

/* --- the laws, each with a right engine for what is wanted --- */

enum { BEFORE = 3 }; /* calls before an operation */

static fh1_cache *after_calls(fh1_engine *e, const fh1_model *m, int64_t B)
{
    fh1_cache *c = new_cache(m, B);
    for (int64_t i = 0; i < BEFORE; i++) say(e, m, c, in_order(1, i), NULL);
    return c;
}

/* Another text is tried and taken back, twice. */
static fh1_tap_id snapshot_law(fh1_engine *e, fh1_engine *right, const fh1_model *m)
{
    fh1_tap_id found = FH1_TAP_COUNT;
    for (int times = 1; times <= 2; times++) {
        fh1_cache *c = after_calls(e, m, 2), *snapshot;
        OK(e->cache_ops->clone(c, &snapshot));
        for (int i = 0; i < times; i++) {
            say(e, m, c, in_order(2 + i, 0), NULL);
            OK(e->cache_ops->restore(c, snapshot));
        }
        found = or_else(found, compare(e, right, m, c, after_calls(right, m, 2), in_order(1, BEFORE)));
        fh1_cache_free(snapshot);
    }
    return found;
}

/* A copy and its original go on with different texts. */
static fh1_tap_id fork_law(fh1_engine *e, fh1_engine *right, const fh1_model *m)
{
    fh1_cache *parent = after_calls(e, m, 2), *child;
    OK(e->cache_ops->clone(parent, &child));
    const fh1_tap_id found = compare(e, right, m, child, after_calls(right, m, 2), in_order(2, 0));
    return or_else(found, compare(e, right, m, parent, after_calls(right, m, 2), in_order(1, BEFORE)));
}

static fh1_tap_id reorder_law(fh1_engine *e, fh1_engine *right, const fh1_model *m)
{
    static const int64_t from[3] = {2, 0, 0};
    fh1_cache *c = after_calls(e, m, 3), *solo = new_cache(m, 3);
    OK(e->cache_ops->reorder(c, from, 3));
    for (int64_t i = 0; i < BEFORE; i++) {
        words w = in_order(1, i);
        memcpy(w.says, from, sizeof from);
        say(right, m, solo, w, NULL);
    }
    return compare(e, right, m, c, solo, in_order(2, 0));
}

/* After a reset come prompts of two tokens and of one. */
static fh1_tap_id reset_law(fh1_engine *e, fh1_engine *right, const fh1_model *m)
{
    fh1_tap_id found = FH1_TAP_COUNT;
    for (int64_t n = T; n >= 1; n--) {
        fh1_cache *c = after_calls(e, m, 2);
        e->cache_ops->reset(c);
        words w = in_order(2, 0);
        w.n = n;
        found = or_else(found, compare(e, right, m, c, new_cache(m, 2), w));
    }
    return found;
}

/* A row starts again; one that goes back by `back` tokens is refused, or else it must be right. */
static fh1_tap_id truncate_law(fh1_engine *e, fh1_engine *right, const fh1_model *m)
{
    fh1_cache *c = after_calls(e, m, 1);
    OK(e->cache_ops->truncate(c, 0, 0));
    words w = in_order(2, 0);
    w.position = 0;
    fh1_tap_id found = compare(e, right, m, c, new_cache(m, 1), w);
    for (int64_t back = 1; back <= T; back++) {
        const int64_t left = BEFORE * T - back;
        c = after_calls(e, m, 1);
        if (e->cache_ops->truncate(c, 0, left)) {
            fh1_cache_free(c);
            continue;
        }
        fh1_cache *solo = new_cache(m, 1);
        for (int64_t i = 0; i < BEFORE; i++) {
            words past = in_order(1, i);
            if (i == BEFORE - 1) past.n = T - back;
            if (past.n > 0) say(right, m, solo, past, NULL);
        }
        w.position = left;
        found = or_else(found, compare(e, right, m, c, solo, w));
    }
    return found;
}

static const struct {
    const char *name;
    fh1_tap_id (*run)(fh1_engine *e, fh1_engine *right, const fh1_model *m);
} laws[] = {{"law.snapshot", snapshot_law},
            {"law.fork", fork_law},
            {"law.reorder", reorder_law},
            {"law.reset", reset_law},
            {"law.truncate", truncate_law}};

static fh1_tap_id run_law(int i, fh1_fault f)
{
    const fh1_model *m = fault_model("mini-0.5b");
    fh1_engine *e = ref_faulty_engine_new("ref-f32", NULL, 0, f), *right = ref_engine_new("ref-f32", NULL, 0);
    ck_assert(e && right);
    const fh1_tap_id found = laws[i].run(e, right, m);
    e->free(e);
    right->free(right);
    return found;
}

/* --- the tests --- */

START_TEST(without_a_fault_every_law_holds)
{
    for (int i = 0; i < N_OF(laws); i++)
        ck_assert_msg(run_law(i, FH1_FAULT_NONE) == FH1_TAP_COUNT, "%s does not hold", laws[i].name);
}
END_TEST

/* All laws that the registry names for a fault are broken; the first one at the fault's tap. */
START_TEST(every_fault_breaks_its_laws)
{
    char missed[8192] = "", want[FH1_TAP_NAME_SIZE], got[FH1_TAP_NAME_SIZE];
    size_t used = 0;
    for (int k = 0; k < N_OF(cache_faults); k++) {
        const fh1_fault_info *info = fh1_fault_get(cache_faults[k]);
        bool proven = false;
        for (int i = 0; i < N_OF(laws); i++) {
            if (!fault_has_rule(info, laws[i].name)) continue;
            const fh1_tap_id found = run_law(i, cache_faults[k]);
            proven = true;
            if (found == info->tap) continue;
            used += (size_t)snprintf(missed + used, sizeof missed - used, "\n  %s, %s: %s instead of %s", info->name,
                                     laws[i].name,
                                     found == FH1_TAP_COUNT ? "nothing" : fh1_tap_name(FH1_FALCON_H1, found, 0, got),
                                     fh1_tap_name(FH1_FALCON_H1, info->tap, 0, want));
        }
        ck_assert_msg(proven, "%s names no law of this test", info->name);
        ck_assert_uint_lt(used, sizeof missed - 512);
    }
    ck_assert_msg(used == 0, "%s", missed);
}
END_TEST

/* Refusals stay refusals, whatever is planted. */
START_TEST(what_no_cache_can_do_is_refused)
{
    const fh1_model *m = fault_model("mini-0.5b");
    for (int k = 0; k < N_OF(cache_faults); k++) {
        fh1_engine *e = ref_faulty_engine_new("ref-f32", NULL, 0, cache_faults[k]);
        fh1_cache *c = after_calls(e, m, 2);
        ck_assert_ptr_nonnull(e->cache_ops->truncate(c, 2, 0));
        ck_assert_ptr_nonnull(e->cache_ops->truncate(c, 0, BEFORE * T + 1));
        ck_assert_ptr_nonnull(e->cache_ops->reorder(c, (const int64_t[]){2, 0}, 2));
        fh1_cache_free(c);
        e->free(e);
    }
}
END_TEST

int main(void)
{
    const TTest *tests[] = {without_a_fault_every_law_holds, every_fault_breaks_its_laws,
                            what_no_cache_can_do_is_refused, NULL};
    return faults_main("faults of the cache", tests);
}
