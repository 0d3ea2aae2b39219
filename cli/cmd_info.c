/* fh1 info: geometry, parameters, bytes and memory of a model; BLAS and threads of this machine. */
#include "cli/commands.h"
#include "cli/footprint.h"
#include "cli/info_format.h"
#include "cli/machine.h"
#include "cli/options.h"
#include "convert/bnb.h"
#include "convert/model_open.h"
#include "cuda/engine.h"
#include "oracle/clones.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static const char help[] =
    "usage: fh1 info [MODEL] [--batch B] [--tokens T] [--json]\n\n"
    "MODEL is a Hugging Face folder, a .fh1 file or a GGUF file. Prints what holds it, its geometry, its parameters by "
    "part, its bytes, the memory that B rows of T tokens\n"
    "need, and its multipliers; then the BLAS, the threads and the engines of this machine, with a warning when "
    "OpenBLAS\n"
    "runs kernels for an older processor. Without MODEL: only the machine. Weights are mapped, not loaded:\n"
    "their pages come and go with the page cache.\n\n"
    "  --batch B    rows (default 1)\n"
    "  --tokens T   tokens per row, in one call (default 512)\n"
    "  --json       one JSON object\n\n"
    "example: fh1 info golden/models/mini-34b --batch 3 --tokens 37\n";

typedef struct {
    const char *name;
    double value;
} named_number;

enum { N_MULTIPLIERS = 14 };

static void list_multipliers(const fh1_config *c, named_number m[N_MULTIPLIERS])
{
    const named_number all[N_MULTIPLIERS] = {
        {"embedding_multiplier", c->m_emb},
        {"lm_head_multiplier", c->m_lm},
        {"key_multiplier", c->m_key},
        {"attention_in_multiplier", c->m_attn_in},
        {"attention_out_multiplier", c->m_attn_out},
        {"ssm_in_multiplier", c->m_ssm_in},
        {"ssm_out_multiplier", c->m_ssm_out},
        {"mlp_multipliers[0] (gate)", c->m_gate},
        {"mlp_multipliers[1] (down)", c->m_down},
        {"ssm_multipliers[0] (z)", c->m_ssm[0]},
        {"ssm_multipliers[1] (x)", c->m_ssm[1]},
        {"ssm_multipliers[2] (B)", c->m_ssm[2]},
        {"ssm_multipliers[3] (C)", c->m_ssm[3]},
        {"ssm_multipliers[4] (dt)", c->m_ssm[4]},
    };
    memcpy(m, all, sizeof all);
}

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

/* Integers and booleans of the config, named as the letters of docs/numerics.md. */
static void print_geometry(const fh1_config *c, bool json)
{
    const struct {
        const char *name;
        int64_t v;
    } numbers[] = {
        {"layers", c->n_layers},
        {"D", c->D},
        {"V", c->V},
        {"F", c->F},
        {"Hq", c->Hq},
        {"Hkv", c->Hkv},
        {"A", c->A},
        {"H", c->H},
        {"P", c->P},
        {"N", c->N},
        {"G", c->G},
        {"K", c->K},
        {"Q", c->Q},
        {"d_ssm", c->d_ssm},
    };
    const struct {
        const char *name;
        bool v;
    } switches[] = {
        {"attention_bias", c->attention_bias},     {"mlp_bias", c->mlp_bias},
        {"mamba_proj_bias", c->mamba_proj_bias},   {"projectors_bias", c->projectors_bias},
        {"mamba_conv_bias", c->mamba_conv_bias},   {"mamba_rms_norm", c->mamba_rms_norm},
        {"norm_before_gate", c->norm_before_gate}, {"tied_head", c->tied},
    };
    const size_t n_numbers = sizeof numbers / sizeof numbers[0], n_switches = sizeof switches / sizeof switches[0];
    if (json) {
        for (size_t i = 0; i < n_numbers; i++) printf(",\"%s\":%" PRId64, numbers[i].name, numbers[i].v);
        for (size_t i = 0; i < n_switches; i++)
            printf(",\"%s\":%s", switches[i].name, switches[i].v ? "true" : "false");
        fputs(",\"eps\":", stdout);
        print_number(c->eps, true);
        fputs(",\"time_step_limit\":[", stdout);
        print_number(c->dt_lo, true);
        putchar(',');
        print_number(c->dt_hi, true);
        printf("],\"rope\":{\"type\":\"%s\",\"theta\":", fh1_rope_type_name(c->rope.type));
        print_number(c->rope.theta, true);
        fputs(",\"factor\":", stdout);
        print_number(c->rope.factor, true);
        fputs("}", stdout);
        return;
    }
    printf("geometry\n ");
    for (size_t i = 0; i < n_numbers; i++) printf(" %s=%" PRId64, numbers[i].name, numbers[i].v);
    printf("\n  heads x width: attention %" PRId64 ", mixer %" PRId64 "; model width %" PRId64 "\n  on:", c->Hq * c->A,
           c->H * c->P, c->D);
    for (size_t i = 0; i < n_switches; i++)
        if (switches[i].v) printf(" %s", switches[i].name);
    fputs("\n  eps ", stdout);
    print_number(c->eps, false);
    fputs(", time_step_limit ", stdout);
    print_number(c->dt_lo, false);
    fputs(" .. ", stdout);
    print_number(c->dt_hi, false);
    printf(", rope %s, theta ", fh1_rope_type_name(c->rope.type));
    print_number(c->rope.theta, false);
    if (c->rope.factor != 0) {
        fputs(", factor ", stdout);
        print_number(c->rope.factor, false);
    }
    putchar('\n');
}

static void print_multipliers(const fh1_config *c, bool json)
{
    named_number m[N_MULTIPLIERS];
    list_multipliers(c, m);
    fputs(json ? ",\"multipliers\":{" : "multipliers\n", stdout);
    for (int i = 0; i < N_MULTIPLIERS; i++) {
        printf(json ? "%s\"%s\":" : "%s  %-26s ", json && i ? "," : "", m[i].name);
        print_number(m[i].value, json);
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
    for (int i = 0; i < CLI_N_PARTS; i++) printf("  %-26s %" PRId64 "\n", cli_part_name(i), f->parts[i]);
    print_bytes("bytes of the weights", f->weight_bytes);
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

static fh1_status print_all(const char *path, cvt_ckpt *c, const fh1_model *m, int64_t B, int64_t T, bool json)
{
    cli_footprint f;
    FH1_TRY(cli_footprint_of(m, B, T, &f));
    if (json) {
        fputs("{\"model\":", stdout);
        cli_json_string(stdout, path);
    } else {
        printf("model %s\n", path);
    }
    FH1_TRY(cli_print_format(c, json));
    print_geometry(&m->config, json);
    print_parameters(&f, json);
    print_memory(&f, B, T, json);
    print_multipliers(&m->config, json);
    if (json) putchar(',');
    return NULL;
}

static fh1_status print_model(const char *path, int64_t B, int64_t T, bool json)
{
    fh1_model m = {0};
    cvt_ckpt *c;
    FH1_TRY(cvt_ckpt_open(path, &c));
    fh1_status s = open_model(path, c, &m);
    if (!s) s = print_all(path, c, &m, B, T, json);
    fh1_model_free(&m);
    cvt_ckpt_close(c);
    return s;
}

fh1_status cmd_info(int argc, char **argv, int *code)
{
    int64_t B = 1, T = 512;
    bool json = false, done;
    const cli_option options[] = {
        {"batch", 0, CLI_INT, &B, 1, 1 << 20},
        {"tokens", 0, CLI_INT, &T, 1, 1 << 24},
        {"json", 0, CLI_FLAG, &json, 0, 0},
    };
    const cli_syntax syntax = {"info", help, options, 3, 0, 1, "MODEL"};
    cli_list words = {0};
    fh1_status s = cli_parse(&syntax, argc, argv, &words, &done);
    if (!s && !done) {
        if (words.n) s = print_model(words.items[0], B, T, json);
        else if (json) putchar('{');
        if (!s) {
            cli_machine machine = cli_machine_get();
            print_machine(&machine, json);
            if (json) fputs("}\n", stdout);
        }
    }
    cli_list_free(&words);
    *code = 0;
    return s;
}
