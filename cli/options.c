#include "cli/options.h"

#include "golden/words.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void cli_list_free(cli_list *l)
{
    free(l->items);
    l->items = NULL;
    l->n = 0;
}

/* A list never holds more than argc words, so it is allocated once. */
static fh1_status list_add(cli_list *l, const char *item, int argc)
{
    if (!l->items) {
        l->items = calloc((size_t)argc, sizeof *l->items);
        if (!l->items) return fh1_no_memory((size_t)argc * sizeof *l->items, "the command line");
    }
    l->items[l->n++] = item;
    return NULL;
}

bool cli_read_int(const char *text, int64_t *out)
{
    const char *digits = text + (*text == '-');
    if (*digits == 0 || digits[strspn(digits, "0123456789")] != 0) return false;
    errno = 0;
    long long v = strtoll(text, NULL, 10);
    if (errno) return false;
    *out = v;
    return true;
}

static fh1_status usage(const cli_syntax *s, fh1_status e)
{
    return fh1_hint(e, "see fh1 %s --help", s->command);
}

static const cli_option *find_long(const cli_syntax *s, const char *name, size_t n)
{
    for (int i = 0; i < s->n_options; i++)
        if (strlen(s->options[i].name) == n && memcmp(s->options[i].name, name, n) == 0) return &s->options[i];
    return NULL;
}

static const cli_option *find_letter(const cli_syntax *s, char letter)
{
    for (int i = 0; i < s->n_options; i++)
        if (s->options[i].letter && s->options[i].letter == letter) return &s->options[i];
    return NULL;
}

static fh1_status store(const cli_syntax *s, const cli_option *o, const char *value, int argc)
{
    switch (o->kind) {
    case CLI_FLAG: *(bool *)o->value = true; return NULL;
    case CLI_TEXT: *(const char **)o->value = value; return NULL;
    case CLI_LIST: return list_add(o->value, value, argc);
    case CLI_INT: break;
    }
    int64_t v;
    if (!cli_read_int(value, &v) || v < o->min || v > o->max) {
        fh1_status e = fh1_expected(FH1_BAD("--%s: not a number that fits", o->name),
                                    "a whole number, %" PRId64 " to %" PRId64, o->min, o->max);
        return usage(s, fh1_found(e, "'%s'", value));
    }
    *(int64_t *)o->value = v;
    return NULL;
}

/* An option at argv[*i]; moves *i past the values it takes. */
static fh1_status take_option(const cli_syntax *s, int argc, char **argv, int *i, unsigned *seen)
{
    const char *arg = argv[*i], *equals = NULL;
    const cli_option *o = NULL;
    if (arg[1] == '-') {
        equals = strchr(arg, '=');
        o = find_long(s, arg + 2, equals ? (size_t)(equals - arg) - 2 : strlen(arg + 2));
    } else if (arg[2] == 0) {
        o = find_letter(s, arg[1]);
    }
    if (!o) return usage(s, FH1_BAD("unknown option '%s'", arg));

    unsigned bit = 1u << (o - s->options);
    if ((*seen & bit) && o->kind != CLI_LIST && o->kind != CLI_FLAG)
        return usage(s, FH1_BAD("--%s is given twice", o->name));
    *seen |= bit;

    if (o->kind == CLI_FLAG) {
        if (equals) return usage(s, FH1_BAD("--%s takes no value", o->name));
        return store(s, o, NULL, argc);
    }
    if (equals) return store(s, o, equals + 1, argc);
    if (*i + 1 >= argc || strncmp(argv[*i + 1], "--", 2) == 0)
        return usage(s, FH1_BAD("--%s: its argument is missing", o->name));
    FH1_TRY(store(s, o, argv[++*i], argc));
    while (o->kind == CLI_LIST && *i + 1 < argc && argv[*i + 1][0] != '-') FH1_TRY(store(s, o, argv[++*i], argc));
    return NULL;
}

static bool wants_help(int argc, char **argv)
{
    for (int i = 2; i < argc && strcmp(argv[i], "--") != 0; i++)
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) return true;
    return false;
}

fh1_status cli_parse(const cli_syntax *s, int argc, char **argv, cli_list *words, bool *done)
{
    unsigned seen = 0;
    bool only_words = false;
    *done = wants_help(argc, argv);
    if (*done) {
        fputs(s->help, stdout);
        return NULL;
    }
    for (int i = 2; i < argc; i++) {
        if (!only_words && strcmp(argv[i], "--") == 0) only_words = true;
        else if (!only_words && argv[i][0] == '-' && argv[i][1] != 0) FH1_TRY(take_option(s, argc, argv, &i, &seen));
        else if (words->n == s->max_words)
            return usage(s, fh1_expected(FH1_BAD("'%s': one argument too many", argv[i]), "%s",
                                         *s->words ? s->words : "options only"));
        else FH1_TRY(list_add(words, argv[i], argc));
    }
    if (words->n < s->min_words)
        return usage(s, fh1_found(fh1_expected(FH1_BAD("an argument is missing"), "%s", s->words), "%d of %d", words->n,
                                  s->min_words));
    return NULL;
}

char *cli_repro(int argc, char **argv)
{
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./=+:,@%^";
    char *line = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&line, &size);
    if (!out) return NULL;
    fputs("fh1", out);
    for (int i = 1; i < argc; i++) {
        putc(' ', out);
        if (*argv[i] && argv[i][strspn(argv[i], plain)] == '\0') fputs(argv[i], out);
        else gld_print_quoted(argv[i], out);
    }
    if (fclose(out) == 0) return line;
    free(line);
    return NULL;
}
