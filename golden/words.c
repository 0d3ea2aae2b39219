#include "golden/words.h"

#include "oracle/status.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool gld_next_word(const char **rest, char separator, gld_word *w)
{
    const char *from = *rest;
    if (!from) return false;
    const char *end = strchr(from, separator);
    size_t n = end ? (size_t)(end - from) : strlen(from);
    assert(n < sizeof w->text);
    memcpy(w->text, from, n);
    w->text[n] = 0;
    *rest = end ? end + 1 : NULL;
    return true;
}

char *gld_word_split(gld_word *w)
{
    char *equals = strchr(w->text, '=');
    if (!equals) return NULL;
    *equals = 0;
    return equals + 1;
}

bool gld_word_integer(const char *text, int64_t *v)
{
    const char *digits = text + (*text == '-');
    size_t n = strspn(digits, "0123456789");
    if (n == 0 || n > 18 || digits[n]) return false;
    *v = strtoll(text, NULL, 10);
    return true;
}

bool gld_word_number(const char *text, double *v)
{
    char *end;
    if (!*text || text[strspn(text, "0123456789+-.einf")]) return false;
    *v = strtod(text, &end);
    return *end == 0 && !isnan(*v);
}

const char *gld_number_text(double v, char buf[32])
{
    for (int digits = 6; digits <= 17; digits++) {
        snprintf(buf, 32, "%.*g", digits, v);
        if (strtod(buf, NULL) == v) break;
    }
    return buf;
}

static bool has_unprintable(const char *word)
{
    char safe[8];
    for (; *word; word++) {
        char one[5] = "";
        size_t n = 1; /* a character of UTF-8 stands for itself as a whole */
        while (n < 4 && ((unsigned char)word[n] & 0xc0u) == 0x80u) n++;
        memcpy(one, word, n);
        if (strcmp(fh1_printable(one, safe, sizeof safe), one) != 0) return true;
        word += n - 1;
    }
    return false;
}

void gld_print_quoted(const char *word, FILE *out)
{
    const bool escaped = has_unprintable(word);
    fputs(escaped ? "$'" : "'", out);
    for (const char *p = word; *p; p++) {
        if (escaped && (*p < ' ' || *p > '~')) fprintf(out, "\\x%02x", (unsigned)(unsigned char)*p);
        else if (escaped && (*p == '\'' || *p == '\\')) fprintf(out, "\\%c", *p);
        else if (*p == '\'') fputs("'\\''", out); /* close, an escaped quote, open again */
        else putc(*p, out);
    }
    putc('\'', out);
}
