#!/usr/bin/env python3
"""Judge `fh1 merge` and golden/merges with the real PEFT and bitsandbytes of this machine.

Every case and rounding is merged again by PEFT and by the program, and both folders are compared tensor by tensor.
Where no sum depends on its order (adapters on a grid, no DoRA) PEFT must also give the hashes of merges.json; elsewhere
another processor may sum in another order: 1 ulp in 16-bit types, 4 in f32, and a line says so. transformers then
loads the program's folder: the same logits as PEFT's merged model, and with exact rounding those of the model with the
adapters attached, tied ends included. What bitsandbytes decodes here must have the hashes of golden/bnb.
"""
import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import make_bnb
import make_merges as golden
import torch
from merge_cases import ADAPTERS, CASES
from transformers import AutoModelForCausalLM

# Relative RMS of logits in f32, merged against attached: a weight was rounded once to the base's type.
ATTACHED = {torch.bfloat16: 3e-2, torch.float16: 4e-3, torch.float32: 2e-6}
ULPS = {torch.bfloat16: 1, torch.float16: 1, torch.float32: 4}


def ordered(t):
    """Integers in the order of the numbers, one apart for neighbours."""
    bits = t.contiguous().view(torch.int32 if t.dtype == torch.float32 else torch.int16).to(torch.int64)
    return torch.where(bits < 0, -(bits & (2 ** (8 * t.element_size() - 1) - 1)), bits)


def compare(ours, theirs, exactly):
    """Sentences about what differs beyond what is allowed, and the largest distance in ulps."""
    bad, worst = [f"{k}: only in one" for k in sorted(ours.keys() ^ theirs.keys())], 0
    for k in sorted(ours.keys() & theirs.keys()):
        a, b = ours[k], theirs[k]
        if a.dtype != b.dtype or a.shape != b.shape:
            bad.append(f"{k}: {a.dtype} {tuple(a.shape)} against {b.dtype} {tuple(b.shape)}")
            continue
        distance = (ordered(a) - ordered(b)).abs().max().item() if a.numel() else 0
        worst = max(worst, distance)
        if distance > (0 if exactly else ULPS[a.dtype]):
            bad.append(f"{k}: {distance} ulp")
    return bad, worst


def program_merge(fh1, base, adapters, initial, rounding, out):
    words = [fh1, "merge", base, *adapters, "-o", out, "--rounding", rounding, "--quiet"]
    if initial:
        words += ["--initial", initial]
    done = subprocess.run([str(w) for w in words], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, words))}: exit {done.returncode}\n{done.stderr}")
    return golden.tensors_of(out)


def logits(model):
    ids = torch.tensor([[3, 17, 40, 9, 2, 31, 7, 40, 25, 11, 1, 46]])
    with torch.no_grad():
        return model.eval()(input_ids=ids).logits


def relative(a, b):
    return ((a - b).double().pow(2).mean() / b.double().pow(2).mean()).sqrt().item()


def check_attached(merged_folder, base, paths):
    """The merged model against the attached one, both computed in f32; what the base alone would be off by."""
    dtype = golden.load_base(base).dtype
    merged = logits(golden.load_base(merged_folder).float())
    alone = logits(golden.load_base(base).float())
    model, names = golden.attach(base, paths, "exact")
    model.base_model.set_adapter(names)
    # FalconMamba multiplies by dt_proj's weight, past an adapter; with this flag it calls the module, as of quantised models.
    model.base_model.model.config._is_quantized = True
    attached = logits(model.float())
    return relative(merged, attached), relative(alone, attached), ATTACHED[dtype]


def check_case(fh1, folder, case, scratch):
    name, adapters, roundings = case
    base = folder / "bases" / ADAPTERS[adapters[0]]["base"]
    plain = golden.plain_folder(base, scratch)
    paths = [str(folder / "adapters" / a) for a in adapters]
    dora = any(ADAPTERS[a]["config"].get("use_dora") for a in adapters)
    fixed = not dora and all(ADAPTERS[a]["data"] == "grid" for a in adapters)
    bad, notes = [], []
    for rounding in roundings:
        out = Path(scratch) / f"{name}-{rounding}"
        ours = program_merge(fh1, base, paths, None, rounding, out)
        if rounding == "exact":
            off, without, limit = check_attached(out, plain, paths)
            notes.append(f"attached {off:.1e} (base alone {without:.1e})")
            if not off <= limit:
                bad.append(f"{rounding}: the logits are off the attached model's by {off:.2g}, {limit:g} allowed")
            continue
        theirs, tied = golden.merge(plain, paths, rounding)
        wrong, worst = compare(ours, theirs, fixed)
        bad += [f"{rounding}: {w}" for w in wrong]
        if worst:
            notes.append(f"{rounding} within {worst} ulp")
        line, _ = golden.run_line(golden.tensors_of(plain), theirs, tied, rounding)
        committed = next(r for c in COMMITTED["cases"] if c["name"] == name
                         for r in c["runs"] if r["rounding"] == rounding)
        if line["tensors"] != committed["tensors"]:
            (bad if fixed else notes).append(f"{rounding}: PEFT gives other bits here than in merges.json")
        if rounding == "peft":
            want = logits(merged_by_peft(plain, paths))
            got = logits(golden.load_base(out))
            if not torch.equal(want, got) if not worst else relative(got, want) > 1e-2:
                bad.append("transformers gives other logits for the merged folder")
    return bad, notes


def merged_by_peft(base, paths):
    model, names = golden.attach(base, paths, "peft")
    with tempfile.TemporaryDirectory() as saved:
        model.merge_and_unload(adapter_names=names).save_pretrained(saved)
        return AutoModelForCausalLM.from_pretrained(saved)


def check_fault(fh1, folder, scratch):
    """The comparison sees another chain and a missing adapter."""
    base, qv = folder / "bases/plain-bf16", str(folder / "adapters/qv")
    theirs, _ = golden.merge(base, [qv], "peft")
    ours = program_merge(fh1, base, [qv], None, "peft-safe", Path(scratch) / "fault")
    if not compare(ours, theirs, True)[0] or not compare(golden.tensors_of(base), theirs, False)[0]:
        return ["a planted difference was not seen"]
    return []


def check_decoded():
    committed = json.loads((golden.FOLDER.parent / "bnb/decoded.json").read_text())
    root = golden.FOLDER.parent.parent
    return [f"{folder}: bitsandbytes decodes other bits here" for folder, lines in committed.items()
            if make_bnb.decoded_hashes(root / folder) != lines]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fh1", help="the program")
    args = parser.parse_args()
    golden.check_versions()
    global COMMITTED
    COMMITTED = json.loads((golden.FOLDER / "merges.json").read_text())
    bad = [("golden/bnb", line) for line in check_decoded()]
    with tempfile.TemporaryDirectory() as scratch:
        bad += [("planted fault", line) for line in check_fault(args.fh1, golden.FOLDER, scratch)]
        for case in CASES:
            wrong, notes = check_case(args.fh1, golden.FOLDER, case, scratch)
            print(f"{'FAIL' if wrong else 'ok  '} {case[0]}: {'; '.join(wrong + notes)}", flush=True)
            bad += [(case[0], line) for line in wrong]
    for where, line in bad:
        print(f"FAIL {where}: {line}")
    print(f"{len(CASES)} cases, {len(bad)} things wrong")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
