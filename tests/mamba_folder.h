/* A small Falcon-Mamba folder made on the spot: D 18, I 28, N 5, R 3, K 4, V 23, two layers. */
#pragma once

#include "convert/hf_folder.h"
#include "tests/convert_test.h"

enum { MAMBA_D = 18, MAMBA_I = 28, MAMBA_N = 5, MAMBA_R = 3, MAMBA_K = 4, MAMBA_V = 23, MAMBA_L = 2 };

#define MAMBA_LAYER0 "backbone.layers.0.mixer."

/* DIR/NAME; `more`: further members of config.json, each with its comma. Without tie_word_embeddings it is tied. */
static inline void mamba_folder(const char *dir, const char *name, const char *more, fh1_dtype dtype, uint64_t seed)
{
    char text[2048], config[4096], out[4096];
    snprintf(text, sizeof text,
             "{\n  %s\n  \"model_type\": \"falcon_mamba\",\n  \"hidden_size\": %d,\n  \"intermediate_size\": %d,\n"
             "  \"expand\": 16,\n  \"state_size\": %d,\n  \"time_step_rank\": %d,\n  \"conv_kernel\": %d,\n"
             "  \"vocab_size\": %d,\n  \"num_hidden_layers\": %d,\n  \"hidden_act\": \"silu\",\n"
             "  \"layer_norm_epsilon\": 1e-05,\n  \"residual_in_fp32\": true,\n  \"use_conv_bias\": true,\n"
             "  \"use_bias\": %s,\n  \"torch_dtype\": \"float32\"\n}\n",
             more, MAMBA_D, MAMBA_I, MAMBA_N, MAMBA_R, MAMBA_K, MAMBA_V, MAMBA_L,
             strstr(more, "biased") ? "true" : "false");
    write_text(dir, "mamba.json", text);
    path_in(config, sizeof config, dir, "mamba.json");
    path_in(out, sizeof out, dir, name);
    expect_ok(cvt_hf_folder_init(config, out, seed, dtype, true), name);
}
