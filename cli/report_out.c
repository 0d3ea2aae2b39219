#include "cli/report_out.h"

#include "cli/commands.h"

#include <stdlib.h>

fh1_status cli_report_open(bool json, bool verbose, cli_report *r)
{
    *r = (cli_report){.json = json};
    r->out = json ? open_memstream(&r->text, &r->size) : stdout;
    if (!r->out) return fh1_no_memory(0, "the report");
    return fh1_report_new(json ? FH1_REPORT_JSON : FH1_REPORT_TABLE, verbose, r->out, &r->report);
}

fh1_status cli_report_finish(cli_report *r, const char *repro, int *code)
{
    *code = fh1_report_finish(r->report, cli_version(), repro);
    if (*code != FH1_E_INTERNAL) return NULL;
    return fh1_fail(FH1_E_INTERNAL, "the report is incomplete: no memory, no room, or nobody reads it");
}

fh1_status cli_report_close(cli_report *r, fh1_status s)
{
    fh1_report_free(r->report);
    if (!r->json || !r->out) return s;
    const bool complete = fclose(r->out) == 0;
    if (!s && !complete) s = fh1_no_memory(r->size, "the report");
    if (!s) fwrite(r->text, 1, r->size, stdout);
    free(r->text);
    return s;
}
