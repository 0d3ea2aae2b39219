/* Changes of schedules as a person would make them: moves inserted, taken out, repeated and swapped, a number set to
 * one at which caches break, another model under the same traffic. */
#include "fuzz/schedule.h"

#include <string.h>

enum { MOST_MOVES = (SCHEDULE_BYTES - SCHEDULE_HEAD) / SCHEDULE_MOVE };

typedef struct {
    uint8_t head[SCHEDULE_HEAD];
    int n;
    uint8_t move[MOST_MOVES][SCHEDULE_MOVE];
} edited;

static void open_bytes(const uint8_t *data, size_t size, edited *e)
{
    memset(e, 0, sizeof *e);
    if (size) memcpy(e->head, data, size < SCHEDULE_HEAD ? size : SCHEDULE_HEAD);
    for (size_t at = SCHEDULE_HEAD; at < size && e->n < MOST_MOVES; at += SCHEDULE_MOVE)
        memcpy(e->move[e->n++], data + at, size - at < SCHEDULE_MOVE ? size - at : SCHEDULE_MOVE);
}

static size_t close_bytes(const edited *e, uint8_t *out, size_t max_size)
{
    size_t size = SCHEDULE_HEAD + (size_t)e->n * SCHEDULE_MOVE;
    if (size > max_size) size = max_size;
    memcpy(out, e->head, size < SCHEDULE_HEAD ? size : SCHEDULE_HEAD);
    if (size > SCHEDULE_HEAD) memcpy(out + SCHEDULE_HEAD, e->move, size - SCHEDULE_HEAD);
    return size;
}

static uint8_t any_byte(fuzz_rng *r)
{
    return (uint8_t)fuzz_next(r);
}

/* Half of the numbers are edges; padding and documents are rare enough that plain calls are seen too. */
static void draw_move(fuzz_rng *r, uint8_t *m)
{
    memset(m, 0, SCHEDULE_MOVE);
    for (int i = 0; i < MOVE_LEFT; i++) m[i] = any_byte(r);
    for (int i = MOVE_COUNT; i < MOVE_LEFT; i++)
        if (fuzz_below(r, 2)) m[i] = schedule_edge_byte(r);
    if (fuzz_below(r, 3) == 0) m[MOVE_CACHE] = 0; /* traffic that meets on one cache */
    const uint64_t with = fuzz_below(r, 12);
    for (int i = 0; i < 4 && with < 2; i++) m[MOVE_LEFT + i] = fuzz_below(r, 2) ? any_byte(r) : 0;
    for (int i = 0; i < 4 && (with == 1 || with == 2); i++) m[MOVE_RIGHT + i] = fuzz_below(r, 2) ? any_byte(r) : 0;
    for (int i = 0; i < 16 && (with == 3 || with == 4 || with == 1); i++)
        m[MOVE_CUTS + i] = fuzz_below(r, 3) ? any_byte(r) % 12 : 0;
}

static void insert_move(fuzz_rng *r, edited *e)
{
    if (e->n == MOST_MOVES) return;
    const int at = (int)fuzz_below(r, (uint64_t)e->n + 1);
    memmove(e->move[at + 1], e->move[at], (size_t)(e->n - at) * SCHEDULE_MOVE);
    e->n++;
    draw_move(r, e->move[at]);
}

static void delete_moves(fuzz_rng *r, edited *e)
{
    if (e->n == 0) return;
    const int at = (int)fuzz_below(r, (uint64_t)e->n);
    const int n = fuzz_below(r, 4) ? 1 : 1 + (int)fuzz_below(r, (uint64_t)(e->n - at));
    memmove(e->move[at], e->move[at + n], (size_t)(e->n - at - n) * SCHEDULE_MOVE);
    e->n -= n;
}

static void repeat_move(fuzz_rng *r, edited *e)
{
    if (e->n == 0 || e->n == MOST_MOVES) return;
    uint8_t m[SCHEDULE_MOVE];
    memcpy(m, e->move[fuzz_below(r, (uint64_t)e->n)], sizeof m);
    const int to = (int)fuzz_below(r, (uint64_t)e->n + 1);
    memmove(e->move[to + 1], e->move[to], (size_t)(e->n - to) * SCHEDULE_MOVE);
    memcpy(e->move[to], m, sizeof m);
    e->n++;
}

static void swap_moves(fuzz_rng *r, edited *e)
{
    if (e->n < 2) return;
    const uint64_t a = fuzz_below(r, (uint64_t)e->n), b = fuzz_below(r, (uint64_t)e->n);
    uint8_t m[SCHEDULE_MOVE];
    memcpy(m, e->move[a], sizeof m);
    memcpy(e->move[a], e->move[b], sizeof m);
    memcpy(e->move[b], m, sizeof m);
}

static void change_move(fuzz_rng *r, edited *e)
{
    if (e->n == 0) return;
    uint8_t *m = e->move[fuzz_below(r, (uint64_t)e->n)];
    switch (fuzz_below(r, 6)) {
    case 0: m[MOVE_KIND] = any_byte(r); break;
    case 1: m[MOVE_CACHE] = any_byte(r); break;
    case 2: m[MOVE_ROWS] = any_byte(r); break;
    case 3: m[MOVE_COUNT + fuzz_below(r, 5)] = schedule_edge_byte(r); break;
    case 4: m[MOVE_LEFT + fuzz_below(r, 8)] = fuzz_below(r, 2) ? schedule_edge_byte(r) : 0; break;
    default: m[MOVE_CUTS + fuzz_below(r, 16)] = fuzz_below(r, 2) ? any_byte(r) % 12 : 0; break;
    }
}

static void change_model(fuzz_rng *r, edited *e)
{
    const uint64_t changes = fuzz_below(r, 6) ? 1 : SCHEDULE_HEAD; /* one field, or another model */
    for (uint64_t i = 0; i < changes; i++) {
        uint8_t *at = &e->head[fuzz_below(r, SCHEDULE_HEAD)];
        *at = fuzz_below(r, 4) ? any_byte(r) : 0;
    }
}

size_t schedule_mutate(uint8_t *data, size_t size, size_t max_size, unsigned int seed)
{
    fuzz_rng r = {(seed + UINT64_C(1)) * UINT64_C(0x9e3779b97f4a7c15)};
    edited e;
    open_bytes(data, size, &e);
    for (uint64_t left = 1 + fuzz_below(&r, 5); left > 0; left--) {
        switch (fuzz_below(&r, e.n < 6 ? 12 : 10)) {
        case 0:
        case 1: change_model(&r, &e); break;
        case 2: delete_moves(&r, &e); break;
        case 3: repeat_move(&r, &e); break;
        case 4: swap_moves(&r, &e); break;
        case 5:
        case 6:
        case 7: change_move(&r, &e); break;
        default: insert_move(&r, &e); break; /* short traffic grows */
        }
    }
    return close_bytes(&e, data, max_size);
}

/* The model of one, the first moves of one and the last moves of the other. */
size_t schedule_cross(const uint8_t *a, size_t a_size, const uint8_t *b, size_t b_size, uint8_t *out, size_t max_size,
                      unsigned int seed)
{
    fuzz_rng r = {(seed + UINT64_C(1)) * UINT64_C(0x9e3779b97f4a7c15)};
    edited x, y;
    open_bytes(a, a_size, &x);
    open_bytes(b, b_size, &y);
    const int from_x = (int)fuzz_below(&r, (uint64_t)x.n + 1), from_y = (int)fuzz_below(&r, (uint64_t)y.n + 1);
    if (fuzz_below(&r, 2)) memcpy(x.head, y.head, sizeof x.head);
    x.n = from_x;
    for (int i = from_y; i < y.n && x.n < MOST_MOVES; i++) memcpy(x.move[x.n++], y.move[i], SCHEDULE_MOVE);
    return close_bytes(&x, out, max_size);
}
