#include "cli/report_files.h"

#include "convert/file.h"
#include "convert/json.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

enum { HISTORY_READ = 16 << 20, HISTORY_DEPTH = 4 }; /* bytes at the end of a history that are looked at: ~80 suites */

/* ---- targets ---- */

/* A mistyped name must not cost a trace: what is replaced begins like a report of this kind. */
static fh1_status check_replaceable(const char *path, const char *begins)
{
    char found[32];
    const size_t n = strlen(begins);
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return NULL; /* absent, or cvt_target_begin says what is wrong */
    ssize_t got = read(fd, found, n);
    close(fd);
    if (got <= 0 || ((size_t)got == n && memcmp(found, begins, n) == 0)) return NULL;
    return fh1_hint(fh1_where(FH1_BAD("the file exists and is no report of this kind"), "%s", path),
                    "choose another name, or remove the file");
}

static fh1_status add_target(report_files *f, const char *path, fh1_report_kind kind, const char *begins)
{
    if (!path) return NULL;
    FH1_TRY(check_replaceable(path, begins));
    cvt_target *t = &f->list[f->n].target;
    f->list[f->n++].kind = kind;
    FH1_TRY(cvt_target_begin(path, false, true, t));
    for (int i = 0; i < f->n - 1; i++)
        if (strcmp(f->list[i].target.target, t->target) == 0)
            return fh1_where(FH1_BAD("two reports cannot go to the same file"), "%s", path);
    return NULL;
}

static fh1_status write_target(cvt_target *t, fh1_report_kind kind, const fh1_report *r)
{
    int fd = dup(t->fd);
    FILE *out = fd < 0 ? NULL : fdopen(fd, "w");
    if (!out) {
        if (fd >= 0) close(fd);
        return fh1_fail(FH1_E_INTERNAL, "%s: cannot be written: %s", t->target, strerror(errno));
    }
    fh1_status s = fh1_where(fh1_report_write(r, kind, out), "%s", t->target);
    bool complete = fclose(out) == 0;
    if (!s && !complete)
        s = fh1_fail(FH1_E_INTERNAL, "%s: the report cannot be written: %s", t->target, strerror(errno));
    return s ? s : cvt_target_commit(t);
}

/* ---- history ---- */

/* One line of the past; *used counts the good ones. What a killed run or another program left is passed over. */
static fh1_status read_line(fh1_history *past, const char *line, size_t n, int64_t *used)
{
    cJSON *o;
    if (cvt_json_parse(line, n, HISTORY_DEPTH, "history", &o)) return NULL;
    const char *subject = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(o, "subject"));
    const cJSON *margins = cJSON_GetObjectItemCaseSensitive(o, "margins"), *m;
    fh1_status s = NULL;
    if (subject && cJSON_IsObject(margins)) {
        ++*used;
        for (m = margins->child; m && !s; m = m->next)
            if (cJSON_IsNumber(m)) s = fh1_history_add(past, subject, m->string, m->valuedouble);
    }
    cJSON_Delete(o);
    return s;
}

static fh1_status read_lines(const char *path, const char *text, size_t n, bool from_start, fh1_history *past)
{
    int64_t used = 0;
    const char *p = text, *stop = text + n;
    if (!from_start) { /* inside of a line, most likely */
        const char *end = memchr(p, '\n', n);
        p = end ? end + 1 : stop;
    }
    while (p < stop) {
        const char *end = memchr(p, '\n', (size_t)(stop - p));
        if (!end) end = stop;
        FH1_TRY(read_line(past, p, (size_t)(end - p), &used));
        p = end < stop ? end + 1 : stop;
    }
    if (n == 0 || used > 0) return NULL;
    return fh1_hint(fh1_where(FH1_BAD("the file exists and is no history of margins"), "%s", path),
                    "choose another name; docs/ci.md shows a line");
}

/* Files under /proc and /sys look like empty ones and cannot be appended to. */
static fh1_status refuse_kernel_file(const char *path)
{
    struct statfs fs;
    if (statfs(path, &fs) != 0 || (fs.f_type != PROC_SUPER_MAGIC && fs.f_type != SYSFS_MAGIC)) return NULL;
    return fh1_hint(fh1_where(FH1_BAD("this is a file of the kernel, not one on a disk"), "%s", path),
                    "choose another name");
}

static fh1_status read_history(const char *path, fh1_history *past)
{
    const void *data;
    size_t n;
    FH1_TRY(refuse_kernel_file(path));
    if (!cvt_path_exists(path)) return NULL;
    FH1_TRY(cvt_file_map(path, &data, &n));
    const size_t skip = n > HISTORY_READ ? n - HISTORY_READ : 0;
    fh1_status s = read_lines(path, data ? (const char *)data + skip : "", n - skip, skip == 0, past);
    cvt_file_unmap(data, n);
    return s;
}

/* A last line that was cut off must not swallow the first new one. */
static bool ends_inside_line(int fd)
{
    char last;
    const off_t size = lseek(fd, 0, SEEK_END);
    return size > 0 && pread(fd, &last, 1, size - 1) == 1 && last != '\n';
}

/* One write of whole lines to a file opened for appending: runs beside each other do not mix theirs. */
static fh1_status append(const char *path, const char *text, size_t n)
{
    int fd = open(path, O_RDWR | O_APPEND | O_CREAT | O_CLOEXEC, 0666);
    if (fd < 0) return fh1_where(cvt_cannot(errno, "the history cannot be opened"), "%s", path);
    const bool torn = ends_inside_line(fd);
    const char *from = torn ? text : text + 1; /* the text begins with a newline for this */
    const size_t size = torn ? n : n - 1;
    const ssize_t got = write(fd, from, size);
    fh1_status s = NULL;
    if (got < 0 || (size_t)got < size)
        s = fh1_fail(FH1_E_INTERNAL, "%s: the history cannot be written: %s", path,
                     got < 0 ? strerror(errno) : "no room");
    if (close(fd) != 0 && !s) s = fh1_fail(FH1_E_INTERNAL, "%s: the history cannot be written", path);
    return s;
}

static fh1_status write_history(const char *path, const fh1_report *r)
{
    char *text = NULL;
    size_t n = 0;
    FILE *out = open_memstream(&text, &n);
    if (!out) return fh1_no_memory(0, "the history");
    putc('\n', out);
    fh1_status s = fh1_report_write(r, FH1_REPORT_HISTORY, out);
    if (fclose(out) != 0 && !s) s = fh1_no_memory(n, "the history");
    if (!s) s = append(path, text, n);
    free(text);
    return s;
}

/* ---- all ---- */

fh1_status report_files_open(const report_paths *p, report_files *f)
{
    *f = (report_files){.history_path = p->history};
    for (int i = 0; i < REPORT_FILES_MOST; i++) f->list[i].target.fd = -1;
    const time_t now = time(NULL);
    struct tm utc;
    strftime(f->time, sizeof f->time, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &utc));
    if (p->history) {
        FH1_TRY(fh1_history_new(&f->past));
        FH1_TRY(read_history(p->history, f->past));
    }
    FH1_TRY(add_target(f, p->lines, FH1_REPORT_LINES, "{\""));
    FH1_TRY(add_target(f, p->junit, FH1_REPORT_JUNIT, "<?xml"));
    FH1_TRY(add_target(f, p->markdown, FH1_REPORT_MARKDOWN, "### "));
    return add_target(f, p->html, FH1_REPORT_HTML, "<!doctype html>");
}

fh1_status report_files_write(report_files *f, const fh1_report *r)
{
    for (int i = 0; i < f->n; i++) FH1_TRY(write_target(&f->list[i].target, f->list[i].kind, r));
    return f->history_path ? write_history(f->history_path, r) : NULL;
}

void report_files_free(report_files *f)
{
    for (int i = 0; i < f->n; i++) cvt_target_free(&f->list[i].target);
    fh1_history_free(f->past);
}
