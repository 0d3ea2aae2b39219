#include "cli/train_checkpoint.h"

#include "cli/options.h"
#include "convert/file.h"
#include "convert/hash.h"
#include "convert/safetensors.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAGIC "fh1.train"
#define VERSION "1"
#define NAME_SIZE (FH1_PARAM_NAME + 16)

void cli_condition_add(cli_conditions *c, const char *name, const char *value, ...)
{
    va_list args;
    if (c->n == CLI_CONDITIONS) return;
    cli_condition *x = &c->items[c->n++];
    snprintf(x->name, sizeof x->name, "%s", name);
    va_start(args, value);
    vsnprintf(x->value, sizeof x->value, value, args);
    va_end(args);
}

/* ---- the parts ---- */

static const char *const parts[] = {"master", "m", "v"};

static void *part_of(const cli_slot *x, int part)
{
    return part == 0 ? x->master : part == 1 ? x->m : x->v;
}

static const char *tensor_name(const cli_train_state *s, const cli_slot *x, int part, char buf[NAME_SIZE])
{
    snprintf(buf, NAME_SIZE, "%s/%s", parts[part], s->grads->params[x->param].name);
    return buf;
}

/* The numbers of the metadata, in one place for both directions. */
typedef struct {
    const char *key;
    int64_t *value;
} number;

enum { N_NUMBERS = 5 };

static void numbers_of(int64_t *step, cli_train_place *p, number out[N_NUMBERS])
{
    out[0] = (number){"fh1.step", step};
    out[1] = (number){"fh1.epoch", &p->epoch};
    out[2] = (number){"fh1.document", &p->document};
    out[3] = (number){"fh1.token", &p->token};
    out[4] = (number){"fh1.offset", &p->offset};
}

/* Of the place in the data and of all numbers: a run that goes on from damage would end in a wrong model, quietly. */
static fh1_status hash_all(const cli_train_state *s, const cli_train_place *place, cvt_hash_text *out)
{
    cvt_hash *h;
    int64_t step = s->step;
    cli_train_place p = *place;
    number n[N_NUMBERS];
    numbers_of(&step, &p, n);
    FH1_TRY(cvt_hash_new(&h));
    for (int i = 0; i < N_NUMBERS; i++) cvt_hash_add(h, n[i].value, sizeof *n[i].value);
    const size_t width = (size_t)fh1_dtype_bits(s->grads->dtype) / 8;
    for (int64_t i = 0; i < 3 * s->n; i++)
        cvt_hash_add(h, part_of(&s->slots[i / 3], (int)(i % 3)), (size_t)s->slots[i / 3].n * width);
    *out = cvt_hash_end(h);
    cvt_hash_free(h);
    return NULL;
}

/* ---- writing ---- */

static fh1_status write_meta(cvt_st_writer *w, const cli_train_state *s, const cli_train_place *place,
                             const cli_conditions *c)
{
    char key[64], text[32];
    int64_t step = s->step;
    cli_train_place p = *place;
    number n[N_NUMBERS];
    numbers_of(&step, &p, n);
    FH1_TRY(cvt_st_writer_meta(w, MAGIC, VERSION));
    for (int i = 0; i < N_NUMBERS; i++) {
        snprintf(text, sizeof text, "%" PRId64, *n[i].value);
        FH1_TRY(cvt_st_writer_meta(w, n[i].key, text));
    }
    for (int i = 0; i < c->n; i++) {
        snprintf(key, sizeof key, "fh1.with.%s", c->items[i].name);
        FH1_TRY(cvt_st_writer_meta(w, key, c->items[i].value));
    }
    cvt_hash_text hash;
    FH1_TRY(hash_all(s, place, &hash));
    return cvt_st_writer_meta(w, "fh1.hash", hash.hex);
}

static fh1_status write_all(cvt_st_writer *w, const cli_train_state *s)
{
    char name[NAME_SIZE];
    for (int64_t i = 0; i < 3 * s->n; i++) {
        const fh1_tensor *t = s->grads->params[s->slots[i / 3].param].value;
        FH1_TRY(cvt_st_writer_declare(w, tensor_name(s, &s->slots[i / 3], (int)(i % 3), name), s->grads->dtype, t->rank,
                                      t->shape));
    }
    for (int64_t i = 0; i < 3 * s->n; i++) {
        const cli_slot *x = &s->slots[i / 3];
        const int part = (int)(i % 3);
        FH1_TRY(cvt_st_writer_put(w, tensor_name(s, x, part, name), 0, part_of(x, part), x->n));
    }
    return NULL;
}

fh1_status cli_checkpoint_write(const char *path, const cli_train_state *s, const cli_train_place *place,
                                const cli_conditions *conditions)
{
    cvt_st_writer *w;
    FH1_TRY(cli_checkpoint_is(path));
    FH1_TRY(cvt_st_writer_new(path, true, &w));
    fh1_status st = write_meta(w, s, place, conditions);
    if (!st) st = write_all(w, s);
    if (!st) st = cvt_st_writer_commit(w);
    cvt_st_writer_free(w);
    return st;
}

/* ---- reading ---- */

static fh1_status not_ours(const char *path)
{
    return fh1_hint(fh1_where(FH1_BAD("this file is no checkpoint of fh1 train"), "%s", path),
                    "it stands where the checkpoint belongs: move it away, or choose another target");
}

static fh1_status open_ours(const char *path, cvt_st **out)
{
    if (cvt_st_open(path, out)) return not_ours(path);
    const char *version = cvt_st_metadata(*out, MAGIC);
    if (version && strcmp(version, VERSION) == 0) return NULL;
    cvt_st_close(*out);
    *out = NULL;
    return not_ours(path);
}

fh1_status cli_checkpoint_is(const char *path)
{
    cvt_st *f;
    if (!cvt_path_exists(path)) return NULL;
    FH1_TRY(open_ours(path, &f));
    cvt_st_close(f);
    return NULL;
}

static fh1_status check_conditions(const cvt_st *f, const cli_conditions *c)
{
    char key[64];
    for (int i = 0; i < c->n; i++) {
        const cli_condition *x = &c->items[i];
        snprintf(key, sizeof key, "fh1.with.%s", x->name);
        const char *was = cvt_st_metadata(f, key);
        if (was && strcmp(was, x->value) == 0) continue;
        fh1_status s = fh1_where(FH1_BAD("--resume: %s is not what the run began with", x->name), "%s", cvt_st_path(f));
        s = fh1_found(fh1_expected(s, "%s", was ? was : "none"), "%s", x->value);
        return fh1_hint(s, "give the run's own options, or begin a new one without --resume");
    }
    return NULL;
}

static fh1_status read_numbers(const cvt_st *f, int64_t *step, cli_train_place *place)
{
    number n[N_NUMBERS];
    numbers_of(step, place, n);
    for (int i = 0; i < N_NUMBERS; i++) {
        const char *text = cvt_st_metadata(f, n[i].key);
        if (!text || !cli_read_int(text, n[i].value) || *n[i].value < 0)
            return fh1_where(FH1_BAD("damaged: %s is no number", n[i].key), "%s", cvt_st_path(f));
    }
    return NULL;
}

static fh1_status read_tensor(const cvt_st *f, const cli_train_state *s, const cli_slot *x, int part)
{
    char name[NAME_SIZE];
    const cvt_st_entry *e = cvt_st_find(f, tensor_name(s, x, part, name));
    if (!e || e->t.dtype != s->grads->dtype || !fh1_same_shape(&e->t, s->grads->params[x->param].value))
        return fh1_where(FH1_BAD("the checkpoint has not the parameters of this run"), "%s, %s", cvt_st_path(f), name);
    memcpy(part_of(x, part), e->t.data, fh1_n_bytes(&e->t));
    return NULL;
}

static fh1_status check_hash(const cvt_st *f, const cli_train_state *s, const cli_train_place *place)
{
    cvt_hash_text hash;
    FH1_TRY(hash_all(s, place, &hash));
    const char *was = cvt_st_metadata(f, "fh1.hash");
    if (was && strcmp(was, hash.hex) == 0) return NULL;
    return fh1_hint(fh1_where(FH1_BAD("the checkpoint is damaged: its checksum is another"), "%s", cvt_st_path(f)),
                    "begin again without --resume, or from a copy of the file");
}

fh1_status cli_checkpoint_read(const char *path, cli_train_state *s, cli_train_place *place,
                               const cli_conditions *conditions)
{
    cvt_st *f;
    FH1_TRY(open_ours(path, &f));
    fh1_status st = check_conditions(f, conditions);
    if (!st) st = read_numbers(f, &s->step, place);
    if (!st && cvt_st_count(f) != 3 * s->n)
        st = fh1_where(FH1_BAD("the checkpoint has not the parameters of this run"), "%s", path);
    for (int64_t i = 0; i < 3 * s->n && !st; i++) st = read_tensor(f, s, &s->slots[i / 3], (int)(i % 3));
    if (!st) st = check_hash(f, s, place);
    cvt_st_close(f);
    if (!st) cli_train_state_show(s);
    return st;
}

/* ---- the model ---- */

static fh1_status hash_config(cvt_ckpt *files, cvt_hash *h)
{
    const int64_t i = cvt_ckpt_find_file(files, "config.json");
    char *text;
    size_t n;
    if (i < 0) return fh1_where(FH1_BAD("no config.json"), "%s", files->path);
    FH1_TRY(cvt_ckpt_file_text(files, i, (size_t)16 << 20, &text, &n));
    cvt_hash_add(h, text, n);
    free(text);
    return NULL;
}

fh1_status cli_model_hash(const fh1_model *m, cvt_ckpt *files, char out[33])
{
    cvt_hash *h;
    FH1_TRY(cvt_hash_new(&h));
    fh1_status s = hash_config(files, h);
    for (int64_t i = 0; i < m->n_weights && !s; i++) {
        const fh1_tensor *t = &m->weights[i].t;
        const char *type = fh1_dtype_name(t->dtype);
        cvt_hash_add(h, m->weights[i].name, strlen(m->weights[i].name) + 1);
        cvt_hash_add(h, type, strlen(type) + 1);
        cvt_hash_add(h, t->shape, (size_t)t->rank * sizeof t->shape[0]);
        cvt_hash_add(h, t->data, fh1_n_bytes(t));
    }
    memcpy(out, cvt_hash_end(h).hex, 33);
    cvt_hash_free(h);
    return s;
}
