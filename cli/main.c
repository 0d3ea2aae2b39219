/* fh1: says whether an implementation of Falcon-H1 or Falcon-Mamba is right, and if not, where it goes wrong first. */
#include "cli/commands.h"
#include "cli/interrupt.h"
#include "cli/progress.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

typedef struct {
    const char *name;
    const char *summary;
    fh1_status (*run)(int argc, char **argv, int *code);
} command;

static const command commands[] = {
    {"check", "judge traces and engines against the truth, tap by tap", cmd_check},
    {"gradcheck", "judge gradients of engines and traces", cmd_gradcheck},
    {"repro", "run a failure again from one line, or make the line small", cmd_repro},
    {"laws", "what must hold between two runs of one engine", cmd_laws},
    {"faults", "the planted bugs, and the proof that every one is caught", cmd_faults},
    {"trace", "record every tap of an engine into a trace file", cmd_trace},
    {"run", "tokens, greedy or drawn", cmd_run},
    {"taps", "the taps of a model: names, shapes, definitions", cmd_taps},
    {"diff", "compare two traces with each other", cmd_diff},
    {"info", "a model's geometry and memory; this machine's BLAS", cmd_info},
    {"convert", "a model from one format into another: folder, .fh1, GGUF", cmd_convert},
    {"merge", "PEFT adapters into the weights of their base", cmd_merge},
    {"train", "AdamW on a model, or on a LoRA adapter", cmd_train},
    {"verify", "is a model, an adapter or a file whole? every checksum and rule", cmd_verify},
    {"bench", "speed of an engine beside what the machine could do", cmd_bench},
    {"init", "make a synthetic checkpoint from a config.json", cmd_init},
    {"mup", "multipliers against the width law, and at other widths", cmd_mup},
};
enum { N_COMMANDS = sizeof commands / sizeof commands[0] };

static void print_help(FILE *out)
{
    fputs(
        "fh1: is this implementation of Falcon-H1 or Falcon-Mamba right, and if not, where does it go wrong first?\n\n"
        "usage: fh1 COMMAND …        fh1 COMMAND --help        fh1 --version\n\n",
        out);
    for (int i = 0; i < N_COMMANDS; i++) fprintf(out, "  %-9s %s\n", commands[i].name, commands[i].summary);
    fputs("\nexample: fh1 check golden/models/mini-0.5b --trace golden/traces/mini-0.5b/t37.safetensors\n\n"
          "exit codes: 0 good, 1 the thing judged is wrong, 2 bad usage or bad input, 3 internal error\n",
          out);
}

static void print_error(const char *command_name, fh1_status s)
{
    char line[4096];
    fprintf(stderr, "fh1%s%s: %s\n", *command_name ? " " : "", command_name, fh1_status_line(s, line, sizeof line));
}

/* A result that nobody received is no result: a full disk or a closed pipe is exit code 3. */
static int close_stdout(const char *command_name, int code)
{
    bool bad = fflush(stdout) != 0 || ferror(stdout);
    int why = errno;
    if (fclose(stdout) != 0 && !bad) {
        bad = true;
        why = errno;
    }
    if (!bad) return code;
    fh1_status s = fh1_fail(FH1_E_INTERNAL, "standard output: cannot write: %s", strerror(why));
    print_error(command_name, fh1_hint(s, "what was printed is incomplete"));
    return FH1_E_INTERNAL;
}

int main(int argc, char **argv)
{
    signal(SIGPIPE, SIG_IGN); /* a closed pipe is reported as a failed write, */
    signal(SIGXFSZ, SIG_IGN); /* and so is the limit of `ulimit -f` */
    if (argc < 2) {
        print_help(stderr);
        return FH1_E_INPUT;
    }
    const char *name = argv[1];
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0 || strcmp(name, "help") == 0) {
        print_help(stdout);
        return close_stdout("", 0);
    }
    if (strcmp(name, "--version") == 0) {
        cli_print_version(stdout);
        return close_stdout("", 0);
    }
    for (int i = 0; i < N_COMMANDS; i++) {
        if (strcmp(name, commands[i].name) != 0) continue;
        int code = 0;
        cli_bus_error_begin(name);
        fh1_status s = commands[i].run(argc, argv, &code);
        if (s) {
            print_error(name, s);
            code = (int)s->code;
        }
        code = close_stdout(name, code);
        cli_die_if_interrupted();
        return code;
    }
    print_error("", fh1_hint(FH1_BAD("unknown command '%s'", name), "see fh1 --help"));
    return FH1_E_INPUT;
}
