#include "convert/merge.h"

#include "convert/fault.h"
#include "convert/file.h"
#include "convert/hash.h"
#include "convert/json.h"
#include "convert/merge_plan.h"
#include "convert/text.h"
#include "convert/work.h"
#include "oracle/thread.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PROVENANCE "fh1.merge"
#define MAX_PROVENANCE ((size_t)1 << 20)
enum { PIECE = 1 << 20 }; /* a chunk of a native file */

static const char head[] = "lm_head.weight";

static const char *const names[CVT_ROUND_COUNT] = {"exact",           "peft",     "peft-safe", "peft-noautocast",
                                                   "peft-low-memory", "unsloth16"};

const char *cvt_rounding_name(cvt_rounding r)
{
    return names[r];
}

bool cvt_rounding_parse(const char *name, cvt_rounding *out)
{
    for (int i = 0; i < CVT_ROUND_COUNT; i++) {
        if (strcmp(names[i], name) != 0) continue;
        *out = (cvt_rounding)i;
        return true;
    }
    return false;
}

/* ---- the view ---- */

static fh1_status read_rows(cvt_ckpt *c, int64_t t, int64_t first, int64_t n, void *dst)
{
    const cvt_merge_plan *p = c->state;
    const cvt_ckpt_tensor *e = &c->tensors[t];
    if (CVT_FAULT(MERGED_ONTO_OTHER_IMAGE) && p->o->other_image)
        FH1_TRY(cvt_ckpt_read_rows(p->o->other_image, cvt_ckpt_find(p->o->other_image, e->name), first, n, dst));
    else FH1_TRY(cvt_ckpt_read_rows(c->below, e->source, first, n, dst));
    const cvt_merge_target *target = cvt_merge_plan_find(p, e->name);
    return target ? cvt_merge_rows(target, p->o->rounding, first, n, dst) : NULL;
}

static fh1_status unchanged(cvt_ckpt *c)
{
    const cvt_merge_plan *p = c->state;
    for (int i = 0; i < p->n_parts; i++) FH1_TRY(cvt_adapter_unchanged(p->parts[i].adapter));
    return cvt_ckpt_unchanged(c->below);
}

typedef struct {
    cvt_merge_plan plan; /* the first member: the view's state is a plan */
    cvt_merge_options options;
    cvt_merge_part parts[];
} merge_state;

static void free_state(cvt_ckpt *c)
{
    merge_state *m = c->state;
    if (m) cvt_merge_plan_free(&m->plan);
    free(m);
}

static const cvt_ckpt_ops ops = {.read_rows = read_rows, .unchanged = unchanged, .free_state = free_state};

/* ---- provenance ---- */

typedef struct {
    cvt_ckpt *c;
    cvt_hash_text *of; /* one per tensor */
    cvt_work work;
} hash_job;

static fh1_status hash_tensor(cvt_ckpt *c, int64_t t, cvt_hash_text *out)
{
    uint64_t n = cvt_ckpt_tensor_bytes(&c->tensors[t]);
    cvt_hash *h = NULL;
    char *piece = malloc(PIECE);
    fh1_status s = piece ? cvt_hash_new(&h) : fh1_no_memory(PIECE, "a hash");
    for (uint64_t at = 0; at < n && !s; at += PIECE) {
        uint64_t some = n - at < PIECE ? n - at : PIECE;
        s = cvt_ckpt_read(c, t, at, some, piece);
        if (!s) cvt_hash_add(h, piece, some);
    }
    if (!s) *out = cvt_hash_end(h);
    cvt_hash_free(h);
    free(piece);
    return s;
}

static void hash_some(void *ctx, int64_t begin, int64_t end, int thread)
{
    hash_job *j = ctx;
    (void)thread;
    for (int64_t t = begin; t < end && cvt_work_goes_on(&j->work); t++)
        cvt_work_did(&j->work, 0, hash_tensor(j->c, t, &j->of[t]));
}

/* Of the weights as they are stored below all views: names, types, shapes and bytes. */
static fh1_status hash_base(cvt_ckpt *base, cvt_hash_text *out)
{
    cvt_hash *h;
    while (base->below) base = base->below;
    hash_job j = {.c = base, .of = calloc((size_t)base->n_tensors + 1, sizeof *j.of)};
    if (!j.of) return fh1_no_memory((size_t)base->n_tensors * sizeof *j.of, "hashes");
    cvt_work_begin(&j.work, NULL, 0);
    fh1_parallel_for(base->n_tensors, 1, hash_some, &j);
    fh1_status s = cvt_work_end(&j.work);
    if (!s) s = cvt_hash_new(&h);
    for (int64_t t = 0; t < base->n_tensors && !s; t++) {
        const cvt_ckpt_tensor *e = &base->tensors[t];
        cvt_hash_add(h, e->name, strlen(e->name) + 1);
        cvt_hash_add(h, fh1_dtype_name(e->dtype), strlen(fh1_dtype_name(e->dtype)) + 1);
        for (int i = 0; i < e->rank; i++) {
            char dim[32];
            cvt_hash_add(h, dim, (size_t)snprintf(dim, sizeof dim, "%lld ", (long long)e->shape[i]));
        }
        if (!CVT_FAULT(BASE_HASH_OF_SHAPES)) cvt_hash_add(h, j.of[t].hex, strlen(j.of[t].hex));
    }
    if (!s) *out = cvt_hash_end(h);
    if (!s) cvt_hash_free(h);
    free(j.of);
    return s;
}

static fh1_status bad_provenance(const cvt_ckpt *base)
{
    return fh1_hint(fh1_where(FH1_BAD("the metadata " PROVENANCE " is not what fh1 merge writes"), "%s", base->path),
                    "it says which adapters the model has; remove it only if you know that");
}

/* The earlier merges as a JSON array, NULL when there are none; the adapters must not be among them. */
static fh1_status read_provenance(const cvt_merge_plan *p, cJSON **out)
{
    const char *text = cvt_ckpt_meta(p->base, PROVENANCE);
    *out = NULL;
    if (!text || CVT_FAULT(PROVENANCE_NOT_READ)) return NULL;
    if (strlen(text) > MAX_PROVENANCE) return bad_provenance(p->base);
    FH1_TRY(cvt_json_parse(text, strlen(text), 8, PROVENANCE, out));
    if (!cJSON_IsArray(*out)) return bad_provenance(p->base);
    for (const cJSON *v = (*out)->child; v; v = v->next) {
        const cJSON *hash = cJSON_GetObjectItemCaseSensitive(v, "adapter");
        if (!cJSON_IsString(hash)) return bad_provenance(p->base);
        for (int i = 0; i < p->n_parts; i++)
            if (strcmp(hash->valuestring, p->parts[i].adapter->hash) == 0)
                return fh1_hint(fh1_found(fh1_where(FH1_BAD("this adapter is in the model already"), "%s",
                                                    p->parts[i].adapter->path),
                                          "XXH3-128 %s in the metadata of %.150s", hash->valuestring, p->base->path),
                                "merge onto the model without it");
    }
    return NULL;
}

/* The folder's own name: the last part of the path before "/adapter_config.json". */
static void folder_name(const char *path, char *buf, size_t size)
{
    size_t n;
    const char *name = cvt_path_last(path, (size_t)(strrchr(path, '/') - path), &n);
    snprintf(buf, size, "%.*s", (int)n, name);
}

static fh1_status write_provenance(cvt_ckpt *c, const cvt_merge_plan *p, const cJSON *earlier)
{
    cvt_hash_text base;
    cvt_text b = {0};
    FH1_TRY(hash_base(p->base, &base));
    cvt_text_add(&b, "[");
    for (const cJSON *v = earlier ? earlier->child : NULL; v; v = v->next) {
        char *text = cvt_json_print(v);
        if (!text) b.failed = true;
        else cvt_text_add(&b, "%s,", text);
        free(text);
    }
    for (int i = 0; i < p->n_parts; i++) {
        const cvt_adapter *a = p->parts[i].adapter;
        char name[256];
        folder_name(a->path, name, sizeof name);
        cvt_text_add(&b, "%s{\"tool\":\"" FH1_TOOL "\",\"name\":", i ? "," : "");
        cvt_text_json(&b, name, true);
        cvt_text_add(&b, ",\"adapter\":\"%s\",", a->hash);
        if (a->initial_hash[0]) cvt_text_add(&b, "\"initial\":\"%s\",", a->initial_hash);
        cvt_text_add(&b, "\"weight\":%.17g,\"rounding\":\"%s\",\"base\":\"%s\"}", p->parts[i].weight,
                     cvt_rounding_name(p->o->rounding), base.hex);
    }
    cvt_text_add(&b, "]");
    fh1_status s = b.failed ? fh1_no_memory(b.n, "metadata") : cvt_ckpt_set_meta(c, PROVENANCE, b.s);
    free(b.s);
    return s ? s : cvt_ckpt_set_meta(c, "format", "pt");
}

/* ---- making the view ---- */

/* The head becomes a tensor of its own, in the file that holds the embedding. */
static fh1_status untie(cvt_ckpt *c, const cvt_merge_plan *p)
{
    int64_t at = cvt_ckpt_find(p->base, p->embed);
    if (cvt_ckpt_find(c, head) < 0) {
        const cvt_ckpt_tensor *e = &p->base->tensors[at];
        FH1_TRY(cvt_ckpt_add_tensor(c, head, e->dtype, e->rank, e->shape, p->base->files[e->file].name, at));
    }
    return cvt_ckpt_edit_config(c, "tie_word_embeddings", "false");
}

static fh1_status complete(cvt_ckpt *c)
{
    cvt_merge_plan *p = c->state;
    fh1_config *config = malloc(sizeof *config);
    cJSON *earlier = NULL;
    if (!config) return fh1_no_memory(sizeof *config, "a config");
    fh1_status s = cvt_ckpt_config(c->below, config);
    if (!s) {
        p->tied = config->tied;
        p->embed = fh1_embed_weight(config->family);
    }
    free(config);
    if (!s) s = read_provenance(p, &earlier);
    if (!s) s = cvt_merge_plan_make(p);
    if (!s) s = cvt_merge_plan_tell(p);
    if (!s) s = write_provenance(c, p, earlier);
    cJSON_Delete(earlier);
    return s || !p->untie ? s : untie(c, p);
}

fh1_status cvt_ckpt_merge(cvt_ckpt *base, const cvt_merge_part *parts, int n, const cvt_merge_options *o,
                          cvt_ckpt **out)
{
    cvt_ckpt *c;
    *out = NULL;
    FH1_TRY(cvt_ckpt_view(base, &c));
    merge_state *m = calloc(1, sizeof *m + (size_t)n * sizeof *parts);
    if (!m) {
        cvt_ckpt_close(c);
        return fh1_no_memory(sizeof *m, "a merge");
    }
    m->options = *o;
    memcpy(m->parts, parts, (size_t)n * sizeof *parts);
    m->plan = (cvt_merge_plan){.base = base, .parts = m->parts, .n_parts = n, .o = &m->options};
    c->state = m;
    c->ops = &ops;
    fh1_status s = complete(c);
    if (s) cvt_ckpt_close(c);
    else *out = c;
    return s;
}
