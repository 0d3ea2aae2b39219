/* The pool: every piece exactly once, whatever the number of threads, callers, nested loops and forks. */
#include "oracle/thread.h"

#include <check.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MOST = 2000 };

/* What a loop did: how often each index came up, and whether the promises to the body were kept. */
typedef struct {
    atomic_int seen[MOST];
    atomic_int busy[256]; /* pieces running at this moment, by thread number */
    atomic_int broken;
    int64_t n, grain;
    bool skip_last; /* planted: the body leaves one index out */
} coverage;

static void visit(void *ctx, int64_t begin, int64_t end, int thread)
{
    coverage *c = ctx;
    if (thread < 0 || thread >= fh1_threads()) {
        c->broken++;
        return;
    }
    if (atomic_fetch_add(&c->busy[thread], 1) != 0) c->broken++; /* another piece has our scratch */
    if (begin < 0 || begin >= end || end > c->n || end - begin > c->grain) c->broken++;
    if (begin % c->grain != 0) c->broken++; /* pieces are cut the same always */
    if (c->skip_last && end == c->n) end--;
    for (int64_t i = begin; i < end; i++) c->seen[i]++;
    atomic_fetch_sub(&c->busy[thread], 1);
}

/* True if the loop kept its promises and visited each of n indices exactly once. */
static bool covers(int64_t n, int64_t grain, bool skip_last)
{
    coverage *c = calloc(1, sizeof *c);
    c->n = n;
    c->grain = grain;
    c->skip_last = skip_last;
    fh1_parallel_for(n, grain, visit, c);
    bool good = c->broken == 0;
    for (int64_t i = 0; i < MOST; i++) good &= c->seen[i] == (i < n);
    free(c);
    return good;
}

START_TEST(each_index_once)
{
    static const int sizes[] = {1, 2, 3, 8, 0};
    for (int k = 0; k < 5; k++) {
        fh1_set_threads(sizes[k]);
        if (sizes[k]) ck_assert_int_eq(fh1_threads(), sizes[k]);
        ck_assert_int_ge(fh1_threads(), 1);
        for (int64_t n = 0; n <= 65; n++)
            for (int64_t grain = 1; grain <= 70; grain += 6) ck_assert(covers(n, grain, false));
        ck_assert(covers(MOST, 1, false) && covers(MOST, INT64_MAX, false) && covers(-3, 1, false));
        ck_assert(!covers(100, 7, true));
    }
}
END_TEST

static void sum_terms(void *ctx, int64_t begin, int64_t end, int thread)
{
    double *partial = ctx;
    (void)thread;
    for (int64_t i = begin; i < end; i++) partial[begin / 10] += 1.0 / (double)(i + 1);
}

START_TEST(the_result_does_not_depend_on_the_threads)
{
    double first[100], again[100];
    for (int threads = 1; threads <= 7; threads++) {
        fh1_set_threads(threads);
        memset(again, 0, sizeof again);
        fh1_parallel_for(1000, 10, sum_terms, again);
        if (threads == 1) memcpy(first, again, sizeof first);
        ck_assert_mem_eq(again, first, sizeof first);
    }
}
END_TEST

typedef struct {
    coverage inner[8];
    atomic_int moved; /* inner pieces that ran on another thread than their outer body */
} nest;

typedef struct {
    coverage *c;
    pthread_t thread;
    nest *outer;
} inner_call;

static void inner_body(void *ctx, int64_t begin, int64_t end, int thread)
{
    inner_call *call = ctx;
    if (!pthread_equal(call->thread, pthread_self())) call->outer->moved++;
    visit(call->c, begin, end, thread);
}

static void outer_body(void *ctx, int64_t begin, int64_t end, int thread)
{
    nest *o = ctx;
    (void)thread;
    for (int64_t i = begin; i < end; i++) {
        o->inner[i].n = 100;
        o->inner[i].grain = 9;
        inner_call call = {&o->inner[i], pthread_self(), o};
        fh1_parallel_for(100, 9, inner_body, &call);
    }
}

START_TEST(a_loop_in_a_loop_stays_on_its_thread)
{
    nest *o = calloc(1, sizeof *o);
    fh1_set_threads(4);
    fh1_parallel_for(8, 1, outer_body, o);
    ck_assert_int_eq(o->moved, 0);
    for (int k = 0; k < 8; k++) {
        ck_assert_int_eq(o->inner[k].broken, 0);
        for (int i = 0; i < 100; i++) ck_assert_int_eq(o->inner[k].seen[i], 1);
    }
    free(o);
}
END_TEST

static void *call_often(void *unused)
{
    (void)unused;
    for (int i = 0; i < 200; i++)
        if (!covers(1 + i * 7 % 500, 3, false)) return NULL;
    return "good";
}

START_TEST(callers_do_not_disturb_each_other)
{
    pthread_t other[4];
    fh1_set_threads(3);
    for (int k = 0; k < 4; k++) ck_assert_int_eq(pthread_create(&other[k], NULL, call_often, NULL), 0);
    ck_assert_ptr_nonnull(call_often(NULL));
    for (int k = 0; k < 4; k++) {
        void *good;
        pthread_join(other[k], &good);
        ck_assert_ptr_nonnull(good);
    }
}
END_TEST

static void wait_a_little(void *ctx, int64_t begin, int64_t end, int thread)
{
    (void)ctx;
    (void)begin;
    (void)end;
    (void)thread;
    usleep(2000); /* longer than anybody spins: caller and workers go to sleep and are woken */
}

START_TEST(sleepers_are_woken)
{
    fh1_set_threads(4);
    for (int i = 0; i < 20; i++) {
        fh1_parallel_for(1 + i % 6, 1, wait_a_little, NULL);
        if (i % 4 == 0) usleep(3000);
        ck_assert(covers(50, 1, false));
    }
}
END_TEST

static void meet(void *ctx, int64_t begin, int64_t end, int thread)
{
    (void)begin;
    (void)end;
    (void)thread;
    pthread_barrier_wait(ctx); /* passes only if four pieces run at once */
}

static bool four_meet(void)
{
    pthread_barrier_t barrier;
    pthread_barrier_init(&barrier, NULL, 4);
    fh1_parallel_for(4, 1, meet, &barrier);
    pthread_barrier_destroy(&barrier);
    return true;
}

/* Runs `child` in a fork; true if it ended well and in time. */
static bool good_child(bool (*child)(void), unsigned seconds)
{
    int status = 0;
    pid_t pid = fork();
    if (pid == 0) {
        signal(SIGALRM, SIG_DFL); /* the test runner has its own plans for it */
        alarm(seconds);           /* a pool that waits for threads which did not survive the fork hangs */
        exit(child() ? 0 : 1);
    }
    return waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

START_TEST(threads_work_at_the_same_time)
{
    fh1_set_threads(4);
    ck_assert(good_child(four_meet, 10));
    fh1_set_threads(3);
    ck_assert(!good_child(four_meet, 1)); /* planted: one thread too few waits for ever */
}
END_TEST

static bool covers_in_child(void)
{
    return covers(500, 3, false) && covers(500, 3, false);
}
static bool fails_in_child(void)
{
    return covers(500, 3, true);
}

static bool fork_again(void)
{
    return covers(100, 1, false) && good_child(covers_in_child, 10);
}

START_TEST(a_fork_starts_its_own_pool)
{
    fh1_set_threads(4);
    ck_assert(covers(100, 1, false)); /* the parent's pool is up */
    ck_assert(good_child(covers_in_child, 10));
    ck_assert(good_child(fork_again, 10));
    ck_assert(!good_child(fails_in_child, 10));
    ck_assert(covers(100, 1, false));
}
END_TEST

static void exit_in_body(void *ctx, int64_t begin, int64_t end, int thread)
{
    (void)ctx;
    (void)end;
    (void)thread;
    if (begin == 5) exit(0);
    usleep(1000);
}

static bool exits_inside(void)
{
    fh1_parallel_for(20, 1, exit_in_body, NULL);
    return false;
}

START_TEST(exit_from_a_body_does_not_hang)
{
    fh1_set_threads(3);
    for (int i = 0; i < 5; i++) ck_assert(good_child(exits_inside, 10));
}
END_TEST

static bool size_from_environment(void)
{
    static const struct {
        const char *text;
        int size; /* 0: the default */
    } cases[] = {{"3", 3}, {"1", 1}, {"100000", 256}, {"0", 0}, {"-2", 0}, {"two", 0}, {"3x", 0}, {"", 0}};
    unsetenv("FH1_THREADS");
    fh1_set_threads(0);
    int standard = fh1_threads();
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        setenv("FH1_THREADS", cases[i].text, 1);
        fh1_set_threads(0);
        if (fh1_threads() != (cases[i].size ? cases[i].size : standard)) return false;
    }
    fh1_set_threads(1000);
    return fh1_threads() == 256 && standard >= 1;
}

START_TEST(the_environment_sets_the_size)
{
    ck_assert(good_child(size_from_environment, 10));
}
END_TEST

int main(void)
{
    TCase *c = tcase_create("thread");
    tcase_set_timeout(c, 60);
    tcase_add_test(c, each_index_once);
    tcase_add_test(c, the_result_does_not_depend_on_the_threads);
    tcase_add_test(c, a_loop_in_a_loop_stays_on_its_thread);
    tcase_add_test(c, callers_do_not_disturb_each_other);
    tcase_add_test(c, sleepers_are_woken);
    tcase_add_test(c, threads_work_at_the_same_time);
    tcase_add_test(c, a_fork_starts_its_own_pool);
    tcase_add_test(c, exit_from_a_body_does_not_hang);
    tcase_add_test(c, the_environment_sets_the_size);
    Suite *s = suite_create("thread");
    suite_add_tcase(s, c);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
