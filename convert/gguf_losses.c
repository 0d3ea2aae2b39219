/* What an import cannot undo, in sentences. */
#include "convert/gguf_import.h"

#include <string.h>

/* Two counts that the export took: elements that do not come back, of those that are not in blocks. */
static fh1_status read_counts(const cvt_gguf_state *s, uint64_t *lost, uint64_t *all)
{
    const cvt_gguf_kv *kv = cvt_gguf_find_kv(s->f, CVT_GGUF_KEY_INEXACT);
    *lost = *all = 0;
    if (!s->own || !kv) return NULL;
    if (kv->kind != CVT_GGUF_ARRAY || kv->item != CVT_GGUF_U64 || kv->n != 2)
        return cvt_gguf_at(
            fh1_where(fh1_expected(FH1_BAD("the value is of the wrong type"), "two uint64"), "key \"%s\"", kv->key),
            s->f, kv->at);
    *lost = cvt_gguf_u64(s->f->head + kv->value_at);
    *all = cvt_gguf_u64(s->f->head + kv->value_at + 8);
    return NULL;
}

static fh1_status note_matrices(cvt_gguf_state *s)
{
    int64_t n_blocks = 0;
    const char *original = NULL, *stored = NULL;
    uint64_t lost, all;
    FH1_TRY(read_counts(s, &lost, &all));
    for (int64_t i = 0; i < s->n_sources; i++) {
        const cvt_gguf_source *src = &s->sources[i];
        if (!src->info) continue;
        const uint32_t id = src->info->format->id;
        const cvt_gguf_original *o = cvt_gguf_find_original(s, src->e->hf);
        n_blocks += id == CVT_GGUF_ID_Q8_0;
        if (!src->e->matrix) continue;
        if (!stored && id != CVT_GGUF_ID_Q8_0) stored = src->info->format->name;
        if (!original && o) original = fh1_dtype_name(o->dtype);
    }
    if (n_blocks)
        cvt_text_add(&s->losses, "%lld tensors are stored as Q8_0, which rounds every element%s%s\n",
                     (long long)n_blocks, original ? "; the originals were " : "", original ? original : "");
    if (lost && stored)
        cvt_text_add(&s->losses,
                     "%llu of %llu elements of the%s matrices do not come back bit for bit: they were rounded to "
                     "%s after folding\n",
                     (unsigned long long)lost, (unsigned long long)all, n_blocks ? " other" : "", stored);
    return NULL;
}

static fh1_status note_left_out(cvt_gguf_state *s)
{
    uint64_t n, at, len;
    if (!s->own) return NULL;
    FH1_TRY(cvt_gguf_strings(s->f, CVT_GGUF_KEY_LEFT_OUT, &n, &at));
    for (uint64_t i = 0; i < n; i++) {
        const char *name = cvt_gguf_next_string(s->f, &at, &len);
        cvt_text_add(&s->losses, "%.*s of the original folder is too large for a GGUF key and is not there\n",
                     len > 200 ? 200 : (int)len, name);
    }
    return NULL;
}

static void note_foreign(cvt_gguf_state *s)
{
    cvt_text_add(&s->losses, "the file says nothing about the multipliers: they stay in the weights and are 1 in "
                             "config.json, the function is the same\n"
                             "A_log is log(-A), rounded once\n");
    if (s->config.tied)
        cvt_text_add(&s->losses, "there is no output.weight: the head is the embedding with its multiplier, as "
                                 "llama.cpp takes it\n");
    if (cvt_gguf_find_kv(s->f, "tokenizer.ggml.tokens"))
        cvt_text_add(&s->losses, "the vocabulary is not written: take the tokenizer from the original folder\n");
    for (int64_t i = 0; i < s->f->n_tensors; i++) {
        if (!cvt_has_suffix(s->f->tensors[i].name, ".attn_output.bias")) continue;
        cvt_text_add(&s->losses, "the biases of the output projections (attn_output.bias) are left out: llama.cpp does "
                                 "not add them\n");
        break;
    }
}

fh1_status cvt_gguf_note_losses(cvt_gguf_state *s)
{
    FH1_TRY(note_matrices(s));
    FH1_TRY(note_left_out(s));
    if (!s->own) note_foreign(s);
    return NULL;
}
