#!/usr/bin/env python3
"""Make golden/gradients/wrong: gradients that must be rejected.

Most come from autograd of the real library after one backward path was changed; the forward pass gives the same bits. The
rest is what the library and common training loops do wrong by themselves. Each file says what is wrong (fh1.planted), and
its line in golden/gradients/suite.json at which parameter it must be found first, in backward order. That order is proven
here: against the right gradients, everything before that parameter agrees and it does not.
"""
import argparse
import fnmatch
import re
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from peft.tuners.lora.layer import LoraLayer
from transformers.models.falcon_h1 import modeling_falcon_h1 as modeling

import capture
import gradients
import suite
import wrong_mamba
from make_gradients import CASES, FOLDER, base_of, documents, load, pinned, some_labels
from make_traces import quiet
from packing import arrays, pack
from planting import PassingClamp, Scaled, Torch, replaced

OF_LAYER = ["feed_forward.down_proj", "feed_forward.up_proj", "feed_forward.gate_proj", "pre_ff_layernorm",
            "self_attn.o_proj", "self_attn.v_proj", "self_attn.k_proj", "self_attn.q_proj", "mamba.out_proj", "mamba.norm",
            "mamba.D", "mamba.A_log", "mamba.dt_bias", "mamba.conv1d", "mamba.in_proj", "input_layernorm",
            "mixer.out_proj", "mixer.D", "mixer.A_log", "mixer.dt_proj", "mixer.x_proj", "mixer.conv1d", "mixer.in_proj", "norm"]
SUFFIXES = ["", ".weight", ".bias", ".lora_A.weight", ".lora_embedding_A", ".lora_B.weight", ".lora_embedding_B", ".lora_B.bias"]
LAST = "model.layers.2"


def backward_order(name):
    """Sorts parameters as gradients are judged."""
    path = name.removeprefix("base_model.model.")
    layer = re.match(r"(?:model|backbone)\.layers\.(\d+)\.", path)
    suffix = max((s for s in SUFFIXES if path.endswith(s)), key=len)
    module, part = path[:len(path) - len(suffix)], SUFFIXES.index(suffix)
    if not layer:
        return {"lm_head": 0, "model.final_layernorm": 1, "backbone.norm_f": 1}.get(module, 3), 0, 0, part
    return 2, -int(layer[1]), OF_LAYER.index(module.split(".", 3)[3]), part


# -- what can be wrong: each takes the model and returns a context --------------------------------------------------

def norm_constant(model):
    return replaced(modeling, "torch", Torch(rsqrt=lambda x: torch.rsqrt(x).detach()))


def group_mean_over_all(model):
    """The mean square of a group differentiated as if over all channels."""
    g = model.config.mamba_n_groups

    def rsqrt(x):
        return torch.rsqrt(Scaled.apply(x, 1 / g) if x.dim() == 4 else x)
    return replaced(modeling, "torch", Torch(rsqrt=rsqrt))


def one_head_of_group(model):
    """Of the heads that share B, the last one alone."""
    scan = modeling.mamba2_chunk_scan

    def wrong(x, dt, A, B, C, **more):
        heads, groups = x.shape[2], B.shape[2]
        spread = B.repeat_interleave(heads // groups, dim=2)
        last = torch.arange(heads) % (heads // groups) == heads // groups - 1
        B = torch.where(last[:, None], spread, spread.detach())
        C = C.repeat_interleave(heads // groups, dim=2)
        return scan(x, dt, A, B, C, **more)
    return replaced(modeling, "mamba2_chunk_scan", wrong)


def part_of_head(model):
    """D's gradient summed over the first half of a head."""
    scan = modeling.mamba2_chunk_scan

    def wrong(x, dt, A, B, C, D=None, **more):
        first = torch.arange(x.shape[3]) < x.shape[3] // 2
        return scan(x, dt, A, B, C, D=None, **more) + torch.where(first, D[:, None], D.detach()[:, None]) * x.float()
    return replaced(modeling, "mamba2_chunk_scan", wrong)


def decay_apart_from_dt(model):
    """dt's gradient through exp(dt A) dropped."""
    scan = modeling.mamba2_chunk_scan

    def wrong(x, dt, A, B, C, D=None, dt_bias=None, dt_softplus=True, dt_limit=None, **more):
        dt = torch.clamp(F.softplus(dt + dt_bias), *dt_limit)
        # dt a second time, as a factor of x: the decay sees it as a constant, x does not.
        decay = dt.detach()
        return scan(x * (dt / decay)[..., None], decay, A, B, C, D=None, dt_limit=(0.0, float("inf")), **more) + D[:, None] * x
    return replaced(modeling, "mamba2_chunk_scan", wrong)


def clamp_passes(model):
    return replaced(modeling, "torch", Torch(clamp=lambda x, min, max: PassingClamp.apply(x, min, max)))


def head_multiplier_forgotten(model):
    m = model.model.lm_head_multiplier
    head = model.lm_head.forward
    return replaced(model.lm_head, "forward", lambda x: Scaled.apply(head(x), 1 / m))


def gate_multiplier_forgotten(model):
    @contextmanager
    def context():
        handles = [layer.feed_forward.gate_proj.register_forward_hook(
            lambda m, args, out: Scaled.apply(out, 1 / model.config.mlp_multipliers[0])) for layer in model.model.layers]
        yield
        for handle in handles:
            handle.remove()
    return context()


def one_query_of_group(model):
    """Of the query heads that share a key and a value, the last one alone."""
    def wrong(x, n):
        spread = x.repeat_interleave(n, dim=1)
        last = torch.arange(spread.shape[1]) % n == n - 1
        return torch.where(last[:, None, None], spread, spread.detach())
    return replaced(modeling, "repeat_kv", wrong)


def padding_row_learns(model):
    return replaced(model.model.embed_tokens, "padding_idx", None)


def adapter_input_constant(model):
    """What a pair of in_proj sends back to its input is dropped."""
    @contextmanager
    def context():
        pairs = [m.lora_A["default"] for n, m in model.named_modules() if isinstance(m, LoraLayer) and "in_proj" in n]
        handles = [p.register_forward_pre_hook(lambda m, args: (args[0].detach(),)) for p in pairs]
        yield
        for handle in handles:
            handle.remove()
    return context()


def adapter_scale_forgotten(model):
    @contextmanager
    def context():
        handles = [m.lora_B["default"].register_forward_hook(
            lambda b, args, out, s=m.scaling["default"]: Scaled.apply(out, 1 / s))
            for m in model.modules() if isinstance(m, LoraLayer)]
        yield
        for handle in handles:
            handle.remove()
    return context()


# -- what is wrong by itself ------------------------------------------------------------------------------------------

def mean_of_means(model, recorder):
    """Every document's own mean, all with the same weight: what accumulating mean losses gives."""
    rows = pack(documents(model, "grad-packed", [7, 11, 1, 2, 15, 30, 5], zeros=[(0, 3), (5, 20)]), 24)
    labels = [[some_labels(d) for d in row] for row in rows]
    gradients.of_rows(model, recorder, rows, labels)
    named, flat = gradients.wanted(model, False), [(d, l) for r in zip(rows, labels) for d, l in zip(*r) if len(d) > 1]
    for document, its_labels in flat:
        loss = model(input_ids=torch.tensor([document]), labels=torch.tensor([its_labels]), use_cache=False).loss
        (loss / len(flat)).backward()
    gradients.keep_gradients(recorder, named)


def leaking_bias(model, recorder):
    CASES["left3"][1](model, recorder)


def only_double(model, recorder):
    """model.double() without lifting the library's casts."""
    call = capture.padded(documents(model, "grad-double", [11]), labels=documents(model, "grad-double", [11]))
    with replaced(gradients, "precision", lambda model: torch.enable_grad()):
        gradients.of_call(model, recorder, [call])


def two_documents(model):
    rows = [[d, e] for d, e in zip(documents(model, "grad-two", [9, 13]), documents(model, "grad-two-more", [12, 8]))]
    return arrays(rows), rows


def leaking_documents(model, recorder):
    """position_ids start again, and nothing else says where a document begins."""
    call, _ = two_documents(model)
    seq_idx = call.pop("seq_idx")
    gradients.of_call(model, recorder, [call])
    recorder.input("seq_idx", seq_idx)


# case -> (model or adapter, golden case, type, plant, id of the bug, first wrong parameter, what is wrong)
WRONG = {
    "norm-constant": ("mini-34b", "left3", "f32", norm_constant, "norm_constant", f"{LAST}.feed_forward.down_proj.weight",
                      "norms: the root mean square is taken for a constant"),
    "group-mean": ("mini-34b", "packed", "f32", group_mean_over_all, "GB1c", f"{LAST}.mamba.D",
                   "gated norm: the mean of a group is differentiated as one over all channels"),
    "one-head": ("mini-34b", "left3", "f32", one_head_of_group, "GB1a", f"{LAST}.mamba.conv1d.weight",
                 "scan: B's gradient is that of the last head of a group instead of their sum"),
    "one-head-odd": ("odd", "right3", "f32", one_head_of_group, "GB1a", f"{LAST}.mamba.conv1d.weight",
                     "scan: B's gradient is that of the last head of a group instead of their sum"),
    "half-head": ("mini-34b", "chunks2", "f32", part_of_head, "GB1b", f"{LAST}.mamba.D",
                  "scan: D's gradient is summed over half of the head"),
    "decay-constant": ("mini-0.5b", "chunks2", "f32", decay_apart_from_dt, "dt_path", f"{LAST}.mamba.dt_bias",
                       "scan: dt learns nothing from the decay exp(dt A)"),
    "clamp-passes": ("odd", "packed", "f32", clamp_passes, "clamp_edge", f"{LAST}.mamba.dt_bias",
                     "dt: the gradient passes where the limit holds"),
    "head-multiplier": ("mini-34b", "packed", "f32", head_multiplier_forgotten, "MU5", "lm_head.weight",
                        "loss: lm_head_multiplier is missing on the way back"),
    "gate-multiplier": ("mini-34b", "left3", "f32", gate_multiplier_forgotten, "MU6a", f"{LAST}.feed_forward.gate_proj.weight",
                        "MLP: the gate's multiplier is missing on the way back"),
    "one-query": ("mini-34b", "packed", "f32", one_query_of_group, "gqa_sum", f"{LAST}.self_attn.v_proj.weight",
                  "attention: key and value learn from the last query head of their group alone"),
    "padding-row": ("mini-0.5b", "chunks2", "f32", padding_row_learns, "padding_idx", "model.embed_tokens.weight",
                    "embedding: the padding's row learns where its id stands in the text"),
    "adapter-input": ("linear", "packed", "f32", adapter_input_constant, "LO1",
                      "base_model.model.model.layers.1.feed_forward.down_proj.lora_A.weight",
                      "LoRA: in_proj sends back the gradient of its weight without the adapter's"),
    "adapter-scale": ("linear", "left3", "f32", adapter_scale_forgotten, "lora_scale",
                      f"base_model.model.{LAST}.feed_forward.down_proj.lora_A.weight",
                      "LoRA: alpha / r is missing on the way back"),
    "mean-of-means": ("mini-0.5b", "packed", "f32", mean_of_means, "mean_of_means", "lm_head.weight",
                      "each document's mean loss has the same weight, however many labels it has"),
    "leaking-bias": ("odd", "left3", "f32", leaking_bias, "in_proj_bias_at_pads", "model.final_layernorm.weight",
                     "the library's own: in_proj's bias at padding reaches the first real tokens"),
    "one-head-bf16": ("mini-34b", "left3", "bf16", one_head_of_group, "GB1a", f"{LAST}.mamba.conv1d.weight",
                      "scan: B's gradient is that of the last head of a group instead of their sum"),
    "half-head-bf16": ("odd", "right3", "bf16", part_of_head, "GB1b", f"{LAST}.mamba.D",
                       "scan: D's gradient is summed over half of the head"),
    "gate-multiplier-bf16": ("mini-34b", "left3", "bf16", gate_multiplier_forgotten, "MU6a",
                             f"{LAST}.feed_forward.gate_proj.weight", "MLP: the gate's multiplier is missing on the way back"),
    "norm-constant-bf16": ("mini-0.5b", "left3", "bf16", norm_constant, "norm_constant",
                           f"{LAST}.feed_forward.down_proj.weight", "norms: the root mean square is taken for a constant"),
    "leaking-documents": ("mini-34b", None, "f32", leaking_documents, "position_reset", "lm_head.weight",
                          "the library's own: position_ids that restart keep documents apart in attention, not in the mixer"),
    "only-double": ("mini-34b", None, "f64", only_double, "f32_inside", "lm_head.weight",
                    "the library's own: after model.double() it still computes much in f32"),
    "mamba-leaking-bias": ("mamba-tied", "left3", "f32", leaking_bias, "in_proj_bias_at_pads", "backbone.norm_f.weight",
                           "the library's own: in_proj's bias at padding reaches the first real tokens"),
    "mamba-leaking-documents": ("mamba-untied", None, "f32", leaking_documents, "no_packing", "lm_head.weight",
                                "the library's own: it has nothing that keeps documents apart"),
    "mamba-only-double": ("mamba-untied", None, "f64", only_double, "f32_inside", "lm_head.weight",
                          "the library's own: after model.double() it still computes much in f32"),
    **wrong_mamba.WRONG,
}
ITSELF = (mean_of_means, leaking_bias, only_double, leaking_documents)


def run(case, wrong):
    """The trace of one case, or of the right thing for the same inputs."""
    name, golden, dtype, plant, _, first, _ = WRONG[case]

    model = load(name, dtype)
    last = f".{model.config.num_hidden_layers - 1}."

    def keep(step, tap):  # the last layer, what is small, and the place of the fault
        return tap == "loss" or tap.startswith("grad.") and ("layers." not in tap or last in tap or "lora" in tap or first in tap) \
            and ("embed" not in tap and "lm_head" not in tap or first in tap)
    recorder = capture.Recorder(model, keep)
    if wrong and plant is only_double:
        model = capture.load(suite.GOLDEN / "models" / name).double()
        model.name_or_path = name
        recorder = capture.Recorder(model, keep)
    if plant in ITSELF and wrong:
        plant(model, recorder)
    elif plant is leaking_bias:
        rows = documents(model, "grad-padded", [5, 12, 9])
        gradients.of_rows(model, recorder, [[r] for r in rows], [[some_labels(r)] for r in rows])
    elif plant is leaking_documents:
        gradients.of_rows(model, recorder, two_documents(model)[1])
    elif plant is only_double:
        ids = documents(model, "grad-double", [11])
        gradients.of_call(model, recorder, [capture.padded(ids, labels=ids)])
    else:
        with plant(model) if wrong else torch.enable_grad():
            CASES[golden][1](model, recorder)
    return recorder


def first_wrong(wrong, right, dtype):
    """The first parameter in backward order whose gradient differs by more than rounding, and by how much."""
    allowed = 1e-9 if dtype == "f64" else 1e-4
    for name in sorted((n.removeprefix("step0/grad.") for n in wrong if "grad." in n), key=backward_order):
        a, b = wrong[f"step0/grad.{name}"].double(), right[f"step0/grad.{name}"].double()
        error = ((a - b).square().mean().sqrt() / b.square().mean().sqrt()).item()
        if not error <= allowed:
            return name, error
    return None, 0.0


def make(case, folder=FOLDER):
    name, golden, dtype, _, bug, first, note = WRONG[case]
    recorder, right = run(case, True), run(case, False)
    found, error = first_wrong(recorder.tensors, right.tensors, dtype)
    if found != first:
        raise SystemExit(f"{case}: the first wrong gradient is {found} (off by {error:.2g}), expected {first}")
    if WRONG[case][3] in ITSELF:
        del recorder.tensors["step0/loss"]
    elif not torch.equal(recorder.tensors["step0/loss"], right.tensors["step0/loss"]):
        raise SystemExit(f"{case}: the forward pass is no longer the right one")
    path = f"wrong/{case}.safetensors"
    recorder.save(folder / path, command="golden/hf/make_wrong_gradients.py", planted=note)
    line = {"name": f"wrong/{case}", "model": f"../models/{base_of(name, dtype)}"}
    if name == "linear":
        line["adapter"] = "adapters/linear"
    return line | {"trace": path, "expect": "FAIL", "expect_step": 0, "expect_tap": f"grad.{first}", "bug": bug,
                   "note": note}, error


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="*", metavar="GLOB", help="cases to make, as 'mamba-*'")
    args = parser.parse_args()
    pinned("make_wrong_gradients.py")
    quiet()
    made = []
    for case in fnmatch.filter(WRONG, args.only):
        line, error = make(case)
        made.append(line)
        print(f"{line['trace']} {(FOLDER / line['trace']).stat().st_size} {line['expect_tap']} off by {error:.2g}")
    names = {line["name"] for line in made}
    suite.update(made, lambda name: name in names, FOLDER / "suite.json")


if __name__ == "__main__":
    main()
