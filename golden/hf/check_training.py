#!/usr/bin/env python3
"""Judge what `fh1 train` writes with the real transformers and PEFT of this machine.

A model trained for a few steps is loaded by transformers, an adapter on every kind of module by PEFT; both must give the
loss that the program itself has for its next step (f32: 16 roundings of 2^-24), and the model in bf16 within 3e-2, as far
as its own arithmetic rounds. The adapter's config has PEFT's keys and no others. An adapter on out_proj must be one that
PEFT refuses, since the program warns that it is.
"""
import argparse
import json
import subprocess
import tempfile
import warnings
from pathlib import Path

import capture
import peft
import suite
from make_traces import quiet
from packing import batches, count, first_ignored, pack, read_documents

import torch

WIDTH, ROWS = 24, 2
TARGETS = "in_proj+q_proj+k_proj+v_proj+o_proj+gate_proj+up_proj+down_proj+embed_tokens+lm_head"
ALLOWED = {"f32": 16 * 2.0**-24, "bf16": 3e-2}
IDS = suite.GOLDEN / "gradients/mini-0.5b/train.ids"
MAMBA_IDS = suite.GOLDEN / "gradients/mamba-tied/train.ids"
MAMBA_TARGETS = "in_proj+x_proj+embeddings+lm_head"  # dt_proj is not called by the library
MODELS = suite.GOLDEN / "models"


def ids_of(name):
    return MAMBA_IDS if "mamba" in str(name) else IDS


def program(fh1, model, *words):
    """The JSON lines of fh1 train."""
    done = subprocess.run([fh1, "train", str(model), *map(str, words), "--data", str(ids_of(model)), "--seq-len", str(WIDTH), "--batch", str(ROWS),
                           "--json"], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"fh1 train {model} {' '.join(map(str, words))}: exit {done.returncode}\n{done.stderr}")
    return [json.loads(line) for line in done.stdout.splitlines()]


def library_loss(model):
    """Of the first batch of the file, document by document."""
    documents = read_documents(ids_of(model.config.model_type), model.config.vocab_size)
    rows = next(batches(pack(documents, WIDTH), ROWS))
    total = 0.0
    with torch.no_grad():
        for row, labels in zip(rows, first_ignored(rows)):
            for ids, its_labels in zip(row, labels):
                if len(ids) > 1:
                    total += model(input_ids=torch.tensor([ids]), labels=torch.tensor([its_labels]), use_cache=False,
                                   num_items_in_batch=count(rows)).loss.item()
    return total


class Judge:
    def __init__(self):
        self.bad = 0

    def near(self, what, ours, theirs, allowed):
        off = abs(ours - theirs) / abs(theirs)
        good = off <= allowed
        self.bad += not good
        print(f"{'ok  ' if good else 'FAIL'} {what}: loss {ours:.7f}, the library has {theirs:.7f}, off by {off:.2g}")

    def true(self, what, good):
        self.bad += not good
        print(f"{'ok  ' if good else 'FAIL'} {what}")


def check_model(judge, fh1, name, dtype, out):
    program(fh1, MODELS / name, "--steps", 3, "--lr", 1e-3, "-o", out / name)
    ours = program(fh1, out / name, "--steps", 1, "--lr", 0, "-o", out / f"{name}-same")[0]["loss"]
    model = capture.load(out / name)
    judge.true(f"{name}: every tensor in {dtype}", {p.dtype for p in model.parameters()} ==
               {torch.bfloat16 if dtype == "bf16" else torch.float32})
    judge.near(f"{name}, trained", ours, library_loss(model), ALLOWED[dtype])
    before = library_loss(capture.load(MODELS / name))
    judge.true(f"{name}: training changed the loss", abs(before - ours) > 1e-2 * before)


def check_adapter(judge, fh1, name, out, targets=TARGETS):
    folder = out / f"{name}-adapter"
    program(fh1, MODELS / name, "--steps", 5, "--lr", 1e-2, "--lora", f"4,8,{targets}", "-o", folder)
    ours = program(fh1, MODELS / name, "--adapter", folder, "--steps", 1, "--lr", 0, "-o", out / f"{name}-on")[0]["loss"]
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # PEFT tells by a warning that keys are missing
        wrapped = peft.PeftModel.from_pretrained(capture.load(MODELS / name), folder)
    judge.near(f"{name}, adapter", ours, library_loss(wrapped.base_model.model.eval()), ALLOWED["f32"])
    judge.near(f"{name}, merged by PEFT", ours, library_loss(wrapped.merge_and_unload().eval()), ALLOWED["f32"])
    peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"]).save_pretrained(out / "config")
    keys = [list(json.loads((f / "adapter_config.json").read_text())) for f in (folder, out / "config")]
    judge.true(f"{name}: the adapter's config has PEFT's keys in PEFT's order", keys[0] == keys[1])


def check_out_proj(judge, fh1, name, out):
    folder = out / f"{name}-out_proj"
    program(fh1, MODELS / name, "--steps", 1, "--lr", 1e-3, "--lora", "2,4,out_proj", "-o", folder)
    try:
        peft.PeftModel.from_pretrained(capture.load(MODELS / name), folder)
        judge.true("PEFT refuses out_proj", False)
    except ValueError as e:
        judge.true(f"PEFT refuses out_proj: {str(e)[:70]}…", "out_proj" in str(e))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fh1", type=Path, help="the program")
    fh1 = str(parser.parse_args().fh1.resolve())
    quiet()
    judge = Judge()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        check_model(judge, fh1, "mini-0.5b", "f32", out)
        check_model(judge, fh1, "odd-bf16", "bf16", out)
        check_adapter(judge, fh1, "mini-0.5b", out)
        check_adapter(judge, fh1, "mini-34b", out)
        check_model(judge, fh1, "mamba-untied", "f32", out)
        check_model(judge, fh1, "mamba-tied-bf16", "bf16", out)
        check_adapter(judge, fh1, "mamba-untied", out, MAMBA_TARGETS)
        check_out_proj(judge, fh1, "mini-0.5b", out)
    raise SystemExit(judge.bad > 0)


if __name__ == "__main__":
    main()
