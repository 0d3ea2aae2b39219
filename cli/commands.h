/* The commands of the one program. Each reads its own arguments and returns a status; *code is its exit
 * code when the status is NULL (0, or 1 when the thing judged is wrong). */
#pragma once

#include "cli/options.h"
#include "oracle/engine.h"

#include <stdio.h>

fh1_status cmd_info(int argc, char **argv, int *code);
fh1_status cmd_taps(int argc, char **argv, int *code);
fh1_status cmd_trace(int argc, char **argv, int *code);
fh1_status cmd_run(int argc, char **argv, int *code);
fh1_status cmd_check(int argc, char **argv, int *code);
fh1_status cmd_gradcheck(int argc, char **argv, int *code);
fh1_status cmd_repro(int argc, char **argv, int *code);
fh1_status cmd_laws(int argc, char **argv, int *code);
fh1_status cmd_faults(int argc, char **argv, int *code);
fh1_status cmd_diff(int argc, char **argv, int *code);
fh1_status cmd_convert(int argc, char **argv, int *code);
fh1_status cmd_merge(int argc, char **argv, int *code);
fh1_status cmd_train(int argc, char **argv, int *code);
fh1_status cmd_verify(int argc, char **argv, int *code);
fh1_status cmd_init(int argc, char **argv, int *code);
fh1_status cmd_mup(int argc, char **argv, int *code);
fh1_status cmd_bench(int argc, char **argv, int *code);

/* "0.1.0", and the lines of `fh1 --version`. */
const char *cli_version(void);
void cli_print_version(FILE *out);

/* An engine of this build by name; FH1_E_INPUT lists the names. profile NULL: the engine's own. */
fh1_status cli_engine_new(const char *name, const fh1_profile *profile, unsigned variants, fh1_engine **out);
/* A model with the adapters of --adapter attached; what they warn of goes to stderr. */
fh1_status cli_model_open(const char *path, const cli_list *adapters, fh1_model *out);
/* Whether a name is an engine that can run here, with the same message. */
fh1_status cli_engine_known(const char *name);
const char *cli_engine_name_at(int i); /* NULL past the last */
bool cli_engine_is_cuda(const char *name);
/* Whether the engine runs this profile when asked to; else it keeps its own and is judged under the one asked for. */
bool cli_engine_runs(const char *name, const fh1_profile *p);

/* Storage types by their short names: "f64", "f32", "bf16", "f16". */
fh1_status cli_dtype(const char *option, const char *text, fh1_dtype *out);

/* A JSON string with its quotes. */
void cli_json_string(FILE *out, const char *text);
/* "warning: WHERE: SENTENCE" on stderr. */
void cli_warn(const char *where, const char *sentence);
