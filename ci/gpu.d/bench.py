"""The stages `decode` and `prefill` of ci/gpu: fh1 bench and its peers on the same device, round by round in turn. Writes
one JSON line per figure. Every cell that was not measured is there too, with the reason."""
import argparse
import json
import queue
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import peers
from work import Work

ROUNDS, CHUNK = 5, 16384
SIZES = ["7B", "0.5B", "1.5B-Deep"]
DECODE = [(1, 2048), (32, 2048), (8, 2048), (64, 2048), (256, 2048), (1, 32768), (8, 32768), (32, 32768), (64, 32768),
          (256, 32768)]
PREFILL = [(1, 2048), (8, 2048), (1, 32768), (1, 131072)]
# Targets: milliseconds, or for prompts the share of the product's rate.
GOALS = {("decode", "7B", 1, 2048): 4.1, ("decode", "7B", 32, 2048): 7.4, ("decode", "0.5B", 1, 2048): 0.45,
         ("prefill", "7B"): 0.60, ("prefill", "0.5B"): 0.45}
RATIO = 1.5  # over the fastest path of transformers


class Ours:
    """fh1 bench, one cell; it waits for a line before each round."""

    def __init__(self, o, config, stage, B, T):
        prompt = T if stage == "prefill" else max(1, min(T, CHUNK // B))
        command = [o.fh1, "bench", str(config), "--engine", o.engine, "--batch", str(B), "--prefill", str(prompt),
                   "--context", str(T), "--steps", str(0 if stage == "prefill" else o.steps), "--rounds", str(ROUNDS),
                   "--paced", "--json"]
        self.errors = tempfile.TemporaryFile("w+")
        self.p = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True)
        self.lines = queue.Queue()
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for line in self.p.stdout:
            self.lines.put(json.loads(line))
        self.lines.put(None)

    def next(self, seconds):
        try:
            line = self.lines.get(timeout=max(1, seconds))
        except queue.Empty:
            self.p.kill()
            raise peers.NotPossible("no time left in this stage") from None
        if line is None:
            self.p.wait()
            self.errors.seek(0)
            said = self.errors.read().strip()
            raise RuntimeError(said.splitlines()[0] if said else f"fh1 bench ended with {self.p.returncode}")
        return line

    def round(self, seconds):
        self.p.stdin.write("\n")
        self.p.stdin.flush()
        return self.next(seconds)["value"]

    def limits(self, seconds):
        """After the last round: {"copy", "product"} as fh1 measured them."""
        found = {}
        while len(found) < 2:
            line = self.next(seconds)
            for what in ("copy", "product"):
                if line["bench"].endswith(" " + what):
                    found[what] = line["value"]
        return found

    def close(self):
        if self.p.poll() is None:
            self.p.kill()
        self.p.wait()


class Stage:
    def __init__(self, o):
        self.o, self.end = o, time.monotonic() + o.seconds
        self.json = open(o.json, "a", encoding="utf-8")
        self.torch, self.copy, self.product, self.models = None, None, None, {}

    def left(self):
        return self.end - time.monotonic()

    def write(self, line):
        self.json.write(json.dumps(line) + "\n")
        self.json.flush()
        print(" ".join(f"{k} {v}" for k, v in line.items() if v is not None), flush=True)

    def figure(self, name, value, unit, limit=None, peer=None, **more):
        """share: of the limit; ratio: how many times faster than the peer. Milliseconds are the better the smaller."""
        share = ratio = None
        if value and limit:
            share = limit / value if unit == "ms" else value / limit
        if value and peer:
            ratio = peer / value if unit == "ms" else value / peer
        self.write({"bench": name, "value": value, "unit": unit, "limit": limit, "share": share, "peer": peer,
                    "ratio": ratio} | more)

    def check(self, name, verdict, note=""):
        self.write({"check": name, "verdict": verdict, "seconds": 0, "note": note})

    # -- before anything is timed ----------------------------------------------------------------------------------

    def sanity(self):
        """Both give the right answer on a small model: ours by the suite, the peer's by a trace of its logits."""
        mini = Path(self.o.golden) / "models" / self.o.mini
        run = subprocess.run([self.o.fh1, "check", str(mini), "--engine", self.o.engine], capture_output=True, text=True)
        self.check(f"check {self.o.mini}", "FAIL" if run.returncode else "PASS", (run.stdout + run.stderr)[-200:].strip()
                   if run.returncode else "")
        if run.returncode:
            raise SystemExit(1)
        try:
            self.torch = peers.Torch(self.o.device)
            self.check("transformers' logits", *self.judge_peer(mini))
        except peers.NotPossible as e:
            self.check("transformers' logits", "n/a", str(e))

    def judge_peer(self, mini):
        try:
            from safetensors.torch import save_file
            from transformers import FalconH1ForCausalLM
        except ImportError as e:
            return "n/a", peers.first_line(e)
        t = self.torch.torch
        model = FalconH1ForCausalLM.from_pretrained(mini, dtype=t.bfloat16).to(self.o.device).eval()
        ids = t.randint(0, model.config.vocab_size, (2, 40), generator=t.Generator().manual_seed(1))
        logits = model(input_ids=ids.to(self.o.device)).logits.to(t.bfloat16).cpu().contiguous()
        contract = "hf-cuda-bf16" if self.o.device == "cuda" else "hf-eager-bf16"
        with tempfile.TemporaryDirectory() as folder:
            path = str(Path(folder) / "peer.safetensors")
            save_file({"step0/input_ids": ids, "step0/logits": logits}, path,
                      {"fh1.trace": "1", "fh1.contract": contract, "fh1.producer": "transformers"})
            run = subprocess.run([self.o.fh1, "check", str(mini), "--trace", path], capture_output=True, text=True)
        # A peer that is wrong is its own affair: it is said, and is no failure of ours.
        return ("PASS", "") if run.returncode == 0 else ("n/a", f"judged wrong under {contract}: its times mean little")

    def limits(self):
        if not self.torch:
            return
        try:
            self.copy, self.product = self.torch.limits(self.o.side)
        except Exception as e:  # pylint: disable=broad-except; then fh1's own measurement counts
            self.check("torch limits", "n/a", peers.first_line(e))
            return
        self.figure("device copy (torch)", self.copy / 1e9, "GB/s")
        self.figure(f"bf16 product {self.o.side}^3 (torch.matmul, cuBLASLt)", self.product / 1e12, "TFLOP/s")
        self.torch.free()

    # -- cells --------------------------------------------------------------------------------------------------------

    def peer_rounds(self, config, stage, B, T):
        """{name: function of one round, or why there is none}."""
        work = Work(config)
        if not self.torch:
            return {"transformers": "torch or its device is not there"}
        if self.o.device == "cuda":
            free = self.torch.torch.cuda.mem_get_info()[0]
            if work.memory(B, T) * 1.3 > free:
                return {"transformers": "does not fit beside fh1"}
        found = {}
        try:
            if config not in self.models:
                self.models.clear()
                self.torch.free()
                self.models[config] = peers.Transformers(self.torch, config)
            model = self.models[config]
            ways = {"transformers": lambda: model.prefill(B, T)} if stage == "prefill" else {
                "transformers": lambda: model.decode(B, T, 2), "transformers, CUDA graph": lambda: model.graph(B, T, 4)}
        except peers.NotPossible as e:
            return {"transformers": str(e)}
        except Exception as e:  # pylint: disable=broad-except
            return {"transformers": peers.first_line(e)}
        for name, make in ways.items():
            try:
                found[name] = make()
            except peers.NotPossible as e:
                found[name] = str(e)
        return found

    def cell(self, stage, size, B, T):
        config = Path(self.o.golden) / ("configs/Falcon-H1-%s.json" % size if size in SIZES else f"models/{size}/config.json")
        name = f"{stage} {size} B={B} {'context' if stage == 'decode' else 'tokens'} {T}"
        if self.left() < 15:
            self.write({"bench": name, "value": None, "unit": "ms", "note": "not measured: no time left in this stage"})
            return
        ours = Ours(self.o, config, stage, B, T)
        try:
            ours.next(self.left())  # ready
            self.measure(ours, config, stage, size, B, T, name)
        except peers.NotPossible as e:
            self.write({"bench": name, "value": None, "unit": "ms", "note": f"not measured: {e}"})
        except RuntimeError as e:
            self.write({"bench": name, "value": None, "unit": "ms", "note": f"n/a: {e}"})
            if "fit" not in str(e):
                self.check(name, "FAIL", str(e))
        finally:
            ours.close()
            if self.torch:
                self.torch.free()

    def measure(self, ours, config, stage, size, B, T, name):
        others = self.peer_rounds(config, stage, B, T)
        times = {"fh1": []} | {k: [] for k in others if callable(others[k])}
        for _ in range(ROUNDS):
            times["fh1"].append(ours.round(self.left()))
            for k in list(times):
                if k == "fh1" or self.left() < 10:
                    continue
                try:
                    times[k].append(others[k]())
                except peers.NotPossible as e:
                    others[k] = str(e)
                    del times[k]
        own = ours.limits(self.left()) if self.o.engine == "cuda" else {}
        copy, product = self.copy or own.get("copy", 0) * 1e9, self.product or own.get("product", 0) * 1e12
        ms = {k: statistics.median(v) for k, v in times.items() if v}
        best = min((v for k, v in ms.items() if k != "fh1"), default=None)
        past, new = (T, 1) if stage == "decode" else (0, T)
        work, limit = Work(config), None
        if copy and product:
            limit = work.floor_ms(B, new, past, copy, product)
        spread = (max(times["fh1"]) - min(times["fh1"])) / ms["fh1"]
        more = {"spread": spread, "min": min(times["fh1"]), "tokens_per_s": B * new / ms["fh1"] * 1e3}
        more["peers"] = {k: ms.get(k, v if isinstance(v, str) else None) for k, v in others.items()}
        if stage == "prefill" and product:
            more["of_product"] = work.flops(B, new, past) / (ms["fh1"] * 1e-3) / product
        goal = GOALS.get((stage, size, B, T)) if stage == "decode" else GOALS.get((stage, size))
        if goal:
            more |= {"goal": goal, "reached": ms["fh1"] <= goal if stage == "decode" else more.get("of_product", 0) >= goal}
        if best:
            more["ratio_goal"] = RATIO
        self.figure(name, ms["fh1"], "ms", limit, best, **more)

    def attention(self):
        for size in ("7B", "0.5B"):
            try:
                work = Work(Path(self.o.golden) / f"configs/Falcon-H1-{size}.json")
                rate = self.torch.attention(work, 32768)
                limit = self.product and self.product / 1e12
                self.figure(f"attention {size} 32768 tokens (torch SDPA)", rate / 1e12, "TFLOP/s", limit)
            except Exception as e:  # pylint: disable=broad-except
                self.check(f"attention {size} (torch SDPA)", "n/a", peers.first_line(e))
        self.torch.free()

    def run(self):
        self.sanity()
        self.limits()
        cells = DECODE if self.o.stage == "decode" else PREFILL
        sizes = self.o.sizes or SIZES
        if self.o.stage == "prefill" and self.torch and self.o.device == "cuda":
            self.attention()
        if self.o.cells:
            cells = [tuple(map(int, c.split("x"))) for c in self.o.cells]
        # Short contexts of all sizes first: they hold the targets.
        for long in (False, True):
            for size in sizes:
                for B, T in cells:
                    if (T > 8192) == long:
                        self.cell(self.o.stage, size, B, T)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("stage", choices=["decode", "prefill"])
    p.add_argument("--fh1", required=True)
    p.add_argument("--golden", required=True)
    p.add_argument("--json", required=True)
    p.add_argument("--seconds", type=float, required=True)
    # For trying this program without a GPU.
    p.add_argument("--engine", default="cuda")
    p.add_argument("--device", default="cuda")
    p.add_argument("--mini", default="mini-0.5b-bf16")
    p.add_argument("--steps", type=int, default=32)
    p.add_argument("--side", type=int, default=8192)
    p.add_argument("--sizes", nargs="*")
    p.add_argument("--cells", nargs="*")
    Stage(p.parse_args()).run()


if __name__ == "__main__":
    sys.exit(main())
