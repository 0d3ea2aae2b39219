#include "oracle/compare.h"

#include <math.h>

bool fh1_within(double err, double allowed)
{
    return err <= allowed; /* false for NaN; `!(err > allowed)` would let it pass */
}

int fh1_class(double v)
{
    if (isnan(v)) return 3;
    if (isinf(v)) return v > 0 ? 1 : 2;
    return 0;
}

double fh1_error_of(double judged, double truth)
{
    int class = fh1_class(truth);
    if (class != fh1_class(judged) || class == 3) return (double)INFINITY;
    return class == 0 ? fabs(judged - truth) : 0;
}

void fh1_rms_add(fh1_rms *r, double err, double truth, int64_t ordinal)
{
    if (isnan(err)) err = (double)INFINITY;
    r->sum_sq += err * err;
    if (isfinite(truth * truth)) r->ref_sq += truth * truth;
    if (r->n == 0 || !fh1_within(err, r->max_err)) {
        r->max_err = err;
        r->argmax = ordinal;
    }
    r->n++;
}

double fh1_rms_err(const fh1_rms *r)
{
    return r->n ? sqrt(r->sum_sq / (double)r->n) : 0;
}

double fh1_rms_ref(const fh1_rms *r)
{
    return r->n ? sqrt(r->ref_sq / (double)r->n) : 0;
}
