"""What capture.py has to know about Falcon-H1 in transformers 4.57.6 and 5.x."""
import torch
import transformers
from transformers.models.falcon_h1 import modeling_falcon_h1 as modeling

from blocks import block_of
from watch import MixerWatch

OLD_CACHE = getattr(modeling, "FalconHybridMambaAttentionDynamicCache", None)  # 4.x; the caller constructs it
CACHE = "past_key_values"


# Taps of the residual between the branches, and of the norms behind them.
SUMS = {"SA_M": ("mid", "pre_ff_layernorm"), "SAM": (), "S_A_M": ("mid_ssm", "attn_layernorm", "mid", "pre_ff_layernorm")}


def tap_shapes(config, batch, new, past):
    """name -> shape of every tap of one call, in the order in which divergences are reported."""
    c, t = config, (batch, new)
    d = c.mamba_d_ssm if c.mamba_d_ssm is not None else int(c.mamba_expand * c.hidden_size)
    gn, heads = c.mamba_n_groups * c.mamba_d_state, c.mamba_n_heads
    a = getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads
    hq, hkv, ff, width = c.num_attention_heads, c.num_key_value_heads, c.intermediate_size, c.hidden_size
    shapes = {"model.embed_tokens": (*t, width), "model.layers.0.input": (*t, width)}
    for i in range(c.num_hidden_layers):
        layer = f"model.layers.{i}"
        shapes |= {
            f"{layer}.input_layernorm": (*t, width),
            f"{layer}.self_attn.q_proj": (*t, hq * a),
            f"{layer}.self_attn.k_proj": (*t, hkv * a),
            f"{layer}.self_attn.v_proj": (*t, hkv * a),
            f"{layer}.self_attn.q_rope": (*t, hq, a),
            f"{layer}.self_attn.k_rope": (*t, hkv, a),
            f"{layer}.self_attn.context": (*t, hq * a),
            f"{layer}.self_attn.o_proj": (*t, width),
            f"{layer}.mamba.in_proj": (*t, 2 * d + 2 * gn + heads),
            f"{layer}.mamba.conv_act": (*t, d + 2 * gn),
            f"{layer}.mamba.dt": (*t, heads),
            f"{layer}.mamba.ssd": (*t, d),
            f"{layer}.mamba.gated": (*t, d),
            f"{layer}.mamba.out_proj": (*t, width),
        } | {
            f"{layer}.{name}": (*t, width) for name in SUMS[block_of(c)]
        } | {
            f"{layer}.feed_forward.gate_proj": (*t, ff),
            f"{layer}.feed_forward.up_proj": (*t, ff),
            f"{layer}.feed_forward.act": (*t, ff),
            f"{layer}.feed_forward.down_proj": (*t, width),
            layer: (*t, width),
        }
    shapes |= {"model.final_layernorm": (*t, width), "logits": (batch, None, c.vocab_size)}
    for i in range(c.num_hidden_layers):
        shapes |= {
            f"cache.{i}.key": (batch, hkv, past + new, a),
            f"cache.{i}.value": (batch, hkv, past + new, a),
            f"cache.{i}.conv": (batch, d + 2 * gn, c.mamba_d_conv - 1),
            f"cache.{i}.ssm": (batch, heads, c.mamba_d_head, c.mamba_d_state),
        }
    shapes["loss"] = ()
    return shapes


def new_cache(model, batch):
    if OLD_CACHE is None:
        return transformers.DynamicCache(config=model.config)
    n = model.config.num_hidden_layers
    return OLD_CACHE(model.config, batch, model.dtype, devices=[model.device] * n)


def arguments(call, past):
    """The keywords of model(...) from ids, mask, position_ids, seq_idx and labels of a call, each a tensor or absent."""
    out = {"input_ids": call["ids"], "attention_mask": call.get("mask"), "position_ids": call.get("position_ids")}
    if "labels" in call:
        out["labels"] = call["labels"]
    if OLD_CACHE is not None:
        out["cache_position"] = torch.arange(past, past + call["ids"].shape[1])  # as generate() passes it
    elif "seq_idx" in call:
        out["seq_idx"] = call["seq_idx"]
    return out


def states(config, cache, i):
    """Name and value of a layer's cache taps."""
    if OLD_CACHE is not None:
        state = cache.key_cache[i], cache.value_cache[i], cache.conv_states[i], cache.ssm_states[i]
    else:
        layer = cache.layers[i]
        state = layer.keys, layer.values, layer.conv_states[0], layer.recurrent_states[0]
    # The library keeps K conv columns; the last K-1 are the ones that a next token reads.
    conv = state[2][:, :, state[2].shape[2] - config.mamba_d_conv + 1:]  # nothing where K is 1
    return zip(("key", "value", "conv", "ssm"), (*state[:2], conv, state[3]))


class Hooks:
    """Installs a recorder's hooks; remove() takes away what is not a hook of a module."""

    def __init__(self, recorder):
        self.recorder = r = recorder
        base, self.attention, self.masked = r.model.model, None, 0
        has_norm = r.config.mamba_rms_norm
        r.output(base.embed_tokens, "model.embed_tokens")
        r.first_input(base.layers[0], "model.layers.0.input")
        for i, layer in enumerate(base.layers):
            name = f"model.layers.{i}"
            r.output(layer.input_layernorm, f"{name}.input_layernorm")
            attn, mixer, mlp = layer.self_attn, layer.mamba, layer.feed_forward
            r.before(attn, self.enter_attention(f"{name}.self_attn"))
            for proj in ("q_proj", "k_proj", "v_proj", "o_proj"):
                r.output(getattr(attn, proj), f"{name}.self_attn.{proj}")
            r.first_input(attn.o_proj, f"{name}.self_attn.context")
            r.mixer_hooks(mixer, f"{name}.mamba", self.enter, self.dt)
            r.output(mixer.in_proj, f"{name}.mamba.in_proj")
            if has_norm:
                r.first_input(mixer.norm, f"{name}.mamba.ssd")
            r.first_input(mixer.out_proj, f"{name}.mamba.gated")
            r.output(mixer.out_proj, f"{name}.mamba.out_proj")
            sums = SUMS[block_of(r.config)]
            for mid, norm in zip(sums[::2], sums[1::2]):
                r.first_input(getattr(layer, norm), f"{name}.{mid}")
                r.output(getattr(layer, norm), f"{name}.{norm}")
            for proj in ("gate_proj", "up_proj", "down_proj"):
                r.output(getattr(mlp, proj), f"{name}.feed_forward.{proj}")
            r.first_input(mlp.down_proj, f"{name}.feed_forward.act")
            r.output(layer, name)
        r.output(base.final_layernorm, "model.final_layernorm")
        self.kept = modeling.apply_rotary_pos_emb, modeling.apply_mask_to_padding_states
        modeling.apply_rotary_pos_emb, modeling.apply_mask_to_padding_states = self.rotate, self.mask
        self.watch = MixerWatch(r, not has_norm)
        self.watch.__enter__()

    def remove(self):
        modeling.apply_rotary_pos_emb, modeling.apply_mask_to_padding_states = self.kept
        self.watch.__exit__(None, None, None)

    def enter_attention(self, name):
        def hook(module, args):
            self.attention = name
        return hook

    def enter(self):
        self.masked = 0

    def dt(self, dt):
        c = self.recorder.config
        if dt.dim() == 3 and dt.shape[1:] == (c.mamba_n_heads, c.mamba_d_head):
            return dt[..., 0]  # a one-token call spreads dt over the head
        return dt

    def scan(self, y):
        return "ssd", y

    def rotate(self, *args, **kwargs):
        q, k = self.kept[0](*args, **kwargs)
        self.recorder.tap(self.attention + ".q_rope", q.transpose(1, 2))
        self.recorder.tap(self.attention + ".k_rope", k.transpose(1, 2))
        return q, k

    def mask(self, *args, **kwargs):
        # Called twice by a mixer: on its input, and on the activated convolution.
        out = self.kept[1](*args, **kwargs)
        self.masked += 1
        if self.masked == 2:
            self.recorder.tap(self.recorder.mixer + ".conv_act", out)
        return out
