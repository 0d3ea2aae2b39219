/* The keys of a GGUF file that describe the model, with the types and names of stock llama.cpp's converter. */
#include "convert/gguf_import.h"

#include "convert/fault.h"

#include <string.h>

static int file_type(cvt_gguf_type type)
{
    switch (type) {
    case CVT_GGUF_F16: return 1;
    case CVT_GGUF_Q8_0: return 7;
    case CVT_GGUF_BF16: return 32;
    default: return 0;
    }
}

static void put_text(cvt_gguf_writer *w, const char *key, const char *text)
{
    cvt_gguf_put_text(w, key, text, strlen(text));
}

/* The last part of the path that the user named. */
static void put_name(cvt_gguf_writer *w, const char *path)
{
    size_t n = strlen(path);
    while (n > 0 && path[n - 1] == '/') n--;
    size_t begin = n;
    while (begin > 0 && path[begin - 1] != '/') begin--;
    if (n > begin) cvt_gguf_put_text(w, "general.name", path + begin, n - begin);
}

typedef struct {
    const char *key;
    int64_t value;
} size_key;

enum { N_SIZES = 14 };

static void list_sizes(const fh1_config *g, size_key *out)
{
    const size_key sizes[N_SIZES] = {
        {"falcon-h1.context_length", g->rope.max_position},
        {"falcon-h1.embedding_length", g->D},
        {"falcon-h1.block_count", g->n_layers},
        {"falcon-h1.feed_forward_length", g->F},
        {"falcon-h1.vocab_size", g->V},
        {"falcon-h1.attention.head_count", g->Hq},
        {"falcon-h1.attention.head_count_kv", g->Hkv},
        {"falcon-h1.attention.key_length", g->A},
        {"falcon-h1.attention.value_length", g->A},
        {"falcon-h1.ssm.conv_kernel", g->K},
        {"falcon-h1.ssm.inner_size", g->d_ssm},
        {"falcon-h1.ssm.state_size", g->N},
        {"falcon-h1.ssm.time_step_rank", g->H}, /* the number of heads */
        {"falcon-h1.ssm.group_count", g->G},
    };
    memcpy(out, sizes, sizeof sizes);
}

fh1_status cvt_gguf_put_model_keys(cvt_gguf_writer *w, cvt_ckpt *c, const fh1_config *g, cvt_gguf_type type)
{
    size_key sizes[N_SIZES];
    list_sizes(g, sizes);
    put_text(w, "general.architecture", "falcon-h1");
    put_text(w, "general.type", "model");
    put_name(w, c->path);
    cvt_gguf_put_uint(w, "general.alignment", CVT_GGUF_ALIGNMENT);
    cvt_gguf_put_uint(w, "general.quantization_version", 2);
    cvt_gguf_put_uint(w, "general.file_type", (uint64_t)file_type(type));
    for (int i = 0; i < N_SIZES; i++) cvt_gguf_put_uint(w, sizes[i].key, (uint64_t)sizes[i].value);
    cvt_gguf_put_real(w, "falcon-h1.attention.layer_norm_rms_epsilon", g->eps);
    if (!CVT_FAULT(THETA_NOT_WRITTEN)) cvt_gguf_put_real(w, "falcon-h1.rope.freq_base", g->rope.theta);
    if (g->rope.type == FH1_ROPE_LINEAR) {
        put_text(w, "falcon-h1.rope.scaling.type", "linear");
        cvt_gguf_put_real(w, "falcon-h1.rope.scaling.factor", g->rope.factor);
    }
    return NULL;
}

static fh1_status contradiction(const cvt_gguf_file *f, const char *key, double config, double file)
{
    fh1_status s = fh1_where(FH1_BAD("the key says something else than config.json"), "key \"%s\"", key);
    s = fh1_hint(fh1_found(fh1_expected(s, "%.9g", config), "%.9g", file),
                 "the file was edited after its conversion; convert the original model anew");
    return cvt_gguf_at(s, f, cvt_gguf_find_kv(f, key)->at);
}

static fh1_status check_real(const cvt_gguf_file *f, const char *key, double config)
{
    float v = (float)config;
    FH1_TRY(cvt_gguf_get_real(f, key, &v));
    return v == (float)config ? NULL : contradiction(f, key, config, (double)v);
}

fh1_status cvt_gguf_check_model_keys(const cvt_gguf_file *f, const fh1_config *g)
{
    size_key sizes[N_SIZES];
    list_sizes(g, sizes);
    for (int i = 0; i < N_SIZES; i++) {
        uint64_t v = (uint64_t)sizes[i].value;
        FH1_TRY(cvt_gguf_get_uint(f, sizes[i].key, &v));
        if (v != (uint64_t)sizes[i].value) return contradiction(f, sizes[i].key, (double)sizes[i].value, (double)v);
    }
    FH1_TRY(check_real(f, "falcon-h1.attention.layer_norm_rms_epsilon", g->eps));
    return check_real(f, "falcon-h1.rope.freq_base", g->rope.theta);
}
