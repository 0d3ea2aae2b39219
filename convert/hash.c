#include "convert/hash.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <xxhash.h>
#if defined(__x86_64__) && defined(__has_include)
#if __has_include(<xxh_x86dispatch.h>)
#include <xxh_x86dispatch.h> /* the same functions, with AVX2 or AVX-512 where the processor has them */
#endif
#endif

uint64_t cvt_hash64(const void *data, size_t n)
{
    return XXH3_64bits(data, n);
}

struct cvt_hash {
    XXH3_state_t *state;
};

fh1_status cvt_hash_new(cvt_hash **out)
{
    cvt_hash *h = malloc(sizeof *h);
    *out = NULL;
    if (h) h->state = XXH3_createState(); /* aligned, which the state needs */
    if (!h || !h->state) {
        free(h);
        return fh1_no_memory(sizeof *h, "a checksum");
    }
    cvt_hash_reset(h);
    *out = h;
    return NULL;
}

void cvt_hash_free(cvt_hash *h)
{
    if (h) XXH3_freeState(h->state);
    free(h);
}

/* The library's functions fail on a NULL state only. */
static void must(XXH_errorcode e)
{
    assert(e == XXH_OK);
    (void)e;
}

void cvt_hash_reset(cvt_hash *h)
{
    must(XXH3_128bits_reset(h->state));
}

void cvt_hash_add(cvt_hash *h, const void *data, size_t n)
{
    must(XXH3_128bits_update(h->state, data, n));
}

cvt_hash_text cvt_hash_end(const cvt_hash *h)
{
    cvt_hash_text t;
    XXH128_hash_t v = XXH3_128bits_digest(h->state);
    snprintf(t.hex, sizeof t.hex, "%016llx%016llx", (unsigned long long)v.high64, (unsigned long long)v.low64);
    return t;
}
