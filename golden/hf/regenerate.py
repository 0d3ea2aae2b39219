#!/usr/bin/env python3
"""Make some golden traces again, in a temporary folder, and compare them with the committed ones.

Shows that the goldens are what the pinned library computes on this machine too. CPU kernels differ
between machines in the order of their sums, so the comparison is per tap and relative, not bitwise:
exit 1 when the relative RMS difference of a tap exceeds its limit, or when inputs, names, shapes or
dtypes differ. Only cases without decoding are used: a rounding could choose another token.
"""
import argparse
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file

import suite
from make_traces import make, quiet

CASES = ["mini-0.5b/t37", "mini-34b/t37", "odd/t37", "mini-0.5b-bf16/left1", "mini-34b-bf16/left1", "odd-bf16/left1",
         "block-sam/t37", "block-sequential/left3", "block-sam-bf16/t37", "block-sequential-bf16/t37",
         "mamba-untied/t37", "mamba-tied/left1", "mamba-untied/continue", "mamba-untied-bf16/left1", "mamba-tied-bf16/t37"]
LIMIT_F32 = 3e-6  # measured 8e-7 between SSE and AVX2 kernels of one machine
LIMIT_BF16 = 2.0**-7


def compare(old, new, limit):
    """Print a line per tap; return the number of taps that differ too much."""
    bad = 0
    for name in sorted(old.keys() | new.keys()):
        if name not in old or name not in new:
            print(f"  FAIL {name}: only in the {'committed' if name in old else 'new'} trace")
            bad += 1
            continue
        a, b = old[name], new[name]
        if a.dtype != b.dtype or a.shape != b.shape:
            print(f"  FAIL {name}: {a.dtype} {tuple(a.shape)} became {b.dtype} {tuple(b.shape)}")
            bad += 1
            continue
        error, size = (b.double() - a.double()), a.double().pow(2).mean().sqrt().item()
        rms = error.pow(2).mean().sqrt().item()
        relative = rms / size if size > 0 else rms
        allowed = 0.0 if a.dtype == torch.int64 else limit
        good = relative <= allowed
        bad += not good
        print(f"  {'ok  ' if good else 'FAIL'} {name}: max {error.abs().max().item():.3g}, relative RMS {relative:.3g}")
    return bad


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", default=CASES, metavar="MODEL/CASE", help="default: " + " ".join(CASES))
    args = parser.parse_args()
    quiet()
    bad = 0
    for case in args.cases:
        name, _, short = case.partition("/")
        with tempfile.TemporaryDirectory() as scratch:
            line = make(name, short, Path(scratch))[0]
            old, new = (load_file(folder / line["trace"]) for folder in (suite.GOLDEN, Path(scratch)))
        print(case)
        bad += compare(old, new, LIMIT_BF16 if name.endswith("-bf16") else LIMIT_F32)
    print(f"{len(args.cases)} traces, {bad} taps beyond the limit (f32 {LIMIT_F32:g}, bf16 {LIMIT_BF16:g})")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
