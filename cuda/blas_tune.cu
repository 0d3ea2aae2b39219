/* The table of tuned products and its file (blas_tune.h). Nothing here touches the device. */
#include "cuda/blas_tune.h"

#include <cinttypes>
#include <unistd.h>

namespace CU_NS
{
namespace
{

const char MAGIC[] = "fh1-cuda-tune 1";
enum { LINE = 512 };

uint64_t fnv(const char *s, size_t n)
{
    uint64_t h = 0xcbf29ce484222325u;
    for (size_t i = 0; i < n; ++i) h = (h ^ static_cast<unsigned char>(s[i])) * 0x100000001b3u;
    return h;
}

bool same(const cu_tune_key *a, const cu_tune_key *b)
{
    return a->M == b->M && a->N == b->N && a->K == b->K && a->type == b->type && a->y_type == b->y_type &&
           a->bias == b->bias;
}

bool put(cu_tune *t, const cu_tune_entry *e)
{
    for (int i = 0; i < t->n; ++i) {
        if (!same(&t->entry[i].key, &e->key)) continue;
        t->entry[i] = *e;
        return true;
    }
    if (t->n == t->capacity) {
        const int more = t->capacity ? 2 * t->capacity : 32;
        void *p = realloc(t->entry, static_cast<size_t>(more) * sizeof *t->entry);
        if (!p) return false;
        t->entry = static_cast<cu_tune_entry *>(p);
        t->capacity = more;
    }
    t->entry[t->n++] = *e;
    return true;
}

/* The line without its check, as it is written. */
int print_entry(char (&line)[LINE], const cu_tune_entry *e)
{
    int n = snprintf(line, LINE, "%d %d %d %d %d %d %.3f", e->key.M, e->key.N, e->key.K, e->key.type, e->key.y_type,
                     e->key.bias, e->microseconds);
    for (int i = 0; i < 8; ++i) n += snprintf(line + n, static_cast<size_t>(LINE - n), " %" PRIx64, e->algo[i]);
    return n;
}

/* A line is good only if it is what print_entry would make of what was read from it. */
bool parse_entry(const char *line, cu_tune_entry *e)
{
    uint64_t check;
    uint64_t *a = e->algo;
    int used = 0;
    const int fields = sscanf(line,
                              "%d %d %d %d %d %d %lf %" SCNx64 " %" SCNx64 " %" SCNx64 " %" SCNx64 " %" SCNx64
                              " %" SCNx64 " %" SCNx64 " %" SCNx64 " %" SCNx64 "%n",
                              &e->key.M, &e->key.N, &e->key.K, &e->key.type, &e->key.y_type, &e->key.bias,
                              &e->microseconds, &a[0], &a[1], &a[2], &a[3], &a[4], &a[5], &a[6], &a[7], &check, &used);
    if (fields != 16 || strcmp(line + used, "\n") != 0 || !(e->microseconds >= 0 && e->microseconds < 1e9))
        return false;
    char again[LINE];
    const int n = print_entry(again, e);
    return strncmp(line, again, static_cast<size_t>(n)) == 0 && check == fnv(again, static_cast<size_t>(n));
}

void header_line(char (&line)[LINE], const cu_tune *t)
{
    snprintf(line, LINE, "%s %zu %s\n", MAGIC, t->version, t->device);
}

/* false: damaged. */
bool load(cu_tune *t, FILE *f)
{
    char line[LINE], mine[LINE];
    if (!fgets(line, LINE, f) || strncmp(line, MAGIC, sizeof MAGIC - 1) != 0 || line[sizeof MAGIC - 1] != ' ')
        return false;
    header_line(mine, t);
    if (strcmp(line, mine) != 0) return true; /* of another device or version: nothing to take */
    while (fgets(line, LINE, f)) {
        cu_tune_entry e;
        if (!parse_entry(line, &e)) return false;
        if (!put(t, &e)) return true;
    }
    return !ferror(f);
}

bool write_all(const cu_tune *t, FILE *f)
{
    char line[LINE];
    header_line(line, t);
    bool ok = fputs(line, f) >= 0;
    for (int i = 0; i < t->n && ok; ++i) {
        const int n = print_entry(line, &t->entry[i]);
        ok = fprintf(f, "%s %" PRIx64 "\n", line, fnv(line, static_cast<size_t>(n))) > 0;
    }
    return ok && fflush(f) == 0 && fsync(fileno(f)) == 0;
}

bool save(const cu_tune *t)
{
    const size_t n = strlen(t->path) + 8;
    char *temporary = static_cast<char *>(malloc(n));
    if (!temporary) return false;
    snprintf(temporary, n, "%s.XXXXXX", t->path);
    const int fd = mkstemp(temporary);
    FILE *f = fd >= 0 ? fdopen(fd, "w") : NULL;
    bool ok = f && write_all(t, f);
    if (f) ok = fclose(f) == 0 && ok;
    else if (fd >= 0) close(fd);
    ok = ok && rename(temporary, t->path) == 0;
    if (!ok && fd >= 0) unlink(temporary);
    free(temporary);
    return ok;
}

} // namespace

void cu_tune_open(cu_tune *t, const char *path, const char *device, size_t version)
{
    *t = cu_tune{};
    t->version = version;
    snprintf(t->device, sizeof t->device, "%s", device);
    for (char *c = t->device; *c; ++c)
        if (*c == '\n' || *c == '\r') *c = ' ';
    if (!path || !*path) return;
    t->path = strdup(path);
    FILE *f = t->path ? fopen(path, "r") : NULL;
    if (!f) return; /* the first run makes it */
    if (!load(t, f)) {
        fprintf(stderr, "%s: damaged, so the cuBLASLt algorithms in it are chosen again\n", path);
        t->n = 0;
    }
    fclose(f);
    t->loaded = t->n;
}

const cu_tune_entry *cu_tune_find(const cu_tune *t, const cu_tune_key *key)
{
    for (int i = 0; i < t->n; ++i)
        if (same(&t->entry[i].key, key)) return &t->entry[i];
    return NULL;
}

void cu_tune_add(cu_tune *t, const cu_tune_entry *e)
{
    if (!put(t, e) || !t->path || save(t)) return;
    fprintf(stderr, "%s: cannot be written, so the chosen cuBLASLt algorithms are lost at the end of this run\n",
            t->path);
    free(t->path);
    t->path = NULL;
}

void cu_tune_close(cu_tune *t)
{
    free(t->entry);
    free(t->path);
    *t = cu_tune{};
}

} // namespace CU_NS
