/* fh1 merge: adapters into the weights of their base, or what distinguishes a merged model from its base. */
#include "cli/commands.h"
#include "cli/merge_base.h"
#include "cli/merge_diff.h"
#include "cli/options.h"
#include "cli/sink.h"
#include "cli/verify_merge.h"
#include "convert/file.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char help[] =
    "usage: fh1 merge BASE ADAPTER[=W] [ADAPTER2[=W] …] -o OUT [options]\n"
    "       fh1 merge --diff BASE MERGED [--json]\n\n"
    "Writes BASE with PEFT adapters (LoRA, rsLoRA, DoRA, replaced modules, token rows, …) merged into its weights, "
    "one\n"
    "after the other, or says why that cannot be right. OUT has the shards, type and side files of BASE.\n\n"
    "  -o, --out OUT      a Hugging Face folder, or a file by its name: .fh1, .gguf\n"
    "  ADAPTER=W          scales this adapter's ΔW by the number W (plain LoRA, exact rounding)\n"
    "  --rounding R       exact (default: f64, one rounding), or bit for bit as a library rounds: peft, peft-safe,\n"
    "                     peft-noautocast, peft-low-memory, unsloth16 (docs/merge.md)\n"
    "  --initial DIR      the adapter before training, for PiSSA, OLoRA, CorDA, LoRA-GA\n"
    "  --base-image I     of a quantised BASE: quantised (default: what QLoRA trained on) or original\n"
    "  --original DIR     the model that a quantised BASE was made from; prints how large the difference is beside ΔW\n"
    "  --verify           run the reference on both, adapters attached and merged, and judge; --seed N for its input\n"
    "  --to F             hf, fh1 or gguf whatever the name\n"
    "  --force            replace OUT if it is a model\n"
    "  --quiet, --json    no progress; results as JSON lines\n"
    "  --diff             which tensors of MERGED differ from BASE, by how much, and the rank of the difference\n\n"
    "exit codes: 0 good, 1 --verify failed (OUT is kept), 2 refused, 3 internal error\n\n"
    "example: fh1 merge golden/merges/bases/plain-bf16 golden/merges/adapters/qv -o /tmp/merged --verify\n";

typedef struct {
    cli_base_choice base;
    const char *out, *rounding_name, *initial, *to, *repro;
    int64_t seed;
    bool verify, force, quiet, json, diff;
    cvt_rounding rounding;
    cli_format format;
    char **folders; /* n: the adapters without "=W" */
    double *weights;
    int n;
    /* collected while the merge is planned */
    double worst_ratio;
    bool has_ratio;
} request;

/* "DIR=0.5": a weight is a number behind the last "=", unless a folder has that very name. */
static fh1_status split_weight(const char *word, char **folder, double *weight)
{
    const char *eq = strrchr(word, '=');
    char *end = NULL;
    *weight = 1;
    *folder = strdup(word);
    if (!*folder) return fh1_no_memory(strlen(word), "a path");
    if (!eq || cvt_path_exists(word)) return NULL;
    double w = strtod(eq + 1, &end);
    if (end == eq + 1 || *end != '\0' || !isfinite(w))
        return fh1_found(fh1_expected(FH1_BAD("the weight of an adapter is not a number"), "ADAPTER=0.5"), "%.200s",
                         word);
    (*folder)[eq - word] = '\0';
    *weight = w;
    return NULL;
}

static fh1_status understand(request *r, const cli_list *words)
{
    if (!r->out) return fh1_hint(FH1_BAD("-o is missing: where to write the merged model"), "see fh1 merge --help");
    if (!cvt_rounding_parse(r->rounding_name, &r->rounding))
        return fh1_found(fh1_expected(FH1_BAD("--rounding: unknown"), "exact, peft, peft-safe, peft-noautocast, "
                                                                      "peft-low-memory or unsloth16"),
                         "'%s'", r->rounding_name);
    FH1_TRY(cli_format_parse(r->to, r->out, &r->format));
    if (r->verify && r->format == CLI_TO_GGUF)
        return fh1_hint(
            FH1_BAD("--verify holds the merged weights to one rounding, and folding into GGUF rounds again"),
            "merge into a folder with --verify, then fh1 convert it; fh1 check FILE.gguf judges engines");
    if (r->initial && words->n > 2)
        return fh1_hint(FH1_BAD("--initial belongs to one adapter, but several are named"),
                        "merge them in several runs");
    r->base.path = words->items[0];
    r->folders = calloc((size_t)words->n, sizeof *r->folders);
    r->weights = calloc((size_t)words->n, sizeof *r->weights);
    if (!r->folders || !r->weights) return fh1_no_memory((size_t)words->n * sizeof *r->folders, "adapters");
    for (int i = 1; i < words->n; i++) {
        fh1_status s = split_weight(words->items[i], &r->folders[r->n], &r->weights[r->n]);
        if (r->folders[r->n]) r->n++;
        if (s) return s;
    }
    return NULL;
}

static void on_warning(void *user, const char *sentence)
{
    const request *r = user;
    cli_warn(r->base.path, sentence);
}

/* One line per adapted matrix, where something is known of quantisation; JSON: one object each. */
static void on_matrix(void *user, const char *tensor, double delta, double change)
{
    request *r = user;
    char name[512];
    double ratio = delta > 0 ? change / delta : INFINITY;
    if (change >= 0) {
        r->has_ratio = true;
        if (ratio > r->worst_ratio) r->worst_ratio = ratio;
    }
    if (r->json) {
        printf("{\"tensor\":");
        cli_json_string(stdout, tensor);
        printf(",\"rms_delta\":%.6g", delta);
        if (change >= 0) printf(",\"rms_quantisation\":%.6g", change);
        if (change >= 0 && isfinite(ratio)) printf(",\"ratio\":%.6g", ratio);
        printf("}\n");
    } else if (change >= 0) {
        printf("%-48s RMS of dW %.3g, of quantisation %.3g, ratio %.3g\n", fh1_printable(tensor, name, sizeof name),
               delta, change, ratio);
    }
}

static void print_ratio(const request *r)
{
    if (!r->has_ratio || r->json) return;
    printf("quantisation moved the base up to %.3g times as far as the adapter does: the adapter was trained to act\n"
           "beside that error, so a merge onto the other image of the base is another model (compare both by --verify\n"
           "or by loss before one is published)\n",
           r->worst_ratio);
}

/* Names are no proof, paths move; but an adapter on a base of another name is worth a look. */
static void note_base(const request *r, int i, const char *trained_on)
{
    size_t n, m;
    if (!trained_on) return;
    const char *base = cvt_path_last(r->base.path, strlen(r->base.path), &n);
    const char *named = cvt_path_last(trained_on, strlen(trained_on), &m);
    if (m == 0 || (n == m && strncmp(base, named, n) == 0)) return;
    char a[1024], b[1024], c[1024];
    fprintf(stderr, "note: %s: it says that it was trained on '%s'; the base is '%s'\n",
            fh1_printable(r->folders[i], a, sizeof a), fh1_printable(trained_on, b, sizeof b),
            fh1_printable(r->base.path, c, sizeof c));
}

static fh1_status open_adapters(const request *r, cvt_ckpt *base, cvt_adapter *a)
{
    for (int i = 0; i < r->n; i++) {
        FH1_TRY(cli_check_apart(r->folders[i], NULL, r->out));
        FH1_TRY(cvt_adapter_open(r->folders[i], r->initial, base, &a[i]));
        for (int k = 0; k < a[i].n_warnings; k++) cli_warn(r->folders[i], a[i].warnings[k]);
    }
    return NULL;
}

static fh1_status merge_and_write(request *r, cvt_ckpt *base, cvt_ckpt *other, const cvt_adapter *a)
{
    cvt_ckpt *merged = NULL;
    cvt_merge_part *parts = calloc((size_t)r->n, sizeof *parts);
    bool tells = other || r->json;
    const cvt_merge_options o = {r->rounding, other, tells ? on_matrix : NULL, on_warning, r};
    int64_t n_matrices = 0;
    if (!parts) {
        cvt_ckpt_close(base);
        return fh1_no_memory((size_t)r->n * sizeof *parts, "adapters");
    }
    for (int i = 0; i < r->n; i++) {
        parts[i] = (cvt_merge_part){&a[i], r->weights[i]};
        n_matrices += a[i].n_loras;
    }
    fh1_status s = cvt_ckpt_merge(base, parts, r->n, &o, &merged);
    free(parts);
    if (s) return s;
    const cli_sink sink = {"merge", r->format, CVT_GGUF_KEEP, r->force, r->quiet};
    print_ratio(r);
    s = cli_write(merged, r->out, &sink);
    uint64_t bytes = s ? 0 : cli_model_bytes(r->out, merged);
    cvt_ckpt_close(merged);
    if (!s && r->format == CLI_TO_GGUF) cli_print_folding(r->out, CVT_GGUF_KEEP);
    if (!s && !r->quiet && !r->json)
        printf("%s: %s, %llu bytes, %d %s with %lld low-rank pairs merged, rounding %s\n", r->out,
               cli_format_name(r->format), (unsigned long long)bytes, r->n, r->n == 1 ? "adapter" : "adapters",
               (long long)n_matrices, cvt_rounding_name(r->rounding));
    return s;
}

static fh1_status verify(const request *r, const char *model, int *code)
{
    cvt_ckpt *image;
    FH1_TRY(cli_merge_base_image(&r->base, &image));
    const char **folders = calloc((size_t)r->n, sizeof *folders);
    if (!folders) {
        cvt_ckpt_close(image);
        return fh1_no_memory((size_t)r->n * sizeof *folders, "adapters");
    }
    for (int i = 0; i < r->n; i++) folders[i] = r->folders[i];
    const cli_verify v = {.base = model,
                          .merged = r->out,
                          .image = image,
                          .adapters = folders,
                          .weights = r->weights,
                          .n = r->n,
                          .initial = r->initial,
                          .rounding = r->rounding,
                          .seed = r->seed,
                          .repro = r->repro};
    fh1_status s = cli_verify_merge(&v, r->json, code);
    free(folders);
    cvt_ckpt_close(image);
    return s;
}

static fh1_status merge(request *r, int *code)
{
    cvt_ckpt *base, *other;
    const char *model;
    if (!r->force && cvt_path_exists(r->out)) /* said before the base is read */
        return fh1_hint(fh1_where(FH1_BAD("the target exists"), "%s", r->out), "choose another name, or use --force");
    FH1_TRY(cli_merge_base(&r->base, &base, &other, &model));
    cvt_adapter *a = calloc((size_t)r->n, sizeof *a);
    fh1_status s = a ? NULL : fh1_no_memory((size_t)r->n * sizeof *a, "adapters");
    if (!s) s = cli_check_apart(r->base.path, strcmp(model, r->base.path) == 0 ? base : NULL, r->out);
    if (!s && r->base.original) s = cli_check_apart(r->base.original, NULL, r->out);
    if (!s && r->initial) s = cli_check_apart(r->initial, NULL, r->out);
    if (!s) s = open_adapters(r, base, a);
    if (!s) s = merge_and_write(r, base, other, a); /* takes the base over */
    else cvt_ckpt_close(base);
    cvt_ckpt_close(other);
    for (int i = 0; !s && i < r->n; i++) note_base(r, i, a[i].base_name); /* an error is one line */
    for (int i = 0; a && i < r->n; i++) cvt_adapter_free(&a[i]);
    free(a);
    return s || !r->verify ? s : verify(r, model, code);
}

fh1_status cmd_merge(int argc, char **argv, int *code)
{
    request r = {.rounding_name = "exact", .seed = 1};
    bool done;
    const cli_option options[] = {
        {"out", 'o', CLI_TEXT, &r.out, 0, 0},
        {"rounding", 0, CLI_TEXT, &r.rounding_name, 0, 0},
        {"initial", 0, CLI_TEXT, &r.initial, 0, 0},
        {"base-image", 0, CLI_TEXT, &r.base.image, 0, 0},
        {"original", 0, CLI_TEXT, &r.base.original, 0, 0},
        {"verify", 0, CLI_FLAG, &r.verify, 0, 0},
        {"seed", 0, CLI_INT, &r.seed, 0, INT64_MAX},
        {"to", 0, CLI_TEXT, &r.to, 0, 0},
        {"force", 0, CLI_FLAG, &r.force, 0, 0},
        {"quiet", 'q', CLI_FLAG, &r.quiet, 0, 0},
        {"json", 0, CLI_FLAG, &r.json, 0, 0},
        {"diff", 0, CLI_FLAG, &r.diff, 0, 0},
    };
    const cli_syntax syntax = {"merge", help, options, 12, 2, 1000, "BASE ADAPTER"};
    cli_list words = {0};
    char *repro = cli_repro(argc, argv);
    fh1_status s = repro ? cli_parse(&syntax, argc, argv, &words, &done) : fh1_no_memory(1024, "a command line");
    r.repro = repro;
    *code = 0;
    if (!s && !done && r.diff) {
        if (words.n != 2) s = fh1_hint(FH1_BAD("--diff compares two models"), "fh1 merge --diff BASE MERGED");
        else s = cli_merge_diff(words.items[0], words.items[1], r.json);
    } else if (!s && !done) {
        s = understand(&r, &words);
        if (!s) s = merge(&r, code);
    }
    for (int i = 0; i < r.n; i++) free(r.folders[i]);
    free(r.folders);
    free(r.weights);
    free(repro);
    cli_list_free(&words);
    return s;
}
