"""The golden models of FalconMamba: geometry and weights (make_models.py).

The weights behave like trained ones, as those of make_models.py do. Besides, x_proj is so small that the dt, B and C that
it makes have a mean square of the size of mixer_rms_eps: an engine with another eps in the three inner norms is off by
several percent.
"""
import json
import math

import torch

MODELS = {
    # As released: no bias but of conv and dt, an f32 residual, and mixer_rms_eps the class default.
    "mamba-untied": dict(
        hidden_size=24, intermediate_size=48, expand=2, num_hidden_layers=3, vocab_size=64,
        state_size=8, time_step_rank=4, conv_kernel=4, use_bias=False, use_conv_bias=True,
        layer_norm_epsilon=1e-5, mixer_rms_eps=1e-6, residual_in_fp32=True, tie_word_embeddings=False,
    ),
    # What no release has: biases of the products, none of the conv, a residual in the model's type, K = 3, widths that
    # share no divisor, a width that is not expand * hidden_size, and the larger eps in the inner norms.
    "mamba-tied": dict(
        hidden_size=27, intermediate_size=45, expand=2, num_hidden_layers=2, vocab_size=61,
        state_size=5, time_step_rank=6, conv_kernel=3, use_bias=True, use_conv_bias=False,
        layer_norm_epsilon=2e-6, mixer_rms_eps=3e-5, residual_in_fp32=False, tie_word_embeddings=True,
    ),
}
COMMON = dict(hidden_act="silu", bos_token_id=1, eos_token_id=11, pad_token_id=0)

# What a release's config.json holds: keys of 4.x, and not all of them.
RELEASED = ["architectures", "bos_token_id", "conv_kernel", "eos_token_id", "expand", "hidden_act", "hidden_size",
            "intermediate_size", "layer_norm_epsilon", "model_type", "num_hidden_layers", "pad_token_id",
            "rescale_prenorm_residual", "residual_in_fp32", "state_size", "tie_word_embeddings", "time_step_rank",
            "use_bias", "use_conv_bias", "vocab_size"]
AS_RELEASED = "mamba-untied-bf16"


def as_released(path):
    """Rewrite a config.json in the keys of the released models, mixer_rms_eps absent."""
    config = json.loads(path.read_text())
    out = {k: config[k] for k in RELEASED} | {"torch_dtype": config["dtype"]}
    path.write_text(json.dumps(out, indent=2, sort_keys=True) + "\n")


def draw(c, name, shape, normal, uniform):
    """One parameter, in f64. normal(shape) and uniform(shape, lo, hi) are random in (seed, name)."""
    key = name.split(".")[-2] if name.endswith((".weight", ".bias")) else name.split(".")[-1]
    bias = name.endswith(".bias")
    if key == "embeddings":
        # A tied head sees its own token in the residual stream; at full size it would repeat it for ever.
        return (0.5 if c.tie_word_embeddings else 1.0) * normal(shape)
    if key in ("norm", "norm_f"):
        return 1.0 + 0.1 * normal(shape)
    if key == "A_log":
        a = uniform(shape, 1.0, 16.0)
        a[0], a[-1] = 16.0, 1.0
        return torch.log(a)
    if key == "dt_proj" and bias:
        dt = torch.exp(uniform(shape, math.log(1e-3), math.log(1e-1)))
        dt[0], dt[-1] = 0.1, 0.001
        return dt + torch.log(-torch.expm1(-dt))  # the inverse of softplus
    if key == "D":
        return 1.0 + 0.2 * normal(shape)
    if key == "conv1d":
        if bias:
            return 0.2 * normal(shape)
        w = 0.45 * normal(shape)
        w[..., -1] += 0.6  # the current token counts most
        return w
    if bias:
        return {"in_proj": 0.36, "out_proj": 0.2}[key] * normal(shape)
    # Behind x_proj stand norms: its size counts beside mixer_rms_eps alone. 0.8 in dt is a factor of 2.
    gain = {"in_proj": 1.2, "x_proj": 0.01, "dt_proj": 0.8, "out_proj": 0.9, "lm_head": 2.5}[key]
    return gain / math.sqrt(shape[1]) * normal(shape)
