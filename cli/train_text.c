#include "cli/train_text.h"

#include "cli/options.h"
#include "convert/file.h"

#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { LONGEST_WORD = 32 };

static fh1_status stamp(const cli_train_text *t, uint64_t *size, int64_t out[3])
{
    struct stat st;
    if (fstat(t->fd, &st) != 0) return fh1_where(FH1_BAD("cannot be read"), "%s", t->path);
    *size = (uint64_t)st.st_size;
    out[0] = (int64_t)st.st_ino;
    out[1] = (int64_t)st.st_mtim.tv_sec;
    out[2] = (int64_t)st.st_mtim.tv_nsec;
    return NULL;
}

fh1_status cli_train_text_open(const char *path, int64_t V, cli_train_text *t)
{
    size_t n;
    *t = (cli_train_text){.path = path, .V = V, .fd = -1, .line = 1};
    FH1_TRY(cvt_file_open(path, &t->fd, &n));
    return stamp(t, &t->size, t->stamp);
}

void cli_train_text_close(cli_train_text *t)
{
    if (t->fd >= 0) close(t->fd);
    t->fd = -1;
}

void cli_train_text_seek(cli_train_text *t, uint64_t offset)
{
    t->line = offset == 0 ? 1 : 0;
    t->line_begin = offset;
    if (offset >= t->base && offset <= t->base + t->n) {
        t->at = (size_t)(offset - t->base);
        return;
    }
    t->base = offset;
    t->n = t->at = 0;
}

uint64_t cli_train_text_offset(const cli_train_text *t)
{
    return t->base + t->at;
}

/* The next window; empty at the end of the file. */
static fh1_status refill(cli_train_text *t)
{
    uint64_t size = 0, from = t->base + t->n;
    int64_t now[3];
    FH1_TRY(stamp(t, &size, now));
    if (size != t->size || memcmp(now, t->stamp, sizeof now) != 0)
        return fh1_hint(fh1_where(FH1_BAD("the data changed while they were read"), "%s", t->path),
                        "train on a file that nobody writes to");
    t->base = from;
    t->at = 0;
    t->n = from >= size ? 0 : size - from < CLI_TEXT_WINDOW ? (size_t)(size - from) : CLI_TEXT_WINDOW;
    if (t->n == 0) return NULL;
    FH1_TRY(cvt_read_at(t->fd, t->path, t->window, t->n, from));
    if (t->seen) t->seen(t->user, t->window, t->n);
    return NULL;
}

/* The next byte, or -1 at the end. It stays where it is. */
static fh1_status peek(cli_train_text *t, int *c)
{
    if (t->at == t->n) FH1_TRY(refill(t));
    *c = t->at < t->n ? (unsigned char)t->window[t->at] : -1;
    return NULL;
}

static bool is_blank(int c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\v' || c == '\f';
}

/* "file, line 3, column 17"; after a seek only the offset is known. */
static fh1_status at_byte(const cli_train_text *t, fh1_status s, uint64_t offset)
{
    if (t->line == 0) return fh1_where(s, "%s, byte %" PRIu64, t->path, offset);
    return fh1_where(s, "%s, line %" PRId64 ", column %" PRIu64, t->path, t->line, offset - t->line_begin + 1);
}

static fh1_status read_word(cli_train_text *t, int64_t *id)
{
    char word[LONGEST_WORD + 1];
    const uint64_t begin = cli_train_text_offset(t);
    size_t n = 0;
    int c;
    for (;; t->at++) {
        FH1_TRY(peek(t, &c));
        if (c < 0 || c == '\n' || is_blank(c)) break;
        if (c == 0) return at_byte(t, FH1_BAD("a zero byte in a text file"), cli_train_text_offset(t));
        if (n == LONGEST_WORD) break; /* long enough to be no id */
        word[n++] = (char)c;
    }
    word[n] = '\0';
    if (cli_read_int(word, id) && *id >= 0 && *id < t->V) return NULL;
    fh1_status s = at_byte(t, FH1_BAD("not a token id of this model"), begin);
    return fh1_found(fh1_expected(s, "a whole number, 0 to %" PRId64, t->V - 1), "'%s'", word);
}

fh1_status cli_train_text_next(cli_train_text *t, cli_text_kind *kind, int64_t *id)
{
    int c;
    for (;; t->at++) {
        FH1_TRY(peek(t, &c));
        if (!is_blank(c)) break;
    }
    if (c < 0) {
        const bool open_line = cli_train_text_offset(t) > t->line_begin;
        *kind = open_line ? CLI_TEXT_LINE_END : CLI_TEXT_END;
        t->line_begin = cli_train_text_offset(t);
        return NULL;
    }
    if (c == '\n') {
        t->at++;
        t->line += t->line > 0;
        t->line_begin = cli_train_text_offset(t);
        *kind = CLI_TEXT_LINE_END;
        return NULL;
    }
    *kind = CLI_TEXT_ID;
    return read_word(t, id);
}
