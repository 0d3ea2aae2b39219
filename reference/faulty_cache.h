/* Cache operations with planted faults, and what some of them do when the next call comes. */
#pragma once

#include "oracle/engine.h"

/* Those of oracle/cache.h but for the fault of the engine that ran last. */
extern const fh1_cache_ops ref_cache_ops_faulty;

/* The two ends of a call on a cache. FH1_E_INTERNAL without memory. */
fh1_status ref_faulty_cache_begin(fh1_cache *c);
fh1_status ref_faulty_cache_end(fh1_cache *c);
/* Between them: the first token of the call enters the state twice. */
bool ref_faulty_cache_replays(const fh1_cache *c);
