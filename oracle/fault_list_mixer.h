/* Faults of in_proj, conv1d, dt, scan, gate. FH1_FAULT(id, name, op, tap, source, caught_by, what); included by fault_list.h. */
