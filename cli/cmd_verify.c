/* fh1 verify: is this folder or file whole? */
#include "cli/commands.h"
#include "cli/options.h"
#include "cli/progress.h"
#include "cli/verify.h"

#include <inttypes.h>
#include <string.h>

static const char help[] =
    "usage: fh1 verify PATH [--json] [--quiet]\n\n"
    "Reads PATH to its last byte and checks every rule of its format: a model folder (config, index, headers, names "
    "and\n"
    "shapes of all tensors, side files), an adapter folder, a native file (every checksum), a GGUF file, a "
    "safetensors\n"
    "file, a trace. The first damage is named. NaN and infinity in weights, weight files that nothing mentions and\n"
    "the like are notes.\n\n"
    "  --json   one JSON object\n"
    "  --quiet  no progress\n\n"
    "exit codes: 0 whole, 1 damaged, 2 not such a file or folder, or it cannot be read, 3 internal error\n\n"
    "example: fh1 verify golden/models/mini-0.5b\n";

static void print_notes(const cli_verified *v, bool json)
{
    const char *p = v->notes.s ? v->notes.s : "";
    int64_t n = 0;
    for (; *p; n++) {
        size_t len = strcspn(p, "\n");
        char line[2048];
        snprintf(line, sizeof line, "%.*s", (int)len, p);
        if (json && n) putchar(',');
        if (json) cli_json_string(stdout, line);
        else printf("note: %s\n", line);
        p += len + (p[len] == '\n');
    }
    if (!json && v->n_notes > n) printf("note: %" PRId64 " more\n", v->n_notes - n);
}

static void print_json(const char *path, const cli_verified *v, const char *damage)
{
    fputs("{\"path\":", stdout);
    cli_json_string(stdout, path);
    printf(",\"kind\":\"%s\",\"verdict\":\"%s\",\"damage\":", v->kind ? v->kind : "unknown",
           damage ? "damaged" : "good");
    if (damage) cli_json_string(stdout, damage);
    else fputs("null", stdout);
    printf(",\"tensors\":%" PRId64 ",\"files\":%" PRId64 ",\"bytes\":%" PRIu64 ",\"n_notes\":%" PRId64 ",\"notes\":[",
           v->tensors, v->files, v->bytes, v->n_notes);
    print_notes(v, true);
    fputs("]}\n", stdout);
}

static fh1_status verify(const char *path, bool json, bool quiet, int *code)
{
    cli_progress p;
    cli_verified v;
    char damage[4096];
    cli_progress_begin(&p, "verify", quiet);
    fh1_status s = cli_progress_end(&p, cli_verify(path, &p.steps, &v));
    bool damaged = s && s->code == FH1_E_WRONG;
    if (!s || damaged) {
        if (damaged) fh1_status_line(s, damage, sizeof damage);
        char safe[4096];
        if (json) print_json(path, &v, damaged ? damage : NULL);
        else if (damaged) printf("damaged: %s\n", damage);
        else
            printf("good: %s, %s %s: %" PRId64 " tensors in %" PRId64 " file%s, %" PRIu64 " bytes\n",
                   fh1_printable(path, safe, sizeof safe), strchr("aeiou", v.kind[0]) ? "an" : "a", v.kind, v.tensors,
                   v.files, v.files == 1 ? "" : "s", v.bytes);
        if (!json) print_notes(&v, false);
        *code = damaged ? FH1_E_WRONG : 0;
        s = NULL;
    }
    cli_verified_free(&v);
    return s;
}

fh1_status cmd_verify(int argc, char **argv, int *code)
{
    bool json = false, quiet = false, done;
    const cli_option options[] = {{"json", 0, CLI_FLAG, &json, 0, 0}, {"quiet", 0, CLI_FLAG, &quiet, 0, 0}};
    const cli_syntax syntax = {"verify", help, options, 2, 1, 1, "PATH"};
    cli_list words = {0};
    *code = 0;
    fh1_status s = cli_parse(&syntax, argc, argv, &words, &done);
    if (!s && !done) s = verify(words.items[0], json, quiet, code);
    cli_list_free(&words);
    return s;
}
