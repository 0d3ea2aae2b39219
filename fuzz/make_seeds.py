#!/usr/bin/env python3
"""Writes the seeds of the fuzz targets for safetensors files, shard indices and traces: files that are small and sound, some
of them golden ones cut small, and one for each class of malformed ones. Run it from the project's root:

    python3 fuzz/make_seeds.py            writes fuzz/corpus/{safetensors,index,trace}
"""
import glob
import json
import os
import re
import struct

BYTES = {"F64": 8, "F32": 4, "BF16": 2, "F16": 2, "I64": 8, "I32": 4, "U8": 1, "I8": 1, "BOOL": 1}


def frame(header, data=b"", length=None):
    """A file: length word, header (text or bytes), data."""
    header = header if isinstance(header, bytes) else header.encode()
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def entry(dtype, shape, begin, end, **more):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end], **more}


def pack(tensors, metadata=None):
    """A sound file of tensors: name -> (dtype, shape, bytes)."""
    header, data = {}, b""
    if metadata is not None:
        header["__metadata__"] = metadata
    for name, (dtype, shape, content) in tensors.items():
        header[name] = entry(dtype, shape, len(data), len(data) + len(content))
        data += content
    return frame(json.dumps(header, separators=(",", ":")), data)


def unpack(path):
    with open(path, "rb") as f:
        raw = f.read()
    (n,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + n])
    metadata = header.pop("__metadata__", None)
    tensors = {}
    for name, e in header.items():
        begin, end = e["data_offsets"]
        tensors[name] = (e["dtype"], e["shape"], raw[8 + n + begin : 8 + n + end])
    return tensors, metadata


def cut(tensors, names, most=3):
    """These tensors with no dimension above `most`, their first bytes."""
    small = {}
    for name in names:
        dtype, shape, content = tensors[name]
        shape = [min(n, most) for n in shape]
        size = BYTES[dtype]
        for n in shape:
            size *= n
        small[name] = (dtype, shape, content[:size])
    return small


def safetensors_seeds():
    u8 = lambda *at: json.dumps(entry("U8", [at[1] - at[0]], *at))
    one = lambda dtype, shape, offsets, more="": '{"a":{"dtype":%s,"shape":%s,"data_offsets":%s%s}}' % (
        dtype, shape, offsets, more)
    two = lambda a, b, names=("a", "b"): '{"%s":%s,"%s":%s}' % (names[0], a, names[1], b)
    headers = {
        # sound
        "empty": ("{}", 0),
        "metadata_only": ('{"__metadata__":{"format":"pt","":"\\u00e9\\n\\ud83d\\ude00"}}', 0),
        "metadata_null": ('{"__metadata__":null,"a":%s}' % u8(0, 7), 7),
        "metadata_escaped": ('{"\\u005f_metadata__":{"a":"1","b":"2"}}', 0),
        "blanks": (' \t\r\n{ "a" : %s }  \n' % u8(0, 2), 2),
        "scalar": (one('"F32"', "[]", "[0,4]"), 4),
        "zero_dimension": (one('"F64"', "[0,4294967296,4294967296]", "[0,0]"), 0),
        "rank_8": (one('"I64"', "[1,1,1,1,1,1,1,2]", "[0,16]"), 16),
        "unaligned": ('{"a":%s,"b":%s}' % (json.dumps(entry("F32", [1], 1, 5)), u8(0, 1)), 5),
        "order": (two(u8(1, 3), u8(0, 1)), 3),
        "empty_ones": ('{"a":%s,"b":%s,"c":%s}' % (json.dumps(entry("F64", [3, 0], 2, 2)), u8(0, 2),
                                                   json.dumps(entry("F32", [0], 0, 0))), 2),
        "names": ('{"":%s,"../\\u000a\\u2028":%s,"\\ud83d\\ude00":%s}' % (u8(0, 1), u8(1, 2), u8(2, 3)), 3),
        "plain_extra_field": (one('"\\u0055\\u0038"', "[2]", "[0,2]", ',"x":null,"y":1.5e3'), 2),
        "f4": (one('"F4"', "[2,3]", "[0,3]"), 3),
        "f6": (one('"F6_E3M2"', "[4]", "[0,3]"), 3),
        "largest_numbers": (one('"U8"', "[9007199254740992,0]", "[0,0]"), 0),
        # malformed: text
        "no_text": ("", 0),
        "open_brace": ("{", 0),
        "array": ("[]", 0),
        "comment": ("{/**/}", 0),
        "bom": (b"\xef\xbb\xbf{}", 0),
        "two_objects": ("{}{}", 0),
        "trailing_comma": ('{"a":%s,}' % u8(0, 1), 1),
        "deep": (one('"F32"', "[[2]]", "[0,8]"), 8),
        "deep_200": (one('"U8"', "[]", "[0,1]", ',"x":' + "[" * 200 + "]" * 200), 1),
        "deep_extra": (one('"U8"', "[]", "[0,1]", ',"x":{"y":[1]}'), 1),
        "duplicate": (two(u8(0, 2), u8(2, 4), ("a", "a")), 4),
        "duplicate_same_place": (two(u8(0, 2), u8(0, 2), ("a", "a")), 2),
        "duplicate_decoded": (two(u8(0, 2), u8(2, 4), ("a", "\\u0061")), 4),
        "duplicate_field": (one('"U8"', "[2]", "[0,2]", ',"shape":[2]'), 2),
        "duplicate_metadata": ('{"__metadata__":{"a":"1","\\u0061":"2"}}', 0),
        "nul": ('{"a\\u0000b":%s}' % u8(0, 2), 2),
        "lone_surrogate": ('{"\\ud800":%s}' % u8(0, 2), 2),
        "surrogates_swapped": ('{"\\ude00\\ud83d":%s}' % u8(0, 2), 2),
        "overlong": (b'{"a\xc0\x80":' + u8(0, 2).encode() + b"}", 2),
        "raw_surrogate": (b'{"a\xed\xa0\x80":' + u8(0, 2).encode() + b"}", 2),
        "bad_utf8": (b'{"a\xff":' + u8(0, 2).encode() + b"}", 2),
        "raw_control": ('{"a\tb":%s}' % u8(0, 2), 2),
        "nan": (one('"U8"', "[NaN]", "[0,2]"), 2),
        "leading_zero": (one('"U8"', "[02]", "[0,2]"), 2),
        # malformed: values
        "metadata_number": ('{"__metadata__":{"a":1}}', 0),
        "metadata_array": ('{"__metadata__":[]}', 0),
        "metadata_tensor": ('{"__metadata__":%s}' % u8(0, 0), 0),
        "entry_null": ('{"a":null}', 0),
        "entry_array": ('{"a":["F32",[2],[0,8]]}', 0),
        "field_missing": ('{"a":{"dtype":"F32","shape":[2]}}', 0),
        "extra_field_array": (one('"U8"', "[2]", "[0,2]", ',"x":[]'), 2),
        "dtype_unknown": (one('"C128"', "[0]", "[0,0]"), 0),
        "dtype_lower": (one('"f32"', "[0]", "[0,0]"), 0),
        "dtype_object": (one('{"F32":null}', "[2]", "[0,8]"), 8),
        "shape_null": (one('"F32"', "null", "[0,8]"), 8),
        "dimension_text": (one('"F32"', '["2"]', "[0,8]"), 8),
        "dimension_point": (one('"F32"', "[2.0]", "[0,8]"), 8),
        "dimension_exponent": (one('"F32"', "[2e0]", "[0,8]"), 8),
        "dimension_negative": (one('"F32"', "[-2]", "[0,8]"), 8),
        "dimension_minus_zero": (one('"F32"', "[-0]", "[0,0]"), 0),
        "dimension_2_53_1": (one('"F32"', "[9007199254740993,0]", "[0,0]"), 0),
        "dimension_2_64": (one('"F32"', "[18446744073709551618,0]", "[0,0]"), 0),
        "rank_9": (one('"F32"', "[1,1,1,1,1,1,1,1,1]", "[0,4]"), 4),
        "product_overflow": (one('"U8"', "[4294967296,4294967296,0]", "[0,0]"), 0),
        "bits_overflow": (one('"F64"', "[4503599627370496,512]", "[0,8]"), 8),
        "f4_odd": (one('"F4"', "[3]", "[0,1]"), 1),
        "f6_odd": (one('"F6_E2M3"', "[2]", "[0,1]"), 1),
        "wrong_size": (one('"F32"', "[3]", "[0,8]"), 8),
        "scalar_size": (one('"F32"', "[]", "[0,8]"), 8),
        # malformed: places
        "offsets_one": (one('"F32"', "[2]", "[0]"), 8),
        "offsets_three": (one('"F32"', "[2]", "[0,8,8]"), 8),
        "offsets_point": (one('"F32"', "[2]", "[0,8.0]"), 8),
        "offsets_negative": (one('"U8"', "[8]", "[0,-8]"), 8),
        "offsets_swapped": (one('"F32"', "[2]", "[8,0]"), 8),
        "offsets_2_64": (one('"F32"', "[2]", "[0,18446744073709551615]"), 8),
        "hole_first": (one('"F32"', "[2]", "[4,12]"), 12),
        "hole_middle": (two(u8(0, 2), u8(3, 5)), 5),
        "overlap": (two(u8(0, 2), u8(1, 3)), 3),
        "overlap_same": (two(u8(0, 2), u8(0, 2)), 2),
        "overlap_and_hole": (two(u8(0, 2), u8(1, 3)), 4),
        "empty_inside": (two(u8(0, 4), u8(2, 2)), 4),
        "empty_beyond": (two(u8(0, 4), u8(5, 5)), 4),
        "byte_too_many": (one('"F32"', "[2]", "[0,8]"), 9),
        "byte_too_few": (one('"F32"', "[2]", "[0,8]"), 7),
    }
    seeds = {name: frame(header, bytes(range(n))) for name, (header, n) in headers.items()}
    dtypes = ["F64", "F32", "BF16", "F16", "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL", "C64"]
    width = {"I16": 2, "U64": 8, "U32": 4, "U16": 2, "C64": 8}
    seeds["dtypes"] = pack({d: (d, [2], bytes(2 * (BYTES.get(d) or width[d]))) for d in dtypes}, {"format": "pt"})
    seeds["seven_bytes"] = b"\2\0\0\0\0\0\0"
    seeds["cut_header"] = frame("{}", length=3)
    seeds["length_0"] = frame("", b"{}")
    seeds["length_100000000"] = frame("{}", length=100000000)
    seeds["length_100000001"] = frame("{}", length=100000001)
    seeds["length_2_63"] = frame("{}", length=1 << 63)
    seeds["length_all"] = frame("{}", length=(1 << 64) - 1)
    seeds["git_lfs"] = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n"
    for path, most in (("golden/models/odd-bf16/model.safetensors", 2), ("golden/models/mini-0.5b/model.safetensors", 1)):
        tensors, metadata = unpack(path)
        seeds["golden_" + path.split("/")[2]] = pack(cut(tensors, sorted(tensors)[:: len(tensors) // 5], most), metadata)
    return seeds


def index_seeds():
    shards = ["a.safetensors", "b.safetensors", "c.safetensors", "d.safetensors"]

    def index(weight_map, total=None, **metadata):
        if total is not None:
            metadata["total_size"] = total
        return json.dumps({"metadata": metadata, "weight_map": weight_map} if metadata else {"weight_map": weight_map})

    def seed(text, *lists):
        text = text if isinstance(text, bytes) else text.encode()
        return b"\0".join([text, *(x if isinstance(x, bytes) else x.encode() for x in lists)])

    a, b, c, d = shards
    two = {"x": a, "y": b}
    raw = lambda text: text.replace("TWO", json.dumps(two))
    seeds = {
        # exact
        "one_shard": seed(index({"x": a}, 3), "x=3"),
        "two_shards": seed(index(two, 5), "x=3", "y=2"),
        "four_shards": seed(index({"x": a, "y": b, "z": c, "w": d, "v": a}, 110), "x=3\nv=90", "y=2", "z=", "w=15"),
        "no_total": seed(index(two), "x=3", "y=2"),
        "metadata_array": seed(raw('{"metadata":[{"total_size":1}],"weight_map":TWO}'), "x=3", "y=2"),
        "total_parameters": seed(index(two, 5, total_parameters=9), "x=3", "y=2"),
        "total_point": seed(raw('{"metadata":{"total_size":5.0},"weight_map":TWO}'), "x=3", "y=2"),
        "unnamed_shard": seed(index(two, 5), "x=3", "y=2", "z=1", "!"),
        "escaped": seed('{"weight_map":{"\\u0078":"\\u0061.safetensors","\\ud83d\\ude00":"b.safetensors"}}', "x=3",
                        "\U0001f600=2"),
        "depth_8": seed(raw('{"weight_map":TWO,"x":[[[[[[[]]]]]]]}'), "x=3", "y=2"),
        # malformed: text
        "no_text": seed("", "x=3"),
        "array": seed("[]", "x=3"),
        "cut": seed(index(two, 5)[:-1], "x=3", "y=2"),
        "depth_9": seed(raw('{"weight_map":TWO,"x":[[[[[[[[]]]]]]]]}'), "x=3", "y=2"),
        "duplicate_tensor": seed('{"weight_map":{"x":"a.safetensors","x":"a.safetensors"}}', "x=3"),
        "duplicate_decoded": seed('{"weight_map":{"x":"a.safetensors","\\u0078":"a.safetensors"}}', "x=3"),
        "duplicate_map": seed(raw('{"weight_map":TWO,"weight_map":TWO}'), "x=3", "y=2"),
        "lone_surrogate": seed(raw('{"weight_map":TWO,"\\ud800":1}'), "x=3", "y=2"),
        "nul": seed(raw('{"weight_map":TWO,"a\\u0000":1}'), "x=3", "y=2"),
        "overlong": seed(raw('{"weight_map":TWO,"a":"').encode() + b"\xc0\xaf\"}", "x=3", "y=2"),
        "leading_zero": seed(raw('{"metadata":{"total_size":05},"weight_map":TWO}'), "x=3", "y=2"),
        # malformed: the map
        "no_map": seed("{}", "x=3"),
        "map_null": seed('{"weight_map":null}', "x=3"),
        "map_array": seed('{"weight_map":["a.safetensors"]}', "x=3"),
        "map_empty": seed('{"weight_map":{}}'),
        "mapped_to_number": seed('{"weight_map":{"x":"a.safetensors","y":1}}', "x=3"),
        "folder_up": seed(index({"x": "../a.safetensors"}), "x=3"),
        "folder": seed(index({"x": "./a.safetensors"}), "x=3"),
        "absolute": seed(index({"x": "/a.safetensors"}), "x=3"),
        "slash": seed(index({"x": a, "y": "x/a.safetensors"}), "x=3"),
        "backslash": seed(index({"x": "x\\a.safetensors"}), "x=3"),
        "dot": seed(index({"x": a, "y": ".a.safetensors"}), "x=3"),
        "empty_name": seed(index({"x": ""}), "x=3"),
        "suffix": seed(index({"x": a, "y": "model.safetensors.index.json"}), "x=3"),
        "long_name": seed(index({"x": a, "y": "a" * 244 + ".safetensors"}), "x=3"),
        # malformed: files against the map
        "missing_file": seed(index({"x": a, "y": "e.safetensors"}), "x=3"),
        "missing_tensor": seed(index({"x": a, "y": a}), "x=3"),
        "unmapped_tensor": seed(index({"x": a}), "x=3\ny=2"),
        "moved_tensor": seed(index({"x": a, "y": b}), "x=3\ny=2", ""),
        "in_two_files": seed(index({"x": a, "y": b}), "x=3\ny=2", "y=2"),
        "swapped_files": seed(index({"x": b, "y": a}), "x=3", "y=2"),
        "total_stale": seed(index(two, 6), "x=3", "y=2"),
        "total_of_files": seed(index(two, 151), "x=3", "y=2"),
        "total_text": seed(raw('{"metadata":{"total_size":"5"},"weight_map":TWO}'), "x=3", "y=2"),
        "total_null": seed(raw('{"metadata":{"total_size":null},"weight_map":TWO}'), "x=3", "y=2"),
        "shard_cut": seed(index(two), "x=3", "!\2"),
        "shard_empty": seed(index(two, 5), "x=3", "!"),
        "shard_lfs": seed(index(two, 5), "x=3", "!version https://git-lfs.github.com/spec/v1\n"),
        "shard_duplicate": seed(index(two, 5), "x=3", "y=2\ny=2"),
        "shard_bad_name": seed(index(two, 5), "x=3", b"y=2\n\xff=2"),
        "shard_metadata": seed(index({"x": a, "__metadata__": b}), "x=3", "__metadata__=2"),
    }
    tensors, _ = unpack("golden/models/odd/model.safetensors")
    names = sorted(tensors)[:: len(tensors) // 6]
    seeds["golden_odd"] = seed(index({n: shards[i % 2] for i, n in enumerate(names)}, 2 * len(names)),
                               *("\n".join(n + "=2" for n in names[k::2]) for k in range(2)))
    return seeds


def i64(shape, *values):
    return ("I64", shape, struct.pack("<%dq" % len(values), *values))


def tap(dtype, *shape):
    size = BYTES[dtype]
    for n in shape:
        size *= n
    return (dtype, list(shape), bytes((7 * k) % 61 for k in range(size)))


def family_trace_seeds():
    """Traces of Falcon-Mamba (D = 5, I = 6, N = 3, R = 2, V = 7) and of the blocks; a word in the file says which."""
    ids = {"step0/input_ids": i64([1, 2], 3, 6)}
    of = lambda word, **more: pack({**ids, **{"step0/" + k.replace("__", "."): v for k, v in more.items()}},
                                   {"fh1.trace": "1", "fh1.producer": word})
    mamba = lambda **more: of("", **{k.replace("layer0", "backbone__layers__0"): v for k, v in more.items()})
    layer = lambda **more: {k.replace("layer0", "model__layers__0"): v for k, v in more.items()}
    every = {"norm": 5, "mixer__in_proj": 12, "mixer__conv_act": 6, "mixer__x_proj": 8, "mixer__dt": 6, "mixer__scan": 6,
             "mixer__gated": 6, "mixer__out_proj": 5}
    return {
        "mamba": mamba(layer0=tap("F32", 1, 2, 5), **{"layer0__" + k: tap("F32", 1, 2, n) for k, n in every.items()},
                       backbone__embeddings=tap("F32", 1, 2, 5), backbone__norm_f=tap("F32", 1, 2, 5), logits=tap("F32", 1, 1, 7)),
        "mamba_cache": of("backbone.", cache__0__conv=tap("BF16", 1, 6, 3), cache__1__ssm=tap("F32", 1, 6, 3)),
        "mamba_gradient": mamba(grad__backbone__layers__1__mixer__A_log=tap("F32", 6, 3), loss=tap("F32"),
                                grad__backbone__layers__0__mixer__dt_proj__bias=tap("F32", 6),
                                grad__backbone__layers__0__mixer__dt_proj__weight=tap("F32", 6, 2)),
        "mamba_without_keys": of("backbone.", cache__0__key=tap("F32", 1, 1, 2, 4)),
        "mamba_state_of_heads": of("backbone.", cache__0__ssm=tap("F32", 1, 3, 3, 2)),
        "mamba_has_no_mamba": of("backbone.", **layer(layer0__mamba__in_proj=tap("F32", 1, 2, 12))),
        "three_norms": of("S_A_M", **layer(layer0__mid_ssm=tap("F32", 1, 2, 5), layer0__attn_layernorm=tap("F32", 1, 2, 5),
                                           layer0__mid=tap("F32", 1, 2, 5)),
                          grad__model__layers__1__attn_layernorm__weight=tap("F32", 5)),
        "one_norm": of("SAM", **layer(layer0__input_layernorm=tap("F32", 1, 2, 5), layer0=tap("F32", 1, 2, 5))),
        "one_norm_has_no_mid": of("SAM", **layer(layer0__mid=tap("F32", 1, 2, 5))),
        "one_norm_gradient_of_another": of("SAM", grad__model__layers__0__pre_ff_layernorm__weight=tap("F32", 5)),
        "two_norms_not_three": of("", **layer(layer0__mid_ssm=tap("F32", 1, 2, 5))),
    }


def trace_seeds():
    """Traces of the released model of fuzz/slow_trace.h: D = 5, F = 6, V = 7, two layers."""
    meta = {"fh1.trace": "1"}
    ids = {"step0/input_ids": i64([1, 2], 3, 6)}
    two = {"step0/input_ids": i64([2, 2], 3, 6, 0, 1), "step1/input_ids": i64([2, 1], 5, 2)}
    with_ids = lambda **more: pack({**ids, **{"step0/" + k.replace("__", "."): v for k, v in more.items()}}, meta)
    with_two = lambda **more: pack({**two, **{k[:5] + "/" + k[6:]: v for k, v in more.items()}}, meta)
    named = lambda name, t: pack({**ids, name: t}, meta)
    logits = tap("F32", 1, 2, 7)
    seeds = {
        # sound
        "ids": pack(ids, meta),
        "metadata": pack(ids, {**meta, "fh1.contract": "fp32+mup_rounded", "fh1.variant": "a,b", "fh1.producer": "x \u00e9",
                               "other": "kept"}),
        "metadata_longest": pack(ids, {**meta, "fh1.contract": "c" * 127, "fh1.variant": "v" * 255}),
        "logits": with_ids(logits=logits),
        "last_logits": with_ids(logits=tap("BF16", 1, 1, 7), loss=tap("F64")),
        "positions": with_ids(position_ids=i64([1, 2], 0, 1 << 53)),
        "labels": with_ids(labels=i64([1, 2], -100, 6)),
        "two_steps": with_two(step0_attention_mask=i64([2, 2], 0, 1, 1, 1), step1_attention_mask=i64([2, 3], 0, 1, 1, 1, 1, 1),
                              step1_logits=tap("F16", 2, 1, 7)),
        "padding_row": with_two(step0_attention_mask=i64([2, 2], 0, 0, 1, 0), step1_attention_mask=i64([2, 3], 0, 0, 1, 1, 0, 0)),
        "padding_ids": pack({"step0/input_ids": i64([1, 3], -1, 3, 99), "step0/attention_mask": i64([1, 3], 0, 1, 0),
                             "step0/position_ids": i64([1, 3], -5, 0, -1), "step0/seq_idx": i64([1, 3], -1, 2, -9)}, meta),
        "documents": with_two(step0_seq_idx=i64([2, 2], 0, 4, 1, 1), step1_seq_idx=i64([2, 1], 4, 2)),
        "cache": pack({**two, "step1/cache.0.key": tap("F32", 2, 1, 3, 4), "step1/cache.1.ssm": tap("F32", 2, 3, 3, 2),
             "step0/cache.1.conv": tap("F16", 2, 13, 3)}, meta),
        "gradient": pack({**ids, "step0/grad.lm_head.weight": tap("F32", 7, 5),
                          "step0/grad.model.layers.1.mamba.conv1d.weight": tap("BF16", 13, 1, 4)}, meta),
        # through a map
        "map": pack({"tokens": i64([2], 3, 6), "out": tap("F32", 1, 7, 2), "k1": tap("BF16", 1, 2, 4), "debug": tap("U8", 3)},
                    {"map": "tokens -> input_ids reshape 1,-1  # a comment\nout -> logits transpose 0,2,1\n"
                            "k{i} -> cache.{i}.key reshape B,S,1,-1 transpose 0,2,1,3\nignore de*"}),
        "map_steps": pack({"a0": i64([1, 2], 3, 6), "a1": i64([1, 1], 2), "b1": tap("F32", 1, 7)},
                          {**meta, "map": "a{j} -> step{j}/input_ids\nb{j} -> step{j}/logits reshape B,T,7"}),
        "map_copied": pack({**ids, "x": tap("F16", 1, 7, 2), "y": i64([1, 2, 1], 0, 1)},
                           {**meta, "map": "x -> logits transpose 0,2,1 reshape B,T,-1\n"
                                           "y -> position_ids transpose 0,2,1 reshape B,-1 transpose 1,0 reshape B,T"}),
        "map_step": pack({**ids, "x": tap("F32")}, {**meta, "map": "x -> step0/loss"}),
        "map_step_twice": pack(ids, {**meta, "map": "x{j} -> step3/loss"}),
        "map_digit": pack(ids, {**meta, "map": "x{i}0 -> model.layers.{i}"}),
        "map_two_placeholders": pack(ids, {**meta, "map": "x{i}{j} -> model.layers.{i}"}),
        "map_gradient": pack({**ids, "x": tap("F32", 5, 7)}, {**meta, "map": "x -> grad.lm_head.weight transpose 1,0"}),
        "map_native": pack(ids, {**meta, "map": "# nothing\n\n"}),
        "map_unused": pack(ids, {**meta, "map": "x -> logits"}),
        "map_no_layer": pack({**ids, "x9": tap("F32", 1, 2, 5)}, {**meta, "map": "x{i} -> model.layers.{i}"}),
        "map_wrong_axes": pack({**ids, "x": logits}, {**meta, "map": "x -> logits transpose 0,1"}),
        "map_wrong_size": pack({**ids, "x": logits}, {**meta, "map": "x -> logits reshape B,T,8"}),
        "map_twice": pack({**ids, "x": logits, "step0/logits": logits}, {**meta, "map": "x -> logits"}),
        "map_no_rule": pack(ids, {**meta, "map": "x logits"}),
        "map_no_tap": pack(ids, {**meta, "map": "x -> logit"}),
        "map_operation": pack(ids, {**meta, "map": "x -> logits turn 0,1"}),
        "map_axes_twice": pack(ids, {**meta, "map": "x -> logits transpose 0,0,1"}),
        # metadata and names
        "not_safetensors": b"{}",
        "no_metadata": pack(ids),
        "no_version": pack(ids, {"fh1.producer": "x"}),
        "version_2": pack(ids, {"fh1.trace": "2"}),
        "contract_long": pack(ids, {**meta, "fh1.contract": "c" * 128}),
        "variant_long": pack(ids, {**meta, "fh1.variant": "v" * 256}),
        "no_tensors": pack({}, meta),
        "no_ids": pack({"step0/logits": logits}, meta),
        "step_gap": named("step2/input_ids", i64([1, 2], 3, 6)),
        "step_without_ids": named("step1/loss", tap("F32")),
        "step_large": named("step999999999/loss", tap("F32")),
        "step_too_large": named("step1000000000/loss", tap("F32")),
        "step_leading_zero": named("step00/loss", tap("F32")),
        "no_step": named("logits", logits),
        "misspelt": named("step0/model.layers.0.mamba.sdd", tap("F32", 1, 2, 9)),
        "layer_missing": named("step0/model.layers.2.mid", tap("F32", 1, 2, 5)),
        "layer_leading_zero": named("step0/model.layers.01.mid", tap("F32", 1, 2, 5)),
        "gradient_empty": named("step0/grad.", tap("F32", 5)),
        "gradient_unknown": named("step0/grad.model.layers.0.mamba.E", tap("F32", 3)),
        "gradient_long": named("step0/grad." + "x" * 200, tap("F32", 3)),
        # types and shapes
        "ids_i32": pack({"step0/input_ids": ("I32", [1, 2], bytes(8))}, meta),
        "labels_f64": with_ids(labels=tap("F64", 1, 2)),
        "ids_rank": pack({"step0/input_ids": i64([2], 3, 6)}, meta),
        "ids_empty": pack({"step0/input_ids": i64([1, 0])}, meta),
        "rows_change": pack({**ids, "step1/input_ids": i64([2, 1], 5, 2)}, meta),
        "mask_short": with_two(step1_attention_mask=i64([2, 1], 1, 1)),
        "labels_shape": with_ids(labels=i64([2, 1], 1, 1)),
        "tap_i64": with_ids(logits=i64([1, 2, 7], *range(14))),
        "tap_transposed": with_ids(logits=tap("F32", 1, 7, 2)),
        "tap_axis": named("step0/model.layers.0.self_attn.q_rope", tap("F32", 1, 2, 8)),
        "cache_columns": pack({**two, "step1/cache.0.key": tap("F32", 2, 1, 1, 4)}, meta),
        "conv_oldest": named("step0/cache.0.conv", tap("F32", 1, 13, 4)),
        "too_many_logits": with_ids(logits=tap("F32", 1, 3, 7)),
        "no_logits": with_ids(logits=tap("F32", 1, 0, 7)),
        "loss_rank": with_ids(loss=tap("F32", 1)),
        "gradient_shape": named("step0/grad.lm_head.weight", tap("F32", 5, 7)),
        # inputs
        "id_large": pack({"step0/input_ids": i64([1, 2], 3, 7)}, meta),
        "id_negative": pack({"step0/input_ids": i64([1, 2], -1, 3)}, meta),
        "mask_two": with_ids(attention_mask=i64([1, 2], 1, 2)),
        "mask_hole": pack({"step0/input_ids": i64([1, 3], 3, 6, 1), "step0/attention_mask": i64([1, 3], 1, 0, 1)}, meta),
        "mask_past": with_two(step1_attention_mask=i64([2, 3], 1, 1, 1, 0, 1, 1)),
        "position_negative": with_ids(position_ids=i64([1, 2], -1, 0)),
        "position_large": with_ids(position_ids=i64([1, 2], 0, (1 << 53) + 1)),
        "document_negative": with_ids(seq_idx=i64([1, 2], -1, 0)),
        "document_falls": with_ids(seq_idx=i64([1, 2], 3, 2)),
        "document_falls_later": with_two(step0_seq_idx=i64([2, 2], 0, 4, 1, 1), step1_seq_idx=i64([2, 1], 3, 2)),
        "label_large": with_ids(labels=i64([1, 2], 7, 1)),
        "label_negative": with_ids(labels=i64([1, 2], -99, 1)),
    }
    sizes = {"input_layernorm": [5], "q_proj": [8], "in_proj": [25], "dt": [3], "act": [6], "ssd": [9], "logits": [7]}
    tensors, metadata = unpack("golden/traces/odd/" + sorted(os.listdir("golden/traces/odd"))[0])
    golden = dict(ids)
    for name, (dtype, _, _) in sorted(tensors.items()):
        size = sizes.get(name.split(".")[-1].split("/")[-1])
        if size and name.startswith("step0/") and ".layers.2" not in name and ".layers.3" not in name:
            golden[name] = tap(dtype, 1, 2, *size)
    seeds["golden_odd"] = pack(golden, metadata)
    return seeds


def write(name, seeds):
    folder = os.path.join("fuzz", "corpus", name)
    os.makedirs(folder, exist_ok=True)
    for old in glob.glob(os.path.join(folder, "*")):
        if not re.fullmatch("[0-9a-f]{40}", os.path.basename(old)):  # those are libFuzzer's: ci/fuzz --minimise
            os.remove(old)
    for seed, content in seeds.items():
        with open(os.path.join(folder, seed), "wb") as f:
            f.write(content)
    print("%s: %d seeds, %d bytes" % (folder, len(seeds), sum(map(len, seeds.values()))))


if __name__ == "__main__":
    write("safetensors", safetensors_seeds())
    write("index", index_seeds())
    write("trace", {**trace_seeds(), **family_trace_seeds()})
