#include "tests/edge/edge.h"

const edge_case edge_prefill[] = {{0}};
