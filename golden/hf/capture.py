#!/usr/bin/env python3
"""Capture the taps of a Falcon-H1 or Falcon-Mamba model in Hugging Face transformers and write them as an fh1 trace."""
import argparse
import fnmatch
import json
import re
import sys
import warnings
from pathlib import Path

import torch
import transformers

import blocks
import falcon_h1
import falcon_mamba
import gradients
from lifted import widen
from packing import IGNORED, labels_for, pack, read_documents
from write_trace import write_trace

EXAMPLE = """
example:
  printf '5 17 23 42 8 31\\n5 9 60\\n' > ids.txt
  python golden/hf/capture.py Falcon-H1-0.5B-Instruct --ids ids.txt --decode 4 -o trace.safetensors
  fh1 check Falcon-H1-0.5B-Instruct --trace trace.safetensors
  python golden/hf/capture.py Falcon-H1-0.5B-Instruct --ids ids.txt --backward --f64 -o trace.safetensors
  fh1 gradcheck Falcon-H1-0.5B-Instruct --trace trace.safetensors

a schedule is a JSON list of successive calls on one cache; mask and position_ids cover past + new
and new tokens, and may be left out:
  [{"ids": [[5, 17, 23]]}, {"ids": [[42, 8]]}, {"decode": 3}]
"""
DTYPES = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64"}
FAMILIES = {"falcon_h1": falcon_h1, "falcon_mamba": falcon_mamba}


def producer():
    return f"transformers {transformers.__version__} torch {torch.__version__.split('+')[0]} eager cpu"


def load(folder, dtype=None, block=None):
    """The model, eager attention, on the CPU, ready to be captured. dtype None, block None: as the config says."""
    config = transformers.AutoConfig.from_pretrained(folder)
    if block:
        config.fh1_block = block
    if config.model_type not in FAMILIES:
        raise SystemExit(f"capture.py: {folder}/config.json: model_type is {config.model_type!r}, expected one of "
                         + ", ".join(map(repr, FAMILIES)))
    dtype = dtype or getattr(config, "dtype", None) or torch.float32
    eager = {"attn_implementation": "eager"} if config.model_type == "falcon_h1" else {}
    with blocks.wired(config):
        return transformers.AutoModelForCausalLM.from_pretrained(folder, config=config, dtype=dtype, **eager).eval()


def attach(model, folders):
    """PEFT adapters beside the weights of the model, all active, nothing merged. Modules keep the base's names."""
    from peft import PeftModel
    wrapped = PeftModel.from_pretrained(model, folders[0])
    names = ["default"] + [f"adapter_{i}" for i in range(1, len(folders))]
    for name, folder in zip(names[1:], folders[1:]):
        wrapped.load_adapter(folder, name)
    wrapped.base_model.set_adapter(names)
    return wrapped.base_model.model.eval()


class Recorder:
    """Records every call of the model while it is entered:

        with Recorder(model) as r:
            model(input_ids=ids)      # or model.generate(...)
        r.save("trace.safetensors")

    keep(step, tap) -> bool restricts what is kept. A call's inputs are always kept.
    """

    def __init__(self, model, keep=None):
        self.model, self.config, self.family = model, model.config, FAMILIES[model.config.model_type]
        self.keep = keep or (lambda step, tap: True)
        self.step, self.columns = -1, 0
        self.tensors, self.seen = {}, {}
        self.mixer = self.dt = self.silu = None

    # -- storing ---------------------------------------------------------------------------------

    def tap(self, name, value):
        """Keep one tap, in the dtype in which the library computed it and the shape of the table."""
        if name not in self.shapes:
            raise RuntimeError(f"{name} is not a tap of this model")
        self.seen.setdefault(self.step, set()).add(name)
        if not self.keep(self.step, name):
            return
        want = tuple(n for n in self.shapes[name] if n is not None)
        got = tuple(value.shape)
        if name == "logits":
            got = (got[0], got[-1])
        elif got != want and value.numel() == torch.Size(want).numel():
            value, got = value.reshape(want), want  # one-token calls leave T out
        if got != want:
            raise RuntimeError(f"step{self.step}/{name}: shape {tuple(value.shape)}, expected {want}\n"
                               "(up to 5.22.2, transformers returns a wrong shape for one-token calls with batch > 1 "
                               "in models that have the gated norm: use 5.23.0 or one row)")
        self.tensors[f"step{self.step}/{name}"] = value.detach().clone(memory_format=torch.contiguous_format)

    def input(self, name, value):
        if value is not None:
            value = torch.as_tensor(value).to(torch.int64)
            self.tensors[f"step{self.step}/{name}"] = value.clone(memory_format=torch.contiguous_format)

    def missing(self):
        """Taps of the table that some call did not produce."""
        return sorted({t for s in self.seen for t in self.shapes if t != "loss" and t not in self.seen[s]
                       and not (t.startswith("cache.") and not self.cached)})

    def save(self, path, **metadata):
        dtype = next(self.model.parameters()).dtype
        contract = {torch.float64: "exact", torch.float32: "fp32", torch.bfloat16: "hf-eager-bf16"}.get(dtype)
        fields = {"trace": "1", "producer": producer(), "contract": contract} | metadata
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        # Not safetensors' save_file: it shuffles the metadata, and a golden must come out the same twice.
        write_trace(path, {name: (DTYPES[t.dtype], t.shape, t.reshape(-1).view(torch.uint8).numpy())
                           for name, t in self.tensors.items()}, {f"fh1.{k}": v for k, v in fields.items() if v})

    # -- the calls -------------------------------------------------------------------------------

    def begin(self, module, args, kwargs):
        self.step += 1
        ids = kwargs["input_ids"] if "input_ids" in kwargs else args[0]
        self.cache = kwargs.get(self.family.CACHE)
        past = self.columns if self.cache is not None else 0  # columns that earlier calls left in the cache
        self.columns = past + ids.shape[1]
        mask, positions = kwargs.get("attention_mask"), kwargs.get("position_ids")
        self.shapes = self.family.tap_shapes(self.config, ids.shape[0], ids.shape[1], past)
        self.input("input_ids", ids)
        if mask is not None:
            if not isinstance(mask, torch.Tensor) or mask.shape != (ids.shape[0], past + ids.shape[1]):
                raise RuntimeError(f"step{self.step}: attention_mask is not [B, past+new]; a trace cannot hold it")
            self.input("attention_mask", mask)
        if positions is not None:
            self.input("position_ids", positions.expand(ids.shape))
        self.input("seq_idx", kwargs.get("seq_idx"))
        self.input("labels", kwargs.get("labels"))

    def end(self, module, args, kwargs, out):
        self.tap("logits", out.logits)
        if out.loss is not None:
            self.tap("loss", out.loss)
        cache = getattr(out, self.family.CACHE)
        cache = cache if cache is not None else self.cache
        self.cached = cache is not None
        for i in range(self.config.num_hidden_layers if self.cached else 0):
            for name, value in self.family.states(self.config, cache, i):
                self.tap(f"cache.{i}.{name}", value)

    # -- the hooks: what a family installs ----------------------------------------------------------

    def output(self, module, name):
        self.handles.append(module.register_forward_hook(
            lambda m, args, out: self.tap(name, out[0] if isinstance(out, tuple) else out)))

    def first_input(self, module, name):
        self.handles.append(module.register_forward_pre_hook(
            lambda m, args, kwargs: self.tap(name, args[0] if args else kwargs["hidden_states"]), with_kwargs=True))

    def before(self, module, hook):
        self.handles.append(module.register_forward_pre_hook(hook))

    def mixer_hooks(self, module, name, entered, as_tap):
        """MixerWatch sees what a mixer computes between the two; as_tap(dt) has the layout of the tap."""
        def enter(module, args):
            self.mixer, self.dt, self.silu = name, None, None
            entered()

        def leave(module, args, out):
            self.mixer = None
            self.tap(name + ".dt", as_tap(self.dt))
        self.handles += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]

    def scan(self, y):
        part, value = self.hooks.scan(y)
        self.tap(f"{self.mixer}.{part}", value)

    def __enter__(self):
        self.handles = [self.model.register_forward_pre_hook(self.begin, with_kwargs=True)]
        self.hooks = self.family.Hooks(self)
        self.handles.append(self.model.register_forward_hook(self.end, with_kwargs=True))
        return self

    def __exit__(self, *exc):
        self.hooks.remove()
        for handle in self.handles:
            handle.remove()


# -- running ---------------------------------------------------------------------------------------

def positions_of(mask, new):
    """Positions of the last `new` columns, as this version's generate() makes them from a mask."""
    at_pads = 1 if transformers.__version__ < "5" else 0
    return (mask.cumsum(-1) - 1).masked_fill(mask == 0, at_pads)[:, -new:]


def run(model, recorder, calls):
    """Make the calls on one cache. A call is {"ids", "mask", "position_ids", "seq_idx", "labels"} (all but
    ids optional) or {"decode": K}: K greedy one-token calls."""
    cache, past, now = None, 0, {}

    def one(call):
        nonlocal cache, past
        if cache is None:
            cache = recorder.family.new_cache(model, call["ids"].shape[0])
        out = model(**recorder.family.arguments(call, past), **{recorder.family.CACHE: cache}, use_cache=True)
        cache = getattr(out, recorder.family.CACHE)
        past += call["ids"].shape[1]
        return out.logits

    def next_token(call, logits):
        """The greedy call that follows a call, its mask and positions continued."""
        ids, mask, positions = (call.get(k) for k in ("ids", "mask", "position_ids"))
        new = ids.shape[1]
        last = torch.full((ids.shape[0],), new - 1)
        if mask is not None:  # the last real token of the row, wherever its pads are
            last = (torch.arange(new) * mask[:, -new:]).max(-1).values
        out = {"ids": logits[torch.arange(ids.shape[0]), last].float().argmax(-1, keepdim=True)}
        if mask is not None:
            out["mask"] = torch.cat([mask, torch.ones_like(out["ids"])], 1)
        if positions is not None:
            out["position_ids"] = positions_of(out["mask"], 1) if mask is not None else positions[:, -1:] + 1
        return out

    with torch.no_grad(), recorder:
        for call in calls:
            for _ in range(call.get("decode", 0)):
                now = next_token(now, logits)
                logits = one(now)
            if "ids" in call:
                now = {k: torch.as_tensor(v, dtype=torch.int64) for k, v in call.items() if k != "decode" and v is not None}
                logits = one(now)


def padded(rows, side="left", pad_id=0, width=0, labels=None):
    """One call from rows of ids. Rows of different length are padded, with the mask and positions of generate().
    With labels, a list per row: the call has them too, ignored at padding and at a row's first token, which nothing
    precedes; the library would predict it from the last row of the padding."""
    width = max(width, *(len(r) for r in rows)) if len(rows) > 1 else max(width, len(rows[0]))

    def fill(row, pad):
        return [pad] * (width - len(row)) + list(row) if side == "left" else list(row) + [pad] * (width - len(row))

    call = {"ids": [fill(r, pad_id) for r in rows]}
    if any(len(r) < width for r in rows):
        mask = torch.tensor([fill([1] * len(r), 0) for r in rows])
        call |= {"mask": mask, "position_ids": positions_of(mask, width)}
    if labels is not None:
        call["labels"] = [fill([IGNORED, *r[1:]], IGNORED) for r in labels]
    return call


def layer_filter(spec, n_layers):
    if spec is None:
        return set(range(n_layers))
    layers = set()
    for part in spec.split(","):
        first, _, last = part.partition("-")
        layers |= set(range(int(first), int(last or first) + 1))
    return layers


def glob_filter(globs, layers=None):
    """keep(step, tap) from comma-separated globs on tap names and a set of layers."""
    globs = (globs or "*").split(",")

    def keep(step, tap):
        number = re.search(r"(?:^cache|\blayers)\.(\d+)", tap)
        if layers is not None and number and int(number[1]) not in layers:
            return False
        return any(fnmatch.fnmatchcase(tap, g) for g in globs)

    return keep


def main():
    parser = argparse.ArgumentParser(description=__doc__, epilog=EXAMPLE,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder with config.json and one or several .safetensors")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--ids", metavar="FILE", help="one row per line, ids separated by blanks")
    what.add_argument("--schedule", metavar="FILE", help="JSON list of calls on one cache, see below")
    parser.add_argument("-o", "--out", required=True, metavar="TRACE")
    parser.add_argument("--decode", type=int, default=0, metavar="K", help="K greedy one-token calls after the ids")
    parser.add_argument("--pad", choices=("left", "right"), default="left",
                        help="side on which shorter rows are padded (default left)")
    parser.add_argument("--pad-id", type=int, metavar="ID", help="default: pad_token_id of the config")
    parser.add_argument("--pad-to", type=int, default=0, metavar="T", help="pad every row to T at least")
    parser.add_argument("--loss", action="store_true", help="pass labels too and store the loss")
    parser.add_argument("--labels", metavar="FILE", help="labels in the lines of --ids, -100 where none counts (default: the "
                        "ids; a row's first one never counts: nothing precedes it)")
    parser.add_argument("--backward", action="store_true", help="store the loss and its gradients too (grad.*); of a model "
                        "with an adapter those of the adapter")
    parser.add_argument("--full", action="store_true", help="gradients of the weights below an adapter as well")
    parser.add_argument("--f64", action="store_true", help="compute in f64 throughout, the library's casts to f32 lifted")
    parser.add_argument("--pack", type=int, metavar="T", help="with --backward: each line is a document; they are packed into "
                        "rows of T columns as fh1 train packs them")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="default: as the config says")
    parser.add_argument("--adapter", action="append", metavar="DIR", help="attach a PEFT adapter; may be repeated")
    parser.add_argument("--layers", metavar="LIST", help="keep only these layers, as 0,3,10-12")
    parser.add_argument("--taps", metavar="GLOB", help="keep only taps that match, several separated by commas")
    parser.add_argument("--variant", help="named deviations that this library has on this input (fh1.variant)")
    parser.add_argument("--contract", help="rounding profile (fh1.contract; default by dtype)")
    args = parser.parse_args()
    if args.f64 and args.dtype:
        parser.error("--f64 and --dtype exclude each other")
    if args.pack is not None and (not args.backward or not args.ids or args.pack < 1):
        parser.error("--pack T, columns of a row, goes with --backward and --ids")

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    warnings.simplefilter("ignore")
    if not (Path(args.model) / "config.json").is_file():
        raise SystemExit(f"capture.py: {args.model}: no config.json there; expected a model folder")
    model = load(args.model, args.dtype and getattr(torch, args.dtype))
    if args.adapter:
        model = attach(model, args.adapter)
    if args.f64:
        widen(model)
    pad_id = args.pad_id if args.pad_id is not None else model.config.pad_token_id or 0
    if args.schedule:
        calls = json.loads(Path(args.schedule).read_text())
    else:
        rows = read_documents(args.ids, model.config.vocab_size)
        labels = labels_for(rows, args.labels) if args.loss or args.labels or args.backward else None
        calls = [padded(rows, args.pad, pad_id, args.pad_to, labels)]
    if args.decode:
        calls.append({"decode": args.decode})
    if not calls or "ids" not in calls[0]:
        raise SystemExit("capture.py: the first call of a schedule needs ids")
    vocab = model.config.vocab_size
    for call in calls:
        if "ids" in call and not 0 <= torch.as_tensor(call["ids"]).min() <= torch.as_tensor(call["ids"]).max() < vocab:
            raise SystemExit(f"capture.py: an id lies outside 0..{vocab - 1}")

    recorder = Recorder(model, glob_filter(args.taps, layer_filter(args.layers, model.config.num_hidden_layers)))
    if args.backward and args.pack:
        gradients.of_rows(model, recorder, pack(rows, args.pack), pack(labels, args.pack), args.full, pad_id)
    elif args.backward:
        gradients.of_call(model, recorder, calls, args.full)
    else:
        with gradients.precision(model):
            run(model, recorder, calls)
    if recorder.missing():
        print("capture.py: not reached in this version:", ", ".join(recorder.missing()), file=sys.stderr)
    metadata = {"command": " ".join(["capture.py", *sys.argv[1:]]), "variant": args.variant}
    if args.contract:
        metadata["contract"] = args.contract
    recorder.save(args.out, **metadata)
    print(f"{args.out}: {recorder.step + 1} calls, {len(recorder.tensors)} tensors")


if __name__ == "__main__":
    main()
