/* Faults of the converters are planted in a second compilation of convert/, which this program is linked with. */
#include "tests/edge/edge.h"

void edge_plant(const char *name)
{
    (void)name;
}
