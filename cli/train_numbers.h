/* Decimal numbers of the command line. */
#pragma once

#include "oracle/status.h"

/* A finite number in [min, max], nothing behind it. FH1_E_INPUT names the option. */
fh1_status cli_read_number(const char *option, const char *text, double min, double max, double *out);
/* The same for two numbers with a comma between. */
fh1_status cli_read_pair(const char *option, const char *text, double min, double max, double out[2]);
