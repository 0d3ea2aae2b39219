/* A small model for unit tests: every letter another number where the geometry allows, so that a
 * mixed-up axis shows. */
#pragma once

#include "oracle/config.h"

#include <math.h>
#include <string.h>

static inline fh1_config small_config(void)
{
    fh1_config c;
    memset(&c, 0, sizeof c);
    c.n_layers = 2;
    c.D = 11;
    c.V = 23;
    c.F = 13;
    c.Hq = 6;
    c.Hkv = 2;
    c.A = 8;
    c.H = 4;
    c.P = 3;
    c.N = 5;
    c.G = 2;
    c.K = 4;
    c.Q = 16;
    c.d_ssm = 12;
    c.mamba_conv_bias = c.mamba_rms_norm = true;
    c.eps = 1e-5;
    c.dt_hi = (double)INFINITY;
    c.rope.theta = 1e4;
    c.rope.max_position = 2048;
    double *multipliers[] = {&c.m_emb,  &c.m_lm,   &c.m_key,    &c.m_attn_in, &c.m_attn_out, &c.m_ssm_in, &c.m_ssm_out,
                             &c.m_gate, &c.m_down, &c.m_ssm[0], &c.m_ssm[1],  &c.m_ssm[2],   &c.m_ssm[3], &c.m_ssm[4]};
    for (int i = 0; i < 14; i++) *multipliers[i] = 0.25 + 0.125 * i;
    c.bos = 1;
    c.pad = 0;
    c.eos[0] = 2;
    c.n_eos = 1;
    return c;
}

/* Falcon-Mamba, every letter another number but those that are one in it. */
static inline fh1_config small_mamba_config(void)
{
    fh1_config c = small_config();
    c.family = FH1_FALCON_MAMBA;
    c.F = c.Hq = c.Hkv = c.A = 0;
    c.H = c.d_ssm = 18;
    c.P = c.G = c.Q = 1;
    c.N = 5;
    c.R = 3;
    c.mixer_eps = 1e-6;
    c.residual_in_fp32 = true;
    c.mamba_rms_norm = false;
    double *multipliers[] = {&c.m_emb,  &c.m_lm,   &c.m_key,    &c.m_attn_in, &c.m_attn_out, &c.m_ssm_in, &c.m_ssm_out,
                             &c.m_gate, &c.m_down, &c.m_ssm[0], &c.m_ssm[1],  &c.m_ssm[2],   &c.m_ssm[3], &c.m_ssm[4]};
    for (int i = 0; i < 14; i++) *multipliers[i] = 1;
    return c;
}
