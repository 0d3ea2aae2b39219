/* Whether a kernel's mistake is reported: it is run in a child, and its report is read. Host world only. */
#pragma once

#include "cuda/host/runtime_api.h"
#include "cuda/host/sanitizer.h"

#if defined(__SANITIZE_THREAD__) || __has_feature(thread_sanitizer)
enum { INSTRUMENTED = 1 };
#else
enum { INSTRUMENTED = 0 };
#endif

#include <string>
#include <sys/wait.h>
#include <unistd.h>

/* f ends the process with 66 and a report that holds `text` (NULL: any). A sanitizer may be the one that reports: then
 * any exit but 0 will do for what `memory` says is an access to memory. */
template <typename F> static bool dies(F f, const char *text, bool memory = false)
{
    int fd[2];
    ck_assert_int_eq(pipe(fd), 0);
    fflush(stdout);
    fflush(stderr);
    const pid_t child = fork();
    ck_assert_int_ge(child, 0);
    if (!child) {
        dup2(fd[1], 2);
        close(fd[0]);
        f();
        (void)cu_host::cudaDeviceSynchronize();
        _exit(0);
    }
    close(fd[1]);
    std::string said;
    char buf[4096];
    for (ssize_t n; (n = read(fd[0], buf, sizeof buf)) > 0;) said.append(buf, static_cast<size_t>(n));
    close(fd[0]);
    int status = 0;
    waitpid(child, &status, 0);
    const int code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    const bool sanitized = CU_HOST_ASAN || CU_HOST_MSAN || INSTRUMENTED;
    const bool good_code = code == 66 || (memory && sanitized && code != 0);
    const bool good_text = !text || (memory && sanitized) || said.find(text) != std::string::npos;
    if (!good_code || !good_text) printf("exit %d, and this was said:\n%s\n", code, said.c_str());
    return good_code && good_text;
}
