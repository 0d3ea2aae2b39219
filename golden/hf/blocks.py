"""The block variants of the Falcon-H1 report, which no release has: the library's own mixer, attention, MLP and norms,
wired in the report's two other orders. Which one is config.json's fh1_block; a config without it is the library's own.

    SA_M    x += mixer(N x) + attention(N x);  x += mlp(N' x)         as released
    SAM     x += mixer(N x) + attention(N x) + mlp(N x)
    S_A_M   x += mixer(N x);  x += attention(N'' x);  x += mlp(N' x)

The models golden/models/block-* are no golden of weights: fh1 init writes them from their own config.json,
    fh1 init --config golden/models/block-sam/config.json -o DIR --seed 9 --dtype f32     (and bf16)

N is input_layernorm, N' pre_ff_layernorm, N'' attn_layernorm; each branch's output times its multiplier.
"""
from contextlib import contextmanager

from transformers.models.falcon_h1 import modeling_falcon_h1 as modeling


def block_of(config):
    return getattr(config, "fh1_block", "SA_M")


class Branches(modeling.FalconH1DecoderLayer):
    """What the three branches of a released layer add to its residual, each from a normalised stream n."""

    def mixer(self, n, mamba_attention_mask=None, past_key_values=None, attention_mask=None, position_ids=None, use_cache=None,
              position_embeddings=None, **others):
        return self.ssm_out_multiplier * self.mamba(hidden_states=n, cache_params=past_key_values,
                                                    attention_mask=mamba_attention_mask, **others)

    def attention(self, n, mamba_attention_mask=None, **others):
        return self.attn_out_multiplier * self.self_attn(hidden_states=n * self.attention_in_multiplier, **others)[0]


class Parallel(Branches):
    """SAM"""

    def __init__(self, config, layer_idx):
        super().__init__(config, layer_idx)
        del self.pre_ff_layernorm

    def forward(self, hidden_states, **others):
        n = self.input_layernorm(hidden_states)
        return (hidden_states + (self.mixer(n, **others) + self.attention(n, **others) + self.feed_forward(n)),)


class Sequential(Branches):
    """S_A_M"""

    def __init__(self, config, layer_idx):
        super().__init__(config, layer_idx)
        self.attn_layernorm = modeling.FalconH1RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward(self, hidden_states, **others):
        x = hidden_states + self.mixer(self.input_layernorm(hidden_states), **others)
        x = x + self.attention(self.attn_layernorm(x), **others)
        return (x + self.feed_forward(self.pre_ff_layernorm(x)),)


@contextmanager
def wired(config):
    """Models that the library makes in here have the layers of the config's block."""
    kept = modeling.FalconH1DecoderLayer
    modeling.FalconH1DecoderLayer = {"SA_M": kept, "SAM": Parallel, "S_A_M": Sequential}[block_of(config)]
    try:
        yield
    finally:
        modeling.FalconH1DecoderLayer = kept
