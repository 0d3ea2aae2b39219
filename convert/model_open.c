#include "convert/model_open.h"

#include "convert/hf_config.h"
#include "convert/hf_folder.h"
#include "convert/weights.h"
#include "convert/work.h"
#include "oracle/thread.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define PIECE ((uint64_t)1 << 20)
#define ALIGN ((uint64_t)64)

/* What keeps the views of a decoded model alive. */
typedef struct {
    void *map;
    size_t n;
} region;

static void free_region(void *owner)
{
    region *r = owner;
    if (!r) return;
    if (r->map) munmap(r->map, r->n);
    free(r);
}

/* Part of a tensor, and where it goes. */
typedef struct {
    int64_t tensor;
    uint64_t first, n;
    char *dst;
} piece;

typedef struct {
    cvt_ckpt *c;
    cvt_work work;
    piece *pieces;
    size_t n_pieces, room;
} reader;

static void read_pieces(void *ctx, int64_t begin, int64_t end, int thread)
{
    reader *r = ctx;
    (void)thread;
    for (int64_t i = begin; i < end && cvt_work_goes_on(&r->work); i++) {
        const piece *p = &r->pieces[i];
        cvt_work_did(&r->work, 0, cvt_ckpt_read(r->c, p->tensor, p->first, p->n, p->dst));
    }
}

static fh1_status push_tensor(reader *r, int64_t t, char *dst)
{
    uint64_t n_bytes = cvt_ckpt_tensor_bytes(&r->c->tensors[t]), step = cvt_ckpt_piece(r->c, t, PIECE);
    for (uint64_t at = 0; at < n_bytes; at += step) {
        if (r->n_pieces == r->room) {
            size_t room = r->room ? 2 * r->room : 1024;
            piece *grown = realloc(r->pieces, room * sizeof *grown);
            if (!grown) return fh1_no_memory(room * sizeof *grown, "the pieces of a model");
            r->pieces = grown;
            r->room = room;
        }
        r->pieces[r->n_pieces++] = (piece){t, at, n_bytes - at < step ? n_bytes - at : step, dst + at};
    }
    return NULL;
}

/* Pages of zeros that are never touched cost nothing. */
static fh1_status make_region(const cvt_ckpt *c, bool outline, region *r)
{
    uint64_t n = ALIGN;
    for (int64_t i = 0; i < c->n_tensors; i++) n += (cvt_ckpt_tensor_bytes(&c->tensors[i]) + ALIGN - 1) / ALIGN * ALIGN;
    r->n = (size_t)n;
    int access = outline ? PROT_READ : PROT_READ | PROT_WRITE, kind = outline ? MAP_NORESERVE : 0;
    r->map = mmap(NULL, r->n, access, MAP_PRIVATE | MAP_ANONYMOUS | kind, -1, 0);
    if (r->map != MAP_FAILED) return NULL;
    r->map = NULL;
    return fh1_no_memory(r->n, "the weights");
}

/* Room for every tensor, and their data in it unless only the outline is wanted. *n counts the names made so far. */
static fh1_status decode(cvt_ckpt *c, bool outline, region *g, fh1_weight *w, int64_t *n)
{
    reader r = {.c = c};
    FH1_TRY(make_region(c, outline, g));
    char *at = g->map;
    fh1_status s = NULL;
    for (int64_t i = 0; !s && i < c->n_tensors; i++) {
        const cvt_ckpt_tensor *t = &c->tensors[i];
        w[i].t = fh1_view(at, t->dtype, t->rank, t->shape);
        w[i].name = strdup(t->name);
        *n = i + 1;
        s = w[i].name ? cvt_weights_plain(c->path, t->name, t->dtype) : fh1_no_memory(strlen(t->name), "a name");
        if (!s && !outline) s = push_tensor(&r, i, at);
        at += (cvt_ckpt_tensor_bytes(t) + ALIGN - 1) / ALIGN * ALIGN;
    }
    if (!s) {
        cvt_work_begin(&r.work, NULL, 0);
        fh1_parallel_for((int64_t)r.n_pieces, 1, read_pieces, &r);
        s = cvt_work_end(&r.work);
    }
    free(r.pieces);
    return s ? s : cvt_ckpt_unchanged(c);
}

static fh1_status refuse_quantised(cvt_ckpt *c)
{
    cJSON *json;
    FH1_TRY(cvt_ckpt_config_json(c, &json));
    fh1_status s = cvt_hf_config_refuse_quantised(json, c->path);
    cJSON_Delete(json);
    return s;
}

static fh1_status bind(cvt_ckpt *c, const fh1_config *config, bool outline, region *g, fh1_model *out)
{
    int64_t n = 0;
    char revision[sizeof out->revision];
    fh1_weight *w = calloc((size_t)c->n_tensors + 1, sizeof *w);
    if (!w) return fh1_no_memory((size_t)c->n_tensors * sizeof *w, "the table of weights");
    fh1_status s = decode(c, outline, g, w, &n);
    if (!s && config->tied) s = cvt_weights_drop_tied_head(c->path, config->family, w, &n);
    if (s) {
        cvt_weights_free(w, n);
        return s;
    }
    cvt_weights_describe(w, n, revision, sizeof revision);
    FH1_TRY(fh1_where(fh1_model_bind(out, config, w, n), "%s", c->path));
    memcpy(out->revision, revision, sizeof revision);
    memcpy(out->path, c->path, strlen(c->path) + 1);
    out->owner = g;
    out->free_owner = free_region;
    return NULL;
}

static fh1_status from_ckpt(cvt_ckpt *c, bool outline, fh1_model *out)
{
    memset(out, 0, sizeof *out);
    if (strlen(c->path) >= sizeof out->path) return fh1_where(FH1_BAD("the path is too long"), "%.200s", c->path);
    fh1_config *config = malloc(sizeof *config);
    region *g = calloc(1, sizeof *g);
    fh1_status s = config && g ? refuse_quantised(c) : fh1_no_memory(sizeof *config, "a config");
    if (!s) s = cvt_ckpt_config(c, config);
    if (!s) s = bind(c, config, outline, g, out);
    free(config);
    if (s) free_region(g);
    return s;
}

fh1_status cvt_model_from_ckpt(cvt_ckpt *c, fh1_model *out)
{
    return from_ckpt(c, false, out);
}

fh1_status cvt_model_outline(cvt_ckpt *c, fh1_model *out)
{
    return from_ckpt(c, true, out);
}

fh1_status cvt_model_open(const char *path, fh1_model *out)
{
    cvt_kind kind;
    cvt_ckpt *c;
    memset(out, 0, sizeof *out);
    if (cvt_ckpt_kind(path, &kind) || kind == CVT_KIND_HF) return cvt_hf_folder_open(path, out);
    FH1_TRY(cvt_ckpt_open_wide(path, &c));
    fh1_status s = cvt_model_from_ckpt(c, out);
    cvt_ckpt_close(c);
    return s;
}
