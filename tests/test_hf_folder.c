/* Model folders: what `init` makes is opened, bound and bit for bit reproducible; every way in which index,
 * shards and config can disagree is named. The planted faults are the disagreements themselves: each one is an
 * edit of a folder that opens, and the unedited folder is opened first. */
#include "convert/hf_folder.h"
#include "convert/safetensors.h"
#include "tests/convert_test.h"

#include <fcntl.h>
#include <math.h>
#include <stdint.h>

static const char config_text[] =
    "{\"model_type\":\"falcon_h1\",\"hidden_size\":24,\"num_hidden_layers\":2,\"intermediate_size\":40,"
    "\"num_attention_heads\":4,\"num_key_value_heads\":2,\"head_dim\":8,\"vocab_size\":50,\"hidden_act\":\"silu\","
    "\"rms_norm_eps\":1e-05,\"attention_bias\":true,\"mlp_bias\":false,\"projectors_bias\":true,"
    "\"tie_word_embeddings\":false,\"mamba_d_ssm\":42,\"mamba_n_heads\":6,\"mamba_d_head\":7,\"mamba_n_groups\":3,"
    "\"mamba_d_state\":9,\"mamba_d_conv\":4,\"mamba_chunk_size\":16,\"mamba_conv_bias\":true,"
    "\"mamba_proj_bias\":true,\"mamba_rms_norm\":true,\"mamba_norm_before_gate\":false,\"embedding_multiplier\":2.5,"
    "\"lm_head_multiplier\":0.125,\"key_multiplier\":0.5,\"attention_in_multiplier\":1.5,"
    "\"attention_out_multiplier\":0.75,\"ssm_in_multiplier\":0.5,\"ssm_out_multiplier\":0.25,"
    "\"ssm_multipliers\":[0.5,0.25,0.35,0.7,1.25],\"mlp_multipliers\":[0.8,0.5],\"rope_theta\":10000.0,"
    "\"torch_dtype\" : \"bfloat16\" }";

typedef struct {
    char dir[256], config[300], model[300], weights[330];
} scratch;

static void setup(scratch *x)
{
    scratch_new(x->dir, sizeof x->dir);
    path_in(x->config, sizeof x->config, x->dir, "in.json");
    path_in(x->model, sizeof x->model, x->dir, "model");
    path_in(x->weights, sizeof x->weights, x->model, "model.safetensors");
    write_text(x->dir, "in.json", config_text);
    expect_ok(cvt_hf_folder_init(x->config, x->model, 7, FH1_BF16, false), "init");
}

static fh1_status open_and_close(const char *dir)
{
    fh1_model m;
    fh1_status s = cvt_hf_folder_open(dir, &m);
    if (!s) fh1_model_free(&m);
    return s;
}

/* in with the first `from` replaced by `to`; malloc'ed. */
static char *edited(const char *in, const char *from, const char *to)
{
    const char *at = strstr(in, from);
    char *out;
    ck_assert_msg(at != NULL, "nothing to replace: %s", from);
    ck_assert_int_gt(asprintf(&out, "%.*s%s%s", (int)(at - in), in, to, at + strlen(from)), 0);
    return out;
}

static void edit_file(const char *dir, const char *name, const char *from, const char *to)
{
    size_t n;
    char *old = read_bytes(dir, name, &n), *text = edited(old, from, to);
    write_text(dir, name, text);
    free(old);
    free(text);
}

START_TEST(init_makes_a_model_that_opens)
{
    scratch x;
    fh1_model m;
    setup(&x);
    expect_ok(cvt_hf_folder_open(x.model, &m), "open");
    ck_assert_int_eq(m.config.n_layers, 2);
    ck_assert_int_eq(m.n_weights, 1 + 2 * (17 + 4 + 1 + 1) + 2); /* biases: q k v o, in_proj, out_proj */
    ck_assert_int_eq(m.layers[1].in_w.shape[0], 2 * 42 + 2 * 27 + 6);
    ck_assert_str_eq(m.path, x.model);
    ck_assert_ptr_nonnull(strstr(m.revision, "bf16, 49 tensors, "));
    double a = exp(fh1_get(&m.layers[0].A_log, 0)), dt = log1p(exp(fh1_get(&m.layers[0].dt_bias, 0)));
    ck_assert(fabs(a * dt * 3 - 1) < 0.1); /* the first head forgets in three tokens */
    a = exp(fh1_get(&m.layers[1].A_log, 5));
    dt = log1p(exp(fh1_get(&m.layers[1].dt_bias, 5)));
    ck_assert(fabs(a * dt * 1000 - 1) < 0.1); /* and the last one in a thousand */
    double sum = 0;                           /* k_proj must make up for attention_in_multiplier and key_multiplier */
    const fh1_tensor *k = &m.layers[0].k_w;
    for (int64_t i = 0; i < fh1_n_elems(k); i++) sum += fh1_get(k, i) * fh1_get(k, i);
    double std = sqrt(sum / (double)fh1_n_elems(k)) * sqrt(24.0) * 1.5 * 0.5;
    ck_assert_msg(fabs(std - 1) < 0.15, "keys of size %g", std);
    fh1_model_free(&m);
    size_t n;
    char *copy = read_bytes(x.model, "config.json", &n);
    ck_assert_str_eq(copy, config_text); /* bfloat16 was asked for and stands there */
    free(copy);
    ck_assert_int_eq(count_entries(x.dir), 2);
    scratch_remove(x.dir);
}
END_TEST

START_TEST(init_is_a_function_of_the_seed)
{
    scratch x;
    char other[300];
    size_t n, k;
    setup(&x);
    char *first = read_bytes(x.model, "model.safetensors", &n);
    path_in(other, sizeof other, x.dir, "other");
    expect_ok(cvt_hf_folder_init(x.config, other, 7, FH1_BF16, false), "the same seed");
    char *again = read_bytes(other, "model.safetensors", &k);
    ck_assert_uint_eq(n, k);
    ck_assert_int_eq(memcmp(first, again, n), 0);
    free(again);
    expect_ok(cvt_hf_folder_init(x.config, other, 8, FH1_BF16, true), "another seed");
    again = read_bytes(other, "model.safetensors", &k);
    ck_assert_uint_eq(n, k);
    ck_assert_int_ne(memcmp(first, again, n), 0);
    free(again);
    free(first);

    expect_ok(cvt_hf_folder_init(x.config, other, 7, FH1_F64, true), "f64"); /* the same numbers, less rounded */
    again = read_bytes(other, "config.json", &k);
    ck_assert_ptr_nonnull(strstr(again, "\"torch_dtype\" : \"float64\" }"));
    free(again);
    fh1_model a, b;
    expect_ok(cvt_hf_folder_open(x.model, &a), "bf16");
    expect_ok(cvt_hf_folder_open(other, &b), "f64");
    for (int64_t i = 0; i < fh1_n_elems(&a.lm_head); i++) {
        double exact = fh1_get(&b.lm_head, i), rounded = fh1_get(&a.lm_head, i);
        ck_assert(fabs(rounded - exact) <= 0.5 * fh1_dtype_ulp(FH1_BF16, exact));
    }
    fh1_model_free(&a);
    fh1_model_free(&b);
    scratch_remove(x.dir);
}
END_TEST

START_TEST(init_keeps_what_is_there)
{
    scratch x;
    setup(&x);
    expect_error(cvt_hf_folder_init(x.config, x.model, 7, FH1_BF16, false), FH1_E_INPUT, "the target exists",
                 "a target");
    expect_ok(cvt_hf_folder_init(x.config, x.model, 7, FH1_F32, true), "force");
    ck_assert_int_eq(count_entries(x.model), 2);
    /* x.dir holds a folder and no config.json: never one of ours */
    expect_error(cvt_hf_folder_init(x.config, x.dir, 7, FH1_F32, true), FH1_E_INPUT, "neither a model nor an adapter",
                 "a foreign folder");
    expect_error(cvt_hf_folder_init(x.config, x.config, 7, FH1_F32, true), FH1_E_INPUT, "is a file", "a file");
    expect_error(cvt_hf_folder_init(x.config, x.model, 7, FH1_I64, true), FH1_E_INPUT, "BF16, F32, F16 or F64",
                 "integers");
    write_text(x.dir, "in.json", "{\"model_type\":\"falcon_h1\"}");
    expect_error(cvt_hf_folder_init(x.config, x.model, 7, FH1_F32, true), FH1_E_INPUT, "hidden_size is missing",
                 "a poor config");
    char *text =
        edited(config_text, "\"torch_dtype\" : \"bfloat16\"", "\"quantization_config\":{\"quant_method\":\"gptq\"}");
    write_text(x.dir, "in.json", text);
    expect_error(cvt_hf_folder_init(x.config, x.model, 7, FH1_F32, true), FH1_E_INPUT, "quantised (gptq)", "quantised");
    free(text);
    text = edited(config_text, "\"embedding_multiplier\":2.5", "\"embedding_multiplier\":1e-6");
    write_text(x.dir, "in.json", text);
    free(text);
    expect_error(cvt_hf_folder_init(x.config, x.model, 7, FH1_F16, true), FH1_E_INPUT, "too large for F16", "infinite");
    expect_ok(cvt_hf_folder_init(x.config, x.model, 7, FH1_BF16, true), "a type with more range");
    expect_ok(open_and_close(x.model), "the model after all that");
    ck_assert_int_eq(count_entries(x.dir), 2);
    scratch_remove(x.dir);
}
END_TEST

/* Writes the entries of `f` whose ordinal mod 2 is `part` into model/name; `skip` is left out, `twice` taken in. */
static void write_part(const scratch *x, const cvt_st *f, int part, const char *name, const char *skip,
                       const char *twice)
{
    char path[400];
    cvt_st_writer *w;
    path_in(path, sizeof path, x->model, name);
    expect_ok(cvt_st_writer_new(path, true, &w), path);
    for (int pass = 0; pass < 2; pass++) {
        for (int64_t i = 0; i < cvt_st_count(f); i++) {
            const cvt_st_entry *e = cvt_st_at(f, i);
            bool take =
                (i % 2 == part && !(skip && strcmp(e->name, skip) == 0)) || (twice && strcmp(e->name, twice) == 0);
            if (!take) continue;
            if (pass == 0) expect_ok(cvt_st_writer_declare(w, e->name, e->t.dtype, e->t.rank, e->t.shape), e->name);
            else expect_ok(cvt_st_writer_put(w, e->name, 0, e->t.data, fh1_n_elems(&e->t)), e->name);
        }
    }
    expect_ok(cvt_st_writer_commit(w), path);
    cvt_st_writer_free(w);
}

#define ONE "model-00001-of-00002.safetensors"
#define TWO "model-00002-of-00002.safetensors"
#define INDEX "model.safetensors.index.json"

/* Splits the model into two shards; returns the open original. */
static cvt_st *split(const scratch *x)
{
    cvt_st *f;
    expect_ok(cvt_st_open(x->weights, &f), "the single file");
    unlink(x->weights); /* its map stays */
    write_part(x, f, 0, ONE, NULL, NULL);
    write_part(x, f, 1, TWO, NULL, NULL);
    char text[16384];
    size_t n = 0;
    uint64_t total = 0;
    for (int64_t i = 0; i < cvt_st_count(f); i++) total += cvt_st_at(f, i)->end - cvt_st_at(f, i)->begin;
    n += (size_t)snprintf(text, sizeof text,
                          "{\"metadata\":{\"total_parameters\":1,\"total_size\":%llu},\"weight_map\":{",
                          (unsigned long long)total);
    for (int64_t i = 0; i < cvt_st_count(f); i++)
        n += (size_t)snprintf(text + n, sizeof text - n, "%s\"%s\":\"%s\"", i ? "," : "", cvt_st_at(f, i)->name,
                              i % 2 ? TWO : ONE);
    snprintf(text + n, sizeof text - n, "}}");
    write_text(x->model, INDEX, text);
    return f;
}

START_TEST(the_index_is_audited)
{
    static const struct {
        const char *from, *to, *word;
    } edits[] = {
        {"\"total_size\":", "\"total_size\":1", "total_size is not the size of the tensors"},
        {"\"total_size\":", "\"total_size\":\"x\",\"y\":", "total_size"},
        {"\"weight_map\":", "\"weights\":", "no weight_map"},
        {"\"model.embed_tokens.weight\":", "\"extra\":", "model.embed_tokens.weight\" of " TWO " is not in the index"},
        {"\"lm_head.weight\":\"" ONE "\"", "\"lm_head.weight\":\"" TWO "\"", "mapped to " TWO " but lies in " ONE},
        {"\"lm_head.weight\":\"" ONE "\"", "\"lm_head.weight\":\"model-00003-of-00003.safetensors\"",
         "missing: model-00003-of-00003"},
        {"\"lm_head.weight\":\"" ONE "\"", "\"lm_head.weight\":\"" ONE "\",\"ghost\":\"" ONE "\"",
         "\"ghost\" is missing in " ONE},
        {"\"lm_head.weight\":\"" ONE "\"", "\"lm_head.weight\":\"" ONE "\",\"lm_head.weight\":\"" TWO "\"",
         "appears twice"},
        {"\"lm_head.weight\":\"" ONE "\"", "\"lm_head.weight\":\"../model/" ONE "\"", "not a plain file name"},
        {"\"lm_head.weight\":\"" ONE "\"", "\"lm_head.weight\":\"/etc/x.safetensors\"", "not a plain file name"},
        {"\"lm_head.weight\":\"" ONE "\"", "\"lm_head.weight\":\"..\"", "not a plain file name"},
        {"\"lm_head.weight\":\"" ONE "\"", "\"lm_head.weight\":\"\"", "not a plain file name"},
        {"\"lm_head.weight\":\"" ONE "\"", "\"lm_head.weight\":\"config.json\"", "not a plain file name"},
        {"\"lm_head.weight\":\"" ONE "\"", "\"lm_head.weight\":1", "no file name"},
    };
    scratch x;
    setup(&x);
    cvt_st *f = split(&x);
    expect_ok(open_and_close(x.model), "two shards");
    size_t n;
    char *index = read_bytes(x.model, INDEX, &n);
    for (size_t i = 0; i < sizeof edits / sizeof *edits; i++) {
        edit_file(x.model, INDEX, edits[i].from, edits[i].to);
        expect_error(open_and_close(x.model), FH1_E_INPUT, edits[i].word, edits[i].to);
        expect_error(open_and_close(x.model), FH1_E_INPUT, INDEX, edits[i].to);
        write_text(x.model, INDEX, index);
    }
    free(index);
    write_part(&x, f, 1, TWO, NULL, "lm_head.weight");
    expect_error(open_and_close(x.model), FH1_E_INPUT, "in two files, " ONE " and " TWO, "a tensor in both shards");
    write_part(&x, f, 1, TWO, cvt_st_at(f, 1)->name, NULL);
    expect_error(open_and_close(x.model), FH1_E_INPUT, "is missing in " TWO, "a tensor in no shard");
    write_text(x.model, TWO, "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n");
    expect_error(open_and_close(x.model), FH1_E_INPUT, "git-lfs pointer", "a pointer");
    char path[400];
    path_in(path, sizeof path, x.model, TWO);
    unlink(path);
    expect_error(open_and_close(x.model), FH1_E_INPUT, "missing: " TWO, "a missing shard");
    cvt_st_close(f);
    scratch_remove(x.dir);
}
END_TEST

/* What the call writes to stderr, and its status. */
static fh1_status captured(const scratch *x, char *text, size_t size)
{
    char path[400];
    path_in(path, sizeof path, x->dir, "stderr");
    fflush(stderr);
    int old = dup(STDERR_FILENO), log = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    ck_assert(old >= 0 && log >= 0);
    dup2(log, STDERR_FILENO);
    fh1_status s = open_and_close(x->model);
    fflush(stderr);
    dup2(old, STDERR_FILENO);
    close(old);
    ssize_t n = pread(log, text, size - 1, 0);
    close(log);
    ck_assert_int_ge(n, 0);
    text[n] = '\0';
    return s;
}

START_TEST(files_left_out_are_mentioned)
{
    scratch x;
    char text[1000];
    setup(&x);
    expect_ok(captured(&x, text, sizeof text), "one file");
    ck_assert_str_eq(text, "");
    write_text(x.model, INDEX, "nonsense");
    expect_ok(captured(&x, text, sizeof text), "a file beside an index");
    ck_assert_ptr_nonnull(strstr(text, "index.json is ignored"));
    cvt_st_close(split(&x));
    expect_ok(captured(&x, text, sizeof text), "shards");
    ck_assert_str_eq(text, "");
    write_text(x.model, "model-00003-of-00003.safetensors", "stray");
    expect_ok(captured(&x, text, sizeof text), "a stray shard");
    ck_assert_ptr_nonnull(strstr(text, "not read: model-00003-of-00003.safetensors\n"));
    ck_assert_ptr_eq(strchr(text, '\n'), text + strlen(text) - 1); /* one line */
    scratch_remove(x.dir);
}
END_TEST

START_TEST(folders_without_a_model_are_named)
{
    scratch x;
    char path[400];
    setup(&x);
    expect_error(open_and_close(x.config), FH1_E_INPUT, "not a model folder", "a file");
    expect_error(open_and_close("/no/such/folder"), FH1_E_INPUT, "/no/such/folder", "nothing");
    expect_error(open_and_close(x.dir), FH1_E_INPUT, "no config.json", "another folder");
    unlink(x.weights);
    expect_error(open_and_close(x.model), FH1_E_INPUT, "no weights (expected model.safetensors or", "no weights");
    write_text(x.model, "pytorch_model.bin", "x");
    expect_error(open_and_close(x.model), FH1_E_INPUT, "found pickled weights (.bin)", "pickle");
    write_text(x.model, "model.safetensors", "");
    expect_error(open_and_close(x.model), FH1_E_INPUT, "too short", "an empty file");
    path_in(path, sizeof path, x.model, "config.json");
    edit_file(x.model, "config.json", "\"torch_dtype\"",
              "\"quantization_config\":{\"quant_method\":\"bitsandbytes\"},\"x\"");
    expect_error(open_and_close(x.model), FH1_E_INPUT, "quantised (bitsandbytes)", "a quantised model");
    scratch_remove(x.dir);
}
END_TEST

/* Writes the model again with one more tensor, a copy of `like` under `name`, its first byte xor `flip`. */
static void add_tensor(const scratch *x, const char *name, const char *like, fh1_dtype dtype, char flip)
{
    cvt_st *f;
    cvt_st_writer *w;
    expect_ok(cvt_st_open(x->weights, &f), "weights");
    expect_ok(cvt_st_writer_new(x->weights, true, &w), "weights");
    const cvt_st_entry *e = cvt_st_find(f, like);
    ck_assert_ptr_nonnull(e);
    size_t n = fh1_n_bytes(&e->t);
    char *data = malloc(n);
    ck_assert_ptr_nonnull(data);
    memcpy(data, e->t.data, n);
    data[0] ^= flip;
    int64_t bytes[] = {(int64_t)n};
    bool same = dtype == e->t.dtype;
    expect_ok(cvt_st_writer_declare(w, name, dtype, same ? e->t.rank : 1, same ? e->t.shape : bytes), name);
    for (int64_t i = 0; i < cvt_st_count(f); i++) {
        const cvt_st_entry *o = cvt_st_at(f, i);
        if (strcmp(o->name, name) != 0)
            expect_ok(cvt_st_writer_declare(w, o->name, o->t.dtype, o->t.rank, o->t.shape), name);
    }
    for (int64_t i = 0; i < cvt_st_count(f); i++) {
        const cvt_st_entry *o = cvt_st_at(f, i);
        if (strcmp(o->name, name) != 0)
            expect_ok(cvt_st_writer_put(w, o->name, 0, o->t.data, fh1_n_elems(&o->t)), name);
    }
    expect_ok(cvt_st_writer_put(w, name, 0, data, same ? fh1_n_elems(&e->t) : bytes[0]), name);
    expect_ok(cvt_st_writer_commit(w), name);
    cvt_st_writer_free(w);
    cvt_st_close(f);
    free(data);
}

START_TEST(a_tied_head_must_be_the_embedding)
{
    scratch x;
    fh1_model m;
    setup(&x);
    expect_ok(cvt_hf_folder_open(x.model, &m), "untied");
    ck_assert_ptr_ne(m.lm_head.data, m.embed.data);
    fh1_model_free(&m);
    edit_file(x.model, "config.json", "\"tie_word_embeddings\":false", "\"tie_word_embeddings\":true");
    expect_error(open_and_close(x.model), FH1_E_INPUT, "lm_head.weight differs from model.embed_tokens.weight",
                 "two tables");
    add_tensor(&x, "lm_head.weight", "model.embed_tokens.weight", FH1_BF16, 0);
    expect_ok(cvt_hf_folder_open(x.model, &m), "the same table twice");
    ck_assert_ptr_eq(m.lm_head.data, m.embed.data);
    for (int64_t i = 0; i < m.n_weights; i++) ck_assert_str_ne(m.weights[i].name, "lm_head.weight");
    fh1_model_free(&m);
    add_tensor(&x, "lm_head.weight", "model.embed_tokens.weight", FH1_BF16, 1);
    expect_error(open_and_close(x.model), FH1_E_INPUT, "differs", "one bit changed");
    scratch_remove(x.dir);
}
END_TEST

START_TEST(quantised_tensors_are_named)
{
    scratch x;
    setup(&x);
    add_tensor(&x, "model.layers.0.mamba.in_proj.weight.absmax", "model.final_layernorm.weight", FH1_BF16, 0);
    expect_error(open_and_close(x.model), FH1_E_INPUT, "in_proj.weight.absmax", "scales");
    expect_ok(cvt_hf_folder_init(x.config, x.model, 7, FH1_BF16, true), "a new one");
    add_tensor(&x, "model.layers.0.mamba.in_proj.weight", "model.final_layernorm.weight", FH1_U8, 0);
    expect_error(open_and_close(x.model), FH1_E_INPUT, "quantised model (U8)", "codes");
    expect_ok(cvt_hf_folder_init(x.config, x.model, 7, FH1_BF16, true), "a new one");
    add_tensor(&x, "stowaway", "model.final_layernorm.weight", FH1_BF16, 0);
    expect_error(open_and_close(x.model), FH1_E_INPUT, "stowaway", "a tensor too many");
    scratch_remove(x.dir);
}
END_TEST

START_TEST(unaligned_weights_are_copied)
{
    scratch x;
    fh1_model a, b;
    size_t n;
    setup(&x);
    char *file = read_bytes(x.model, "model.safetensors", &n), other[300];
    path_in(other, sizeof other, x.dir, "other");
    expect_ok(cvt_hf_folder_init(x.config, other, 7, FH1_BF16, false), "a second one");
    char *odd = malloc(n + 1); /* one blank more behind the header */
    ck_assert_ptr_nonnull(odd);
    size_t n_header = (size_t)(unsigned char)file[0] + 256 * (size_t)(unsigned char)file[1];
    memcpy(odd, file, 8 + n_header);
    odd[8 + n_header] = ' ';
    memcpy(odd + 9 + n_header, file + 8 + n_header, n - 8 - n_header);
    n_header++;
    odd[0] = (char)(unsigned char)n_header;
    odd[1] = (char)(unsigned char)(n_header >> 8);
    write_bytes(other, "model.safetensors", odd, n + 1);
    free(file);
    free(odd);
    cvt_st *f; /* the file itself is unaligned, so the test tests something */
    path_in(x.config, sizeof x.config, other, "model.safetensors");
    expect_ok(cvt_st_open(x.config, &f), "unaligned");
    ck_assert_uint_eq((uintptr_t)cvt_st_at(f, 0)->t.data % 2, 1);
    cvt_st_close(f);
    expect_ok(cvt_hf_folder_open(x.model, &a), "aligned");
    expect_ok(cvt_hf_folder_open(other, &b), "unaligned");
    ck_assert_int_eq(a.n_weights, b.n_weights);
    for (int64_t i = 0; i < a.n_weights; i++) {
        ck_assert_str_eq(a.weights[i].name, b.weights[i].name);
        ck_assert_uint_eq((uintptr_t)b.weights[i].t.data % 64, 0);
        ck_assert_int_eq(memcmp(a.weights[i].t.data, b.weights[i].t.data, fh1_n_bytes(&a.weights[i].t)), 0);
    }
    fh1_model_free(&a);
    fh1_model_free(&b);
    scratch_remove(x.dir);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {init_makes_a_model_that_opens,     init_is_a_function_of_the_seed,
                                  init_keeps_what_is_there,          the_index_is_audited,
                                  files_left_out_are_mentioned,      folders_without_a_model_are_named,
                                  a_tied_head_must_be_the_embedding, quantised_tensors_are_named,
                                  unaligned_weights_are_copied};
    return run_tests("hf_folder", tests, sizeof tests / sizeof *tests);
}
