# The order of trust: the oracle's own tests, the BLAS, each op's reference, engines, the model. A stage starts when
# those below it are green; a red test leaves the ones above it "Not Run", so that a failure names the lowest broken
# layer. ctest calls this fixtures; `ctest -FA '.*' -R NAME` runs one test without them.
set(FH1_STAGES oracle blas ops engines model)

# unit.TOPIC of these, by topic; what is not named belongs to the engines.
set(FH1_STAGE_oracle arena batch bnb bnb_damage cache cast checkpoint compare config contract fields gauge gauge_request history judge_classes judge_rules
    json hf_config hf_write layout map model mutate_json native native_damage native_lies options progress random report report_forms report_html rope_frequencies round safetensors slow_json
    safetensors_write status suite tap target tensor text thread trace)
set(FH1_STAGE_blas blas)
set(FH1_STAGE_ops attention attention_step conv1d conv1d_step cross_entropy dt_softplus embed gated_norm
    gauge_attention gauge_lora gauge_mixer gauge_network gauge_ssd honest_corners honest_variants linear lm_head op_cases op_faults op_lattice
    residual rmsnorm rope sample ssd_chunk ssd_scan ssd_step swiglu horizon)

# fh1_stage(NAME): the fixtures of test NAME.
function(fh1_stage name)
  set(stage model)
  if(name MATCHES "^(cuda-host|gpu)\\.")
    set(stage engines)
  endif()
  if(name MATCHES "^unit\\.(.*)$")
    set(topic ${CMAKE_MATCH_1})
    set(stage engines)
    foreach(candidate oracle blas ops)
      if(topic IN_LIST FH1_STAGE_${candidate})
        set(stage ${candidate})
      endif()
    endforeach()
    if(topic MATCHES "^(command_line|repro_command|gradcheck_command|examples|faults_command|convert_command|merge_command|train_command)$")
      set(stage model)
    endif()
  endif()
  list(FIND FH1_STAGES ${stage} at)
  set_property(TEST ${name} APPEND PROPERTY LABELS stage-${stage})
  if(NOT stage STREQUAL model)
    set_property(TEST ${name} APPEND PROPERTY FIXTURES_SETUP fh1-${stage})
  endif()
  if(at GREATER 0)
    math(EXPR below "${at} - 1")
    list(GET FH1_STAGES ${below} needed)
    set_property(TEST ${name} APPEND PROPERTY FIXTURES_REQUIRED fh1-${needed})
  endif()
endfunction()
