#!/usr/bin/env python3
"""Make some of golden/gradients again, in a temporary folder, and compare with what is committed.

As regenerate.py: CPU kernels of another machine add in another order, so relative RMS differences are held against a
limit, tensor by tensor. The f64 limit proves that nothing was computed in f32. Training compares losses, norms, moments,
and what 10 steps (40 for the adapter) added to the weights: the weights themselves would hide everything.
"""
import argparse
import sys
import tempfile
from pathlib import Path

from safetensors.torch import load_file

import make_training
import make_wrong_gradients
import suite
from make_gradients import FOLDER, make, pinned
from make_traces import quiet
from regenerate import compare

GRADIENTS = ["mini-34b/packed-f64", "odd/right3-f64", "linear/packed-f64", "mini-0.5b/left3-f32", "tied-ends/packed-f32",
             "mamba-untied/packed-f64", "mamba-tied/right3-f64", "mamba-linear/left3-f32"]
WRONG = ["one-head-odd", "mean-of-means", "mamba-inner-norms"]
TRAINING = ["mini-34b/f64", "odd/f32", "finetune/f32", "mamba-tied/f64"]
# Measured between SSE and AVX2 kernels of one machine: gradients 4e-15 and 2e-6, after training 2e-14 and 9e-5.
LIMIT = {"f64": 1e-12, "f32": 3e-5}
LIMIT_TRAINED = {"f64": 1e-10, "f32": 1e-3}


def updates(tensors, base):
    """The weights of a run replaced by what was added to them."""
    return {k: t - base[k.split("/", 2)[2]].to(t.dtype) if "/master/" in k else t for k, t in tensors.items()}


def starting_point(name):
    folder = FOLDER / name / "initial" if name == "finetune" else suite.GOLDEN / "models" / name
    return load_file(next(folder.glob("*model.safetensors")))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    pinned("regenerate_gradients.py")
    quiet()
    bad = 0
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        (scratch / "wrong").mkdir()
        for case in GRADIENTS:
            name, _, short = case.partition("/")
            path = make(name, *short.rsplit("-", 1), scratch)["trace"]
            print(path)
            bad += compare(load_file(FOLDER / path), load_file(scratch / path), LIMIT[short[-3:]])
        for case in WRONG:
            path = make_wrong_gradients.make(case, scratch)[0]["trace"]
            print(path)
            bad += compare(load_file(FOLDER / path), load_file(scratch / path), LIMIT["f32"])
        for case in TRAINING:
            name, _, dtype = case.partition("/")
            make_training.make(name, dtype, scratch)
            path = f"{name}/train-{dtype}.safetensors"
            print(path)
            base = starting_point(name)
            old, new = (updates(load_file(folder / path), base) for folder in (FOLDER, scratch))
            bad += compare(old, new, LIMIT_TRAINED[dtype])
    print(f"{len(GRADIENTS + WRONG + TRAINING)} files, {bad} tensors beyond the limit")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
