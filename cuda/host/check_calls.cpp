/* The calls that g++ -fsanitize=thread puts before every access of a kernel, answered by the checker. Atomic operations
 * are carried out here. */
#include "cuda/host/check.h"

using cu_host::sim::check_access;

#define FROM __builtin_return_address(0)
#define AT(p) reinterpret_cast<uintptr_t>(p)

extern "C" {
void __tsan_init()
{
}
void __tsan_func_entry(void *)
{
}
void __tsan_func_exit()
{
}
void __tsan_vptr_update(void **, void *)
{
}
void __tsan_vptr_read(void **)
{
}
void __tsan_atomic_thread_fence(int)
{
}
void __tsan_atomic_signal_fence(int)
{
}

#define CALL(name, n, write, aligned)                        \
    void __tsan_##name##n(void *p)                           \
    {                                                        \
        check_access(AT(p), n, write, false, aligned, FROM); \
    }
#define CALLS(n)                          \
    CALL(read, n, false, true)            \
    CALL(write, n, true, true)            \
    CALL(unaligned_read, n, false, false) \
    CALL(unaligned_write, n, true, false) \
    CALL(volatile_read, n, false, true)   \
    CALL(volatile_write, n, true, true)
CALLS(1)
CALLS(2)
CALLS(4)
CALLS(8)
CALLS(16)

void __tsan_read_range(void *p, size_t n)
{
    check_access(AT(p), n, false, false, false, FROM);
}
void __tsan_write_range(void *p, size_t n)
{
    check_access(AT(p), n, true, false, false, FROM);
}

#define ATOMIC_CALL(bits, T, name, ...)                              \
    T __tsan_atomic##bits##_##name(volatile T *p, T v, int)          \
    {                                                                \
        check_access(AT(p), sizeof(T), true, true, true, FROM);      \
        return __atomic_##name##__VA_ARGS__(p, v, __ATOMIC_SEQ_CST); \
    }
#define ATOMIC_CALLS(bits, T)                                                                   \
    T __tsan_atomic##bits##_load(const volatile T *p, int)                                      \
    {                                                                                           \
        check_access(AT(p), sizeof(T), false, true, true, FROM);                                \
        return __atomic_load_n(p, __ATOMIC_SEQ_CST);                                            \
    }                                                                                           \
    void __tsan_atomic##bits##_store(volatile T *p, T v, int)                                   \
    {                                                                                           \
        check_access(AT(p), sizeof(T), true, true, true, FROM);                                 \
        __atomic_store_n(p, v, __ATOMIC_SEQ_CST);                                               \
    }                                                                                           \
    int __tsan_atomic##bits##_compare_exchange_strong(volatile T *p, T *c, T v, int, int)       \
    {                                                                                           \
        check_access(AT(p), sizeof(T), true, true, true, FROM);                                 \
        return __atomic_compare_exchange_n(p, c, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST); \
    }                                                                                           \
    int __tsan_atomic##bits##_compare_exchange_weak(volatile T *p, T *c, T v, int, int)         \
    {                                                                                           \
        check_access(AT(p), sizeof(T), true, true, true, FROM);                                 \
        return __atomic_compare_exchange_n(p, c, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST); \
    }                                                                                           \
    T __tsan_atomic##bits##_compare_exchange_val(volatile T *p, T c, T v, int, int)             \
    {                                                                                           \
        check_access(AT(p), sizeof(T), true, true, true, FROM);                                 \
        __atomic_compare_exchange_n(p, &c, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);       \
        return c;                                                                               \
    }                                                                                           \
    ATOMIC_CALL(bits, T, exchange, _n)                                                          \
    ATOMIC_CALL(bits, T, fetch_add)                                                             \
    ATOMIC_CALL(bits, T, fetch_sub)                                                             \
    ATOMIC_CALL(bits, T, fetch_and)                                                             \
    ATOMIC_CALL(bits, T, fetch_or)                                                              \
    ATOMIC_CALL(bits, T, fetch_xor)
ATOMIC_CALLS(8, unsigned char)
ATOMIC_CALLS(16, unsigned short)
ATOMIC_CALLS(32, unsigned)
ATOMIC_CALLS(64, unsigned long)
}
