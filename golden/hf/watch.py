"""Sees the torch functions that a mixer calls, to get at the values that no module returns."""
import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

MULTIPLY = torch.Tensor.mul, torch.Tensor.__mul__


class MixerWatch(TorchFunctionMode):
    """dt, after softplus and clamp, and the scan's output in front of the gate: what is multiplied by the mixer's last
    silu. The mixer that runs is recorder.mixer; scan names the tap (None where a hook has it)."""

    def __init__(self, recorder, scan):
        self.recorder, self.scan = recorder, scan

    def __torch_function__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        r = self.recorder
        if r.mixer is None:
            return out
        if func is F.softplus or func is torch.clamp and args[0] is r.dt:
            r.dt = out
        elif func is F.silu:
            r.silu = out
        elif func in MULTIPLY and self.scan and args[1] is r.silu:
            r.scan(args[0])
        return out
