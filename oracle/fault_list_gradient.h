/* Faults of backward passes outside the mixer, of the whole model's and of the training step. FH1_FAULT(id, name, op, tap,
 * source, caught_by, what); included by fault_list.h. `tap` is the output of the op whose backward is wrong; caught_by is
 * "gradient". */
