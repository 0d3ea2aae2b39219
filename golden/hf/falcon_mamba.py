"""What capture.py has to know about FalconMamba in transformers 4.57.6 and 5.x."""
import torch
import transformers
from transformers.models.falcon_mamba import modeling_falcon_mamba as modeling

from watch import MixerWatch

OLD = hasattr(modeling, "FalconMambaCache")  # 4.x
CACHE = "cache_params"


def tap_shapes(config, batch, new, past):
    """name -> shape of every tap of one call, in the order in which divergences are reported."""
    c, t = config, (batch, new)
    inner, state, width = c.intermediate_size, c.state_size, c.hidden_size
    shapes = {"backbone.embeddings": (*t, width)}
    for i in range(c.num_hidden_layers):
        layer = f"backbone.layers.{i}"
        shapes |= {
            f"{layer}.norm": (*t, width),
            f"{layer}.mixer.in_proj": (*t, 2 * inner),
            f"{layer}.mixer.conv_act": (*t, inner),
            f"{layer}.mixer.x_proj": (*t, int(c.time_step_rank) + 2 * state),
            f"{layer}.mixer.dt": (*t, inner),
            f"{layer}.mixer.scan": (*t, inner),
            f"{layer}.mixer.gated": (*t, inner),
            f"{layer}.mixer.out_proj": (*t, width),
            layer: (*t, width),
        }
    shapes |= {"backbone.norm_f": (*t, width), "logits": (batch, None, c.vocab_size)}
    for i in range(c.num_hidden_layers):
        shapes |= {f"cache.{i}.conv": (batch, inner, c.conv_kernel - 1), f"cache.{i}.ssm": (batch, inner, state)}
    shapes["loss"] = ()
    return shapes


def new_cache(model, batch):
    """4.x takes a call for a prefill by the length of its cache_position, which only the model itself gets right."""
    return None if OLD else transformers.DynamicCache(config=model.config)


def arguments(call, past):
    """The keywords of model(...) from ids, mask and labels of a call, each a tensor or absent. The model has no
    positions. It cannot take the mask of a call with history, and generate() passes none; a call with "mask_as_given" does,
    and is wrong."""
    mask = call.get("mask")
    if past > 0 and mask is not None and not mask[:, past:].all():
        raise SystemExit("the library cannot be told of padding in a call with history")
    out = {"input_ids": call["ids"], "attention_mask": mask if past == 0 or "mask_as_given" in call else None}
    if "labels" in call:
        out["labels"] = call["labels"]
    if OLD and past > 0:
        out["cache_position"] = torch.arange(past, past + call["ids"].shape[1])  # where the tokens stand
    return out


def states(config, cache, i):
    """Name and value of a layer's cache taps."""
    if OLD:
        conv, ssm = cache.conv_states[i], cache.ssm_states[i]
    else:
        conv, ssm = cache.layers[i].conv_states[0], cache.layers[i].recurrent_states[0]
    # The library keeps K conv columns; the last K-1 are the ones that a next token reads.
    return ("conv", conv[:, :, conv.shape[2] - config.conv_kernel + 1:]), ("ssm", ssm)


class Hooks:
    """Installs a recorder's hooks; remove() takes away what is not a hook of a module."""

    def __init__(self, recorder):
        r, base = recorder, recorder.model.backbone
        r.output(base.embeddings, "backbone.embeddings")
        for i, layer in enumerate(base.layers):
            name, mixer = f"backbone.layers.{i}", layer.mixer
            r.output(layer.norm, f"{name}.norm")
            r.mixer_hooks(mixer, f"{name}.mixer", lambda: None, self.dt)
            r.output(mixer.in_proj, f"{name}.mixer.in_proj")
            r.first_input(mixer.x_proj, f"{name}.mixer.conv_act")
            r.output(mixer.x_proj, f"{name}.mixer.x_proj")
            r.first_input(mixer.out_proj, f"{name}.mixer.gated")
            r.output(mixer.out_proj, f"{name}.mixer.out_proj")
            r.output(layer, name)
        r.output(base.norm_f, "backbone.norm_f")
        self.watch = MixerWatch(r, True)
        self.watch.__enter__()

    def remove(self):
        self.watch.__exit__(None, None, None)

    def dt(self, dt):
        # [B,T,I] in 4.x; [B,I,T] in 5.x, and [B,I] in a one-token call
        return dt if OLD or dt.dim() == 2 else dt.transpose(1, 2)

    def scan(self, y):
        return "scan", y.transpose(1, 2) if y.dim() == 3 else y
