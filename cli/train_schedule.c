#include "cli/train_schedule.h"

#include "cli/train_numbers.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

static const char *const names[] = {"constant", "linear", "cosine", "inverse-power"};

fh1_status cli_schedule_parse(const char *text, cli_schedule *s)
{
    const char *colon = strchr(text, ':');
    const size_t n = colon ? (size_t)(colon - text) : strlen(text);
    s->power = 0.25; /* the technical report's */
    for (int i = 0; i < 4; i++) {
        if (strlen(names[i]) != n || strncmp(names[i], text, n) != 0) continue;
        s->kind = (cli_lr_kind)i;
        if (!colon) return NULL;
        if (s->kind == CLI_LR_INVERSE_POWER)
            return cli_read_number("--schedule inverse-power", colon + 1, 0, 10, &s->power);
    }
    return fh1_found(fh1_expected(FH1_BAD("--schedule: unknown"), "constant, linear, cosine, inverse-power or "
                                                                  "inverse-power:P"),
                     "'%s'", text);
}

fh1_status cli_schedule_check(const cli_schedule *s)
{
    if (s->warmup > s->steps)
        return fh1_found(FH1_BAD("--warmup is longer than the training"), "%" PRId64 " of %" PRId64 " steps", s->warmup,
                         s->steps);
    if (s->min > s->lr) return fh1_found(FH1_BAD("--min-lr is above --lr"), "%g and %g", s->min, s->lr);
    return NULL;
}

bool cli_schedule_needs_steps(const cli_schedule *s)
{
    return s->kind == CLI_LR_LINEAR || s->kind == CLI_LR_COSINE;
}

double cli_schedule_lr(const cli_schedule *s, int64_t t)
{
    const double pi = 3.141592653589793, W = (double)s->warmup;
    if (t <= s->warmup) return s->lr * (double)t / W;
    const double x = (double)(t - 1 - s->warmup) / (double)(s->steps - s->warmup);
    switch (s->kind) {
    case CLI_LR_LINEAR: return s->min + (s->lr - s->min) * (1 - x);
    case CLI_LR_COSINE: return s->min + (s->lr - s->min) * (1 + cos(pi * x)) / 2;
    case CLI_LR_INVERSE_POWER: return fmax(s->min, s->lr * pow((double)t / fmax(W, 1), -s->power));
    case CLI_LR_CONSTANT: break;
    }
    return s->lr;
}
