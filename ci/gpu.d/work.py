"""What a call of the model costs at least: the formulas of cli/limits.c, from a config.json."""
import json
from pathlib import Path


class Work:
    def __init__(self, config_path):
        self.config = c = json.loads(Path(config_path).read_text())
        self.D, self.F, self.V, self.layers = (
            c["hidden_size"], c["intermediate_size"], c["vocab_size"], c["num_hidden_layers"])
        self.Hq, self.Hkv, self.A = c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"]
        self.H, self.P, self.N = c["mamba_n_heads"], c["mamba_d_head"], c["mamba_d_state"]
        self.G, self.K, self.d_ssm = c["mamba_n_groups"], c["mamba_d_conv"], c["mamba_d_ssm"]
        self.conv = self.d_ssm + 2 * self.G * self.N
        mixer = self.D * (self.d_ssm + self.conv + self.H) + self.D * self.d_ssm + (self.K + 1) * self.conv + 3 * self.H
        attention = self.D * (self.Hq + 2 * self.Hkv) * self.A + self.Hq * self.A * self.D
        self.layer = mixer + attention + 3 * self.D * self.F + 2 * self.D

    def bytes(self, B, T, past):
        """(weights, the rest) in bytes: bf16 weights, keys and values, f32 windows and states, logits."""
        weights = 2 * (self.layers * self.layer + self.V * self.D + self.D)
        state = 4 * (self.H * self.P * self.N + (self.K - 1) * self.conv)
        kv = 4 * self.Hkv * self.A
        return weights, B * (self.layers * (2 * state + kv * (past + T)) + 8 * self.V)

    def flops(self, B, T, past):
        keys = past + (T + 1) / 2
        token = self.layers * (2 * self.layer + 4 * self.H * self.P * self.N + 4 * self.Hq * self.A * keys)
        return B * T * token + B * 2 * self.V * self.D

    def floor_ms(self, B, T, past, copy, product):
        weights, rest = self.bytes(B, T, past)
        return 1e3 * (max(weights / copy, self.flops(B, T, past) / product) + rest / copy)

    def memory(self, B, tokens):
        """Bytes on the device: weights, keys and values, windows and states."""
        weights, _ = self.bytes(B, 1, 0)
        state = 4 * (self.H * self.P * self.N + (self.K - 1) * self.conv)
        return weights + 2 * self.V * self.D + B * self.layers * (state + 4 * self.Hkv * self.A * tokens)
