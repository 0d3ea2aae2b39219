#!/usr/bin/env python3
"""What fh1 convert writes against what transformers writes of the same model: the same bytes in every shard, in the
index, and after a cast. Arguments: the fh1 program and a folder for what is made."""
import json
import subprocess
import sys
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM

import blocks

ROOT = Path(__file__).resolve().parents[2]


def fh1(program, *arguments):
    subprocess.run([program, *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)


def load(folder, dtype):
    config = AutoConfig.from_pretrained(folder)
    with blocks.wired(config):
        return AutoModelForCausalLM.from_pretrained(folder, config=config, dtype=dtype)


def compare(theirs, ours, what):
    """Weights and index, byte for byte; returns how many files there are."""
    names = sorted(p.name for p in theirs.iterdir() if "safetensors" in p.name)
    assert names == sorted(p.name for p in ours.iterdir() if "safetensors" in p.name), (what, names)
    for name in names:
        assert (theirs / name).read_bytes() == (ours / name).read_bytes(), f"{what}: {name} differs"
    return len(names)


def main():
    program, scratch = sys.argv[1], Path(sys.argv[2])
    deep = json.loads((ROOT / "golden/models/mini-0.5b/config.json").read_text())
    deep["num_hidden_layers"] = 12  # where the order of names is not the order of layers
    (scratch / "deep.json").write_text(json.dumps(deep))
    fh1(program, "init", "--config", scratch / "deep.json", "-o", scratch / "deep", "--seed", 3, "--dtype", "f32")
    sources = sorted(p.parent for p in ROOT.glob("golden/models/*/config.json")) + [scratch / "deep"]
    sources += [ROOT / "golden/merges/bases" / name for name in ("tied-bf16", "plain-f16")]
    n = 0
    for source in sources:
        config = json.loads((source / "config.json").read_text())
        dtype = getattr(torch, config.get("dtype") or config["torch_dtype"])
        model = load(source, dtype)
        for size in ("30KB", "80KB", "5GB"):
            theirs, ours = scratch / f"{source.name}-t-{size}", scratch / f"{source.name}-o-{size}"
            model.save_pretrained(theirs, max_shard_size=size)
            fh1(program, "convert", source, ours, "--shard-size", size)
            n += compare(theirs, ours, f"{source.name} in shards of {size}")
        theirs, ours = scratch / f"{source.name}-t-cast", scratch / f"{source.name}-o-cast"
        model.to(torch.bfloat16).save_pretrained(theirs, max_shard_size="60KB")
        fh1(program, "convert", source, ours, "--shard-size", "60KB", "--dtype", "bf16")
        n += compare(theirs, ours, f"{source.name} as bf16")
        again = load(ours, "auto")
        assert again.dtype == torch.bfloat16, source.name
        assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True)), source.name

    # The comparison is no accident: other shards are other bytes.
    try:
        compare(scratch / "odd-t-80KB", scratch / "odd-o-30KB", "planted")
    except AssertionError:
        print(f"{len(sources)} models, {n} files equal byte for byte")
        return
    sys.exit("different shards were taken for equal ones")


main()
