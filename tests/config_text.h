/* A config.json from lines that a test takes out and puts in. */
#pragma once

#include "convert/hf_config.h"
#include "tests/convert_test.h"

/* `common`: keys, one per line, each with its comma. Without the line of `without` (NULL: whole), then `extra` lines.
 */
static inline fh1_status parse_config(const char *common, const char *without, const char *extra, fh1_config *c)
{
    char text[8192], key[120];
    size_t n = (size_t)snprintf(text, sizeof text, "{\n%s", common);
    if (without) {
        snprintf(key, sizeof key, "\n\"%s\":", without);
        char *line = strstr(text, key);
        ck_assert_msg(line != NULL, "no line for %s", without);
        char *end = strchr(line + 1, '\n');
        memmove(line, end, strlen(end) + 1);
        n = strlen(text);
    }
    snprintf(text + n, sizeof text - n, "%s\"transformers_version\": \"5.23.0\"\n}", extra);
    cJSON *json;
    FH1_TRY(cvt_json_parse(text, strlen(text), 16, "config.json", &json));
    fh1_status s = cvt_hf_config_parse(json, "config.json", c);
    cJSON_Delete(json);
    return s;
}

/* Each of the n keys of `common` is asked for by name when it is missing or null, and named when it is no value of
 * its kind. `rest` stands behind them. */
static inline void expect_every_key(const char *common, const char *rest, int n)
{
    const char *line = common;
    for (; *line; line = strchr(line, '\n') + 1, n--) {
        fh1_config c;
        char key[100], word[160], null[240];
        snprintf(key, sizeof key, "%.*s", (int)(strchr(line + 1, '"') - line - 1), line + 1);
        snprintf(word, sizeof word, "config.json: the key %s is missing", key);
        expect_error(parse_config(common, key, rest, &c), FH1_E_INPUT, word, key);
        snprintf(word, sizeof word, "the key %s is null", key);
        snprintf(null, sizeof null, "\"%s\": null,\n%s", key, rest);
        expect_error(parse_config(common, key, null, &c), FH1_E_INPUT, word, key);
        snprintf(null, sizeof null, "\"%s\": {},\n%s", key, rest);
        snprintf(word, sizeof word, "config.json, key %s", key);
        expect_error(parse_config(common, key, null, &c), FH1_E_INPUT, word, key);
    }
    ck_assert_int_eq(n, 0);
}

/* `key` loses its line (NULL: none does) and `extra` comes in. */
typedef struct {
    const char *key, *extra, *word;
} refused_config;

static inline void expect_refused(const char *common, const char *rest, const refused_config *r)
{
    fh1_config c;
    char extra[400];
    snprintf(extra, sizeof extra, "%s\n%s", r->extra, rest);
    expect_error(parse_config(common, r->key, extra, &c), FH1_E_INPUT, r->word, r->extra);
    expect_error(parse_config(common, r->key, extra, &c), FH1_E_INPUT, "config.json", r->extra);
}
