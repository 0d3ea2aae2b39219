#!/usr/bin/env python3
"""Make golden traces of models with PEFT adapters attached, and of attached models with a mistake in them.

Bases and adapters are those of golden/merges. Writes golden/traces/attached/CASE.safetensors and the cases' lines in
golden/suite.json. A wrong trace comes from the same libraries after one thing was changed in the attached model; the
suite says at which tap it must be found.

--all DIR captures every pair of golden/merges that PEFT can attach into DIR instead and lists them there, one line each:
trace, base, variant, adapters.
"""
import argparse
import json
from pathlib import Path

import peft
import torch
import transformers
from peft.tuners.lora.layer import LoraLayer

import capture
import suite
from make_traces import quiet, variants

MERGES = suite.GOLDEN / "merges"
SHORT = [{"ids": [[5, 17, 23, 42, 8, 31]]}, {"decode": 1}]
RAGGED = [capture.padded([[5, 17, 23, 42, 8, 31, 7], [2, 7, 40]]), {"decode": 2}]


def pairs(model):
    return [(name, m) for name, m in model.named_modules() if isinstance(m, LoraLayer)]


def no_division(model):
    for _, m in pairs(model):
        for adapter in m.active_adapters:
            m.scaling[adapter] *= m.r[adapter]


def off_in_decode(model):
    def before(module, args, kwargs):
        for _, m in pairs(model):
            m.enable_adapters(kwargs["input_ids"].shape[1] > 1)
    model.register_forward_pre_hook(before, with_kwargs=True)


def of_another_layer(model):
    by_name = dict(pairs(model))
    first, second = (by_name[f"model.layers.{i}.self_attn.q_proj"] for i in (0, 1))
    for adapter in first.active_adapters:
        second.lora_A[adapter], second.lora_B[adapter] = first.lora_A[adapter], first.lora_B[adapter]


def dt_past_adapter(model):
    """As the library is: FalconMamba multiplies by dt_proj's weight, and an adapter on it is not seen."""
    del model.config._is_quantized


# case -> (base, adapters, calls, what is wrong: how, step, tap; what it shows)
CASES = {
    "all-linear-bf16": ("plain-bf16", "all-linear", RAGGED, None, "LoRA on every product but out_proj, bf16 base"),
    "exclude-list-f32": ("plain-f32", "exclude-list", SHORT, None, "LoRA on most products, f32"),
    "dora-f32": ("plain-f32", "dora-f32", SHORT, None, "DoRA, f32"),
    "both-tied-bf16": ("tied-bf16", "both-tied", SHORT, None, "LoRA on both ends of a tied embedding"),
    "wrong-scale": ("plain-f32", "exclude-list", SHORT, (no_division, 0, "model.layers.0.self_attn.k_proj"),
                    "scaled by lora_alpha instead of lora_alpha / r"),
    "wrong-decode": ("plain-f32", "exclude-list", SHORT, (off_in_decode, 1, "model.layers.0.self_attn.k_proj"),
                     "the adapter is off in one-token steps"),
    "wrong-layer": ("plain-bf16", "all-linear", SHORT, (of_another_layer, 0, "model.layers.1.self_attn.q_proj"),
                    "layer 1's q_proj has layer 0's pair"),
    "mamba-bf16": ("mamba-bf16", "mamba-x", RAGGED, None, "FalconMamba: LoRA on x_proj, bf16 base"),
    "mamba-f32": ("mamba-f32", "mamba-all-linear", SHORT, None, "FalconMamba: LoRA on in_proj, x_proj and dt_proj, f32"),
    "mamba-padded": ("mamba-f32", "mamba-lora-bias", RAGGED, None,
                     "FalconMamba: LoRA with biases on in_proj and dt_proj, f32, padded left"),
    "mamba-dt-ignored": ("mamba-f32", "mamba-all-linear", SHORT, (dt_past_adapter, 0, "backbone.layers.0.mixer.dt"),
                         "the library's own: what an adapter adds to dt_proj is not in the model"),
}


def beside_dt(base, adapters):
    """Whether an adapter works on FalconMamba's dt_proj."""
    targets = [json.loads((MERGES / "adapters" / a / "adapter_config.json").read_text())["target_modules"] for a in adapters]
    return base.startswith("mamba") and "dt_proj" in str(targets)


def load(base, adapters):
    """With an adapter beside dt_proj, in f32 and with the flag of a quantised model: the library then calls the module."""
    dt = beside_dt(base, adapters)
    model = capture.load(MERGES / "bases" / base, torch.float32 if dt else None)
    model = capture.attach(model, [MERGES / "adapters" / a for a in adapters])
    if dt:
        model.config._is_quantized = True
    return model


def record(model, calls, path, command):
    recorder = capture.Recorder(model)
    capture.run(model, recorder, calls)
    if recorder.missing():
        raise SystemExit(f"{path}: taps not reached: {', '.join(recorder.missing())}")
    variant = variants(model.config, recorder)
    recorder.save(path, command=command, variant=variant)
    return variant


def make(case):
    base, adapter, calls, wrong, note = CASES[case]
    model = load(base, [adapter])
    if wrong:
        wrong[0](model)
    path = f"traces/attached/{case}.safetensors"
    variant = record(model, calls, suite.GOLDEN / path, f"golden/hf/make_attached_traces.py, {case}")
    line = {"name": f"attached/{case}", "model": f"merges/bases/{base}", "adapter": f"merges/adapters/{adapter}",
            "trace": path, "expect": "FAIL" if wrong else "PASS"}
    if variant:
        line["variant"] = variant
    if wrong:
        line |= {"expect_step": wrong[1], "expect_tap": wrong[2]}
    return line | {"note": note}


def make_all(folder):
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "list", "w") as out:
        for case in json.loads((MERGES / "merges.json").read_text())["cases"]:
            config = json.loads((MERGES / "bases" / case["base"] / "config.json").read_text())
            if case.get("initial") or "quantization_config" in config:
                continue  # not attached by PEFT as they are; a base that fh1 does not run
            trace = folder / f"{case['name']}.safetensors"
            variant = record(load(case["base"], case["adapters"]), RAGGED, trace, "golden/hf/make_attached_traces.py")
            print(trace.name, case["base"], variant or "-", *case["adapters"], file=out)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", type=Path, metavar="DIR", help="see above")
    args = parser.parse_args()
    if (transformers.__version__, peft.__version__) != ("5.23.0", "0.21.2"):
        raise SystemExit("make_attached_traces.py: transformers 5.23.0 and peft 0.21.2 are pinned (found "
                         f"{transformers.__version__} and {peft.__version__})")
    quiet()
    if args.all:
        make_all(args.all)
        return
    made = [make(case) for case in CASES]
    for line in made:
        print(line["trace"], (suite.GOLDEN / line["trace"]).stat().st_size)
    suite.update(made, lambda name: name.startswith("attached/"))


if __name__ == "__main__":
    main()
