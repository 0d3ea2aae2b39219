/* What the tests of golden/ share: a folder of their own, and errors that must say the right thing. */
#pragma once

#include "convert/safetensors.h"
#include "golden/trace.h"
#include "oracle/compare.h"

#include <check.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define OK(expr)                                                                                  \
    do {                                                                                          \
        fh1_status ok_status_ = (expr);                                                           \
        char ok_line_[2048];                                                                      \
        ck_assert_msg(!ok_status_, "%s", fh1_status_line(ok_status_, ok_line_, sizeof ok_line_)); \
    } while (0)

/* The expression fails with the code, and its line contains the text. */
#define FAILS(expr, wanted_code, text)                                                                        \
    do {                                                                                                      \
        fh1_status fails_status_ = (expr);                                                                    \
        char fails_line_[2048];                                                                               \
        ck_assert_msg(fails_status_ != NULL, "not noticed: %s", text);                                        \
        fh1_status_line(fails_status_, fails_line_, sizeof fails_line_);                                      \
        ck_assert_msg(fails_status_->code == (wanted_code), "code %d: %s", fails_status_->code, fails_line_); \
        ck_assert_msg(strstr(fails_line_, text), "'%s' is not in: %s", text, fails_line_);                    \
    } while (0)

#define N_OF(array) ((int)(sizeof(array) / sizeof *(array))) /* of a loop test's cases */

static char fixture_dir[64];

static inline void fixture_begin(void)
{
    strcpy(fixture_dir, "/tmp/fh1-trace-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(fixture_dir));
}

static inline const char *fixture_path(const char *name, char buf[256])
{
    snprintf(buf, 256, "%s/%s", fixture_dir, name);
    return buf;
}

/* Names in the folder; a target that was refused must leave none. */
static inline int fixture_count(void)
{
    int n = 0;
    DIR *d = opendir(fixture_dir);
    ck_assert_ptr_nonnull(d);
    for (struct dirent *e = readdir(d); e; e = readdir(d)) n += strcmp(e->d_name, ".") && strcmp(e->d_name, "..");
    closedir(d);
    return n;
}

static inline void fixture_end(void)
{
    char path[512];
    DIR *d = opendir(fixture_dir);
    ck_assert_ptr_nonnull(d);
    for (struct dirent *e = readdir(d); e; e = readdir(d)) {
        snprintf(path, sizeof path, "%s/%s", fixture_dir, e->d_name);
        if (strcmp(e->d_name, ".") && strcmp(e->d_name, "..")) ck_assert_int_eq(remove(path), 0);
    }
    closedir(d);
    ck_assert_int_eq(rmdir(fixture_dir), 0);
}

static inline void fixture_text(const char *name, const char *text)
{
    char path[256];
    FILE *f = fopen(fixture_path(name, path), "wb");
    ck_assert_ptr_nonnull(f);
    ck_assert_uint_eq(fwrite(text, 1, strlen(text), f), strlen(text));
    ck_assert_int_eq(fclose(f), 0);
}

/* A file from tensors given by name: element k of each is first + k. */
typedef struct {
    const char *name;
    fh1_dtype dtype;
    int rank;
    int64_t shape[4];
    double first;
} fixture_tensor;

/* Overwrites `name`; metadata fh1.trace unless version is NULL, then one more pair if key is not NULL. */
static inline void fixture_tensors(const char *name, const fixture_tensor *list, int n, const char *version,
                                   const char *key, const char *value)
{
    char path[256];
    cvt_st_writer *w;
    OK(cvt_st_writer_new(fixture_path(name, path), true, &w));
    if (version) OK(cvt_st_writer_meta(w, "fh1.trace", version));
    if (key) OK(cvt_st_writer_meta(w, key, value));
    for (int i = 0; i < n; i++) OK(cvt_st_writer_declare(w, list[i].name, list[i].dtype, list[i].rank, list[i].shape));
    for (int i = 0; i < n; i++) {
        fh1_tensor t = fh1_view(NULL, list[i].dtype, list[i].rank, list[i].shape);
        t.data = malloc(fh1_n_bytes(&t) + 1);
        ck_assert_ptr_nonnull(t.data);
        for (int64_t k = 0; k < fh1_n_elems(&t); k++) fh1_set(&t, k, list[i].first + (double)k);
        OK(cvt_st_writer_put(w, list[i].name, 0, t.data, fh1_n_elems(&t)));
        free(t.data);
    }
    OK(cvt_st_writer_commit(w));
    cvt_st_writer_free(w);
}
