/* What is said when a kernel breaks a rule, before the program ends with 66. */
#include "cuda/host/internal.h"

#include <cstdarg>

namespace cu_host
{
namespace sim
{

void exit_mistake()
{
    fflush(stdout);
    fflush(stderr);
    _Exit(KERNEL_MISTAKE);
}

static void say_where(const Thread *t, Site s)
{
    if (t) {
        const Launch &l = *t->blk->l;
        fprintf(stderr, "  kernel %s, block %u,%u,%u of %ux%ux%u, thread %u (%u,%u,%u) of %ux%ux%u\n", l.name,
                t->blk->id.x, t->blk->id.y, t->blk->id.z, l.grid.x, l.grid.y, l.grid.z, t->lin, t->tid.x, t->tid.y,
                t->tid.z, l.block.x, l.block.y, l.block.z);
    }
    if (s.file) fprintf(stderr, "  at %s:%d\n", s.file, s.line);
}

void die(Site s, const char *fmt, ...)
{
    va_list a;
    va_start(a, fmt);
    fprintf(stderr, "cuda-host: ");
    vfprintf(stderr, fmt, a);
    fprintf(stderr, "\n");
    va_end(a);
    say_where(cur, s);
    exit_mistake();
}

static bool same_wait(const Thread &a, const Thread &b)
{
    return a.blk == b.blk && a.wait && b.wait && !strcmp(a.wait, b.wait) && a.site.line == b.site.line &&
           !strcmp(a.site.file, b.site.file);
}

/* Nobody can run: who waits where, grouped by place. */
void Worker::deadlock()
{
    enum { PLACES = 24 };
    struct {
        const Thread *first;
        unsigned n, last;
    } place[PLACES];
    unsigned n_places = 0, more = 0, ended = 0;
    for (unsigned i = 0; i < total; ++i) {
        const unsigned k = i / stride;
        if (i - k * stride >= blocks[k]->n_threads || is_fresh(i)) continue;
        const Thread &t = th[i];
        if (t.done) {
            ++ended;
            continue;
        }
        unsigned p = 0;
        while (p < n_places && !same_wait(*place[p].first, t)) ++p;
        if (p == PLACES) ++more;
        else if (p == n_places) place[n_places++] = {&t, 1, t.lin};
        else {
            ++place[p].n;
            place[p].last = t.lin;
        }
    }
    fprintf(stderr, "cuda-host: deadlock in kernel %s: every thread waits for another\n", blocks[0]->l->name);
    for (unsigned p = 0; p < n_places; ++p) {
        const Thread &t = *place[p].first;
        fprintf(stderr, "  block %u,%u,%u: %u threads (%u … %u) in %s at %s:%d\n", t.blk->id.x, t.blk->id.y,
                t.blk->id.z, place[p].n, t.lin, place[p].last, t.wait ? t.wait : "?", t.site.file, t.site.line);
    }
    if (more) fprintf(stderr, "  and %u threads in other places\n", more);
    if (ended) fprintf(stderr, "  %u threads have ended\n", ended);
    exit_mistake();
}

} // namespace sim
} // namespace cu_host
