/* The small grammar of repro lines: words with a separator between, KEY=VALUE, numbers. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

enum { GLD_WORD_SIZE = 16384 }; /* bytes of the longest text, its end included; callers check */

typedef struct {
    char text[GLD_WORD_SIZE];
} gld_word;

/* The next word of *rest, a copy; false at the end. A text that ends in a separator has an empty word there. */
bool gld_next_word(const char **rest, char separator, gld_word *w);
/* Cuts a word at its first '=' and returns what follows; NULL without one. */
char *gld_word_split(gld_word *w);
/* A whole decimal number of at most 18 digits, or a finite or infinite decimal one; nothing else may follow. */
bool gld_word_integer(const char *text, int64_t *v);
bool gld_word_number(const char *text, double *v);
/* The shortest decimal that reads back as v. */
const char *gld_number_text(double v, char buf[32]);
/* One word of a shell's command line, quoted so that it can be pasted: '…', or $'…' (bash, zsh) where a byte cannot be
 * printed. */
void gld_print_quoted(const char *word, FILE *out);
