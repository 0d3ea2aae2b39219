/* fh1 init: a synthetic checkpoint from a config.json. */
#include "cli/commands.h"
#include "cli/options.h"
#include "convert/hf_folder.h"

static const char help[] =
    "usage: fh1 init --config FILE -o DIR --seed N [--dtype bf16|f32|f16] [--force]\n\n"
    "Writes a Hugging Face model folder with the geometry of FILE and weights drawn from the seed, so that\n"
    "they behave like trained ones: activations of order one, some heads that forget in a few tokens and\n"
    "others that remember a thousand. The same seed gives the same bytes on every machine.\n\n"
    "  --config FILE  a config.json of model_type falcon_h1; it is copied into DIR\n"
    "  -o, --out DIR  the folder to make; an existing one is refused\n"
    "  --seed N       any whole number\n"
    "  --dtype T      type of the stored weights: bf16 (default), f32 or f16\n"
    "  --force        replace DIR if it exists\n\n"
    "example: fh1 init --config golden/models/mini-0.5b/config.json -o /tmp/synthetic --seed 1 --dtype f32\n";

static fh1_status run(const char *config, const char *out, int64_t seed, const char *dtype, bool force)
{
    const char *missing = !config ? "--config" : !out ? "-o" : seed < 0 ? "--seed" : NULL;
    fh1_dtype t;
    if (missing) return fh1_hint(FH1_BAD("%s is missing", missing), "see fh1 init --help");
    FH1_TRY(cli_dtype("--dtype", dtype, &t));
    if (t == FH1_F64)
        return fh1_found(fh1_expected(FH1_BAD("--dtype: no checkpoint is stored so"), "bf16, f32 or f16"), "'f64'");
    return cvt_hf_folder_init(config, out, (uint64_t)seed, t, force);
}

fh1_status cmd_init(int argc, char **argv, int *code)
{
    const char *config = NULL, *out = NULL, *dtype = "bf16";
    int64_t seed = -1;
    bool force = false, done;
    const cli_option options[] = {
        {"config", 0, CLI_TEXT, &config, 0, 0},    {"out", 'o', CLI_TEXT, &out, 0, 0},
        {"seed", 0, CLI_INT, &seed, 0, INT64_MAX}, {"dtype", 0, CLI_TEXT, &dtype, 0, 0},
        {"force", 0, CLI_FLAG, &force, 0, 0},
    };
    const cli_syntax syntax = {"init", help, options, 5, 0, 0, ""};
    cli_list words = {0};

    fh1_status s = cli_parse(&syntax, argc, argv, &words, &done);
    cli_list_free(&words);
    *code = 0;
    return s || done ? s : run(config, out, seed, dtype, force);
}
