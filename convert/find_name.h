/* Looking a name up in a sorted table. */
#pragma once

#include <stddef.h>
#include <stdint.h>

/* Index of `name` in a table of n records of `size` bytes, each of which begins with a char * and which are sorted by
 * it (strcmp); -1 when it is not there. */
int64_t cvt_find_name(const void *table, int64_t n, size_t size, const char *name);
