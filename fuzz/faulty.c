/* Linked with a target and the converters' faulty copy (convert/fault.h): FH1_FUZZ_PLANT names the fault of the product
 * that is planted, so that plants.sh sees the target find it. */
#include "convert/fault.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

__attribute__((constructor)) static void plant_fault(void)
{
    static const char *const names[CVT_FAULT_COUNT] = {
        NULL,
#define CVT_FAULT_LIST(id, name, source, what) name,
#include "convert/fault_list.h"
#undef CVT_FAULT_LIST
    };
    const char *wanted = getenv("FH1_FUZZ_PLANT");
    for (int i = 1; wanted && i < CVT_FAULT_COUNT; i++)
        if (strcmp(names[i], wanted) == 0) cvt_fault_now = (cvt_fault)i;
    if (wanted && cvt_fault_now == CVT_FAULT_NONE) fprintf(stderr, "%s is no fault of convert/fault_list.h\n", wanted);
}
