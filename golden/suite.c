#include "golden/suite.h"

#include "convert/file.h"
#include "convert/json.h"
#include "oracle/contract.h"
#include "oracle/tap.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_BYTES ((size_t)16 << 20)
#define DEPTH 3                        /* suite, cases, case */
#define MANY_LAYERS ((int64_t)1 << 20) /* the models are not open here */

typedef struct {
    const char *dir, *file;
    const cJSON *json; /* of the case */
    int64_t index;
} place;

static const char *const known_keys[] = {"name",    "model",      "adapter",     "trace", "expect", "contract",
                                         "variant", "expect_tap", "expect_step", "bug",   "note"};

/* "suite.json, case 3 (odd/t1)" */
static fh1_status in_case(const place *p, fh1_status s)
{
    const cJSON *name = cJSON_GetObjectItemCaseSensitive(p->json, "name");
    if (cJSON_IsString(name))
        return fh1_where(s, "%s, case %lld (%.80s)", p->file, (long long)p->index, name->valuestring);
    return fh1_where(s, "%s, case %lld", p->file, (long long)p->index);
}

static fh1_status copy_text(const char *text, char **out)
{
    *out = strdup(text);
    return *out ? NULL : fh1_no_memory(strlen(text) + 1, "a suite");
}

/* The string of a key; NULL when it is absent and may be. */
static fh1_status read_text(const place *p, const char *key, bool required, char **out)
{
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(p->json, key);
    *out = NULL;
    if (!v && !required) return NULL;
    if (!v) return in_case(p, FH1_BAD("key \"%s\" is missing", key));
    if (!cJSON_IsString(v) || !v->valuestring[0])
        return in_case(p, fh1_expected(FH1_BAD("key \"%s\" has no text", key), "a string that is not empty"));
    return copy_text(v->valuestring, out);
}

/* A path that exists, from the suite's folder. */
static fh1_status read_path(const place *p, const char *key, char **out)
{
    char *name, path[4096];
    FH1_TRY(read_text(p, key, true, &name));
    fh1_status s = NULL;
    if (name[0] == '/') s = copy_text(name, out);
    else if (!(s = cvt_path_join(path, sizeof path, p->dir, name))) s = copy_text(path, out);
    free(name);
    if (s) return in_case(p, s);
    if (cvt_path_exists(*out)) return NULL;
    s = fh1_found(FH1_BAD("\"%s\" does not exist", key), "%s", *out);
    return in_case(p, fh1_hint(s, "paths are relative to the folder of suite.json"));
}

static fh1_status check_keys(const place *p)
{
    if (!cJSON_IsObject(p->json)) return in_case(p, FH1_BAD("a case is an object {…}"));
    for (const cJSON *v = p->json->child; v; v = v->next) {
        bool known = false;
        for (size_t i = 0; i < sizeof known_keys / sizeof *known_keys; i++)
            known |= strcmp(v->string, known_keys[i]) == 0;
        if (known) continue;
        fh1_status s = FH1_BAD("unknown key \"%.80s\"", v->string);
        return in_case(
            p, fh1_expected(s, "name, model, adapter, trace, expect, contract, variant, expect_tap, expect_step,"
                               " bug or note"));
    }
    return NULL;
}

/* A wrong trace must be wrong at a place that is known beforehand: a FAIL for another reason proves nothing. */
static fh1_status read_expectation(const place *p, gld_case *c)
{
    char *expect;
    FH1_TRY(read_text(p, "expect", true, &expect));
    c->expect_fail = strcmp(expect, "FAIL") == 0;
    bool good = c->expect_fail || strcmp(expect, "PASS") == 0;
    free(expect);
    if (!good) return in_case(p, fh1_expected(FH1_BAD("key \"expect\" has an unknown value"), "PASS or FAIL"));

    const cJSON *step = cJSON_GetObjectItemCaseSensitive(p->json, "expect_step");
    FH1_TRY(read_text(p, "expect_tap", c->expect_fail, &c->expect_tap));
    if (!c->expect_fail && (c->expect_tap || step))
        return in_case(p, FH1_BAD("expect_tap and expect_step belong to \"expect\": \"FAIL\""));
    if (!c->expect_fail) return NULL;

    fh1_tap_id id;
    int64_t layer;
    const bool gradient = strncmp(c->expect_tap, "grad.", 5) == 0; /* of a parameter; the models are not open here */
    if (!gradient && !fh1_tap_parse_any(c->expect_tap, MANY_LAYERS, &id, &layer)) {
        fh1_status s = fh1_found(FH1_BAD("expect_tap is no tap"), "%.120s", c->expect_tap);
        return in_case(p, fh1_hint(s, "fh1 taps MODEL lists them; the step goes into expect_step"));
    }
    if (step && (!cvt_json_is_int(step, &c->expect_step) || c->expect_step < 0))
        return in_case(p, fh1_expected(FH1_BAD("expect_step is no step"), "an integer of 0 or more"));
    return NULL;
}

/* Both are parsed again by the judge; here an error still names the case. */
static fh1_status check_contract(const place *p, const gld_case *c)
{
    const fh1_profile *profile;
    unsigned variants;
    fh1_status s = c->contract ? fh1_contract_parse(c->contract, &profile, &variants) : NULL;
    if (!s && c->variant) s = fh1_variants_parse(c->variant, &variants);
    return s ? in_case(p, s) : NULL;
}

static fh1_status read_case(const place *p, gld_case *c)
{
    FH1_TRY(check_keys(p));
    FH1_TRY(read_text(p, "name", true, &c->name));
    FH1_TRY(read_path(p, "model", &c->model));
    if (cJSON_GetObjectItemCaseSensitive(p->json, "adapter")) FH1_TRY(read_path(p, "adapter", &c->adapter));
    FH1_TRY(read_path(p, "trace", &c->trace));
    FH1_TRY(read_text(p, "contract", false, &c->contract));
    FH1_TRY(read_text(p, "variant", false, &c->variant));
    FH1_TRY(read_text(p, "bug", false, &c->bug));
    FH1_TRY(read_text(p, "note", false, &c->note));
    FH1_TRY(read_expectation(p, c));
    return check_contract(p, c);
}

static fh1_status check_unique(const place *p, const gld_suite *s, const char *name)
{
    for (int64_t i = 0; i < s->n; i++)
        if (strcmp(s->cases[i].name, name) == 0)
            return in_case(p, FH1_BAD("the name is already that of case %lld", (long long)i));
    return NULL;
}

static fh1_status read_cases(const char *dir, const char *file, const cJSON *json, gld_suite *out)
{
    const cJSON *version = cJSON_GetObjectItemCaseSensitive(json, "suite");
    const cJSON *cases = cJSON_GetObjectItemCaseSensitive(json, "cases");
    int64_t v;
    if (!version || !cvt_json_is_int(version, &v) || v != 1)
        return fh1_where(fh1_expected(FH1_BAD("no suite of a known version"), "\"suite\": 1"), "%s", file);
    if (!cJSON_IsArray(cases) || !cases->child)
        return fh1_where(fh1_expected(FH1_BAD("a suite without cases"), "\"cases\": [{…}, …]"), "%s", file);
    for (const cJSON *k = json->child; k; k = k->next)
        if (k != version && k != cases) return fh1_where(FH1_BAD("unknown key \"%.80s\"", k->string), "%s", file);

    size_t n = (size_t)cJSON_GetArraySize(cases);
    out->cases = calloc(n, sizeof *out->cases);
    if (!out->cases) return fh1_no_memory(n * sizeof *out->cases, "a suite");
    place p = {.dir = dir, .file = file, .json = cases->child};
    for (; p.json; p.json = p.json->next, p.index++) {
        gld_case *c = &out->cases[out->n];
        fh1_status s = read_case(&p, c);
        if (!s) s = check_unique(&p, out, c->name);
        out->n++;
        if (s) return s;
    }
    return NULL;
}

fh1_status gld_suite_read(const char *dir, gld_suite *out)
{
    char file[4096];
    cJSON *json;
    memset(out, 0, sizeof *out);
    FH1_TRY(cvt_path_join(file, sizeof file, dir, "suite.json"));
    FH1_TRY(cvt_json_read(file, MAX_BYTES, DEPTH, &json));
    fh1_status s = read_cases(dir, file, json, out);
    cJSON_Delete(json);
    if (s) gld_suite_free(out);
    return s;
}

void gld_suite_free(gld_suite *s)
{
    for (int64_t i = 0; i < s->n; i++) {
        gld_case *c = &s->cases[i];
        char *const texts[] = {c->name,    c->model,      c->adapter, c->trace, c->contract,
                               c->variant, c->expect_tap, c->bug,     c->note};
        for (size_t k = 0; k < sizeof texts / sizeof *texts; k++) free(texts[k]);
    }
    free(s->cases);
    memset(s, 0, sizeof *s);
}
