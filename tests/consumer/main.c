#include "oracle/tensor.h"
#include "reference/engine.h"

#include <stdio.h>
#include <string.h>

int main(void)
{
    fh1_engine *e = ref_engine_new("ref-f64", NULL, 0);
    if (!e) return 1;
    printf("%s, %s\n", e->name, fh1_dtype_name(e->dtype));
    int bad = strcmp(e->name, "ref-f64") != 0 || e->dtype != FH1_F64;
    e->free(e);
    return bad;
}
