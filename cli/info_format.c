#include "cli/info_format.h"

#include "cli/commands.h"
#include "cli/sink.h"
#include "convert/bnb.h"
#include "convert/native.h"

#include <inttypes.h>
#include <string.h>

static void number(const char *name, uint64_t v, bool json)
{
    printf(json ? ",\"%s\":%" PRIu64 : "  %-26s %" PRIu64 "\n", name, v);
}

static void ratio(const char *name, double v, bool json)
{
    printf(json ? ",\"%s\":%.4f" : "  %-26s %.4f\n", name, v);
}

static void print_native(const cvt_native_facts *f, bool json)
{
    char version[32];
    snprintf(version, sizeof version, "%d.%d", f->major, f->minor);
    printf(json ? ",\"version\":\"%s\"" : "  version                    %s\n", version);
    number("chunks", (uint64_t)f->chunks, json);
    number("chunk_bytes", f->stored_bytes, json);
    ratio("ratio", f->raw_bytes ? (double)f->stored_bytes / (double)f->raw_bytes : 1.0, json);
    if (!f->provenance || !*f->provenance) return;
    char safe[1024];
    fputs(json ? ",\"provenance\":" : "  provenance                 ", stdout);
    if (json) cli_json_string(stdout, f->provenance);
    else puts(fh1_printable(f->provenance, safe, sizeof safe));
}

static void print_losses(const char *losses, bool json)
{
    if (json) {
        fputs(",\"losses\":", stdout);
        cli_json_string(stdout, losses);
        return;
    }
    while (*losses) {
        size_t n = strcspn(losses, "\n");
        char line[1024], safe[1024];
        snprintf(line, sizeof line, "%.*s", (int)n, losses);
        if (n) printf("  %-26s %s\n", "not undone", fh1_printable(line, safe, sizeof safe));
        losses += n + (losses[n] == '\n');
    }
}

fh1_status cli_print_format(cvt_ckpt *c, bool json)
{
    static const cli_format formats[] = {
        [CVT_KIND_HF] = CLI_TO_HF, [CVT_KIND_NATIVE] = CLI_TO_FH1, [CVT_KIND_GGUF] = CLI_TO_GGUF};
    cvt_native_facts facts;
    const cvt_kind kind = c->kind;
    int64_t weights = 0;
    bool quantised;
    FH1_TRY(cvt_bnb_is(c, &quantised));
    if (kind == CVT_KIND_NATIVE) FH1_TRY(cvt_native_info(c, &facts));
    for (int64_t i = 0; i < c->n_files; i++) weights += c->files[i].weights;
    const char *name = cli_format_name(formats[kind]);
    printf(json ? ",\"format\":{\"name\":\"%s\"" : "format %s\n", name);
    number("bytes", cli_model_bytes(c->path, c), json);
    number("files", (uint64_t)c->n_files, json);
    number("weight_files", (uint64_t)weights, json);
    if (kind == CVT_KIND_NATIVE) print_native(&facts, json);
    if (kind == CVT_KIND_GGUF) print_losses(cvt_gguf_losses(c), json);
    if (json) printf(",\"quantised\":%s}", quantised ? "true" : "false");
    else if (quantised) printf("  %-26s bitsandbytes; sizes below are of the decoded weights\n", "quantised");
    return NULL;
}
