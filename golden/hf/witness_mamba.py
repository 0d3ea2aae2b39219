#!/usr/bin/env python3
"""An f64 recurrence of FalconMamba apart from the library and from the C reference, held against the golden traces.

Every tap is computed twice: `local` from the captured taps in front of it, `free` from the ids alone. Prints the largest
relative RMS error over real tokens per trace, and exits 1 where an f32 trace exceeds 1e-5. Token by token, nothing
batched: a row's padding is skipped, so what the library does at padding is seen unless the variant of the case says so.
"""
import argparse
import fnmatch
import json
import sys

import numpy as np
from safetensors.torch import load_file

import suite

LIMIT_F32 = 1e-5


def f64(folder, config):
    w = {k: v.double().numpy() for k, v in load_file(folder / "model.safetensors").items()}
    if config.get("tie_word_embeddings", True):
        w["lm_head.weight"] = w["backbone.embeddings.weight"]
    return w


def rms(x, eps):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps)


def silu(x):
    return x / (1 + np.exp(-x))


def softplus(x):
    return np.logaddexp(0, x)


class Row:
    """One row of a batch: its weights, its state per layer, one token after the other."""

    def __init__(self, config, weights, variants):
        self.c, self.w, self.variants = config, weights, variants
        shape = config["intermediate_size"], config["conv_kernel"] - 1
        self.conv = [np.zeros(shape) for _ in range(config["num_hidden_layers"])]
        self.ssm = [np.zeros((shape[0], config["state_size"])) for _ in self.conv]

    def parameter(self, layer, name, absent=0.0):
        return self.w.get(f"backbone.layers.{layer}.mixer.{name}", absent)

    def token(self, token, given):
        """Taps of one token. given: captured taps by name, which are then used in place of computed ones ({}: none)."""
        out = {}

        def tap(name, value):
            out[name] = value
            return given.get(name, value)

        c, w, inner, rank, n = self.c, self.w, self.c["intermediate_size"], self.c["time_step_rank"], self.c["state_size"]
        eps, inner_eps = c["layer_norm_epsilon"], c.get("mixer_rms_eps", 1e-6)
        x = tap("backbone.embeddings", w["backbone.embeddings.weight"][token])
        for i in range(c["num_hidden_layers"]):
            name, p = f"backbone.layers.{i}", lambda key, i=i: self.parameter(i, key)
            normed = tap(f"{name}.norm", rms(x, eps) * w[f"{name}.norm.weight"])
            h = tap(f"{name}.mixer.in_proj", p("in_proj.weight") @ normed + p("in_proj.bias"))
            window = np.concatenate([self.conv[i], h[:inner, None]], 1)
            self.conv[i] = window[:, 1:]
            u = tap(f"{name}.mixer.conv_act", silu((window * p("conv1d.weight")[:, 0]).sum(1) + p("conv1d.bias")))
            s = tap(f"{name}.mixer.x_proj", p("x_proj.weight") @ u)
            low, b, k = np.split(s, [rank, rank + n])
            b, k = rms(b, inner_eps), rms(k, inner_eps)
            if "dt_norm_after_dt_proj" in self.variants:
                raw = rms(p("dt_proj.weight") @ low, inner_eps)
            else:
                raw = p("dt_proj.weight") @ rms(low, inner_eps)
            dt = tap(f"{name}.mixer.dt", softplus(raw + p("dt_proj.bias")))
            a = np.exp(-np.exp(p("A_log")) * dt[:, None])
            self.ssm[i] = a * self.ssm[i] + (dt * u)[:, None] * b
            y = tap(f"{name}.mixer.scan", self.ssm[i] @ k + p("D") * u)
            g = tap(f"{name}.mixer.gated", y * silu(h[inner:]))
            o = tap(f"{name}.mixer.out_proj", p("out_proj.weight") @ g + p("out_proj.bias"))
            x = tap(name, x + o)
        last = tap("backbone.norm_f", rms(x, eps) * w["backbone.norm_f.weight"])
        tap("logits", w["lm_head.weight"] @ last)
        return out

    def padding(self):
        """What a token of padding does, where the variants say that it does something."""
        inner = self.c["intermediate_size"]
        for i in range(len(self.conv)):
            bias = self.parameter(i, "in_proj.bias", np.zeros(inner))[:inner]
            if "in_proj_bias_at_pads" in self.variants or "right_pad_cache" in self.variants:
                self.conv[i] = np.concatenate([self.conv[i], bias[:, None]], 1)[:, 1:]
            if "right_pad_cache" in self.variants:
                dt = softplus(self.parameter(i, "dt_proj.bias"))
                self.ssm[i] = self.ssm[i] * np.exp(-np.exp(self.parameter(i, "A_log")) * dt[:, None])

    def states(self):
        return {f"cache.{i}.{part}": value for part in ("conv", "ssm") for i, value in enumerate(getattr(self, part))}


def error(found, truth):
    scale = np.sqrt(np.mean(np.square(truth)))
    return float(np.sqrt(np.mean(np.square(found - truth))) / scale) if scale > 0 else float(np.abs(found).max(initial=0))


def of_trace(config, weights, trace, variants, local):
    """{(step, tap): relative RMS error over the real tokens of all rows}."""
    rows, pairs = None, {}
    for step in range(len({k.split("/")[0] for k in trace})):
        def get(name, step=step):
            return trace.get(f"step{step}/{name}")
        ids, mask = get("input_ids"), get("attention_mask")
        rows = rows or [Row(config, weights, variants) for _ in ids]
        taps = {k.split("/", 1)[1]: v for k, v in trace.items() if k.startswith(f"step{step}/")}
        per_token = {k: v for k, v in taps.items() if k == "logits" or k.startswith("backbone")}
        states = {k: v for k, v in taps.items() if k.startswith("cache.")}
        for b, row in enumerate(rows):
            if step > 0 and ids.shape[1] > 1 and "scan_restarts" in variants:
                row.ssm = [np.zeros_like(s) for s in row.ssm]
            for t, token in enumerate(ids[b]):
                if mask is not None and not mask[b, mask.shape[1] - ids.shape[1] + t]:
                    row.padding()
                    continue
                given = {k: v[b, t] for k, v in per_token.items() if k != "logits"} if local else {}
                for k, v in row.token(int(token), given).items():
                    if k in per_token and t >= ids.shape[1] - per_token[k].shape[1]:
                        pairs.setdefault((step, k), []).append((per_token[k][b, t - ids.shape[1]], v))
            for k, v in row.states().items():
                if k in states:
                    pairs.setdefault((step, k), []).append((states[k][b], v))
                    if local:
                        part, i = k.split(".")[2], int(k.split(".")[1])
                        getattr(row, part)[i] = states[k][b]
    return {k: error(*(np.stack(side) for side in zip(*v))) for k, v in pairs.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="?", default="*", metavar="GLOB", help="as 'mamba-tied/*'")
    parser.add_argument("-v", "--verbose", action="store_true", help="a line per tap")
    args = parser.parse_args()
    bad = judged = 0
    for case in suite.read():
        folder = suite.GOLDEN / case["model"]
        config = json.loads((folder / "config.json").read_text())
        if config["model_type"] != "falcon_mamba" or "adapter" in case or not fnmatch.fnmatchcase(case["name"], args.cases):
            continue
        trace = {k: v.double().numpy() if v.is_floating_point() else v.numpy()
                 for k, v in load_file(suite.GOLDEN / case["trace"]).items()}
        variants, weights = case.get("variant", "").split(","), f64(folder, config)
        line = []
        for local in (True, False):
            errors = of_trace(config, weights, trace, variants, local)
            if args.verbose:
                for (step, tap), e in errors.items():
                    print(f"  {'local' if local else 'free'} step{step}/{tap} {e:.2g}")
            worst = max(errors, key=errors.get)
            first = next(((s, t) for (s, t), e in errors.items() if not e <= LIMIT_F32), None)
            line.append((errors[worst], worst, first, len(errors)))
        f32 = not case["model"].endswith("bf16")
        wrong = f32 and max(line)[0] > LIMIT_F32
        expected = (case.get("expect_step"), case.get("expect_tap"))
        good = line[0][2] == expected if f32 and case["expect"] == "FAIL" else not wrong
        judged, bad = judged + 1, bad + (not good)
        print(f"{'ok  ' if good else 'FAIL'} {case['name']}: {line[0][3]} taps, local {line[0][0]:.2g}, free {line[1][0]:.2g}, "
              f"first beyond {LIMIT_F32:g}: {line[0][2]}, {line[1][2]}")
    print(f"{judged} traces, {bad} beyond")
    return 1 if bad or not judged else 0


if __name__ == "__main__":
    sys.exit(main())
