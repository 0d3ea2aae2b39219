#include "reference/ssd_step.h"

#include "reference/scan_faults.h"

#include <assert.h>
#include <string.h>

void REF(ref_ssd_step_fwd)(const REF(ref_ssd_args) * a, const fh1_profile *p)
{
    assert(a->T == 1);
    const fh1_round r = p->at[FH1_RP_STEP];
    if (r == FH1_ROUND_NONE) { /* without roundings the step is the scan of one token */
        REF(ref_ssd_scan_fwd)(a, p);
        return;
    }
    const int64_t P = a->P, N = a->N, d = a->H * P;
    const double reset = REF(ref_reset_at)(a->doc, a->state_doc, 0, a->reset);
    if (!(reset < 0) && REF(ref_ssd_cut)(a, 0, a->state_doc)) memset(a->state, 0, (size_t)(d * N) * sizeof *a->state);
    for (int64_t h = 0; h < a->H; ++h) {
        const real *x = REF(ref_ssd_x)(a, 0, h), *B = REF(ref_ssd_b)(a, 0, h), *C = REF(ref_ssd_c)(a, 0, h);
        const real A = REF(ref_ssd_rate)(a, h), D = REF(ref_get)(a->D, h);
        const real dt = a->dt[h], decay = r_exp(reset < 0 ? (real)reset : dt * A);
        for (int64_t i = 0; i < P; ++i) {
            real *S = a->state + (h * P + i) * N;
            real sum = 0;
            for (int64_t n = 0; n < N; ++n) {
                S[n] = decay * S[n] + r_round(r, r_round(r, dt * B[n]) * x[i]);
                sum += r_round(r, S[n]) * C[n];
            }
            a->y[h * P + i] = r_round(r, r_round(r, sum) + r_round(r, D * x[i]));
        }
    }
}
