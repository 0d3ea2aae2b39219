/* All planted faults, in the order of the ops. Included by oracle/fault.h and .c with their own FH1_FAULT; no guard. */
#include "oracle/fault_list_cache.h"
#include "oracle/fault_list_gradient.h"
#include "oracle/fault_list_gradient_mixer.h"
#include "oracle/fault_list_gradient_model.h"
#include "oracle/fault_list_inputs.h"
#include "oracle/fault_list_mixer.h"
#include "oracle/fault_list_network.h"
