/* Boundary marks: FH1_REACHED(T % Q == 0) counts how often a case that is easily missed came by. Only builds for
 * coverage (FH1_COVERAGE) have them; they append "file:line hits condition" for every mark of the program, those never
 * reached included, to the file that FH1_REACHED_FILE names when the process ends. ci/coverage adds up what the whole
 * suite reached and is red for a mark without a hit. Elsewhere the condition is not evaluated. */
#pragma once

#ifdef FH1_COVERAGE

typedef struct {
    const char *file, *condition;
    unsigned long line, hits;
} fh1_mark;

void fh1_mark_hit(fh1_mark *m); /* a call, so that whoever has marks is linked with what tells them */

#define FH1_REACHED(cond)                                                                                           \
    do {                                                                                                            \
        static fh1_mark fh1_mark_here __attribute__((section("fh1_marks"), used)) = {__FILE__, #cond, __LINE__, 0}; \
        if (cond) fh1_mark_hit(&fh1_mark_here);                                                                     \
    } while (0)

#else
#define FH1_REACHED(cond) ((void)sizeof(cond))
#endif
