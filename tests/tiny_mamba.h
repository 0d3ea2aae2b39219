/* Two small Falcon-Mamba models in memory: biases on and off, tied and untied, f32 and bf16 weights, both residuals. */
#pragma once

#include "tests/tiny_model.h"

enum { TINY_MAMBA_KINDS = 2 };

static inline fh1_config tiny_mamba_config(int kind)
{
    const bool second = kind == 1;
    fh1_config c = {
        .family = FH1_FALCON_MAMBA,
        .n_layers = 3,
        .D = 12,
        .V = TINY_V,
        .H = second ? 22 : 17,
        .P = 1,
        .N = second ? 3 : 6,
        .G = 1,
        .K = second ? 3 : 4,
        .Q = 1,
        .d_ssm = second ? 22 : 17,
        .R = second ? 5 : 2,
        .mixer_eps = 1e-3, /* large enough to be seen beside activations of order one */
        .residual_in_fp32 = !second,
        .mamba_proj_bias = second,
        .projectors_bias = second,
        .mamba_conv_bias = !second,
        .tied = second,
        .eps = 1e-5,
        .dt_hi = (double)INFINITY,
        .m_emb = 1,
        .m_lm = 1,
        .m_key = 1,
        .m_attn_in = 1,
        .m_attn_out = 1,
        .m_ssm_in = 1,
        .m_ssm_out = 1,
        .m_gate = 1,
        .m_down = 1,
        .m_ssm = {1, 1, 1, 1, 1},
        .bos = -1,
        .pad = -1,
    };
    return c;
}
