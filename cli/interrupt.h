/* Signals during a long command: a flag instead of a sudden end (cli/progress.h), and one line instead of a crash when
 * a mapped file is cut short by someone else. */
#pragma once

/* SIGINT, SIGTERM and SIGHUP raise a flag from here on, unless they are ignored; cli_interrupted tells. */
void cli_interrupt_begin(void);
void cli_interrupt_end(void);

/* From here on a read of a mapped file that is no longer there (SIGBUS) ends the process with one line on stderr that
 * names the file, without temporaries of targets, exit code 2. `command`: for the line, "check"; kept. */
void cli_bus_error_begin(const char *command);
