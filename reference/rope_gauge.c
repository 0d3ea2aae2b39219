#include "reference/rope_gauge.h"

#include "oracle/thread.h"

#include <stdlib.h>

typedef struct {
    const fh1_profile *contract;
    int64_t half, heads;
    const int64_t *position;
    const double *freq, *freq_err; /* [A/2] */
    double scale;
    const double *x;
    const fh1_gauge *x_err, *g;
} rope_job;

/* d log(frequency) / d log(power): 1, but in the ramp of llama3, where the weight of the ramp depends on it too. */
static double sensitivity(const fh1_config *c, int64_t i, double freq)
{
    const fh1_rope *r = &c->rope;
    if (r->type != FH1_ROPE_LLAMA3) return 1;
    const double plain = pow(r->theta, -2 * (double)i / (double)c->A);
    if (!(freq < plain && freq > plain / r->factor)) return 1;
    const double turns = (double)r->original_max_position * plain / (2 * acos(-1.0));
    return 1 + turns / (r->high_freq_factor - r->low_freq_factor) * (1 - 1 / r->factor) * plain / freq;
}

/* The unit in which the engine computes frequencies and angles. */
static double angle_unit(const fh1_profile *p)
{
    return p->exact_angle ? 0x1p-53 : p->u;
}

/* In f32: what transformers' own order of operations gives is known, and another library's pow may be exp_units off
 * it. In f64: pow, and the rounding of its exponent 2i/A, which ln θ enlarges. */
static void frequency_errors(const fh1_profile *p, const fh1_config *c, int64_t seq_len, const double *freq,
                             float *single, double *err)
{
    double scale;
    const double u = angle_unit(p);
    const bool f32 = u > 0x1p-53;
    if (f32) fh1_rope_frequencies_f32(c, seq_len, single, &scale);
    for (int64_t i = 0; i < c->A / 2; ++i) {
        const double exponent = 2 * (double)i / (double)c->A, units = (p->exp_units + 1) * sensitivity(c, i, freq[i]);
        err[i] = units * u * freq[i];
        err[i] += f32 ? fabs((double)single[i] - freq[i]) : exponent * fabs(log(c->rope.theta)) * u * freq[i];
    }
}

/* What cos or sin of a table is off by but for its angle: the function, the factor of the rope type and the product
 * with it, the rounding of the table. */
static fh1_err table_error(const rope_job *j, double v)
{
    const fh1_profile *p = j->contract;
    const fh1_err e = fh1_err_function((fh1_err){0}, p, p->at[FH1_RP_ROPE_TABLE], p->exp_units + 1, v);
    return fh1_err_shared(e.worst);
}

/* One pair (a, b) of a head at angle θ with error `turn`: a' = a·C - b·S, b' = b·C + a·S. The error of the angle moves
 * a' by b'·turn to first order, and no rotation moves it by more than twice the pair's length. */
static void one_pair(const rope_job *j, int64_t lo, double cosine, double sine, fh1_err ec, fh1_err es, double turn)
{
    const fh1_profile *p = j->contract;
    const fh1_round r = p->at[FH1_RP_ROPE], of_sum = p->at[FH1_RP_ROPE_SUM];
    const double v[2] = {j->x[lo], j->x[lo + j->half]};
    const double out[2] = {v[0] * cosine - v[1] * sine, v[1] * cosine + v[0] * sine};
    const double reach = 2 * hypot(out[0], out[1]);
    fh1_err e[2] = {{0}};
    for (int k = 0; k < 2 && j->x_err; ++k) e[k] = fh1_gauge_at(j->x_err, lo + k * j->half);
    for (int k = 0; k < 2; ++k) {
        const double by_cos = v[k] * cosine, by_sin = v[1 - k] * sine;
        fh1_err sum = fh1_err_add(fh1_err_round(fh1_err_product(e[k], v[k], ec, cosine), p, r, by_cos),
                                  fh1_err_round(fh1_err_product(e[1 - k], v[1 - k], es, sine), p, r, by_sin));
        const double turned = fabs(out[1 - k]) * turn + fabs(out[k]) * turn * turn / 2;
        sum = fh1_err_add(sum, fh1_err_shared(fmin(turned, reach)));
        fh1_gauge_set(j->g, lo + k * j->half, fh1_err_round(sum, p, of_sum, out[k]));
    }
}

static void tokens(void *ctx, int64_t t0, int64_t t1, int thread)
{
    (void)thread;
    const rope_job *j = ctx;
    const double u = angle_unit(j->contract), whole = u > 0x1p-53 ? 0x1p24 : 0x1p53, half_turn = acos(-1.0);
    for (int64_t t = t0; t < t1; ++t)
        for (int64_t i = 0; i < j->half; ++i) {
            const double position = (double)j->position[t], angle = position * j->freq[i];
            /* the product, and the position itself where the arithmetic does not hold every integer */
            const double units = fabs(position) > whole ? 2 : 1;
            double turn = fabs(position) * j->freq_err[i] + units * u * fabs(angle);
            if (j->contract->exact_angle)
                turn += j->contract->u * fmin(fabs(angle), half_turn); /* what is left of it */
            const double cosine = cos(angle) * j->scale, sine = sin(angle) * j->scale;
            const fh1_err ec = table_error(j, cosine), es = table_error(j, sine);
            for (int64_t h = 0; h < j->heads; ++h)
                one_pair(j, (t * j->heads + h) * 2 * j->half + i, cosine, sine, ec, es, turn);
        }
}

fh1_status ref_rope_gauge(const fh1_profile *contract, const fh1_config *c, int64_t T, int64_t heads,
                          const int64_t *position, int64_t seq_len, const double *x, const fh1_gauge *x_err,
                          const fh1_gauge *g)
{
    const size_t half = (size_t)(c->A / 2), bytes = half * (2 * sizeof(double) + sizeof(float));
    double *freq = malloc(bytes + 1), scale;
    if (!freq) return fh1_no_memory(bytes + 1, "the gauge of a rotation");
    fh1_rope_frequencies(c, seq_len, freq, &scale);
    frequency_errors(contract, c, seq_len, freq, (float *)(freq + 2 * half), freq + half);
    rope_job j = {contract, c->A / 2, heads, position, freq, freq + half, scale, x, x_err, g};
    fh1_parallel_for(T, 4, tokens, &j);
    free(freq);
    return NULL;
}
