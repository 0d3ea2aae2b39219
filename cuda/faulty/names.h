/* Included before everything else where the engine's host side (call*.cu, ops*.cu, engine.cu) is compiled a second
 * time: its own functions get other names, and its launches go to the spoilers of cuda/faulty/. */
#pragma once

/* launches and what they read */
#define cu_embed_fwd cu_faulty_embed_fwd
#define cu_rmsnorm_fwd cu_faulty_rmsnorm_fwd
#define cu_linear_fwd cu_faulty_linear_fwd
#define cu_conv1d_fwd cu_faulty_conv1d_fwd
#define cu_dt_softplus_fwd cu_faulty_dt_softplus_fwd
#define cu_ssd_scan_fwd cu_faulty_ssd_scan_fwd
#define cu_ssd_step_fwd cu_faulty_ssd_step_fwd
#define cu_gated_norm_fwd cu_faulty_gated_norm_fwd
#define cu_rope_fwd cu_faulty_rope_fwd
#define cu_attention_fwd cu_faulty_attention_fwd
#define cu_attention_step_fwd cu_faulty_attention_step_fwd
#define cu_swiglu_fwd cu_faulty_swiglu_fwd
#define cu_residual_fwd cu_faulty_residual_fwd
#define cu_cross_entropy_fwd cu_faulty_cross_entropy_fwd
#define cu_sample_fwd cu_faulty_sample_fwd
#define cu_cache_ssm cu_faulty_cache_ssm
#define cu_weights_load cu_faulty_weights_load
#define cu_tokens_upload cu_faulty_tokens_upload
#define cu_device_open cu_faulty_device_open

/* the copy's own */
#define cu_work_free cu_faulty_work_free
#define cu_work_bytes cu_faulty_work_bytes
#define cu_call_open cu_faulty_call_open
#define cu_call_layers cu_faulty_call_layers
#define cu_call_logits cu_faulty_call_logits
#define cu_call_mixer cu_faulty_call_mixer
#define cu_call_mixer_inner cu_faulty_call_mixer_inner
#define cu_call_attention cu_faulty_call_attention
#define cu_call_attention_inner cu_faulty_call_attention_inner
#define cu_call_decode_layer cu_faulty_call_decode_layer
#define cu_call_sum cu_faulty_call_sum
#define cu_call_in_proj cu_faulty_call_in_proj
#define cu_call_qkv cu_faulty_call_qkv
#define cu_call_gate_up cu_faulty_call_gate_up
#define cu_call_act cu_faulty_call_act
#define cu_call_linear cu_faulty_call_linear
#define cu_call_tap cu_faulty_call_tap
#define cu_call_mlp cu_faulty_call_mlp
#define cu_call_set_rope cu_faulty_call_set_rope
#define cu_ops cu_faulty_ops
#define cu_ops_context cu_faulty_ops_context
#define cu_bench_open cu_faulty_bench_open
#define cu_bench_close cu_faulty_bench_close
#define cu_bench_int cu_faulty_bench_int
#define cu_bench_room cu_faulty_bench_room
#define cu_bench_bytes cu_faulty_bench_bytes
#define cu_bench_f32 cu_faulty_bench_f32
#define cu_bench_stored cu_faulty_bench_stored
#define cu_bench_ints cu_faulty_bench_ints
#define cu_bench_frequencies cu_faulty_bench_frequencies
#define cu_bench_small cu_faulty_bench_small
#define cu_bench_matrix cu_faulty_bench_matrix
#define cu_bench_take cu_faulty_bench_take
#define cu_bench_tokens cu_faulty_bench_tokens
#define cu_bench_joined cu_faulty_bench_joined
#define cu_bench_decay_rates cu_faulty_bench_decay_rates
#define cu_op_conv1d cu_faulty_op_conv1d
#define cu_op_conv1d_step cu_faulty_op_conv1d_step
#define cu_op_dt_softplus cu_faulty_op_dt_softplus
#define cu_op_ssd_scan cu_faulty_op_ssd_scan
#define cu_op_ssd_chunk cu_faulty_op_ssd_chunk
#define cu_op_ssd_step cu_faulty_op_ssd_step
#define cu_op_gated_norm cu_faulty_op_gated_norm
#define cu_op_rope cu_faulty_op_rope
#define cu_op_attention cu_faulty_op_attention
#define cu_op_attention_step cu_faulty_op_attention_step
#define cu_world_host cu_world_faulty
