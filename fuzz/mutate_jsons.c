/* Apart from the single changes: it needs an engine of fuzzing, for its own changes. */
#include "fuzz/mutate_json.h"

size_t fuzz_mutate_jsons(uint8_t *data, size_t n, size_t room, const fuzz_json_stock *stock, unsigned seed)
{
    fuzz_rng r = {(uint64_t)seed << 20 | (n + 1)};
    n = fuzz_mutate_json((char *)data, n, room, stock, &r);
    while (fuzz_below(&r, 3) == 0) n = fuzz_mutate_json((char *)data, n, room, stock, &r);
    return fuzz_below(&r, 10) == 0 ? LLVMFuzzerMutate(data, n, room) : n;
}
