#include "oracle/reached.h"

#ifdef FH1_COVERAGE

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* The linker's names for the ends of the section that the marks stand in; weak: a program may have none. */
extern fh1_mark __start_fh1_marks[] __attribute__((weak));
extern fh1_mark __stop_fh1_marks[] __attribute__((weak));

void fh1_mark_hit(fh1_mark *m)
{
    __atomic_fetch_add(&m->hits, 1, __ATOMIC_RELAXED);
}

/* One write per process, so that processes beside each other do not mix their lines. */
static void tell(void)
{
    const char *path = getenv("FH1_REACHED_FILE");
    char *text = NULL;
    size_t size = 0;
    FILE *out = path ? open_memstream(&text, &size) : NULL;
    if (!out) return;
    for (const fh1_mark *m = __start_fh1_marks; m && m < __stop_fh1_marks; m++)
        fprintf(out, "%s:%lu %lu %s\n", m->file, m->line, m->hits, m->condition);
    fclose(out);
    const int fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666);
    if (fd < 0 || write(fd, text, size) != (ssize_t)size) fprintf(stderr, "%s: the marks could not be written\n", path);
    if (fd >= 0) close(fd);
    free(text);
}

__attribute__((constructor)) static void begin(void)
{
    atexit(tell);
}

#endif
