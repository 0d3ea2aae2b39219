/* The report as JSON lines, and the lines of its history. */
#include "oracle/report_impl.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdlib.h>

/* The adders return false without memory. */

static bool add_item(cJSON *o, const char *key, cJSON *item)
{
    if (item && cJSON_AddItemToObject(o, key, item)) return true;
    cJSON_Delete(item);
    return false;
}

static bool add_text(cJSON *o, const char *key, const char *text)
{
    char *safe = fh1_report_printable(text); /* cJSON would hand on bytes that are not UTF-8 */
    bool ok = safe && cJSON_AddStringToObject(o, key, safe);
    free(safe);
    return ok;
}

/* Nine digits: more than any verdict needs, and the same on every machine. JSON has no NaN or infinity. */
static bool add_number(cJSON *o, const char *key, double v)
{
    char text[40];
    if (!isfinite(v)) return add_item(o, key, cJSON_CreateNull());
    snprintf(text, sizeof text, "%.9g", v);
    return add_item(o, key, cJSON_CreateRaw(text));
}

/* cJSON keeps numbers as f64 and would print large integers with an exponent. */
static cJSON *integer(int64_t v)
{
    char text[32];
    snprintf(text, sizeof text, "%lld", (long long)v);
    return cJSON_CreateRaw(text);
}

static bool add_where(cJSON *o, const fh1_report_tap *t)
{
    cJSON *list = cJSON_CreateArray();
    if (!add_item(o, "where", list)) return false;
    for (int i = 0; i < t->rank; i++) {
        cJSON *v = integer(t->where[i]);
        if (!v || !cJSON_AddItemToArray(list, v)) {
            cJSON_Delete(v);
            return false;
        }
    }
    return true;
}

static bool add_suspects(cJSON *o, const fh1_report_subject *s)
{
    cJSON *list = cJSON_AddArrayToObject(o, "suspects");
    for (int i = 0; list && s && i < s->n_suspects; i++) {
        cJSON *item = cJSON_CreateObject();
        if (!item || !cJSON_AddItemToArray(list, item)) {
            cJSON_Delete(item);
            return false;
        }
        if (!add_text(item, "fault", s->suspects[i].fault) || !add_number(item, "score", s->suspects[i].score) ||
            !add_text(item, "evidence", s->suspects[i].evidence))
            return false;
    }
    return list != NULL;
}

/* Prints and deletes `o`; `ok` says whether it is whole. */
static fh1_status print_line(FILE *out, cJSON *o, bool ok)
{
    char *line = ok ? cJSON_PrintUnformatted(o) : NULL;
    cJSON_Delete(o);
    if (!line) return fh1_no_memory(4096, "a line of JSON");
    fprintf(out, "%s\n", line);
    cJSON_free(line);
    return NULL;
}

fh1_status fh1_report_json_tap(FILE *out, const fh1_report_subject *s, const fh1_report_tap *t)
{
    cJSON *o = cJSON_CreateObject();
    bool ok = o && add_text(o, "subject", s->name);
    ok = ok && add_text(o, "tap", t->tap);
    ok = ok && add_item(o, "step", integer(t->step));
    ok = ok && add_text(o, "verdict", fh1_verdict_name(t->verdict));
    ok = ok && add_number(o, "margin", t->margin);
    ok = ok && add_number(o, "rms_ratio", t->rms_ratio);
    ok = ok && add_number(o, "max_err", t->max_err);
    ok = ok && add_where(o, t);
    ok = ok && add_number(o, "allowed", t->allowed);
    ok = ok && add_number(o, "rel_rms", t->rel_rms);
    ok = ok && add_number(o, "free_rms", t->free_rms);
    if (t->reason[0]) ok = ok && add_text(o, "reason", t->reason);
    if (t->note[0]) ok = ok && add_text(o, "note", t->note);
    return print_line(out, o, ok);
}

static bool add_first(cJSON *o, const fh1_report_subject *s)
{
    if (!s) return add_item(o, "first_divergence", cJSON_CreateNull());
    cJSON *first = cJSON_AddObjectToObject(o, "first_divergence");
    return first && add_text(first, "tap", s->taps[s->first].tap) &&
           add_item(first, "step", integer(s->taps[s->first].step)) && add_where(first, &s->taps[s->first]);
}

fh1_status fh1_report_json_summary(const fh1_report *r, FILE *out)
{
    const fh1_report_subject *bad = r->first == FH1_NO_TAP ? NULL : &r->list[r->first];
    cJSON *o = cJSON_CreateObject();
    bool ok = o && add_item(o, "summary", cJSON_CreateTrue());
    ok = ok && add_text(o, "fh1", r->version);
    ok = ok && add_item(o, "schema", integer(1));
    ok = ok && add_text(o, "verdict", fh1_verdict_name(fh1_report_verdict(r)));
    ok = ok && add_first(o, bad);
    ok = ok && add_suspects(o, bad);
    ok = ok && add_text(o, "repro", fh1_report_repro(r, bad));
    if (bad) ok = ok && add_text(o, "subject", bad->name);
    ok = ok && add_item(o, "subjects", integer((int64_t)r->n_list));
    ok = ok && add_item(o, "mistrusted_subjects", integer(r->mistrusted_subjects));
    ok = ok && add_item(o, "expected_failures", integer(r->expected_failures));
    if (r->unmet[0]) ok = ok && add_text(o, "reason", r->unmet);
    return print_line(out, o, ok);
}

fh1_status fh1_report_lines(const fh1_report *r, FILE *out)
{
    for (size_t i = 0; i < r->n_list; i++)
        for (size_t k = 0; k < r->list[i].n_taps; k++)
            FH1_TRY(fh1_report_json_tap(out, &r->list[i], &r->list[i].taps[k]));
    return fh1_report_json_summary(r, out);
}

/* Margins that are no number prove no trend and are left out. */
static fh1_status history_line(const fh1_report *r, const fh1_report_subject *s, FILE *out)
{
    fh1_report_kind_row *rows;
    int n = 0;
    FH1_TRY(fh1_report_fold(s, &rows, &n));
    cJSON *o = cJSON_CreateObject(), *margins = NULL;
    bool ok = o && add_text(o, "time", r->time) && add_text(o, "fh1", r->version) && add_text(o, "subject", s->label) &&
              add_text(o, "verdict", fh1_verdict_name(fh1_report_shown(s)));
    ok = ok && (margins = cJSON_AddObjectToObject(o, "margins")) != NULL;
    for (int i = 0; ok && i < n; i++)
        if (rows[i].worst && isfinite(rows[i].worst->margin))
            ok = add_number(margins, rows[i].name, rows[i].worst->margin);
    free(rows);
    return print_line(out, o, ok);
}

fh1_status fh1_report_history(const fh1_report *r, FILE *out)
{
    for (size_t i = 0; i < r->n_list; i++) FH1_TRY(history_line(r, &r->list[i], out));
    return NULL;
}
