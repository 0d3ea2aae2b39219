/* The planted fault is one switch per process, so rows are computed by several processes: copies of this one, made
 * before it has threads. Each takes the next job from one pipe and writes its row, smaller than what a pipe keeps in
 * one piece, to another. */
#include "cli/fault_matrix.h"

#include "oracle/thread.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

_Static_assert(sizeof(fault_row) + sizeof(int) <= PIPE_BUF, "a row must arrive in one piece");
enum { MOST_PROCESSES = 64 };

typedef struct {
    int index; /* of the job */
    fault_row row;
} message;

static bool whole_read(int fd, void *to, size_t n)
{
    for (size_t got = 0; got < n;) {
        const ssize_t r = read(fd, (char *)to + got, n - got);
        if (r < 0 && errno == EINTR) continue;
        if (r <= 0) return false;
        got += (size_t)r;
    }
    return true;
}

static bool whole_write(int fd, const void *from, size_t n)
{
    for (size_t put = 0; put < n;) {
        const ssize_t w = write(fd, (const char *)from + put, n - put);
        if (w < 0 && errno == EINTR) continue;
        if (w <= 0) return false;
        put += (size_t)w;
    }
    return true;
}

static fh1_status run_fault(fault_bench *b, int job, fault_row *row)
{
    const fh1_fault_info info = fault_info_of(fault_of_job(job), fault_family_of_job(job));
    return fault_row_run(b, fault_of_job(job), fault_family_of_job(job), &info, row);
}

/* A process takes jobs until there are none. */
static void work(const fault_jobs *j, int in, int out)
{
    fault_bench *b = NULL;
    message m;
    fh1_status s = fault_bench_new(j->folder, j->bf16, &b);
    if (!s && j->cuda) fault_bench_take_cuda(b);
    while (whole_read(in, &m.index, sizeof m.index)) {
        const int job = j->jobs[m.index];
        memset(&m.row, 0, sizeof m.row);
        fh1_status st = s;
        if (!st) st = job < 0 ? fault_honest_run(b, -1 - job, &m.row) : run_fault(b, job, &m.row);
        m.row.job = job;
        if (st) fh1_status_line(st, m.row.error, sizeof m.row.error);
        if (!whole_write(out, &m, sizeof m)) break;
    }
    fault_bench_free(b);
}

static fh1_status start(const fault_jobs *j, int jobs[2], int rows[2], pid_t *pid, int n)
{
    fflush(NULL);       /* or each copy would print what is still in a buffer */
    fh1_set_threads(1); /* no threads that a copy would lack; one each is enough */
    for (int i = 0; i < n; ++i) {
        pid[i] = fork();
        if (pid[i] < 0) return fh1_fail(FH1_E_INTERNAL, "cannot start a process: %s", strerror(errno));
        if (pid[i] > 0) continue;
        close(jobs[1]);
        close(rows[0]);
        work(j, jobs[0], rows[1]);
        _exit(0);
    }
    return NULL;
}

/* Rows come as they are done and go on in the order of the jobs. */
static fh1_status collect(const fault_jobs *j, int in, message *kept)
{
    message m;
    int next = 0;
    while (next < j->n_jobs && whole_read(in, &m, sizeof m)) {
        if (m.index < 0 || m.index >= j->n_jobs) break;
        kept[m.index] = m;
        for (; next < j->n_jobs && kept[next].index == next; ++next) j->done(j->user, &kept[next].row);
    }
    if (next == j->n_jobs) return NULL;
    const char *name =
        j->jobs[next] < 0 ? fault_honest_name(-1 - j->jobs[next]) : fh1_fault_get(fault_of_job(j->jobs[next]))->name;
    return fh1_fail(FH1_E_INTERNAL, "%s: the process that computes its row died", name);
}

fh1_status fault_jobs_run(const fault_jobs *j)
{
    int jobs[2], rows[2], n = j->n_processes < j->n_jobs ? j->n_processes : j->n_jobs;
    pid_t pid[MOST_PROCESSES] = {0};
    if (n > MOST_PROCESSES) n = MOST_PROCESSES;
    message *kept = malloc((size_t)(j->n_jobs + 1) * sizeof *kept);
    if (!kept) return fh1_no_memory((size_t)j->n_jobs * sizeof *kept, "the rows of a matrix");
    for (int i = 0; i < j->n_jobs; ++i) kept[i].index = -1;
    if (pipe(jobs) != 0) {
        free(kept);
        return fh1_fail(FH1_E_INTERNAL, "cannot make a pipe: %s", strerror(errno));
    }
    if (pipe(rows) != 0) {
        close(jobs[0]), close(jobs[1]);
        free(kept);
        return fh1_fail(FH1_E_INTERNAL, "cannot make a pipe: %s", strerror(errno));
    }
    fh1_status s = start(j, jobs, rows, pid, n);
    close(jobs[0]);
    close(rows[1]);
    for (int i = 0; i < j->n_jobs && !s; ++i) /* all of them fit into a pipe */
        if (!whole_write(jobs[1], &i, sizeof i)) s = fh1_fail(FH1_E_INTERNAL, "no process takes jobs");
    close(jobs[1]);
    if (!s) s = collect(j, rows[0], kept);
    close(rows[0]);
    for (int i = 0; i < n; ++i)
        if (pid[i] > 0) waitpid(pid[i], NULL, 0);
    fh1_set_threads(0);
    free(kept);
    return s;
}
