#include "reference/cross_entropy_gauge.h"

#include "reference/gauge_parts.h"

/* One row: value and error of log Σ exp(l - max) + max - l[label]. A relative error of the sum is an absolute one of
 * its logarithm. The argument of exp rounds per term; the errors of exp itself may have one sign, so they are shared.
 */
static double one_row(const fh1_profile *c, int64_t V, const double *l, int64_t label, fh1_err *e)
{
    double max = l[0], sum = 0;
    for (int64_t v = 1; v < V; ++v) max = fmax(max, l[v]);
    fh1_err terms = {0};
    for (int64_t v = 0; v < V; ++v) {
        const double p = exp(l[v] - max);
        sum += p;
        terms = fh1_err_half(terms, c->u * (max - l[v] + ref_exp_units(c, max - l[v]) - c->exp_units) * p);
    }
    terms = fh1_err_add(terms, fh1_err_shared(c->exp_units * c->u * sum));
    terms = fh1_err_scale(fh1_err_sum(terms, c, V, sum), 1 / sum);
    terms.worst = terms.worst < 1 ? -log1p(-terms.worst) : (double)INFINITY;
    *e = fh1_err_function(terms, c, FH1_ROUND_NONE, c->exp_units, log(sum));
    *e = fh1_err_round(*e, c, FH1_ROUND_NONE, log(sum) + max);
    *e = fh1_err_round(*e, c, FH1_ROUND_NONE, log(sum) + max - l[label]);
    return log(sum) + max - l[label];
}

void ref_cross_entropy_gauge(const fh1_profile *contract, int64_t M, int64_t V, const double *logits,
                             const int64_t *labels, const fh1_gauge *g)
{
    fh1_err e = {0};
    double total = 0;
    int64_t n = 0;
    for (int64_t m = 0; m < M; ++m) {
        if (labels[m] == -100) continue;
        fh1_err row;
        total += one_row(contract, V, logits + m * V, labels[m], &row);
        e = fh1_err_add(e, row);
        ++n;
    }
    if (n > 0) {
        e = fh1_err_scale(fh1_err_sum(e, contract, n, total), 1 / (double)n);
        e = fh1_err_round(e, contract, FH1_ROUND_NONE, total / (double)n);
    }
    fh1_gauge_set(g, 0, e);
}
