/* What a config must keep to, and how much a model takes, written down a second time beside oracle/config.c,
 * oracle/model.c and golden/calls_text.c: wide integers and no care for speed. */
#pragma once

#include "golden/calls.h"
#include "oracle/config.h"

bool slow_config_holds(const fh1_config *c);
double slow_parameters(const fh1_config *c); /* of the whole model */
double slow_recorded(const gld_calls *s, const fh1_config *c);
