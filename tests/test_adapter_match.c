/* Which modules a config adapts, with which rank and scale. The expected lists are those of PEFT 0.21.2, run on the
 * same paths. Planted faults: cases that a plausible misreading breaks (a string taken for the end of a path, list
 * entries as patterns, the last pattern instead of the first), and one for each construct that PCRE2 and Python read
 * differently. */
#include "convert/adapter_match.h"
#include "tests/adapter_fixture.h"

#define Q0 "model.layers.0.self_attn.q_proj"
#define Q1 "model.layers.1.self_attn.q_proj"

/* "0.q_proj 1.up_proj": what is adapted, without the common words. */
static void adapted(const char *members, cvt_modules *m, char *out, size_t size)
{
    char text[1024];
    cvt_adapter_config c;
    cvt_adapter a = {0};
    snprintf(text, sizeof text, "{\"peft_type\":\"LORA\",%s}", members);
    expect_ok(cvt_adapter_config_read("config", text, strlen(text), &c), members);
    fh1_status s = cvt_modules_match(m, &c, "config", &a);
    char line[2048] = "";
    if (s) fh1_status_line(s, line, sizeof line);
    ck_assert_msg(!s || strstr(line, "matches no module"), "%s: %s", members, line);
    *out = '\0';
    for (int64_t i = 0; i < m->n_modules; i++) {
        size_t n = strlen(out);
        const char *path = m->modules[i].path, *last = strrchr(path, '.');
        if (!m->modules[i].targeted) continue;
        if (strncmp(path, "model.layers.", 13) == 0) snprintf(out + n, size - n, "%.1s%s ", path + 13, last);
        else snprintf(out + n, size - n, "%s ", path);
    }
    cvt_adapter_free(&a);
    cvt_adapter_config_free(&c);
}

static cvt_modules modules_of_base(const char *name)
{
    cvt_modules m;
    fh1_config c;
    cvt_ckpt *base = open_base(name);
    expect_ok(cvt_ckpt_config(base, &c), name);
    expect_ok(cvt_modules_of(&c, &m), name);
    cvt_ckpt_close(base);
    return m;
}

START_TEST(modules_are_matched_as_peft_does)
{
    static const char *const cases[][2] = {
        {"\"target_modules\":[\"q_proj\"]", "0.q_proj 1.q_proj "},
        {"\"target_modules\":[\"proj\"]", ""},
        {"\"target_modules\":\"q_proj\"", ""},
        {"\"target_modules\":\".*q_proj\"", "0.q_proj 1.q_proj "},
        {"\"target_modules\":\".*\\\\.(q|v)_proj\"", "0.q_proj 0.v_proj 1.q_proj 1.v_proj "},
        {"\"target_modules\":\"model\\\\.layers\\\\.[0]\\\\..*(?<!out)_proj\"",
         "0.down_proj 0.gate_proj 0.up_proj 0.in_proj 0.k_proj 0.o_proj 0.q_proj 0.v_proj "},
        {"\"target_modules\":\"(?i).*Q_PROJ\"", "0.q_proj 1.q_proj "},
        {"\"target_modules\":[\"self_attn.q_proj\",\"model.layers.1.feed_forward.up_proj\"]",
         "0.q_proj 1.up_proj 1.q_proj "},
        {"\"target_modules\":[\"q_proj\",\"v_proj\"],\"layers_to_transform\":[1]", "1.q_proj 1.v_proj "},
        {"\"target_modules\":[\"q_proj\"],\"layers_to_transform\":0", "0.q_proj "},
        {"\"target_modules\":[\"q_proj\",\"model.layers.0.self_attn.k_proj\",\"lm_head\"],\"layers_to_transform\":[1]",
         "lm_head 0.k_proj 1.q_proj "},
        {"\"target_modules\":[\"q_proj\"],\"layers_to_transform\":[1],\"layers_pattern\":\"layers\"", "1.q_proj "},
        {"\"target_modules\":[\"q_proj\"],\"layers_to_transform\":[1],\"layers_pattern\":[\"blocks\"]", ""},
        {"\"target_modules\":[\"q_proj\"],\"layers_to_transform\":[1],\"layers_pattern\":\"lay.*\"", "1.q_proj "},
        {"\"target_modules\":[\"q_proj\"],\"layers_to_transform\":[]", "0.q_proj 1.q_proj "},
        {"\"target_modules\":[\"q_proj\",\"k_proj\"],\"exclude_modules\":[\"0.self_attn.k_proj\"]",
         "0.q_proj 1.k_proj 1.q_proj "},
        {"\"target_modules\":[\"q_proj\",\"k_proj\"],\"exclude_modules\":\".*\\\\.1\\\\..*\"", "0.k_proj 0.q_proj "},
        {"\"target_modules\":[\"q_proj\",\"k_proj\"],\"exclude_modules\":\"k_proj\"",
         "0.k_proj 0.q_proj 1.k_proj 1.q_proj "},
        {"\"target_modules\":[\"q_proj\",\"up_proj\"],\"modules_to_save\":[\"feed_forward\"]", "0.q_proj 1.q_proj "},
        {"\"target_modules\":[\"q_proj\",\"up_proj\"],\"modules_to_save\":[\"self_.*\"]", "0.up_proj 1.up_proj "},
        {"\"target_modules\":[\"embed_tokens\",\"lm_head\"]", "lm_head model.embed_tokens "},
        {"\"target_modules\":\"(.*\\\\.)?(embed_tokens|lm_head)$\"", "lm_head model.embed_tokens "},
        {"\"target_modules\":\"[^.]*\"", "lm_head "},
        {"\"target_modules\":\"ALL-linear\",\"exclude_modules\":\".*(out_proj|_proj.?|in_proj)\"", ""},
        {"\"target_modules\":\"all-linear\",\"exclude_modules\":[\"out_proj\",\"mamba.in_proj\",\"up_proj\",\"k_"
         "proj\"]",
         "0.down_proj 0.gate_proj 0.o_proj 0.q_proj 0.v_proj 1.down_proj 1.gate_proj 1.o_proj 1.q_proj 1.v_proj "},
        {"\"target_parameters\":[\"in_proj.weight\"]", "0.in_proj 1.in_proj "},
        {"\"target_modules\":\"dummy-target-modules\"", ""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char found[512];
        cvt_modules m = modules_of_base("plain-bf16");
        adapted(cases[i][0], &m, found, sizeof found);
        ck_assert_msg(strcmp(found, cases[i][1]) == 0, "%s: expected %s, found %s", cases[i][0], cases[i][1], found);
        cvt_modules_free(&m);
    }
}
END_TEST

START_TEST(ranks_and_scales)
{
    static const struct {
        const char *members;
        double q0, q1; /* scales of q_proj in layers 0 and 1 */
        int64_t r0, r1;
    } cases[] = {
        {"\"r\":4,\"lora_alpha\":6", 1.5, 1.5, 4, 4},
        {"\"r\":4,\"lora_alpha\":6,\"use_rslora\":true", 3, 3, 4, 4},
        {"\"r\":4", 2, 2, 4, 4},
        {"\"r\":4,\"lora_alpha\":-2", -0.5, -0.5, 4, 4},
        {"\"r\":4,\"lora_alpha\":8,\"rank_pattern\":{\"q_proj\":2}", 4, 4, 2, 2},
        {"\"r\":4,\"lora_alpha\":8,\"rank_pattern\":{\"^q_proj\":2,\"proj\":2,\"layers.0\":2,\"q_proj.weight\":2}", 2,
         2, 4, 4},
        {"\"r\":4,\"lora_alpha\":8,\"rank_pattern\":{\"0.self_attn.q_proj\":2,\"q_proj\":8}", 4, 1, 2, 8},
        {"\"r\":4,\"lora_alpha\":8,\"rank_pattern\":{\"q_proj\":8,\"0.self_attn.q_proj\":2}", 1, 1, 8,
         8}, /* first wins */
        {"\"r\":4,\"lora_alpha\":8,\"alpha_pattern\":{\"^model.layers.0.*q_proj\":16}", 4, 2, 4, 4},
        {"\"r\":4,\"lora_alpha\":8,\"alpha_pattern\":{\"q_proj|k_proj\":2.5}", 0.625, 0.625, 4, 4},
        {"\"r\":4,\"lora_alpha\":8,\"alpha_pattern\":{\"layers.0..*\":16},\"rank_pattern\":{\"1..*\":16},\"use_"
         "rslora\":true",
         8, 2, 4, 16},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char found[512], members[512];
        cvt_modules m = modules_of_base("plain-bf16");
        snprintf(members, sizeof members, "\"target_modules\":[\"q_proj\"],%s", cases[i].members);
        adapted(members, &m, found, sizeof found);
        const cvt_module *a = cvt_modules_find(&m, Q0), *b = cvt_modules_find(&m, Q1);
        ck_assert_msg(a->scale == cases[i].q0 && b->scale == cases[i].q1 && a->r == cases[i].r0 && b->r == cases[i].r1,
                      "%s: scales %g and %g, ranks %d and %d", members, a->scale, b->scale, (int)a->r, (int)b->r);
        cvt_modules_free(&m);
    }
}
END_TEST

START_TEST(patterns_are_pythons)
{
    static const char *const refused[] = {"(?R)",  "(?1)",  "(?|a|b)", "(?<name>a)",  "(*ACCEPT)", "\\Qa\\E",
                                          "a\\K",  "\\h",   "\\R",     "[[:alpha:]]", "\\x{41}",   "a\\",
                                          "(",     "*a",    "\\p{L}",  "(?'n'a)",     "\\u0041",   "a{,2}",
                                          "a(?i)", "(?-i)", "(?i-s)"};
    static const char *const taken[] = {"(?P<name>a)(?P=name)",
                                        "(?:a)",
                                        "(?i:a)",
                                        "a(?=b)",
                                        "(?<!a)b",
                                        "[]a]",
                                        "[^]a]",
                                        "[(*]",
                                        "[\\w.]+",
                                        "\\Aa\\Z",
                                        "a{2,3}?",
                                        "(?#note)a",
                                        "\\x41",
                                        "(a)|b\\b",
                                        "(?>a+)"};
    cvt_pattern *p;
    bool matched;
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++)
        expect_error(cvt_pattern_new("", refused[i], "", CVT_MATCH_FULL, "field", &p), FH1_E_INPUT, "field",
                     refused[i]);
    for (size_t i = 0; i < sizeof taken / sizeof taken[0]; i++) {
        expect_ok(cvt_pattern_new("", taken[i], "", CVT_MATCH_FULL, "field", &p), taken[i]);
        cvt_pattern_free(p);
    }
    expect_ok(cvt_pattern_new("", "(a+)+$|(a|aa)+b", "", CVT_MATCH_FULL, "field", &p), "compile");
    expect_error(cvt_pattern_match(p, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaac", &matched, NULL),
                 FH1_E_INPUT, "steps", "a pattern without end");
    cvt_pattern_free(p);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {modules_are_matched_as_peft_does, ranks_and_scales, patterns_are_pythons};
    return run_tests("adapter_match", tests, 3);
}
