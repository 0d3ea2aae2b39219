/* A target's own mutator as AFL++ calls it: AFL_CUSTOM_MUTATOR_LIBRARY=mutator_NAME.so. */
#include "fuzz/bytes.h"
#include "fuzz/fuzz.h"

#include <stdlib.h>
#include <string.h>

#pragma weak LLVMFuzzerCustomCrossOver

typedef struct {
    fuzz_rng rng;
    uint8_t *out;
    size_t room;
} mutator;

/* The interface of AFL++, and all that the library shows (fuzz/CMakeLists.txt). */
#pragma GCC visibility push(default)
void *afl_custom_init(void *afl, unsigned int seed);
size_t afl_custom_fuzz(void *data, uint8_t *in, size_t size, uint8_t **out, uint8_t *other, size_t other_size,
                       size_t max_size);
void afl_custom_deinit(void *data);
#pragma GCC visibility pop

void *afl_custom_init(void *afl, unsigned int seed)
{
    (void)afl;
    mutator *m = calloc(1, sizeof *m);
    if (!m) return NULL;
    m->rng.s = seed + UINT64_C(1);
    fuzz_bytes_seed(fuzz_next(&m->rng));
    return m;
}

size_t afl_custom_fuzz(void *data, uint8_t *in, size_t size, uint8_t **out, uint8_t *other, size_t other_size,
                       size_t max_size)
{
    mutator *m = data;
    if (m->room < max_size) {
        free(m->out);
        m->out = malloc(max_size);
        m->room = m->out ? max_size : 0;
        if (!m->out) {
            *out = NULL;
            return 0;
        }
    }
    *out = m->out;
    const unsigned int seed = (unsigned int)fuzz_next(&m->rng);
    if (LLVMFuzzerCustomCrossOver && other && fuzz_below(&m->rng, 8) == 0)
        return LLVMFuzzerCustomCrossOver(in, size, other, other_size, m->out, max_size, seed);
    if (size > max_size) size = max_size;
    memcpy(m->out, in, size);
    return LLVMFuzzerCustomMutator(m->out, size, max_size, seed);
}

void afl_custom_deinit(void *data)
{
    mutator *m = data;
    free(m->out);
    free(m);
}
