#include "tests/edge/edge.h"

const edge_case edge_files[] = {{0}};
