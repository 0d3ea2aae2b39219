/* Planted faults of the second readings: FH1_FUZZ_PLANT=NAME makes a target leave one rule out, so that a test sees the
 * comparison turn red (fuzz/CMakeLists.txt lists the names). */
#pragma once

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

static inline bool fuzz_planted(const char *name)
{
    static const char *plant;
    static bool asked;
    if (!asked) plant = getenv("FH1_FUZZ_PLANT");
    asked = true;
    return plant && strcmp(plant, name) == 0;
}
