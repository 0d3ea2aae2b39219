/* What can be made smaller in a line of a model: calls, rows, tokens; layers, widths, options, values. */
#include "golden/shrink_impl.h"

#include "convert/model_open.h"

#include <math.h>
#include <string.h>

/* -- calls --------------------------------------------------------------------------------------- */

static void drop_call(gld_calls *c, int i)
{
    memmove(&c->call[i], &c->call[i + 1], (size_t)(c->n - i - 1) * sizeof *c->call);
    c->n--;
    if (i == 0 && c->call[0].times > 1) { /* the first call is a prefill, the others go on */
        c->call[0].times--;
        memmove(&c->call[1], &c->call[0], (size_t)c->n * sizeof *c->call);
        c->call[0].times = 1;
        c->n++;
    }
}

static void drop_row(gld_calls *c, int64_t row)
{
    const size_t after = (size_t)(GLD_MAX_ROWS - row - 1);
    for (int i = 0; i < c->n; i++) {
        gld_call *k = &c->call[i];
        memmove(&k->left[row], &k->left[row + 1], after * sizeof *k->left);
        memmove(&k->right[row], &k->right[row + 1], after * sizeof *k->right);
        memmove(&k->n_cuts[row], &k->n_cuts[row + 1], after * sizeof *k->n_cuts);
        memmove(&k->cut[row], &k->cut[row + 1], after * sizeof *k->cut);
        k->left[GLD_MAX_ROWS - 1] = k->right[GLD_MAX_ROWS - 1] = k->n_cuts[GLD_MAX_ROWS - 1] = 0;
    }
    c->B--;
}

static void shrink_rows(gld_search *s)
{
    for (int64_t only = 0; only < s->best->calls.B && s->best->calls.B > 1; only++) {
        while (s->candidate->calls.B > only + 1) drop_row(&s->candidate->calls, s->candidate->calls.B - 1);
        while (s->candidate->calls.B > 1) drop_row(&s->candidate->calls, 0);
        if (gld_search_try(s)) return;
    }
    for (int64_t row = s->best->calls.B - 1; row >= 0 && s->best->calls.B > 2; row--) { /* 2: tried above */
        drop_row(&s->candidate->calls, row);
        gld_search_try(s);
    }
}

static void set_times(gld_search *s, int i, int64_t v)
{
    s->candidate->calls.call[i].times = v;
}

static void set_columns(gld_search *s, int i, int64_t v)
{
    gld_calls *c = &s->candidate->calls;
    gld_call *k = &c->call[i];
    k->T = v;
    for (int64_t b = 0; b < c->B; b++) {
        if (k->left[b] > v) k->left[b] = v;
        if (k->right[b] > v - k->left[b]) k->right[b] = v - k->left[b];
        while (k->n_cuts[b] && k->cut[b][k->n_cuts[b] - 1] >= v) k->n_cuts[b]--;
    }
}

/* arg: call and row in one number. */
static void set_left(gld_search *s, int arg, int64_t v)
{
    s->candidate->calls.call[arg / GLD_MAX_ROWS].left[arg % GLD_MAX_ROWS] = v;
}

static void set_right(gld_search *s, int arg, int64_t v)
{
    s->candidate->calls.call[arg / GLD_MAX_ROWS].right[arg % GLD_MAX_ROWS] = v;
}

static void drop_cut(gld_call *k, int64_t row, int64_t at)
{
    int64_t *cut = k->cut[row];
    memmove(&cut[at], &cut[at + 1], (size_t)(k->n_cuts[row] - at - 1) * sizeof *cut);
    k->n_cuts[row]--;
}

static void shrink_cuts(gld_search *s, int i, int64_t row)
{
    if (s->best->calls.call[i].n_cuts[row] == 0) return;
    s->candidate->calls.call[i].n_cuts[row] = 0;
    if (gld_search_try(s)) return;
    for (int64_t at = s->best->calls.call[i].n_cuts[row] - 1; at >= 0 && s->best->calls.call[i].n_cuts[row] > 1; at--) {
        drop_cut(&s->candidate->calls.call[i], row, at);
        gld_search_try(s);
    }
}

static void shrink_call(gld_search *s, int i)
{
    const gld_call *k = &s->best->calls.call[i];
    gld_search_number(s, set_times, i, k->times, 1);
    gld_search_number(s, set_columns, i, k->T, 1);
    for (int row = 0; row < s->best->calls.B; row++) {
        gld_search_number(s, set_left, i * GLD_MAX_ROWS + row, k->left[row], 0);
        gld_search_number(s, set_right, i * GLD_MAX_ROWS + row, k->right[row], 0);
        shrink_cuts(s, i, row);
    }
    if (!k->labels) return;
    s->candidate->calls.call[i].labels = false;
    gld_search_try(s);
}

static void set_first_position(gld_search *s, int arg, int64_t v)
{
    (void)arg;
    s->candidate->calls.first_position = v;
}

void gld_shrink_calls(gld_search *s)
{
    for (int i = 0; i < s->best->calls.n && s->best->calls.n > 1;) {
        drop_call(&s->candidate->calls, i);
        if (!gld_search_try(s)) i++;
        if (gld_search_over(s)) return;
    }
    shrink_rows(s);
    for (int i = 0; i < s->best->calls.n; i++) shrink_call(s, i);
    gld_search_number(s, set_first_position, 0, s->best->calls.first_position, 0);
    if (s->best->calls.no_positions) {
        s->candidate->calls.no_positions = false;
        gld_search_try(s);
    }
}

/* -- the model ----------------------------------------------------------------------------------- */

static void set_size(gld_search *s, int i, int64_t v)
{
    gld_spec_set_size(&s->candidate->make, gld_spec_field_at(i), v);
}

static int64_t size_of(const gld_repro *r, const gld_spec_field *f)
{
    int64_t v;
    memcpy(&v, (const char *)&r->make.config + f->offset, sizeof v);
    return v;
}

static void usual_rope(gld_search *s)
{
    gld_seeded_spec usual;
    fh1_rope *rope = &s->candidate->make.config.rope;
    if (s->best->make.config.family != FH1_FALCON_H1 || rope->type == FH1_ROPE_DEFAULT) return;
    gld_seeded_usual(&usual);
    usual.config.rope.theta = rope->theta;
    *rope = usual.config.rope;
    gld_search_try(s);
}

/* A multiplier that matters: a power of two shows as well and rounds nothing. */
static void simple_multiplier(gld_search *s, const gld_spec_field *f)
{
    double v, simple;
    char *at = (char *)&s->candidate->make.config + f->offset;
    if (f->kind != GLD_SPEC_NUMBER || strncmp(f->name, "m_", 2) != 0) return;
    memcpy(&v, at, sizeof v);
    simple = v == 0 ? 0 : copysign(exp2(round(log2(fabs(v)))), v);
    if (simple == 1) simple = 0.5; /* 1 was tried before */
    if (simple == v) return;
    memcpy(at, &simple, sizeof simple);
    gld_search_try(s);
}

/* Words that may not matter: contract and variants. */
static void drop_text(gld_search *s, char *text)
{
    if (!*text) return;
    *text = 0;
    gld_search_try(s);
}

void gld_shrink_model(gld_search *s)
{
    const gld_spec_field *f;
    if (s->best->make.config.block != FH1_BLOCK_SA_M) {
        s->candidate->make.config.block = FH1_BLOCK_SA_M;
        gld_search_try(s);
    }
    for (int i = 0; (f = gld_spec_field_at(i)) && f->kind == GLD_SPEC_SIZE; i++)
        if (f->families >> s->best->make.config.family & 1)
            gld_search_number(s, set_size, i, size_of(s->best, f), f->offset == offsetof(fh1_config, A) ? 2 : 1);
    usual_rope(s);
    for (int i = 0; (f = gld_spec_field_at(i)); i++)
        if (f->kind != GLD_SPEC_SIZE && gld_spec_make_usual(&s->candidate->make, f) && !gld_search_try(s))
            simple_multiplier(s, f);
    if (s->best->make.dtype != FH1_F32) {
        s->candidate->make.dtype = FH1_F32;
        gld_search_try(s);
    }
    if (s->best->make.weights != GLD_WEIGHTS_LATTICE) {
        s->candidate->make.weights = GLD_WEIGHTS_LATTICE;
        gld_search_try(s);
    }
    drop_text(s, s->candidate->contract);
    drop_text(s, s->candidate->variant);
}

/* The first jump, from any model to a made one of small widths. */
static void try_small(gld_search *s, const fh1_config *c, fh1_dtype dtype, const gld_seeded_spec *from)
{
    static const int64_t layers[] = {1, 2, 4, 64};
    for (int i = 0; i < 4; i++) {
        gld_seeded_spec *to = &s->candidate->make;
        gld_seeded_small(c, dtype, layers[i], to);
        if (from) to->weights = from->weights;
        s->candidate->model[0] = 0;
        if (gld_search_try(s) || c->n_layers <= layers[i]) return;
    }
}

void gld_shrink_to_small(gld_search *s)
{
    fh1_model m;
    if (!*s->best->model) {
        gld_seeded_spec from;
        gld_seeded_spec_copy(&from, &s->best->make);
        try_small(s, &from.config, from.dtype, &from);
        return;
    }
    if (cvt_model_open(s->best->model, &m)) return; /* it was there a moment ago: what runs next will say so */
    try_small(s, &m.config, m.embed.dtype, NULL);
    fh1_model_free(&m);
}
