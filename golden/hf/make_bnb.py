#!/usr/bin/env python3
"""Make golden/bnb: weights quantised by the real bitsandbytes, and hashes of what it decodes them to.

`mixed` is a Falcon-H1 folder in two shards whose linear layers are all quantised in different ways: both 4-bit types,
block sizes 32 to 4096, with and without quantised scales, every storage type, odd widths with blocks that straddle
rows, zero blocks, tiny and large values, and int8. decoded.json has XXH3-64 of the decoded tensors, of this folder and
of the quantised bases of golden/merges.
"""
import argparse
import json
import os
import sys
from pathlib import Path

os.environ["TORCHDYNAMO_DISABLE"] = "1"

import bitsandbytes
import bitsandbytes.functional as bnb
import numpy as np
import torch
import xxhash
from safetensors.torch import load_file, save_file
from transformers import FalconH1Config, FalconH1ForCausalLM

import merge_exact
from make_models import draw
from merge_cases import BASES, COMMON, SMALL

GOLDEN = Path(__file__).resolve().parent.parent
SEED = 9
# Large enough for two blocks of 256 scales in the head.
CONFIG = dict(**{**SMALL, "vocab_size": 331}, mamba_rms_norm=False)
U8, F16, BF16, F32 = torch.uint8, torch.float16, torch.bfloat16, torch.float32

# module, (type, block size, quantised scales, storage, dtype of the weight); int8 has no settings
HOW = {
    "lm_head": ("nf4", 32, True, U8, BF16),
    "model.layers.0.mamba.in_proj": ("nf4", 64, False, U8, BF16),
    "model.layers.0.mamba.out_proj": ("fp4", 64, False, U8, F16),
    "model.layers.0.self_attn.q_proj": ("nf4", 4096, False, BF16, F32),
    "model.layers.0.self_attn.k_proj": ("fp4", 32, True, U8, F32),
    "model.layers.0.self_attn.v_proj": ("nf4", 128, True, BF16, BF16),
    "model.layers.0.self_attn.o_proj": ("nf4", 32, False, F16, F16),
    "model.layers.0.feed_forward.gate_proj": ("fp4", 256, True, U8, BF16),
    "model.layers.0.feed_forward.up_proj": ("int8",),
    "model.layers.0.feed_forward.down_proj": ("nf4", 32, False, U8, F32),
    "model.layers.1.mamba.in_proj": ("int8",),
    "model.layers.1.mamba.out_proj": ("nf4", 64, True, U8, F16),
    "model.layers.1.self_attn.q_proj": ("int8",),
    "model.layers.1.self_attn.k_proj": ("nf4", 512, False, BF16, BF16),
    "model.layers.1.self_attn.v_proj": ("fp4", 1024, False, BF16, F32),
    "model.layers.1.self_attn.o_proj": ("nf4", 128, True, F32, BF16),
    "model.layers.1.feed_forward.gate_proj": ("nf4", 2048, True, U8, F32),
    "model.layers.1.feed_forward.down_proj": ("fp4", 64, True, U8, BF16),
}


def special(key, w):
    """Blocks that a careless decoder gets wrong."""
    flat = w.view(-1)
    if key.endswith("layers.0.mamba.in_proj"):
        flat[64:128] = 0  # a zero block
        flat[128:192] *= 2.0**-40
        flat[-5:] = -0.0
    if key.endswith("layers.0.mamba.out_proj"):
        flat[:64] *= 2.0**-20  # subnormal f16
        flat[64:128] *= 60000 / flat[64:128].abs().max()
    if key.endswith("layers.1.mamba.in_proj"):
        w[3] = 0  # a row without a scale
    return w


def quantise(key, w, how):
    """The tensors of a module as bitsandbytes stores them."""
    if how[0] == "int8":
        q, scb, _ = bnb.int8_vectorwise_quant(w.half())
        return {f"{key}.weight": q, f"{key}.SCB": scb, f"{key}.weight_format": torch.tensor(0, dtype=U8)}
    kind, blocksize, nested, storage, dtype = how
    q, state = bnb.quantize_4bit(w.to(dtype), blocksize=blocksize, compress_statistics=nested, quant_type=kind,
                                 quant_storage=storage)
    parts = {f"{key}.weight.{k}": v for k, v in state.as_dict(packed=True).items()}
    return {f"{key}.weight": q, **parts}


def flat_decode(tensors, key):
    """Independent of bitsandbytes' kernels, which read the wrong scales of blocks that straddle certain rows."""
    state_key = next((k for k in tensors if k.startswith(f"{key}.quant_state.")), None)
    if state_key is None:
        scb = tensors[key.replace(".weight", ".SCB")]
        return tensors[key].float() * scb[:, None] * np.float32(7.874015718698502e-3)
    s = json.loads(bytes(tensors[state_key].numpy()))
    packed = tensors[key].contiguous().view(U8).numpy().reshape(-1)
    codes = tensors[f"{key}.quant_map"].numpy()
    n = int(np.prod(s["shape"]))
    scale = tensors[f"{key}.absmax"].numpy()
    if "nested_offset" in s:
        outer = np.repeat(tensors[f"{key}.nested_absmax"].numpy(), s["nested_blocksize"])[: scale.size]
        scale = tensors[f"{key}.nested_quant_map"].numpy()[scale] * outer + np.float32(s["nested_offset"])
    value = codes[np.stack([packed >> 4, packed & 15], 1).reshape(-1)[:n]] * np.repeat(scale, s["blocksize"])[:n]
    return torch.from_numpy(value).to(getattr(torch, s["dtype"])).reshape(s["shape"])


def make_mixed(out):
    config = FalconH1Config(**COMMON, **CONFIG)
    model = FalconH1ForCausalLM(config)
    tensors = {}
    for name, p in model.named_parameters():
        key = name.removesuffix(".weight")
        w = draw(config, name, tuple(p.shape), SEED)
        if key in HOW:
            tensors.update(quantise(key, special(key, w), HOW[key]))
        else:
            tensors[name] = w.to(BF16)
    out.mkdir(parents=True, exist_ok=True)
    config.dtype = BF16
    config.architectures = ["FalconH1ForCausalLM"]
    config.quantization_config = dict(quant_method="bitsandbytes", load_in_4bit=True, load_in_8bit=False)
    config.save_pretrained(out)
    # The parts of one weight lie in different files.
    shards = [{}, {}]
    for i, name in enumerate(sorted(tensors)):
        shards[i % 2][name] = tensors[name].contiguous()
    names = [f"model-0000{i + 1}-of-00002.safetensors" for i in range(2)]
    for shard, name in zip(shards, names):
        save_file(shard, out / name, metadata={"format": "pt"})
    size = sum(t.numel() * t.element_size() for t in tensors.values())
    index = {"metadata": {"total_size": size},
             "weight_map": {k: names[i] for k in sorted(tensors) for i in range(2) if k in shards[i]}}
    (out / "model.safetensors.index.json").write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")


def decoded_hashes(folder):
    tensors = {}
    for file in sorted(folder.glob("*.safetensors")):
        tensors.update(load_file(file))
    lines = {}
    for key, t in merge_exact.dequantised(tensors, None).items():
        if key in tensors and tensors[key].dtype == t.dtype and tensors[key].shape == t.shape:
            continue  # not quantised
        flat = flat_decode(tensors, key)
        if not torch.equal(t.view(flat.shape).contiguous().view(U8), flat.contiguous().view(U8)):
            raise SystemExit(f"{folder.name}, {key}: bitsandbytes decodes it wrongly on this machine")
        name = {BF16: "BF16", F16: "F16", F32: "F32"}[t.dtype]
        data = t.contiguous().view(U8).numpy()
        lines[key] = f"{name} {list(flat.shape)} {xxhash.xxh3_64_hexdigest(data)}"
    return lines


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--out", type=Path, default=GOLDEN / "bnb", help="default: golden/bnb")
    args = parser.parse_args()
    if bitsandbytes.__version__ != "0.50.2":
        raise SystemExit(f"make_bnb.py: bitsandbytes 0.50.2 is pinned (found {bitsandbytes.__version__}); "
                         "install golden/hf/requirements.txt")
    make_mixed(args.out / "mixed")
    folders = {"golden/bnb/mixed": args.out / "mixed"}
    folders.update({f"golden/merges/bases/{b}": GOLDEN / "merges/bases" / b for b in BASES if BASES[b][3]})
    decoded = {name: decoded_hashes(folder) for name, folder in folders.items()}
    (args.out / "decoded.json").write_text(json.dumps(decoded, indent=1) + "\n")
    print({name: len(v) for name, v in decoded.items()})


if __name__ == "__main__":
    sys.exit(main())
