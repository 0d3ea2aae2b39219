#pragma once

#include "oracle/engine.h"

/* The gauges of ref-f64 (fh1_engine.gauges). */
extern const fh1_gauge_ops ref_gauge_ops;
