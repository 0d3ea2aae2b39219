/* The mutator of JSON (fuzz/mutate_json.h): it stays in its room whatever it is given, does the same again for the same
 * seed, and comes, from one sound text, to each of the errors that a reader of JSON must see. */
#include "convert/json.h"
#include "fuzz/mutate_json.c"
#include "tests/convert_test.h"

/* Whatever numbers: the mutator asks for no more. */
uint64_t fuzz_next(fuzz_rng *r)
{
    uint64_t z = r->s += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

enum { ROOM = 400, GUARD = 16 };

static const char sound[] =
    "{\"a\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]}, \"b\" : {\"dtype\":\"U8\","
    "\"shape\":[],\"data_offsets\":[24,25]},\"__metadata__\":{\"format\":\"pt\"}}";
static const char *const words[] = {"dtype", "BF16", NULL};
static const fuzz_json_stock stock = {"[{\"other\":[true,null]}]", 23, words};

/* `times` changes of a text, in a room that is watched. */
static size_t mutate(char *text, size_t n, int times, uint64_t seed)
{
    fuzz_rng r = {seed};
    memset(text + ROOM, 0x5a, GUARD);
    for (int i = 0; i < times && n <= ROOM; i++) n = fuzz_mutate_json(text, n, ROOM, &stock, &r);
    bool whole = n <= ROOM;
    for (int k = 0; k < GUARD; k++) whole = whole && text[ROOM + k] == 0x5a;
    ck_assert(whole); /* one for all: libcheck writes each down */
    return n;
}

START_TEST(each_error_is_reached_from_a_sound_text)
{
    static const struct {
        const char *word;
        int least;
    } wanted[] = {
        {"appears twice", 25},  {"nested deeper", 25},   {"not well-formed", 25},  {"lone surrogate", 5},
        {"u0000", 5},           {"valid UTF-8", 10},     {"not a JSON number", 5}, {"too large for a double", 2},
        {"63 characters", 2},   {"no closing quote", 5}, {"raw control", 2},       {"is not JSON", 5},
        {"byte order mark", 1}, {"escape", 2},           {"more text", 2}};
    enum { N = sizeof wanted / sizeof *wanted, RUNS = 10000 };
    int seen[N] = {0}, good = 0, same = 0;
    for (int i = 0; i < RUNS; i++) {
        char text[ROOM + GUARD], line[2048];
        cJSON *v;
        memcpy(text, sound, sizeof sound - 1);
        size_t n = mutate(text, sizeof sound - 1, 1, (uint64_t)i);
        if (n == sizeof sound - 1 && memcmp(text, sound, n) == 0) same++;
        fh1_status s = cvt_json_parse(text, n, 3, "text", &v);
        cJSON_Delete(v);
        if (!s) good++;
        else fh1_status_line(s, line, sizeof line);
        for (int k = 0; s && k < N; k++) seen[k] += strstr(line, wanted[k].word) != NULL;
    }
    for (int k = 0; k < N; k++) ck_assert_msg(seen[k] >= wanted[k].least, "%s: %d times", wanted[k].word, seen[k]);
    /* Half of the texts or so must still be JSON, or nothing behind the parser is reached. */
    ck_assert_msg(good > RUNS / 3 && good < RUNS * 9 / 10, "%d good ones", good);
    ck_assert_msg(same < RUNS / 10, "%d unchanged", same);
}
END_TEST

START_TEST(any_bytes_will_do)
{
    for (uint64_t seed = 0; seed < 1000; seed++) {
        char text[ROOM + GUARD], again[ROOM + GUARD];
        fuzz_rng r = {seed};
        size_t n = fuzz_below(&r, ROOM + 1);
        for (size_t i = 0; i < n; i++) text[i] = "{}[]:,\"\\ \n0-aeu\0\xff"[fuzz_below(&r, 17)];
        memcpy(again, text, n);
        size_t a = mutate(text, n, 20, seed), b = mutate(again, n, 20, seed);
        ck_assert_uint_eq(a, b);
        ck_assert_int_eq(memcmp(text, again, a), 0);
    }
}
END_TEST

START_TEST(without_room_nothing_grows)
{
    for (uint64_t seed = 0; seed < 1000; seed++) {
        char text[ROOM + GUARD];
        memset(text, '[', ROOM);
        memcpy(text, sound, sizeof sound - 1);
        mutate(text, ROOM, 20, seed);
        ck_assert_uint_eq(mutate(text, 0, 1, seed), 0);
    }
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {each_error_is_reached_from_a_sound_text, any_bytes_will_do,
                                  without_room_nothing_grows};
    return run_tests("mutate_json", tests, sizeof tests / sizeof *tests);
}
