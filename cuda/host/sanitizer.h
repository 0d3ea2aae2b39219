/* Which sanitizer this is built with, and what it is told about device memory. ThreadSanitizer watches the kernels
 * only: this layer is compiled without it and told by CU_HOST_TSAN=1 that it is there. */
#pragma once

#include <cstddef>

#ifndef __has_feature
#define __has_feature(x) 0
#endif
#if defined(__SANITIZE_ADDRESS__) || __has_feature(address_sanitizer)
#define CU_HOST_ASAN 1
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#else
#define CU_HOST_ASAN 0
#endif
#if __has_feature(memory_sanitizer)
#define CU_HOST_MSAN 1
#include <sanitizer/msan_interface.h>
#else
#define CU_HOST_MSAN 0
#endif
#ifndef CU_HOST_TSAN
#define CU_HOST_TSAN 0
#endif
/* 1: built for the race checker, whose shadow wants deeper stacks. */
#ifndef CU_HOST_CHECK
#define CU_HOST_CHECK 0
#endif

namespace cu_host
{
namespace sim
{

/* Nobody's bytes, and somebody's again. */
static inline void no_access(const void *p, size_t n)
{
#if CU_HOST_ASAN
    ASAN_POISON_MEMORY_REGION(p, n);
#endif
    (void)p, (void)n;
}
static inline void access_again(const void *p, size_t n)
{
#if CU_HOST_ASAN
    ASAN_UNPOISON_MEMORY_REGION(p, n);
#endif
    (void)p, (void)n;
}
/* Bytes that nobody has written yet. */
static inline void uninitialised(const void *p, size_t n)
{
#if CU_HOST_MSAN
    __msan_poison(p, n);
#endif
    (void)p, (void)n;
}

/* Bytes that this layer looks at, written or not. */
static inline void initialised(const void *p, size_t n)
{
#if CU_HOST_MSAN
    __msan_unpoison(p, n);
#endif
    (void)p, (void)n;
}

} // namespace sim
} // namespace cu_host
