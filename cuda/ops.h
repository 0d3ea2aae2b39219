/* The per-op entry points of the engine (fh1_ops, oracle/engine.h): arrays of the host go to the device, each into its
 * own allocation, one launcher runs, results come back. For tests of single ops; the model never goes this way. */
#pragma once

#include "cuda/oracle.h"

namespace CU_NS
{

/* All entries, in ops.cu. Activations are stored in the type of the engine's contract, as the model stores them, weight
 * matrices too; one that would round there is FH1_E_INPUT. */
extern const fh1_ops cu_ops;

/* The context that an engine of this world runs in (engine.cu). */
fh1_status cu_ops_context(fh1_engine *e, cu_ctx **k);

} // namespace CU_NS
