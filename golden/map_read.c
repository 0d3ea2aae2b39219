#include "golden/map_rules.h"

#include "convert/file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_BYTES ((size_t)1 << 20)
#define MANY_LAYERS ((int64_t)1 << 20) /* the model is not known here */
#define BLANKS " \t\r"
#define FORM "a line is 'foreign -> ours [transpose 0,2,1] [reshape B,T,-1]' or 'ignore GLOB'"

/* Cuts a comment and the blanks around a line, in place. */
static char *trimmed(char *line)
{
    for (char *p = line; *p; p++) {
        if (*p == '#' && (p == line || strchr(BLANKS, p[-1]))) {
            *p = 0;
            break;
        }
    }
    line += strspn(line, BLANKS);
    size_t n = strlen(line);
    while (n > 0 && strchr(BLANKS, line[n - 1])) line[--n] = 0;
    return line;
}

static fh1_status copy_text(const char *text, char **out)
{
    *out = strdup(text);
    return *out ? NULL : fh1_no_memory(strlen(text) + 1, "a map");
}

static bool is_placeholder(const char *p)
{
    return strncmp(p, "{i}", 3) == 0 || strncmp(p, "{j}", 3) == 0;
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* Numbers must have clear ends, or "{i}0" could be read in two ways. */
static fh1_status check_foreign(const char *foreign)
{
    if (!foreign[0]) return FH1_BAD("no name before ' -> '");
    for (const char *p = foreign; *p; p++) {
        if (!is_placeholder(p)) continue;
        if ((p > foreign && is_digit(p[-1])) || is_digit(p[3]) || is_placeholder(p + 3))
            return FH1_BAD("%.3s in '%.100s' touches a digit or another placeholder", p, foreign);
    }
    return NULL;
}

/* Splits "stepN/" or "step{j}/" off; *step is N, or -1. */
static fh1_status split_step(const char **ours, bool foreign_has_j, int64_t *step)
{
    const char *p = *ours + 4;
    *step = -1;
    if (strncmp(*ours, "step", 4) == 0 && strncmp(p, "{j}/", 4) == 0) {
        if (!foreign_has_j) return FH1_BAD("{j} stands on the right only");
        *ours = p + 4;
    } else if (strncmp(*ours, "step", 4) == 0 && gld_map_number(&p, step) && *p == '/') {
        if (foreign_has_j) return FH1_BAD("{j} on the left contradicts step%lld/ on the right", (long long)*step);
        *ours = p + 1;
    } else {
        *step = -1;
    }
    return NULL;
}

static fh1_status check_ours(const char *ours, bool foreign_has_i)
{
    char name[FH1_TAP_NAME_SIZE];
    gld_name parsed;
    bool has_i = strstr(ours, "{i}") != NULL;
    if (has_i && !foreign_has_i) return FH1_BAD("{i} stands on the right only");
    if (!gld_map_expand(ours, 0, name, sizeof name) || !gld_map_ours(NULL, name, MANY_LAYERS, &parsed))
        return fh1_hint(FH1_BAD("'%.100s' is neither a tap nor an input", ours), "fh1 taps MODEL lists them");
    if (foreign_has_i && !has_i) return FH1_BAD("{i} stands on the left only: all layers would become %.100s", ours);
    return NULL;
}

/* -- operations -------------------------------------------------------------------------------- */

static bool parse_size(const char *text, int64_t *out)
{
    static const struct {
        const char *text;
        int64_t code;
    } names[] = {{"B", GLD_SIZE_B}, {"T", GLD_SIZE_T}, {"S", GLD_SIZE_S}, {"-1", GLD_SIZE_REST}};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (strcmp(text, names[i].text) != 0) continue;
        *out = names[i].code;
        return true;
    }
    return gld_map_number(&text, out) && *text == 0 && *out > 0;
}

static bool parse_axis(const char *text, int64_t *out)
{
    return gld_map_number(&text, out) && *text == 0 && *out < FH1_MAX_RANK;
}

static bool args_make_sense(const gld_map_op *op)
{
    unsigned seen = 0;
    int n_rest = 0;
    for (int i = 0; i < op->n; i++) {
        if (op->is_reshape) n_rest += op->arg[i] == GLD_SIZE_REST;
        else seen |= 1u << op->arg[i];
    }
    return op->is_reshape ? n_rest <= 1 : seen == (1u << op->n) - 1;
}

static fh1_status parse_op(const char *verb, char *list, gld_map_op *op)
{
    op->is_reshape = strcmp(verb, "reshape") == 0;
    if (!op->is_reshape && strcmp(verb, "transpose") != 0) {
        fh1_status s = FH1_BAD("unknown operation '%.60s'", verb);
        return fh1_hint(s, FORM);
    }
    bool good = list && strlen(list) < sizeof op->text;
    if (good) memcpy(op->text, list, strlen(list) + 1);
    op->n = 0;
    for (char *next = list; good && next;) {
        char *item = strsep(&next, ",");
        good = op->n < FH1_MAX_RANK && (op->is_reshape ? parse_size : parse_axis)(item, &op->arg[op->n]);
        if (good) op->n++;
    }
    if (good && args_make_sense(op)) return NULL;
    fh1_status s = FH1_BAD("'%s' is not followed by a list that it understands", verb);
    return fh1_expected(s, "%s",
                        op->is_reshape ? "sizes such as B,T,-1 without blanks, at most one -1"
                                       : "every axis once, such as 0,2,1,3 without blanks");
}

static fh1_status parse_ops(char *rest, gld_rule *r)
{
    char *save, *verb = strtok_r(rest, BLANKS, &save);
    for (; verb; verb = strtok_r(NULL, BLANKS, &save)) {
        if (r->n_ops == GLD_MAX_OPS) return FH1_BAD("more than %d operations", GLD_MAX_OPS);
        FH1_TRY(parse_op(verb, strtok_r(NULL, BLANKS, &save), &r->ops[r->n_ops]));
        r->n_ops++;
    }
    return NULL;
}

/* -- lines ------------------------------------------------------------------------------------- */

static fh1_status add_rule(gld_map *m, int line, char *foreign, char *right)
{
    gld_rule *rules = realloc(m->rules, ((size_t)m->n_rules + 1) * sizeof *rules);
    if (!rules) return fh1_no_memory(sizeof *rules, "a map");
    m->rules = rules;
    gld_rule *r = &m->rules[m->n_rules++];
    *r = (gld_rule){.line = line};

    char *end = right + strcspn(right, BLANKS);
    char *ops = *end ? end + 1 : end;
    *end = 0;
    const char *ours = right;
    bool has_i = strstr(foreign, "{i}"), has_j = strstr(foreign, "{j}");
    FH1_TRY(check_foreign(foreign));
    FH1_TRY(split_step(&ours, has_j, &r->step));
    FH1_TRY(check_ours(ours, has_i));
    FH1_TRY(parse_ops(ops, r));
    FH1_TRY(copy_text(foreign, &r->foreign));
    return copy_text(ours, &r->ours);
}

static fh1_status add_ignored(gld_map *m, const char *glob)
{
    char **ignored = realloc(m->ignored, ((size_t)m->n_ignored + 1) * sizeof *ignored);
    if (!ignored) return fh1_no_memory(sizeof *ignored, "a map");
    m->ignored = ignored;
    FH1_TRY(copy_text(glob, &m->ignored[m->n_ignored]));
    m->n_ignored++;
    return NULL;
}

static fh1_status parse_line(gld_map *m, int number, char *line)
{
    char *p = trimmed(line), *arrow = strstr(p, " -> ");
    if (!*p) return NULL;
    if (arrow) {
        *arrow = 0;
        return add_rule(m, number, trimmed(p), trimmed(arrow + 4));
    }
    if (strncmp(p, "ignore", 6) == 0 && p[6] && strchr(BLANKS, p[6])) return add_ignored(m, trimmed(p + 6));
    return fh1_hint(FH1_BAD("no rule: '%.100s'", p), FORM);
}

static fh1_status parse_lines(gld_map *m, char *text)
{
    int number = 1;
    for (char *next = text; next; number++) {
        fh1_status s = parse_line(m, number, strsep(&next, "\n"));
        if (s) return fh1_where(s, "%s, line %d", m->path, number);
    }
    return NULL;
}

fh1_status gld_map_parse(const char *text, size_t n, const char *what, gld_map **out)
{
    *out = NULL;
    if (memchr(text, 0, n)) return fh1_where(FH1_BAD("a map is text; this holds a zero byte"), "%s", what);
    gld_map *m = calloc(1, sizeof *m);
    char *copy = strndup(text, n);
    fh1_status s = m && copy ? NULL : fh1_no_memory(n + sizeof *m, "a map");
    if (!s) {
        snprintf(m->path, sizeof m->path, "%s", what);
        s = parse_lines(m, copy);
    }
    free(copy);
    if (s) gld_map_free(m);
    else *out = m;
    return s;
}

fh1_status gld_map_read(const char *path, gld_map **out)
{
    char *text;
    size_t n;
    *out = NULL;
    FH1_TRY(cvt_file_read(path, MAX_BYTES, &text, &n));
    fh1_status s = gld_map_parse(text, n, path, out);
    free(text);
    return s;
}
