#!/usr/bin/env python3
"""Make real wrong traces: what transformers 4.57.6 computes where it is known to be wrong.

Needs its own environment (requirements-4.57.6.txt). Writes golden/traces/wrong-4.57.6/CASE.safetensors
and their lines in golden/suite.json, with the first tap that is wrong given the taps before it. A judge
that accepts one of them is broken.

4.57.6 reads a folder written by 5.x with the wrong theta (that is the case `theta`). For the other
cases it reads a copy whose config.json has rope_theta at top level, so that a trace holds one bug.

`mamba-left3` is none: 4.57.6 keeps padding out of a mixer whose in_proj has a bias, where 5.23.0 does not.
"""
import argparse
import fnmatch
import json
import shutil
import tempfile
from pathlib import Path

import transformers

import capture
import suite
from make_traces import quiet, ragged, rows

NAME = "wrong-4.57.6"

# case -> (model, calls, bug, step, first wrong tap, what happens)
CASES = {
    "left-pad-batch1": (
        "mini-0.5b", lambda m: [ragged(m, "left-pad-batch1", [7], "left", 11)], "HF9",
        0, "model.layers.0.mamba.conv_act", "the mixer ignores the padding mask at batch size one"),
    "left-pad-batch1-34b": (
        "mini-34b", lambda m: [ragged(m, "left-pad-batch1", [7], "left", 11)], "HF9",
        0, "model.layers.0.mamba.conv_act", "the mixer ignores the padding mask at batch size one"),
    "history-dropped": (
        "mini-0.5b", lambda m: [{"ids": rows(m, "history-dropped", [9])}, {"ids": rows(m, "history-dropped-4", [4])}],
        "CP1", 1, "model.layers.0.mamba.conv_act", "several tokens on a cache start from an empty conv window and state"),
    "history-dropped-34b": (
        "mini-34b", lambda m: [{"ids": rows(m, "history-dropped", [9])}, {"ids": rows(m, "history-dropped-4", [4])}],
        "CP1", 1, "model.layers.0.mamba.conv_act", "several tokens on a cache start from an empty conv window and state"),
    "no-dt-limit": (
        "odd", lambda m: [{"ids": rows(m, "no-dt-limit", [12])}], "HF3",
        0, "model.layers.0.mamba.dt", "a finite time_step_limit is ignored"),
    "theta": (
        "mini-0.5b", lambda m: [{"ids": rows(m, "theta", [12])}], "HF17",
        0, "model.layers.0.self_attn.q_rope", "rope_parameters of a 5.x config is not read: theta is the class default"),
    "mamba-conv-dropped": (
        "mamba-untied", lambda m: [{"ids": rows(m, "conv-dropped", [9])}, {"ids": rows(m, "conv-dropped-4", [4])}],
        "SR8", 1, "backbone.layers.0.mixer.conv_act",
        "as many tokens on a cache as the conv is wide are taken for a prefill: its window is empty, the state goes on"),
    "mamba-short-prompt": (
        "mamba-untied", lambda m: [{"ids": rows(m, "short-prompt", [2])}, {"decode": 2}], "cache_position",
        1, "backbone.layers.0.mixer.conv_act", "a token's position is its column in the conv window, wherever the window ends"),
    "mamba-left3": ("mamba-tied", lambda m: [ragged(m, "left3", [5, 12, 9], "left"), {"decode": 2}], None, 0, None,
                    "ragged batch, padded left; in_proj has a bias, and no padding leaks"),
}

# The variant of truth that has the same deviation. Each wrong trace is a case twice: it FAILs at its tap, and it PASSes
# under the variant, so nothing else is wrong in it and the variant is what the library does.
VARIANTS = {"HF9": "pads_in_mixer", "CP1": "history_dropped", "HF3": "no_dt_limit", "HF17": "theta_class_default"}


def with_v4_config(source, target):
    """A copy of a model folder as 4.57.6 would have written its rope keys."""
    shutil.copytree(source, target)
    path = target / "config.json"
    config = json.loads(path.read_text())
    config["rope_theta"] = config.pop("rope_parameters")["rope_theta"]
    config["rope_scaling"] = None
    path.write_text(json.dumps(config, indent=2))
    return target


def make(case, scratch):
    name, calls, bug, step, tap, note = CASES[case]
    folder = suite.GOLDEN / "models" / name
    if bug != "HF17" and not name.startswith("mamba"):
        folder = with_v4_config(folder, scratch / case)
    model = capture.load(folder)
    model.name_or_path = name
    recorder = capture.Recorder(model)
    capture.run(model, recorder, calls(model))
    path = f"traces/{NAME}/{case}.safetensors"
    recorder.save(suite.GOLDEN / path, command=f"golden/hf/make_wrong_traces.py --only {case}")
    place = {"model": f"models/{name}", "trace": path}
    if bug is None:
        return [{"name": f"{NAME}/{case}", **place, "expect": "PASS", "note": note}]
    lines = [{"name": f"{NAME}/{case}", **place, "expect": "FAIL", "expect_step": step, "expect_tap": tap, "bug": bug,
              "note": note}]
    if bug in VARIANTS:
        lines.append({"name": f"{NAME}/{case} as {VARIANTS[bug]}", **place, "expect": "PASS", "variant": VARIANTS[bug],
                      "note": "truth with the same deviation"})
    return lines


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="*", metavar="GLOB", help="cases to make, as 'left-*'")
    args = parser.parse_args()
    if transformers.__version__ != "4.57.6":
        raise SystemExit(f"make_wrong_traces.py: transformers 4.57.6 is wanted (found {transformers.__version__})")
    quiet()
    with tempfile.TemporaryDirectory() as scratch:
        made = [line for case in CASES if fnmatch.fnmatchcase(case, args.only) for line in make(case, Path(scratch))]
    for line in (line for line in made if " as " not in line["name"]):
        print(line["trace"], (suite.GOLDEN / line["trace"]).stat().st_size, line.get("bug", ""))
    names = {line["name"] for line in made}
    suite.update(made, lambda name: name in names)


if __name__ == "__main__":
    main()
