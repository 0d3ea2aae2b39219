"""Training with torch's own optimiser, as `fh1 train` has to do it.

A run is a dict: base, adapter (or None), steps, seq_len, batch, accumulate, schedule ("constant" or "cosine"), lr, warmup,
betas, eps, weight_decay, clip; a file of documents stands beside it.
"""
import math

import torch

from gradients import precision, wanted
from packing import batches, count, first_ignored, pack


def rate(run, step):
    """Of step 1, 2, …: linear warm-up, then the schedule, which reaches 0 one step after the last."""
    if step <= run["warmup"]:
        return run["lr"] * step / run["warmup"]
    if run["schedule"] == "constant":
        return run["lr"]
    x = (step - 1 - run["warmup"]) / (run["steps"] - run["warmup"])
    return run["lr"] * (1 + math.cos(math.pi * x)) / 2


def backward(model, rows, n):
    """Adds the gradients of a loss over n labels; returns its part of these rows."""
    total = 0.0
    with precision(model):
        for row, labels in zip(rows, first_ignored(rows)):
            for document, its_labels in zip(row, labels):
                if len(document) > 1:  # a single token predicts nothing
                    loss = model(input_ids=torch.tensor([document]), labels=torch.tensor([its_labels]), use_cache=False,
                                 num_items_in_batch=n).loss
                    loss.backward()
                    total += loss.item()
    return total


def train(model, documents, run):
    """Yields (step, loss, norm of the gradient before clipping, rate, {name: parameter}, optimiser) after every step."""
    named = wanted(model, full=False)
    optimiser = torch.optim.AdamW(named.values(), lr=run["lr"], betas=tuple(run["betas"]), eps=run["eps"],
                                  weight_decay=run["weight_decay"], foreach=False, fused=False)
    micro = batches(pack(documents, run["seq_len"]), run["batch"])
    for step in range(1, run["steps"] + 1):
        parts = [next(micro) for _ in range(run["accumulate"])]
        n = sum(count(rows) for rows in parts)
        optimiser.zero_grad(set_to_none=True)
        loss = sum(backward(model, rows, n) for rows in parts)
        norm = torch.nn.utils.clip_grad_norm_(named.values(), run["clip"]).item()
        for group in optimiser.param_groups:
            group["lr"] = rate(run, step)
        optimiser.step()
        yield step, loss, norm, rate(run, step), named, optimiser


def epoch_loss(model, documents, run):
    """The mean over all labels of the file."""
    rows = pack(documents, run["seq_len"])
    total = 0.0
    with torch.no_grad(), precision(model):
        for row, labels in zip(rows, first_ignored(rows)):
            for document, its_labels in zip(row, labels):
                if len(document) > 1:
                    total += model(input_ids=torch.tensor([document]), labels=torch.tensor([its_labels]), use_cache=False,
                                   num_items_in_batch=count(rows)).loss.item()
    return total
