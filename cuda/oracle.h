/* The shared types of oracle/ that the engine's host side needs, as C++ sees them. */
#pragma once

#include "cuda/common.h"

extern "C" {
#include "oracle/engine.h"
}
