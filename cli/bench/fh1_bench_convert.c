/* fh1-bench-convert: size and speed of the converters and merges on one checkpoint, beside the limits of the machine
 * and the zstd command in the same run. Called by ci/bench; not a test. Rates count bytes of weights, not of files.
 *
 *   native_size               bytes of the native file per byte of weights; limit: the entropy of the exponents of each
 *                             tensor plus the other 8 bits; peer: zstd -3 of the safetensors file
 *   native_compress(_1)       pread, split, encode, checksum; all threads (one thread); limit: reading the bytes;
 *                             peer: zstd -3 of the same bytes, its output dropped as ours is
 *   native_decode(_1)         pread, checksums, decode into warm memory; limit: reading the bytes that come out; peer:
 *                             zstd -d of its own file, output dropped
 *   hf_to_fh1, fh1_to_hf, hf_to_gguf, merge
 *                             the command, targets synced; limit: cp of the model and sync of the copy
 *   …_rss                     the command's largest resident size in MiB; limit: 256 MiB and the largest tensor
 * Repetitions are interleaved; medians are printed. */
#include "cli/bench/bench.h"
#include "cli/bench/bench_child.h"
#include "convert/file.h"
#include "convert/native_impl.h"
#include "oracle/thread.h"

#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { HF_TO_FH1, FH1_TO_HF, HF_TO_GGUF, MERGE, N_COMMANDS };
static const char *const command_names[N_COMMANDS] = {"hf_to_fh1", "fh1_to_hf", "hf_to_gguf", "merge"};

typedef struct {
    const char *model, *fh1;
    char weights[4096], zst[4096], native[4096], folder[4096], gguf[4096], merged[4096], adapter[4096], copy[4096];
    cvt_ckpt *hf, *packed;
    uint64_t bytes, largest;             /* of the weights */
    unsigned char *buffer;               /* for the largest tensor */
    double rate[2][2][BENCH_MAX_ROUNDS]; /* [decode][one thread] */
    double read[2][BENCH_MAX_ROUNDS], zstd[2][BENCH_MAX_ROUNDS], copied[BENCH_MAX_ROUNDS];
    double command[N_COMMANDS][BENCH_MAX_ROUNDS], peak[N_COMMANDS];
} subject;

/* ---- the codec ---- */

typedef struct {
    cvt_ckpt *c;
    int64_t t;
    native_lane *lanes[256];
    unsigned char *raw[256], *out[256];
    bool encode, failed;
} job;

static void encode_piece(void *ctx, int64_t begin, int64_t end, int thread)
{
    job *j = ctx;
    const cvt_ckpt_tensor *t = &j->c->tensors[j->t];
    const uint64_t size = cvt_ckpt_tensor_bytes(t);
    const bool split = t->dtype == FH1_BF16 || t->dtype == FH1_F16;
    for (int64_t i = begin; i < end; i++) {
        const uint64_t at = (uint64_t)i * NATIVE_CHUNK, n = size - at < NATIVE_CHUNK ? size - at : NATIVE_CHUNK;
        native_chunk record;
        fh1_status s = cvt_ckpt_read(j->c, j->t, at, n, j->raw[thread]);
        if (!s && j->encode) s = native_encode(j->lanes[thread], j->raw[thread], n, split, j->out[thread], &record);
        if (s) j->failed = true;
    }
}

/* GB/s of reading all weights in chunks, and of encoding them. */
static double encode_rate(subject *s, bool encode)
{
    static job j; /* its buffers stay warm */
    j.c = s->hf;
    j.encode = encode;
    for (int i = 0; i < fh1_threads() && i < 256; i++) {
        if (!j.raw[i]) {
            bench_must(native_lane_new(&j.lanes[i]));
            j.raw[i] = aligned_alloc(NATIVE_ALIGN, NATIVE_CHUNK);
            j.out[i] = aligned_alloc(NATIVE_ALIGN, NATIVE_SPAN_MAX);
            if (!j.raw[i] || !j.out[i]) bench_stop(fh1_no_memory(NATIVE_CHUNK, "a chunk"));
        }
    }
    const double t0 = bench_now();
    for (j.t = 0; j.t < s->hf->n_tensors; j.t++)
        fh1_parallel_for(native_chunks_of(cvt_ckpt_tensor_bytes(&s->hf->tensors[j.t])), 1, encode_piece, &j);
    const double rate = (double)s->bytes / (bench_now() - t0) / 1e9;
    if (j.failed) bench_stop(fh1_fail(FH1_E_INTERNAL, "a chunk could not be read or encoded"));
    return rate;
}

/* GB/s of decoding a checkpoint tensor by tensor into one buffer. */
static double decode_rate(const subject *s, cvt_ckpt *c)
{
    const double t0 = bench_now();
    for (int64_t t = 0; t < c->n_tensors; t++) bench_must(cvt_native_read_tensor(c, t, s->buffer));
    return (double)s->bytes / (bench_now() - t0) / 1e9;
}

static void codec_round(subject *s, int i)
{
    const char *const pack[] = {"zstd", "-q", "-3", "-c", s->weights, NULL};
    const char *const unpack[] = {"zstd", "-q", "-d", "-c", s->zst, NULL};
    for (int one = 0; one < 2; one++) {
        fh1_set_threads(one);
        s->rate[0][one][i] = encode_rate(s, true);
        s->rate[1][one][i] = decode_rate(s, s->packed);
        s->read[one][i] = decode_rate(s, s->hf);
    }
    fh1_set_threads(0);
    if (!bench_has("zstd")) return;
    s->zstd[0][i] = (double)s->bytes / bench_run(pack, NULL).seconds / 1e9;
    s->zstd[1][i] = (double)s->bytes / bench_run(unpack, NULL).seconds / 1e9;
}

/* Bits per byte of the best code for each tensor's exponents alone, the other byte whole, as a share. */
static double entropy_share(const subject *s)
{
    double bits = 0;
    for (int64_t t = 0; t < s->hf->n_tensors; t++) {
        const cvt_ckpt_tensor *e = &s->hf->tensors[t];
        const uint64_t n_bytes = cvt_ckpt_tensor_bytes(e), n = n_bytes / 2;
        double count[256] = {0};
        if (e->dtype != FH1_BF16 || n == 0) {
            bits += 8 * (double)n_bytes;
            continue;
        }
        bench_must(cvt_native_read_tensor(s->hf, t, s->buffer));
        for (uint64_t i = 0; i < n; i++) count[(s->buffer[2 * i] >> 7 | s->buffer[2 * i + 1] << 1) & 0xff]++;
        bits += 8 * (double)n;
        for (int k = 0; k < 256; k++)
            if (count[k] > 0) bits -= count[k] * log2(count[k] / (double)n);
    }
    return bits / 8 / (double)s->bytes;
}

/* ---- the commands ---- */

static void remove_folder(const char *path)
{
    const char *const argv[] = {"rm", "-rf", path, NULL};
    bench_run(argv, NULL);
}

/* cp -r and sync of what it made, in seconds. */
static double copy_and_sync(const subject *s)
{
    remove_folder(s->copy);
    const char *const copy[] = {"cp", "-r", "-T", s->model, s->copy, NULL};
    const char *const sync_it[] = {"sh", "-c", "exec sync \"$0\"/*", s->copy, NULL};
    const double seconds = bench_run(copy, NULL).seconds + bench_run(sync_it, NULL).seconds;
    remove_folder(s->copy);
    return seconds;
}

static bench_child run_command(const subject *s, int which)
{
    const char *const argv[N_COMMANDS][9] = {
        {s->fh1, "convert", s->model, s->native, "--force", "--quiet"},
        {s->fh1, "convert", s->native, s->folder, "--force", "--quiet"},
        {s->fh1, "convert", s->model, s->gguf, "--force", "--quiet"},
        {s->fh1, "merge", s->model, s->adapter, "-o", s->merged, "--force", "--quiet"},
    };
    const char *const made[N_COMMANDS] = {s->native, s->folder, s->gguf, s->merged};
    remove_folder(made[which]); /* so that no run pays for the deletion of what the one before has made */
    const bench_child c = bench_run(argv[which], NULL);
    if (which != HF_TO_FH1) remove_folder(made[which]);
    return c;
}

static void command_round(subject *s, int i)
{
    const double weights = (double)s->bytes / 1e9;
    s->copied[i] = weights / copy_and_sync(s);
    for (int k = 0; k < N_COMMANDS; k++) {
        const bench_child c = run_command(s, k);
        s->command[k][i] = weights / c.seconds;
        if (c.peak_mib > s->peak[k]) s->peak[k] = c.peak_mib;
    }
}

/* ---- all of it ---- */

static uint64_t file_size(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 ? (uint64_t)st.st_size : 0;
}

static void prepare(subject *s, const char *work)
{
    const struct {
        char *path;
        const char *name;
    } names[] = {{s->zst, "weights.zst"}, {s->native, "model.fh1"}, {s->folder, "folder"}, {s->gguf, "model.gguf"},
                 {s->merged, "merged"},   {s->adapter, "adapter"},  {s->copy, "copy"}};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        bench_must(cvt_path_join(names[i].path, sizeof s->zst, work, names[i].name));
    bench_must(cvt_path_join(s->weights, sizeof s->weights, s->model, "model.safetensors"));
    bench_make_adapter(s->model, s->adapter);
    bench_must(cvt_ckpt_open(s->model, &s->hf));
    for (int64_t t = 0; t < s->hf->n_tensors; t++) {
        const uint64_t n = cvt_ckpt_tensor_bytes(&s->hf->tensors[t]);
        s->bytes += n;
        if (n > s->largest) s->largest = n;
    }
}

/* After the commands: a child counts what its parent held when it forked as its own. */
static void open_native(subject *s)
{
    run_command(s, HF_TO_FH1);
    bench_must(cvt_native_open(s->native, &s->packed));
    s->buffer = malloc(s->largest);
    if (!s->buffer) bench_stop(fh1_no_memory(s->largest, "the largest tensor"));
    memset(s->buffer, 1, s->largest); /* warm */
    const char *const pack[] = {"zstd", "-q", "-3", "-c", s->weights, NULL};
    if (bench_has("zstd")) bench_run(pack, s->zst);
}

static double peer_of(const subject *s, double *v, int rounds)
{
    return file_size(s->zst) ? bench_median(v, rounds) : (double)NAN;
}

static void report(subject *s, int rounds, bool json)
{
    static const char *const names[2][2] = {{"native_compress", "native_compress_1"},
                                            {"native_decode", "native_decode_1"}};
    const double weights = (double)s->bytes, zst = (double)file_size(s->zst), room = 256 + (double)s->largest / 1048576;
    if (!json)
        printf("%s: %.3f GB of weights, %d threads, %d rounds, medians\n", s->model, weights / 1e9, fh1_threads(),
               rounds);
    bench_tell(json, "native_size", (double)file_size(s->native) / weights, "of bytes", entropy_share(s),
               zst > 0 ? zst / weights : (double)NAN);
    for (int k = 0; k < 2; k++)
        for (int one = 0; one < 2; one++)
            bench_tell(json, names[k][one], bench_median(s->rate[k][one], rounds), "GB/s",
                       bench_median(s->read[one], rounds), peer_of(s, s->zstd[k], rounds));
    const double copied = bench_median(s->copied, rounds);
    for (int k = 0; k < N_COMMANDS; k++)
        bench_tell(json, command_names[k], bench_median(s->command[k], rounds), "GB/s", copied, (double)NAN);
    for (int k = 0; k < N_COMMANDS; k++) {
        char name[64];
        snprintf(name, sizeof name, "%s_rss", command_names[k]);
        bench_tell(json, name, s->peak[k], "MiB", room, (double)NAN);
    }
    if (!json && zst == 0) printf("peer: the zstd command is not installed\n");
}

static void run(const char *model, const char *work, const char *fh1, int rounds, bool json)
{
    static subject s;
    s.model = model;
    s.fh1 = fh1;
    prepare(&s, work);
    for (int i = 0; i < rounds; i++) command_round(&s, i);
    open_native(&s);
    for (int i = -1; i < rounds; i++) codec_round(&s, i < 0 ? 0 : i); /* round -1 warms up */
    report(&s, rounds, json);
    cvt_ckpt_close(s.packed);
    cvt_ckpt_close(s.hf);
    free(s.buffer);
    unlink(s.zst);
    unlink(s.native);
}

int main(int argc, char **argv)
{
    const char *words[3] = {NULL};
    bool json = false;
    int rounds = 5, n = 0;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--json") == 0) json = true;
        else if (strcmp(argv[i], "--rounds") == 0 && i + 1 < argc) rounds = atoi(argv[++i]);
        else if (argv[i][0] != '-' && n < 3) words[n++] = argv[i];
        else n = 4;
    }
    if (n != 3 || rounds < 1 || rounds > BENCH_MAX_ROUNDS) {
        fprintf(stderr,
                "usage: fh1-bench-convert MODEL_DIR WORK_DIR FH1 [--rounds 1..%d] [--json]   (see ci/bench "
                "--help)\n",
                BENCH_MAX_ROUNDS);
        return 2;
    }
    run(words[0], words[1], words[2], rounds, json);
    return 0;
}
