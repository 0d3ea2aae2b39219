"""Gradients of the real library as taps of a trace: step0/loss and step0/grad.<parameter>.

A parameter is named as in the checkpoint; a tensor of an adapter by its key in adapter_model.safetensors. A tied head
has one gradient, under the embedding's name.
"""
from contextlib import nullcontext

import torch

from lifted import lifted
from packing import IGNORED, arrays, first_ignored


def parameter_name(name, model):
    """The name in a file of what named_parameters() calls `name`; None for what no file has."""
    tuned = dict(model.named_modules())
    for part in ("lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B", "lora_magnitude_vector"):
        module, dot, rest = name.partition(f".{part}.")
        if dot:
            adapter, _, rest = rest.partition(".")  # <adapter> or <adapter>.weight
            if adapter != "default" or len(tuned[module].active_adapters) > 1:
                raise SystemExit(f"{module} has two adapters: gradients of several at once have no names")
            return f"base_model.model.{module}.{part}" + (f".{rest}" if rest else "")
    if ".modules_to_save." in name or ".original_module." in name or ".token_adapter." in name:
        raise SystemExit(f"{name}: only gradients of LoRA pairs and of plain weights have a name in a trace")
    return name.replace(".base_layer.", ".")


def is_adapter(name):
    return name.startswith("base_model.")


def wanted(model, full):
    """{name in a file: parameter}. Of a model with an adapter its tensors alone, unless full."""
    named = {parameter_name(n, model): p for n, p in model.named_parameters()}
    if not full and any(is_adapter(n) for n in named):
        named = {n: p for n, p in named.items() if is_adapter(n)}
    for p in model.parameters():
        p.requires_grad_(False)
        p.grad = None
    for p in named.values():
        p.requires_grad_(True)
    return named


def precision(model):
    return lifted(model) if next(model.parameters()).dtype == torch.float64 else nullcontext()


def keep_gradients(recorder, named):
    for name, p in named.items():
        if p.grad is None:
            raise SystemExit(f"{name} has no gradient: nothing that the loss depends on reads it")
        if recorder.keep(0, f"grad.{name}"):
            recorder.tensors[f"step0/grad.{name}"] = p.grad.detach().clone(memory_format=torch.contiguous_format)


def enough(labels):
    """How many labels count; an error if none does."""
    n = (labels[:, 1:] != IGNORED).sum().item()
    if n == 0:
        raise SystemExit("no label counts: the loss is a mean of nothing")
    return n


def of_call(model, recorder, calls, full=False):
    """One call and its backward pass by the library itself, without a cache."""
    if len(calls) != 1 or "labels" not in calls[0]:
        raise SystemExit("a backward pass is of one call, with labels, on an empty cache")
    named = wanted(model, full)
    t = {k: torch.as_tensor(v, dtype=torch.int64) for k, v in calls[0].items()}
    enough(t["labels"])
    with precision(model):
        with recorder:
            loss = model(**recorder.family.arguments(t, 0), use_cache=False).loss
        loss.backward()
    keep_gradients(recorder, named)


def of_rows(model, recorder, rows, labels=None, full=False, pad_id=0):
    """Rows of documents, and their labels in the same lists (default: the ids). The library cannot run them in one call
    (5.23.0 refuses seq_idx without its kernels, and a restart of position_ids alone leaks through the mixer), so each
    document is a call of its own; losses and gradients are added, over one number of labels, and the taps are laid side
    by side. The inputs recorded are those of the one packed call that has to equal this."""
    named = wanted(model, full)
    inputs = {k: torch.tensor(v) for k, v in arrays(rows, labels, pad_id).items()}
    n, total = enough(inputs["labels"]), 0
    recorder.step = 0
    for key, value in inputs.items():
        recorder.input({"ids": "input_ids", "mask": "attention_mask"}.get(key, key), value)
    for b, row in enumerate(zip(rows, first_ignored(labels or rows))):
        at = 0
        for document, its_labels in zip(*row):
            one = type(recorder)(model, recorder.keep)
            with precision(model):
                with one:
                    loss = model(input_ids=torch.tensor([document]), labels=torch.tensor([its_labels]), use_cache=False,
                                 num_items_in_batch=n).loss
                loss.backward()
                total = total + loss.detach()
            recorder.seen.setdefault(0, set()).update(one.seen[0])
            recorder.shapes, recorder.cached = one.shapes, False
            for name, value in one.tensors.items():
                if name not in ("step0/input_ids", "step0/labels", "step0/loss"):
                    whole = recorder.tensors.setdefault(name, value.new_zeros(*inputs["ids"].shape, *value.shape[2:]))
                    whole[b, at:at + len(document)] = value[0]
            at += len(document)
    if recorder.keep(0, "loss"):
        recorder.tensors["step0/loss"] = total
    keep_gradients(recorder, named)
