/* SIGBUS: the page of a mapped file cannot be had, since someone cut the file short or the disk failed. Nothing that
 * was computed can be trusted then, and no function on the way could return a status, so the process ends here. All
 * calls below are safe in a signal handler: no stdio, no memory, buffers are static. */
#include "cli/interrupt.h"

#include "convert/file.h"

#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

static const char *command_name = "";
static atomic_flag running = ATOMIC_FLAG_INIT;

static bool hex_number(const char **at, uintptr_t *out)
{
    const char *p = *at;
    uintptr_t v = 0;
    for (;; p++) {
        int digit = *p >= '0' && *p <= '9' ? *p - '0' : *p >= 'a' && *p <= 'f' ? *p - 'a' + 10 : -1;
        if (digit < 0) break;
        v = v << 4 | (uintptr_t)digit;
    }
    bool any = p != *at;
    *at = p;
    *out = v;
    return any;
}

/* The path in a line of /proc/self/maps, "begin-end perms offset dev inode path", when the address lies in it. */
static char *path_of(char *line, uintptr_t address)
{
    const char *p = line;
    uintptr_t begin, end;
    if (!hex_number(&p, &begin) || *p++ != '-' || !hex_number(&p, &end)) return NULL;
    if (address < begin || address >= end) return NULL;
    char *path = strchr(line, '/');
    return path && strncmp(path, "/dev/", 5) != 0 ? path : NULL;
}

/* The file that is mapped at the address; NULL: none, or it cannot be told. */
static char *mapped_file(uintptr_t address)
{
    static char line[8192], block[4096];
    size_t n_line = 0;
    char *found = NULL;
    int fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
    for (ssize_t n; fd >= 0 && !found && (n = read(fd, block, sizeof block)) > 0;)
        for (ssize_t i = 0; i < n && !found; i++) {
            if (block[i] != '\n') {
                if (n_line < sizeof line - 1) line[n_line++] = block[i];
                continue;
            }
            line[n_line] = '\0';
            n_line = 0;
            found = path_of(line, address);
        }
    if (fd >= 0) close(fd);
    return found;
}

static void append(char *buf, size_t size, size_t *n, const char *text)
{
    for (; *text && *n < size - 1; text++) buf[(*n)++] = (unsigned char)*text < ' ' || *text == 127 ? '?' : *text;
}

static void bus_error(int signal_number, siginfo_t *info, void *context)
{
    static char line[8192 + 512];
    size_t n = 0;
    (void)context;
    while (atomic_flag_test_and_set(&running)) pause(); /* another thread met it first and ends the process */
    const char *path = info->si_code == BUS_ADRERR ? mapped_file((uintptr_t)info->si_addr) : NULL;
    if (!path) { /* a real bus error, or kill -BUS */
        signal(signal_number, SIG_DFL);
        raise(signal_number);
        return;
    }
    append(line, sizeof line, &n, "fh1 ");
    append(line, sizeof line, &n, command_name);
    append(line, sizeof line, &n, ": ");
    append(line, sizeof line, &n, path);
    append(line, sizeof line, &n,
           ": the file was cut short while it was read, or the disk failed; run again when nobody writes to it");
    line[n++] = '\n';
    ssize_t written = write(STDERR_FILENO, line, n);
    (void)written;
    cvt_targets_remove();
    _exit(2);
}

void cli_bus_error_begin(const char *command)
{
    struct sigaction a;
    memset(&a, 0, sizeof a);
    command_name = command;
    a.sa_sigaction = bus_error;
    a.sa_flags = SA_SIGINFO;
    sigemptyset(&a.sa_mask);
    sigaction(SIGBUS, &a, NULL);
}
