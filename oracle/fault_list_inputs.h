/* Faults of masks, positions, documents and schedules. FH1_FAULT(id, name, op, tap, source, caught_by, what); included by fault_list.h. */
