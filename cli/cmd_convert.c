/* fh1 convert: a model from one format into another. */
#include "cli/commands.h"
#include "cli/options.h"
#include "cli/sink.h"
#include "convert/bnb.h"
#include "convert/hf_index.h"

#include <stdlib.h>
#include <string.h>

static const char help[] =
    "usage: fh1 convert IN OUT [--to hf|fh1|gguf] [--dtype T] [--shard-size SIZE] [--force] [--quiet]\n\n"
    "Writes the model IN as OUT: a Hugging Face folder, the native file format .fh1 (about two thirds of the\n"
    "bytes, checksummed, gives back the folder byte for byte), or GGUF for llama.cpp. Any to any. The target\n"
    "appears whole or not at all; the source is only read.\n\n"
    "  --to F             hf, fh1 or gguf; without it the name of OUT says: .fh1, .gguf, else a folder\n"
    "  --dtype T          keep (default), bf16, f16, f32: every float tensor, rounded once to nearest even;\n"
    "                     q8_0 for gguf only. A quantised IN is decoded unless it is kept\n"
    "  --shard-size SIZE  files of at most that many bytes of weights: 5GB, 500MB, or bytes\n"
    "  --force            replace OUT if it is a model\n"
    "  --quiet            neither progress nor the line of sizes\n\n"
    "example: fh1 convert golden/models/mini-0.5b /tmp/mini.fh1\n";

typedef struct {
    const char *in, *out, *to, *dtype, *shard_size;
    bool force, quiet;
    /* as they are understood */
    cli_format format;
    bool keep;
    fh1_dtype type; /* unless kept or q8_0 */
    cvt_gguf_type gguf;
    uint64_t shard_bytes;
} request;

static fh1_status read_dtype(request *r)
{
    static const struct {
        const char *name;
        fh1_dtype t;
        cvt_gguf_type gguf;
    } known[] = {
        {"keep", FH1_DTYPE_COUNT, CVT_GGUF_KEEP}, {"bf16", FH1_BF16, CVT_GGUF_BF16},
        {"f16", FH1_F16, CVT_GGUF_F16},           {"f32", FH1_F32, CVT_GGUF_F32},
        {"q8_0", FH1_DTYPE_COUNT, CVT_GGUF_Q8_0},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (strcmp(r->dtype, known[i].name) != 0) continue;
        r->keep = known[i].gguf == CVT_GGUF_KEEP;
        r->type = known[i].t;
        r->gguf = known[i].gguf;
        if (r->gguf == CVT_GGUF_Q8_0 && r->format != CLI_TO_GGUF)
            return fh1_hint(FH1_BAD("--dtype q8_0: only a GGUF file can hold it"), "use --to gguf, or bf16, f16, f32");
        return NULL;
    }
    return fh1_found(fh1_expected(FH1_BAD("--dtype: unknown type"), "keep, bf16, f16, f32, or q8_0 for gguf"), "'%s'",
                     r->dtype);
}

static fh1_status understand(request *r)
{
    FH1_TRY(cli_format_parse(r->to, r->out, &r->format));
    FH1_TRY(read_dtype(r));
    if (!r->shard_size) return NULL;
    if (r->format == CLI_TO_GGUF)
        return fh1_hint(FH1_BAD("--shard-size: a GGUF file is one file"), "leave the option out");
    return cli_shard_size(r->shard_size, &r->shard_bytes);
}

/* What only a complete, unfolded model of this architecture can be asked for. */
static fh1_status check_source(cvt_ckpt *c, const request *r)
{
    fh1_config *config = malloc(sizeof *config);
    if (!config) return fh1_no_memory(sizeof *config, "a config");
    fh1_status s = cvt_ckpt_config(c, config);
    free(config);
    if (s) return s;
    if (c->n_tensors == 0) return cvt_hf_no_weights(r->in);
    return NULL;
}

/* The views between source and sink; c becomes the last of them, also when this fails. */
static fh1_status prepare(cvt_ckpt **c, const request *r)
{
    bool quantised, to_gguf = r->format == CLI_TO_GGUF;
    cvt_ckpt *below = *c;
    FH1_TRY(cvt_bnb_is(below, &quantised));
    if (quantised && to_gguf && r->keep)
        return fh1_hint(fh1_where(FH1_BAD("a quantised model cannot be kept as it is in GGUF"), "%s", r->in),
                        "choose --dtype bf16, f16, f32 or q8_0");
    *c = NULL;
    /* The fold into GGUF rounds by itself, once, from what is decoded. */
    if (quantised && !r->keep) FH1_TRY(cvt_ckpt_dequantise(below, to_gguf ? FH1_DTYPE_COUNT : r->type, c));
    else if (!r->keep && !to_gguf) FH1_TRY(cvt_ckpt_cast(below, r->type, c));
    else FH1_TRY(cvt_ckpt_view(below, c));
    return r->shard_bytes ? cvt_ckpt_reshard(*c, r->shard_bytes) : NULL;
}

/* A GGUF file's weights are unfolded to the type of their originals; for f32 that would be one rounding too many. */
static fh1_status open_source(const request *r, cvt_ckpt **c)
{
    return r->type == FH1_F32 ? cvt_ckpt_open_wide(r->in, c) : cvt_ckpt_open(r->in, c);
}

static fh1_status convert(cvt_ckpt **c, const request *r)
{
    FH1_TRY(cli_check_apart(r->in, *c, r->out));
    FH1_TRY(check_source(*c, r));
    bool from_gguf = (*c)->kind == CVT_KIND_GGUF;
    if (from_gguf && r->format == CLI_TO_GGUF)
        return fh1_hint(fh1_where(FH1_BAD("both are GGUF: unfolding and folding again would round twice"), "%s", r->in),
                        "convert the model it was made from; for another quantisation llama.cpp has llama-quantize");
    uint64_t before = cli_model_bytes(r->in, *c);
    const char *losses = from_gguf ? cvt_gguf_losses(*c) : ""; /* lives as long as the views over it */
    FH1_TRY(prepare(c, r));
    const cli_sink sink = {"convert", r->format, r->gguf, r->force, r->quiet};
    FH1_TRY(cli_write(*c, r->out, &sink));
    uint64_t after = cli_model_bytes(r->out, *c);
    cli_print_losses(r->in, losses);
    if (r->format == CLI_TO_GGUF) cli_print_folding(r->out, r->gguf);
    char safe[4096];
    if (!r->quiet)
        printf("%s: %s, %llu bytes -> %llu bytes, %.4f\n", fh1_printable(r->out, safe, sizeof safe),
               cli_format_name(r->format), (unsigned long long)before, (unsigned long long)after,
               before ? (double)after / (double)before : 1.0);
    return NULL;
}

fh1_status cmd_convert(int argc, char **argv, int *code)
{
    request r = {.dtype = "keep"};
    bool done;
    const cli_option options[] = {
        {"to", 0, CLI_TEXT, &r.to, 0, 0},
        {"dtype", 0, CLI_TEXT, &r.dtype, 0, 0},
        {"shard-size", 0, CLI_TEXT, &r.shard_size, 0, 0},
        {"force", 0, CLI_FLAG, &r.force, 0, 0},
        {"quiet", 'q', CLI_FLAG, &r.quiet, 0, 0},
    };
    const cli_syntax syntax = {"convert", help, options, 5, 2, 2, "IN OUT"};
    cli_list words = {0};
    cvt_ckpt *c = NULL;
    fh1_status s = cli_parse(&syntax, argc, argv, &words, &done);
    *code = 0;
    if (!s && !done) {
        r.in = words.items[0];
        r.out = words.items[1];
        s = understand(&r);
        if (!s) s = open_source(&r, &c);
        if (!s) s = convert(&c, &r);
        cvt_ckpt_close(c);
    }
    cli_list_free(&words);
    return s;
}
