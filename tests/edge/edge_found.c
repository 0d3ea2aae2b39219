#include "tests/edge/edge.h"

const edge_case edge_found[] = {{0}};
