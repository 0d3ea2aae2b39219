/* Planted faults of backward passes in the blocks SAM and S_A_M: each that changes the gradients of the released block
 * changes those of the same weights in the other two. f64, where nothing else than the fault can. */
#include "tests/faults_fixture.h"

#include "golden/gradcheck.h"
#include "oracle/backward.h"

static const fh1_fault gradient[] = {
#define FH1_FAULT(id, name, op, tap, source, caught_by, what) FH1_FAULT_##id,
#include "oracle/fault_list_gradient.h"
#include "oracle/fault_list_gradient_mixer.h"
#include "oracle/fault_list_gradient_model.h"
#undef FH1_FAULT
};

static const fh1_block blocks[] = {FH1_BLOCK_SA_M, FH1_BLOCK_SAM, FH1_BLOCK_S_A_M};

/* Two documents and some tokens of padding. */
enum { ROWS = 2, COLUMNS = 9 };

static fh1_grads *gradients(const fh1_model *m, fh1_fault f)
{
    int64_t ids[ROWS * COLUMNS], labels[ROWS * COLUMNS], mask[ROWS * COLUMNS], positions[ROWS * COLUMNS];
    for (int i = 0; i < ROWS * COLUMNS; i++) {
        const int column = i % COLUMNS, pads = i < COLUMNS ? 2 : 0;
        ids[i] = 2 + i * 37 % 80;
        mask[i] = column >= pads;
        labels[i] = column > pads && i % 5 ? ids[i] : -100;
        positions[i] = column < pads ? 0 : i < COLUMNS ? column - pads : column % 5;
    }
    const fh1_batch batch = {.B = ROWS,
                             .T = COLUMNS,
                             .ids = ids,
                             .mask = mask,
                             .mask_len = COLUMNS,
                             .positions = positions,
                             .labels = labels};
    fh1_engine *e = ref_faulty_engine_new("ref-f64", NULL, 0, f);
    fh1_backward o = {0};
    ck_assert_ptr_nonnull(e);
    OK(gld_grads_new(m, FH1_F64, &o.grads));
    OK(e->backward(e, m, &batch, &o));
    e->free(e);
    return o.grads;
}

/* The largest error of a tensor over its own size; 1e-9 is what gradients in f64 are judged by. */
static double difference(const fh1_model *m, const fh1_grads *honest, fh1_fault f)
{
    fh1_grads *g = gradients(m, f);
    double most = 0;
    for (int64_t k = 0; k < g->n; k++) {
        const double *a = honest->params[k].grad.data, *b = g->params[k].grad.data;
        double error = 0, size = 0;
        for (int64_t i = 0; i < fh1_n_elems(&g->params[k].grad); i++) {
            error += (a[i] - b[i]) * (a[i] - b[i]);
            size += a[i] * a[i];
        }
        if (!(error <= 1e300) || size == 0) most = error > 0 || error != error ? 1e300 : most;
        else if (sqrt(error / size) > most) most = sqrt(error / size);
    }
    fh1_grads_free(g);
    return most;
}

/* Of a block that has no norm which two branches read, or of one block alone. */
static bool belongs(fh1_fault f, fh1_block block)
{
    if (f == FH1_FAULT_GRAD_SHARED_NORM_OF_THE_MIXER_ONLY) return block != FH1_BLOCK_S_A_M;
    if (f == FH1_FAULT_GRAD_NORMS_OF_STEPS_ADDED_UP) return block == FH1_BLOCK_S_A_M;
    if (f == FH1_FAULT_GRAD_SAM_NORM_WITHOUT_MLP) return block == FH1_BLOCK_SAM;
    return true;
}

START_TEST(what_spoils_the_released_block_spoils_the_others)
{
    static const char *const names[] = {"mini-34b", "odd"};
    int seen = 0;
    for (int i = 0; i < N_OF(names); i++) {
        fh1_grads *honest[N_OF(blocks)];
        fh1_model m[N_OF(blocks)];
        for (int b = 0; b < N_OF(blocks); b++) {
            OK(gld_fault_model_open("golden/models", names[i], &m[b]));
            if (blocks[b] != FH1_BLOCK_SA_M) change_block(&m[b], blocks[b]);
            honest[b] = gradients(&m[b], FH1_FAULT_NONE);
            ck_assert(difference(&m[b], honest[b], FH1_FAULT_NONE) == 0);
        }
        for (int f = 0; f < N_OF(gradient); f++) {
            const bool own = !belongs(gradient[f], FH1_BLOCK_SA_M);
            if (!own && !(difference(&m[0], honest[0], gradient[f]) > 1e-6)) continue;
            seen++;
            for (int b = 0; b < N_OF(blocks); b++) {
                const double d = difference(&m[b], honest[b], gradient[f]);
                ck_assert_msg((d > 1e-7) == belongs(gradient[f], blocks[b]), "%s in block %s of %s: %.3g",
                              fh1_fault_get(gradient[f])->name, fh1_block_name(blocks[b]), names[i], d);
            }
        }
        for (int b = 0; b < N_OF(blocks); b++) {
            fh1_grads_free(honest[b]);
            fh1_model_free(&m[b]);
        }
    }
    ck_assert_int_gt(seen, 2 * N_OF(gradient) / 3);
}
END_TEST

int main(void)
{
    const TTest *tests[] = {what_spoils_the_released_block_spoils_the_others, NULL};
    return faults_main("gradient faults in the blocks", tests);
}
