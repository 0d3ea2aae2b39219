/* What the tests of convert/ share: a scratch folder, files in it, and a look at error messages. */
#pragma once

#include "oracle/status.h"

#include <check.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* The error must have this code, and its line this word. `what` names the case in the log. */
static inline void expect_error(fh1_status s, fh1_code code, const char *word, const char *what)
{
    char line[2048];
    ck_assert_msg(s != NULL, "%s: no error, expected one with \"%s\"", what, word);
    fh1_status_line(s, line, sizeof line);
    ck_assert_msg(s->code == code && strstr(line, word), "%s: expected \"%s\" with code %d in: [%d] %s", what, word,
                  (int)code, (int)s->code, line);
}

static inline void expect_ok(fh1_status s, const char *what)
{
    char line[2048];
    ck_assert_msg(s == NULL, "%s: %s", what, fh1_status_line(s, line, sizeof line));
}

static inline const char *scratch_new(char *buf, size_t size)
{
    const char *tmp = getenv("TMPDIR");
    snprintf(buf, size, "%s/fh1-test-XXXXXX", tmp ? tmp : "/tmp");
    ck_assert_ptr_nonnull(mkdtemp(buf));
    return buf;
}

/* Removes the folder and the folders in it. */
static inline void scratch_remove(const char *dir)
{
    DIR *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d)) != NULL;) {
        char *path;
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0) continue;
        ck_assert_int_gt(asprintf(&path, "%s/%s", dir, e->d_name), 0);
        if (unlink(path) != 0) scratch_remove(path);
        free(path);
    }
    if (d) closedir(d);
    rmdir(dir);
}

static inline int count_entries(const char *dir)
{
    int n = 0;
    DIR *d = opendir(dir);
    ck_assert_ptr_nonnull(d);
    for (struct dirent *e; (e = readdir(d)) != NULL;) n += strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0;
    closedir(d);
    return n;
}

static inline void path_in(char *buf, size_t size, const char *dir, const char *name)
{
    ck_assert_int_lt(snprintf(buf, size, "%s/%s", dir, name), (int)size);
}

static inline void write_bytes(const char *dir, const char *name, const void *data, size_t n)
{
    char path[4096];
    path_in(path, sizeof path, dir, name);
    FILE *f = fopen(path, "wb");
    ck_assert_ptr_nonnull(f);
    ck_assert_uint_eq(fwrite(data, 1, n, f), n);
    ck_assert_int_eq(fclose(f), 0);
}

static inline void write_text(const char *dir, const char *name, const char *text)
{
    write_bytes(dir, name, text, strlen(text));
}

/* malloc'ed, with a zero behind its n bytes. */
static inline char *read_bytes(const char *dir, const char *name, size_t *n)
{
    char path[4096];
    struct stat st;
    path_in(path, sizeof path, dir, name);
    FILE *f = fopen(path, "rb");
    ck_assert_ptr_nonnull(f);
    ck_assert_int_eq(fstat(fileno(f), &st), 0);
    *n = (size_t)st.st_size;
    char *data = malloc(*n + 1);
    ck_assert_ptr_nonnull(data);
    ck_assert_uint_eq(fread(data, 1, *n, f), *n);
    data[*n] = '\0';
    fclose(f);
    return data;
}

/* One suite of one case; the exit code of main. */
static inline int run_tests(const char *topic, const TTest *const *tests, int n)
{
    Suite *s = suite_create(topic);
    TCase *c = tcase_create(topic);
    tcase_set_timeout(c, 60);
    for (int i = 0; i < n; i++) tcase_add_test(c, tests[i]);
    suite_add_tcase(s, c);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
