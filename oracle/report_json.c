/* The report as JSON lines. */
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

static bool add_where(cJSON *o, const fh1_tap_result *t)
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

/* Prints and deletes `o`; `ok` says whether it is whole. */
static fh1_status print_line(fh1_report *r, cJSON *o, bool ok)
{
    char *line = ok ? cJSON_PrintUnformatted(o) : NULL;
    cJSON_Delete(o);
    if (!line) return fh1_no_memory(4096, "a line of JSON");
    fprintf(r->out, "%s\n", line);
    cJSON_free(line);
    return NULL;
}

fh1_status fh1_report_json_tap(fh1_report *r, const fh1_tap_result *t)
{
    cJSON *o = cJSON_CreateObject();
    bool ok = o && add_text(o, "subject", t->subject);
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
    return print_line(r, o, ok);
}

static bool add_first(cJSON *o, const fh1_report *r)
{
    if (!r->has_first) return add_item(o, "first_divergence", cJSON_CreateNull());
    cJSON *first = cJSON_AddObjectToObject(o, "first_divergence");
    return first && add_text(first, "tap", r->first.tap) && add_item(first, "step", integer(r->first.step)) &&
           add_where(first, &r->first);
}

fh1_status fh1_report_json_summary(fh1_report *r, const char *version, const char *repro)
{
    cJSON *o = cJSON_CreateObject();
    bool ok = o && add_item(o, "summary", cJSON_CreateTrue());
    ok = ok && add_text(o, "fh1", version);
    ok = ok && add_item(o, "schema", integer(1));
    ok = ok && add_text(o, "verdict", fh1_verdict_name(fh1_report_verdict(r)));
    ok = ok && add_first(o, r);
    ok = ok && add_item(o, "suspects", cJSON_CreateArray());
    ok = ok && add_text(o, "repro", repro);
    if (r->first_subject) ok = ok && add_text(o, "subject", r->first_subject);
    ok = ok && add_item(o, "subjects", integer(r->subjects));
    ok = ok && add_item(o, "mistrusted_subjects", integer(r->mistrusted_subjects));
    ok = ok && add_item(o, "expected_failures", integer(r->expected_failures));
    if (r->unmet[0]) ok = ok && add_text(o, "reason", r->unmet);
    return print_line(r, o, ok);
}
