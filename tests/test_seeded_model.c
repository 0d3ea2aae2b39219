/* Models from a seed: the text says all of a config and comes back the same, nonsense is refused before anything is
 * allocated, weights are a pure function of the seed, and their statistics are what they claim to be. */
#include "golden/seeded_model.h"

#include "golden/words.h"
#include "tests/small_config.h"
#include "tests/trace_fixture.h"

#include <stdlib.h>

static char *printed(const gld_seeded_spec *s)
{
    char *text;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    gld_seeded_print(s, out);
    fclose(out);
    return text;
}

static const char *const round_trips[] = {
    "",
    "layers=3,D=11",
    "D=7,F=5,layers=1,Hq=6,Hkv=3,A=10,H=6,P=3,N=5,G=3,K=2,Q=5,V=9,dtype=bf16",
    "attention_bias=1,mlp_bias=1,mamba_proj_bias=1,projectors_bias=1,conv_bias=0,rms_norm=1,norm_before_gate=1,tied=1",
    "m_emb=0.1,m_lm=-0.3,m_key=1e-3,m_attn_in=3.0000000000000004,m_z=0,m_dt=0.12345678901234567,dtype=f16",
    "eps=1e-6,dt_lo=0.001,dt_hi=0.1,theta=1e11,weights=trained",
    "dt_hi=inf,rope=yarn,factor=4,original_max_position=32,beta_fast=16,weights=lattice",
    "rope=yarn,factor=4,original_max_position=32,truncate=0,mscale=0.7,mscale_all_dim=0.9",
    "rope=llama3,factor=8,low_freq_factor=1,high_freq_factor=4,original_max_position=64",
    "rope=dynamic,factor=2,max_position=16",
    "block=SAM,m_key=0.25",
    "block=S_A_M,tied=1",
    "family=falcon_mamba",
    "layers=3,family=falcon_mamba,D=27,I=45,N=5,R=6,K=3,use_bias=1,conv_bias=0,residual_in_fp32=0,mixer_eps=3e-5,tied="
    "1",
    "rope=longrope,A=6,long_factor=1/1.5/0.1,short_factor=1/1/1,original_max_position=9,factor=3,attention_factor=1.1",
};

START_TEST(test_round_trip)
{
    gld_seeded_spec a, b;
    if (_i == 0) gld_seeded_usual(&a);
    else OK(gld_seeded_parse(round_trips[_i], &a));
    char *first = printed(&a);
    OK(gld_seeded_parse(first, &b));
    char *second = printed(&b);
    ck_assert_str_eq(first, second);
    ck_assert_int_eq(a.config.d_ssm, a.config.H * a.config.P);
    ck_assert(a.config.family != FH1_FALCON_MAMBA || a.config.mamba_proj_bias == a.config.projectors_bias);
    /* Planted: a text that loses one key is another text. */
    b.config.eps += 0x1p-40;
    char *other = printed(&b);
    ck_assert_str_ne(first, other);
    free(first);
    free(second);
    free(other);
}
END_TEST

/* Every field that the table knows is printed when it is not usual, and read back. */
START_TEST(test_every_field)
{
    const gld_spec_field *f;
    for (int i = 0; (f = gld_spec_field_at(i)); i++) {
        gld_seeded_spec a, b;
        const bool of_h1 = f->families >> FH1_FALCON_H1 & 1;
        OK(gld_seeded_parse(of_h1 ? "layers=2" : "family=falcon_mamba", &a));
        char *at = (char *)&a.config + f->offset;
        if (f->kind == GLD_SPEC_SWITCH) *(bool *)at = !*(bool *)at;
        else if (f->kind == GLD_SPEC_NUMBER) *(double *)(void *)at = 0.75;
        else *(int64_t *)(void *)at *= 2;
        if (f->kind == GLD_SPEC_INTEGER) *(int64_t *)(void *)at = 77;
        if (!of_h1) a.config.H = a.config.d_ssm; /* I */
        char *text = printed(&a);
        OK(gld_seeded_parse(text, &b));
        ck_assert_msg(gld_spec_make_usual(&b, f), "%s is lost in %s", f->name, text);
        ck_assert(!gld_spec_make_usual(&b, f));
        free(text);
    }
}
END_TEST

static const struct {
    const char *text, *says;
} garbage[] = {
    {"D", "D"},
    {"D=", "D"},
    {"family=mamba2", "family"},
    {"block=SMA", "block"},
    {"family=falcon_mamba,F=3", "F"},
    {"family=falcon_mamba,block=SAM", "block"},
    {"I=8", "I"},
    {"D=0", "1 to"},
    {"D=-3", "1 to"},
    {"D=7x", "D"},
    {"D=99999999999999999999", "D"},
    {"D=5000000000", "1 to"},
    {"layers=1000000", "1 to 1024"},
    {"K=65", "mamba_d_conv"},
    {"D=3,D=3", "twice"},
    {"widht=3", "widht"},
    {",", "KEY=VALUE"},
    {"D=3,", "KEY=VALUE"},
    {"=", "unknown key"},
    {"D=3;F=3", "D"},
    {"A=7", "head_dim"},
    {"Hq=5,Hkv=2", "num_attention_heads"},
    {"H=3,G=2", "mamba_n_heads"},
    {"rms_norm=2", "0 or 1"},
    {"m_key=nan", "a number"},
    {"m_key=inf", "finite"},
    {"m_key=1e999", "finite"},
    {"m_key=0x1p3", "a number"},
    {"eps=0", "rms_norm_eps"},
    {"dt_lo=2,dt_hi=1", "time_step_limit"},
    {"dtype=f64", "f32, bf16, f16"},
    {"weights=random", "trained"},
    {"rope=spiral", "llama3"},
    {"rope=yarn,factor=2", "original_max_position"},
    {"rope=longrope,original_max_position=9,long_factor=1/2", "A/2 = 4"},
    {"rope=longrope,original_max_position=9,factor=2", "long_factor"},
    {"long_factor=1/1/1/1", "rope=longrope"},
    {"rope=longrope,long_factor=1//1/1", "numbers"},
    {"V=100000,D=100000", "1 GiB"},
    {"D=2147483648,V=2147483648", "2^48"},
    {"H=2147483648,P=2147483648,G=1", "mamba_d_ssm"},
};

START_TEST(test_garbage)
{
    gld_seeded_spec s;
    fh1_status e = gld_seeded_parse(garbage[_i].text, &s);
    char line[2048];
    ck_assert_msg(e != NULL, "'%s' is accepted", garbage[_i].text);
    ck_assert_int_eq(e->code, FH1_E_INPUT);
    fh1_status_line(e, line, sizeof line);
    ck_assert_msg(strstr(line, garbage[_i].says) != NULL, "'%s': %s", garbage[_i].text, line);
}
END_TEST

START_TEST(test_endless_text)
{
    static char text[GLD_WORD_SIZE + 1];
    gld_seeded_spec s;
    memset(text, '1', GLD_WORD_SIZE);
    FAILS(gld_seeded_parse(text, &s), FH1_E_INPUT, "longer");
}
END_TEST

/* Cut and changed at every byte: refused or read, never a crash (the sanitizers watch). */
START_TEST(test_mutations)
{
    static const char bytes[] = "=,/-9.xe";
    for (size_t k = 1; k < sizeof round_trips / sizeof *round_trips; k++) {
        char text[256];
        const size_t n = strlen(round_trips[k]);
        for (size_t i = 0; i <= n; i++) {
            gld_seeded_spec s;
            snprintf(text, sizeof text, "%.*s", (int)i, round_trips[k]);
            gld_seeded_parse(text, &s);
            snprintf(text, sizeof text, "%s", round_trips[k]);
            if (i < n) text[i] = bytes[i % (sizeof bytes - 1)];
            gld_seeded_parse(text, &s);
        }
    }
}
END_TEST

static double sum_of(const fh1_model *m)
{
    double sum = 0;
    for (int64_t i = 0; i < m->n_weights; i++)
        for (int64_t k = 0; k < fh1_n_elems(&m->weights[i].t); k++) {
            const double v = fh1_get(&m->weights[i].t, k);
            ck_assert_msg(isfinite(v), "%s[%d]", m->weights[i].name, (int)k);
            sum += v * (double)(1 + (i + k) % 7);
        }
    return sum;
}

START_TEST(test_pure_function_of_the_seed)
{
    static const char *const texts[] = {"weights=init", "weights=trained,dtype=bf16", "weights=lattice,dtype=f16",
                                        "layers=1,D=1,F=1,V=1,Hq=1,Hkv=1,A=2,H=1,P=1,N=1,G=1,K=1,Q=1,weights=lattice",
                                        "tied=1,attention_bias=1,mlp_bias=1,mamba_proj_bias=1,rms_norm=1,m_key=0"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        gld_seeded_spec s;
        fh1_model a, b, c;
        OK(gld_seeded_parse(texts[i], &s));
        OK(gld_seeded_model_new(&s, 5, &a));
        OK(gld_seeded_model_new(&s, 5, &b));
        OK(gld_seeded_model_new(&s, 6, &c));
        ck_assert_int_eq(a.embed.dtype, s.dtype);
        ck_assert(sum_of(&a) == sum_of(&b));
        ck_assert_msg(sum_of(&a) != sum_of(&c), "%s: the seed changes nothing", texts[i]);
        fh1_model_free(&a);
        fh1_model_free(&b);
        fh1_model_free(&c);
    }
}
END_TEST

/* How many different sizes a tensor's values have. */
static int n_sizes(const fh1_tensor *t)
{
    double seen[8];
    int n = 0;
    for (int64_t k = 0; k < fh1_n_elems(t); k++) {
        int i = 0;
        while (i < n && seen[i] != fabs(fh1_get(t, k))) i++;
        if (i == n && n < 8) seen[n++] = fabs(fh1_get(t, k));
    }
    return n;
}

static double kurtosis(const fh1_tensor *t)
{
    double m2 = 0, m4 = 0;
    const double n = (double)fh1_n_elems(t);
    for (int64_t k = 0; k < fh1_n_elems(t); k++) {
        const double v2 = fh1_get(t, k) * fh1_get(t, k);
        m2 += v2 / n;
        m4 += v2 * v2 / n;
    }
    return m4 / (m2 * m2);
}

START_TEST(test_statistics)
{
    fh1_model init, trained, lattice;
    gld_seeded_spec s;
    OK(gld_seeded_parse("D=64,F=128", &s));
    OK(gld_seeded_model_new(&s, 1, &init));
    s.weights = GLD_WEIGHTS_TRAINED;
    OK(gld_seeded_model_new(&s, 1, &trained));
    s.weights = GLD_WEIGHTS_LATTICE;
    OK(gld_seeded_model_new(&s, 1, &lattice));
    ck_assert_int_le(n_sizes(&lattice.layers[0].q_w), 3);
    ck_assert_int_le(n_sizes(&lattice.layers[1].input_layernorm), 3);
    ck_assert_int_ge(n_sizes(&lattice.layers[1].input_layernorm), 2); /* one size would hide a lost weight */
    ck_assert(kurtosis(&trained.layers[0].q_w) > 2 * kurtosis(&init.layers[0].q_w));
    ck_assert(kurtosis(&trained.layers[0].input_layernorm) > 2 * kurtosis(&init.layers[0].input_layernorm));
    /* Planted: the plain weights are neither. */
    ck_assert_int_gt(n_sizes(&init.layers[0].q_w), 7);
    fh1_model_free(&init);
    fh1_model_free(&trained);
    fh1_model_free(&lattice);
}
END_TEST

START_TEST(test_small)
{
    gld_seeded_spec s;
    fh1_config c = small_config(), wide = c;
    gld_seeded_small(&c, FH1_BF16, 1, &s);
    OK(gld_seeded_check(&s));
    ck_assert_int_eq(s.config.n_layers, 1);
    ck_assert_int_eq(s.dtype, FH1_BF16);
    ck_assert(s.config.m_key == c.m_key && s.config.mamba_rms_norm == c.mamba_rms_norm);
    wide.D = 5120, wide.F = 21504, wide.V = 261120, wide.Hq = 20, wide.Hkv = 4, wide.A = 128;
    wide.H = 32, wide.P = 128, wide.N = 256, wide.G = 2, wide.d_ssm = 32 * 128, wide.n_layers = 72;
    gld_seeded_small(&wide, FH1_F32, 2, &s);
    OK(gld_seeded_check(&s));
    ck_assert(s.config.D <= 32 && s.config.V <= 64 && s.config.Hq / s.config.Hkv == 2 && s.config.H / s.config.G == 2);
    /* A size that changes takes its dependants along. */
    gld_spec_set_size(&s, gld_spec_field_at(4), 3);
    OK(gld_seeded_check(&s));
    s.config.Hkv = 2; /* planted */
    FAILS(gld_seeded_check(&s), FH1_E_INPUT, "num_attention_heads");
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("seeded_model");
    TCase *tc = tcase_create("seeded_model");
    tcase_add_loop_test(tc, test_round_trip, 0, sizeof round_trips / sizeof *round_trips);
    tcase_add_test(tc, test_every_field);
    tcase_add_loop_test(tc, test_garbage, 0, sizeof garbage / sizeof *garbage);
    tcase_add_test(tc, test_endless_text);
    tcase_add_test(tc, test_mutations);
    tcase_add_test(tc, test_pure_function_of_the_seed);
    tcase_add_test(tc, test_statistics);
    tcase_add_test(tc, test_small);
    suite_add_tcase(suite, tc);
    SRunner *r = srunner_create(suite);
    srunner_run_all(r, CK_NORMAL);
    const int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
