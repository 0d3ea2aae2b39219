#include "cli/verify.h"
#include "convert/safetensors.h"

#include <stdlib.h>
#include <string.h>

/* "step12/name": 12, and the name in *rest; -1 when it is not of that form. */
static int64_t step_of(const char *name, const char **rest)
{
    int64_t step = 0;
    if (strncmp(name, "step", 4) != 0) return -1;
    const char *p = name + 4;
    for (; *p >= '0' && *p <= '9' && step < (1 << 24); p++) step = 10 * step + (*p - '0');
    if (p == name + 4 || *p != '/') return -1;
    *rest = p + 1;
    return step;
}

/* A trace: steps without gaps, each with its token ids. Without the model there is no more to say. */
static fh1_status check_trace(const cvt_st *f)
{
    int64_t last = -1, n_ids = 0;
    const char *rest;
    for (int64_t i = 0; i < cvt_st_count(f); i++) {
        const cvt_st_entry *e = cvt_st_at(f, i);
        int64_t step = step_of(e->name, &rest);
        if (step < 0)
            return fh1_expected(fh1_where(fh1_fail(FH1_E_WRONG, "the tensor of a trace belongs to no step"),
                                          "%s, tensor \"%.200s\"", cvt_st_path(f), e->name),
                                "a name like step0/logits");
        if (step > last) last = step;
        if (strcmp(rest, "input_ids") != 0) continue;
        n_ids++;
        if (e->t.dtype != FH1_I64 || e->t.rank != 2)
            return fh1_expected(fh1_where(fh1_fail(FH1_E_WRONG, "the token ids have another type or shape"),
                                          "%s, tensor \"%.200s\"", cvt_st_path(f), e->name),
                                "I64 [B, T]");
    }
    if (n_ids == last + 1 && n_ids > 0) return NULL;
    fh1_status s = fh1_fail(FH1_E_WRONG, "a step of the trace has no token ids");
    return fh1_found(fh1_expected(fh1_where(s, "%s", cvt_st_path(f)), "stepN/input_ids for %lld steps",
                                  (long long)(last < 0 ? 1 : last + 1)),
                     "%lld", (long long)n_ids);
}

fh1_status cli_verify_safetensors(const char *path, const cvt_progress *progress, cli_verified *out)
{
    cvt_st *f;
    out->kind = "safetensors file";
    FH1_TRY(cvt_st_open_header(path, &f));
    const char *version = cvt_st_metadata(f, "fh1.trace");
    fh1_status s = NULL;
    if (version) {
        out->kind = "trace file";
        if (strcmp(version, "1") == 0) s = check_trace(f);
        else cli_verify_note(out, "the version of the trace is not known here: %.60s", version);
    }
    if (!s) s = cli_verify_values(f, progress, out);
    out->tensors = cvt_st_count(f);
    out->files = 1;
    cvt_st_close(f);
    return s;
}
