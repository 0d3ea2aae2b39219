#include "fuzz/mutate_words.h"

#include <stdlib.h>
#include <string.h>

/* Where the grammars of fh1 have their limits, and integers theirs. */
static const char *const numbers[] = {"0",
                                      "1",
                                      "2",
                                      "3",
                                      "4",
                                      "5",
                                      "7",
                                      "8",
                                      "12",
                                      "13",
                                      "15",
                                      "16",
                                      "31",
                                      "32",
                                      "33",
                                      "63",
                                      "64",
                                      "65",
                                      "512",
                                      "513",
                                      "1023",
                                      "1024",
                                      "1025",
                                      "4096",
                                      "4097",
                                      "8190",
                                      "8192",
                                      "16384",
                                      "65536",
                                      "1048575",
                                      "1048576",
                                      "1048577",
                                      "2147483647",
                                      "2147483648",
                                      "2147483649",
                                      "4294967296",
                                      "-1",
                                      "-0",
                                      "+1",
                                      "007",
                                      "1e3",
                                      "1e-5",
                                      "0.5",
                                      "inf",
                                      "-inf",
                                      "nan",
                                      "1e308",
                                      "1e999",
                                      "4.9e-324",
                                      "1099511627776",
                                      "1099511627777",
                                      "999999999999999999",
                                      "1000000000000000000",
                                      "9223372036854775807",
                                      "9223372036854775808",
                                      "18446744073709551616",
                                      "340282366920938463463374607431768211456",
                                      ""};
enum { N_NUMBERS = sizeof numbers / sizeof *numbers };

typedef struct {
    size_t begin, end;
} span;

/* Replaces the bytes of `s` by `n_new` others, where there is room; the new length. */
static size_t replace(char *text, size_t n, size_t room, span s, const char *with, size_t n_new)
{
    if (n - (s.end - s.begin) + n_new > room) return n;
    memmove(text + s.begin + n_new, text + s.end, n - s.end);
    memcpy(text + s.begin, with, n_new);
    return n - (s.end - s.begin) + n_new;
}

/* The k-th run of bytes that are (not) in `set`, counted from a random place. */
static bool run(const char *text, size_t n, const char *set, bool inside, fuzz_rng *r, span *out)
{
    if (n == 0) return false;
    const size_t from = fuzz_below(r, n);
    for (size_t k = 0; k < n; k++) {
        size_t i = (from + k) % n;
        if ((text[i] && strchr(set, text[i])) != inside) continue;
        while (i > 0 && (text[i - 1] && strchr(set, text[i - 1])) == inside) i--;
        out->begin = i;
        while (i < n && (text[i] && strchr(set, text[i])) == inside) i++;
        out->end = i;
        return true;
    }
    return false;
}

static size_t change_number(char *text, size_t n, size_t room, fuzz_rng *r)
{
    span s;
    if (!run(text, n, "0123456789", true, r, &s)) return n;
    const char *with = numbers[fuzz_below(r, N_NUMBERS)];
    return replace(text, n, room, s, with, strlen(with));
}

/* A word of the line, or a part of one, put to another place. */
static size_t copy_part(char *text, size_t n, size_t room, const char *separators, bool over, fuzz_rng *r)
{
    span from, to;
    char part[512];
    if (!run(text, n, separators, false, r, &from) || !run(text, n, separators, false, r, &to)) return n;
    const size_t n_part = from.end - from.begin;
    if (n_part > sizeof part - 1) return n;
    memcpy(part, text + from.begin, n_part);
    if (over) return replace(text, n, room, to, part, n_part);
    part[n_part] = to.end < n ? text[to.end] : separators[fuzz_below(r, strlen(separators))];
    return replace(text, n, room, (span){to.begin, to.begin}, part, n_part + 1);
}

static size_t drop_part(char *text, size_t n, size_t room, const char *separators, fuzz_rng *r)
{
    span s;
    if (!run(text, n, separators, false, r, &s)) return n;
    if (s.end < n) s.end++;
    return replace(text, n, room, s, "", 0);
}

/* Another word of the stock: at the place of one that begins alike (up to '='), else at the end. */
static size_t add_word(char *text, size_t n, size_t room, const char *const *stock, fuzz_rng *r)
{
    size_t n_stock = 0;
    while (stock[n_stock]) n_stock++;
    const char *word = stock[fuzz_below(r, n_stock)];
    const size_t n_word = strlen(word), n_name = strcspn(word, "=") + 1;
    for (size_t i = 0; i + n_name <= n && fuzz_below(r, 8) > 0; i++) {
        if ((i > 0 && text[i - 1] != ' ') || memcmp(text + i, word, n_name) != 0) continue;
        span s = {i, i};
        while (s.end < n && text[s.end] != ' ') s.end++;
        return replace(text, n, room, s, word, n_word);
    }
    if (n > 0 && text[n - 1] != ' ') n = replace(text, n, room, (span){n, n}, " ", 1);
    return replace(text, n, room, (span){n, n}, word, n_word);
}

static size_t swap_words(char *text, size_t n, fuzz_rng *r)
{
    span a, b;
    if (!run(text, n, " ", false, r, &a) || !run(text, n, " ", false, r, &b) || a.begin == b.begin) return n;
    if (a.begin > b.begin) {
        const span c = a;
        a = b;
        b = c;
    }
    char *copy = malloc(n);
    if (!copy) return n;
    size_t at = a.begin;
    memcpy(copy, text, n);
    memcpy(text + at, copy + b.begin, b.end - b.begin);
    at += b.end - b.begin;
    memcpy(text + at, copy + a.end, b.begin - a.end);
    at += b.begin - a.end;
    memcpy(text + at, copy + a.begin, a.end - a.begin);
    free(copy);
    return n;
}

size_t fuzz_mutate_words(char *text, size_t n, size_t room, const char *const *stock, fuzz_rng *r)
{
    static const char *const inner[] = {";", ",", "/", ":;,", "=,", " "};
    const char *separators = inner[fuzz_below(r, 6)];
    switch (fuzz_below(r, 12)) {
    case 0:
    case 1:
    case 2: return change_number(text, n, room, r);
    case 3: return copy_part(text, n, room, separators, true, r);
    case 4:
    case 5: return copy_part(text, n, room, separators, false, r);
    case 6: return drop_part(text, n, room, separators, r);
    case 7:
    case 8:
    case 9: return add_word(text, n, room, stock, r);
    case 10: return swap_words(text, n, r);
    default: return LLVMFuzzerMutate((uint8_t *)text, n, room);
    }
}
