"""transformers' Falcon-H1 computed in f64 throughout.

model.double() alone is not f64: the library casts to f32 in its norms, the gate, the softmax, A_log, the scan, the
rotary embedding and the loss (errors of 2.5e-7 to 4e-6 in gradients), and with left padding the result is NaN. Here
those casts are lifted, and what was built in f32 is built again: inverse frequencies and the mup vector.
"""
from contextlib import contextmanager

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers.models.falcon_h1 import modeling_falcon_h1 as modeling

NARROW = {torch.float32, torch.float16, torch.bfloat16}


class WideTorch:
    """Stands for the module `torch` inside the model's source: its float32 is f64."""

    def __getattr__(self, name):
        return torch.float64 if name in ("float32", "float") else getattr(torch, name)


class NothingNarrow(TorchDispatchMode):
    """Raises where an operation reads or makes a tensor of less than f64: a cast that was overlooked."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for value in tree_leaves((args, kwargs, out)):
            if isinstance(value, torch.Tensor) and value.dtype in NARROW:
                raise RuntimeError(f"{func} in {value.dtype}, where all has to be f64")
        return out


@contextmanager
def casts_lifted():
    kept = modeling.torch, torch.Tensor.float, torch.get_default_dtype()
    modeling.torch, torch.Tensor.float = WideTorch(), torch.Tensor.double
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        modeling.torch, torch.Tensor.float = kept[:2]
        torch.set_default_dtype(kept[2])


@contextmanager
def lifted():
    """Calls of a widened model, forward and backward, go in here."""
    with casts_lifted(), NothingNarrow():
        yield


def widen(model):
    """The same model, weights exact, ready for calls under lifted(). Adapters may be attached."""
    rotary = model.model.rotary_emb
    if not hasattr(rotary, "compute_default_rope_parameters"):
        raise SystemExit("lifted.py: f64 needs transformers 5")
    model.double()
    with casts_lifted(), torch.no_grad():
        vector = modeling.compute_mup_vector(model.config)
        if rotary.rope_type != "default":
            raise SystemExit(f"lifted.py: rope type {rotary.rope_type!r} is not lifted to f64, only 'default' is")
        rotary.inv_freq = rotary.compute_default_rope_parameters(model.config)[0]
        rotary.original_inv_freq = rotary.inv_freq.clone()
        for layer in model.model.layers:
            layer.mamba.mup_vector = vector.clone()
    return model
