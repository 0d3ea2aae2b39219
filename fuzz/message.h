/* What the message of every refusal must be, whatever names a hostile file holds. */
#pragma once

#include "fuzz/fuzz.h"

enum { FUZZ_LINE = 2560 };

/* `line` gets the message, empty where s is NULL. A refusal is FH1_E_INPUT, says what, and is one line that begins with
 * `file`: UTF-8 in which no character ends or turns the line. */
void fuzz_check_message(fh1_status s, const char *file, char line[FUZZ_LINE]);
