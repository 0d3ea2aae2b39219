#include "cli/commands.h"
#include "cli/version.h"
#include "convert/model_attach.h"
#include "cuda/engine.h"
#include "reference/engine.h"

#include <cblas.h> /* OpenBLAS: configuration and core type */
#include <string.h>

const char *cli_version(void)
{
    return FH1_VERSION;
}

void cli_print_version(FILE *out)
{
    fprintf(out, "fh1 %s\n", FH1_VERSION);
    fprintf(out, "commit    %s\n", FH1_COMMIT);
    fprintf(out, "BLAS      %s, core %s\n", openblas_get_config(), openblas_get_corename());
#if defined(__clang__)
    fprintf(out, "compiler  clang %s, %s\n", __clang_version__, FH1_BUILD_TYPE);
#else
    fprintf(out, "compiler  gcc %s, %s\n", __VERSION__, FH1_BUILD_TYPE);
#endif
}

bool cli_engine_is_cuda(const char *name)
{
    for (int i = 0; cu_engine_name_at(i); i++)
        if (strcmp(cu_engine_name_at(i), name) == 0) return true;
    return false;
}

const char *cli_engine_name_at(int i)
{
    int n = 0;
    while (ref_engine_name_at(n)) n++;
    return i < n ? ref_engine_name_at(i) : cu_engine_name_at(i - n);
}

fh1_status cli_engine_known(const char *name)
{
    char names[256] = "";
    for (int i = 0; cli_engine_name_at(i); i++) {
        const char *known = cli_engine_name_at(i);
        if (strcmp(known, name) == 0) return strcmp(name, "cuda") == 0 ? cu_device_missing() : NULL;
        size_t n = strlen(names);
        snprintf(names + n, sizeof names - n, "%s%s", n ? ", " : "", known);
    }
    return fh1_found(fh1_expected(FH1_BAD("unknown engine"), "%s", names), "'%s'", name);
}

fh1_status cli_engine_new(const char *name, const fh1_profile *profile, unsigned variants, fh1_engine **out)
{
    FH1_TRY(cli_engine_known(name));
    if (cli_engine_is_cuda(name)) return cu_engine_new(name, profile, variants, out);
    *out = ref_engine_new(name, profile, variants);
    return *out ? NULL : fh1_no_memory(sizeof **out, name);
}

bool cli_engine_runs(const char *name, const fh1_profile *p)
{
    if (cli_engine_is_cuda(name)) return strcmp(p->name, "fp32") == 0 || strcmp(p->name, "cuda-bf16") == 0;
    return strcmp(name, "ref-bf16") == 0;
}

static void warn(const char *adapter, const char *sentence)
{
    char line[2048];
    fprintf(stderr, "warning: %s: %s\n", adapter, fh1_printable(sentence, line, sizeof line));
}

fh1_status cli_model_open(const char *path, const cli_list *adapters, fh1_model *out)
{
    const cvt_attach a = {.adapters = adapters->items, .n = adapters->n, .warn = warn};
    return cvt_model_open_attached(path, &a, out);
}

fh1_status cli_dtype(const char *option, const char *text, fh1_dtype *out)
{
    static const struct {
        const char *name;
        fh1_dtype t;
    } known[] = {{"f64", FH1_F64}, {"f32", FH1_F32}, {"bf16", FH1_BF16}, {"f16", FH1_F16}};
    for (int i = 0; i < 4; i++) {
        if (strcmp(known[i].name, text) != 0) continue;
        *out = known[i].t;
        return NULL;
    }
    return fh1_found(fh1_expected(FH1_BAD("%s: unknown type", option), "f64, f32, bf16 or f16"), "'%s'", text);
}

void cli_json_string(FILE *out, const char *text)
{
    char safe[4096]; /* longer than any path; after it no byte is a control character */
    fh1_printable(text, safe, sizeof safe);
    putc('"', out);
    for (const char *p = safe; *p; p++) {
        if (*p == '"' || *p == '\\') putc('\\', out);
        putc(*p, out);
    }
    putc('"', out);
}

void cli_warn(const char *where, const char *sentence)
{
    char a[1024], b[2048];
    fprintf(stderr, "warning: %s: %s\n", fh1_printable(where, a, sizeof a), fh1_printable(sentence, b, sizeof b));
}
