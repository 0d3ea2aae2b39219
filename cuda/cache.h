/* The cache on the device, behind the fh1_cache of oracle/cache.h: that struct keeps the books (tokens, columns and
 * documents of each row), this one the contents. Keys and values in pages (cuda/kv.h) that rows may share until one of
 * them writes; conv windows and SSM states in slots, f32. Rows name their slot and pages through tables on the device.
 */
#pragma once

#include "cuda/kv.h"
#include "cuda/oracle.h"

namespace CU_NS
{

struct cu_cache;

/* Attach device storage to `c` where it has none yet (what its rows hold, if anything, is uploaded), make room for the
 * new tokens of `t` in every row (pages that are shared and will be written are copied first), and bring tables up to
 * date on `stream`; fh1_cache_prepare is part of it. After the call fh1_cache_commit keeps the books as ever. Memory
 * grows by doubling, never inside a captured graph: reserve before. FH1_E_INTERNAL without memory, contents kept.
 * A cache and its copies share memory: they belong to one thread. */
fh1_status cu_cache_prepare(fh1_cache *c, cu_type type, const fh1_tokens *t, cudaStream_t stream, cu_cache **out);
/* Room for `n` more tokens in every row than the last cu_cache_prepare made room for, so that tables and pools stay
 * where they are while a graph runs. */
fh1_status cu_cache_reserve(cu_cache *c, int64_t n, cudaStream_t stream);

/* Views for the kernels of one layer. */
cu_kv cu_cache_kv(const cu_cache *c, int64_t layer);
float *cu_cache_conv(const cu_cache *c, int64_t layer); /* [slots, c, K-1] */
float *cu_cache_ssm(const cu_cache *c, int64_t layer);  /* [slots, H, P, N] */
const int *cu_cache_slot(const cu_cache *c);            /* [B] on the device */

/* Another number whenever one of these pointers may have changed (more memory, wider tables, a restored snapshot): a
 * captured graph that holds them is good for one number. Tables may change their contents without it. */
uint64_t cu_cache_generation(const cu_cache *c);

/* Device bytes of a cache of B rows with `tokens` tokens each. */
size_t cu_cache_bytes(const fh1_config *c, cu_type type, int64_t B, int64_t tokens);

} // namespace CU_NS
