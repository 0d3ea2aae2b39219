#!/usr/bin/env python3
"""Make golden/gradients: losses and gradients by autograd of transformers 5.23.0 and peft 0.21.2, in f64, f32 and bf16.

Writes MODEL/CASE-TYPE.safetensors, the adapters, and the cases' lines in golden/gradients/suite.json. f64 is the library
with its casts to f32 lifted (lifted.py), so it can be compared at 1e-9; f32 and bf16 are the library as it is. The files
hold inputs, loss and gradients, no other taps.
"""
import argparse
import fnmatch
import shutil

import peft
import torch
import transformers

import capture
import gradients
import suite
from adapter_files import clean
from lifted import widen
from make_models import normal
from make_traces import quiet, tokens
from packing import IGNORED, pack

FOLDER = suite.GOLDEN / "gradients"
SEED = 7
TYPES = ["f64", "f32"]

LINEAR = ["in_proj", "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

# name -> (base, fields of LoraConfig). Scales are no powers of two, so that none can be forgotten unseen.
ADAPTERS = {
    "linear": ("mini-34b", dict(target_modules=LINEAR, r=3, lora_alpha=5, alpha_pattern={"v_proj": 7})),
    "ends": ("mini-0.5b", dict(target_modules=["embed_tokens", "lm_head", "q_proj"], r=4, lora_alpha=6, use_rslora=True)),
    "bias": ("odd", dict(target_modules=LINEAR, r=2, lora_alpha=3, lora_bias=True)),
    "tied-ends": ("odd", dict(target_modules=["embed_tokens", "lm_head"], r=2, lora_alpha=3)),
    # dt_proj is not among them: the library multiplies by its weight alone, so nothing beside that would learn.
    "mamba-linear": ("mamba-untied", dict(target_modules=["in_proj", "x_proj", "lm_head"], r=3, lora_alpha=5)),
    "mamba-tied-ends": ("mamba-tied", dict(target_modules=["embeddings", "lm_head", "x_proj"], r=2, lora_alpha=3)),
}


def documents(model, case, lengths, zeros=()):
    """Seeded ids. zeros: (document, place) of a token that is the padding's id, and real: Falcon-H1's embedding learns
    nothing from it."""
    rows = [tokens(model, case, n, i) for i, n in enumerate(lengths)]
    for row, place in zeros:
        rows[row][place] = model.config.pad_token_id
    return rows


def some_labels(document):
    """The ids, every fifth one ignored."""
    return [IGNORED if i % 5 == 3 else token for i, token in enumerate(document)]


def padded(side):
    def take(model, recorder):
        rows = documents(model, "grad-padded", [5, 12, 9])
        call = capture.padded(rows, side, model.config.pad_token_id, labels=[some_labels(r) for r in rows])
        gradients.of_call(model, recorder, [call])
    return take


def packed(model, recorder):
    rows = pack(documents(model, "grad-packed", [7, 11, 1, 2, 15, 30, 5], zeros=[(0, 3), (5, 20)]), 24)
    gradients.of_rows(model, recorder, rows, [[some_labels(d) for d in row] for row in rows])


def chunks2(model, recorder):
    rows = documents(model, "grad-chunks2", [2 * model.config.mamba_chunk_size + 5], zeros=[(0, 30), (0, 9)])
    gradients.of_call(model, recorder, [capture.padded(rows, labels=[some_labels(r) for r in rows])])


def long(model, recorder):
    rows = documents(model, "grad-long", [37], zeros=[(0, 30), (0, 9)])
    gradients.of_call(model, recorder, [capture.padded(rows, labels=[some_labels(r) for r in rows])])


# case -> (models or adapters, how, what it shows). Padded ones are made in bf16 too.
CASES = {
    "left3": (["mini-0.5b", "mini-34b", "block-sequential", "linear", "mamba-untied", "mamba-linear"], padded("left"), "ragged batch, padded left by the library"),
    "right3": (["odd", "block-sam", "bias", "mamba-tied"], padded("right"),
               "ragged batch, padded right by the library, which leaks in_proj's bias at left padding"),
    "packed": (["mini-0.5b", "mini-34b", "odd", "block-sam", "block-sequential", "mamba-untied", "mamba-tied", *ADAPTERS], packed,
               "documents in rows of 24: one of a single token, one cut in two"),
    "chunks2": (["mini-0.5b", "mini-34b", "odd", "ends"], chunks2, "two chunks and five tokens"),
    "long": (["mamba-untied"], long, "37 tokens, two of them with the padding's id: its embedding learns here"),
}


def make_adapter(name, out):
    base, fields = ADAPTERS[name]
    model = peft.get_peft_model(capture.load(suite.GOLDEN / "models" / base),
                                peft.LoraConfig(task_type="CAUSAL_LM", **fields))
    with torch.no_grad():
        for key, p in model.named_parameters():
            if ".lora_" in key:  # B too: with B = 0, A would have no gradient
                p.copy_(normal(SEED, key, tuple(p.shape)) * (0.3 if ".lora_A." in key or "embedding_A" in key else 0.1))
    save_adapter(model, out, base)


def save_adapter(model, out, base):
    shutil.rmtree(out, ignore_errors=True)
    model.save_pretrained(out, save_embedding_layers=False)
    clean(out, base)


def base_of(name, dtype):
    """The golden model that a model or an adapter stands for."""
    return (ADAPTERS[name][0] if name in ADAPTERS else name) + ("-bf16" if dtype == "bf16" else "")


def load(name, dtype):
    """A golden model, or the model of an adapter with the adapter attached."""
    base = base_of(name, dtype)
    model = capture.load(suite.GOLDEN / "models" / base)
    if name in ADAPTERS:
        model = capture.attach(model, [FOLDER / "adapters" / name])
    model.name_or_path = base
    return widen(model) if dtype == "f64" else model


def only_gradients(step, tap):
    return tap == "loss" or tap.startswith("grad.")


def make(name, case, dtype, folder=FOLDER):
    """Make one file under folder and return its line of the suite."""
    _, take, note = CASES[case]
    model = load(name, dtype)
    recorder = capture.Recorder(model, only_gradients)
    take(model, recorder)
    path = f"{name}/{case}-{dtype}.safetensors"
    recorder.save(folder / path, command=f"golden/hf/make_gradients.py --only {name}/{case}-{dtype}")
    line = {"name": f"{name}/{case}-{dtype}", "model": f"../models/{base_of(name, dtype)}"}
    if name in ADAPTERS:
        line["adapter"] = f"adapters/{name}"
    return line | {"trace": path, "expect": "PASS", "note": note}


def pinned(program):
    if (transformers.__version__, peft.__version__) != ("5.23.0", "0.21.2"):
        raise SystemExit(f"{program}: transformers 5.23.0 and peft 0.21.2 are pinned (found "
                         f"{transformers.__version__} and {peft.__version__})")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="*", metavar="GLOB", help="cases to make, as 'odd/*-f64'")
    parser.add_argument("--adapters", action="store_true", help="make the adapters again, too")
    args = parser.parse_args()
    pinned("make_gradients.py")
    quiet()
    if args.adapters:
        for name in fnmatch.filter(ADAPTERS, args.only.partition("/")[0]):
            make_adapter(name, FOLDER / "adapters" / name)
    made = []
    for case, (names, _, _) in CASES.items():
        for name in names:
            for dtype in TYPES + ["bf16"] * (case in ("left3", "right3")):
                if fnmatch.fnmatchcase(f"{name}/{case}-{dtype}", args.only):
                    made.append(make(name, case, dtype))
                    print(made[-1]["trace"], (FOLDER / made[-1]["trace"]).stat().st_size)
    names = {line["name"] for line in made}
    suite.update(made, lambda name: name in names, FOLDER / "suite.json")


if __name__ == "__main__":
    main()
