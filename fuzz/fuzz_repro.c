/* Repro lines: the schedule of calls, the seeded model and the op case inside them included.
 *
 * What the parser makes of a line is what the second reading makes of it; it prints to a line that parses to the same
 * and prints the same; the command for a shell is that line; nothing is allocated. */
#include "fuzz/fuzz.h"
#include "fuzz/mutate_words.h"
#include "fuzz/plant.h"
#include "fuzz/slow_repro.h"
#include "golden/words.h"

#include <stdio.h>

/* What a parse needs beside its result: no heap. Time: globs of taps are compared with up to 30 000 names of 1024
 * layers each. */
enum { HEAP = 4096, MS = 250, MS_PER_KB = 30 };

static gld_repro first, again, slow; /* 130 kB each */

static void parse_again(void *line)
{
    gld_repro_parse(line, &again);
}

/* Addresses of the struct itself become offsets, so that two of them can be compared byte by byte. */
static void unbind(gld_repro *r)
{
    fh1_config *c = &r->make.config;
    const double **const at[2] = {&c->rope.long_factor, &c->rope.short_factor};
    for (int k = 0; k < 2; k++) {
        FUZZ_CHECK(!*at[k] || *at[k] == c->factors[k], "the factors lie in another struct");
        if (*at[k]) *at[k] = NULL;
    }
}

static void same(const gld_repro *a, const gld_repro *b, const char *what, const char *line)
{
    const unsigned char *x = (const unsigned char *)a, *y = (const unsigned char *)b;
    size_t i = 0;
    if (memcmp(a, b, sizeof *a) == 0) return;
    while (x[i] == y[i]) i++;
    fuzz_finding(__FILE__, __LINE__, "memcmp(a, b) == 0", "%s: byte %zu of the struct differs: '%s'", what, i, line);
}

/* '…' and $'…' as a shell reads them; a naive one, for what fh1 prints. */
static bool unquote(const char *p, char *out)
{
    bool escapes = false, quoted = false;
    for (; *p; p++) {
        if (!quoted && *p == '$' && p[1] == '\'') {
            escapes = quoted = true;
            p++;
        } else if (*p == '\'') {
            quoted = !quoted;
            escapes = quoted && escapes && p[-1] == '$';
        } else if (!quoted && *p == '\\') {
            *out++ = *++p;
        } else if (quoted && escapes && *p == '\\' && p[1] == 'x') {
            const char hex[3] = {p[2], p[3], '\0'};
            *out++ = (char)strtol(hex, NULL, 16);
            p += 3;
        } else if (quoted && escapes && *p == '\\') {
            *out++ = *++p;
        } else if (!quoted) {
            return false;
        } else {
            *out++ = *p;
        }
    }
    *out = '\0';
    return !quoted;
}

static void check_command(const gld_repro *r, const char *line)
{
    static const char begin[] = "fh1 repro ";
    char *command = gld_repro_command(r);
    FUZZ_CHECK(command && strncmp(command, begin, strlen(begin)) == 0, "no command for '%s'", line);
    char *plain = malloc(strlen(command) + 1);
    FUZZ_CHECK(unquote(command + strlen(begin), plain) && strcmp(plain, line) == 0, "%s is another line than '%s'",
               command, line);
    free(plain);
    free(command);
}

static void check_round_trip(const char *line)
{
    gld_repro_copy(&again, &first);
    char *text = gld_repro_print(&first);
    FUZZ_CHECK(text, "no line for '%s'", line);
    check_command(&first, text);
    if (strlen(text) < GLD_WORD_SIZE) { /* what was short before quoting may not be afterwards */
        fh1_status s = gld_repro_parse(text, &again);
        char why[1024] = "";
        if (s) fh1_status_line(s, why, sizeof why);
        FUZZ_CHECK(!s, "'%s' is printed as '%s', which is refused: %s", line, text, why);
        char *twice = gld_repro_print(&again);
        FUZZ_CHECK(twice && strcmp(text, twice) == 0, "'%s' is printed as '%s'", text, twice);
        free(twice);
        unbind(&first);
        unbind(&again);
        if (fuzz_planted("print")) again.seed++;
        same(&first, &again, "after printing", line);
    }
    free(text);
}

static void check_refused(const char *line, const char *why)
{
    char message[2048];
    fh1_status s = gld_repro_parse(line, &again);
    FUZZ_CHECK(s && s->code == FH1_E_INPUT, "the second parse takes '%s', or refuses with another code", line);
    fh1_status_line(s, message, sizeof message);
    FUZZ_CHECK(strcmp(message, why) == 0, "'%s', then '%s': '%s'", why, message, line);
    FUZZ_CHECK(*why && !strpbrk(why, "\n\r\t"), "a message is one line: '%s'", why);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char line[GLD_WORD_SIZE + 64], why[2048] = "";
    if (size >= sizeof line) return 0;
    memcpy(line, data, size);
    line[size] = '\0';
    fuzz_bounds b;
    memset(&first, 0xa5, 64); /* what was there does not show */
    fuzz_bounds_begin(&b);
    fh1_status s = gld_repro_parse(line, &first);
    fuzz_bounds_end(&b, size, HEAP, 0, MS, MS_PER_KB, parse_again, line);
    fuzz_nothing_left(&b);
    if (s) fh1_status_line(s, why, sizeof why);
    const bool taken = slow_repro_read(line, &slow);
    FUZZ_CHECK(taken == !s, "the second reading %s '%s': %s", taken ? "takes" : "refuses", line, why);
    if (s) {
        if (size % 4 == 0) check_refused(line, why);
        return 0;
    }
    gld_repro_parse(line, &again);
    unbind(&again);
    unbind(&slow);
    const gld_repro *const made = &again;
    same(made, &slow, "the second reading", line);
    if (first.is_op) {
        unbind(&first);
        same(&first, made, "the second parse", line);
    }
    check_round_trip(line);
    return 0;
}

static const char *const stock[] = {
    "--make=layers=2,D=32,F=48,V=64,Hq=4,Hkv=2,A=8,H=4,P=8,N=16,G=2,K=4,Q=8",
    "--make=rope=yarn,factor=4,original_max_position=32,max_position=64,A=8",
    "--make=rope=longrope,A=4,long_factor=1/2.5,short_factor=1/1,original_max_position=8,factor=2",
    "--make=rope=llama3,factor=8,low_freq_factor=1,high_freq_factor=4,original_max_position=64",
    "--make=rope=dynamic,factor=2,max_position=64,dtype=f16,weights=lattice,tied=1",
    "--make=rope=linear,factor=2,rms_norm=1,norm_before_gate=1,conv_bias=0,m_x=-0.5,dt_lo=0.001,dt_hi=0.1",
    "--make=weights=trained,dtype=bf16,attention_bias=1,mlp_bias=1,mamba_proj_bias=1,projectors_bias=1,eps=1e-6",
    "--make=family=falcon_mamba,layers=2,D=32,V=64,I=48,N=8,R=4,K=4,use_bias=1,residual_in_fp32=0,mixer_eps=1e-5",
    "--make=block=S_A_M,layers=1,dtype=bf16",
    "--make=block=SAM,D=8",
    "--tap=*.mid_ssm,*.attn_layernorm",
    "--tap=backbone.layers.0.mixer.*",
    "--model=a\\ b\\\\c",
    "--model=golden/models/mini-0.5b-bf16",
    "--engine=ref-f32",
    "--engine=cuda-host",
    "--seed=7",
    "--schedule=p37x3l:0,12,35;d2;c5r:1;d1",
    "--schedule=p20x2k:1,5,7/13,17;c4k:0/1",
    "--schedule=p9y",
    "--traffic=a=2;a+9,4<0,2>1|3/1;b=a;a*3;a@1,1,0",
    "--traffic=c=1;c+5;c?4:2;c-0:2;d=c;c<d;c!0;c~;c:;c.",
    "--positions=none",
    "--positions=1000",
    "--contract=fp32+mup_rounded",
    "--contract=hf-eager-bf16",
    "--variant=mup_rounded",
    "--fault=key_multiplier_dropped",
    "--tap=*.mid,logits",
    "--tap=cache.1.*",
    "--step=1",
    "--op=ssd_scan",
    "--op=attention",
    "--op=gated_norm",
    "--op=linear",
    "--regime=adversarial",
    "--regime=recorded",
    "--trace=t.safetensors",
    "--weights=f16",
    "--T=129",
    "--docs=2",
    "--D=8",
    "--G=2",
    "--Hq=4",
    "--Hkv=2",
    "--A=6",
    "--past=0",
    "--norm_before_gate=1",
    "\\ --op=rope",
    NULL,
};

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned int seed)
{
    fuzz_rng r = {(uint64_t)seed << 20 | (size + 1)};
    size_t n = fuzz_mutate_words((char *)data, size, max_size, stock, &r);
    while (fuzz_below(&r, 3) == 0) n = fuzz_mutate_words((char *)data, n, max_size, stock, &r);
    return n;
}
