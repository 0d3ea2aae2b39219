/* docs/edge_cases.md, printed from the registry. */
#include "tests/edge/edge_impl.h"

#include <string.h>

static const char head[] =
    "# Edge cases\n\n"
    "Every case is a test: `ctest --test-dir build/release -R 'D-36$'` runs one, `ctest --test-dir build/release -R "
    "'edge\\.'` all. A test runs the\ncase on every engine, which must be green, and then with each of its planted "
    "faults, which must turn it red.\nThis page is printed by `build/release/tests/edge_cases --markdown`; a test "
    "holds "
    "it up to date.\n\n"
    "Names in the column of faults are those of `fh1 faults`, of the converters (`convert/fault_list.h`), or mistakes "
    "that "
    "the case makes\nitself; `build/release/tests/edge_cases D-89 --fault NAME` runs one. *Usual models* have 3 "
    "layers, "
    "Q = 8, K = 4, widths that\nare not heads times head width and 14 different multipliers: one plain, one with two "
    "groups, a gated norm and every bias\n(`tests/edge/edge.c`). Cases of *both families* run what they run on the "
    "usual models on a small Falcon-Mamba too, on each of their engines,\nand one of their faults shows there; "
    "where they speak of Q it is 8. A *gauge* is what an honest engine may be off by "
    "([numerics.md](numerics.md)),\n*books* are what a cache notes of its rows beside numbers, a *column* is a place "
    "of a "
    "padded row. Threads are named as reported, some without an owner.\n\n"
    "Faults are planted in the engines of the reference. Where a case has many lengths or schedules, engines of CUDA "
    "take a few of them,\nalso where the row does not say so: on a CPU their kernels are slow.\n\n"
    "Engines: *all* are ref-f64, ref-f32, ref-bf16, cuda-host, and cuda where a GPU is. P(n)+D(k): prefill of n "
    "tokens,\n"
    "then k steps of one; F: one call; Q: chunk length; K: conv taps. Names like CP1 are families of bugs "
    "([self_test.md](self_test.md)).\n";

/* A table's cell: no bars, no line ends. */
static void cell(FILE *out, const char *text)
{
    fputs(" ", out);
    for (; *text; ++text) {
        if (*text == '|') fputs("\\|", out);
        else putc(*text == '\n' ? ' ' : *text, out);
    }
    fputs(" |", out);
}

static void names(FILE *out, const char *faults)
{
    fputs(" `", out);
    for (; *faults; ++faults) {
        if (*faults == ' ') fputs("`, `", out);
        else putc(*faults, out);
    }
    fputs("` |", out);
}

static void row(FILE *out, const edge_case *c)
{
    char title[160];
    snprintf(title, sizeof title, "%s%s", c->title, c->falcon_mamba ? " (both families)" : "");
    fprintf(out, "| %s |", c->id);
    cell(out, title);
    cell(out, c->setup);
    cell(out, c->invariant);
    cell(out, c->catches);
    names(out, c->faults);
    cell(out, c->why ? c->why : "all");
    fputs("\n", out);
}

void edge_page(FILE *out)
{
    int n = 0;
    fputs(head, out);
    for (const edge_chapter *ch = edge_chapters; ch->title; ++ch) {
        fprintf(out,
                "\n## %s\n| id | case | set-up | invariant | catches | planted faults that turn it red | engines |\n"
                "|---|---|---|---|---|---|---|\n",
                ch->title);
        for (const edge_case *c = ch->cases; c->id; ++c, ++n) row(out, c);
    }
    fprintf(out, "\n%d cases.\n", n);
}
