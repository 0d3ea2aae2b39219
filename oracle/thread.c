/* How a loop meets the pool: the caller fills in the job, opens the gate and bumps the generation;
 * workers that notice pass the gate, take pieces from one counter and leave. When the pieces have run
 * out the caller closes the gate and waits for those inside. A worker that wakes too late finds the
 * gate closed, so a short loop never waits for a sleeper. */
#include "oracle/thread.h"

#include <assert.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>

#define MAX_THREADS 256
#define SPINS 4000 /* about a hundred microseconds: a little more than the serial stretches of a decode step */
#define CLOSED (1 << 30)

static struct {
    pthread_mutex_t owner; /* held by the caller whose loop runs */
    pthread_mutex_t sleep; /* guards the two conditions */
    pthread_cond_t work, done;
    pthread_t threads[MAX_THREADS];
    int n_workers; /* running threads beside the caller; guarded by owner */
    bool started, hooked;
    atomic_int size; /* 0 = not decided yet */

    atomic_int gate;  /* workers inside, + CLOSED */
    atomic_int alive; /* workers that have begun */
    atomic_int sleepers;
    atomic_uint generation;
    atomic_bool stop;

    fh1_loop_body body; /* the job: written while the gate is closed and nobody is inside */
    void *ctx;
    int64_t n, grain, pieces;
    atomic_llong next;
} pool = {
    .owner = PTHREAD_MUTEX_INITIALIZER,
    .sleep = PTHREAD_MUTEX_INITIALIZER,
    .work = PTHREAD_COND_INITIALIZER,
    .done = PTHREAD_COND_INITIALIZER,
    .gate = CLOSED,
};

static _Thread_local int my_number;   /* 0 for callers, 1 … for workers */
static _Thread_local bool inside_job; /* a body is on this thread's stack */

static void relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static int default_size(void)
{
    const char *text = getenv("FH1_THREADS");
    if (text && *text) {
        char *end;
        long n = strtol(text, &end, 10);
        if (!*end && n > 0) return n < MAX_THREADS ? (int)n : MAX_THREADS;
    }
    cpu_set_t set; /* fails beyond 1024 processors, where the cap holds anyway */
    if (sched_getaffinity(0, sizeof set, &set) != 0) return MAX_THREADS;
    int n = CPU_COUNT(&set);
    return n < 1 ? 1 : n < MAX_THREADS ? n : MAX_THREADS;
}

int fh1_threads(void)
{
    int size = atomic_load(&pool.size);
    if (size) return size;
    int decided = default_size(), none = 0;
    return atomic_compare_exchange_strong(&pool.size, &none, decided) ? decided : none;
}

static void run_pieces(int number)
{
    inside_job = true;
    for (;;) {
        int64_t i = atomic_fetch_add(&pool.next, 1);
        if (i >= pool.pieces) break;
        int64_t begin = i * pool.grain, left = pool.n - begin;
        pool.body(pool.ctx, begin, begin + (left < pool.grain ? left : pool.grain), number);
    }
    inside_job = false;
}

static void leave_gate(void)
{
    if (atomic_fetch_sub(&pool.gate, 1) - 1 != CLOSED) return;
    pthread_mutex_lock(&pool.sleep); /* the caller looks at the gate under this lock before it waits */
    pthread_cond_signal(&pool.done);
    pthread_mutex_unlock(&pool.sleep);
}

/* Returns the next generation after `seen`. */
static unsigned await_work(unsigned seen)
{
    for (int i = 0; i < SPINS; i++) {
        unsigned now = atomic_load(&pool.generation);
        if (now != seen) return now;
        relax();
    }
    pthread_mutex_lock(&pool.sleep);
    atomic_fetch_add(&pool.sleepers, 1); /* before the look: the caller bumps, then counts sleepers */
    while (atomic_load(&pool.generation) == seen) pthread_cond_wait(&pool.work, &pool.sleep);
    atomic_fetch_sub(&pool.sleepers, 1);
    unsigned now = atomic_load(&pool.generation);
    pthread_mutex_unlock(&pool.sleep);
    return now;
}

static void *worker(void *number)
{
    my_number = (int)(intptr_t)number;
    atomic_fetch_add(&pool.alive, 1);
    /* The pool starts with the gate closed and generation 0, so no job is missed. */
    for (unsigned seen = 0;;) {
        seen = await_work(seen);
        if (atomic_load(&pool.stop)) return NULL;
        if (!(atomic_fetch_add(&pool.gate, 1) & CLOSED)) run_pieces(my_number);
        leave_gate();
    }
}

static void announce(int64_t wanted)
{
    atomic_fetch_add(&pool.generation, 1);
    int64_t sleepers = atomic_load(&pool.sleepers);
    if (sleepers == 0) return;
    pthread_mutex_lock(&pool.sleep);
    if (wanted >= sleepers) pthread_cond_broadcast(&pool.work);
    else
        for (int64_t i = 0; i < wanted; i++) pthread_cond_signal(&pool.work);
    pthread_mutex_unlock(&pool.sleep);
}

/* Ends the workers; the owner lock is held. */
static void stop_pool(void)
{
    atomic_store(&pool.stop, true);
    announce(MAX_THREADS);
    for (int i = 0; i < pool.n_workers; i++) pthread_join(pool.threads[i], NULL);
    atomic_store(&pool.stop, false);
    atomic_store(&pool.generation, 0);
    atomic_store(&pool.alive, 0);
    pool.n_workers = 0;
    pool.started = false;
}

/* Joins the workers, so that nothing runs or counts as leaked while the process is torn down. An exit
 * from inside a body, or while another thread's loop runs, must not wait for itself: it leaves them. */
static void at_exit(void)
{
    if (inside_job || pthread_mutex_trylock(&pool.owner) != 0) return;
    stop_pool();
    pthread_mutex_unlock(&pool.owner);
}

/* A fork waits until no body runs, since a worker might hold a lock of the allocator, which the child
 * would never see released. A fork from inside a body cannot wait for itself. */
static void before_fork(void)
{
    if (!inside_job) pthread_mutex_lock(&pool.owner);
}

static void in_parent(void)
{
    if (!inside_job) pthread_mutex_unlock(&pool.owner);
}

/* Only the forking thread lives on in the child: forget the workers and whatever they held. */
static void in_child(void)
{
    pool.owner = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
    pool.sleep = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
    pool.work = (pthread_cond_t)PTHREAD_COND_INITIALIZER;
    pool.done = (pthread_cond_t)PTHREAD_COND_INITIALIZER;
    atomic_store(&pool.gate, CLOSED);
    atomic_store(&pool.alive, 0);
    atomic_store(&pool.sleepers, 0);
    atomic_store(&pool.generation, 0);
    atomic_store(&pool.stop, false);
    pool.n_workers = 0;
    pool.started = false;
}

/* The owner lock is held. Fewer workers than asked for are fine: the caller alone would do. */
static void start_pool(void)
{
    if (!pool.hooked) {
        pthread_atfork(before_fork, in_parent, in_child);
        atexit(at_exit);
        pool.hooked = true;
    }
    sigset_t all, before; /* signals belong to the program's own threads */
    sigfillset(&all);
    sigdelset(&all, SIGBUS); /* but a fault belongs to the thread that meets it: blocked, it would kill at once */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int wanted = fh1_threads() - 1;
    while (pool.n_workers < wanted) {
        void *number = (void *)(intptr_t)(pool.n_workers + 1);
        if (pthread_create(&pool.threads[pool.n_workers], NULL, worker, number) != 0) break;
        pool.n_workers++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    /* The start of a thread may allocate, too: past this point only bodies do (before_fork). */
    while (atomic_load(&pool.alive) < pool.n_workers) sched_yield();
    pool.started = true;
}

void fh1_set_threads(int n)
{
    assert(!inside_job);
    pthread_mutex_lock(&pool.owner);
    if (pool.started) stop_pool();
    atomic_store(&pool.size, n <= 0 ? 0 : n < MAX_THREADS ? n : MAX_THREADS);
    pthread_mutex_unlock(&pool.owner);
}

/* Closes the gate and waits for the workers that still hold a piece. */
static void finish_job(void)
{
    atomic_fetch_or(&pool.gate, CLOSED);
    for (int i = 0; i < SPINS && atomic_load(&pool.gate) != CLOSED; i++) relax();
    if (atomic_load(&pool.gate) == CLOSED) return;
    pthread_mutex_lock(&pool.sleep);
    while (atomic_load(&pool.gate) != CLOSED) pthread_cond_wait(&pool.done, &pool.sleep);
    pthread_mutex_unlock(&pool.sleep);
}

static void run_alone(int64_t n, int64_t grain, fh1_loop_body body, void *ctx)
{
    for (int64_t begin = 0; begin < n;) {
        int64_t end = n - begin < grain ? n : begin + grain;
        body(ctx, begin, end, my_number);
        begin = end;
    }
}

void fh1_parallel_for(int64_t n, int64_t grain, fh1_loop_body body, void *ctx)
{
    assert(grain > 0);
    if (n <= 0) return;
    int64_t pieces = (n - 1) / grain + 1;
    /* One piece is run here without taking the pool, which stays free for a loop inside of it. */
    if (inside_job || pieces == 1 || fh1_threads() == 1 || pthread_mutex_trylock(&pool.owner) != 0) {
        run_alone(n, grain, body, ctx);
        return;
    }
    if (!pool.started) start_pool();
    pool.body = body;
    pool.ctx = ctx;
    pool.n = n;
    pool.grain = grain;
    pool.pieces = pieces;
    atomic_store(&pool.next, 0);
    atomic_fetch_and(&pool.gate, ~CLOSED);
    announce(pieces - 1);
    run_pieces(0);
    finish_job();
    pthread_mutex_unlock(&pool.owner);
}
