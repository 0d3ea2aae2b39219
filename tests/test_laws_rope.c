/* The six rope types at model level: each runs, counts, and keeps the split law as far as its definition allows it:
 * dynamic and longrope choose their frequencies by the length seen so far, so that keys of before and after the
 * original length do not fit together. */
#include "tests/tiny_model.h"

enum { ORIGINAL = 12, LENGTH = 20 };
static int64_t ids[LENGTH];
static const double long_factor[3] = {1.5, 4, 6}, short_factor[3] = {1.1, 1.2, 1.3};

static fh1_config with_rope(int kind, fh1_rope_type type)
{
    static const fh1_rope of[] = {
        [FH1_ROPE_DEFAULT] = {.theta = 50},
        [FH1_ROPE_LINEAR] = {.theta = 50, .factor = 2.5},
        [FH1_ROPE_DYNAMIC] = {.theta = 50, .factor = 3, .max_position = ORIGINAL},
        [FH1_ROPE_YARN] = {.theta = 50,
                           .factor = 4,
                           .beta_fast = 2,
                           .beta_slow = 0.5,
                           .truncate = false,
                           .original_max_position = ORIGINAL,
                           .max_position = 4 * ORIGINAL},
        [FH1_ROPE_LLAMA3] = {.theta = 50,
                             .factor = 4,
                             .low_freq_factor = 0.5,
                             .high_freq_factor = 1.5,
                             .original_max_position = ORIGINAL},
        [FH1_ROPE_LONGROPE] = {.theta = 50,
                               .factor = 4,
                               .original_max_position = ORIGINAL,
                               .long_factor = long_factor,
                               .short_factor = short_factor},
    };
    fh1_config c = tiny_config(kind);
    c.rope = of[type];
    c.rope.type = type;
    return c;
}

static bool length_counts(int type)
{
    return type == FH1_ROPE_DYNAMIC || type == FH1_ROPE_LONGROPE;
}

/* T tokens at once against the same in calls that end after `cut` tokens, then one by one. */
static double split_gap(const fh1_model *m, const char *engine, int64_t T, int64_t cut)
{
    tiny_session whole = tiny_solo(m, engine, ids, T), s = tiny_solo(m, engine, ids, cut);
    for (int64_t t = cut; t < T; ++t) tiny_feed(&s, ids + t, 1);
    const double gap = tiny_gap(&s, 0, &whole, 0);
    tiny_close(&whole);
    tiny_close(&s);
    return gap;
}

START_TEST(split_law_of_every_type)
{
    fh1_model m;
    const fh1_config c = with_rope(0, (fh1_rope_type)_i);
    const int64_t longest = length_counts(_i) ? ORIGINAL : LENGTH;
    tiny_build(&m, &c, FH1_F32, 7);
    tiny_ids(30, LENGTH, ids);
    for (int64_t T = 2; T <= longest; T += 2)
        for (int64_t cut = 1; cut < T; cut += 3) {
            TINY_HOLDS(split_gap(&m, "ref-f64", T, cut), TINY_F64, "%s, %d after %d", fh1_rope_type_name(c.rope.type),
                       (int)T, (int)cut);
            TINY_HOLDS(split_gap(&m, "ref-f32", T, cut), TINY_F32, "%s in f32, %d after %d",
                       fh1_rope_type_name(c.rope.type), (int)T, (int)cut);
        }
    if (length_counts(_i)) /* one token beyond the original length, the comparison sees the seam */
        TINY_BREAKS(split_gap(&m, "ref-f64", ORIGINAL + 1, ORIGINAL), "%s", fh1_rope_type_name(c.rope.type));
    fh1_model_free(&m);
}
END_TEST

START_TEST(every_type_is_another_model)
{
    tiny_ids(31, LENGTH, ids);
    fh1_model m[6];
    tiny_session s[6];
    for (int t = 0; t < 6; ++t) {
        const fh1_config c = with_rope(_i, (fh1_rope_type)t);
        tiny_build(&m[t], &c, tiny_dtype(_i), 7);
        s[t] = tiny_solo(&m[t], "ref-f64", ids, LENGTH);
    }
    for (int a = 0; a < 6; ++a)
        for (int b = a + 1; b < 6; ++b)
            TINY_BREAKS(tiny_gap_logits(&s[a], 0, 0, &s[b], 0), "%s and %s", fh1_rope_type_name((fh1_rope_type)a),
                        fh1_rope_type_name((fh1_rope_type)b));
    for (int t = 0; t < 6; ++t) {
        tiny_close(&s[t]);
        fh1_model_free(&m[t]);
    }
}
END_TEST

/* Up to the original length dynamic is default; the length is that of the largest position, which need not be the
 * number of tokens, and the cache remembers it when positions fall again. */
START_TEST(length_is_the_largest_position_seen)
{
    fh1_model plain, dynamic;
    const fh1_config a = with_rope(_i, FH1_ROPE_DEFAULT), b = with_rope(_i, FH1_ROPE_DYNAMIC);
    tiny_build(&plain, &a, tiny_dtype(_i), 7);
    tiny_build(&dynamic, &b, tiny_dtype(_i), 7);
    tiny_ids(32, LENGTH, ids);
    tiny_session p = tiny_solo(&plain, "ref-f64", ids, ORIGINAL), d = tiny_solo(&dynamic, "ref-f64", ids, ORIGINAL);
    ck_assert(tiny_same(&d, 0, &p, 0));
    tiny_feed(&p, ids + ORIGINAL, 1);
    tiny_feed(&d, ids + ORIGINAL, 1);
    TINY_BREAKS(tiny_gap(&d, 0, &p, 0), "dynamic beyond its length");
    ck_assert_int_eq(d.cache->rope_seq_len, ORIGINAL + 1);
    tiny_close(&p);
    tiny_close(&d);

    const int64_t far_away[3] = {0, 1, ORIGINAL};
    p = tiny_open(&plain, "ref-f64", 0, 1), d = tiny_open(&dynamic, "ref-f64", 0, 1);
    tiny_call(&p, &(fh1_batch){.B = 1, .T = 3, .ids = ids, .positions = far_away});
    tiny_call(&d, &(fh1_batch){.B = 1, .T = 3, .ids = ids, .positions = far_away});
    TINY_BREAKS(tiny_gap(&d, 0, &p, 0), "three tokens, the last at a large position");
    tiny_close(&p);
    tiny_close(&d);

    const int64_t back[4] = {0, 1, ORIGINAL + 3, 2};
    p = tiny_open(&dynamic, "ref-f64", 0, 1), d = tiny_open(&dynamic, "ref-f64", 0, 1);
    tiny_call(&p, &(fh1_batch){.B = 1, .T = 4, .ids = ids, .positions = back});
    tiny_call(&d, &(fh1_batch){.B = 1, .T = 3, .ids = ids, .positions = back});
    tiny_session copy = tiny_fork(&d), forgets = tiny_fork(&d);
    forgets.cache->rope_seq_len = 0;
    tiny_call(&d, &(fh1_batch){.B = 1, .T = 1, .ids = ids + 3, .positions = back + 3});
    tiny_call(&copy, &(fh1_batch){.B = 1, .T = 1, .ids = ids + 3, .positions = back + 3});
    tiny_call(&forgets, &(fh1_batch){.B = 1, .T = 1, .ids = ids + 3, .positions = back + 3});
    TINY_HOLDS(tiny_gap(&d, 0, &p, 0), TINY_F64, "a small position after a large one");
    TINY_HOLDS(tiny_gap(&copy, 0, &p, 0), TINY_F64, "the same on a copy of the cache");
    TINY_BREAKS(tiny_gap(&forgets, 0, &p, 0), "the length forgotten");
    tiny_close(&p);
    tiny_close(&d);
    tiny_close(&copy);
    tiny_close(&forgets);
    fh1_model_free(&plain);
    fh1_model_free(&dynamic);
}
END_TEST

/* The scale of yarn and longrope is on cos and sin: attention_factor f multiplies scores by f², as queries and keys
 * scaled by f each do. */
START_TEST(attention_factor_scales_queries_and_keys)
{
    static const fh1_rope_type types[] = {FH1_ROPE_YARN, FH1_ROPE_LONGROPE};
    fh1_model one, four;
    tiny_ids(33, LENGTH, ids);
    for (int k = 0; k < 2; ++k) {
        fh1_config c = with_rope(_i, types[k]);
        c.rope.attention_factor = 1;
        tiny_build(&one, &c, tiny_dtype(_i), 7);
        for (int w = 0; w < 2; ++w) {
            tiny_scale_rows(&one, w ? "q_proj.weight" : "k_proj.weight", 0, -1, 4);
            tiny_scale_rows(&one, w ? "q_proj.bias" : "k_proj.bias", 0, -1, 4);
        }
        c.rope.attention_factor = 4;
        tiny_build(&four, &c, tiny_dtype(_i), 7);
        tiny_session a = tiny_solo(&one, "ref-f64", ids, 9), b = tiny_solo(&four, "ref-f64", ids, 9);
        ck_assert(tiny_same(&b, 0, &a, 0));
        tiny_scale_rows(&one, "q_proj.weight", 0, -1, 0.25);
        tiny_session wrong = tiny_solo(&one, "ref-f64", ids, 9);
        TINY_BREAKS(tiny_gap_logits(&wrong, 0, 0, &b, 0), "factor on the keys only");
        tiny_close(&a);
        tiny_close(&b);
        tiny_close(&wrong);
        fh1_model_free(&one);
        fh1_model_free(&four);
    }
}
END_TEST

int main(void)
{
    TCase *tc = tcase_create("rope");
    tcase_add_loop_test(tc, split_law_of_every_type, 0, 6);
    tcase_add_loop_test(tc, every_type_is_another_model, 0, TINY_KINDS);
    tcase_add_loop_test(tc, length_is_the_largest_position_seen, 0, TINY_KINDS);
    tcase_add_loop_test(tc, attention_factor_scales_queries_and_keys, 0, TINY_KINDS);
    return tiny_main(suite_create("laws_rope"), tc);
}
