/* The common part of a parallel loop that can fail: errors live in the storage of the thread that made them, so the
 * first one is kept here for the caller, and progress is told by one thread at a time. */
#pragma once

#include "convert/checkpoint.h"

#include <pthread.h>

typedef struct {
    pthread_mutex_t lock;
    const cvt_progress *progress; /* may be NULL */
    uint64_t done, total;
    bool failed;
    fh1_error error;
} cvt_work;

void cvt_work_begin(cvt_work *w, const cvt_progress *progress, uint64_t total);
/* Whether the loop should go on: bodies ask before each piece. Any thread. */
bool cvt_work_goes_on(cvt_work *w);
/* Bytes that were read, or why not. Any thread. */
void cvt_work_did(cvt_work *w, uint64_t bytes, fh1_status s);
/* The first error so far as one of this thread; NULL when there was none. */
fh1_status cvt_work_status(cvt_work *w);
fh1_status cvt_work_end(cvt_work *w); /* the same, and releases w */
