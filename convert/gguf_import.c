/* A GGUF file of architecture falcon-h1 as the checkpoint it was made from: docs/gguf.md. */
#include "convert/gguf_import.h"

#include "convert/hf_config.h"

#include <stdlib.h>
#include <string.h>

bool cvt_gguf_is(const void *begin, size_t n)
{
    return n >= 4 && memcmp(begin, "GGUF", 4) == 0;
}

/* ---- the operations of the checkpoint ---- */

static fh1_status read_rows(cvt_ckpt *c, int64_t t, int64_t first, int64_t n, void *dst)
{
    const cvt_gguf_state *s = c->state;
    return cvt_gguf_unfold(s->f, &s->sources[c->tensors[t].source], c->tensors[t].dtype, first, n, dst);
}

static fh1_status unchanged(cvt_ckpt *c)
{
    const cvt_gguf_state *s = c->state;
    return cvt_gguf_file_unchanged(s->f);
}

static void free_gguf(cvt_gguf_state *s)
{
    cvt_gguf_file_close(s->f);
    for (int64_t i = 0; i < s->n_originals; i++) free(s->originals[i].name);
    free(s->originals);
    free(s->map.at);
    free(s->sources);
    free(s->used);
    free(s->losses.s);
    free(s);
}

static void free_state(cvt_ckpt *c)
{
    free_gguf(c->state);
}

static const cvt_ckpt_ops gguf_ops = {.read_rows = read_rows, .unchanged = unchanged, .free_state = free_state};

bool cvt_gguf_is_source(const cvt_ckpt *c)
{
    return c->ops == &gguf_ops;
}

const char *cvt_gguf_losses(const cvt_ckpt *c)
{
    for (; c; c = c->below)
        if (cvt_gguf_is_source(c)) {
            const cvt_gguf_state *s = c->state;
            return s->losses.s ? s->losses.s : "";
        }
    return "";
}

/* ---- config ---- */

static fh1_status make_config(cvt_ckpt *c, const cvt_gguf_state *s)
{
    cvt_text json = {0};
    fh1_status e = cvt_gguf_make_config(s->f, &json);
    if (!e && json.failed) e = fh1_no_memory(json.n, "config.json");
    if (!e) e = cvt_gguf_add_file(c, "config.json", json.s, json.n);
    free(json.s);
    return e;
}

static fh1_status read_config(const cvt_ckpt *c, cvt_gguf_state *s)
{
    cJSON *json = NULL;
    const cvt_ckpt_file *f = NULL;
    for (int64_t i = 0; i < c->n_files; i++)
        if (strcmp(c->files[i].name, "config.json") == 0) f = &c->files[i];
    if (!f) return fh1_where(FH1_BAD("the private keys hold no config.json"), "%s", s->f->path);
    fh1_status e = cvt_json_parse(f->data, f->bytes, CVT_HF_CONFIG_DEPTH, "config.json", &json);
    if (!e) e = cvt_hf_config_parse(json, "config.json", &s->config);
    if (!e) e = cvt_gguf_check_graph(&s->config, "config.json");
    cJSON_Delete(json);
    if (e) return fh1_where(e, "%s", s->f->path);
    const int64_t t = cvt_gguf_find_tensor(s->f, "token_embd.weight"); /* V is what the embedding has, as everywhere */
    if (t >= 0 && s->f->tensors[t].n_dims == 2) s->config.V = s->f->tensors[t].dim[1];
    if (s->config.n_layers > s->f->n_tensors)
        return fh1_where(FH1_BAD("the file has fewer tensors than the config has layers"), "%s", s->f->path);
    return fh1_where(fh1_config_check(&s->config), "%s", s->f->path);
}

static fh1_status check_architecture(const cvt_gguf_file *f)
{
    const char *text = "";
    uint64_t n = 0;
    FH1_TRY(cvt_gguf_get_text(f, "general.architecture", &text, &n));
    if (n == 9 && memcmp(text, "falcon-h1", 9) == 0) return NULL;
    return fh1_found(fh1_expected(fh1_where(FH1_BAD("the architecture of the model is not supported"),
                                            "%s, key \"general.architecture\"", f->path),
                                  "falcon-h1"),
                     "%.*s", n > 60 ? 60 : (int)n, n ? text : "none");
}

/* ---- tensors ---- */

static fh1_status find_source(cvt_gguf_state *s, const cvt_gguf_entry *e, cvt_gguf_source *out)
{
    *out = (cvt_gguf_source){.e = e};
    if (!e->name[0]) return NULL;
    const int64_t t = cvt_gguf_find_tensor(s->f, e->name);
    if (t < 0) return fh1_where(FH1_BAD("the tensor is missing"), "%s, tensor \"%s\"", s->f->path, e->name);
    const cvt_gguf_info *info = &s->f->tensors[t];
    for (int i = 0; i < CVT_GGUF_MAX_DIMS; i++) {
        const int64_t want = i < e->n_dims ? e->dim[i] : 1;
        if (info->dim[i] == want) continue;
        return cvt_gguf_at(
            fh1_found(fh1_expected(fh1_where(FH1_BAD("dimension %d of the tensor does not fit the config", i),
                                             "tensor \"%s\"", e->name),
                                   "%lld", (long long)want),
                      "%lld", (long long)info->dim[i]),
            s->f, info->at);
    }
    out->info = info;
    return cvt_gguf_check_supported(s->f, info);
}

/* The type of the original where it is known, else the file's; what was quantised becomes f32. */
static fh1_dtype dtype_of(const cvt_gguf_state *s, const cvt_gguf_source *src, const cvt_gguf_original *o)
{
    if (s->wide) return o && o->dtype == FH1_F64 ? FH1_F64 : FH1_F32;
    if (o) return o->dtype;
    if (!src->info) return FH1_F32;
    switch (src->info->format->id) {
    case CVT_GGUF_ID_F16: return FH1_F16;
    case CVT_GGUF_ID_BF16: return FH1_BF16;
    case CVT_GGUF_ID_F64: return FH1_F64;
    default: return FH1_F32;
    }
}

static fh1_status add_tensor(cvt_ckpt *c, cvt_gguf_state *s, const cvt_gguf_entry *e, const char *hf)
{
    const cvt_gguf_original *o = cvt_gguf_find_original(s, hf);
    cvt_gguf_source *src = &s->sources[s->n_sources];
    FH1_TRY(find_source(s, e, src));
    if (o && o->bytes) {
        bool fits;
        FH1_TRY(cvt_gguf_original_fits(s->f, src, o, &fits));
        if (fits) src->original = o;
        else
            cvt_text_add(&s->losses,
                         "the stored original of %s does not belong to the tensor of the file, which was "
                         "changed since: what it says is used\n",
                         hf);
    }
    FH1_TRY(cvt_ckpt_push_tensor(c, hf, dtype_of(s, src, o), e->rank, e->shape, c->n_files - 1, 0, s->n_sources));
    s->n_sources++;
    return NULL;
}

static fh1_status add_tensors(cvt_ckpt *c, cvt_gguf_state *s)
{
    FH1_TRY(cvt_gguf_map_new(&s->config, &s->map));
    s->sources = calloc((size_t)s->map.n + 1, sizeof *s->sources);
    s->used = calloc((size_t)s->f->n_tensors + 1, sizeof *s->used);
    if (!s->sources || !s->used) return fh1_no_memory((size_t)s->map.n * sizeof *s->sources, "the table of tensors");
    for (int64_t i = 0; i < s->map.n; i++) {
        const cvt_gguf_entry *e = &s->map.at[i];
        const bool tied_head = s->config.tied && strcmp(e->name, "output.weight") == 0;
        if (e->hf[0] && !tied_head) FH1_TRY(add_tensor(c, s, e, e->hf));
        const int64_t t = e->name[0] ? cvt_gguf_find_tensor(s->f, e->name) : -1;
        if (t >= 0) s->used[t] = true;
    }
    /* A head that was stored beside the embedding it is tied to: from the same tensor, to be the same bytes. */
    if (s->config.tied && cvt_gguf_find_original(s, "lm_head.weight"))
        return add_tensor(c, s, &s->map.at[0], "lm_head.weight");
    return NULL;
}

/* A bias of the output projection is in files of the stock converter, and llama.cpp does not add it. */
static fh1_status check_all_used(const cvt_gguf_state *s)
{
    for (int64_t i = 0; i < s->f->n_tensors; i++) {
        const cvt_gguf_info *t = &s->f->tensors[i];
        if (s->used[i] || cvt_has_suffix(t->name, ".attn_output.bias")) continue;
        return cvt_gguf_at(fh1_hint(fh1_where(FH1_BAD("the model has no use for the tensor"), "tensor \"%s\"", t->name),
                                    "stock llama.cpp refuses such a file too"),
                           s->f, t->at);
    }
    return NULL;
}

/* ---- all of it ---- */

static fh1_status fill(cvt_ckpt *c, cvt_gguf_state *s)
{
    FH1_TRY(s->own ? cvt_gguf_add_files(c, s) : make_config(c, s));
    FH1_TRY(read_config(c, s));
    FH1_TRY(cvt_gguf_check_model_keys(s->f, &s->config));
    FH1_TRY(cvt_gguf_read_originals(s));
    FH1_TRY(cvt_ckpt_push_file(c, "model.safetensors", true, 0, 0));
    FH1_TRY(cvt_gguf_add_metadata(c, s));
    FH1_TRY(add_tensors(c, s));
    FH1_TRY(check_all_used(s));
    FH1_TRY(cvt_ckpt_finish(c));
    FH1_TRY(cvt_gguf_note_losses(s));
    return s->losses.failed ? fh1_no_memory(s->losses.n, "the list of losses") : cvt_ckpt_lay_out(c);
}

static fh1_status open_gguf(const char *path, bool wide, cvt_ckpt **out)
{
    cvt_ckpt *c = NULL;
    *out = NULL;
    cvt_gguf_state *s = calloc(1, sizeof *s);
    if (!s) return fh1_no_memory(sizeof *s, "a GGUF file");
    s->wide = wide;
    fh1_status e = cvt_gguf_file_open(path, &s->f);
    if (!e) e = check_architecture(s->f);
    if (!e) e = cvt_gguf_check_private(s);
    if (!e) e = cvt_ckpt_new(path, &gguf_ops, s, &c);
    if (e) {
        free_gguf(s);
        return e;
    }
    e = fill(c, s);
    if (e) cvt_ckpt_close(c);
    else *out = c;
    return e;
}

fh1_status cvt_gguf_open(const char *path, cvt_ckpt **out)
{
    return open_gguf(path, false, out);
}

fh1_status cvt_gguf_open_wide(const char *path, cvt_ckpt **out)
{
    return open_gguf(path, true, out);
}
