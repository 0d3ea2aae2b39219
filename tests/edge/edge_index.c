/* D-97: a folder of two shards with one thing wrong at a time. */
#include "tests/edge/edge_file_cases.h"

#include "convert/file.h"
#include "convert/model_open.h"
#include "convert/safetensors.h"
#include "convert/text.h"

#include <string.h>
#include <unistd.h>

#define ONE "model-00001-of-00002.safetensors"
#define TWO "model-00002-of-00002.safetensors"
#define INDEX "model.safetensors.index.json"
#define HEAD "\"lm_head.weight\":\"" ONE "\""

/* Every other tensor, from `part` on; `twice` besides, `without` not. */
static fh1_status write_part(const edge_run *r, const fh1_model *m, int part, const char *name, const char *twice,
                             const char *without)
{
    char path[EDGE_PATH];
    cvt_st_writer *w;
    FH1_TRY(cvt_st_writer_new(edge_path(r, name, path), true, &w));
    fh1_status s = NULL;
    for (int pass = 0; pass < 2 && !s; ++pass)
        for (int64_t i = 0; i < m->n_weights && !s; ++i) {
            const fh1_weight *e = &m->weights[i];
            const bool mine = i % 2 == part && !(without && strcmp(e->name, without) == 0);
            if (!mine && !(twice && strcmp(e->name, twice) == 0)) continue;
            if (pass == 0) s = cvt_st_writer_declare(w, e->name, e->t.dtype, e->t.rank, e->t.shape);
            else s = cvt_st_writer_put(w, e->name, 0, e->t.data, fh1_n_elems(&e->t));
        }
    if (!s) s = cvt_st_writer_commit(w);
    cvt_st_writer_free(w);
    return s;
}

/* malloc'ed */
static fh1_status index_text(const fh1_model *m, char **out)
{
    cvt_text b = {0};
    size_t total = 0;
    for (int64_t i = 0; i < m->n_weights; ++i) total += fh1_n_bytes(&m->weights[i].t);
    cvt_text_add(&b, "{\"metadata\":{\"total_size\":%zu},\"weight_map\":{", total);
    for (int64_t i = 0; i < m->n_weights; ++i)
        cvt_text_add(&b, "%s\"%s\":\"%s\"", i ? "," : "", m->weights[i].name, i % 2 ? TWO : ONE);
    cvt_text_add(&b, "}}");
    *out = b.s;
    return b.failed ? fh1_no_memory(b.n, "an index") : NULL;
}

static fh1_status split(edge_run *r, const fh1_model *m, const char *text)
{
    char path[EDGE_PATH];
    FH1_TRY(edge_save(r, m, "model", EDGE_FORM_5));
    unlink(edge_path(r, "model/model.safetensors", path));
    FH1_TRY(write_part(r, m, 0, "model/" ONE, NULL, NULL));
    FH1_TRY(write_part(r, m, 1, "model/" TWO, NULL, NULL));
    return edge_text(r, "model/" INDEX, text);
}

/* Both readers: the one that maps, and the one that converts. */
static fh1_status refused(edge_run *r, const char *word, const char *what)
{
    char path[EDGE_PATH];
    fh1_model m;
    cvt_ckpt *c;
    fh1_status s = cvt_model_open(edge_path(r, "model", path), &m);
    if (!s) fh1_model_free(&m);
    FH1_TRY(edge_refused(r, s, word, what));
    s = cvt_ckpt_open(path, &c);
    if (!s) cvt_ckpt_close(c);
    return edge_refused(r, s, word, what);
}

typedef struct {
    const char *from, *to, *word;
} edit;

static fh1_status edited(edge_run *r, const char *text, const edit *e)
{
    const char *at = strstr(text, e->from);
    cvt_text b = {0};
    if (!at) return fh1_fail(FH1_E_INTERNAL, "the index has no %s", e->from);
    cvt_text_add(&b, "%.*s%s%s", (int)(at - text), text, e->to, at + strlen(e->from));
    fh1_status s = b.failed ? fh1_no_memory(b.n, "an index") : edge_text(r, "model/" INDEX, b.s);
    free(b.s);
    return s ? s : refused(r, e->word, e->to);
}

static fh1_status wrong_indexes(edge_run *r, const char *text)
{
    static const edit edits[] = {
        {"\"total_size\":", "\"total_size\":1", "total_size is not the size of the tensors"},
        {"\"weight_map\":", "\"weights\":", "no weight_map"},
        {"\"model.embed_tokens.weight\":", "\"other\":", "is not in the index"},
        {HEAD, HEAD ",\"ghost\":\"" ONE "\"", "\"ghost\" is missing in " ONE},
        {HEAD, "\"lm_head.weight\":\"" TWO "\"", "mapped to " TWO " but lies in " ONE},
        {HEAD, HEAD ",\"lm_head.weight\":\"" TWO "\"", "appears twice"},
        {HEAD, "\"lm_head.weight\":\"model-00003-of-00003.safetensors\"", "missing: model-00003-of-00003"},
        {HEAD, "\"lm_head.weight\":\"../model/" ONE "\"", "not a plain file name"},
        {HEAD, "\"lm_head.weight\":\"./" ONE "\"", "not a plain file name"},
        {HEAD, "\"lm_head.weight\":\"/etc/x.safetensors\"", "not a plain file name"},
        {HEAD, "\"lm_head.weight\":\"..\"", "not a plain file name"},
        {HEAD, "\"lm_head.weight\":\"a\\\\b.safetensors\"", "not a plain file name"},
        {HEAD, "\"lm_head.weight\":\"\"", "not a plain file name"},
        {HEAD, "\"lm_head.weight\":1", "no file name"},
    };
    for (size_t i = 0; i < sizeof edits / sizeof *edits; ++i) FH1_TRY(edited(r, text, &edits[i]));
    return edge_text(r, "model/" INDEX, text);
}

static fh1_status wrong_shards(edge_run *r, const fh1_model *m)
{
    char path[EDGE_PATH];
    FH1_TRY(write_part(r, m, 1, "model/" TWO, "lm_head.weight", NULL));
    FH1_TRY(refused(r, "in two files, " ONE " and " TWO, "a tensor in both shards"));
    FH1_TRY(write_part(r, m, 1, "model/" TWO, NULL, m->weights[1].name));
    FH1_TRY(refused(r, "is missing in " TWO, "a tensor in no shard"));
    FH1_TRY(edge_text(r, "model/" TWO, "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n"));
    FH1_TRY(refused(r, "git-lfs pointer", "a pointer"));
    unlink(edge_path(r, "model/" TWO, path));
    FH1_TRY(refused(r, "missing: " TWO, "a missing shard"));
    return write_part(r, m, 1, "model/" TWO, NULL, NULL);
}

/* A file that the index does not name is no part of the model, though its tensors have the names of the model's. What
 * the reader says of it on stderr is not looked at here. */
static fh1_status stray_shard(edge_run *r, const fh1_model *m)
{
    char path[EDGE_PATH];
    fh1_model other, back;
    fh1_status s = edge_model(r, edge_model_text(0), &other);
    if (s) return s;
    for (int64_t i = 0; i < other.n_weights; ++i) memset(other.weights[i].t.data, 0, fh1_n_bytes(&other.weights[i].t));
    s = write_part(r, &other, 0, "model/consolidated.safetensors", NULL, NULL);
    fh1_model_free(&other);
    if (!s) s = edge_accepted(r, cvt_model_open(edge_path(r, "model", path), &back), "a folder with a stray file");
    if (s) return s;
    s = edge_same_model(r, m, &back, "a folder with a stray file");
    fh1_model_free(&back);
    return s ? s : edge_check_file(r, path, m, 0);
}

fh1_status edge_index(edge_run *r)
{
    fh1_model m;
    char *text;
    FH1_TRY(edge_model(r, edge_model_text(0), &m));
    fh1_status s = index_text(&m, &text);
    if (!s) s = split(r, &m, text);
    if (!s && r->bit == EDGE_F64) s = wrong_indexes(r, text);
    if (!s && r->bit == EDGE_F64) s = wrong_shards(r, &m);
    if (!s) s = stray_shard(r, &m);
    free(text);
    edge_contract(r, r->profile);
    fh1_model_free(&m);
    return s;
}
