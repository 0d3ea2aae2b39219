#include "convert/find_name.h"

#include <stdlib.h>
#include <string.h>

static int against_record(const void *name, const void *record)
{
    const char *own;
    memcpy(&own, record, sizeof own);
    return strcmp(name, own);
}

int64_t cvt_find_name(const void *table, int64_t n, size_t size, const char *name)
{
    const char *found = n > 0 ? bsearch(name, table, (size_t)n, size, against_record) : NULL;
    return found ? (found - (const char *)table) / (int64_t)size : -1;
}
