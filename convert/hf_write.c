#include "convert/hf_write.h"

#include "convert/file.h"
#include "convert/work.h"
#include "oracle/reached.h"
#include "oracle/thread.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PIECE ((uint64_t)256 << 10)  /* bytes that a thread reads and writes at a time: they stay in its cache */
#define BUFFERS ((uint64_t)64 << 20) /* of all threads together; a view may need three times as much to fill them */

/* Part of a tensor or of a side file. */
typedef struct {
    int64_t tensor;    /* -1: the side file */
    uint64_t first, n; /* bytes of the file */
} piece;

typedef struct {
    cvt_ckpt *c;
    cvt_work work;
    uint64_t piece_bytes;
    pthread_mutex_t large; /* held for a piece that is longer than that, being one row: one of them is in memory */
    cvt_target target;
    /* the file being written */
    int64_t file;
    int fd;
    char path[PATH_MAX];
    piece *pieces;
    size_t n_pieces, room;
} writer;

static fh1_status push(writer *w, piece p)
{
    if (w->n_pieces == w->room) {
        size_t room = w->room ? 2 * w->room : 64;
        piece *grown = realloc(w->pieces, room * sizeof *grown);
        if (!grown) return fh1_no_memory(room * sizeof *grown, "the pieces of a file");
        w->pieces = grown;
        w->room = room;
    }
    w->pieces[w->n_pieces++] = p;
    return NULL;
}

static fh1_status push_range(writer *w, int64_t tensor, uint64_t first, uint64_t n_bytes, uint64_t step)
{
    for (uint64_t at = 0; at < n_bytes; at += step)
        FH1_TRY(push(w, (piece){tensor, first + at, n_bytes - at < step ? n_bytes - at : step}));
    return NULL;
}

static int by_place(const void *a, const void *b)
{
    const piece *x = a, *y = b;
    return x->first < y->first ? -1 : x->first > y->first;
}

static fh1_status list_pieces(writer *w)
{
    const cvt_ckpt_file *f = &w->c->files[w->file];
    w->n_pieces = 0;
    if (!f->weights) return push_range(w, -1, 0, f->bytes, w->piece_bytes);
    for (int64_t t = 0; t < w->c->n_tensors; t++) {
        const cvt_ckpt_tensor *e = &w->c->tensors[t];
        if (e->file != w->file) continue;
        FH1_TRY(push_range(w, t, e->begin, cvt_ckpt_tensor_bytes(e), cvt_ckpt_piece(w->c, t, w->piece_bytes)));
    }
    FH1_REACHED(w->n_pieces == 1);
    if (w->n_pieces > 1) qsort(w->pieces, w->n_pieces, sizeof *w->pieces, by_place);
    return NULL;
}

static fh1_status copy_bytes(writer *w, const piece *p)
{
    char *buf = malloc(p->n);
    if (!buf) return fh1_no_memory(p->n, "a piece of a file");
    fh1_status s = p->tensor < 0 ? cvt_ckpt_read_file(w->c, w->file, p->first, p->n, buf)
                                 : cvt_ckpt_read(w->c, p->tensor, p->first - w->c->tensors[p->tensor].begin, p->n, buf);
    if (!s) s = cvt_write_at(w->fd, w->path, buf, p->n, p->first);
    free(buf);
    /* The disk starts now, so that the sync at the end waits for little; where this does nothing, it waits longer. */
    if (!s) sync_file_range(w->fd, (off_t)p->first, (off_t)p->n, SYNC_FILE_RANGE_WRITE);
    return s;
}

static fh1_status copy_piece(writer *w, const piece *p)
{
    if (p->n <= w->piece_bytes) return copy_bytes(w, p);
    pthread_mutex_lock(&w->large);
    fh1_status s = copy_bytes(w, p);
    pthread_mutex_unlock(&w->large);
    return s;
}

static void copy_pieces(void *ctx, int64_t begin, int64_t end, int thread)
{
    writer *w = ctx;
    (void)thread;
    for (int64_t i = begin; i < end && cvt_work_goes_on(&w->work); i++)
        cvt_work_did(&w->work, w->pieces[i].n, copy_piece(w, &w->pieces[i]));
}

/* The folders that a name like "a/b/c.txt" needs. */
static fh1_status make_folders(writer *w, const char *name)
{
    size_t root = strlen(w->path) - strlen(name);
    for (const char *slash = strchr(name, '/'); slash; slash = strchr(slash + 1, '/')) {
        size_t n = root + (size_t)(slash - name);
        w->path[n] = '\0';
        bool made = mkdir(w->path, 0777) == 0 || errno == EEXIST;
        int why = errno;
        w->path[n] = '/';
        if (!made)
            return fh1_where(fh1_fail(FH1_E_INTERNAL, "a folder cannot be made: %s", strerror(why)), "%.*s", (int)n,
                             w->path);
    }
    return NULL;
}

static fh1_status write_contents(writer *w)
{
    const cvt_ckpt_file *f = &w->c->files[w->file];
    FH1_TRY(cvt_file_reserve(w->fd, w->path, f->bytes));
    if (f->weights) FH1_TRY(cvt_write_at(w->fd, w->path, f->header, f->header_bytes, 0));
    FH1_TRY(list_pieces(w));
    fh1_parallel_for((int64_t)w->n_pieces, 1, copy_pieces, w);
    FH1_TRY(cvt_work_status(&w->work));
    /* A hole would be a tensor that nobody wrote, and a file system may not know fallocate. */
    if (ftruncate(w->fd, (off_t)f->bytes) != 0 || fsync(w->fd) != 0)
        return fh1_where(fh1_fail(FH1_E_INTERNAL, "writing to disk failed: %s", strerror(errno)), "%s", w->path);
    return NULL;
}

static fh1_status write_file(writer *w)
{
    const char *name = w->c->files[w->file].name;
    FH1_TRY(cvt_path_join(w->path, sizeof w->path, w->target.temp, name));
    FH1_TRY(make_folders(w, name));
    w->fd = open(w->path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (w->fd < 0)
        return fh1_where(fh1_fail(FH1_E_INTERNAL, "a file cannot be made: %s", strerror(errno)), "%s", w->path);
    fh1_status s = write_contents(w);
    if (close(w->fd) != 0 && !s)
        s = fh1_where(fh1_fail(FH1_E_INTERNAL, "writing to disk failed: %s", strerror(errno)), "%s", w->path);
    return s;
}

/* The last look before the target gets its name: nobody has stopped us, and the source is what it was. */
static fh1_status may_commit(writer *w)
{
    cvt_work_did(&w->work, 0, cvt_ckpt_unchanged(w->c));
    return cvt_work_status(&w->work);
}

fh1_status cvt_hf_write(cvt_ckpt *c, const char *dir, const cvt_write_options *o)
{
    FH1_TRY(cvt_ckpt_lay_out(c));
    uint64_t bytes = 0;
    for (int64_t i = 0; i < c->n_files; i++) bytes += c->files[i].bytes;
    FH1_TRY(cvt_check_space(dir, bytes));
    writer *w = calloc(1, sizeof *w);
    if (!w) return fh1_no_memory(sizeof *w, "a writer");
    uint64_t share = BUFFERS / (uint64_t)fh1_threads();
    w->c = c;
    w->piece_bytes = share < PIECE ? share : PIECE;
    pthread_mutex_init(&w->large, NULL);
    cvt_work_begin(&w->work, o->progress, cvt_ckpt_total_bytes(c));
    fh1_status s = cvt_target_begin(dir, true, o->force, &w->target);
    for (w->file = 0; !s && w->file < c->n_files; w->file++) s = write_file(w);
    if (!s) s = may_commit(w);
    if (!s) s = cvt_target_commit(&w->target);
    cvt_target_free(&w->target);
    fh1_status worked = cvt_work_end(&w->work);
    if (!s) s = worked;
    pthread_mutex_destroy(&w->large);
    free(w->pieces);
    free(w);
    return s;
}
