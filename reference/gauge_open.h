/* Gauges of one call, as the files of gauge_*.c open them: room in a slot of the call, waiting for its tap. */
#pragma once

#include "oracle/gauge_request.h"
#include "reference/call.h"

/* NULL: nobody asks for gauges. */
const fh1_gauge_request *ref_gauge_request(const ref_call_f64 *k);
/* Room for n elements in slot 0 or 1 of the call; *g NULL where the tap's gauge is not wanted. */
fh1_status ref_gauge_open(ref_call_f64 *k, fh1_tap_id id, int64_t layer, int64_t n, const fh1_gauge **g);
/* The gauge that an earlier row of the batch has opened, or a new one. */
fh1_status ref_gauge_open_rows(ref_call_f64 *k, fh1_tap_id id, int64_t layer, int64_t n, const fh1_gauge **g);
