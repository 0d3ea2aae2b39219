/* One pool of threads for the loops over rows, heads and weight panels.
 *
 * Work is cut into fixed pieces that threads take one after another, so the result never depends on
 * the number of threads. The pool starts at the first use; FH1_THREADS sets its size, otherwise the
 * number of processors this process may use. */
#pragma once

#include <stdint.h>

/* body(ctx, begin, end, thread) for consecutive pieces of at most `grain` of [0, n);
 * thread is in [0, fh1_threads()), and no two pieces run at once with the same number. Returns when
 * all pieces are done. Not reentrant: a body that calls it again runs the inner loop on its own
 * thread, with that thread's number. A call that finds the pool busy with another caller's loop runs
 * on its own thread too, as thread 0. */
typedef void (*fh1_loop_body)(void *ctx, int64_t begin, int64_t end, int thread);
void fh1_parallel_for(int64_t n, int64_t grain, fh1_loop_body body, void *ctx);

int fh1_threads(void);
/* The size from now on, 0 = default. Ends a pool of another size; not from inside a body. */
void fh1_set_threads(int n);
