#include "cli/train_report.h"

#include "cli/progress.h"

#include "cli/commands.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <sys/resource.h>
#include <unistd.h>

void cli_train_report_begin(cli_train_report *r, int64_t done, int64_t steps, bool json, bool quiet)
{
    *r = (cli_train_report){.json = json,
                            .quiet = quiet,
                            .terminal = isatty(STDOUT_FILENO) == 1,
                            .steps = steps,
                            .first_step = done + 1,
                            .tenths = done * 10 / steps,
                            .begun = cli_seconds()};
}

void cli_train_report_memory(const cli_train_report *r, const cli_train_state *s)
{
    size_t weights = 0;
    for (int64_t i = 0; i < s->model->n_weights; i++) weights += fh1_n_bytes(&s->model->weights[i].t);
    if (r->quiet) return;
    const double MB = 1e6;
    fprintf(stderr,
            "training %" PRId64 " numbers in %" PRId64
            " tensors; memory: weights %.1f MB, masters %.1f MB, as stored %.1f "
            "MB, m and v %.1f MB, gradients %.1f MB, and activations\n",
            s->count, s->n, (double)weights / MB, (double)s->bytes_master / MB, (double)s->bytes_stored / MB,
            2 * (double)s->bytes_master / MB, (double)s->grads->bytes / MB);
}

/* JSON has no NaN. */
static void json_number(const char *key, double v)
{
    if (isfinite(v)) printf("\"%s\":%.17g,", key, v);
    else printf("\"%s\":null,", key);
}

static double per_second(int64_t tokens, double seconds)
{
    return seconds > 0 ? (double)tokens / seconds : 0;
}

static bool is_told(cli_train_report *r, int64_t step)
{
    const int64_t tenths = step * 10 / r->steps;
    const bool told = r->json || r->terminal || step == r->first_step || tenths > r->tenths;
    r->tenths = tenths;
    return told && (r->json || !r->quiet);
}

void cli_train_report_step(cli_train_report *r, const cli_train_step *x)
{
    if (x->step == r->first_step) r->loss_first = x->loss;
    r->loss_last = x->loss;
    r->tokens += x->tokens;
    if (r->each) r->each(r->user, x);
    if (!is_told(r, x->step)) return;
    const double rate = per_second(x->tokens, x->seconds);
    if (r->json) {
        printf("{\"step\":%" PRId64 ",", x->step);
        json_number("loss", x->loss);
        json_number("norm", x->norm);
        json_number("lr", x->lr);
        printf("\"tokens\":%" PRId64 ",\"tokens_per_s\":%.6g}\n", x->tokens, rate);
    } else {
        printf("step %" PRId64 " of %" PRId64 ": loss %.6f, norm %.4g, lr %.4g, %.4g tokens/s\n", x->step, r->steps,
               x->loss, x->norm, x->lr, rate);
    }
    fflush(stdout);
}

void cli_train_report_end(const cli_train_report *r, const char *out, const char *kind)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    const double seconds = cli_seconds() - r->begun, rate = per_second(r->tokens, seconds);
    const int64_t peak = (int64_t)u.ru_maxrss * 1024; /* Linux counts kB */
    if (r->json) {
        printf("{\"summary\":true,\"fh1\":\"%s\",\"schema\":1,\"steps\":%" PRId64 ",\"first_step\":%" PRId64 ",",
               cli_version(), r->steps, r->first_step);
        json_number("loss_first", r->loss_first);
        json_number("loss_last", r->loss_last);
        printf("\"tokens\":%" PRId64 ",\"tokens_per_s\":%.6g,\"peak_bytes\":%" PRId64 ",\"kind\":\"%s\",\"out\":",
               r->tokens, rate, peak, kind);
        cli_json_string(stdout, out);
        printf("}\n");
    } else if (!r->quiet) {
        if (r->tokens > 0)
            printf("%s: %s; loss %.6f to %.6f over steps %" PRId64 " to %" PRId64 ", %.4g tokens/s, at most %.0f MB\n",
                   out, kind, r->loss_first, r->loss_last, r->first_step, r->steps, rate, (double)peak / 1e6);
        else printf("%s: %s; the checkpoint was already at step %" PRId64 "\n", out, kind, r->steps);
    }
}
