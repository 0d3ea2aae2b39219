"""FalconMamba's part of make_wrong_gradients.py: backward paths that can be wrong. Each takes the model and returns a
context in which the library's forward pass has the same bits."""
import torch
import torch.nn.functional as F
from transformers.models.falcon_mamba import modeling_falcon_mamba as modeling

from planting import Straight, Torch, replaced

NORM = modeling.FalconMambaWeightlessRMSNorm


def inner_norms_straight(model):
    """The three norms send their gradient back as it is, as the training kernel of mamba_ssm's fork does."""
    norm = NORM.forward
    return replaced(NORM, "forward", lambda self, x: Straight.apply(x, norm(self, x.detach())))


def inner_norms_constant(model):
    """The root mean square of the three norms taken for a constant."""
    norm = NORM.forward

    def wrong(self, x):
        with replaced(modeling, "torch", Torch(rsqrt=lambda v: torch.rsqrt(v).detach())):
            return norm(self, x)
    return replaced(NORM, "forward", wrong)


def decay_apart_from_dt(model):
    """dt's gradient through exp(dt A) dropped."""
    scan = modeling.mamba_selective_scan

    def wrong(x, dt, A, B, C, D=None, z=None, delta_bias=None, **more):
        dt = F.softplus(dt + delta_bias.to(dt.dtype)[..., None])
        # dt a second time, as a factor of x: the decay sees it as a constant, x does not.
        decay = dt.detach()
        y = scan(x * (dt / decay), decay, A, B, C, **{**more, "delta_softplus": False})
        return (y + x * D[None, :, None]) * F.silu(z)
    return replaced(modeling, "mamba_selective_scan", wrong)


def one_state(model):
    """Of a channel's states the first one's A alone learns."""
    scan = modeling.mamba_selective_scan

    def wrong(x, dt, A, *rest, **more):
        first = torch.arange(A.shape[1]) == 0
        return scan(x, dt, torch.where(first, A, A.detach()), *rest, **more)
    return replaced(modeling, "mamba_selective_scan", wrong)


LAST = "backbone.layers.2.mixer"

# case -> (model or adapter, golden case, type, plant, id of the bug, first wrong parameter, what is wrong)
WRONG = {
    "mamba-inner-norms": ("mamba-untied", "left3", "f32", inner_norms_straight, "SR6", f"{LAST}.x_proj.weight",
                          "norms of dt, B and C: the gradient goes through them as it is"),
    "mamba-inner-norms-bf16": ("mamba-untied", "left3", "bf16", inner_norms_straight, "SR6", f"{LAST}.x_proj.weight",
                               "norms of dt, B and C: the gradient goes through them as it is"),
    "mamba-norm-constant": ("mamba-tied", "packed", "f32", inner_norms_constant, "norm_constant",
                            "backbone.layers.1.mixer.x_proj.weight",
                            "norms of dt, B and C: the root mean square is taken for a constant"),
    "mamba-decay-constant": ("mamba-untied", "long", "f32", decay_apart_from_dt, "dt_path", f"{LAST}.dt_proj.weight",
                             "scan: dt learns nothing from the decay exp(dt A)"),
    "mamba-one-state": ("mamba-untied", "packed", "f32", one_state, "a_per_state", f"{LAST}.A_log",
                        "scan: of a channel's A only the first state's learns"),
}
