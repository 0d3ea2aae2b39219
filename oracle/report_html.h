/* What the parts of the HTML page share; nothing else includes it. The page is one file: no network, no font of its
 * own, readable without script, in light and dark, on a phone. */
#pragma once

#include "oracle/report_impl.h"

extern const char fh1_html_style[], fh1_html_script[];

/* printf of text that needs no escape, and one escaped word. */
void fh1_html_badge(FILE *out, fh1_verdict v, const char *text);
/* Three digits at most, "0.41"; a margin that matters to no one is "&lt;.01". */
void fh1_html_margin(FILE *out, double margin);
void fh1_html_repro(FILE *out, const char *line);
/* The bin of a margin on the page's scale: c0 … c5 up to 1, f1 … f3 above, and for what is no number. */
const char *fh1_html_class(double margin);
void fh1_html_legend(FILE *out);

/* Taps by layer, and by step where there are several: a table with a colour behind each number. */
fh1_status fh1_html_heat_maps(FILE *out, const fh1_report_subject *s);
/* Columns that the maps of a subject have. */
int64_t fh1_html_columns(const fh1_report_subject *s);

/* A curve over 0, 1, 2, …; what is not finite or not positive leaves a gap. */
typedef struct {
    const char *name, *css; /* class of line and dots: a or b */
    const double *y;
} fh1_html_curve;

/* Curves of n points on a log scale, with a line at `limit` where it is positive. `marks` (or NULL) are places where
 * something new begins, as a step. Nothing where no point can be drawn. */
typedef struct {
    const char *title, *x_name;
    const fh1_html_curve *curves;
    int n_curves;
    int64_t n;
    double limit;
    const bool *marks;
} fh1_html_plot;

void fh1_html_draw(FILE *out, const fh1_html_plot *p);
void fh1_html_histogram(FILE *out, const fh1_report_kind_row *row);
/* Earlier margins and this run's, `now`. */
void fh1_html_sparkline(FILE *out, const double *past, int64_t n, double now);

/* The foldable part of one subject. */
fh1_status fh1_html_subject(const fh1_report *r, size_t i, bool open, FILE *out);
void fh1_html_divergence(const fh1_report *r, const fh1_report_subject *s, FILE *out);
