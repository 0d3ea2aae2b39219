/* Which algorithm of the library was fastest for which product: a table in memory, and the text file that keeps it.
 *
 *   fh1-cuda-tune 1 VERSION DEVICE…
 *   M N K TYPE Y_TYPE BIAS MICROSECONDS A0 … A7 CHECK      one line per product, algorithm and check in hexadecimal
 *
 * CHECK is FNV-1a (64 bits) of the line before it. The words A0 … A7 mean something to one version of the library only.
 */
#pragma once

#include "cuda/common.h"

namespace CU_NS
{

struct cu_tune_key {
    int M, N, K; /* M a power of two: products up to M rows share an algorithm */
    int type, y_type, bias;
};
struct cu_tune_entry {
    cu_tune_key key;
    double microseconds; /* 0: not timed */
    uint64_t algo[8];
};
struct cu_tune {
    cu_tune_entry *entry;
    int n, capacity, loaded; /* the first `loaded` come from the file */
    char *path;              /* NULL: memory only */
    char device[256];        /* without line ends */
    size_t version;
};

/* Takes what the file holds, if it is whole and of this device and version; a damaged one gives a line on stderr. */
void cu_tune_open(cu_tune *t, const char *path, const char *device, size_t version);
const cu_tune_entry *cu_tune_find(const cu_tune *t, const cu_tune_key *key);
/* Adds or replaces, then rewrites the file under a temporary name and renames it. A file that cannot be written gives
 * one line on stderr and is not tried again. Out of memory forgets the entry. */
void cu_tune_add(cu_tune *t, const cu_tune_entry *e);
void cu_tune_close(cu_tune *t);

} // namespace CU_NS
