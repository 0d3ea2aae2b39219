/* Token ids of a text file, one after the other, through a window of fixed size. */
#pragma once

#include "oracle/status.h"

#include <stdint.h>

enum { CLI_TEXT_WINDOW = 1 << 16 };

typedef struct {
    const char *path;
    int64_t V;
    int fd;
    uint64_t size;    /* of the file when it was opened */
    int64_t stamp[3]; /* inode and time of change then */
    uint64_t base;    /* offset of window[0] */
    size_t n, at;     /* bytes in the window, the next one */
    int64_t line;     /* of the next byte, from 1; 0: not known after a seek */
    uint64_t line_begin;
    void (*seen)(void *user, const void *data, size_t n); /* told of every byte that is read, or NULL */
    void *user;
    char window[CLI_TEXT_WINDOW];
} cli_train_text;

typedef enum { CLI_TEXT_ID, CLI_TEXT_LINE_END, CLI_TEXT_END } cli_text_kind;

fh1_status cli_train_text_open(const char *path, int64_t V, cli_train_text *t);
void cli_train_text_close(cli_train_text *t);
/* To the begin of a line. */
void cli_train_text_seek(cli_train_text *t, uint64_t offset);
/* Of the next byte. */
uint64_t cli_train_text_offset(const cli_train_text *t);
/* The next id, or that the line ends there (the newline is taken), or the file. A last line without a newline ends as
 * the others do. */
fh1_status cli_train_text_next(cli_train_text *t, cli_text_kind *kind, int64_t *id);
