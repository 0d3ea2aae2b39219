/* A folder as a checkpoint: every regular file in it and below it, read by pread. */
#include "convert/checkpoint.h"
#include "convert/file.h"
#include "convert/hf_index.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_FILES 65536 /* a home folder taken for a model shows early */
#define MAX_FOLDERS 32  /* one in another */
#define N_SLOTS 32      /* files open at a time, besides one per reading thread */

/* A file as it was when the folder was opened. */
typedef struct {
    dev_t dev;
    ino_t ino;
    off_t size;
    struct timespec modified, changed;
} identity;

typedef struct {
    int64_t file; /* -1: free */
    int fd, users;
    uint64_t used; /* clock of the last use */
} slot;

typedef struct {
    identity *files;
    int64_t n_files;
    pthread_mutex_t lock; /* of what follows */
    slot slots[N_SLOTS];
    uint64_t clock;
} hf_source;

static identity identify(const struct stat *st)
{
    return (identity){st->st_dev, st->st_ino, st->st_size, st->st_mtim, st->st_ctim};
}

static bool same_time(struct timespec a, struct timespec b)
{
    return a.tv_sec == b.tv_sec && a.tv_nsec == b.tv_nsec;
}

static bool same(const identity *a, const identity *b)
{
    return a->dev == b->dev && a->ino == b->ino && a->size == b->size && same_time(a->modified, b->modified) &&
           same_time(a->changed, b->changed);
}

static void free_source(cvt_ckpt *c)
{
    hf_source *h = c->state;
    for (int i = 0; i < N_SLOTS; i++)
        if (h->slots[i].file >= 0) close(h->slots[i].fd);
    pthread_mutex_destroy(&h->lock);
    free(h->files);
    free(h);
}

static fh1_status full_path(const cvt_ckpt *c, int64_t file, char *buf, size_t size)
{
    return cvt_path_join(buf, size, c->path, c->files[file].name);
}

static fh1_status open_same(const char *path, const identity *was, int *fd)
{
    struct stat st;
    *fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (*fd < 0) return fh1_where(cvt_cannot(errno, "the file cannot be opened"), "%s", path);
    fh1_status s = NULL;
    if (fstat(*fd, &st) != 0) {
        s = fh1_where(cvt_cannot(errno, "the file cannot be examined"), "%s", path);
    } else {
        const identity is = identify(&st);
        if (!same(&is, was)) s = cvt_changed(path);
    }
    if (s) close(*fd);
    return s;
}

/* The slot of a file if it is open, else the one to use for it: free, or the longest unused; NULL when all are busy. */
static slot *find_slot(hf_source *h, int64_t file)
{
    slot *best = NULL;
    for (int i = 0; i < N_SLOTS; i++) {
        slot *s = &h->slots[i];
        if (s->file == file) return s;
        if (s->users == 0 && (!best || s->used < best->used)) best = s;
    }
    return best;
}

/* A descriptor of the file, to be given back. */
static fh1_status take(cvt_ckpt *c, int64_t file, const char *path, int *fd)
{
    hf_source *h = c->state;
    int64_t id = c->files[file].source;
    pthread_mutex_lock(&h->lock);
    slot *s = find_slot(h, id);
    fh1_status status = NULL;
    if (!s || s->file != id) {
        if (s && s->file >= 0) close(s->fd);
        if (s) s->file = -1;
        status = open_same(path, &h->files[id], fd);
        if (!status && s) *s = (slot){.file = id, .fd = *fd};
    }
    if (!status && s) {
        s->users++;
        s->used = ++h->clock;
        *fd = s->fd;
    }
    pthread_mutex_unlock(&h->lock);
    return status;
}

static void give_back(cvt_ckpt *c, int64_t file, int fd)
{
    hf_source *h = c->state;
    pthread_mutex_lock(&h->lock);
    slot *s = find_slot(h, c->files[file].source);
    if (s && s->file == c->files[file].source && s->fd == fd) s->users--;
    else close(fd);
    pthread_mutex_unlock(&h->lock);
}

static fh1_status read_from(cvt_ckpt *c, int64_t file, uint64_t first, uint64_t n, void *dst)
{
    char path[PATH_MAX];
    int fd;
    FH1_TRY(full_path(c, file, path, sizeof path));
    FH1_TRY(take(c, file, path, &fd));
    fh1_status s = cvt_read_at(fd, path, dst, n, first);
    give_back(c, file, fd);
    return s;
}

static fh1_status read_bytes(cvt_ckpt *c, int64_t t, uint64_t first, uint64_t n, void *dst)
{
    return read_from(c, c->tensors[t].file, c->tensors[t].begin + first, n, dst);
}

static fh1_status read_rows(cvt_ckpt *c, int64_t t, int64_t first, int64_t n, void *dst)
{
    uint64_t width = cvt_ckpt_row_bytes(&c->tensors[t]);
    return read_bytes(c, t, (uint64_t)first * width, (uint64_t)n * width, dst);
}

static fh1_status unchanged(cvt_ckpt *c)
{
    const hf_source *h = c->state;
    for (int64_t i = 0; i < c->n_files; i++) {
        char path[PATH_MAX];
        struct stat st;
        FH1_TRY(full_path(c, i, path, sizeof path));
        if (stat(path, &st) != 0)
            return fh1_where(cvt_cannot(errno, "the file went away while it was read"), "%s", path);
        identity is = identify(&st);
        if (!same(&is, &h->files[c->files[i].source])) return cvt_changed(path);
    }
    return NULL;
}

static const cvt_ckpt_ops hf_ops = {read_rows, read_bytes, read_from, unchanged, free_source};

/* The walk through the folder; `path` grows and shrinks. */
typedef struct {
    cvt_ckpt *c;
    hf_source *h;
    char path[PATH_MAX];
    size_t root; /* length of the folder's own path, its slash included */
    identity folders[MAX_FOLDERS];
    int depth;
} walk;

static fh1_status add_file(walk *w, const struct stat *st)
{
    hf_source *h = w->h;
    if (h->n_files == MAX_FILES)
        return fh1_hint(fh1_where(FH1_BAD("the folder holds more than %d files", MAX_FILES), "%s", w->c->path),
                        "give the folder of one model");
    if ((h->n_files & (h->n_files - 1)) == 0) {
        size_t room = h->n_files ? 2 * (size_t)h->n_files : 1;
        identity *grown = realloc(h->files, room * sizeof *grown);
        if (!grown) return fh1_no_memory(room * sizeof *grown, "the table of files");
        h->files = grown;
    }
    h->files[h->n_files] = identify(st);
    return cvt_ckpt_push_file(w->c, w->path + w->root, false, (uint64_t)st->st_size, h->n_files++);
}

static fh1_status enter(walk *w, const struct stat *st)
{
    identity is = identify(st);
    for (int i = 0; i < w->depth; i++)
        if (w->folders[i].dev == is.dev && w->folders[i].ino == is.ino)
            return fh1_hint(fh1_where(FH1_BAD("a symbolic link leads back to a folder around it"), "%s", w->path),
                            "remove the link");
    if (w->depth == MAX_FOLDERS)
        return fh1_where(FH1_BAD("folders lie deeper in one another than %d", MAX_FOLDERS), "%s", w->path);
    w->folders[w->depth++] = is;
    return NULL;
}

static fh1_status walk_folder(walk *w);

static fh1_status walk_entry(walk *w)
{
    struct stat st;
    if (stat(w->path, &st) != 0)
        return fh1_hint(fh1_where(cvt_cannot(errno, "the file cannot be examined"), "%s", w->path),
                        "a symbolic link without its target? remove it");
    if (S_ISREG(st.st_mode)) return add_file(w, &st);
    if (!S_ISDIR(st.st_mode))
        return fh1_expected(fh1_where(FH1_BAD("the folder holds something that is no file"), "%s", w->path),
                            "regular files and folders");
    FH1_TRY(enter(w, &st));
    fh1_status s = walk_folder(w);
    w->depth--;
    return s;
}

static fh1_status walk_folder(walk *w)
{
    size_t n = strlen(w->path);
    DIR *d = opendir(w->path);
    if (!d) return fh1_where(cvt_cannot(errno, "the folder cannot be read"), "%s", w->path);
    fh1_status s = NULL;
    for (struct dirent *e; !s && (e = readdir(d)) != NULL;) {
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0) continue;
        const char *slash = w->path[n - 1] == '/' ? "" : "/";
        int len = snprintf(w->path + n, sizeof w->path - n, "%s%s", slash, e->d_name);
        if (len < 0 || (size_t)len >= sizeof w->path - n)
            s = fh1_where(FH1_BAD("the path is too long"), "%.200s", w->c->path);
        else s = walk_entry(w);
        w->path[n] = '\0';
    }
    closedir(d);
    return s;
}

static fh1_status list_files(cvt_ckpt *c, hf_source *h)
{
    struct stat st;
    walk *w = calloc(1, sizeof *w);
    if (!w) return fh1_no_memory(sizeof *w, "a path");
    size_t n = strlen(c->path);
    fh1_status s = n > 0 && n < sizeof w->path ? NULL : FH1_BAD("the path is empty or too long");
    if (!s) {
        w->c = c;
        w->h = h;
        memcpy(w->path, c->path, n + 1);
        w->root = n + (c->path[n - 1] == '/' ? 0 : 1);
        if (stat(w->path, &st) != 0) s = cvt_cannot(errno, "the folder cannot be opened");
    }
    if (!s) s = enter(w, &st);
    if (!s) s = walk_folder(w);
    free(w);
    return s;
}

/* A side file becomes a file of weights: its header, metadata and tensors. */
static fh1_status add_weights(cvt_ckpt *c, const cvt_st *st)
{
    size_t n;
    const char *slash = strrchr(cvt_st_path(st), '/'), *header = cvt_st_header(st, &n);
    int64_t at = cvt_ckpt_find_file(c, slash + 1);
    if (at < 0) return cvt_changed(cvt_st_path(st));
    cvt_ckpt_file *f = &c->files[at];
    f->weights = true;
    f->header = malloc(n);
    if (!f->header) return fh1_no_memory(n, "a safetensors header");
    memcpy(f->header, header, n);
    f->header_bytes = n;
    for (const cJSON *m = cvt_st_metadata_all(st); m; m = m->next)
        FH1_TRY(cvt_ckpt_push_meta(f, m->string, m->valuestring));
    for (int64_t i = 0; i < cvt_st_count(st); i++) {
        const cvt_st_entry *e = cvt_st_at(st, i);
        FH1_TRY(cvt_ckpt_push_tensor(c, e->name, e->t.dtype, e->t.rank, e->t.shape, at, e->begin, i));
    }
    return NULL;
}

static fh1_status fill(cvt_ckpt *c, hf_source *h)
{
    cvt_hf_files files;
    FH1_TRY(list_files(c, h));
    FH1_TRY(cvt_ckpt_finish(c));
    FH1_TRY(cvt_hf_files_scan(c->path, &files));
    fh1_status s = NULL;
    for (int64_t i = 0; !s && i < files.n_files; i++) s = add_weights(c, files.files[i]);
    cvt_hf_files_close(&files);
    if (!s) s = cvt_ckpt_finish(c);
    return s ? s : unchanged(c); /* the headers are of the files that were listed */
}

fh1_status cvt_hf_ckpt_open(const char *dir, cvt_ckpt **out)
{
    cvt_ckpt *c = NULL;
    hf_source *h = calloc(1, sizeof *h);
    *out = NULL;
    if (!h) return fh1_no_memory(sizeof *h, "a folder");
    pthread_mutex_init(&h->lock, NULL);
    for (int i = 0; i < N_SLOTS; i++) h->slots[i].file = -1;
    fh1_status s = cvt_ckpt_new(dir, &hf_ops, h, &c);
    if (s) {
        pthread_mutex_destroy(&h->lock);
        free(h);
        return s;
    }
    s = fill(c, h);
    if (s) cvt_ckpt_close(c);
    else *out = c;
    return s;
}
