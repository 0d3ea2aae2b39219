"""Our GGUF file of a model against the one that llama.cpp's own converter makes of it.

usage: compare_stock.py LLAMA_CPP FH1 MODEL WORK

LLAMA_CPP is the source tree with convert_hf_to_gguf.py, MODEL a Hugging Face folder that llama.cpp can represent, WORK
an empty folder. A tokenizer (byte-level BPE, trained on this project's documents) is added to a copy of the model. The
same keys with the same values, the same tensors with the same shapes and types, numbers within one rounding; then the
converter's file through our import: the same function means the same folded numbers again. Exit codes: 0 same, 1 not.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

llama_cpp, fh1, model, work = (Path(a).resolve() for a in sys.argv[1:5])
sys.path[:0] = [str(llama_cpp), str(llama_cpp / "gguf-py")]
sys.argv[1:] = []

import gguf  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers  # noqa: E402
from transformers import PreTrainedTokenizerFast  # noqa: E402

# Written by one side only, or about the file and not about the model.
OURS_ONLY = ("fh1.", "general.", "GGUF.")
NOT_COMPARED = ("general.", "GGUF.")
# The converter leaves this out where nobody adds an end token; we say so.
DEFAULTS = {"tokenizer.ggml.add_eos_token": False, "tokenizer.ggml.add_bos_token": False}
failures = []


def expect(good, what):
    if not good:
        failures.append(what)


def add_tokenizer(folder, size):
    special = ["<|pad|>", "<|begin|>", "<|end|>", "<|unknown|>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(vocab_size=size - 8, special_tokens=special, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    docs = Path(__file__).resolve().parents[2] / "docs"
    tokenizer.train([str(p) for p in sorted(docs.glob("*.md"))], trainer)
    tokenizer.add_tokens(["<plain addition>"])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=special[0], bos_token=special[1],
                                   eos_token=special[2], unk_token=special[3])
    fast.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    fast.save_pretrained(folder)


def stock(folder, target):
    import convert_hf_to_gguf
    from conversion.falcon_h1 import FalconH1Model

    # It knows the tokenizers of the published models by a hash of what they do.
    FalconH1Model.get_vocab_base_pre = lambda self, tokenizer: "falcon-h1"
    sys.argv[1:] = [str(folder), "--outfile", str(target), "--outtype", "f32"]
    convert_hf_to_gguf.main()


def compare_keys(ours, theirs):
    for name, field in theirs.fields.items():
        if name.startswith(NOT_COMPARED):
            continue
        mine = ours.fields.get(name)
        expect(mine is not None, f"we lack the key {name}")
        if mine is not None:
            expect(mine.types == field.types, f"{name}: {mine.types}, the converter has {field.types}")
            expect(mine.contents() == field.contents(), f"{name} has another value")
    for name, field in ours.fields.items():
        if name.startswith(OURS_ONLY) or name in theirs.fields:
            continue
        expect(name in DEFAULTS and field.contents() == DEFAULTS[name], f"the converter lacks the key {name}")


def compare_tensors(ours, theirs):
    mine = {t.name: t for t in ours.tensors}
    for t in theirs.tensors:
        o = mine.pop(t.name, None)
        expect(o is not None, f"we lack the tensor {t.name}")
        if o is None:
            continue
        expect(list(o.shape) == list(t.shape), f"{t.name}: {o.shape}, the converter has {t.shape}")
        expect(o.tensor_type == t.tensor_type, f"{t.name}: {o.tensor_type}, the converter has {t.tensor_type}")
        # It multiplies in f32, once per multiplier: up to three roundings where we have one.
        expect(np.allclose(o.data, t.data, rtol=4 * 2.0**-24, atol=0), f"{t.name} has other numbers")
    expect(not mine, f"the converter lacks {sorted(mine)}")


def expect_seen(folder, theirs):
    """An export that has one multiplier wrong by 1 % must not compare equal."""
    config = folder / "config.json"
    config.write_text(re.sub(r'("key_multiplier": )[0-9.]+', r"\g<1>0.3945", config.read_text()))
    subprocess.run([fh1, "convert", folder, work / "wrong.gguf", "--dtype", "f32", "--quiet"], check=True)
    before = len(failures)
    compare_tensors(gguf.GGUFReader(work / "wrong.gguf"), theirs)
    seen = failures[before:]
    del failures[before:]
    expect(len(seen) == 3 and all("attn_k" in s for s in seen), "a wrong multiplier is not seen")


def compare_import(file, folder):
    subprocess.run([fh1, "convert", file, folder, "--quiet"], check=True)
    tensors = load_file(folder / "model.safetensors")
    for t in gguf.GGUFReader(file).tensors:
        if t.name == "token_embd.weight":
            same = np.array_equal(tensors["model.embed_tokens.weight"].numpy(), t.data)
            expect(same, "the embedding of the converter's file is changed by the import")
        if t.name == "blk.0.ssm_a":
            again = -torch.exp(tensors["model.layers.0.mamba.A_log"].double()).float().numpy()
            expect(np.allclose(again, t.data.reshape(-1), rtol=2.0**-22), "A of the converter's file is changed")


copy = work / "model"
shutil.copytree(model, copy)
add_tokenizer(copy, 320)
stock(copy, work / "theirs.gguf")
subprocess.run([fh1, "convert", copy, work / "ours.gguf", "--dtype", "f32", "--quiet"], check=True)
readers = gguf.GGUFReader(work / "ours.gguf"), gguf.GGUFReader(work / "theirs.gguf")
compare_keys(*readers)
compare_tensors(*readers)
compare_import(work / "theirs.gguf", work / "imported")
expect_seen(copy, readers[1])
for f in failures:
    print(f"FAILED: {f}")
print(f"{len(readers[0].tensors)} tensors and {len(readers[1].fields)} keys compared with llama.cpp's converter")
sys.exit(1 if failures else 0)
