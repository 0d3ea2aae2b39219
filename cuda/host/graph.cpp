/* Graphs: work that is recorded while streams are captured, arguments by value, and run again and again. Edges are
 * those that stream order and events gave; with deferred streams a graph runs its newest free node first, so that an
 * edge that is missing shows. */
#include "cuda/host/stream.h"

#include <algorithm>

namespace cu_host
{
namespace sim
{

cudaError_t capture_node(Stream *s, Work f)
{
    Graph *g = s->capture;
    if (g->invalid) return fail(cudaErrorStreamCaptureInvalidated, nullptr);
    g->nodes.push_back(Node{std::move(f), s->tail});
    s->tail.assign(1, static_cast<int>(g->nodes.size()) - 1);
    return cudaSuccess;
}

/* s joins the capture that e was recorded in, or comes after it there. */
cudaError_t capture_wait(Stream *s, Event *e)
{
    if (!e->capture || (s->capture && s->capture != e->capture)) {
        s->capture->invalid = true;
        return fail(cudaErrorStreamCaptureIsolation, "a captured stream waits for an event from outside of its graph");
    }
    if (!s->capture) {
        bool open = false;
        for (const Stream *o : streams()) open = open || o->capture == e->capture;
        if (!open)
            return fail(cudaErrorInvalidValue, "cudaStreamWaitEvent: the event belongs to a capture that has ended");
        if (s == stream_of(nullptr)) {
            e->capture->invalid = true;
            return fail(cudaErrorStreamCaptureImplicit, "the default stream cannot be captured");
        }
        s->capture = e->capture;
        s->tail = e->tail;
        return cudaSuccess;
    }
    for (int n : e->tail)
        if (std::find(s->tail.begin(), s->tail.end(), n) == s->tail.end()) s->tail.push_back(n);
    return cudaSuccess;
}

cudaError_t forbidden_in_capture(const char *call)
{
    cudaError_t e = cudaSuccess;
    for (const Stream *o : streams())
        if (o->capture && o->capture->mode != cudaStreamCaptureModeRelaxed) {
            o->capture->invalid = true;
            e = cudaErrorStreamCaptureUnsupported;
        }
    return e ? fail(e, "%s while a stream is captured", call) : e;
}

/* Every node leads to the end of the stream where the capture began? */
static bool joined(const Graph *g, const std::vector<int> &tail)
{
    std::vector<char> seen(g->nodes.size(), 0);
    for (int n : tail) seen[static_cast<size_t>(n)] = 1;
    for (size_t i = g->nodes.size(); i-- > 0;)
        if (seen[i])
            for (int n : g->nodes[i].after) seen[static_cast<size_t>(n)] = 1;
    return std::find(seen.begin(), seen.end(), 0) == seen.end();
}

/* Newest free node first. */
static std::vector<int> latest_first(const Graph *g)
{
    const int n = static_cast<int>(g->nodes.size());
    std::vector<char> done(static_cast<size_t>(n), 0);
    std::vector<int> order;
    while (static_cast<int>(order.size()) < n)
        for (int i = n; i-- > 0;) {
            const Node &x = g->nodes[static_cast<size_t>(i)];
            if (done[static_cast<size_t>(i)]) continue;
            bool free = true;
            for (int d : x.after) free = free && done[static_cast<size_t>(d)];
            if (!free) continue;
            done[static_cast<size_t>(i)] = 1;
            order.push_back(i);
            break;
        }
    return order;
}

} // namespace sim

using namespace sim;

cudaError_t cudaStreamBeginCapture(cudaStream_t s, cudaStreamCaptureMode m)
{
    const Locked lock;
    if (!s) return fail(cudaErrorStreamCaptureUnsupported, "the default stream cannot be captured");
    if (const cudaError_t e = check_stream(s, "cudaStreamBeginCapture")) return e;
    if (s->capture) return fail(cudaErrorInvalidValue, "cudaStreamBeginCapture: the stream is being captured");
    s->capture = new Graph{{}, s, m, false};
    s->tail.clear();
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *g)
{
    const Locked lock;
    *g = nullptr;
    Graph *c = s ? s->capture : nullptr;
    if (!c) return fail(cudaErrorInvalidValue, "cudaStreamEndCapture: the stream is not captured");
    if (c->origin != s) {
        c->invalid = true;
        return fail(cudaErrorStreamCaptureUnmatched, "cudaStreamEndCapture in another stream than the one that began");
    }
    const bool complete = joined(c, s->tail);
    for (Stream *o : streams())
        if (o->capture == c) {
            o->capture = nullptr;
            o->tail.clear();
        }
    if (c->invalid || !complete) {
        const bool invalid = c->invalid;
        delete c;
        return invalid ? fail(cudaErrorStreamCaptureInvalidated, "cudaStreamEndCapture")
                       : fail(cudaErrorStreamCaptureUnjoined,
                              "cudaStreamEndCapture: work of a forked stream is not joined");
    }
    *g = c;
    return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t s, cudaStreamCaptureStatus *status)
{
    const Locked lock;
    const Graph *c = stream_of(s)->capture;
    *status = !c           ? cudaStreamCaptureStatusNone
              : c->invalid ? cudaStreamCaptureStatusInvalidated
                           : cudaStreamCaptureStatusActive;
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *x, cudaGraph_t g, unsigned long long)
{
    auto works = std::make_shared<std::vector<Work>>();
    if (settings().deferred)
        for (int i : latest_first(g)) works->push_back(g->nodes[static_cast<size_t>(i)].f);
    else
        for (const Node &n : g->nodes) works->push_back(n.f);
    *x = new GraphExec{works};
    return cudaSuccess;
}

cudaError_t cudaGraphUpload(cudaGraphExec_t, cudaStream_t s)
{
    return check_stream(s, "cudaGraphUpload");
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t x, cudaStream_t s)
{
    const std::shared_ptr<std::vector<Work>> works = x->works;
    return enqueue(s, [works] {
        for (const Work &f : *works) f();
    });
}

cudaError_t cudaGraphDestroy(cudaGraph_t g)
{
    delete g;
    return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t x)
{
    delete x;
    return cudaSuccess;
}

} // namespace cu_host
