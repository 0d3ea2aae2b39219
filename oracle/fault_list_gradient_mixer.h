/* Faults of backward passes inside the mixer, as fault_list_gradient.h. */
