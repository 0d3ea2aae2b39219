#include "fuzz/message.h"

#include "fuzz/plant.h"
#include "fuzz/slow_json.h"

#include <string.h>

/* Controls of ASCII and of Latin 1; line and paragraph separators; marks, overrides and isolates of direction; the mark
 * of byte order. */
static bool disturbs(uint32_t c)
{
    static const struct {
        uint32_t first, last;
    } ranges[] = {{0, 0x1f},        {0x7f, 0x9f},     {0x61c, 0x61c},  {0x200e, 0x200f},
                  {0x2028, 0x202e}, {0x2066, 0x2069}, {0xfeff, 0xfeff}};
    for (size_t i = 0; i < sizeof ranges / sizeof *ranges; i++)
        if (c >= ranges[i].first && c <= ranges[i].last) return true;
    return false;
}

void fuzz_check_message(fh1_status s, const char *file, char line[FUZZ_LINE])
{
    line[0] = 0;
    if (!s) return;
    fh1_status_line(s, line, FUZZ_LINE);
    if (fuzz_planted("control")) line[strlen(line) - 1] = '\a';
    FUZZ_CHECK(s->code == FH1_E_INPUT && s->what[0], "code %d: %s", (int)s->code, line);
    FUZZ_CHECK(strncmp(line, file, strlen(file)) == 0, "%s is not named: %s", file, line);
    for (size_t at = 0, n = strlen(line); at < n;) {
        uint32_t c = 0;
        FUZZ_CHECK(slow_code_point(line, n, &at, &c), "byte %zu is no UTF-8: %s", at, line);
        FUZZ_CHECK(!disturbs(c), "U+%04X: %s", (unsigned)c, line);
    }
}
