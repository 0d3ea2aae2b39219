#include "golden/repro.h"

#include "golden/words.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

void gld_repro_copy(gld_repro *to, const gld_repro *from)
{
    if (to == from) return;
    *to = *from;
    gld_seeded_spec_copy(&to->make, &from->make);
}

/* -- reading ------------------------------------------------------------------------------------- */

/* Words between blanks; "\ " is a blank and "\\" a backslash. */
static bool next_option(const char **rest, gld_word *w)
{
    const char *p = *rest;
    size_t n = 0;
    while (*p == ' ' || *p == '\t' || *p == '\n') p++;
    if (!*p) return false;
    for (; *p && *p != ' ' && *p != '\t' && *p != '\n'; p++) {
        if (*p == '\\' && p[1]) p++;
        w->text[n++] = *p;
    }
    w->text[n] = 0;
    *rest = p;
    return true;
}

enum {
    OPT_MODEL,
    OPT_MAKE,
    OPT_ENGINE,
    OPT_SEED,
    OPT_SCHEDULE,
    OPT_TRAFFIC,
    OPT_POSITIONS,
    OPT_CONTRACT,
    OPT_VARIANT,
    OPT_FAULT,
    OPT_TAP,
    OPT_STEP,
    N_OPTIONS
};
static const char *const option_names[N_OPTIONS] = {"model",     "make",     "engine",  "seed",  "schedule", "traffic",
                                                    "positions", "contract", "variant", "fault", "tap",      "step"};

static fh1_status keep(const char *value, char *to, size_t size)
{
    if (!*value || strlen(value) >= size) return fh1_expected(FH1_BAD("not a value"), "1 to %zu bytes", size - 1);
    snprintf(to, size, "%s", value);
    return NULL;
}

static fh1_status read_number(const char *value, int64_t *v)
{
    char shown[64];
    if (gld_word_integer(value, v) && *v >= 0) return NULL;
    fh1_status s = fh1_expected(FH1_BAD("not a number that fits"), "a whole number below 10^18");
    return fh1_found(s, "'%s'", fh1_printable(value, shown, sizeof shown));
}

static fh1_status read_seed(const char *value, uint64_t *seed)
{
    int64_t v;
    FH1_TRY(read_number(value, &v));
    *seed = (uint64_t)v;
    return NULL;
}

static fh1_status check_fault(const char *fault)
{
    char shown[96];
    if (!*fault || fh1_fault_find(fault) != FH1_FAULT_NONE) return NULL;
    fh1_status s = FH1_BAD("unknown fault '%s'", fh1_printable(fault, shown, sizeof shown));
    return fh1_hint(s, "fh1 faults lists them");
}

static fh1_status take(int which, const char *value, gld_repro *r)
{
    unsigned set;
    const fh1_profile *profile;
    switch (which) {
    case OPT_MODEL: return keep(value, r->model, sizeof r->model);
    case OPT_MAKE: return gld_seeded_parse(value, &r->make);
    case OPT_ENGINE: return keep(value, r->engine, sizeof r->engine);
    case OPT_SEED: return read_seed(value, &r->seed);
    case OPT_SCHEDULE: {
        const bool none = r->calls.no_positions; /* --positions may have come first */
        const int64_t first = r->calls.first_position;
        FH1_TRY(gld_calls_parse(value, &r->calls));
        r->calls.no_positions = none;
        r->calls.first_position = first;
        return NULL;
    }
    case OPT_TRAFFIC: r->is_traffic = true; return gld_traffic_parse(value, &r->traffic);
    case OPT_POSITIONS:
        r->calls.no_positions = strcmp(value, "none") == 0;
        return r->calls.no_positions ? NULL : read_number(value, &r->calls.first_position);
    case OPT_CONTRACT:
        FH1_TRY(fh1_contract_parse(value, &profile, &set));
        return keep(value, r->contract, sizeof r->contract);
    case OPT_VARIANT: FH1_TRY(fh1_variants_parse(value, &set)); return keep(value, r->variant, sizeof r->variant);
    case OPT_FAULT: FH1_TRY(check_fault(value)); return keep(value, r->fault, sizeof r->fault);
    case OPT_TAP: return keep(value, r->taps, sizeof r->taps);
    default: return read_number(value, &r->step);
    }
}

/* The number of an option "--NAME=VALUE", its value in *value. */
static fh1_status find_option(gld_word *w, int *which, const char **value)
{
    char shown[96];
    *value = gld_word_split(w);
    fh1_printable(w->text, shown, sizeof shown);
    if (strncmp(w->text, "--", 2) != 0)
        return fh1_found(fh1_expected(FH1_BAD("not an option"), "--NAME=VALUE"), "'%s'", shown);
    for (*which = 0; *which < N_OPTIONS; ++*which) {
        if (strcmp(w->text + 2, option_names[*which]) != 0) continue;
        return *value ? NULL : fh1_expected(FH1_BAD("%s has no value", shown), "%s=VALUE", shown);
    }
    return fh1_hint(FH1_BAD("unknown option '%s'", shown), "see fh1 repro --help");
}

/* What a made model and its traffic may take; a double does not overflow. */
static fh1_status check_traffic_line(const gld_repro *r, unsigned given)
{
    static const int others[] = {OPT_SCHEDULE, OPT_POSITIONS, OPT_TAP, OPT_STEP};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (given >> others[i] & 1) return FH1_BAD("--traffic and --%s contradict each other", option_names[others[i]]);
    if (*r->model) return NULL;
    const fh1_config *c = &r->make.config;
    const double looks = (double)(r->traffic.n + 1), kv = 2 * (double)c->n_layers * (double)(c->Hkv * c->A);
    const double kept = (double)gld_traffic_cells(&r->traffic) * ((double)c->V + looks * kv);
    if (kept <= 0x1p28) return NULL;
    return fh1_found(fh1_expected(FH1_BAD("the traffic is too much for this model"), "up to 2^28 numbers to keep"),
                     "%.3g", kept);
}

static fh1_status check_model_line(const gld_repro *r, unsigned given)
{
    if (given >> OPT_MODEL & given >> OPT_MAKE & 1) return FH1_BAD("--model and --make contradict each other");
    if (!(given & (1u << OPT_MODEL | 1u << OPT_MAKE)))
        return fh1_expected(FH1_BAD("a line without its subject"), "--op=NAME, --model=FOLDER or --make=SIZES");
    if (!(given & (1u << OPT_SCHEDULE | 1u << OPT_TRAFFIC)))
        return fh1_expected(FH1_BAD("--schedule is missing"), "as --schedule=p9x2;d3, or --traffic=a=2;a+9;a*3");
    if (!*r->engine) return fh1_expected(FH1_BAD("--engine is missing"), "as --engine=ref-f32");
    if (r->is_traffic) return check_traffic_line(r, given);
    if (r->step >= gld_calls_steps(&r->calls))
        return fh1_found(
            fh1_expected(FH1_BAD("--step is behind the schedule"), "below %" PRId64, gld_calls_steps(&r->calls)),
            "%" PRId64, r->step);
    FH1_TRY(gld_calls_check(&r->calls));
    if (*r->model) return NULL;
    FH1_TRY(gld_taps_check(*r->taps ? r->taps : NULL, &r->make.config));
    const double recorded = gld_calls_recorded(&r->calls, &r->make.config);
    if (recorded <= 0x1p28) return NULL;
    return fh1_found(fh1_expected(FH1_BAD("the schedule is too long for this model"), "up to 2^28 numbers to record"),
                     "%.3g", recorded);
}

/* A word of its own: a folder may be called "a --op=b". */
static bool names_an_op(const char *line)
{
    gld_word w;
    while (next_option(&line, &w))
        if (strncmp(w.text, "--op=", 5) == 0) return true;
    return false;
}

static fh1_status parse_op(const char *line, gld_repro *out)
{
    const fh1_profile *profile;
    unsigned set;
    out->is_op = true;
    FH1_TRY(gld_op_case_parse(line, &out->op));
    FH1_TRY(check_fault(out->op.fault));
    if (*out->op.contract) FH1_TRY(fh1_contract_parse(out->op.contract, &profile, &set));
    if (!*out->op.engine) snprintf(out->op.engine, sizeof out->op.engine, "ref-f32");
    return NULL;
}

fh1_status gld_repro_parse(const char *line, gld_repro *out)
{
    gld_word w;
    unsigned given = 0;
    memset(out, 0, sizeof *out);
    out->step = -1;
    out->seed = 1;
    gld_seeded_usual(&out->make);
    if (strlen(line) >= GLD_WORD_SIZE) return FH1_BAD("the line is longer than %d bytes", GLD_WORD_SIZE - 1);
    if (names_an_op(line)) return parse_op(line, out);
    while (next_option(&line, &w)) {
        int which = 0;
        const char *value;
        FH1_TRY(find_option(&w, &which, &value));
        if (given >> which & 1) return FH1_BAD("--%s is given twice", option_names[which]);
        given |= 1u << which;
        fh1_status s = take(which, value, out);
        if (s) return fh1_where(s, "--%s", option_names[which]);
    }
    return check_model_line(out, given);
}

/* -- writing ------------------------------------------------------------------------------------- */

static void print_text(const char *name, const char *value, FILE *out)
{
    if (!*value) return;
    fprintf(out, " --%s=", name);
    for (; *value; value++) {
        if (strchr(" \t\n\\", *value)) putc('\\', out);
        putc(*value, out);
    }
}

static void print_model(const gld_repro *r, FILE *out)
{
    if (*r->model) {
        print_text("model", r->model, out);
    } else {
        fputs(" --make=", out);
        gld_seeded_print(&r->make, out);
    }
    print_text("engine", r->engine, out);
    fprintf(out, " --seed=%" PRIu64 " --%s=", r->seed, r->is_traffic ? "traffic" : "schedule");
    if (r->is_traffic) gld_traffic_print(&r->traffic, out);
    else gld_calls_print(&r->calls, out);
    if (r->calls.no_positions) fputs(" --positions=none", out);
    else if (r->calls.first_position) fprintf(out, " --positions=%" PRId64, r->calls.first_position);
    print_text("contract", r->contract, out);
    print_text("variant", r->variant, out);
    print_text("fault", r->fault, out);
    print_text("tap", r->taps, out);
    if (r->step >= 0) fprintf(out, " --step=%" PRId64, r->step);
}

char *gld_repro_print(const gld_repro *r)
{
    char *text = NULL, op[GLD_OP_LINE];
    size_t size = 0;
    if (r->is_op) return strdup(gld_op_case_print(&r->op, op, sizeof op));
    FILE *out = open_memstream(&text, &size);
    if (!out) return NULL;
    print_model(r, out);
    if (fclose(out) != 0) {
        free(text);
        return NULL;
    }
    memmove(text, text + 1, size); /* every option begins with a blank */
    return text;
}

char *gld_repro_command(const gld_repro *r)
{
    char *line = gld_repro_print(r), *text = NULL;
    size_t size = 0;
    FILE *out = line ? open_memstream(&text, &size) : NULL;
    if (out) {
        fputs("fh1 repro ", out);
        gld_print_quoted(line, out);
        if (fclose(out) != 0) {
            free(text);
            text = NULL;
        }
    }
    free(line);
    return text;
}

static void list_variants(unsigned set, char *buf, size_t size)
{
    const fh1_variant_info *v;
    for (int i = 0; (v = fh1_variant_at(i)); i++) {
        size_t used = strlen(buf);
        if (set & v->bit) snprintf(buf + used, size - used, "%s%s", used ? "," : "", v->name);
    }
}

fh1_status gld_repro_line(const fh1_model *m, const char *engine, const fh1_profile *contract, unsigned variants,
                          uint64_t seed, const gld_trace *inputs, char **command)
{
    gld_repro *r = calloc(1, sizeof *r);
    bool found = false;
    *command = NULL;
    if (!r) return fh1_no_memory(sizeof *r, "a repro line");
    r->step = -1;
    r->seed = seed;
    snprintf(r->model, sizeof r->model, "%s", m->path);
    snprintf(r->engine, sizeof r->engine, "%s", engine);
    if (contract) snprintf(r->contract, sizeof r->contract, "%s", contract->name);
    list_variants(variants, r->variant, sizeof r->variant);
    fh1_status s = *m->path && seed < UINT64_C(1000000000000000000)
                       ? gld_calls_of_trace(inputs, m->config.V, seed, &r->calls, &found)
                       : NULL;
    if (!s && found) {
        *command = gld_repro_command(r);
        if (!*command) s = fh1_no_memory(sizeof *r, "a repro line");
    }
    free(r);
    return s;
}
