/* The vocabulary of a GGUF file, from tokenizer.json: byte-level BPE, as the published models have it. */
#include "convert/gguf_export.h"

#include "convert/json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_TOKENIZER ((size_t)64 << 20) /* 16 MB for the largest vocabulary */
#define MAX_SIDE ((size_t)4 << 20)
#define MAX_DEPTH 32

typedef enum { NORMAL = 1, CONTROL = 3, USER_DEFINED = 4, UNUSED = 5 } token_type;

typedef struct {
    const char *text; /* of the JSON tree; NULL: no token has the number */
    token_type type;
} token;

typedef struct {
    cvt_ckpt *c;
    cvt_gguf_writer *w;
    const fh1_config *g;
    cJSON *tokenizer, *settings; /* tokenizer.json; tokenizer_config.json or NULL */
    token *tokens;               /* g->V */
} vocabulary;

static fh1_status bad(const vocabulary *v, fh1_status s, const char *where)
{
    return fh1_hint(fh1_where(s, "%s, tokenizer.json, %s", v->c->path, where),
                    "without tokenizer.json the model is exported without a vocabulary");
}

static fh1_status read_json(cvt_ckpt *c, const char *name, size_t most, cJSON **out)
{
    char *text;
    size_t n;
    const int64_t i = cvt_ckpt_find_file(c, name);
    *out = NULL;
    if (i < 0 || c->files[i].weights) return NULL;
    FH1_TRY(cvt_ckpt_file_text(c, i, most, &text, &n));
    fh1_status s = cvt_json_parse(text, n, MAX_DEPTH, name, out);
    free(text);
    return s ? fh1_where(s, "%s", c->path) : NULL;
}

static const char *text_of(const cJSON *object, const char *key)
{
    return cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(object, key));
}

static bool is_type(const cJSON *part, const char *type)
{
    const char *t = text_of(part, "type");
    return t && strcmp(t, type) == 0;
}

/* A part of this type, alone or in a sequence (`list` is the name of its array); NULL: none. */
static const cJSON *find_part(const cJSON *part, const char *list, const char *type)
{
    if (is_type(part, type)) return part;
    const cJSON *e;
    cJSON_ArrayForEach(e, cJSON_GetObjectItemCaseSensitive(part, list)) if (is_type(e, type)) return e;
    return NULL;
}

/* ---- tokens ---- */

static fh1_status set_token(vocabulary *v, const cJSON *id, const char *text, token_type type, const char *where)
{
    int64_t i;
    if (!text || !id || !cvt_json_is_int(id, &i) || i < 0)
        return bad(v, FH1_BAD("an entry is not a text with a number"), where);
    if (i >= v->g->V)
        return bad(v,
                   fh1_found(fh1_expected(FH1_BAD("token \"%.80s\" has no row in the embedding", text),
                                          "a number below %lld", (long long)v->g->V),
                             "%lld", (long long)i),
                   where);
    if (v->tokens[i].text && strcmp(v->tokens[i].text, text) != 0)
        return bad(
            v, FH1_BAD("tokens \"%.80s\" and \"%.80s\" have the number %lld", v->tokens[i].text, text, (long long)i),
            where);
    v->tokens[i] = (token){text, type};
    return NULL;
}

/* Some models mark control tokens as not special; llama.cpp's converter goes by their looks too. */
static bool looks_special(const char *text)
{
    const size_t n = strlen(text);
    return strcmp(text, "<pad>") == 0 || strcmp(text, "<mask>") == 0 ||
           (n >= 4 && strncmp(text, "<|", 2) == 0 && strcmp(text + n - 2, "|>") == 0) ||
           (strncmp(text, "<unused", 7) == 0 && text[n - 1] == '>');
}

static fh1_status collect_tokens(vocabulary *v, const cJSON *model)
{
    const cJSON *vocab = cJSON_GetObjectItemCaseSensitive(model, "vocab"), *e;
    const cJSON *added = cJSON_GetObjectItemCaseSensitive(v->tokenizer, "added_tokens");
    if (!cJSON_IsObject(vocab)) return bad(v, FH1_BAD("there is no vocabulary"), "model.vocab");
    v->tokens = calloc((size_t)v->g->V, sizeof *v->tokens);
    if (!v->tokens) return fh1_no_memory((size_t)v->g->V * sizeof *v->tokens, "the vocabulary");
    cJSON_ArrayForEach(e, vocab) FH1_TRY(set_token(v, e, e->string, NORMAL, "model.vocab"));
    cJSON_ArrayForEach(e, added)
    {
        const char *text = text_of(e, "content");
        const bool special = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(e, "special"));
        FH1_TRY(set_token(v, cJSON_GetObjectItemCaseSensitive(e, "id"), text,
                          special || (text && looks_special(text)) ? CONTROL : USER_DEFINED, "added_tokens"));
    }
    return NULL;
}

static void put_tokens(const vocabulary *v)
{
    const int64_t V = v->g->V;
    cvt_gguf_put_array(v->w, "tokenizer.ggml.tokens", CVT_GGUF_STRING, (uint64_t)V);
    for (int64_t i = 0; i < V; i++) {
        char pad[32];
        snprintf(pad, sizeof pad, "[PAD%lld]", (long long)i);
        const char *text = v->tokens[i].text ? v->tokens[i].text : pad;
        cvt_gguf_add_string(v->w, text, strlen(text));
    }
    cvt_gguf_put_array(v->w, "tokenizer.ggml.token_type", CVT_GGUF_I32, (uint64_t)V);
    for (int64_t i = 0; i < V; i++) cvt_gguf_add_number(v->w, v->tokens[i].text ? v->tokens[i].type : UNUSED, 4);
}

/* ---- merges ---- */

/* Half of a merge; a space in it, which separates the halves, is spelled as its byte is. */
static void add_half(cvt_text *b, const char *half)
{
    for (; *half; half++) {
        if (*half == ' ') cvt_text_bytes(b, "\xc4\xa0", 2);
        else cvt_text_bytes(b, half, 1);
    }
}

static fh1_status put_merges(const vocabulary *v, const cJSON *model)
{
    const cJSON *merges = cJSON_GetObjectItemCaseSensitive(model, "merges"), *e;
    if (!cJSON_IsArray(merges)) return bad(v, FH1_BAD("there are no merges"), "model.merges");
    cvt_gguf_put_array(v->w, "tokenizer.ggml.merges", CVT_GGUF_STRING, (uint64_t)cJSON_GetArraySize(merges));
    cvt_text pair = {0};
    cJSON_ArrayForEach(e, merges)
    {
        const char *text = cJSON_GetStringValue(e);
        const char *a = cJSON_IsArray(e) ? cJSON_GetStringValue(e->child) : NULL;
        const char *b = a && e->child->next && !e->child->next->next ? cJSON_GetStringValue(e->child->next) : NULL;
        if (!text && !b) {
            free(pair.s);
            return bad(v, FH1_BAD("a merge is neither a text nor a pair of texts"), "model.merges");
        }
        pair.n = 0;
        if (b) {
            add_half(&pair, a);
            cvt_text_bytes(&pair, " ", 1);
            add_half(&pair, b);
        }
        cvt_gguf_add_string(v->w, b ? pair.s : text, b ? pair.n : strlen(text));
    }
    fh1_status s = pair.failed ? fh1_no_memory(pair.n, "a merge") : NULL;
    free(pair.s);
    return s;
}

/* ---- special tokens ---- */

/* The number of a token that tokenizer_config.json names, as a text or as an object; else `otherwise`. */
static int64_t special_id(const vocabulary *v, const char *key, int64_t otherwise)
{
    const cJSON *e = cJSON_GetObjectItemCaseSensitive(v->settings, key);
    const char *text = cJSON_IsObject(e) ? text_of(e, "content") : cJSON_GetStringValue(e);
    for (int64_t i = 0; text && i < v->g->V; i++)
        if (v->tokens[i].text && v->tokens[i].type != NORMAL && strcmp(v->tokens[i].text, text) == 0) return i;
    return otherwise;
}

static void put_id(const vocabulary *v, const char *key, int64_t id)
{
    if (id >= 0 && id < v->g->V) cvt_gguf_put_uint(v->w, key, (uint64_t)id);
}

/* Is the token added to every text? What tokenizer.json does decides, then what the settings say; llama.cpp's own
 * default for this kind of vocabulary would add a bos. */
static bool is_added(const vocabulary *v, bool first, int64_t id, const char *setting)
{
    const cJSON *post = cJSON_GetObjectItemCaseSensitive(v->tokenizer, "post_processor");
    const cJSON *template = find_part(post, "processors", "TemplateProcessing");
    const cJSON *single = cJSON_GetObjectItemCaseSensitive(template, "single");
    const int n = cJSON_GetArraySize(single);
    if (n > 1) {
        const cJSON *piece = cJSON_GetArrayItem(single, first ? 0 : n - 1);
        const char *text = text_of(cJSON_GetObjectItemCaseSensitive(piece, "SpecialToken"), "id");
        return text && id >= 0 && id < v->g->V && v->tokens[id].text && strcmp(v->tokens[id].text, text) == 0;
    }
    if (find_part(post, "processors", "ByteLevel")) return false;
    return cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(v->settings, setting));
}

static void put_special(const vocabulary *v)
{
    const fh1_config *g = v->g;
    const int64_t bos = special_id(v, "bos_token", g->bos);
    const int64_t eos = special_id(v, "eos_token", g->n_eos ? g->eos[0] : -1);
    put_id(v, "tokenizer.ggml.bos_token_id", bos);
    put_id(v, "tokenizer.ggml.eos_token_id", eos);
    put_id(v, "tokenizer.ggml.padding_token_id", special_id(v, "pad_token", g->pad));
    put_id(v, "tokenizer.ggml.unknown_token_id", special_id(v, "unk_token", -1));
    cvt_gguf_put_bool(v->w, "tokenizer.ggml.add_bos_token", is_added(v, true, bos, "add_bos_token"));
    cvt_gguf_put_bool(v->w, "tokenizer.ggml.add_eos_token", is_added(v, false, eos, "add_eos_token"));
}

/* From tokenizer_config.json (of several the one called default), else the file of its own. */
static fh1_status put_chat_template(const vocabulary *v)
{
    const cJSON *e = cJSON_GetObjectItemCaseSensitive(v->settings, "chat_template"), *item;
    const char *text = cJSON_GetStringValue(e);
    cJSON_ArrayForEach(item, e)
    {
        const char *name = text_of(item, "name");
        if (name && strcmp(name, "default") == 0) text = text_of(item, "template");
    }
    if (text) {
        cvt_gguf_put_text(v->w, "tokenizer.chat_template", text, strlen(text));
        return NULL;
    }
    char *file;
    size_t n;
    const int64_t i = cvt_ckpt_find_file(v->c, "chat_template.jinja");
    if (i < 0) return NULL;
    FH1_TRY(cvt_ckpt_file_text(v->c, i, MAX_SIDE, &file, &n));
    cvt_gguf_put_text(v->w, "tokenizer.chat_template", file, n);
    free(file);
    return NULL;
}

static fh1_status put_all(vocabulary *v)
{
    const cJSON *model = cJSON_GetObjectItemCaseSensitive(v->tokenizer, "model");
    const char *type = text_of(model, "type");
    if (!cJSON_IsObject(model) || (type && strcmp(type, "BPE") != 0))
        return bad(v,
                   fh1_found(fh1_expected(FH1_BAD("this kind of tokenizer is not supported"), "BPE"), "%.60s",
                             type ? type : "no model"),
                   "model.type");
    if (!find_part(cJSON_GetObjectItemCaseSensitive(v->tokenizer, "pre_tokenizer"), "pretokenizers", "ByteLevel") &&
        !find_part(cJSON_GetObjectItemCaseSensitive(v->tokenizer, "decoder"), "decoders", "ByteLevel"))
        return bad(v, FH1_BAD("the BPE of this tokenizer is not over bytes, which is not supported"), "pre_tokenizer");
    cvt_gguf_put_text(v->w, "tokenizer.ggml.model", "gpt2", 4);
    cvt_gguf_put_text(v->w, "tokenizer.ggml.pre", "falcon-h1", 9);
    FH1_TRY(collect_tokens(v, model));
    put_tokens(v);
    FH1_TRY(put_merges(v, model));
    put_special(v);
    return put_chat_template(v);
}

fh1_status cvt_gguf_put_vocabulary(cvt_gguf_writer *w, cvt_ckpt *c, const fh1_config *g)
{
    vocabulary v = {.c = c, .w = w, .g = g};
    fh1_status s = read_json(c, "tokenizer.json", MAX_TOKENIZER, &v.tokenizer);
    if (!s && !v.tokenizer) {
        cvt_gguf_put_text(w, "tokenizer.ggml.model", "none", 4);
        return NULL;
    }
    if (!s) s = read_json(c, "tokenizer_config.json", MAX_SIDE, &v.settings);
    if (!s) s = put_all(&v);
    free(v.tokens);
    cJSON_Delete(v.tokenizer);
    cJSON_Delete(v.settings);
    return s;
}
