/* Streams, events and graphs inside of this layer. */
#pragma once

#include "cuda/host/internal.h"

#include <chrono>

namespace cu_host
{
namespace sim
{

typedef std::function<void()> Work;

/* Work that waits for places in other streams. */
struct Pending {
    Work f;
    std::vector<std::pair<Stream *, unsigned long>> waits;
};

/* Streams are never deleted, so that events may outlive them; `destroyed` ones are refused. */
struct Stream {
    std::deque<Pending> queue;
    unsigned long pushed, done;
    bool blocking, destroyed;
    Graph *capture;
    std::vector<int> tail; /* nodes of the capture that the next one comes after */
};

struct Event {
    Stream *s; /* NULL: not recorded */
    unsigned long at;
    bool timed;
    std::shared_ptr<std::chrono::steady_clock::time_point> when;
    Graph *capture;
    std::vector<int> tail;
};

struct Node {
    Work f;
    std::vector<int> after;
};
struct Graph {
    std::vector<Node> nodes; /* in the order of capture */
    Stream *origin;
    cudaStreamCaptureMode mode;
    bool invalid;
};
struct GraphExec {
    std::shared_ptr<std::vector<Work>> works; /* in an order that the dependencies allow */
};

const std::vector<Stream *> &streams();
Stream *stream_of(Stream *s); /* NULL: the default stream */
void drain(Stream *s, unsigned long upto);
cudaError_t check_stream(Stream *s, const char *call);
cudaError_t capture_node(Stream *s, Work f);
cudaError_t capture_wait(Stream *s, Event *e);

} // namespace sim
} // namespace cu_host
