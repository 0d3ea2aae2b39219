"""What a merge is, in f64 with one rounding, from the modules that PEFT loaded; and bitsandbytes folders decoded.

Nothing here rounds as PEFT does: modules, ranks and scales are PEFT's own objects, the arithmetic is numpy's.
"""
import bitsandbytes.functional as bnb
import numpy as np
import torch
from peft.tuners.lora.layer import Embedding, LoraLayer

EMBED, HEAD = ("model.embed_tokens.weight", "backbone.embeddings.weight"), "lm_head.weight"


def embedding(base):
    return next(name for name in EMBED if name in base)


def round_once(x, dtype):
    """f64 to dtype, nearest even in one rounding: through an f32 rounded to odd."""
    if dtype == torch.float32:
        return torch.from_numpy(x.astype(np.float32))
    f = x.astype(np.float32)
    bits = f.view(np.uint32).copy()
    away = (np.abs(f.astype(np.float64)) > np.abs(x)) & np.isfinite(x)
    bits[away] -= 1  # truncated
    inexact = bits.view(np.float32).astype(np.float64) != x
    bits[inexact & np.isfinite(x)] |= 1
    return torch.from_numpy(bits.view(np.float32)).to(dtype)


def f64(t):
    return t.detach().to(torch.float64).numpy()


def delta(module, name):
    """s·B·A in f64, in the layout of the base weight."""
    if isinstance(module, Embedding):
        return module.scaling[name] * (f64(module.lora_embedding_B[name]) @ f64(module.lora_embedding_A[name])).T
    return module.scaling[name] * (f64(module.lora_B[name].weight) @ f64(module.lora_A[name].weight))


def merged_weight(module, w, names):
    for name in names:
        axis = 0 if isinstance(module, Embedding) else 1
        v = w + delta(module, name)
        if name in module.lora_magnitude_vector:
            m = f64(module.lora_magnitude_vector[name].weight).reshape((1, -1) if axis == 0 else (-1, 1))
            v = m * v / np.sqrt((v * v).sum(axis=axis, keepdims=True))
        w = v
    return w


def replaced(out, files, tied, dtype_of):
    """Full tensors in the adapter files, and rows of embeddings."""
    touched, both = set(), (embedding(out), HEAD)
    for tensors in files:
        for key, t in tensors.items():
            name = key.removeprefix("base_model.model.").replace(".token_adapter", "").replace(".base_layer.", ".")
            if ".lora_" in name or "trainable_tokens_delta" in name:
                continue
            # What is loaded into the base's own parameter is seen by both ends of a tied embedding.
            ends = both if tied and ".base_layer." in key and name in both else [name]
            for end in ends:
                out[end] = t.to(dtype_of(end))
            touched.update(ends)
    return touched


def token_rows(model, adapter):
    """(path of the end, indices, rows) of one adapter; a tied end has the other one's rows."""
    for path, module in model.named_modules():
        if type(module).__name__ == "TrainableTokensLayer" and adapter in module.token_indices:
            rows = (module.tied_adapter or module).trainable_tokens_delta[adapter]
            end = path.removeprefix("base_model.model.").removesuffix(".token_adapter")
            yield end, module.token_indices[adapter], rows


def merge(model, names, base, files):
    tied, embed = HEAD not in base, embedding(base)
    ends = dict(base)
    if tied:
        ends[HEAD] = base[embed]
    out = dict(ends)
    touched = replaced(out, files, tied, lambda name: ends[name].dtype)
    config = model.peft_config[names[0]]
    if tied and config.ensure_weight_tying and touched & {embed, HEAD}:
        out[HEAD] = out[embed]
    for path, module in model.named_modules():
        if not isinstance(module, LoraLayer):
            continue
        path = path.removeprefix("base_model.model.")
        active = [n for n in names if n in module.lora_A or n in module.lora_embedding_A]
        key = f"{path}.weight"
        out[key] = round_once(merged_weight(module, f64(out[key]), active), ends[key].dtype)
        for n in active:
            if n in module.lora_B and module.lora_B[n].bias is not None:
                key = f"{path}.bias"
                b = f64(out[key]) + module.scaling[n] * f64(module.lora_B[n].bias)
                out[key] = round_once(b, ends[key].dtype)
    for n in names:
        for end, rows, values in token_rows(model, n):
            key = f"{end}.weight"
            out[key] = out[key].clone()
            out[key][list(rows)] = values.detach().to(out[key].dtype)
    if tied and torch.equal(out[HEAD], out[embed]):
        del out[HEAD]
    return out, HEAD not in out


def positive_zeros(w, packed):
    """Code 8 of FP4 is +0 as in the stored table; the kernel for processors without AVX-512 makes -0 of it."""
    b = packed.contiguous().view(torch.uint8).reshape(-1)
    code = torch.stack([b >> 4, b & 15], 1).reshape(-1)[: w.numel()]
    flat = w.reshape(-1)
    return torch.where((code == 8) & (flat == 0), torch.zeros_like(flat), flat).reshape(w.shape)


def dequantised(tensors, dtype):
    """The tensors of a quantised folder as bitsandbytes decodes them, then in `dtype` (None: as decoded)."""
    out = {}
    for key, t in tensors.items():
        module, _, leaf = key.rpartition(".")
        state = {k: v for k, v in tensors.items() if k.startswith(f"{key}.")}
        if leaf == "weight" and state:
            qs = bnb.QuantState.from_dict(qs_dict=dict(state), device=torch.device("cpu"))
            w = bnb.dequantize_4bit(t, qs)
            w = positive_zeros(w, t) if qs.quant_type == "fp4" else w
        elif leaf == "weight" and f"{module}.SCB" in tensors:
            w = bnb.int8_vectorwise_dequant(t, tensors[f"{module}.SCB"])
        elif ".weight." in key or leaf in ("SCB", "weight_format"):
            continue
        else:
            w = t
        out[key] = w.to(dtype or w.dtype).contiguous()
    return out
