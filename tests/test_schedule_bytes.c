/* fuzz/schedule.h: any bytes are a schedule that the judge takes and that its own line describes, the same one each
 * time; mutations stay within their room, follow from the seed, and reach every kind of move and every option. */
#include "fuzz/fuzz.c"
#include "fuzz/heap.c"
#include "fuzz/schedule_draw.c"
#include "fuzz/schedule_mutate.c"
#include "tests/convert_test.h"

enum { ROUNDS = 400 };

/* The two texts of a schedule, malloc'ed. */
static char *text_of(const schedule *s)
{
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    gld_seeded_print(&s->spec, out);
    fputc(' ', out);
    gld_traffic_print(&s->traffic, out);
    fclose(out);
    return text;
}

static void is_valid(const uint8_t *bytes, size_t size, schedule *s)
{
    gld_seeded_spec spec;
    static gld_traffic traffic;
    static schedule again;
    schedule_of_bytes(bytes, size, s);
    expect_ok(gld_seeded_check(&s->spec), "a schedule");
    expect_ok(gld_traffic_check(&s->traffic), "a schedule");
    ck_assert_int_gt(gld_traffic_cells(&s->traffic), 0);
    char *text = text_of(s);
    const size_t blank = strcspn(text, " ");
    schedule_of_bytes(bytes, size, &again);
    char *same = text_of(&again);
    ck_assert_str_eq(text, same);
    text[blank] = 0;
    expect_ok(gld_seeded_parse(text, &spec), "a schedule");
    expect_ok(gld_traffic_parse(text + blank + 1, &traffic), "a schedule");
    ck_assert_int_eq(traffic.n, s->traffic.n);
    free(same);
    free(text);
}

START_TEST(any_bytes_are_a_schedule)
{
    fuzz_rng r = {7};
    uint8_t bytes[SCHEDULE_BYTES + 40] = {0};
    static schedule s;
    is_valid(bytes, 0, &s);
    for (int i = 0; i < ROUNDS; i++) {
        const size_t size = fuzz_below(&r, sizeof bytes + 1);
        const int how = i % 4; /* all of one value; edges; anything */
        const uint8_t value = (uint8_t)fuzz_next(&r);
        for (size_t k = 0; k < size; k++)
            bytes[k] = how == 0 ? value : how == 1 ? schedule_edge_byte(&r) : (uint8_t)fuzz_next(&r);
        is_valid(bytes, size, &s);
    }
}
END_TEST

START_TEST(mutations_stay_in_their_room)
{
    fuzz_rng r = {11};
    uint8_t a[SCHEDULE_BYTES] = {0}, b[SCHEDULE_BYTES], out[SCHEDULE_BYTES + 8];
    size_t n = 0, m = 0;
    for (unsigned i = 0; i < 4 * ROUNDS; i++) {
        const size_t most = fuzz_below(&r, SCHEDULE_BYTES + 1);
        if (n > most) n = most;
        if (m > most) m = most;
        memcpy(b, a, n);
        m = n;
        n = schedule_mutate(a, n, most, i);
        ck_assert_uint_le(n, most);
        ck_assert_uint_eq(schedule_mutate(b, m, most, i), n);
        ck_assert_mem_eq(a, b, n);
        memset(out, 0xa5, sizeof out);
        m = schedule_cross(a, n, b, m, out, most, i);
        ck_assert_uint_le(m, most);
        for (size_t k = most; k < sizeof out; k++) ck_assert_uint_eq(out[k], 0xa5);
        memcpy(b, out, m);
    }
}
END_TEST

/* From nothing, as --random draws them. What is looked for is in bits: kinds of moves, then what models and calls have.
 */
START_TEST(everything_is_reached)
{
    static schedule s;
    uint8_t bytes[SCHEDULE_BYTES] = {0};
    unsigned kinds_seen = 0, ropes = 0, dtypes = 0, weights = 0, layers = 0, rows = 0, models = 0;
    bool left = false, right = false, cuts_seen = false, empty = false, is_long = false, edges[6] = {false};
    for (unsigned i = 0; i < 8 * ROUNDS; i++) {
        size_t n = 0;
        for (unsigned k = 0; k < 12; k++) n = schedule_mutate(bytes, n, sizeof bytes, 100 * i + k);
        schedule_of_bytes(bytes, n, &s);
        const fh1_config *c = &s.spec.config;
        ropes |= 1u << c->rope.type;
        dtypes |= 1u << s.spec.dtype;
        weights |= 1u << s.spec.weights;
        layers |= 1u << c->n_layers;
        models |= 1u << (c->family == FH1_FALCON_MAMBA ? 3 : (int)c->block);
        for (int k = 0; k < s.traffic.n; k++) {
            const gld_move *m = &s.traffic.move[k];
            kinds_seen |= 1u << m->kind;
            if (m->kind == GLD_MOVE_NEW) rows |= 1u << m->rows;
            if (m->kind != GLD_MOVE_CALL) continue;
            const int64_t edge[6] = {c->K - 1, c->K, c->Q - 1, c->Q, c->Q + 1, 2 * c->Q};
            for (int e = 0; e < 6; e++) edges[e] |= m->n[0] == edge[e];
            for (int b = 0; b < 4; b++) {
                left |= m->left[b] > 0;
                right |= m->right[b] > 0;
                cuts_seen |= m->n_cuts[b] > 1;
                is_long |= m->n[b] > 256;
            }
            empty |= m->n[0] == 0 && m->n[1] > 0;
        }
    }
    ck_assert_uint_eq(kinds_seen, (1u << GLD_MOVE_COUNT) - 1);
    ck_assert_uint_eq(ropes, (2u << FH1_ROPE_LONGROPE) - 1);
    ck_assert_uint_eq(dtypes, 1u << FH1_F32 | 1u << FH1_BF16 | 1u << FH1_F16);
    ck_assert_uint_eq(weights, (1u << GLD_WEIGHTS_COUNT) - 1);
    ck_assert_uint_eq(layers, 2 | 4 | 8);
    ck_assert_uint_eq(models, 15);
    ck_assert_uint_eq(rows, 2 | 4 | 8 | 16);
    ck_assert(left && right && cuts_seen && empty && is_long);
    for (int e = 0; e < 6; e++) ck_assert_msg(edges[e], "edge %d", e);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {any_bytes_are_a_schedule, mutations_stay_in_their_room, everything_is_reached};
    return run_tests("schedule bytes", tests, sizeof tests / sizeof *tests);
}
