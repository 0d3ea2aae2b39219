#include "tests/edge/edge.h"

const edge_case edge_positions[] = {{0}};
