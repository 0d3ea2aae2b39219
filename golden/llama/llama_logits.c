/* llama_logits: token ids through stock llama.cpp on the CPU, all logits as a trace (docs/traces.md).
 *
 *   llama_logits MODEL.gguf IDS OUT.safetensors [--split A,B,…] [--contract NAME]
 *
 * IDS holds decimal numbers between white space: one sequence. --split cuts it into calls on one cache (the rest is the
 * last one), each a step of the trace. The cache is f32 and flash attention off: llama.cpp's defaults round both.
 * Exit codes: 0 done, 1 llama.cpp refused or failed, 2 bad usage. */
#include <llama.h>

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_STEPS 64

typedef struct {
    llama_token *ids;
    int n_ids, first[MAX_STEPS + 1], n_steps; /* step i: ids first[i] to first[i + 1] - 1 */
    const char *contract;
} request;

static int fail(const char *what, const char *name)
{
    fprintf(stderr, "llama_logits: %s: %s\n", name, what);
    return 1;
}

static int usage(void)
{
    fputs("usage: llama_logits MODEL.gguf IDS OUT.safetensors [--split A,B,...] [--contract NAME]\n", stderr);
    return 2;
}

static int read_ids(const char *path, request *r)
{
    FILE *f = fopen(path, "r");
    int32_t id;
    if (!f) return fail("cannot be opened", path);
    while (fscanf(f, "%" SCNd32, &id) == 1) {
        llama_token *grown = realloc(r->ids, (size_t)(r->n_ids + 1) * sizeof *grown);
        if (!grown) return fail("no memory", path);
        r->ids = grown;
        r->ids[r->n_ids++] = id;
    }
    int rest = feof(f) ? 0 : 1;
    fclose(f);
    if (rest || r->n_ids == 0) return fail("not a list of token ids", path);
    r->n_steps = 1;
    r->first[1] = r->n_ids;
    return 0;
}

static int split(const char *text, request *r)
{
    int at = 0;
    r->n_steps = 0;
    while (*text && r->n_steps < MAX_STEPS - 1) {
        char *end;
        long n = strtol(text, &end, 10);
        if (end == text || n < 1 || n >= r->n_ids - at || (*end && *end != ',')) return usage();
        at += (int)n;
        r->first[++r->n_steps] = at;
        text = *end ? end + 1 : end;
    }
    r->first[++r->n_steps] = r->n_ids;
    return 0;
}

/* Everything of the file but the data: for each step its ids and its logits. */
static int write_header(FILE *f, const request *r, int V)
{
    char *text = malloc(512 + 512 * (size_t)r->n_steps);
    int64_t at = 0;
    if (!text) return fail("no memory", "header");
    int n = sprintf(text, "{\"__metadata__\":{\"fh1.trace\":\"1\",\"fh1.producer\":\"llama.cpp\"%s%.100s%s}",
                    r->contract ? ",\"fh1.contract\":\"" : "", r->contract ? r->contract : "", r->contract ? "\"" : "");
    for (int i = 0; i < r->n_steps; i++) {
        const int64_t T = r->first[i + 1] - r->first[i], ids = at + 8 * T, end = ids + 4 * T * V;
        n += sprintf(text + n,
                     ",\"step%d/input_ids\":{\"dtype\":\"I64\",\"shape\":[1,%" PRId64 "],\"data_offsets\":[%" PRId64
                     ",%" PRId64 "]},\"step%d/logits\":{\"dtype\":\"F32\",\"shape\":[1,%" PRId64
                     ",%d],\"data_offsets\":[%" PRId64 ",%" PRId64 "]}",
                     i, T, at, ids, i, T, V, ids, end);
        at = end;
    }
    n += sprintf(text + n, "}");
    while (n % 8) n += sprintf(text + n, " ");
    const uint64_t length = (uint64_t)n; /* little-endian, as everything here */
    int bad = fwrite(&length, 8, 1, f) != 1 || fwrite(text, 1, (size_t)n, f) != (size_t)n;
    free(text);
    return bad;
}

/* One call; its ids and all its logits go to the file. */
static int run_step(struct llama_context *ctx, const request *r, int step, int V, FILE *f)
{
    const int first = r->first[step], n = r->first[step + 1] - first;
    struct llama_batch b = llama_batch_init(n, 0, 1);
    b.n_tokens = n;
    for (int i = 0; i < n; i++) {
        b.token[i] = r->ids[first + i];
        b.pos[i] = first + i;
        b.n_seq_id[i] = 1;
        b.seq_id[i][0] = 0;
        b.logits[i] = 1;
    }
    int bad = llama_decode(ctx, b) != 0;
    for (int i = 0; i < n && !bad; i++) {
        const int64_t id = b.token[i];
        bad = fwrite(&id, 8, 1, f) != 1;
    }
    for (int i = 0; i < n && !bad; i++) {
        const float *row = llama_get_logits_ith(ctx, i);
        bad = !row || fwrite(row, sizeof *row, (size_t)V, f) != (size_t)V;
    }
    llama_batch_free(b);
    return bad ? fail("llama_decode or writing failed", "step") : 0;
}

static int run_model(const char *path, const request *r, const char *out)
{
    struct llama_model_params mp = llama_model_default_params();
    mp.n_gpu_layers = 0;
    struct llama_model *model = llama_model_load_from_file(path, mp);
    if (!model) return fail("llama.cpp cannot load it", path);
    struct llama_context_params cp = llama_context_default_params();
    cp.n_ctx = (uint32_t)r->n_ids;
    cp.n_batch = cp.n_ubatch = (uint32_t)r->n_ids;
    cp.n_threads = cp.n_threads_batch = 1;
    cp.type_k = cp.type_v = GGML_TYPE_F32;
    cp.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
    struct llama_context *ctx = llama_init_from_model(model, cp);
    FILE *f = ctx ? fopen(out, "wb") : NULL;
    const int V = llama_vocab_n_tokens(llama_model_get_vocab(model));
    int bad = f ? write_header(f, r, V) : fail("no context, or the target cannot be written", out);
    for (int i = 0; i < r->n_steps && !bad; i++) bad = run_step(ctx, r, i, V, f);
    if (f && fclose(f) != 0) bad = fail("writing failed", out);
    if (ctx) llama_free(ctx);
    llama_model_free(model);
    return bad;
}

static void quiet(enum ggml_log_level level, const char *text, void *user)
{
    (void)user;
    if (level == GGML_LOG_LEVEL_ERROR) fputs(text, stderr);
}

int main(int argc, char **argv)
{
    request r = {0};
    if (argc < 4 || argc % 2 != 0) return usage();
    int bad = read_ids(argv[2], &r);
    for (int i = 4; i < argc && !bad; i += 2) {
        if (strcmp(argv[i], "--split") == 0) bad = split(argv[i + 1], &r);
        else if (strcmp(argv[i], "--contract") == 0) r.contract = argv[i + 1];
        else bad = usage();
    }
    if (bad) return bad;
    setenv("GGML_NO_BACKTRACE", "1", 0); /* an abort would start a debugger */
    llama_log_set(quiet, NULL);
    llama_backend_init();
    bad = run_model(argv[1], &r, argv[3]);
    llama_backend_free();
    free(r.ids);
    return bad;
}
