/* D-108: saving over what is read: the same path, another name of it, a hard link, symbolic links. */
#include "tests/edge/edge_file_cases.h"

#include "convert/file.h"
#include "convert/gguf.h"
#include "convert/hf_write.h"
#include "convert/model_open.h"
#include "convert/native.h"
#include "convert/safetensors.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const cvt_write_options forced = {.force = true};

typedef struct {
    char *bytes;
    size_t n;
} content;

static fh1_status read_content(const char *path, content *out)
{
    return cvt_file_read(path, (size_t)16 << 20, &out->bytes, &out->n);
}

static fh1_status same_content(edge_run *r, const char *path, const content *want, const char *what)
{
    content now;
    FH1_TRY(edge_accepted(r, read_content(path, &now), what));
    const bool same = now.n == want->n && memcmp(now.bytes, want->bytes, now.n) == 0;
    free(now.bytes);
    return edge_require(r, same, "%s: %s has other bytes", what, path);
}

/* ---- a file that is mapped while its path is written ---- */

/* The map must go on to show the old file: an inode of its own, whole. Its bytes are looked at only then. */
static fh1_status map_intact(edge_run *r, const cvt_st *map, const struct stat *was, int fd, const fh1_model *m)
{
    struct stat now;
    if (fstat(fd, &now) != 0) return fh1_fail(FH1_E_INTERNAL, "a file cannot be examined");
    FH1_TRY(edge_require(r,
                         now.st_size == was->st_size && now.st_mtim.tv_nsec == was->st_mtim.tv_nsec &&
                             now.st_mtim.tv_sec == was->st_mtim.tv_sec,
                         "the mapped file was written to: %lld bytes of %lld", (long long)now.st_size,
                         (long long)was->st_size));
    for (int64_t i = 0; i < m->n_weights; ++i) {
        const cvt_st_entry *e = cvt_st_find(map, m->weights[i].name);
        FH1_TRY(edge_require(r, e && memcmp(e->t.data, m->weights[i].t.data, fh1_n_bytes(&e->t)) == 0,
                             "the map of %s shows other numbers", m->weights[i].name));
    }
    return NULL;
}

/* Half of the model is written over the path of the mapped one, its data straight from the map. */
static fh1_status put_half(const char *path, const cvt_st *map)
{
    cvt_st_writer *w;
    FH1_TRY(cvt_st_writer_new(path, true, &w));
    fh1_status s = NULL;
    for (int pass = 0; pass < 2; ++pass)
        for (int64_t i = 0; i < cvt_st_count(map) && !s; i += 2) {
            const cvt_st_entry *e = cvt_st_at(map, i);
            s = pass == 0 ? cvt_st_writer_declare(w, e->name, e->t.dtype, e->t.rank, e->t.shape)
                          : cvt_st_writer_put(w, e->name, 0, e->t.data, fh1_n_elems(&e->t));
        }
    if (!s) s = cvt_st_writer_commit(w);
    cvt_st_writer_free(w);
    return s;
}

/* A writer that is opened and given up: nothing has happened to what is there. */
static fh1_status given_up(edge_run *r, const char *path, const content *want)
{
    cvt_st_writer *w;
    FH1_TRY(edge_accepted(r, cvt_st_writer_new(path, true, &w), "a writer over a mapped file"));
    const fh1_status s = cvt_st_writer_declare(w, "a", FH1_F32, 1, (int64_t[]){3});
    const fh1_status put = s ? s : cvt_st_writer_put(w, "a", 0, (float[]){1, 2, 3}, 2); /* never complete */
    cvt_st_writer_free(w);
    FH1_TRY(edge_accepted(r, put, "a writer that is given up"));
    return same_content(r, path, want, "given up");
}

static fh1_status over_a_map(edge_run *r, const fh1_model *m)
{
    char path[EDGE_PATH], hard[EDGE_PATH];
    struct stat was;
    content before;
    cvt_st *map;
    FH1_TRY(edge_save(r, m, "mapped", EDGE_FORM_5));
    edge_path(r, "mapped/model.safetensors", path);
    if (link(path, edge_path(r, "hard.safetensors", hard)) != 0 || stat(path, &was) != 0)
        return fh1_fail(FH1_E_INTERNAL, "no hard link can be made");
    FH1_TRY(read_content(path, &before));
    fh1_status s = given_up(r, path, &before);
    const int fd = s ? -1 : open(hard, O_RDONLY);
    if (!s) s = cvt_st_open(path, &map);
    if (!s) {
        s = map_intact(r, map, &was, fd, m);
        if (!s) s = edge_accepted(r, put_half(path, map), "half of a model over the whole");
        if (!s) s = map_intact(r, map, &was, fd, m);
        if (!s) s = same_content(r, hard, &before, "the other name of the file");
        cvt_st_close(map);
    }
    if (fd >= 0) close(fd);
    free(before.bytes);
    return s;
}

/* ---- a conversion from a path to the same path ---- */

typedef fh1_status (*write_fn)(cvt_ckpt *c, const char *path, const cvt_write_options *o);

static fh1_status as_gguf(cvt_ckpt *c, const char *path, const cvt_write_options *o)
{
    return cvt_gguf_write(c, path, CVT_GGUF_F32, o);
}

/* From `in` to `out`, which lead to the same: the target is whole and the same model, or it is refused and the source
 * is as it was. */
static fh1_status onto_itself(edge_run *r, const char *in, const char *out, write_fn write, const fh1_model *m)
{
    char a[EDGE_PATH], b[EDGE_PATH], line[300];
    cvt_ckpt *c;
    fh1_model back;
    FH1_TRY(edge_accepted(r, cvt_ckpt_open(edge_path(r, in, a), &c), in));
    fh1_status s = write(c, edge_path(r, out, b), &forced);
    cvt_ckpt_close(c);
    const bool refused = s && s->code == FH1_E_INPUT;
    if (s) fh1_status_line(s, line, sizeof line);
    FH1_TRY(edge_require(r, !s || refused, "%s to %s: %s", in, out, s ? line : ""));
    FH1_TRY(edge_accepted(r, cvt_model_open(a, &back), "the source afterwards"));
    s = edge_same_model(r, m, &back, refused ? "the source of a refused save" : "what was saved over its source");
    fh1_model_free(&back);
    return s;
}

/* A model that is mapped while its folder is replaced goes on to be the model. */
static fh1_status under_a_model(edge_run *r, const fh1_model *m)
{
    char path[EDGE_PATH];
    fh1_model mapped;
    FH1_TRY(edge_accepted(r, cvt_model_open(edge_path(r, "model", path), &mapped), "a mapped model"));
    fh1_status s = onto_itself(r, "model", "model", cvt_hf_write, m);
    if (!s) s = edge_same_model(r, m, &mapped, "the model that was mapped");
    if (!s) s = edge_check_short(r, &mapped);
    edge_contract(r, r->profile);
    fh1_model_free(&mapped);
    return s;
}

static fh1_status save_native(edge_run *r, const char *name)
{
    char from[EDGE_PATH], to[EDGE_PATH];
    cvt_ckpt *c;
    FH1_TRY(cvt_ckpt_open(edge_path(r, "model", from), &c));
    fh1_status s = cvt_native_write(c, edge_path(r, name, to), &forced);
    cvt_ckpt_close(c);
    return edge_accepted(r, s, "a container");
}

static fh1_status links(edge_run *r)
{
    char a[EDGE_PATH], b[EDGE_PATH];
    const bool made = symlink("a.fh1", edge_path(r, "soft.fh1", b)) == 0 &&
                      symlink("soft.fh1", edge_path(r, "soft2.fh1", b)) == 0 &&
                      symlink("model", edge_path(r, "soft", b)) == 0 &&
                      link(edge_path(r, "a.fh1", a), edge_path(r, "hard.fh1", b)) == 0;
    return made ? NULL : fh1_fail(FH1_E_INTERNAL, "no links can be made");
}

static fh1_status onto_itself_all(edge_run *r, const fh1_model *m)
{
    char hard[EDGE_PATH], soft[EDGE_PATH];
    struct stat st;
    content before;
    FH1_TRY(edge_save(r, m, "model", EDGE_FORM_5));
    FH1_TRY(save_native(r, "a.fh1"));
    FH1_TRY(links(r));
    FH1_TRY(read_content(edge_path(r, "hard.fh1", hard), &before));
    fh1_status s = onto_itself(r, "a.fh1", "a.fh1", cvt_native_write, m);
    if (!s) s = onto_itself(r, "soft2.fh1", "a.fh1", cvt_native_write, m);
    if (!s) s = onto_itself(r, "a.fh1", "soft2.fh1", cvt_native_write, m);
    if (!s) s = onto_itself(r, "hard.fh1", "a.fh1", cvt_native_write, m);
    if (!s) s = same_content(r, hard, &before, "a hard link to the source");
    if (!s) s = onto_itself(r, "a.fh1", "hard.fh1", cvt_native_write, m);
    if (!s) s = under_a_model(r, m);
    if (!s) s = onto_itself(r, "soft", "model", cvt_hf_write, m);
    if (!s) s = onto_itself(r, "model", "soft", cvt_hf_write, m);
    if (!s) s = onto_itself(r, "model", "model", as_gguf, m); /* a file over the folder it is read from */
    free(before.bytes);
    if (s) return s;
    return edge_require(r, lstat(edge_path(r, "soft2.fh1", soft), &st) == 0 && S_ISLNK(st.st_mode),
                        "a link was replaced by the file that it names");
}

fh1_status edge_saves(edge_run *r)
{
    char path[EDGE_PATH];
    fh1_model m;
    FH1_TRY(edge_model(r, edge_model_text(0), &m));
    fh1_status s = over_a_map(r, &m);
    if (!s) s = onto_itself_all(r, &m);
    if (!s) s = edge_check_file(r, edge_path(r, "a.fh1", path), &m, 0);
    edge_contract(r, r->profile);
    fh1_model_free(&m);
    return s;
}
