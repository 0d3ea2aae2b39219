/* Packed rows of engines that reset documents by -80: judged as what they declare, and as what they do not. */
#include "reference/faulty.h"
#include "tests/judge_fixture.h"

enum { TOKENS = 150, DOCUMENTS = 50 };
#define RESET FH1_VAR_DOC_RESET_80

static gld_trace packed(void)
{
    static int64_t ids[TOKENS], seq_idx[TOKENS], positions[TOKENS];
    const fh1_stream s = fh1_stream_open(9, "ids");
    gld_trace t;
    for (int64_t i = 0; i < TOKENS; i++) {
        ids[i] = 2 + fh1_random_below(s, (uint64_t)i, 90);
        seq_idx[i] = i * DOCUMENTS / TOKENS;
        positions[i] = i > 0 && seq_idx[i] == seq_idx[i - 1] ? positions[i - 1] + 1 : 0;
    }
    OK(gld_trace_new(&t));
    OK(gld_trace_add_step(&t,
                          &(fh1_batch){.B = 1, .T = TOKENS, .ids = ids, .seq_idx = seq_idx, .positions = positions}));
    return t;
}

typedef struct {
    const char *what;
    unsigned variants;
    bool chunked; /* one chunk, sums of 50 resets in f32; else token after token */
    fh1_fault fault;
    bool as_reset, as_cut; /* good under fp32+doc_reset_80; under fp32 */
} subject;

START_TEST(declared_and_undeclared)
{
    static const subject of[] = {
        {"cut, in chunks", 0, true, FH1_FAULT_NONE, true, true},
        {"reset, token after token", RESET, false, FH1_FAULT_NONE, true, true},
        {"reset, in chunks", RESET, true, FH1_FAULT_NONE, true, false},
        {"reset by -8", RESET, false, FH1_FAULT_DOC_RESET_BY_8, false, false},
        {"documents leak", RESET, false, FH1_FAULT_SCAN_LEAKS_DOCUMENTS, false, false},
    };
    fh1_model *m = &models[M34];
    const fh1_profile *p = fh1_profile_find("fp32");
    m->config.Q = TOKENS;
    gld_trace in = packed();
    for (size_t i = 0; i < sizeof of / sizeof *of; i++) {
        fh1_engine *e = ref_faulty_engine_new("ref-f32", NULL, of[i].variants, of[i].fault);
        gld_trace t;
        e->chunked = of[i].chunked;
        OK(gld_record_like(e, m, &in, NULL, &t));
        e->free(e);
        for (int cut = 0; cut < 2; cut++) {
            const verdict v = judge_as(&t, m, p, cut ? 0 : RESET, NULL);
            if (cut ? of[i].as_cut : of[i].as_reset) expect_pass(v, of[i].what);
            else expect_fail(v, 0, "model.layers.0.mamba.ssd", NULL, false);
        }
        gld_trace_free(&t);
    }
    gld_trace_free(&in);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {declared_and_undeclared, NULL};
    return judge_main("doc_reset_judge", tests);
}
