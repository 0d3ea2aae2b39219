/* What the tests of GGUF export and import share: models made from a golden config, and their files. */
#pragma once

#include "convert/gguf.h"
#include "convert/hf_folder.h"
#include "convert/safetensors.h"
#include "tests/gguf_fixture.h"

#include <fcntl.h>

static const cvt_write_options forced = {.force = true};

static inline cvt_ckpt *open_model(const char *path)
{
    cvt_ckpt *c;
    expect_ok(cvt_ckpt_open(path, &c), path);
    return c;
}

static inline void export_as(const char *model, const char *path, cvt_gguf_type type)
{
    cvt_ckpt *c = open_model(model);
    expect_ok(cvt_gguf_write(c, path, type, &forced), path);
    cvt_ckpt_close(c);
}

/* A folder made from a golden config with words replaced: from, to, …, NULL. */
static inline void make_model(const char *dir, const char *name, fh1_dtype dtype, const char *const *words)
{
    char path[512], config[512];
    size_t n;
    char *text = read_bytes("golden/models/mini-0.5b", "config.json", &n);
    for (; words && *words; words += 2) {
        char *longer, *at = strstr(text, words[0]);
        ck_assert_msg(at, "%s is not in the config", words[0]);
        ck_assert_int_gt(asprintf(&longer, "%.*s%s%s", (int)(at - text), text, words[1], at + strlen(words[0])), 0);
        free(text);
        text = longer;
    }
    write_text(dir, "made.json", text);
    free(text);
    path_in(config, sizeof config, dir, "made.json");
    path_in(path, sizeof path, dir, name);
    expect_ok(cvt_hf_folder_init(config, path, 11, dtype, true), name);
}

/* Every tensor whose name ends like this becomes zero. */
static inline void zero_tensors(const char *dir, const char *name, const char *suffix)
{
    char path[512];
    cvt_st *f;
    ck_assert_int_lt(snprintf(path, sizeof path, "%s/%s/model.safetensors", dir, name), (int)sizeof path);
    expect_ok(cvt_st_open(path, &f), path);
    int fd = open(path, O_WRONLY), n = 0;
    for (int64_t i = 0; i < cvt_st_count(f); i++) {
        const cvt_st_entry *e = cvt_st_at(f, i);
        const size_t len = strlen(e->name), k = strlen(suffix);
        static const char zeros[4096];
        if (len < k || strcmp(e->name + len - k, suffix) != 0) continue;
        ck_assert_uint_le(e->end - e->begin, sizeof zeros);
        ck_assert_int_eq(pwrite(fd, zeros, e->end - e->begin, (off_t)e->begin), (ssize_t)(e->end - e->begin));
        n++;
    }
    ck_assert_int_gt(n, 0);
    ck_assert_int_eq(close(fd), 0);
    cvt_st_close(f);
}

/* In place: one text by another of the same length. */
static inline void replace_in(const char *dir, const char *name, const char *from, const char *to)
{
    size_t n, k = strlen(from);
    char *data = read_bytes(dir, name, &n);
    char *at = memmem(data, n, from, k);
    ck_assert_msg(at && strlen(to) == k, "%s", from);
    memcpy(at, to, k);
    write_bytes(dir, name, data, n);
    free(data);
}

static const char *const biased[] = {"\"attention_bias\": false", "\"attention_bias\": true", "\"mlp_bias\": false",
                                     "\"mlp_bias\": true", NULL};
static const char *const tied[] = {"\"tie_word_embeddings\": false", "\"tie_word_embeddings\": true",
                                   "\"mamba_conv_bias\": true", "\"mamba_conv_bias\": false", NULL};
