/* Progress and signals: what the bar says, that it never wraps, that a signal becomes a status of the next step and
 * then the death of the process, that a second one does not wait, and that without a signal nothing of this happens
 * (the planted opposite of every case). */
#include "cli/interrupt.h"
#include "cli/progress.h"
#include "tests/convert_test.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>

#define GB 1000000000ull

START_TEST(bar_and_line)
{
    char b[240];
    ck_assert_str_eq(cli_progress_line("convert", 2 * GB, 8 * GB, 10, b, sizeof b),
                     "convert: 25 %, 2.00 GB of 8.00 GB, 200 MB/s, 30 s left");
    ck_assert_str_eq(cli_progress_line("merge", 0, 1234567, 0, b, sizeof b), "merge: 0 %, 0 B of 1.23 MB");
    ck_assert_str_eq(cli_progress_line("merge", 999, 999, 1, b, sizeof b),
                     "merge: 100 %, 999 B of 999 B, 999 B/s, 0 s left");
    ck_assert_str_eq(cli_progress_line("x", 1, 70 * GB, 100, b, sizeof b), "x: 0 %, 1 B of 70.0 GB, 0 B/s, long left");
    ck_assert_str_eq(cli_progress_bar("convert", 2 * GB, 8 * GB, 10, 80, b, sizeof b),
                     "convert [#####.................]  25 %  2.00 GB of 8.00 GB, 200 MB/s, 30 s left");
    ck_assert_ptr_nonnull(strstr(cli_progress_bar("convert", 8 * GB, 8 * GB, 10, 400, b, sizeof b),
                                 "[########################################] 100 %"));
    for (int width = 1; width < 200; width++) /* one column more and the terminal would keep every bar */
        for (uint64_t done = 0; done <= 8 * GB; done += GB)
            ck_assert_uint_lt(strlen(cli_progress_bar("convert", done, 8 * GB, 7000, width, b, sizeof b)),
                              (size_t)width);
}
END_TEST

/* What is left of stderr of a child that runs `body`; returns its wait status. */
static int child(void (*body)(void), char *err, size_t size)
{
    int pipe_fd[2];
    size_t n = 0;
    ck_assert_int_eq(pipe(pipe_fd), 0);
    fflush(NULL);
    pid_t pid = fork();
    ck_assert_int_ge(pid, 0);
    if (pid == 0) {
        dup2(pipe_fd[1], STDERR_FILENO);
        close(pipe_fd[0]);
        body();
        _exit(0);
    }
    close(pipe_fd[1]);
    for (ssize_t k; n + 1 < size && (k = read(pipe_fd[0], err + n, size - 1 - n)) > 0;) n += (size_t)k;
    err[n] = '\0';
    close(pipe_fd[0]);
    int status;
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    return status;
}

static fh1_status steps(cli_progress *p, int from, int to)
{
    for (int i = from; i <= to; i++) FH1_TRY(p->steps.step(p->steps.user, (uint64_t)i, 100));
    return NULL;
}

static void no_signal(void)
{
    cli_progress p;
    cli_progress_begin(&p, "work", false);
    fh1_status s = cli_progress_end(&p, steps(&p, 0, 100));
    cli_die_if_interrupted();
    _exit(s ? 9 : 5);
}

static void one_signal(int number)
{
    char line[512];
    cli_progress p;
    cli_progress_begin(&p, "work", false);
    if (steps(&p, 0, 50)) _exit(9);
    raise(number);
    fh1_status s = cli_progress_end(&p, steps(&p, 51, 100));
    if (!s || s->code != FH1_E_INTERNAL) _exit(9);
    fprintf(stderr, "%s\n", fh1_status_line(s, line, sizeof line));
    cli_die_if_interrupted();
    _exit(8);
}

static void terminated(void)
{
    one_signal(SIGTERM);
}
static void from_keyboard(void)
{
    one_signal(SIGINT);
}
static void hung_up(void)
{
    one_signal(SIGHUP);
}

static void twice(void)
{
    cli_progress p;
    cli_progress_begin(&p, "work", true);
    raise(SIGINT);
    raise(SIGINT);
    _exit(8);
}

static void ignored(void)
{
    cli_progress p;
    signal(SIGHUP, SIG_IGN); /* nohup */
    cli_progress_begin(&p, "work", true);
    raise(SIGHUP);
    _exit(cli_progress_end(&p, steps(&p, 0, 100)) ? 9 : 5);
}

/* After the last step the work counts as done, and afterwards signals are what they were. */
static void too_late(void)
{
    cli_progress p;
    cli_progress_begin(&p, "work", true);
    if (steps(&p, 0, 100)) _exit(9);
    raise(SIGTERM);
    cli_progress_end(&p, NULL);
    cli_die_if_interrupted();
    if (cli_interrupted()) _exit(9);
    signal(SIGTERM, SIG_IGN);
    raise(SIGTERM);
    _exit(5);
}

START_TEST(signals)
{
    static const struct {
        void (*body)(void);
        int exit_code, signal_number;
        const char *says;
    } cases[] = {{no_signal, 5, 0, ""},
                 {terminated, 0, SIGTERM, "interrupted by SIGTERM; nothing was left behind\n"},
                 {from_keyboard, 0, SIGINT, "interrupted by SIGINT; nothing was left behind\n"},
                 {hung_up, 0, SIGHUP, "interrupted by SIGHUP; nothing was left behind\n"},
                 {twice, 0, SIGINT, ""},
                 {ignored, 5, 0, ""},
                 {too_late, 5, 0, ""}};
    char err[4096];
    int status = child(cases[_i].body, err, sizeof err);
    ck_assert_int_eq(WIFSIGNALED(status) ? WTERMSIG(status) : 0, cases[_i].signal_number);
    ck_assert_int_eq(WIFEXITED(status) ? WEXITSTATUS(status) : 0, cases[_i].exit_code);
    ck_assert_str_eq(err, cases[_i].says); /* no bar and no lines: it is over in no time, and stderr is no terminal */
}
END_TEST

static void long_work(void)
{
    cli_progress p;
    cli_progress_begin(&p, "work", false);
    p.begun -= 10; /* seconds that nobody has to wait for */
    for (int i = 0; i <= 1000; i++) p.steps.step(p.steps.user, (uint64_t)i, 1000);
    cli_progress_end(&p, NULL);
}

START_TEST(a_line_per_tenth)
{
    char err[4096];
    int lines = 0;
    ck_assert_int_eq(child(long_work, err, sizeof err), 0);
    for (const char *c = err; (c = strchr(c, '\n')) != NULL; c++) lines++;
    ck_assert_int_eq(lines, 10);
    ck_assert_ptr_nonnull(strstr(err, "work: 40 %, 400 B of 1.00 kB, "));
    ck_assert_ptr_nonnull(strstr(err, "work: 100 %, "));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("progress");
    TCase *tc = tcase_create("progress");
    tcase_add_test(tc, bar_and_line);
    tcase_add_loop_test(tc, signals, 0, 7);
    tcase_add_test(tc, a_line_per_tenth);
    suite_add_tcase(suite, tc);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
