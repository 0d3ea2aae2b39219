/* Faults of cache operations: snapshot, restore, fork, reorder, reset, truncate, slots. FH1_FAULT(id, name, op, tap, source, caught_by, what); included by fault_list.h. */
