/* Streams and events. Work runs at once, or, with FH1_CUDA_STREAMS=deferred, as late as the rules allow: when something
 * waits for it. That finds host code that does not wait, and streams that do not wait for each other. */
#include "cuda/host/stream.h"

#include <mutex>

namespace cu_host
{
namespace sim
{

static std::recursive_mutex &mutex()
{
    static std::recursive_mutex *m = new std::recursive_mutex;
    return *m;
}

Locked::Locked()
{
    mutex().lock();
}

Locked::~Locked()
{
    mutex().unlock();
}

static std::vector<Stream *> &all()
{
    static std::vector<Stream *> *v = new std::vector<Stream *>{new Stream{{}, 0, 0, true, false, nullptr, {}}};
    return *v;
}

const std::vector<Stream *> &streams()
{
    return all();
}

Stream *stream_of(Stream *s)
{
    return s ? s : all()[0];
}

void drain(Stream *s, unsigned long upto)
{
    while (s->done < upto && !s->queue.empty()) {
        const Pending p = std::move(s->queue.front());
        s->queue.pop_front();
        for (const auto &w : p.waits) drain(w.first, w.second);
        if (p.f) p.f();
        ++s->done;
    }
}

void drain_all()
{
    for (size_t i = 0; i < all().size(); ++i) drain(all()[i], all()[i]->pushed);
}

void drain_stream(Stream *s)
{
    s = stream_of(s);
    drain(s, s->pushed);
}

bool is_capturing(Stream *s)
{
    return stream_of(s)->capture != nullptr;
}

bool runs_at_once(Stream *s)
{
    s = stream_of(s);
    if (s->capture || settings().deferred || s->destroyed || !s->queue.empty()) return false;
    if (s == all()[0])
        for (const Stream *o : all())
            if (o->capture && o->blocking) return false; /* refused by enqueue */
    return true;
}

cudaError_t check_stream(Stream *s, const char *call)
{
    if (!s) return cudaSuccess;
    for (const Stream *o : all())
        if (o == s && !o->destroyed) return cudaSuccess;
    return fail(cudaErrorInvalidResourceHandle, "%s: %p is no stream", call, static_cast<void *>(s));
}

/* The default stream comes after what is in all blocking streams, and they after it. */
static void wait_implicitly(Pending &p, Stream *s)
{
    Stream *main = all()[0];
    if (s == main) {
        for (Stream *o : all())
            if (o != main && o->blocking && o->done < o->pushed) p.waits.emplace_back(o, o->pushed);
    } else if (s->blocking && main->done < main->pushed) p.waits.emplace_back(main, main->pushed);
}

static cudaError_t push(Stream *s, Pending p)
{
    if (s == all()[0])
        for (const Stream *o : all())
            if (o->capture && o->blocking) {
                o->capture->invalid = true;
                return fail(cudaErrorStreamCaptureImplicit, "work in the default stream while another one is captured");
            }
    wait_implicitly(p, s);
    s->queue.push_back(std::move(p));
    ++s->pushed;
    if (!settings().deferred) drain(s, s->pushed);
    return cudaSuccess;
}

cudaError_t enqueue(Stream *s, std::function<void()> f)
{
    const Locked lock;
    if (const cudaError_t e = check_stream(s, "work in a stream")) return e;
    s = stream_of(s);
    if (s->capture) return capture_node(s, std::move(f));
    return push(s, Pending{std::move(f), {}});
}

} // namespace sim

using namespace sim;

cudaError_t cudaDeviceSynchronize()
{
    const Locked lock;
    if (const cudaError_t e = forbidden_in_capture("cudaDeviceSynchronize")) return e;
    drain_all();
    return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned flags)
{
    const Locked lock;
    if (flags > cudaStreamNonBlocking) return fail(cudaErrorInvalidValue, "cudaStreamCreateWithFlags(%u)", flags);
    try {
        *s = new Stream{{}, 0, 0, flags != cudaStreamNonBlocking, false, nullptr, {}};
        all().push_back(*s);
    } catch (const std::bad_alloc &) {
        return cudaErrorMemoryAllocation;
    }
    return cudaSuccess;
}

cudaError_t cudaStreamCreate(cudaStream_t *s)
{
    return cudaStreamCreateWithFlags(s, cudaStreamDefault);
}

cudaError_t cudaStreamCreateWithPriority(cudaStream_t *s, unsigned flags, int)
{
    return cudaStreamCreateWithFlags(s, flags);
}

cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest)
{
    *least = 0;
    *greatest = -5;
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t s)
{
    const Locked lock;
    if (!s) return fail(cudaErrorInvalidResourceHandle, "cudaStreamDestroy of the default stream");
    if (const cudaError_t e = check_stream(s, "cudaStreamDestroy")) return e;
    drain(s, s->pushed);
    s->destroyed = true;
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t s)
{
    const Locked lock;
    if (const cudaError_t e = check_stream(s, "cudaStreamSynchronize")) return e;
    if (is_capturing(s)) {
        s->capture->invalid = true;
        return fail(cudaErrorStreamCaptureUnsupported, "cudaStreamSynchronize of a stream that is captured");
    }
    drain_stream(s);
    return cudaSuccess;
}

/* Asking brings the stream on by one piece of work. */
cudaError_t cudaStreamQuery(cudaStream_t s)
{
    const Locked lock;
    if (const cudaError_t e = check_stream(s, "cudaStreamQuery")) return e;
    s = stream_of(s);
    if (s->done < s->pushed) drain(s, s->done + 1);
    return s->done == s->pushed ? cudaSuccess : cudaErrorNotReady;
}

cudaError_t cudaLaunchHostFunc(cudaStream_t s, cudaHostFn_t f, void *arg)
{
    return enqueue(s, [f, arg] { f(arg); });
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned flags)
{
    *e = new Event{nullptr, 0, !(flags & cudaEventDisableTiming), nullptr, nullptr, {}};
    return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t *e)
{
    return cudaEventCreateWithFlags(e, cudaEventDefault);
}

cudaError_t cudaEventDestroy(cudaEvent_t e)
{
    delete e;
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s)
{
    const Locked lock;
    if (const cudaError_t err = check_stream(s, "cudaEventRecord")) return err;
    s = stream_of(s);
    e->s = s;
    e->capture = s->capture;
    if (s->capture) {
        e->tail = s->tail;
        return cudaSuccess;
    }
    auto when = std::make_shared<std::chrono::steady_clock::time_point>();
    e->when = when;
    const cudaError_t err = push(s, Pending{[when] { *when = std::chrono::steady_clock::now(); }, {}});
    e->at = s->pushed;
    return err;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned)
{
    const Locked lock;
    if (const cudaError_t err = check_stream(s, "cudaStreamWaitEvent")) return err;
    s = stream_of(s);
    if (e->capture || s->capture) return capture_wait(s, e);
    if (!e->s) return cudaSuccess;
    return push(s, Pending{nullptr, {{e->s, e->at}}});
}

static cudaError_t not_captured(cudaEvent_t e, const char *call)
{
    if (!e->capture) return cudaSuccess;
    e->capture->invalid = true;
    return fail(cudaErrorStreamCaptureUnsupported, "%s of an event that was recorded into a graph", call);
}

cudaError_t cudaEventSynchronize(cudaEvent_t e)
{
    const Locked lock;
    if (const cudaError_t err = not_captured(e, "cudaEventSynchronize")) return err;
    if (e->s) drain(e->s, e->at);
    return cudaSuccess;
}

cudaError_t cudaEventQuery(cudaEvent_t e)
{
    const Locked lock;
    if (const cudaError_t err = not_captured(e, "cudaEventQuery")) return err;
    if (e->s && e->s->done < e->at) drain(e->s, e->s->done + 1);
    return !e->s || e->s->done >= e->at ? cudaSuccess : cudaErrorNotReady;
}

cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t from, cudaEvent_t to)
{
    const Locked lock;
    if (!from->timed || !to->timed || !from->s || !to->s)
        return fail(cudaErrorInvalidResourceHandle, "cudaEventElapsedTime of events without a time");
    if (from->s->done < from->at || to->s->done < to->at) return cudaErrorNotReady;
    *ms = std::chrono::duration<float, std::milli>(*to->when - *from->when).count();
    return cudaSuccess;
}

} // namespace cu_host
