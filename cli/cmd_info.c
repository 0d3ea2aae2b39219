/* fh1 info: geometry, parameters, bytes and memory of a model; BLAS and threads of this machine. */
#include "cli/commands.h"
#include "cli/cost.h"
#include "cli/footprint.h"
#include "cli/info_format.h"
#include "cli/machine.h"
#include "cli/options.h"
#include "convert/bnb.h"
#include "convert/model_open.h"
#include "cuda/engine.h"
#include "oracle/clones.h"
#include "oracle/mup.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static const char help[] =
    "usage: fh1 info [MODEL] [--batch B] [--tokens T] [--context S] [--json]\n\n"
    "MODEL is a Hugging Face folder, a .fh1 file or a GGUF file. Prints what holds it, its geometry, the parameters "
    "and\n"
    "the FLOPs per token of each part with their shares, its bytes, the memory that B rows of T tokens need, and its\n"
    "multipliers; then the BLAS, the threads and the engines of this machine, with a warning when "
    "OpenBLAS\n"
    "runs kernels for an older processor. Without MODEL: only the machine. Weights are mapped, not loaded:\n"
    "their pages come and go with the page cache.\n\n"
    "  --batch B    rows (default 1)\n"
    "  --tokens T   tokens per row, in one call (default 512)\n"
    "  --context S  FLOPs of a token that attends to S, itself included (default: T)\n"
    "  --json       one JSON object\n\n"
    "example: fh1 info golden/models/mini-34b --batch 3 --tokens 37\n";

/* The shortest decimal form that reads back as the same number; JSON has no infinity. */
static void print_number(double v, bool json)
{
    char text[40];
    if (json && !(v - v == 0)) {
        fputs("null", stdout);
        return;
    }
    for (int digits = 6; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, v);
        if (strtod(text, NULL) == v) break;
    }
    fputs(text, stdout);
}

static void print_bytes(const char *name, uint64_t n)
{
    static const char *const unit[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    double v = (double)n;
    int u = 0;
    for (; v >= 1024 && u < 4; u++) v /= 1024;
    printf("  %-26s %.*f %s\n", name, u ? 2 : 0, v, unit[u]);
}

static void print_rope(const fh1_config *c, bool json)
{
    if (json) printf(",\"rope\":{\"type\":\"%s\",\"theta\":", fh1_rope_type_name(c->rope.type));
    else printf(", rope %s, theta ", fh1_rope_type_name(c->rope.type));
    print_number(c->rope.theta, json);
    if (json || c->rope.factor != 0) {
        fputs(json ? ",\"factor\":" : ", factor ", stdout);
        print_number(c->rope.factor, json);
    }
    if (json) putchar('}');
}

/* What decides about rounding and range. */
static void print_limits(const fh1_config *c, bool json)
{
    fputs(json ? ",\"eps\":" : "\n  eps ", stdout);
    print_number(c->eps, json);
    if (c->family == FH1_FALCON_MAMBA) {
        fputs(json ? ",\"mixer_eps\":" : ", mixer_eps ", stdout);
        print_number(c->mixer_eps, json);
        if (json) printf(",\"residual_in_fp32\":%s", c->residual_in_fp32 ? "true" : "false");
        else if (c->residual_in_fp32) fputs(", residual in fp32", stdout);
        return;
    }
    fputs(json ? ",\"time_step_limit\":[" : ", time_step_limit ", stdout);
    print_number(c->dt_lo, json);
    fputs(json ? "," : " .. ", stdout);
    print_number(c->dt_hi, json);
    if (json) putchar(']');
    print_rope(c, json);
}

/* Integers and booleans of the config, named as the letters of docs/numerics.md; sizes that its family lacks are 0. */
enum { H1 = 1 << FH1_FALCON_H1, MAMBA = 1 << FH1_FALCON_MAMBA, BOTH = H1 | MAMBA };

static void print_sizes(const fh1_config *c, bool json)
{
    const struct {
        unsigned families;
        const char *name;
        int64_t v;
    } sizes[] = {
        {BOTH, "layers", c->n_layers},
        {BOTH, "D", c->D},
        {BOTH, "V", c->V},
        {H1, "F", c->F},
        {H1, "Hq", c->Hq},
        {H1, "Hkv", c->Hkv},
        {H1, "A", c->A},
        {H1, "H", c->H},
        {H1, "P", c->P},
        {MAMBA, "I", c->H},
        {BOTH, "N", c->N},
        {H1, "G", c->G},
        {BOTH, "K", c->K},
        {H1, "Q", c->Q},
        {H1, "d_ssm", c->d_ssm},
        {MAMBA, "R", c->R},
    };
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        if (sizes[i].families >> c->family & 1)
            printf(json ? ",\"%s\":%" PRId64 : " %s=%" PRId64, sizes[i].name, sizes[i].v);
}

static void print_switches(const fh1_config *c, bool json)
{
    const struct {
        unsigned families;
        const char *name;
        bool v;
    } switches[] = {
        {H1, "attention_bias", c->attention_bias},     {H1, "mlp_bias", c->mlp_bias},
        {H1, "mamba_proj_bias", c->mamba_proj_bias},   {H1, "projectors_bias", c->projectors_bias},
        {H1, "mamba_conv_bias", c->mamba_conv_bias},   {H1, "mamba_rms_norm", c->mamba_rms_norm},
        {H1, "norm_before_gate", c->norm_before_gate}, {MAMBA, "use_bias", c->mamba_proj_bias},
        {MAMBA, "use_conv_bias", c->mamba_conv_bias},  {BOTH, "tied_head", c->tied},
    };
    for (size_t i = 0; i < sizeof switches / sizeof *switches; i++) {
        if (!(switches[i].families >> c->family & 1)) continue;
        if (json) printf(",\"%s\":%s", switches[i].name, switches[i].v ? "true" : "false");
        else if (switches[i].v) printf(" %s", switches[i].name);
    }
}

static void print_geometry(const fh1_config *c, bool json)
{
    const char *family = fh1_family_name(c->family),
               *block = c->family == FH1_FALCON_H1 ? fh1_block_name(c->block) : "";
    if (json) {
        printf(",\"model_type\":\"%s\"", family);
        if (*block) printf(",\"block\":\"%s\"", block);
        print_sizes(c, true);
        print_switches(c, true);
        print_limits(c, true);
        return;
    }
    printf("geometry\n  %s%s%s\n ", family, *block ? ", block " : "", block);
    print_sizes(c, false);
    if (c->family == FH1_FALCON_H1)
        printf("\n  heads x width: attention %" PRId64 ", mixer %" PRId64 "; model width %" PRId64, c->Hq * c->A,
               c->H * c->P, c->D);
    fputs("\n  on:", stdout);
    print_switches(c, false);
    print_limits(c, false);
    putchar('\n');
}

static void print_multipliers(const fh1_config *c, bool json)
{
    double m[FH1_N_MULTIPLIERS];
    fh1_multipliers_of(c, m);
    fputs(json ? ",\"multipliers\":{" : "multipliers\n", stdout);
    for (int i = 0; i < FH1_N_MULTIPLIERS; i++) {
        printf(json ? "%s\"%s\":" : "%s  %-26s ", json && i ? "," : "", fh1_multiplier_name(i));
        print_number(m[i], json);
        if (!json) putchar('\n');
    }
    if (json) putchar('}');
}

static void print_parameters(const cli_footprint *f, bool json)
{
    if (json) {
        printf(",\"parameters\":{\"total\":%" PRId64, f->total);
        for (int i = 0; i < CLI_N_PARTS; i++) printf(",\"%s\":%" PRId64, cli_part_name(i), f->parts[i]);
        printf("},\"tensors\":%" PRId64 ",\"bytes\":%" PRIu64, f->tensors, f->weight_bytes);
        return;
    }
    printf("parameters\n  %-26s %" PRId64 " in %" PRId64 " tensors\n", "total", f->total, f->tensors);
    for (int i = 0; i < CLI_N_PARTS; i++)
        printf("  %-26s %-14" PRId64 " %5.1f %%\n", cli_part_name(i), f->parts[i],
               100 * (double)f->parts[i] / (double)f->total);
    print_bytes("bytes of the weights", f->weight_bytes);
}

/* docs/allocation.md has the formulas. */
static void print_flops(const fh1_config *c, int64_t context, bool json)
{
    const cli_count k = cli_flops_of(c, (double)context);
    if (json) {
        printf(",\"flops_per_token\":{\"context\":%" PRId64 ",\"total\":%.0f", context, k.total);
        for (int i = 0; i < CLI_N_PARTS; i++) printf(",\"%s\":%.0f", cli_part_name(i), k.parts[i]);
        fputs("}", stdout);
        return;
    }
    if (c->family == FH1_FALCON_MAMBA) puts("FLOPs of a token");
    else printf("FLOPs of a token that attends to %" PRId64 "\n", context);
    printf("  %-26s %.0f\n", "total", k.total);
    for (int i = 0; i < CLI_N_PARTS; i++)
        printf("  %-26s %-14.0f %5.1f %%\n", cli_part_name(i), k.parts[i], 100 * k.parts[i] / k.total);
}

/* Of every part: of the parameters and of the FLOPs. */
static void print_shares(const cli_footprint *f, const fh1_config *c, int64_t context)
{
    const cli_count k = cli_flops_of(c, (double)context);
    fputs(",\"shares\":{", stdout);
    for (int i = 0; i < CLI_N_PARTS; i++)
        printf("%s\"%s\":{\"parameters\":%.6f,\"flops\":%.6f}", i ? "," : "", cli_part_name(i),
               (double)f->parts[i] / (double)f->total, k.parts[i] / k.total);
    putchar('}');
}

static void print_memory(const cli_footprint *f, int64_t B, int64_t T, bool json)
{
    if (json) {
        printf(",\"memory\":{\"batch\":%" PRId64 ",\"tokens\":%" PRId64 ",\"mapped\":%" PRIu64 ",\"kv\":%" PRIu64
               ",\"conv\":%" PRIu64 ",\"ssm\":%" PRIu64 ",\"workspace\":%" PRIu64 "}",
               B, T, f->weight_bytes, f->kv_bytes, f->conv_bytes, f->ssm_bytes, f->workspace_bytes);
        return;
    }
    printf("memory for %" PRId64 " x %" PRId64 " tokens in one call, ref-f32 (twice for ref-f64)\n", B, T);
    print_bytes("weights, mapped", f->weight_bytes);
    print_bytes("keys and values, f32", f->kv_bytes);
    print_bytes("conv windows, f32", f->conv_bytes);
    print_bytes("ssm states, f32", f->ssm_bytes);
    print_bytes("workspace, about", f->workspace_bytes);
}

/* Every engine by name, and what it runs on or why it cannot. */
static void print_engines(bool json)
{
    char line[1024], why[1024];
    fputs(json ? ",\"engines\":[" : "engines\n", stdout);
    for (int i = 0; cli_engine_name_at(i); i++) {
        const char *name = cli_engine_name_at(i);
        fh1_status s = NULL;
        snprintf(line, sizeof line, "the CPU");
        if (cli_engine_is_cuda(name)) s = cu_device_describe(name, line, sizeof line);
        const char *text = s ? fh1_printable(s->what, why, sizeof why) : line;
        if (json) {
            printf("%s{\"name\":\"%s\",\"runs\":%s,\"device\":", i ? "," : "", name, s ? "false" : "true");
            cli_json_string(stdout, text);
            putchar('}');
        } else {
            printf("  %-26s %s\n", name, text);
        }
    }
    if (json) putchar(']');
}

static void print_machine(const cli_machine *m, bool json)
{
    char warning[512] = "";
    if (m->slow_core) cli_machine_warning(m, warning, sizeof warning);
    if (json) {
        fputs("\"machine\":{\"blas\":", stdout);
        cli_json_string(stdout, m->blas);
        fputs(",\"core\":", stdout);
        cli_json_string(stdout, m->core);
        printf(",\"blas_threads\":%d,\"threads\":%d,\"simd\":\"%s\",\"own_kernels\":\"%s\",\"warning\":",
               m->blas_threads, m->threads, m->simd, fh1_cpu_path());
        if (*warning) cli_json_string(stdout, warning);
        else fputs("null", stdout);
        putchar('}');
        print_engines(true);
        return;
    }
    printf("machine\n  %-26s %s\n  %-26s %s\n", "BLAS", m->blas, "BLAS core", m->core);
    printf("  %-26s %d, BLAS %d\n", "threads", m->threads, m->blas_threads);
    printf("  %-26s %s, own kernels use %s\n", "processor", m->simd, fh1_cpu_path());
    if (m->coretype) printf("  %-26s %s\n", "OPENBLAS_CORETYPE", m->coretype);
    if (*warning) printf("warning: %s\n", warning);
    print_engines(false);
}

/* Names, types and shapes, whatever holds the model; a quantised one as it is decoded. */
static fh1_status open_model(const char *path, cvt_ckpt *c, fh1_model *m)
{
    cvt_ckpt *again = NULL, *view = NULL;
    bool quantised;
    FH1_TRY(cvt_bnb_is(c, &quantised));
    if (c->kind == CVT_KIND_HF && !quantised) return cvt_model_open(path, m);
    FH1_TRY(cvt_ckpt_open(path, &again));
    if (quantised) FH1_TRY(cvt_ckpt_dequantise(again, FH1_DTYPE_COUNT, &view));
    fh1_status s = cvt_model_outline(view ? view : again, m);
    cvt_ckpt_close(view ? view : again);
    return s;
}

typedef struct {
    int64_t B, T, context;
    bool json;
} request;

static fh1_status print_all(const char *path, cvt_ckpt *c, const fh1_model *m, const request *r)
{
    const bool json = r->json;
    cli_footprint f;
    FH1_TRY(cli_footprint_of(m, r->B, r->T, &f));
    if (json) {
        fputs("{\"model\":", stdout);
        cli_json_string(stdout, path);
    } else {
        printf("model %s\n", path);
    }
    FH1_TRY(cli_print_format(c, json));
    print_geometry(&m->config, json);
    print_parameters(&f, json);
    print_flops(&m->config, r->context, json);
    if (json) print_shares(&f, &m->config, r->context);
    print_memory(&f, r->B, r->T, json);
    if (m->config.family == FH1_FALCON_H1) print_multipliers(&m->config, json);
    if (json) putchar(',');
    return NULL;
}

static fh1_status print_model(const char *path, const request *r)
{
    fh1_model m = {0};
    cvt_ckpt *c;
    FH1_TRY(cvt_ckpt_open(path, &c));
    fh1_status s = open_model(path, c, &m);
    if (!s) s = print_all(path, c, &m, r);
    fh1_model_free(&m);
    cvt_ckpt_close(c);
    return s;
}

fh1_status cmd_info(int argc, char **argv, int *code)
{
    request r = {.B = 1, .T = 512};
    bool done;
    const cli_option options[] = {
        {"batch", 0, CLI_INT, &r.B, 1, 1 << 20},
        {"tokens", 0, CLI_INT, &r.T, 1, 1 << 24},
        {"context", 0, CLI_INT, &r.context, 1, 1 << 30},
        {"json", 0, CLI_FLAG, &r.json, 0, 0},
    };
    const cli_syntax syntax = {"info", help, options, 4, 0, 1, "MODEL"};
    cli_list words = {0};
    fh1_status s = cli_parse(&syntax, argc, argv, &words, &done);
    if (!r.context) r.context = r.T;
    if (!s && !done) {
        if (words.n) s = print_model(words.items[0], &r);
        else if (r.json) putchar('{');
        if (!s) {
            cli_machine machine = cli_machine_get();
            print_machine(&machine, r.json);
            if (r.json) fputs("}\n", stdout);
        }
    }
    cli_list_free(&words);
    *code = 0;
    return s;
}
