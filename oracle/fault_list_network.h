/* Faults of embedding, attention, MLP, norms, head. FH1_FAULT(id, name, op, tap, source, caught_by, what); included by fault_list.h. */
FH1_FAULT(KEY_MULTIPLIER_DROPPED, "key_multiplier_dropped", "rope", K_ROPE, "MU2 ml-explore/mlx-lm#1622", "check",
          "keys are not multiplied by key_multiplier")
