#!/usr/bin/env python3
"""Make golden/gradients' training runs: transformers 5.23.0, peft 0.21.2 and torch.optim.AdamW, in f32 and in f64.

RUN/train.json says all there is to know about a run, RUN/train.ids holds its documents, packed as packing.py says.
RUN/train-TYPE.safetensors holds, in F64, loss, norm (before clipping) and rate of every step; after the first and the last
step stepN/master/NAME, stepN/m/NAME and stepN/v/NAME (weight and moments in the type of the run) of all or some parameters;
and for all of them, in the bytes' order of their names, sums of squares of w - w_before, m and v: stepN/squares/update, /m,
/v. `finetune` trains an adapter that PEFT initialised (initial/) on the paragraphs of a text; final/ is saved by PEFT.
"""
import argparse
import json

import peft
import torch

import capture
import suite
from lifted import widen
from make_gradients import FOLDER, LINEAR, TYPES, documents, pinned, save_adapter
from make_traces import quiet
from packing import read_documents
from training import epoch_loss, train
from write_trace import write_trace

COMMON = dict(adapter=None, steps=10, seq_len=24, batch=2, accumulate=1, schedule="cosine", lr=1e-3, warmup=3,
              betas=[0.9, 0.95], eps=1e-8, weight_decay=0.1, clip=1.0)
LENGTHS = [7, 11, 1, 2, 15, 30, 5, 9, 24, 3, 13, 8]

RUNS = {
    "mini-0.5b": COMMON | dict(base="mini-0.5b"),
    "mini-34b": COMMON | dict(base="mini-34b", batch=1, accumulate=2),
    "odd": COMMON | dict(base="odd", batch=3, schedule="constant", lr=2e-3, warmup=0, clip=1e3, weight_decay=0.01),
    "mamba-tied": COMMON | dict(base="mamba-tied", accumulate=2, lr=2e-3),
    "finetune": COMMON | dict(base="mini-0.5b", adapter="finetune/initial", steps=40, seq_len=64, lr=1e-2, warmup=5,
                              betas=[0.9, 0.999], weight_decay=0.01),
}
LORA = dict(target_modules=[*LINEAR, "embed_tokens", "lm_head"], r=4, lora_alpha=8)
TEXT = suite.GOLDEN.parent / "LICENSE"
PARAGRAPHS = slice(2, 20)


def text_documents(path, vocab):
    """Paragraphs, blanks and line ends collapsed; bytes modulo the vocabulary."""
    paragraphs = [" ".join(p.split()) for p in path.read_text(encoding="ascii").split("\n\n")]
    return [[byte % vocab for byte in p.encode()] for p in paragraphs[PARAGRAPHS] if p]


def initial_adapter(run):
    """As PEFT makes it: A uniform and B zero, of an embedding A zero and B normal."""
    torch.manual_seed(11)
    model = peft.get_peft_model(capture.load(suite.GOLDEN / "models" / run["base"]),
                                peft.LoraConfig(task_type="CAUSAL_LM", **LORA))
    save_adapter(model, FOLDER / run["adapter"], run["base"])


def make_inputs(name):
    run, folder = RUNS[name], FOLDER / name
    folder.mkdir(parents=True, exist_ok=True)
    model = capture.load(suite.GOLDEN / "models" / run["base"])
    model.name_or_path = run["base"]
    if run["adapter"]:
        ids = text_documents(TEXT, model.config.vocab_size)
        initial_adapter(run)
    else:
        ids = documents(model, "train", LENGTHS)
    (folder / "train.ids").write_text("".join(" ".join(map(str, d)) + "\n" for d in ids))


def kept_whole(name, dtype, step):
    """Which parameters are kept besides the sums of squares: all after the last step of an f32 run, fewer otherwise."""
    last = step == RUNS[name]["steps"]
    if RUNS[name]["adapter"]:
        return lambda parameter, p: last
    if last and dtype == "f32":
        return lambda parameter, p: True
    if last and name == "mini-34b":
        return lambda parameter, p: "layers." not in parameter and p.dim() == 1 or ".1." in parameter
    return lambda parameter, p: p.dim() == 1 and (last or ".1." in parameter)


def snapshot(out, name, dtype, step, before, named, optimiser):
    keep, squares = kept_whole(name, dtype, step), {"update": [], "m": [], "v": []}
    for key, p in sorted(named.items()):
        state = optimiser.state[p]
        w, m, v = p.detach(), state["exp_avg"], state["exp_avg_sq"]
        if keep(key, p):
            for part, value in (("master", w), ("m", m), ("v", v)):
                out[f"step{step}/{part}/{key}"] = value.clone()
        for part, value in (("update", w.double() - before[key]), ("m", m.double()), ("v", v.double())):
            squares[part].append(value.square().sum().item())
    for part, values in squares.items():
        out[f"step{step}/squares/{part}"] = torch.tensor(values, dtype=torch.float64)


def load(run, dtype):
    model = capture.load(suite.GOLDEN / "models" / run["base"])
    if run["adapter"]:
        model = capture.attach(model, [FOLDER / run["adapter"]])
    return widen(model) if dtype == "f64" else model


def merged_loss(adapter, ids, run):
    model = capture.load(suite.GOLDEN / "models" / run["base"])
    merged = peft.PeftModel.from_pretrained(model, adapter).merge_and_unload()
    return epoch_loss(merged.eval(), ids, run)


def make(name, dtype, folder=FOLDER):
    """Make one run under folder; the inputs are those of the tree. Returns what its train.json says of it."""
    run = RUNS[name]
    model = load(run, dtype)
    ids = read_documents(FOLDER / name / "train.ids", model.config.vocab_size)
    result = {"before": epoch_loss(model, ids, run)} if run["adapter"] else {}
    out, curves, before = {}, {"loss": [], "norm": [], "rate": []}, None
    start = {n: p.detach().double().clone() for n, p in model.named_parameters()}
    for step, loss, norm, lr, named, optimiser in train(model, ids, run):
        if before is None:
            by_id = {id(p): n for n, p in model.named_parameters()}
            before = {key: start[by_id[id(p)]] for key, p in named.items()}
        for key, value in (("loss", loss), ("norm", norm), ("rate", lr)):
            curves[key].append(value)
        if step in (1, run["steps"]):
            snapshot(out, name, dtype, step, before, named, optimiser)
    out |= {key: torch.tensor(values, dtype=torch.float64) for key, values in curves.items()}
    (folder / name).mkdir(parents=True, exist_ok=True)
    write_trace(folder / name / f"train-{dtype}.safetensors",
                {k: (capture.DTYPES[t.dtype], t.shape, t.contiguous().reshape(-1).view(torch.uint8).numpy())
                 for k, t in out.items()},
                {"fh1.producer": capture.producer(), "fh1.command": f"golden/hf/make_training.py --only {name}"})
    if run["adapter"]:
        result["after"] = epoch_loss(model, ids, run)
        if dtype == "f32":
            save_trained(model, folder / name / "final", run)
            result["merged"] = merged_loss(folder / name / "final", ids, run)
    return result


def save_trained(model, out, run):
    """The trained tensors in PEFT's own folder."""
    wrapped = peft.PeftModel.from_pretrained(capture.load(suite.GOLDEN / "models" / run["base"]), FOLDER / run["adapter"])
    missing = wrapped.base_model.model.load_state_dict(model.state_dict(), strict=False)
    if missing.unexpected_keys or missing.missing_keys:
        raise SystemExit(f"{out}: {missing}")
    save_adapter(wrapped, out, run["base"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=RUNS, help="one run")
    parser.add_argument("--inputs", action="store_true", help="make documents and initial adapter again, too")
    args = parser.parse_args()
    pinned("make_training.py")
    quiet()
    for name in [args.only] if args.only else RUNS:
        if args.inputs:
            make_inputs(name)
        results = {dtype: make(name, dtype) for dtype in TYPES}
        text = RUNS[name] | {"base": f"../../models/{RUNS[name]['base']}"}
        if RUNS[name]["adapter"]:
            text |= {"adapter": "initial", "epoch_loss": results}
        (FOLDER / name / "train.json").write_text(json.dumps(text, indent=1) + "\n")
        print(name, results)


if __name__ == "__main__":
    main()
