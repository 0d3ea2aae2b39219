#include "oracle/mup.h"

#include "oracle/round.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* How many doubles lie between the law and a value that follows it. A multiplier is a product of at most five factors,
 * each rounded (a constant, λ twice, a ratio, a root), and four products: nine roundings of half an ulp of values that
 * may stand just above a power of two, where an ulp of the factor is two of the product's. The law itself is rounded
 * once, from long double. */
#define ORDER_ULPS 10
enum { LEAST_DIGITS = 3, MOST_DIGITS = 15 };

fh1_mup_widths fh1_mup_widths_of(const fh1_config *c)
{
    return (fh1_mup_widths){.D = c->D, .attention = c->Hq * c->A, .d_ssm = c->d_ssm, .F = c->F, .A = c->A, .N = c->N};
}

const char *fh1_multiplier_name(int i)
{
    static const char *const names[FH1_N_MULTIPLIERS] = {
        "embedding_multiplier",      "lm_head_multiplier",      "key_multiplier",         "attention_in_multiplier",
        "attention_out_multiplier",  "ssm_in_multiplier",       "ssm_out_multiplier",     "mlp_multipliers[0] (gate)",
        "mlp_multipliers[1] (down)", "ssm_multipliers[0] (z)",  "ssm_multipliers[1] (x)", "ssm_multipliers[2] (B)",
        "ssm_multipliers[3] (C)",    "ssm_multipliers[4] (dt)",
    };
    return names[i];
}

void fh1_multipliers_of(const fh1_config *c, double out[FH1_N_MULTIPLIERS])
{
    const double all[FH1_N_MULTIPLIERS] = {
        c->m_emb,  c->m_lm,   c->m_key,    c->m_attn_in, c->m_attn_out, c->m_ssm_in, c->m_ssm_out,
        c->m_gate, c->m_down, c->m_ssm[0], c->m_ssm[1],  c->m_ssm[2],   c->m_ssm[3], c->m_ssm[4],
    };
    memcpy(out, all, sizeof all);
}

void fh1_mup_law(const fh1_mup_widths *w, double out[FH1_N_MULTIPLIERS])
{
    typedef long double wide;
    const wide root2 = sqrtl(2), by_D = 1280 / (wide)w->D;
    const wide all[FH1_N_MULTIPLIERS] = {
        4 * root2,
        by_D / 32,
        root2 / 8 * by_D * by_D * sqrtl(128 / (wide)w->A),
        1,
        by_D / 2 * 768 / (wide)w->attention,
        by_D,
        root2 / 6 * 1536 / (wide)w->d_ssm,
        by_D / root2,
        by_D * 5 / 16 * 3072 / (wide)w->F,
        root2 / 4,
        0.25L,
        root2 / 8 * 256 / (wide)w->N,
        0.5L,
        root2 / 4,
    };
    for (int i = 0; i < FH1_N_MULTIPLIERS; i++) out[i] = (double)all[i];
}

/* The fewest digits that print the law as this value; 0: none do. */
static int digits_of(double law, double value)
{
    char text[40];
    for (int n = LEAST_DIGITS; n <= MOST_DIGITS; n++) {
        snprintf(text, sizeof text, "%.*g", n, law);
        if (strtod(text, NULL) == value) return n;
    }
    return 0;
}

fh1_mup_finding fh1_mup_judge(double law, double value)
{
    static const struct {
        fh1_round type;
        const char *name;
    } types[] = {{FH1_ROUND_F32, "f32"}, {FH1_ROUND_BF16, "bf16"}, {FH1_ROUND_F16, "f16"}};
    fh1_mup_finding f = {.verdict = FH1_MUP_DEVIATES, .relative = value / law - 1};
    if (fabs(value - law) <= ORDER_ULPS * DBL_EPSILON * fabs(law)) {
        f.verdict = FH1_MUP_FOLLOWS;
        return f;
    }
    for (size_t i = 0; i < sizeof types / sizeof *types && !*f.rounded; i++)
        if (fh1_round_f64(types[i].type, law) == value) snprintf(f.rounded, sizeof f.rounded, "%s", types[i].name);
    const int digits = *f.rounded ? 0 : digits_of(law, value);
    if (digits) snprintf(f.rounded, sizeof f.rounded, "%d digits", digits);
    if (*f.rounded) f.verdict = FH1_MUP_ROUNDED;
    return f;
}
