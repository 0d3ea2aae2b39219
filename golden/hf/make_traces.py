#!/usr/bin/env python3
"""Make the golden traces: every case below, on every golden model of its family, with transformers 5.23.0.

Writes golden/traces/MODEL/CASE.safetensors and the cases' lines in golden/suite.json. Where this
version deviates from the consistent semantics, the trace says so in fh1.variant:
  decode_no_dt_limit    one-token steps ignore a finite time_step_limit
  in_proj_bias_at_pads  in_proj's bias at padding enters the conv window of the first real tokens
  right_pad_cache       after right padding the conv window holds the last columns, pads included,
                        and the state has decayed over the pads
FalconMamba's scan starts again in a call of several tokens on a cache. That trace says nothing: it is a case twice, to be
rejected, and to be followed under the variant scan_restarts. So is the norm of dt in training, which the library leaves to
a kernel for GPUs: its place is changed here (fused_norm).
"""
import argparse
import fnmatch
import math
import warnings
import zlib
from contextlib import ExitStack, contextmanager, nullcontext

import torch
import transformers

import capture
import falcon_mamba
import suite
from planting import replaced

MODELS = ["mini-0.5b", "mini-0.5b-bf16", "mini-34b", "mini-34b-bf16", "odd", "odd-bf16"]
BLOCKS = ["block-sam", "block-sam-bf16", "block-sequential", "block-sequential-bf16"]
MAMBA = ["mamba-untied", "mamba-untied-bf16", "mamba-tied", "mamba-tied-bf16"]

# Taps kept of the longer cases: enough to place a fault in a layer and to judge conv, dt and scan.
SHORT = "*.mamba.in_proj,*.mamba.conv_act,*.mamba.dt,*.mamba.ssd,*.self_attn.context,*.mid*,model.layers.?,logits,cache.*"
LONG = "*.mamba.conv_act,*.mamba.dt,*.mamba.ssd,model.layers.?,logits,cache.*.conv,cache.*.ssm"
SHORT_MAMBA = "*.mixer.in_proj,*.mixer.conv_act,*.mixer.x_proj,*.mixer.dt,*.mixer.scan,backbone.layers.?,logits,cache.*"


def tokens(model, case, length, row=0):
    """Ids from (model, case, row), so that adding a case changes no other. f32 and bf16 get the same."""
    g = torch.Generator()
    g.manual_seed(zlib.crc32(f"{model.name_or_path.removesuffix('-bf16')}/{case}/{row}".encode()))
    return torch.randint(3, model.config.vocab_size, (length,), generator=g).tolist()


def rows(model, case, lengths):
    return [tokens(model, case, n, i) for i, n in enumerate(lengths)]


def ragged(model, case, lengths, side, width=0):
    return capture.padded(rows(model, case, lengths), side, model.config.pad_token_id, width)


# case -> (taps kept, the calls, what it shows)
CASES = {
    "t1": ("*", lambda m: [{"ids": rows(m, "t1", [1])}], "one token, no history"),
    "t3": ("*", lambda m: [{"ids": rows(m, "t3", [3])}], "shorter than the conv window"),
    "t37": ("*", lambda m: [{"ids": rows(m, "t37", [37])}], "one chunk edge inside, all taps"),
    "t2q5": (LONG, lambda m: [{"ids": rows(m, "t2q5", [2 * m.config.mamba_chunk_size + 5])}],
             "two full chunks and five tokens"),
    "left3": ("*", lambda m: [ragged(m, "left3", [5, 12, 9], "left"), {"decode": 2}],
              "ragged batch, padded left, then two steps"),
    "left1": (SHORT, lambda m: [ragged(m, "left1", [9], "left", 13)], "one row, padded left"),
    "right3": (SHORT, lambda m: [ragged(m, "right3", [5, 12, 9], "right")], "ragged batch, padded right"),
    "right-decode": (SHORT, lambda m: [ragged(m, "right-decode", [4, 7], "right"), {"decode": 2}],
                     "decoding after right padding"),
    "decode8": ("*", lambda m: [{"ids": rows(m, "decode8", [11])}, {"decode": 8}], "prefill, then eight steps"),
    "continue": ("*", lambda m: [{"ids": rows(m, "continue", [13])}, {"ids": rows(m, "continue-5", [5])},
                                 {"decode": 3}],
                 "prefill, five tokens on the cache, then three steps"),
    "generate32": ("logits,cache.*", None, "the library's own greedy generate, 32 tokens; cache after the last step"),
}
MAMBA_CASES = {
    "t1": ("*", lambda m: [{"ids": rows(m, "t1", [1])}], "one token, no history"),
    "t2": ("*", lambda m: [{"ids": rows(m, "t2", [2])}, {"decode": 2}], "shorter than the conv window, then two steps"),
    "t37": ("*", lambda m: [{"ids": rows(m, "t37", [37])}], "all taps"),
    "b3": (SHORT_MAMBA, lambda m: [{"ids": rows(m, "b3", [7] * 3)}, {"decode": 2}], "three rows without padding, two steps"),
    "left3": ("*", lambda m: [ragged(m, "left3", [5, 12, 9], "left"), {"decode": 2}],
              "ragged batch, padded left, then two steps"),
    "left1": (SHORT_MAMBA, lambda m: [ragged(m, "left1", [9], "left", 13), {"decode": 1}], "one row, padded left, and a step"),
    "right3": (SHORT_MAMBA, lambda m: [ragged(m, "right3", [5, 12, 9], "right")], "ragged batch, padded right"),
    "right-decode": (SHORT_MAMBA, lambda m: [ragged(m, "right-decode", [4, 7], "right"), {"decode": 2}],
                     "decoding after right padding"),
    "decode8": ("*", lambda m: [{"ids": rows(m, "decode8", [11])}, {"decode": 8}], "prefill, then eight steps"),
    "continue": (SHORT_MAMBA, lambda m: [{"ids": rows(m, "continue", [13])}, {"ids": rows(m, "continue-5", [5])}, {"decode": 2}],
                 "prefill, five tokens on the cache, then two steps"),
    "repeat": ("*.mixer.conv_act,*.mixer.x_proj,*.mixer.dt,*.mixer.scan,cache.*", lambda m: [{"ids": [[7] * 96]}, {"decode": 1}],
               "one word 96 times: equal tokens are rounded alike, and their errors add up"),
    "generate32": ("logits,cache.*", None, "the library's own greedy generate, 32 tokens; cache after the last step"),
}
def with_mask(m, case, n, width):
    """A prompt, then two tokens, each in a call with the mask of all columns."""
    ids, call = rows(m, case, [n + 2])[0], ragged(m, case, [n], "left", width)
    mask = torch.as_tensor(call["mask"]) if "mask" in call else torch.ones(1, n, dtype=torch.int64)
    return [call] + [{"ids": [[ids[n + k]]], "mask": torch.cat([mask, torch.ones(1, k + 1, dtype=torch.int64)], 1),
                      "mask_as_given": True} for k in range(2)]


# What a loop of one's own gets that passes the mask on in one-token calls. Of one model; taps whose columns are one.
ONE_COLUMN = "backbone.layers.?,backbone.norm_f,logits,cache.*"
MASK_CASES = {
    "step-mask": (ONE_COLUMN, lambda m: with_mask(m, "step-mask", 9, 0), "prompt, then one-token calls with a mask"),
    "step-mask-left": (ONE_COLUMN, lambda m: with_mask(m, "step-mask-left", 9, 13),
                       "prompt padded left, then one-token calls with a mask"),
}


@contextmanager
def fused_norm(model):
    """dt as mamba_inner_fn makes it, the kernel that the library calls in training: normalised behind dt_proj, over all
    channels. Its weights dt_rms_weight are that long, and of ones."""
    norm = falcon_mamba.modeling.FalconMambaWeightlessRMSNorm(model.config.intermediate_size, model.config.mixer_rms_eps)
    scan = falcon_mamba.modeling.mamba_selective_scan

    def behind(u, delta, *others, **named):
        return scan(u, norm(delta.transpose(1, 2)).transpose(1, 2), *others, **named)

    with ExitStack() as stack:
        stack.enter_context(replaced(falcon_mamba.modeling, "mamba_selective_scan", behind))
        for layer in model.backbone.layers:
            stack.enter_context(replaced(layer.mixer.dt_layernorm, "forward", lambda x: x))
        yield


FUSED_CASES = {"fused-norm": ("*", lambda m: [{"ids": rows(m, "fused-norm", [11] * 2)}], "the norm of dt as in training")}
CHANGED = {"fused-norm": fused_norm}
# Blocks that no release has (blocks.py): what depends on how the branches stand to each other.
BLOCK_CASES = {name: CASES[name] for name in ("t37", "left3", "decode8", "continue")} | {
    # The released library does not know the key, warns of tensors too many or too few, and goes on.
    "as-released": ("*.input_layernorm,*.self_attn.*,*.mamba.*,*.feed_forward.*,model.layers.?,logits",
                    lambda m: [{"ids": rows(m, "as-released", [7])}], "fh1_block ignored: the block of the released models"),
}
# Traces that have to be rejected: id of the bug, step and first wrong tap, what happens, and the variant that follows it.
RESTARTS = ("SR7", 1, "backbone.layers.0.mixer.scan", "several tokens on a cache: the conv goes on, the scan starts again",
            "scan_restarts")
IGNORED = "the block of the released models: fh1_block is not known"
FUSED = ("SR6", 0, "backbone.layers.0.mixer.dt", "dt is normalised behind dt_proj, over all channels",
         "dt_norm_after_dt_proj")
REJECTED = {f"{name}/continue": RESTARTS for name in MAMBA} | {f"{name}/fused-norm": FUSED for name in MAMBA} | {
    "mamba-untied/step-mask": ("step_mask", 1, "cache.0.conv", "one token with a mask of all columns is taken for as many "
                               "copies of it: the conv window holds nothing else", None),
    "mamba-untied/step-mask-left": ("step_mask", 1, "backbone.layers.0", "one token with a mask of all columns gets the "
                                    "mask of the first one, which is padding: the token is not seen", None),
} | {
    f"{name}/as-released": (None, 0, f"model.layers.0.{tap}", IGNORED, None)
    for stem, tap in (("block-sam", "feed_forward.gate_proj"), ("block-sequential", "self_attn.q_proj"))
    for name in (stem, stem + "-bf16")
}


def cases_of(name):
    if name in BLOCKS:
        return BLOCK_CASES
    if name not in MAMBA:
        return CASES
    return MAMBA_CASES | FUSED_CASES | (MASK_CASES if name == "mamba-untied" else {})


def variants(config, recorder):
    """The deviations that 5.23.0 has on the input just recorded."""
    found = set()
    limits = getattr(config, "time_step_limit", None)
    bias = config.mamba_proj_bias if config.model_type == "falcon_h1" else config.use_bias
    finite = limits is not None and (limits[0] > 0 or math.isfinite(limits[1]))
    for step in range(recorder.step + 1):
        ids = recorder.tensors[f"step{step}/input_ids"]
        mask = recorder.tensors.get(f"step{step}/attention_mask")
        if finite and step > 0 and ids.shape[1] == 1:
            found.add("decode_no_dt_limit")
        if mask is not None and not mask.all():
            if bias:
                found.add("in_proj_bias_at_pads")
            if (mask[:, 1:] < mask[:, :-1]).any():
                found.add("right_pad_cache")
    return ",".join(sorted(found))


def make(name, case, folder=suite.GOLDEN):
    """Make one trace under folder/traces and return its lines of the suite."""
    model = capture.load(suite.GOLDEN / "models" / name, block="SA_M" if case == "as-released" else None)
    model.name_or_path = name
    taps, calls, note = cases_of(name)[case]
    keep = capture.glob_filter(taps)
    if calls is not None:
        recorder = capture.Recorder(model, keep)
        with CHANGED[case](model) if case in CHANGED else nullcontext():
            capture.run(model, recorder, calls(model))
    else:
        n = 32
        recorder = capture.Recorder(model, lambda step, tap: keep(step, tap)
                                    and (not tap.startswith("cache.") or step == n - 1))
        model.generation_config.eos_token_id = None  # never stop early
        with torch.no_grad(), recorder:
            model.generate(torch.tensor(rows(model, "greedy", [9])), max_new_tokens=n, do_sample=False)
        if recorder.step != n - 1:
            raise SystemExit(f"{name}/{case}: generate made {recorder.step + 1} calls, expected {n}")
    if recorder.missing():
        raise SystemExit(f"{name}/{case}: taps not reached: {', '.join(recorder.missing())}")
    variant = variants(model.config, recorder)
    path = f"traces/{name}/{case}.safetensors"
    recorder.save(folder / path, command=f"golden/hf/make_traces.py --only {name}/{case}", variant=variant)
    line = {"name": f"{name}/{case}", "model": f"models/{name}", "trace": path, "expect": "PASS"}
    if variant:
        line["variant"] = variant
    if f"{name}/{case}" not in REJECTED:
        return [line | {"note": note}]
    bug, step, tap, what, variant = REJECTED[f"{name}/{case}"]
    wrong = line | {"expect": "FAIL", "expect_step": step, "expect_tap": tap} | ({"bug": bug} if bug else {}) | {"note": what}
    right = line | {"name": f"{name}/{case} as {variant}", "variant": variant, "note": note}
    return [wrong, right] if variant else [wrong]


def quiet():
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)  # one order of summation on every machine


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="*", metavar="GLOB", help="cases to make, as 'odd*/t37'")
    args = parser.parse_args()
    if transformers.__version__ != "5.23.0":
        raise SystemExit(f"make_traces.py: transformers 5.23.0 is pinned (found {transformers.__version__})")
    quiet()
    made = []
    for name in MODELS + BLOCKS + MAMBA:
        for case in cases_of(name):
            if fnmatch.fnmatchcase(f"{name}/{case}", args.only):
                made += make(name, case)
                print(made[-1]["trace"], (suite.GOLDEN / made[-1]["trace"]).stat().st_size, made[-1].get("variant", ""))
    names = {line["name"] for line in made}
    suite.update(made, lambda name: name in names)


if __name__ == "__main__":
    main()
