"""Bases, adapters and runs of the golden merges (make_merges.py).

An adapter is a dict: `base`, the arguments of LoraConfig, and
  data     "grid": A and B on a coarse grid, so that every order of the sums of B·A gives the same f32 bits;
           "free": normal numbers, r at most 16 (the sums are then a chain of fused multiply-adds on x86)
  store    dtype of the adapter file, default f32
  edit     function of make_merges.py applied to the saved folder
A case is (name, adapters, roundings); the base is that of its first adapter unless a fourth element names another.
"""
COMMON = dict(
    num_hidden_layers=2, mamba_d_conv=4, mamba_expand=2, mamba_conv_bias=True, hidden_act="silu",
    rms_norm_eps=1e-5, initializer_range=0.02, max_position_embeddings=512, bos_token_id=1, eos_token_id=11,
    pad_token_id=0, num_logits_to_keep=1, num_attention_heads=4, num_key_value_heads=2, rope_theta=10000.0,
    mamba_n_groups=1, mamba_chunk_size=16, mamba_norm_before_gate=False,
    embedding_multiplier=2.3, lm_head_multiplier=0.43, key_multiplier=0.39, attention_in_multiplier=1.1,
    attention_out_multiplier=0.71, ssm_in_multiplier=1.25, ssm_out_multiplier=0.39,
    ssm_multipliers=[0.57, 0.31, 0.43, 0.67, 1.21], mlp_multipliers=[0.89, 0.53],
)
# Odd sizes, so that nothing is a multiple of a vector.
SMALL = dict(hidden_size=27, intermediate_size=35, vocab_size=53, head_dim=6, mamba_d_ssm=30, mamba_n_heads=3,
             mamba_d_head=10, mamba_d_state=7)
# Rows of 64: bitsandbytes' CPU kernel decodes blocks that straddle rows wrongly (FINDINGS.md).
WIDE = dict(hidden_size=64, intermediate_size=64, vocab_size=48, head_dim=16, mamba_d_ssm=64, mamba_n_heads=4,
            mamba_d_head=16, mamba_d_state=6)
# FalconMamba: a base with state_size is one.
MAMBA = dict(num_hidden_layers=2, hidden_act="silu", bos_token_id=1, eos_token_id=11, pad_token_id=0)
MAMBA_SMALL = dict(**MAMBA, hidden_size=27, intermediate_size=35, vocab_size=53, state_size=7, time_step_rank=5, conv_kernel=4)
MAMBA_WIDE = dict(**MAMBA, hidden_size=64, intermediate_size=64, vocab_size=48, state_size=8, time_step_rank=64, conv_kernel=4)
BIASES = dict(attention_bias=True, mlp_bias=True, mamba_proj_bias=True, projectors_bias=True, mamba_rms_norm=True)

# name: config, dtype, options of save_pretrained, quantisation of bitsandbytes
BASES = {
    "plain-bf16": (dict(**SMALL, mamba_rms_norm=False), "bfloat16", {}, None),
    "bias-bf16": (dict(**SMALL, **BIASES), "bfloat16", {}, None),
    "tied-bf16": (dict(**SMALL, mamba_rms_norm=True, tie_word_embeddings=True), "bfloat16", {}, None),
    "plain-f16": (dict(**SMALL, **BIASES), "float16", dict(max_shard_size="12KB"), None),
    "plain-f32": (dict(**SMALL, mamba_rms_norm=False), "float32", {}, None),
    "tied-f32": (dict(**SMALL, mamba_rms_norm=False, tie_word_embeddings=True), "float32",
                 dict(max_shard_size="30KB"), None),
    "nf4": (dict(**WIDE, mamba_rms_norm=False), "bfloat16", {},
            dict(load_in_4bit=True, bnb_4bit_quant_type="nf4")),
    "nf4-nested": (dict(**WIDE, mamba_rms_norm=True, tie_word_embeddings=True), "bfloat16",
                   dict(max_shard_size="20KB"),
                   dict(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
                        bnb_4bit_quant_storage="bfloat16")),
    "fp4": (dict(**WIDE, **BIASES), "float16", {}, dict(load_in_4bit=True, bnb_4bit_quant_type="fp4")),
    "int8": (dict(**WIDE, mamba_rms_norm=False), "bfloat16", {}, dict(load_in_8bit=True)),
    "mamba-bf16": (dict(**MAMBA_SMALL, tie_word_embeddings=False), "bfloat16", {}, None),
    "mamba-f32": (dict(**MAMBA_SMALL, use_bias=True, tie_word_embeddings=False), "float32", dict(max_shard_size="30KB"), None),
    "mamba-tied-bf16": (dict(**MAMBA_SMALL, tie_word_embeddings=True), "bfloat16", {}, None),
    "mamba-nf4": (dict(**MAMBA_WIDE, tie_word_embeddings=False), "bfloat16", {},
                  dict(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)),
}

QKV = ["q_proj", "k_proj", "v_proj"]
LINEAR = ["in_proj", "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
NO_OUT = r".*\.out_proj"
MIXER = ["in_proj", "x_proj", "dt_proj"]


def lora(base, r=4, alpha=6, data="grid", store=None, edit=None, pissa=False, **config):
    return dict(base=base, data=data, store=store, edit=edit, pissa=pissa,
                config=dict(r=r, lora_alpha=alpha, **config))


ADAPTERS = {
    # scales that are no power of two, so that the rounding of s itself is seen
    "qv": lora("plain-bf16", r=5, alpha=3, target_modules=["q_proj", "v_proj"]),
    "rslora": lora("plain-f16", r=5, alpha=7, use_rslora=True, target_modules=["k_proj", "up_proj"]),
    "patterns": lora("plain-bf16", target_modules=QKV, rank_pattern={"v_proj": 2, r"layers\.0\.self_attn\.k_proj": 7},
                     alpha_pattern={"0.self_attn.q_proj": 2, "q_proj": 31, "o_proj|v_proj": 5}),
    "patterns-rslora": lora("plain-bf16", target_modules=QKV, use_rslora=True, rank_pattern={"k_proj": 3},
                            alpha_pattern={"1.self_attn.k_proj": 11}),
    "regex": lora("plain-bf16", target_modules=r".*\.layers\.1\.(mamba\.in_proj|feed_forward\.(gate|up)_proj)"),
    "all-linear": lora("plain-bf16", r=2, target_modules="all-linear", exclude_modules=NO_OUT),
    "exclude-list": lora("plain-f32", r=3, target_modules=LINEAR,
                         exclude_modules=["mamba.in_proj", "layers.0.self_attn.q_proj"]),
    "layers": lora("plain-bf16", target_modules=["q_proj", "down_proj", "model.layers.0.self_attn.o_proj"],
                   layers_to_transform=[1]),
    "bias-all": lora("bias-bf16", target_modules=["o_proj", "gate_proj"], bias="all"),
    "bias-lora-only": lora("plain-f16", target_modules=["q_proj", "in_proj"], bias="lora_only"),
    "lora-bias": lora("bias-bf16", r=5, alpha=3, target_modules=["q_proj", "down_proj"], lora_bias=True),
    "save-norms": lora("plain-bf16", target_modules=["v_proj"],
                       modules_to_save=["input_layernorm", "final_layernorm"]),
    "save-mamba": lora("plain-bf16", r=2, target_modules=["v_proj"], modules_to_save=["layers.1.mamba"]),
    "save-head": lora("plain-f16", r=2, target_modules=["v_proj"], modules_to_save=["lm_head"]),
    "save-head-tied": lora("tied-f32", r=2, target_modules=["v_proj"], modules_to_save=["lm_head"]),
    "save-embed-tied": lora("tied-bf16", r=2, target_modules=["v_proj"], modules_to_save=["embed_tokens"]),
    "save-ensure-tied": lora("tied-bf16", r=2, target_modules=["v_proj"], modules_to_save=["embed_tokens", "lm_head"],
                             ensure_weight_tying=True),
    "embed": lora("plain-bf16", target_modules=r".*(embed_tokens|o_proj)", edit="drop_base_layer"),
    "layers-pattern": lora("plain-f16", r=2, target_modules=["down_proj", "k_proj"], layers_to_transform=0,
                           layers_pattern="layers"),
    "embed-and-base": lora("plain-bf16", r=3, target_modules=["embed_tokens", "v_proj"], edit="move_base_layer"),
    "embed-free": lora("plain-f16", r=8, alpha=5, data="free", target_modules=r".*embed_tokens",
                       edit="drop_base_layer"),
    "embed-tied": lora("tied-bf16", target_modules=r".*embed_tokens", edit="drop_base_layer"),
    "head-tied": lora("tied-bf16", target_modules=r".*lm_head", edit="drop_base_layer"),
    "both-tied": lora("tied-bf16", target_modules=r".*(embed_tokens|lm_head)", edit="drop_base_layer"),
    "both-tied-f32": lora("tied-f32", r=3, target_modules=r".*(embed_tokens|lm_head)", edit="drop_base_layer"),
    "both-ensure-f32": lora("tied-f32", r=3, target_modules=["embed_tokens", "lm_head"], ensure_weight_tying=True,
                            edit="drop_base_layer"),
    "tokens": lora("plain-bf16", r=2, target_modules=["v_proj"], trainable_token_indices=[40, 3, 52]),
    "tokens-tied": lora("tied-bf16", r=2, target_modules=["v_proj"], trainable_token_indices=[7, 2]),
    "tokens-two-lists": lora("tied-bf16", r=2, target_modules=["v_proj"],
                             trainable_token_indices={"embed_tokens": [1, 9], "lm_head": [9, 20]}),
    "dora": lora("plain-bf16", r=3, use_dora=True, target_modules=["q_proj", "in_proj"]),
    "dora-f32": lora("plain-f32", r=3, alpha=1, use_dora=True, target_modules=["down_proj"]),
    "dora-embed": lora("plain-bf16", r=3, use_dora=True, target_modules=r".*embed_tokens", edit="drop_base_layer"),
    "dora-embed-f32": lora("plain-f32", r=3, alpha=1, use_dora=True, target_modules=r".*embed_tokens",
                           edit="drop_base_layer"),
    "dora-f16": lora("plain-f16", r=3, alpha=5, use_dora=True, target_modules=["up_proj"]),
    "embed-and-base-tied": lora("tied-bf16", r=3, target_modules=["embed_tokens", "v_proj"], edit="move_base_layer"),
    "second": lora("plain-bf16", r=3, alpha=4, target_modules=["q_proj", "gate_proj"]),
    "third": lora("plain-bf16", r=2, alpha=-1, target_modules=["q_proj"], bias="none"),
    "pissa": lora("plain-f32", r=4, alpha=4, data="free", pissa=True, init_lora_weights="pissa",
                  target_modules=["v_proj", "gate_proj"]),
    "in-bf16": lora("plain-bf16", target_modules=["q_proj", "up_proj"], data="free", store="bfloat16"),
    "in-f16": lora("plain-f32", target_modules=["q_proj", "up_proj"], data="free", store="float16"),
    "parameters": lora("plain-bf16", r=3, alpha=5, target_modules=["v_proj"],
                       target_parameters=["self_attn.k_proj.weight", "gate_proj.weight"]),
    "rank-32": lora("plain-bf16", r=32, alpha=5, target_modules=["in_proj"], layers_to_transform=[0]),
    "free-bf16": lora("plain-bf16", r=16, alpha=11, data="free", target_modules=["in_proj", "o_proj"]),
    "free-f16": lora("plain-f16", r=11, alpha=3, data="free", target_modules=["q_proj", "down_proj"]),
    "free-f32": lora("plain-f32", r=16, alpha=11, data="free", target_modules=["in_proj"], layers_to_transform=[1]),
    "old-keys": lora("plain-bf16", r=2, use_dora=True, target_modules=["k_proj"], edit="old_keys"),
    "few-fields": lora("plain-bf16", alpha=8, r=3, target_modules=["o_proj"], edit="few_fields"),
    "fan-in": lora("plain-bf16", r=2, target_modules=["k_proj"], edit="fan_in_fan_out"),
    "scale-zero": lora("plain-bf16", r=2, alpha=0, target_modules=["k_proj"]),
    "nf4-all": lora("nf4", r=2, target_modules=LINEAR),
    "nested": lora("nf4-nested", r=3, target_modules=["in_proj", "down_proj"], bias="all"),
    "fp4": lora("fp4", r=3, target_modules=["q_proj", "gate_proj"], lora_bias=True),
    "int8": lora("int8", r=3, target_modules=["v_proj", "up_proj"]),
    "nf4-dora": lora("nf4", r=2, use_dora=True, target_modules=["v_proj"], layers_to_transform=[0]),
    "mamba-mixer": lora("mamba-bf16", r=3, alpha=5, target_modules=MIXER),
    "mamba-all-linear": lora("mamba-f32", r=2, target_modules="all-linear", exclude_modules=NO_OUT),
    "mamba-free": lora("mamba-f32", r=7, alpha=5, data="free", target_modules=["in_proj", "x_proj"]),
    "mamba-x": lora("mamba-bf16", r=3, target_modules=["x_proj"], use_rslora=True),
    "mamba-bias-all": lora("mamba-f32", r=2, target_modules=["in_proj"], bias="all"),
    "mamba-lora-bias": lora("mamba-f32", r=5, alpha=3, target_modules=["in_proj", "dt_proj"], lora_bias=True),
    "mamba-save": lora("mamba-bf16", r=2, target_modules=["x_proj"], modules_to_save=["norm_f", "layers.1.mixer"]),
    "mamba-embed": lora("mamba-bf16", r=3, target_modules=["embeddings", "lm_head"], edit="drop_base_layer"),
    "mamba-tied-ends": lora("mamba-tied-bf16", r=3, target_modules=r".*(embeddings|lm_head)", edit="drop_base_layer"),
    "mamba-tokens": lora("mamba-tied-bf16", r=2, target_modules=["x_proj"], trainable_token_indices=[40, 3, 52]),
    "mamba-dora": lora("mamba-bf16", r=3, use_dora=True, target_modules=["x_proj", "dt_proj"]),
    "mamba-nf4": lora("mamba-nf4", r=2, target_modules=MIXER),
}

ALL = ["peft", "peft-safe", "exact"]
MORE = ["peft", "peft-safe", "peft-noautocast", "peft-low-memory", "exact"]
SHORT = ["peft", "exact"]
MORE_FOR = {"qv", "rslora", "embed", "dora", "in-bf16", "free-bf16", "free-f16", "tokens", "bias-all", "lora-bias",
            "save-norms", "both-tied", "parameters", "save-mamba", "fp4", "mamba-mixer"}

CASES = [(name, [name], MORE if name in MORE_FOR else ALL) for name in ADAPTERS if name not in ("second", "third")] + [
    ("two", ["qv", "second"], MORE),
    ("two-swapped", ["second", "qv"], SHORT),
    ("three", ["qv", "second", "third"], ALL),
    ("embed-then-linear", ["embed", "second"], SHORT),
    ("dora-then-plain", ["dora", "second"], MORE),
]
