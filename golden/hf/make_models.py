#!/usr/bin/env python3
"""Make the golden models: tiny Falcon-H1 and FalconMamba checkpoints, each in float32 and in bfloat16.

They are written by the library's own save_pretrained and left as it writes them, but for one config.json that is made
that of a FalconMamba release. The weights are random but behave like trained ones:
  * the linear weights undo the muP multipliers, as training does (||W|| is huge where the
    multiplier is tiny), so that every branch adds something of size 1 to the residual stream;
  * A_log and dt_bias come from Mamba's initialisation, with both ends forced: head 0 forgets within
    three tokens, the last head remembers a thousand;
  * no weight that could hide a fault is trivial: norms are not 1, biases are not 0.

Random means (seed, name): a tensor depends on its own name only, so adding one changes no other. FalconMamba's are in
mamba_models.py.
"""
import argparse
import fnmatch
import math
import zlib
from pathlib import Path

import torch
import transformers
from transformers import FalconH1Config, FalconH1ForCausalLM, FalconMambaConfig, FalconMambaForCausalLM

import mamba_models

COMMON = dict(
    num_hidden_layers=3,
    mamba_d_conv=4,
    mamba_expand=2,
    mamba_conv_bias=True,
    hidden_act="silu",
    rms_norm_eps=1e-5,
    initializer_range=0.02,
    max_position_embeddings=16384,
    bos_token_id=1,
    eos_token_id=11,
    pad_token_id=0,
    num_logits_to_keep=1,
)

# Widths differ pairwise where a transposition could otherwise hide: A, P and N; Hq*A and D; d_ssm and 2D.
MODELS = {
    # The 0.5B: no norm in the mixer, one group, grouped-query attention 4:1, the release's multipliers.
    "mini-0.5b": dict(
        hidden_size=32, intermediate_size=56, vocab_size=96,
        num_attention_heads=8, num_key_value_heads=2, head_dim=8,
        mamba_d_ssm=60, mamba_n_heads=6, mamba_d_head=10, mamba_d_state=12, mamba_n_groups=1,
        mamba_chunk_size=32, mamba_rms_norm=False, mamba_norm_before_gate=False,
        rope_theta=100000000000.0,
        embedding_multiplier=5.656854249492381, lm_head_multiplier=0.0390625,
        key_multiplier=0.39062499999999994,
        attention_in_multiplier=1.0, attention_out_multiplier=0.9375,
        ssm_in_multiplier=1.25, ssm_out_multiplier=0.23570226039551587,
        ssm_multipliers=[0.3535533905932738, 0.25, 0.3535533905932738, 0.5, 0.3535533905932738],
        mlp_multipliers=[0.8838834764831844, 0.5859375],
    ),
    # The 34B: gate, then a norm over each of two groups; the release's multipliers, down to 1/128.
    "mini-34b": dict(
        hidden_size=40, intermediate_size=60, vocab_size=104,
        num_attention_heads=6, num_key_value_heads=2, head_dim=8,
        mamba_d_ssm=48, mamba_n_heads=4, mamba_d_head=12, mamba_d_state=10, mamba_n_groups=2,
        mamba_chunk_size=32, mamba_rms_norm=True, mamba_norm_before_gate=False,
        rope_theta=100000000000.0,
        embedding_multiplier=5.656854249492381, lm_head_multiplier=0.0078125,
        key_multiplier=0.011048543456039804,
        attention_in_multiplier=1.0, attention_out_multiplier=0.0375,
        ssm_in_multiplier=0.25, ssm_out_multiplier=0.08838834764831845,
        ssm_multipliers=[0.3535533905932738, 0.25, 0.1767766952966369, 0.5, 0.3535533905932738],
        mlp_multipliers=[0.1767766952966369, 0.011160714285714284],
    ),
    # Every option that no release uses, at once, and fourteen different multipliers.
    "odd": dict(
        hidden_size=33, intermediate_size=45, vocab_size=97,
        num_attention_heads=6, num_key_value_heads=2, head_dim=8,
        mamba_d_ssm=42, mamba_n_heads=6, mamba_d_head=7, mamba_d_state=9, mamba_n_groups=3,
        mamba_chunk_size=16, mamba_rms_norm=True, mamba_norm_before_gate=True,
        attention_bias=True, mlp_bias=True, mamba_proj_bias=True, projectors_bias=True,
        tie_word_embeddings=True, time_step_limit=[0.01, 0.1],
        rope_theta=12345.0,
        embedding_multiplier=2.3, lm_head_multiplier=1.13,
        key_multiplier=0.47,
        attention_in_multiplier=1.37, attention_out_multiplier=0.71,
        ssm_in_multiplier=0.83, ssm_out_multiplier=0.39,
        ssm_multipliers=[0.57, 0.31, 0.43, 0.67, 1.21],
        mlp_multipliers=[0.89, 0.53],
    ),
}


def generator(seed, name):
    g = torch.Generator()
    g.manual_seed((seed << 32) + zlib.crc32(name.encode()))
    return g


def normal(seed, name, shape):
    return torch.randn(shape, generator=generator(seed, name), dtype=torch.float64)


def uniform(seed, name, shape, lo, hi):
    return lo + (hi - lo) * torch.rand(shape, generator=generator(seed, name), dtype=torch.float64)


def weight_scale(c, key, fan_in):
    """Standard deviation of a weight, such that its output after the multipliers is about `gain`."""
    m_gate, m_down = c.mlp_multipliers
    gain, multipliers = {
        "q_proj": (1.6, c.attention_in_multiplier),
        "k_proj": (1.6, c.attention_in_multiplier * c.key_multiplier),
        "v_proj": (1.0, c.attention_in_multiplier),
        "o_proj": (1.1, c.attention_out_multiplier),
        "out_proj": (0.9, c.ssm_out_multiplier),
        "gate_proj": (1.3, m_gate),
        "up_proj": (1.0, 1.0),
        "down_proj": (1.2, m_down),
        "lm_head": (2.5, c.lm_head_multiplier),
    }[key]
    return gain / (multipliers * math.sqrt(fan_in))


def draw(c, name, shape, seed):
    """One parameter, in f64."""
    if c.model_type == "falcon_mamba":
        return mamba_models.draw(c, name, shape, lambda s: normal(seed, name, s), lambda s, *r: uniform(seed, name, s, *r))
    key = name.split(".")[-2] if name.endswith((".weight", ".bias")) else name.split(".")[-1]
    if key == "embed_tokens":
        # A tied head sees its own token in the residual stream; at full size it would repeat it for ever.
        return (0.5 if c.tie_word_embeddings else 1.0) * normal(seed, name, shape) / c.embedding_multiplier
    if key == "A_log":
        a = uniform(seed, name, shape, 1.0, 16.0)
        a[0], a[-1] = 16.0, 1.0
        return torch.log(a)
    if key == "dt_bias":
        dt = torch.exp(uniform(seed, name, shape, math.log(1e-3), math.log(1e-1)))
        dt[0], dt[-1] = 0.1, 0.001
        return dt + torch.log(-torch.expm1(-dt))  # the inverse of softplus
    if key == "D":
        return 1.0 + 0.2 * normal(seed, name, shape)
    if key == "norm" or key.endswith("layernorm"):
        return 1.0 + 0.1 * normal(seed, name, shape)
    if key == "conv1d":
        if name.endswith("bias"):
            return 0.2 * normal(seed, name, shape)
        w = 0.45 * normal(seed, name, shape)
        w[..., -1] += 0.6  # the current token counts most
        return w
    if key == "in_proj":
        d, gn = c.mamba_d_ssm, c.mamba_n_groups * c.mamba_d_state
        widths = [d, d, gn, gn, c.mamba_n_heads]
        # Sizes after the multipliers. B and C are large enough for the state to matter beside D x;
        # 0.8 in the data-dependent part of dt is a factor of 2 in dt.
        gains = torch.cat([torch.full((n,), g / m, dtype=torch.float64)
                           for n, g, m in zip(widths, [1.2, 1.2, 2.0, 2.2, 0.8], c.ssm_multipliers)])
        if name.endswith("bias"):
            return 0.3 * gains * normal(seed, name, shape)
        return gains[:, None] / (c.ssm_in_multiplier * math.sqrt(shape[1])) * normal(seed, name, shape)
    if name.endswith("bias"):
        # Large enough to be seen behind the multiplier that follows.
        return 0.2 * weight_scale(c, key, 1.0) * normal(seed, name, shape)
    return weight_scale(c, key, shape[1]) * normal(seed, name, shape)


def build(name, seed):
    if name in MODELS:
        config = FalconH1Config(**COMMON, **MODELS[name])
        config._attn_implementation = "eager"
        model = FalconH1ForCausalLM(config)
    else:
        model = FalconMambaForCausalLM(FalconMambaConfig(**mamba_models.COMMON, **mamba_models.MODELS[name]))
    model.to(torch.float32).eval()
    with torch.no_grad():
        for key, p in model.named_parameters():
            p.copy_(draw(model.config, key, tuple(p.shape), seed).to(torch.float32))
    return model


def main():
    parser = argparse.ArgumentParser(description="Write the golden models with transformers' save_pretrained.")
    parser.add_argument("-o", "--out", default=str(Path(__file__).resolve().parent.parent / "models"),
                        help="folder that receives NAME and NAME-bf16 (default: golden/models)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="*", metavar="GLOB", help="models to make, as 'mamba-*'")
    args = parser.parse_args()
    if transformers.__version__ != "5.23.0":
        raise SystemExit(f"make_models.py: transformers 5.23.0 is pinned (found {transformers.__version__}); "
                         "install golden/hf/requirements.txt")
    for name in fnmatch.filter([*MODELS, *mamba_models.MODELS], args.only):
        model = build(name, args.seed)
        model.save_pretrained(Path(args.out) / name)
        model.to(torch.bfloat16).save_pretrained(Path(args.out) / f"{name}-bf16")
        if f"{name}-bf16" == mamba_models.AS_RELEASED:
            mamba_models.as_released(Path(args.out) / f"{name}-bf16" / "config.json")
        n = sum(p.numel() for p in model.parameters())
        print(f"{name}: {n} parameters")


if __name__ == "__main__":
    main()
