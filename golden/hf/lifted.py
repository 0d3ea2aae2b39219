"""transformers' Falcon-H1 and FalconMamba computed in f64 throughout.

model.double() alone is not f64: the library casts to f32 in its norms, the gate, the softmax, A_log, the scan, the
rotary embedding and the loss (errors of 2.5e-7 to 4e-6 in gradients), and with left padding the result is NaN. Here
those casts are lifted, and what was built in f32 is built again: inverse frequencies and the mup vector.
"""
from contextlib import contextmanager

import torch
import transformers
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers.models.falcon_h1 import modeling_falcon_h1
from transformers.models.falcon_mamba import modeling_falcon_mamba

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


def source(model):
    """The module that holds the code of a model."""
    return {"falcon_h1": modeling_falcon_h1, "falcon_mamba": modeling_falcon_mamba}[model.config.model_type]


@contextmanager
def casts_lifted(modeling):
    kept = modeling.torch, torch.Tensor.float, torch.get_default_dtype()
    modeling.torch, torch.Tensor.float = WideTorch(), torch.Tensor.double
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        modeling.torch, torch.Tensor.float = kept[:2]
        torch.set_default_dtype(kept[2])


@contextmanager
def lifted(model):
    """Calls of a widened model, forward and backward, go in here."""
    with casts_lifted(source(model)), NothingNarrow():
        yield


def widen(model):
    """The same model, weights exact, ready for calls under lifted(). Adapters may be attached."""
    if transformers.__version__ < "5":
        raise SystemExit("lifted.py: f64 needs transformers 5")
    model.double()
    if source(model) is modeling_falcon_h1:
        rebuild(model)
    return model


def rebuild(model):
    """Falcon-H1's buffers that were made in f32."""
    rotary = model.model.rotary_emb
    with casts_lifted(modeling_falcon_h1), torch.no_grad():
        vector = modeling_falcon_h1.compute_mup_vector(model.config)
        if rotary.rope_type != "default":
            raise SystemExit(f"lifted.py: rope type {rotary.rope_type!r} is not lifted to f64, only 'default' is")
        rotary.inv_freq = rotary.compute_default_rope_parameters(model.config)[0]
        rotary.original_inv_freq = rotary.inv_freq.clone()
        for layer in model.model.layers:
            layer.mamba.mup_vector = vector.clone()
