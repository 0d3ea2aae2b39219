#include "convert/work.h"

#include <string.h>

void cvt_work_begin(cvt_work *w, const cvt_progress *progress, uint64_t total)
{
    memset(w, 0, sizeof *w);
    pthread_mutex_init(&w->lock, NULL);
    w->progress = progress;
    w->total = total;
}

bool cvt_work_goes_on(cvt_work *w)
{
    pthread_mutex_lock(&w->lock);
    bool on = !w->failed;
    pthread_mutex_unlock(&w->lock);
    return on;
}

void cvt_work_did(cvt_work *w, uint64_t bytes, fh1_status s)
{
    pthread_mutex_lock(&w->lock);
    w->done += bytes;
    if (!s && !w->failed && w->progress) s = w->progress->step(w->progress->user, w->done, w->total);
    if (s && !w->failed) {
        w->failed = true;
        w->error = *s;
    }
    pthread_mutex_unlock(&w->lock);
}

fh1_status cvt_work_status(cvt_work *w)
{
    pthread_mutex_lock(&w->lock);
    bool failed = w->failed;
    pthread_mutex_unlock(&w->lock);
    if (!failed) return NULL;
    const fh1_error *e = &w->error; /* nobody writes it any more */
    fh1_status s = fh1_fail(e->code, "%s", e->what);
    if (e->where[0]) s = fh1_where(s, "%s", e->where);
    if (e->expected[0]) s = fh1_expected(s, "%s", e->expected);
    if (e->found[0]) s = fh1_found(s, "%s", e->found);
    if (e->hint[0]) s = fh1_hint(s, "%s", e->hint);
    return s;
}

fh1_status cvt_work_end(cvt_work *w)
{
    fh1_status s = cvt_work_status(w);
    pthread_mutex_destroy(&w->lock);
    return s;
}
