/* fh1-bench-train: speed and memory of a training step of the reference on one checkpoint. Called by ci/bench; not a
 * test.
 *
 *   train_full, train_lora     tokens/s of a step of one row of 512 tokens with ref-f32, every weight or rank 16 on all
 *                              linear layers that PEFT takes (AdamW, clipping and masters included), against what the
 *                              rate of the BLAS allows for the matrix products: forward once, backward twice (of a
 *                              frozen weight once); the head is among them
 *   train_full_peak, …         GB of resident memory at most, the mapped checkpoint included
 * Medians of the steps of all rounds but the first step of each. */
#include "cli/bench/bench.h"
#include "cli/bench/bench_child.h"
#include "cli/limits.h"
#include "convert/file.h"
#include "convert/json.h"
#include "convert/model_open.h"
#include "oracle/random.h"

#include <limits.h>
#include <string.h>

enum { TOKENS = 512, DOCUMENTS = 8, STEPS = 3 };
#define LORA "16,32,in_proj+q_proj+k_proj+v_proj+o_proj+gate_proj+up_proj+down_proj"

typedef struct {
    const char *model, *fh1;
    char ids[PATH_MAX], out[PATH_MAX], lines[PATH_MAX];
    double matrices; /* numbers in matrices that multiply: all but a table that is only looked up */
    double rate[BENCH_MAX_ROUNDS * STEPS], peak[BENCH_MAX_ROUNDS];
    int n_rates, n_peaks;
} subject;

static void write_ids(const subject *s, int64_t V)
{
    FILE *f = fopen(s->ids, "w");
    const fh1_stream r = fh1_stream_open(1, "fh1 bench train");
    if (!f) bench_stop(fh1_where(FH1_BAD("cannot be written"), "%s", s->ids));
    for (int64_t i = 0; i < DOCUMENTS * TOKENS; i++)
        fprintf(f, "%lld%c", (long long)fh1_random_below(r, (uint64_t)i, V), i % TOKENS == TOKENS - 1 ? '\n' : ' ');
    if (fclose(f) != 0) bench_stop(fh1_where(FH1_BAD("cannot be written"), "%s", s->ids));
}

static void measure_model(subject *s)
{
    fh1_model m;
    bench_must(cvt_model_open(s->model, &m));
    for (int64_t i = 0; i < m.n_weights; i++) {
        const bool table = strcmp(m.weights[i].name, fh1_embed_weight(m.config.family)) == 0 && !m.config.tied;
        if (fh1_weight_is_matrix(m.weights[i].name, m.weights[i].t.rank) && !table)
            s->matrices += (double)fh1_n_elems(&m.weights[i].t);
    }
    write_ids(s, m.config.V);
    fh1_model_free(&m);
}

/* tokens_per_s of every step but the first. */
static void read_rates(subject *s)
{
    char *text, *line;
    size_t n;
    bench_must(cvt_file_read(s->lines, 1 << 20, &text, &n));
    int step = 0;
    for (char *rest = text; (line = strsep(&rest, "\n")) != NULL;) {
        cJSON *json = NULL;
        if (!*line) continue;
        bench_must(cvt_json_parse(line, strlen(line), 4, s->lines, &json));
        const cJSON *rate = cJSON_GetObjectItemCaseSensitive(json, "tokens_per_s");
        if (cJSON_GetObjectItemCaseSensitive(json, "step") && cJSON_IsNumber(rate) && step++ > 0)
            s->rate[s->n_rates++] = rate->valuedouble;
        cJSON_Delete(json);
    }
    free(text);
}

static void train(subject *s, bool lora)
{
    const char *const full[] = {s->fh1,      "train", s->model, "--data",  s->ids,    "--steps", "3",    "--lr", "1e-6",
                                "--seq-len", "512",   "--json", "--quiet", "--force", "-o",      s->out, NULL};
    const char *const some[] = {s->fh1,   "train", s->model,    "--data", s->ids,   "--steps", "3",
                                "--lr",   "1e-6",  "--seq-len", "512",    "--json", "--quiet", "--force",
                                "--lora", LORA,    "-o",        s->out,   NULL};
    const bench_child c = bench_run(lora ? some : full, s->lines);
    s->peak[s->n_peaks++] = c.peak_mib * 1048576 / 1e9;
    read_rates(s);
}

static void tell(subject *s, bool json, bool lora, double flops)
{
    const double products = lora ? 4 : 6; /* 2 per number and token: forward, dx, and dW where it is wanted */
    bench_tell(json, lora ? "train_lora" : "train_full", bench_median(s->rate, s->n_rates), "tokens/s",
               flops / (products * s->matrices), NAN);
    bench_tell(json, lora ? "train_lora_peak" : "train_full_peak", bench_median(s->peak, s->n_peaks), "GB", NAN, NAN);
}

static void run(subject *s, const char *work, int rounds, bool json)
{
    double bytes, flops;
    bench_must(cvt_path_join(s->ids, sizeof s->ids, work, "train.ids"));
    bench_must(cvt_path_join(s->out, sizeof s->out, work, "trained"));
    bench_must(cvt_path_join(s->lines, sizeof s->lines, work, "train.json"));
    measure_model(s);
    for (int lora = 1; lora >= 0; lora--) { /* a folder that holds an adapter is replaced by one that holds a model */
        s->n_rates = s->n_peaks = 0;
        for (int r = 0; r < rounds; r++) train(s, lora != 0);
        bench_must(cli_limits_cpu(&bytes, &flops));
        tell(s, json, lora != 0, flops);
    }
    if (!json) printf("peer: none on this machine (not measured)\n");
}

int main(int argc, char **argv)
{
    bool json = false;
    int rounds = 3, n = 0;
    const char *words[3];
    for (int i = 1; i < argc && n >= 0; ++i) {
        if (strcmp(argv[i], "--json") == 0) json = true;
        else if (strcmp(argv[i], "--rounds") == 0 && i + 1 < argc) rounds = atoi(argv[++i]);
        else if (argv[i][0] != '-' && n < 3) words[n++] = argv[i];
        else n = -1;
    }
    if (n != 3 || rounds < 1 || rounds > BENCH_MAX_ROUNDS) {
        fprintf(stderr,
                "usage: fh1-bench-train MODEL_DIR WORK_DIR FH1 [--rounds 1..%d] [--json]   (see ci/bench --help)\n",
                BENCH_MAX_ROUNDS);
        return 2;
    }
    static subject s;
    s.model = words[0];
    s.fh1 = words[2];
    run(&s, words[1], rounds, json);
    return 0;
}
