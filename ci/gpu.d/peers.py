"""The other engines of ci/gpu's measurements: transformers (eager, and one decode step as a CUDA graph) and torch's own
kernels. Each is a function that runs one round and returns milliseconds; what cannot run raises NotPossible."""
import shutil
import tempfile
import time
from pathlib import Path


class NotPossible(Exception):
    pass


def first_line(error):
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]


class Torch:
    """torch on one device, with its clock."""

    def __init__(self, device):
        try:
            import torch
        except ImportError as e:
            raise NotPossible(first_line(e)) from e
        self.torch, self.device = torch, device
        if device == "cuda" and not torch.cuda.is_available():
            raise NotPossible("torch sees no device")
        torch.manual_seed(1)
        torch.set_grad_enabled(False)

    def milliseconds(self, run, n=1):
        if self.device != "cuda":
            begin = time.perf_counter()
            for _ in range(n):
                run()
            return 1e3 * (time.perf_counter() - begin) / n
        event = self.torch.cuda.Event
        begin, end = event(enable_timing=True), event(enable_timing=True)
        begin.record()
        for _ in range(n):
            run()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / n

    def free(self):
        if self.device == "cuda":
            self.torch.cuda.empty_cache()

    def limits(self, side=8192):
        """(bytes/s of a device copy, read and written; FLOP/s of a bf16 product of random cubes), the best of ten."""
        t, kind = self.torch, self.torch.bfloat16
        x = t.randn(side, side, device=self.device, dtype=kind)
        w = t.randn(side, side, device=self.device, dtype=kind)
        y = t.empty_like(x)
        big = t.randn(side, 4 * side, device=self.device)
        to = t.empty_like(big)
        product = min(self.milliseconds(lambda: t.matmul(x, w.t(), out=y), 3) for _ in range(10))
        copy = min(self.milliseconds(lambda: to.copy_(big), 3) for _ in range(10))
        return 2e3 * big.numel() * 4 / copy, 2e3 * side ** 3 / product

    def attention(self, work, T):
        """Causal attention of one layer over T tokens: FLOP/s of torch's choice."""
        t = self.torch
        q = t.randn(1, work.Hq, T, work.A, device=self.device, dtype=t.bfloat16)
        k, v = (t.randn(1, work.Hkv, T, work.A, device=self.device, dtype=t.bfloat16) for _ in range(2))
        sdpa = t.nn.functional.scaled_dot_product_attention
        ms = min(self.milliseconds(lambda: sdpa(q, k, v, is_causal=True, enable_gqa=True)) for _ in range(8))
        return 2e3 * work.Hq * work.A * T * T / ms


def build(torch, config_path):
    """transformers' model with weights of trained-like size, made on the device."""
    try:
        from transformers import FalconH1Config, FalconH1ForCausalLM
    except ImportError as e:
        raise NotPossible(first_line(e)) from e
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(config_path, Path(folder) / "config.json")
        config = FalconH1Config.from_pretrained(folder)
    config._attn_implementation = "sdpa"
    t = torch.torch
    default = t.get_default_dtype()
    try:
        t.set_default_dtype(t.bfloat16)
        with t.device(torch.device):
            model = FalconH1ForCausalLM(config).eval()
    finally:
        t.set_default_dtype(default)
    for name, p in model.named_parameters():
        if p.dim() == 2:
            p.normal_(0, p.shape[1] ** -0.5)
        elif name.endswith("A_log"):
            p.copy_(t.empty_like(p, dtype=t.float32).uniform_(1, 16).log())
    return model


def layers_of(cache):
    """Pairs of get and set for keys and values, in the two shapes that transformers' caches have had."""
    if hasattr(cache, "key_cache"):
        def at(store, i):
            return lambda: store[i], lambda v: store.__setitem__(i, v)
        return [at(s, i) for s in (cache.key_cache, cache.value_cache) for i in range(len(s))]

    def part(layer, name):
        return lambda: getattr(layer, name), lambda v: setattr(layer, name, v)
    return [part(l, name) for l in cache.layers for name in ("keys", "values")]


class Transformers:
    def __init__(self, torch, config_path):
        self.t, self.torch = torch, torch.torch
        self.model = build(torch, config_path)
        self.V = self.model.config.vocab_size

    def ids(self, B, T):
        return self.torch.randint(0, self.V, (B, T), device=self.t.device)

    def call(self, ids, cache):
        out = self.model(input_ids=ids, past_key_values=cache, use_cache=cache is not None, logits_to_keep=1)
        return out.logits, out.past_key_values

    def sane(self, logits):
        if not bool(self.torch.isfinite(logits).all()):
            raise NotPossible("its logits are not finite")

    def guarded(self, run):
        try:
            return run()
        except NotPossible:
            raise
        except Exception as e:  # pylint: disable=broad-except; whatever a peer cannot do is n/a, with its reason
            self.t.free()
            raise NotPossible(first_line(e)) from e

    def prefill(self, B, T):
        def once():
            ids = self.ids(B, T)
            self.sane(self.call(ids, None)[0])
            return lambda: self.guarded(lambda: self.t.milliseconds(lambda: self.call(ids, None)))
        return self.guarded(once)

    def filled(self, B, context):
        """A cache of `context` tokens. Keys and values of all but the first are random: decoding reads them, whatever
        they are."""
        short = min(16, context)
        out = self.model(input_ids=self.ids(B, short), use_cache=True, logits_to_keep=1)
        cache = out.past_key_values
        for get, put in layers_of(cache):
            old = get()
            if old is None or old.dim() != 4:
                continue
            new = self.torch.randn(*old.shape[:2], context, old.shape[3], device=old.device, dtype=old.dtype)
            new[:, :, :short] = old
            put(new)
        return cache

    def decode(self, B, context, steps):
        def once():
            cache, ids = self.filled(B, context), self.ids(B, 1)
            self.sane(self.call(ids, cache)[0])
            return lambda: self.guarded(lambda: self.t.milliseconds(lambda: self.call(ids, cache), steps))
        return self.guarded(once)

    def graph(self, B, context, steps):
        """One step as a CUDA graph, replayed on the same cache: the launches cost nothing, what is copied to make room
        for the new key stays."""
        def once():
            if self.t.device != "cuda":
                raise NotPossible("no CUDA graph on this device")
            t, cache, ids = self.torch, self.filled(B, context), self.ids(B, 1)
            kept = [get() for get, _ in layers_of(cache)]

            def back():
                for (_, put), v in zip(layers_of(cache), kept):
                    put(v)
            side = t.cuda.Stream()
            side.wait_stream(t.cuda.current_stream())
            with t.cuda.stream(side):
                for _ in range(2):
                    self.call(ids, cache)
                    back()
            t.cuda.current_stream().wait_stream(side)
            graph = t.cuda.CUDAGraph()
            with t.cuda.graph(graph):
                logits, _ = self.call(ids, cache)
            graph.replay()
            self.sane(logits)
            hold = (kept, cache, logits)
            return lambda: self.guarded(lambda: (hold, self.t.milliseconds(graph.replay, steps))[1])
        return self.guarded(once)
