/* fh1 repro: shows a failure again from one line, and makes the line small. */
#include "cli/commands.h"
#include "cli/options.h"
#include "cli/report_out.h"
#include "golden/shrink.h"
#include "reference/engine.h"
#include "reference/faulty.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char help[] =
    "usage: fh1 repro [--json] [--verbose] 'LINE'\n"
    "       fh1 repro --shrink [--runs N] [--json] 'LINE'\n\n"
    "Runs what a line says and judges it. Every failure that fh1 finds prints such a line.\n\n"
    "  --shrink        instead prints the smallest line that fails first at the same kind of tap, or at the\n"
    "                  same op: fewer calls, rows, tokens, layers, heads, widths and options, simpler values.\n"
    "                  From --model=FOLDER it goes on with a made model if a small one fails too\n"
    "  --runs N        of --shrink: at most so many candidates are run (default 600)\n"
    "  --json          JSON lines, as fh1 check; with --shrink one object\n"
    "  --verbose       one line per tap instead of failures only\n\n"
    "LINE, an op:      --op=NAME with its sizes, data and engine (golden/op_case.h):\n"
    "                  --op=ssd_scan --regime=adversarial --T=129 --H=2 --seed=7 --engine=ref-f32\n"
    "LINE, a model:    --model=FOLDER, or --make=KEY=VALUE,… for one made from the seed\n"
    "  --engine=E      ref-f64, ref-f32, ref-bf16, cuda-host, cuda\n"
    "  --schedule=S    calls on one cache: pTxB first, T columns of B rows; then cT (T columns more) and dN (N\n"
    "                  calls of one column), with ; between. Behind p and c: l:2,0,1 and r:0,3 columns of padding\n"
    "                  left and right of each row, k:1,5/3 columns where a document begins (rows with /), y labels\n"
    "  --traffic=M;M…  instead of a schedule: moves on caches a to h, each document judged against itself alone\n"
    "                  (golden/traffic.h). a=2 two rows; a+9,4<0,2>1|3/1 a call: tokens, padding left and right,\n"
    "                  documents, per row; a*3 steps; b=a a copy; a<b restored; a@1,1,0 reordered; a!1 row 1 starts\n"
    "                  again; a?4:2 four drafts, two accepted; a. reset; a~ exported and imported; a-0:2 and a:\n"
    "                  what must be refused\n"
    "  --seed=N        of token ids and of a made model (default 1)\n"
    "  --positions=P   'none': the engine's default; N: they count from N (default 0)\n"
    "  --contract=P --variant=V   as fh1 check; under traffic variants are the judged engine's alone\n"
    "  --fault=NAME    runs the copy of the engine with this planted fault; one that edits config or weights does\n"
    "                  not show in the line of an op\n"
    "  --tap=GLOB      of a schedule: judges only taps whose name matches; several with commas\n"
    "  --step=J        of a schedule: calls after call J (from 0) are not run\n"
    "--make keys:      sizes layers D F V Hq Hkv A H P N G K Q; dtype=f32 bf16 f16; weights=init trained lattice;\n"
    "                  block=SAM S_A_M; or family=falcon_mamba with layers D V I N R K use_bias mixer_eps …;\n"
    "                  0 or 1: attention_bias mlp_bias mamba_proj_bias projectors_bias conv_bias rms_norm\n"
    "                  norm_before_gate tied; multipliers m_emb m_lm m_key m_attn_in m_attn_out m_ssm_in m_ssm_out\n"
    "                  m_gate m_down m_z m_x m_B m_C m_dt; eps dt_lo dt_hi; rope=TYPE theta factor\n"
    "                  attention_factor beta_fast beta_slow mscale mscale_all_dim truncate low_freq_factor\n"
    "                  high_freq_factor original_max_position max_position, long_factor and short_factor=a/b/…\n\n"
    "exit codes: 0 PASS, or shrunk; 1 FAIL or MISTRUSTED; 2 bad line, or nothing to shrink; 3 internal error\n\n"
    "example: fh1 repro '--make=layers=2,D=32,m_key=0.5 --engine=ref-f32 --schedule=p9x2l:3;d2 "
    "--fault=key_multiplier_dropped'\n";

typedef struct {
    bool json, verbose, shrink;
    int64_t runs;
} repro_options;

static fh1_engine *make_judged(const char *name, const fh1_profile *p, unsigned variants, fh1_fault fault)
{
    fh1_engine *e = NULL;
    if (fault != FH1_FAULT_NONE) return ref_faulty_engine_new(name, p, variants, fault);
    return cli_engine_new(name, p && cli_engine_runs(name, p) ? p : NULL, variants, &e) ? NULL : e;
}

static const gld_repro_env env = {make_judged, ref_engine_new, ref_faulty_engine_new};

/* -- the line ------------------------------------------------------------------------------------ */

/* LINE begins with dashes like an option, and may come in pieces where somebody forgot the quotes: whatever is not an
 * option of this command belongs to it. */
static fh1_status split(int argc, char **argv, char **own, int *n_own, char **line)
{
    static const char *const flags[] = {"--json", "--verbose", "--shrink", "--runs", "--help", "-h"};
    size_t size = 1;
    for (int i = 0; i < argc; i++) size += strlen(argv[i]) + 1;
    *line = calloc(1, size);
    if (!*line) return fh1_no_memory(size, "the line");
    for (int i = 0; i < argc; i++) {
        bool mine = i < 2 || strncmp(argv[i], "--runs=", 7) == 0;
        for (size_t k = 0; k < sizeof flags / sizeof *flags; k++) mine |= strcmp(argv[i], flags[k]) == 0;
        if (mine) {
            own[(*n_own)++] = argv[i];
            if (strcmp(argv[i], "--runs") == 0 && i + 1 < argc) own[(*n_own)++] = argv[++i];
        } else {
            if (**line) strcat(*line, " ");
            strcat(*line, argv[i]);
        }
    }
    return NULL;
}

static fh1_status read_line(const char *line, gld_repro *r)
{
    if (!*line) return fh1_hint(fh1_expected(FH1_BAD("an argument is missing"), "LINE"), "see fh1 repro --help");
    FH1_TRY(gld_repro_parse(line, r));
    return fh1_where(cli_engine_known(r->is_op ? r->op.engine : r->engine), "--engine");
}

/* -- running ------------------------------------------------------------------------------------- */

static fh1_status run(const repro_options *o, const gld_repro *r, const char *command, int *code)
{
    cli_report out;
    fh1_status s = cli_report_open(o->json, o->verbose, &out);
    if (!s) s = gld_repro_run(r, &env, out.report);
    if (!s) s = cli_report_finish(&out, command, code);
    return cli_report_close(&out, s);
}

static void show_progress(void *user, int runs, const char *line)
{
    (void)user;
    fprintf(stderr, "\r\033[K[%d] %.100s", runs, line);
    fflush(stderr);
}

static void print_shrunk(const repro_options *o, const char *command, const gld_shrink_result *result)
{
    const gld_repro_outcome *at = &result->outcome;
    if (o->json) {
        fputs("{\"repro\":", stdout);
        cli_json_string(stdout, command);
        fputs(",\"verdict\":\"FAIL\",\"tap\":", stdout);
        cli_json_string(stdout, at->tap);
        printf(",\"step\":%lld,\"runs\":%d,\"exhausted\":%s}\n", (long long)at->step, result->runs,
               result->exhausted ? "true" : "false");
        return;
    }
    printf("%s\n# FAIL at %s, step %lld; %d runs%s\n", command, at->tap, (long long)at->step, result->runs,
           result->exhausted ? ", there may be a smaller one (--runs)" : "");
}

static fh1_status shrink(const repro_options *o, gld_repro *r)
{
    const bool tty = isatty(STDERR_FILENO);
    const gld_shrink_options so = {.max_runs = (int)o->runs, .progress = tty ? show_progress : NULL};
    gld_shrink_result result;
    fh1_status s = gld_shrink(r, &env, &so, &result);
    if (tty) fputs("\r\033[K", stderr);
    FH1_TRY(s);
    char *command = gld_repro_command(r);
    if (!command) return fh1_no_memory(0, "the line");
    print_shrunk(o, command, &result);
    free(command);
    return NULL;
}

static fh1_status repro(const repro_options *o, const char *line, int *code)
{
    gld_repro *r = malloc(sizeof *r);
    char *command = NULL;
    fh1_status s = r ? read_line(line, r) : fh1_no_memory(sizeof *r, "the line");
    if (!s && !(command = gld_repro_command(r))) s = fh1_no_memory(0, "the line");
    if (!s) s = o->shrink ? shrink(o, r) : run(o, r, command, code);
    free(command);
    free(r);
    return s;
}

fh1_status cmd_repro(int argc, char **argv, int *code)
{
    repro_options o = {.runs = 0};
    bool done = false;
    int n_own = 0;
    char *line = NULL, **own = calloc((size_t)argc + 1, sizeof *own);
    cli_list words = {0};
    const cli_option options[] = {
        {"json", 0, CLI_FLAG, &o.json, 0, 0},
        {"verbose", 0, CLI_FLAG, &o.verbose, 0, 0},
        {"shrink", 0, CLI_FLAG, &o.shrink, 0, 0},
        {"runs", 0, CLI_INT, &o.runs, 1, 1000000},
    };
    const cli_syntax syntax = {"repro", help, options, sizeof options / sizeof options[0], 0, 0, ""};
    fh1_status s = own ? split(argc, argv, own, &n_own, &line) : fh1_no_memory(0, "the command line");
    if (!s) s = cli_parse(&syntax, n_own, own, &words, &done);
    if (!s && !done) s = repro(&o, line, code);
    cli_list_free(&words);
    free(line);
    free(own);
    return s;
}
