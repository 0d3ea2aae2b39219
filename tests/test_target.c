/* Targets: whole or not at all, whatever dies when. Folders with folders in them, what --force may replace, what a dead
 * writer leaves and who removes it, the old folder that was moved away, the handler that removes temporaries, the check
 * of free space. Planted opposites: a living writer's temporary stays, a folder that is not ours stays. */
#include "cli/interrupt.h"
#include "convert/checkpoint.h"
#include "convert/file.h"
#include "convert/target_live.h"
#include "tests/convert_test.h"

#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <sys/wait.h>

typedef struct {
    char dir[256], model[300];
} scratch;

static void setup(scratch *x)
{
    scratch_new(x->dir, sizeof x->dir);
    path_in(x->model, sizeof x->model, x->dir, "model");
}

static void make_folder(const char *dir, const char *name)
{
    char path[4096];
    path_in(path, sizeof path, dir, name);
    ck_assert_int_eq(mkdir(path, 0777), 0);
}

/* A small model folder in the target's temporary. */
static void fill(const cvt_target *t, const char *text)
{
    write_text(t->temp, "config.json", text);
    write_text(t->temp, "model.safetensors", text);
    make_folder(t->temp, "original");
    make_folder(t->temp, "original/deep");
    write_text(t->temp, "original/deep/params.json", text);
    write_text(t->temp, "original/.hidden", text);
    char link[4096];
    path_in(link, sizeof link, t->temp, "original/link");
    ck_assert_int_eq(symlink("/", link), 0); /* to be removed, not followed */
}

static fh1_status write_model(const char *path, const char *text, bool force)
{
    cvt_target t;
    fh1_status s = cvt_target_begin(path, true, force, &t);
    if (!s) {
        fill(&t, text);
        s = cvt_target_commit(&t);
    }
    cvt_target_free(&t);
    return s;
}

static void expect_text(const char *dir, const char *name, const char *text)
{
    size_t n;
    char *got = read_bytes(dir, name, &n);
    ck_assert_str_eq(got, text);
    free(got);
}

START_TEST(a_folder_of_folders)
{
    scratch x;
    cvt_target t;
    setup(&x);
    expect_ok(write_model(x.model, "one", false), "new");
    expect_text(x.model, "original/deep/params.json", "one");
    expect_error(write_model(x.model, "two", false), FH1_E_INPUT, "the target exists", "without force");
    expect_text(x.model, "config.json", "one");
    expect_ok(write_model(x.model, "two", true), "force");
    expect_text(x.model, "original/deep/params.json", "two");
    ck_assert_int_eq(count_entries(x.dir), 1); /* nothing of the old one is left */
    expect_ok(cvt_target_begin(x.model, true, true, &t), "abort");
    fill(&t, "three");
    cvt_target_free(&t);
    expect_text(x.model, "config.json", "two");
    ck_assert_int_eq(count_entries(x.dir), 1);
    scratch_remove(x.dir);
}
END_TEST

START_TEST(force_replaces_only_models)
{
    scratch x;
    setup(&x);
    make_folder(x.dir, "model");
    expect_ok(write_model(x.model, "one", true), "an empty folder");
    make_folder(x.model, ".git");
    expect_error(write_model(x.model, "two", true), FH1_E_INPUT, "git repository", "a repository");
    expect_text(x.model, "config.json", "one");

    char other[300];
    path_in(other, sizeof other, x.dir, "other");
    make_folder(x.dir, "other");
    write_text(other, "notes.txt", "mine");
    expect_error(write_model(other, "two", true), FH1_E_INPUT, "neither a model nor an adapter", "a folder of notes");
    write_text(other, "config.json", "{}");
    make_folder(other, "photos");
    expect_error(write_model(other, "two", true), FH1_E_INPUT, "neither a model nor an adapter",
                 "a project with a config.json");
    expect_text(other, "notes.txt", "mine");
    char adapter[300];
    path_in(adapter, sizeof adapter, x.dir, "adapter");
    make_folder(x.dir, "adapter");
    write_text(adapter, "adapter_model.safetensors", "x");
    expect_error(write_model(adapter, "two", true), FH1_E_INPUT, "neither a model nor an adapter", "weights of nobody");
    write_text(adapter, "adapter_config.json", "{}");
    expect_ok(write_model(adapter, "three", true), "an adapter");
    expect_text(adapter, "config.json", "three");
    write_text(x.dir, "file", "mine");
    path_in(other, sizeof other, x.dir, "file");
    expect_error(write_model(other, "two", true), FH1_E_INPUT, "is a file", "a file");
    expect_error(cvt_file_write(x.model, "x", 1, true), FH1_E_INPUT, "is a folder", "a folder for a file");
    scratch_remove(x.dir);
}
END_TEST

static mode_t mode_of(const char *dir, const char *name)
{
    struct stat st;
    char path[4096];
    path_in(path, sizeof path, dir, name);
    ck_assert_int_eq(lstat(path, &st), 0);
    return st.st_mode;
}

static void make_link(const scratch *x, const char *to, const char *name, char path[300])
{
    path_in(path, 300, x->dir, name);
    ck_assert_int_eq(symlink(to, path), 0);
}

START_TEST(links_are_followed)
{
    scratch x;
    char link[300], chain[300], circle[300], fresh[300], folder[300];
    setup(&x);
    make_folder(x.dir, "far");
    make_link(&x, "far/file", "link", link);
    make_link(&x, link, "chain", chain);
    make_link(&x, "circle", "circle", circle);
    make_link(&x, "far/fresh", "fresh", fresh);
    write_text(x.dir, "far/file", "old");
    expect_error(cvt_file_write(chain, "new", 3, false), FH1_E_INPUT, "the target exists", "without force");
    expect_ok(cvt_file_write(chain, "new", 3, true), "two links");
    expect_text(x.dir, "far/file", "new");
    ck_assert(S_ISLNK(mode_of(x.dir, "chain")) && S_ISLNK(mode_of(x.dir, "link")));
    expect_ok(cvt_file_write(fresh, "new", 3, true), "a link to nothing yet");
    expect_text(x.dir, "far/fresh", "new");
    expect_error(cvt_file_write(circle, "new", 3, true), FH1_E_INPUT, "in a circle", "a circle");

    ck_assert_int_eq(rmdir(x.model), -1); /* not there yet */
    make_link(&x, "model/", "to-model", folder);
    expect_ok(write_model(folder, "one", true), "a link to a folder to be made");
    expect_ok(write_model(folder, "two", true), "a link to a model");
    expect_text(x.model, "config.json", "two");
    ck_assert(S_ISLNK(mode_of(x.dir, "to-model")));
    expect_error(write_model(link, "two", true), FH1_E_INPUT, "is a file", "a link to a file");
    ck_assert_int_eq(count_entries(x.dir), 7);
    scratch_remove(x.dir);
}
END_TEST

START_TEST(access_rights_stay)
{
    scratch x;
    char file[300];
    setup(&x);
    path_in(file, sizeof file, x.dir, "secret");
    write_text(x.dir, "secret", "old");
    ck_assert_int_eq(chmod(file, 0600), 0);
    expect_ok(cvt_file_write(file, "new", 3, true), "replaced");
    ck_assert_int_eq(mode_of(x.dir, "secret") & 07777, 0600);
    expect_ok(write_model(x.model, "one", false), "new");
    ck_assert_int_ne(mode_of(x.dir, "model") & 07777, 0700);
    ck_assert_int_eq(chmod(x.model, 0700), 0);
    expect_ok(write_model(x.model, "two", true), "replaced");
    ck_assert_int_eq(mode_of(x.dir, "model") & 07777, 0700);
    scratch_remove(x.dir);
}
END_TEST

/* A rename onto one of these would take it away. */
START_TEST(only_files_and_folders_are_replaced)
{
    scratch x;
    char pipe_name[300], null[300], out[300];
    setup(&x);
    path_in(pipe_name, sizeof pipe_name, x.dir, "pipe");
    ck_assert_int_eq(mkfifo(pipe_name, 0600), 0);
    make_link(&x, "/dev/null", "null", null);
    expect_error(cvt_file_write(pipe_name, "x", 1, true), FH1_E_INPUT, "no regular file", "a pipe");
    expect_error(cvt_file_write(null, "x", 1, true), FH1_E_INPUT, "no regular file", "a device");
    expect_error(write_model(pipe_name, "x", true), FH1_E_INPUT, "no regular file", "a folder for a pipe");
    expect_error(write_model("/dev/null", "x", true), FH1_E_INPUT, "no regular file", "a folder for a device");
    ck_assert(S_ISFIFO(mode_of(x.dir, "pipe")) && S_ISCHR(mode_of("/dev", "null")));

    write_text(x.dir, "out", "x");
    path_in(out, sizeof out, x.dir, "out");
    fflush(NULL);
    int keep = dup(STDERR_FILENO), fd = open(out, O_WRONLY | O_APPEND);
    dup2(fd, STDERR_FILENO);
    fh1_status s = cvt_file_write(out, "y", 1, true);
    dup2(keep, STDERR_FILENO);
    close(keep);
    close(fd);
    expect_error(s, FH1_E_INPUT, "standard output or error goes to", "where messages go");
    expect_ok(cvt_file_write(out, "y", 1, true), "the same when nothing goes there");
    ck_assert_int_eq(count_entries(x.dir), 3);
    scratch_remove(x.dir);
}
END_TEST

/* A writer that dies without a word, in the middle. Returns when it is gone. */
static void die_writing(const char *path)
{
    fflush(NULL);
    pid_t pid = fork();
    ck_assert_int_ge(pid, 0);
    if (pid == 0) {
        cvt_target t;
        if (!cvt_target_begin(path, true, true, &t)) fill(&t, "half");
        raise(SIGKILL);
    }
    ck_assert_int_eq(waitpid(pid, NULL, 0), pid);
}

START_TEST(the_next_writer_cleans_up)
{
    scratch x;
    cvt_target living;
    setup(&x);
    die_writing(x.model);
    die_writing(x.model);
    ck_assert_int_eq(count_entries(x.dir), 1); /* the second removed the first's */
    expect_ok(cvt_target_begin(x.model, true, false, &living), "another writer at work");
    fill(&living, "living");
    ck_assert_int_eq(count_entries(x.dir), 1);
    expect_ok(write_model(x.model, "one", false), "after both");
    ck_assert_int_eq(count_entries(x.dir), 2);
    expect_text(living.temp, "original/deep/params.json", "living"); /* not taken for an orphan */
    expect_error(cvt_target_commit(&living), FH1_E_INPUT, "the target exists", "too late");
    cvt_target_free(&living);
    die_writing(x.model);
    expect_text(x.model, "config.json", "one"); /* the old one survives under --force */
    ck_assert_int_eq(count_entries(x.dir), 2);
    expect_ok(write_model(x.model, "two", true), "replaced");
    ck_assert_int_eq(count_entries(x.dir), 1);
    scratch_remove(x.dir);
}
END_TEST

/* Where folders cannot be exchanged, a writer may die between the two renames: the old model has only its hidden name
 * then, and must not be taken for rubbish. */
START_TEST(what_was_moved_away_comes_back)
{
    scratch x;
    char hidden[300], half[300];
    cvt_target t;
    setup(&x);
    expect_ok(write_model(x.model, "old", false), "the old one");
    path_in(hidden, sizeof hidden, x.dir, ".model.fh1-1-0-old");
    path_in(half, sizeof half, x.dir, ".model.fh1-1-0");
    ck_assert_int_eq(rename(x.model, hidden), 0);
    ck_assert_int_eq(mkdir(half, 0777), 0);
    expect_ok(cvt_target_begin(x.model, true, true, &t), "the next writer");
    expect_text(x.model, "original/deep/params.json", "old");
    ck_assert_int_eq(count_entries(x.dir), 2); /* the model and the new temporary */
    cvt_target_free(&t);

    ck_assert_int_eq(mkdir(hidden, 0777), 0); /* it died later: the new one is in place, the old one rubbish */
    expect_ok(cvt_target_begin(x.model, true, true, &t), "the next writer");
    ck_assert_int_eq(count_entries(x.dir), 2);
    expect_text(x.model, "config.json", "old");
    cvt_target_free(&t);
    scratch_remove(x.dir);
}
END_TEST

static char stolen[400];

/* A folder and a file are being written, and a mapped source loses its pages. */
static void lose_a_page(const char *dir, const char *source)
{
    cvt_target folder, file;
    const void *map;
    char path[512];
    size_t n;
    cli_bus_error_begin("test");
    path_in(path, sizeof path, dir, "out.fh1");
    if (cvt_target_begin(path, false, false, &file)) _exit(9);
    path_in(path, sizeof path, dir, "model");
    if (cvt_target_begin(path, true, false, &folder)) _exit(9);
    fill(&folder, "half");
    if (cvt_write_at(file.fd, path, "half", 4, 0) || cvt_file_map(source, &map, &n)) _exit(9);
    if (count_entries(dir) != 3 || truncate(source, 10) != 0) _exit(9);
    _exit(10 + ((const volatile char *)map)[n - 1]);
}

START_TEST(a_lost_page_is_one_line)
{
    scratch x;
    int pipe_fd[2], status;
    char err[4096];
    setup(&x);
    path_in(stolen, sizeof stolen, x.dir, "source.safetensors");
    for (int pass = 0; pass < 2; pass++) {
        char *pages = calloc(1, 20000);
        write_bytes(x.dir, "source.safetensors", pages, 20000);
        free(pages);
        ck_assert_int_eq(pipe(pipe_fd), 0);
        fflush(NULL);
        pid_t pid = fork();
        ck_assert_int_ge(pid, 0);
        if (pid == 0) {
            dup2(pipe_fd[1], STDERR_FILENO);
            if (pass == 0) lose_a_page(x.dir, stolen);
            cli_bus_error_begin("test"); /* a bus error of another kind stays what it is */
            raise(SIGBUS);
            _exit(9);
        }
        close(pipe_fd[1]);
        ssize_t n = read(pipe_fd[0], err, sizeof err - 1);
        err[n > 0 ? n : 0] = '\0';
        close(pipe_fd[0]);
        ck_assert_int_eq(waitpid(pid, &status, 0), pid);
        if (pass == 1) {
            ck_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS);
            break;
        }
        ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 2, "status %x: %s", (unsigned)status, err);
        ck_assert_ptr_eq(strstr(err, "fh1 test: /"), err);
        ck_assert_ptr_nonnull(strstr(err, "/source.safetensors: the file was cut short while it was read"));
        ck_assert_ptr_eq(strchr(err, '\n'), err + strlen(err) - 1);
        ck_assert_int_eq(count_entries(x.dir), 1); /* both temporaries are gone */
    }
    scratch_remove(x.dir);
}
END_TEST

START_TEST(space)
{
    scratch x;
    char path[400];
    setup(&x);
    expect_ok(cvt_check_space(x.model, 1), "one byte");
    path_in(path, sizeof path, x.dir, "model///");
    expect_ok(cvt_check_space(path, 1), "slashes at the end");
    expect_ok(cvt_check_space("model", 1), "in this folder");
    expect_error(cvt_check_space(path, UINT64_MAX), FH1_E_INPUT, "18.45 EB (18446744073709551615 bytes)", "everything");
    expect_error(cvt_check_space(path, UINT64_MAX), FH1_E_INPUT, x.dir, "where");
    expect_error(cvt_check_space(path, UINT64_MAX), FH1_E_INPUT, "nothing was written", "what to do");
    path_in(path, sizeof path, x.dir, "none/model");
    expect_error(cvt_check_space(path, 1), FH1_E_INPUT, "No such file", "no folder");
    ck_assert_int_eq(count_entries(x.dir), 0);
    scratch_remove(x.dir);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {a_folder_of_folders,
                                  force_replaces_only_models,
                                  links_are_followed,
                                  access_rights_stay,
                                  only_files_and_folders_are_replaced,
                                  the_next_writer_cleans_up,
                                  what_was_moved_away_comes_back,
                                  a_lost_page_is_one_line,
                                  space};
    return run_tests("target", tests, sizeof tests / sizeof *tests);
}
