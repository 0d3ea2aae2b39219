#!/usr/bin/env python3
"""Make golden/merges: tiny Falcon-H1 and FalconMamba bases, adapters written by the real PEFT, and what the real PEFT merges.

merges.json has a line of truth per case and rounding: XXH3-64 of every tensor that differs from the base's or is new,
and the tensors that are gone. All others must be the base's, bit for bit. DoRA's tensors are stored besides, since
their norms are sums whose order no file can fix. Rounding "exact" is computed here in f64 from what PEFT loaded: one
rounding, and ends of a tied embedding that stay what the attached model has (FINDINGS.md).

check_merges.py merges the committed bases and adapters again and compares.
"""
import argparse
import json
import os
import shutil
import sys
import tempfile
import warnings
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import bitsandbytes
import numpy as np
import peft
import torch
import transformers
import xxhash
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import (AutoModelForCausalLM, BitsAndBytesConfig, FalconH1Config, FalconH1ForCausalLM, FalconMambaConfig,
                          FalconMambaForCausalLM)

import merge_exact
from adapter_files import clean, edit_config
from make_models import draw, normal
from merge_cases import ADAPTERS, BASES, CASES, COMMON

FOLDER = Path(__file__).resolve().parent.parent / "merges"
PINNED = {peft: "0.21.2", transformers: "5.23.0", bitsandbytes: "0.50.2"}
SEED = 5


# ---- bases ----

def make_base(name, out):
    config, dtype, save, quantise = BASES[name]
    if "state_size" in config:
        model = FalconMambaForCausalLM(FalconMambaConfig(**config))
    else:
        model = FalconH1ForCausalLM(FalconH1Config(**COMMON, **config))
    model.to(getattr(torch, dtype)).eval()
    with torch.no_grad():
        for key, p in model.named_parameters():
            p.copy_(draw(model.config, key, tuple(p.shape), SEED))
    if quantise is None:
        model.save_pretrained(out, **save)
        return
    with tempfile.TemporaryDirectory() as scratch:
        model.save_pretrained(scratch)
        model = AutoModelForCausalLM.from_pretrained(scratch, quantization_config=BitsAndBytesConfig(**quantise))
        model.config._name_or_path = ""
        model.save_pretrained(out, **save)


def tensors_of(folder):
    out = {}
    for file in sorted(Path(folder).glob("*.safetensors")):
        out.update(load_file(file))
    return out


def plain_folder(base, scratch):
    """A folder that holds the base without quantisation: decoded by bitsandbytes, in the dtype of the model."""
    config = json.loads((base / "config.json").read_text())
    if "quantization_config" not in config:
        return base
    out = Path(scratch) / f"{base.name}-plain"
    if out.exists():
        return out
    out.mkdir()
    decoded = merge_exact.dequantised(tensors_of(base), getattr(torch, config["dtype"]))
    del config["quantization_config"]
    (out / "config.json").write_text(json.dumps(config))
    save_file(decoded, out / "model.safetensors", metadata={"format": "pt"})
    return out


def load_base(folder):
    model = AutoModelForCausalLM.from_pretrained(folder)
    return model.eval()


# ---- adapters ----

def grid(name, shape, step, bound):
    """Multiples of `step` within ±bound."""
    k = round(bound / step)
    return torch.round(normal(SEED, name, shape) * k / 2).clamp(-k, k) * step


def fill(model, spec):
    """Trained-looking values for everything that trains; the base's own parameters stay."""
    with torch.no_grad():
        for key, p in model.named_parameters():
            shape = tuple(p.shape)
            if ".lora_magnitude_vector." in key:
                p.mul_(1 + 0.1 * normal(SEED, key, shape).float())
            elif ".lora_" in key:
                is_a = ".lora_A." in key or ".lora_embedding_A" in key
                if spec["data"] == "grid":
                    p.copy_(grid(key, shape, 1 / 8, 1) if is_a else grid(key, shape, 1 / 64, 1 / 4))
                else:
                    p.copy_(normal(SEED, key, shape) * (0.5 if is_a else 0.1))
            elif p.requires_grad:
                p.copy_(p.double() + 0.1 * normal(SEED, key, shape))


def rewrite(folder, change):
    """Replace the tensors of an adapter by change(tensors)."""
    file = folder / "adapter_model.safetensors"
    tensors = {k: v.clone() for k, v in load_file(file).items()}
    save_file(change(tensors), file, metadata={"format": "pt"})


def drop_base_layer(folder):
    rewrite(folder, lambda t: {k: v for k, v in t.items() if ".base_layer." not in k})


def move_base_layer(folder):
    """The full embedding that PEFT adds to the file replaces the base's: make it another one."""
    rewrite(folder, lambda t: {k: v + 0.5 if ".base_layer." in k else v for k, v in t.items()})


def old_keys(folder):
    """The spellings of earlier versions: a suffix on magnitudes, the adapter's name in some keys."""
    def change(tensors):
        out = {}
        for k, v in tensors.items():
            k = k.replace(".lora_magnitude_vector", ".lora_magnitude_vector.weight")
            if "layers.0" in k:
                k = k.replace(".lora_A.weight", ".lora_A.default.weight")
            out[k] = v
        return out
    rewrite(folder, change)


def few_fields(folder):
    edit_config(folder, lambda c: {k: c[k] for k in ("peft_type", "task_type", "r", "target_modules")})


def fan_in_fan_out(folder):
    edit_config(folder, lambda c: {**c, "fan_in_fan_out": True})


EDITS = {f.__name__: f for f in (drop_base_layer, move_base_layer, old_keys, few_fields, fan_in_fan_out)}


def make_adapter(name, bases, out, scratch):
    spec = ADAPTERS[name]
    model = load_base(plain_folder(bases / spec["base"], scratch))
    torch.manual_seed(SEED)
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **spec["config"]))
    if spec["pissa"]:
        # As PEFT's documentation says: the initial adapter is saved first, with a neutral initialisation.
        initial = Path(f"{out}-initial")
        model.peft_config["default"].init_lora_weights = True
        model.save_pretrained(initial)
        with torch.no_grad():
            for key, p in model.named_parameters():
                if ".lora_" in key:
                    p.add_(0.05 * normal(SEED, key, tuple(p.shape)).float())
        model.peft_config["default"].init_lora_weights = "pissa"
        model.save_pretrained(Path(f"{out}-residual"))
        model.save_pretrained(out, path_initial_model_for_weight_conversion=str(initial))
        clean(initial, spec["base"])
        clean(Path(f"{out}-residual"), spec["base"])
    else:
        fill(model, spec)
        model.save_pretrained(out)
    if spec["store"]:
        rewrite(out, lambda t: {k: v.to(getattr(torch, spec["store"])) for k, v in t.items()})
    if spec["edit"]:
        EDITS[spec["edit"]](out)
    clean(out, spec["base"])


# ---- merges ----

def attach(base, adapters, rounding):
    options = {"peft-noautocast": dict(autocast_adapter_dtype=False),
               "peft-low-memory": dict(low_cpu_mem_usage=True)}.get(rounding, {})
    names = ["default"] + [f"adapter{i}" for i in range(1, len(adapters))]
    model = PeftModel.from_pretrained(load_base(base), adapters[0], **options)
    for name, adapter in zip(names[1:], adapters[1:]):
        model.load_adapter(adapter, adapter_name=name, **options)
    return model, names


def merge(base, adapters, rounding):
    """Tensors by name and whether the merged model is tied."""
    model, names = attach(base, adapters, rounding)
    if rounding == "exact":
        return merge_exact.merge(model, names, tensors_of(base), [tensors_of(a) for a in adapters])
    merged = model.merge_and_unload(safe_merge=rounding == "peft-safe", adapter_names=names)
    with tempfile.TemporaryDirectory() as scratch:
        merged.save_pretrained(scratch)
        tied = json.loads((Path(scratch) / "config.json").read_text())["tie_word_embeddings"]
        return {k: v.clone() for k, v in tensors_of(scratch).items()}, tied


def raw(t):
    return t.contiguous().view(torch.uint8).numpy() if t.dim() else t.reshape(1).view(torch.uint8).numpy()


DTYPE = {torch.bfloat16: "BF16", torch.float16: "F16", torch.float32: "F32"}


def run_line(base, result, tied, rounding):
    changed = {k: v for k, v in sorted(result.items()) if k not in base or not np.array_equal(raw(base[k]), raw(v))}
    return dict(rounding=rounding, tied=tied, gone=sorted(base.keys() - result.keys()),
                tensors={k: f"{DTYPE[v.dtype]} {list(v.shape)} {xxhash.xxh3_64_hexdigest(raw(v))}"
                         for k, v in changed.items()}), changed


def dump(value, path):
    """JSON with one tensor per line: readable in a diff."""
    path.write_text(json.dumps(value, indent=1) + "\n")


def run_case(case, folder, scratch):
    name, adapters, roundings = case
    base_name = ADAPTERS[adapters[0]]["base"]
    base = plain_folder(folder / "bases" / base_name, scratch)
    tensors = tensors_of(base)
    paths = [str(folder / "adapters" / a) for a in adapters]
    line = dict(name=name, base=base_name, adapters=adapters, runs=[])
    values = {}
    dora = any(ADAPTERS[a]["config"].get("use_dora") for a in adapters)
    for rounding in roundings:
        result, tied = merge(base, paths, rounding)
        run, changed = run_line(tensors, result, tied, rounding)
        if dora:
            values.update({f"{rounding}/{k}": v.contiguous() for k, v in changed.items()})
            run["values"] = f"dora/{name}.safetensors"
        line["runs"].append(run)
    return line, values


def make(folder, only):
    scratch = tempfile.mkdtemp()
    (folder / "dora").mkdir(parents=True, exist_ok=True)
    for name in BASES:
        if not (folder / "bases" / name).exists():
            make_base(name, folder / "bases" / name)
    for name in ADAPTERS:
        if (not only or name in only) and not (folder / "adapters" / name).exists():
            make_adapter(name, folder / "bases", folder / "adapters" / name, scratch)
    lines = []
    for case in CASES:
        if only and not set(case[1]) <= set(only):
            continue
        line, values = run_case(case, folder, scratch)
        if values:
            save_file(values, folder / "dora" / f"{case[0]}.safetensors", metadata={"format": "pt"})
        lines.append(line)
        if ADAPTERS[case[1][0]]["pissa"]:
            # The adapter as it was trained, with the initial one beside it, is the same change of the same base.
            lines.append({**line, "name": f"{case[0]}-residual", "adapters": [f"{case[0]}-residual"],
                          "initial": f"{case[0]}-initial"})
        n = sum(len(r["tensors"]) for r in line["runs"])
        print(f"{case[0]}: {len(line['runs'])} runs, {n} tensors", flush=True)
    if only:
        made = {line["name"] for line in lines}
        lines = [c for c in json.loads((folder / "merges.json").read_text())["cases"] if c["name"] not in made] + lines
    dump(dict(peft="0.21.2", transformers="5.23.0", bitsandbytes="0.50.2", hash="XXH3-64", cases=lines),
         folder / "merges.json")
    shutil.rmtree(scratch)


def check_versions():
    for module, version in PINNED.items():
        if module.__version__ != version:
            raise SystemExit(f"{module.__name__} {version} is pinned (found {module.__version__}); "
                             "install golden/hf/requirements.txt")
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--out", type=Path, default=FOLDER, help="default: golden/merges")
    parser.add_argument("--only", nargs="*", default=[], metavar="ADAPTER", help="cases of these adapters, the others kept")
    args = parser.parse_args()
    check_versions()
    make(args.out, args.only)


if __name__ == "__main__":
    sys.exit(main())
