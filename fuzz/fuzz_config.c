/* config.json.
 *
 * Config and dtype are what the second reading makes of the text; written down again in either form of the rope keys
 * they read the same; refusals come with the same message each time. */
#include "convert/hf_config.h"
#include "fuzz/fuzz.h"
#include "fuzz/mutate_json.h"
#include "fuzz/plant.h"
#include "fuzz/slow_config.h"

#include <stdlib.h>
#include <string.h>

/* A value of two bytes costs a node of cJSON (72) and four bytes for a number that is no integer, whose list may be
 * half empty and is copied when it grows; a message may print it all. */
enum { HEAP = 65536, HEAP_PER_BYTE = 100, MS = 5, MS_PER_KB = 5 };

typedef struct {
    const char *text;
    size_t n;
    fh1_config *config;
    fh1_dtype dtype;
    char line[2048], dtype_line[2048]; /* of the refusals; empty: read */
} reading;

static fh1_config first, again, slow; /* 9 kB each */

static void read_text(void *user)
{
    reading *r = user;
    cJSON *json;
    memset(r->config, 0, sizeof *r->config);
    r->line[0] = r->dtype_line[0] = '\0';
    fh1_status s = cvt_json_parse(r->text, r->n, CVT_HF_CONFIG_DEPTH, "config.json", &json);
    const bool parsed = !s;
    if (parsed) s = cvt_hf_config_parse(json, "config.json", r->config);
    if (s) fh1_status_line(s, r->line, sizeof r->line);
    FUZZ_CHECK(!s || s->code == FH1_E_INPUT, "code %d: %s", (int)s->code, r->line);
    if (parsed && cJSON_IsObject(json)) {
        s = cvt_hf_config_dtype_parse(json, "config.json", &r->dtype);
        if (s) fh1_status_line(s, r->dtype_line, sizeof r->dtype_line);
    }
    cJSON_Delete(json);
}

/* Addresses of the struct itself become NULL, so that two of them can be compared byte by byte. */
static void unbind(fh1_config *c)
{
    const double **const at[2] = {&c->rope.long_factor, &c->rope.short_factor};
    for (int k = 0; k < 2; k++) {
        FUZZ_CHECK(!*at[k] || *at[k] == c->factors[k], "the factors lie in another struct");
        *at[k] = NULL;
    }
}

static void same(const fh1_config *a, const fh1_config *b, const char *what)
{
    size_t i = 0;
    if (memcmp(a, b, sizeof *a) == 0) return;
    while (((const char *)a)[i] == ((const char *)b)[i]) i++;
    fuzz_finding(__FILE__, __LINE__, "memcmp(a, b) == 0", "%s: byte %zu of the config differs", what, i);
}

static void write_again(const fh1_config *c, bool v5)
{
    char *text = slow_config_write(c, v5);
    reading r = {.text = text, .n = strlen(text), .config = &again};
    read_text(&r);
    FUZZ_CHECK(!r.line[0], "written down again it is refused: %s: %s", r.line, text);
    unbind(&again);
    if (fuzz_planted("write")) again.G++;
    same(&first, &again, text);
    free(text);
}

static void compare(const reading *r, const slow_json *root)
{
    fh1_dtype dtype = FH1_F32;
    const bool taken = root && slow_config_read(root, &slow);
    FUZZ_CHECK(taken == !r->line[0], "the second reading %s it: %s", taken ? "takes" : "refuses", r->line);
    if (root && root->kind == SLOW_OBJECT) {
        const bool known = slow_config_dtype(root, &dtype);
        FUZZ_CHECK(known == !r->dtype_line[0] && (!known || dtype == r->dtype), "dtype %d, not %d: %s", (int)dtype,
                   (int)r->dtype, r->dtype_line);
    }
    if (!taken) return;
    fh1_config copy;
    fh1_config_copy(&copy, &first);
    unbind(&first);
    unbind(&slow);
    same(&first, &slow, "the second reading");
    fh1_config *const at = &copy; /* the lists are those of the copy */
    write_again(at, r->n % 2 == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    slow_json_without = getenv("FH1_FUZZ_PLANT");
    reading r = {.text = (const char *)data, .n = size, .config = &first};
    fuzz_bounds b;
    fuzz_bounds_begin(&b);
    read_text(&r);
    fuzz_bounds_end(&b, size, HEAP, HEAP_PER_BYTE, MS, MS_PER_KB, read_text, &r);
    fuzz_nothing_left(&b);
    if (size % 4 == 0) {
        reading twice = {.text = r.text, .n = r.n, .config = &again};
        read_text(&twice);
        FUZZ_CHECK(strcmp(r.line, twice.line) == 0, "'%s', then '%s'", r.line, twice.line);
    }
    slow_json *root = slow_json_read(r.text, r.n, CVT_HF_CONFIG_DEPTH);
    compare(&r, root);
    slow_json_free(root);
    return 0;
}

/* ---- mutations ---- */

static const char *const words[] = {
    "model_type",
    "falcon_h1",
    "falcon_mamba",
    "fh1_block",
    "S_A_M",
    "SAM",
    "expand",
    "state_size",
    "conv_kernel",
    "time_step_rank",
    "layer_norm_epsilon",
    "mixer_rms_eps",
    "residual_in_fp32",
    "use_bias",
    "use_conv_bias",
    "hidden_size",
    "num_hidden_layers",
    "vocab_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "mamba_d_ssm",
    "mamba_expand",
    "mamba_n_heads",
    "mamba_d_head",
    "auto",
    "mamba_n_groups",
    "mamba_d_state",
    "mamba_d_conv",
    "mamba_chunk_size",
    "mamba_rms_norm",
    "mamba_norm_before_gate",
    "mamba_use_mlp",
    "attention_bias",
    "hidden_act",
    "silu",
    "rms_norm_eps",
    "time_step_limit",
    "__float__",
    "Infinity",
    "eos_token_id",
    "attn_layer_indices",
    "ssm_multipliers",
    "mlp_multipliers",
    "key_multiplier",
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    "rope_type",
    "type",
    "default",
    "linear",
    "dynamic",
    "yarn",
    "llama3",
    "longrope",
    "factor",
    "attention_factor",
    "beta_fast",
    "beta_slow",
    "mscale",
    "mscale_all_dim",
    "truncate",
    "low_freq_factor",
    "high_freq_factor",
    "original_max_position_embeddings",
    "max_position_embeddings",
    "long_factor",
    "short_factor",
    "partial_rotary_factor",
    "dtype",
    "torch_dtype",
    "bfloat16",
    "float32",
    "tie_word_embeddings",
    NULL,
};

/* Lends values of rope objects. */
static const char other[] =
    "{\"rope_scaling\":{\"type\":\"yarn\",\"factor\":4.0,\"original_max_position_embeddings\":64,\"truncate\":false},"
    "\"rope_parameters\":{\"rope_type\":\"longrope\",\"rope_theta\":1e4,\"long_factor\":[1,2],\"short_factor\":[1,1.5],"
    "\"original_max_position_embeddings\":32},\"time_step_limit\":[0.0,{\"__float__\":\"Infinity\"}],"
    "\"eos_token_id\":[1,2],\"attn_layer_indices\":[0,1],\"max_position_embeddings\":128,\"mamba_d_head\":\"auto\","
    "\"rope\":{\"rope_type\":\"llama3\",\"factor\":8,\"low_freq_factor\":1,\"high_freq_factor\":4}}";

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned int seed)
{
    return fuzz_mutate_jsons(data, size, max_size, &(fuzz_json_stock){other, sizeof other - 1, words}, seed);
}
