/* The command line: one small parser for all commands.
 *
 * "--name VALUE", "--name=VALUE" and "-n VALUE" are the forms; "--" ends the options. Every mistake is
 * FH1_E_INPUT with one line that names the argument and points to `fh1 CMD --help`. */
#pragma once

#include "oracle/status.h"

#include <stdint.h>

/* Pointers into argv; `items` is freed by cli_list_free. */
typedef struct {
    const char **items;
    int n;
} cli_list;

void cli_list_free(cli_list *l);

typedef enum {
    CLI_FLAG, /* bool *: no value */
    CLI_TEXT, /* const char **: one value, once */
    CLI_LIST, /* cli_list *: every word up to the next option; may be repeated */
    CLI_INT   /* int64_t *: a whole number in [min, max], once */
} cli_kind;

typedef struct {
    const char *name; /* without the two dashes */
    char letter;      /* the one-letter form, 0 = none */
    cli_kind kind;
    void *value;      /* keeps its old content when the option is absent */
    int64_t min, max; /* CLI_INT */
} cli_option;

typedef struct {
    const char *command; /* "check" */
    const char *help;    /* printed by --help */
    const cli_option *options;
    int n_options;
    int min_words, max_words; /* how many words may stand outside of options */
    const char *words;        /* what they are, for messages: "MODEL" */
} cli_syntax;

/* Reads argv[2..argc-1]. After --help (text on stdout) *done is true and nothing else was checked.
 * `words` receives what stands outside of options. */
fh1_status cli_parse(const cli_syntax *s, int argc, char **argv, cli_list *words, bool *done);

/* A whole decimal number; false for anything else or overflow. */
bool cli_read_int(const char *text, int64_t *out);

/* The command as typed, each word quoted for a POSIX shell where needed. malloc'ed; NULL without memory. */
char *cli_repro(int argc, char **argv);
