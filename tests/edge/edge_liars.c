/* Cases that claim to run on both families: the harness must tell who lies (edge_cases --self-test). */
#include "tests/edge/edge_impl.h"
#include "tests/edge/edge_rows.h"

/* Green without a fault. The plants "anywhere" and "falcon_h1_alone" turn it red on both families and on one. */
static fh1_status judge(edge_run *r, const fh1_model *m, void *data)
{
    fh1_engine *e;
    (void)data;
    FH1_TRY(edge_engine(r, m, &e));
    const bool h1 = m->config.family == FH1_FALCON_H1;
    return edge_require(r, !edge_plants(r, "anywhere") && !(h1 && edge_plants(r, "falcon_h1_alone")), "planted");
}

static fh1_status on_both(edge_run *r)
{
    return edge_each_model(r, judge, NULL);
}

/* A slow engine that is given one model: here ref-f32 is. */
static fh1_status not_on_f32(edge_run *r)
{
    return r->bit == EDGE_F32 ? edge_on_model(r, edge_model_text(1), judge, NULL) : on_both(r);
}

static fh1_status never(edge_run *r)
{
    return edge_on_model(r, edge_model_text(0), judge, NULL);
}

/* It reaches the model and compares nothing there. */
static fh1_status looks_away(edge_run *r)
{
    fh1_model m;
    fh1_engine *e;
    FH1_TRY(never(r));
    FH1_TRY(edge_model(r, edge_mamba_text(), &m));
    const fh1_status s = edge_engine(r, &m, &e);
    edge_contract(r, r->profile);
    fh1_model_free(&m);
    return s;
}

#define LIAR(name, planted, of_run)                                                                             \
    {                                                                                                           \
        .id = name, .title = name, .faults = planted, .engines = EDGE_F64 | EDGE_F32, .why = "", .run = of_run, \
        .falcon_mamba = true                                                                                    \
    }

/* Runs: two engines, the planted fault, and a fault on Falcon-Mamba. */
const edge_liar edge_liars[] = {
    {LIAR("honest", "anywhere", on_both), 0},
    {LIAR("never there", "anywhere", never), 3},
    {LIAR("there without a comparison", "anywhere", looks_away), 3},
    {LIAR("not on every engine", "anywhere", not_on_f32), 1},
    {LIAR("cannot fail there", "falcon_h1_alone", on_both), 1},
    {.the_case = {.id = NULL}},
};
