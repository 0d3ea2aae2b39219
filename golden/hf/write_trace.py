#!/usr/bin/env python3
"""Write an fh1 trace from your own engine, with nothing but Python's standard library.

    from write_trace import write_trace
    write_trace("mine.safetensors", {
        "step0/input_ids": ("I64", (1, 3), [5, 17, 23]),
        "step0/logits": ("F32", (1, 3, 96), logits),    # numbers, bytes, or any buffer (array, numpy)
    }, {"fh1.producer": "my engine 0.1", "fh1.contract": "fp32"})

then: fh1 check MODEL --trace mine.safetensors

Run as a program it is a demo: a three-tap engine in plain Python on a float32 folder of a Falcon-H1:

    python golden/hf/write_trace.py golden/models/mini-0.5b trace.safetensors
"""
import array
import json
import math
import struct
import sys
from pathlib import Path

# dtype -> bytes per element, struct code (None: the caller gives bytes)
DTYPES = {"F64": (8, "d"), "F32": (4, "f"), "F16": (2, "e"), "BF16": (2, None), "I64": (8, "q")}


def to_bytes(name, dtype, shape, data):
    size, code = DTYPES[dtype]
    try:
        raw = memoryview(data).cast("B")  # already in memory, little-endian, in C order
    except TypeError:
        if code is None:
            # The upper half of a float32, rounded to nearest even.
            words = struct.unpack(f"<{len(data)}I", struct.pack(f"<{len(data)}f", *data))
            raw = struct.pack(f"<{len(data)}H", *(
                w >> 16 | 0x40 if (w & 0x7FFFFFFF) > 0x7F800000 else (w + 0x7FFF + (w >> 16 & 1)) >> 16 for w in words))
        else:
            raw = struct.pack(f"<{len(data)}{code}", *data)
    if len(raw) != size * math.prod(shape):
        raise ValueError(f"{name}: {dtype} {tuple(shape)} needs {size * math.prod(shape)} bytes, got {len(raw)}")
    return raw


def write_trace(path, tensors, metadata=None):
    """Write {name: (dtype, shape, data)} as a trace. dtype is one of F64 F32 F16 BF16 I64."""
    header, blobs, offset = {"__metadata__": {"fh1.trace": "1"} | (metadata or {})}, [], 0
    # Widest elements first, so that every tensor starts at a multiple of its element.
    for name in sorted(tensors, key=lambda n: (-DTYPES[tensors[n][0]][0], n)):
        dtype, shape, data = tensors[name]
        blobs.append(to_bytes(name, dtype, shape, data))
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + len(blobs[-1])]}
        offset += len(blobs[-1])
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        for blob in blobs:
            out.write(blob)


def read_f32(path, name):
    """One F32 tensor of a .safetensors file: (shape, values)."""
    with open(path, "rb") as f:
        n = struct.unpack("<Q", f.read(8))[0]
        entry = json.loads(f.read(n))[name]
        if entry["dtype"] != "F32":
            raise SystemExit(f"write_trace.py: {path}: {name} is {entry['dtype']}; the demo reads F32")
        begin, end = entry["data_offsets"]
        f.seek(8 + n + begin)
        values = array.array("f", f.read(end - begin))
    if sys.byteorder == "big":
        values.byteswap()
    return entry["shape"], values


def demo(folder, out):
    """The first three taps of a model, each computed as the table of taps defines it."""
    config = json.loads((Path(folder) / "config.json").read_text())
    if config["model_type"] != "falcon_h1":
        raise SystemExit(f"write_trace.py: {folder}: the demo computes a falcon_h1, not a {config['model_type']}; "
                         "write_trace() writes the taps of any model")
    weights = Path(folder) / "model.safetensors"
    (_, width), table = read_f32(weights, "model.embed_tokens.weight")
    norm = read_f32(weights, "model.layers.0.input_layernorm.weight")[1]
    ids = [5, 17, 23, 42, 8, 31]
    embedded, scaled, normed = [], [], []
    for token in ids:
        row = table[token * width:(token + 1) * width]
        x = [v * config["embedding_multiplier"] for v in row]
        r = 1.0 / math.sqrt(sum(v * v for v in x) / width + config["rms_norm_eps"])
        embedded += row
        scaled += x
        normed += [v * r * w for v, w in zip(x, norm)]
    shape = (1, len(ids), width)
    write_trace(out, {
        "step0/input_ids": ("I64", (1, len(ids)), ids),
        "step0/model.embed_tokens": ("F32", shape, embedded),
        "step0/model.layers.0.input": ("F32", shape, scaled),
        "step0/model.layers.0.input_layernorm": ("F32", shape, normed),
    }, {"fh1.producer": "write_trace.py demo", "fh1.contract": "fp32"})


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    demo(sys.argv[1], sys.argv[2])
