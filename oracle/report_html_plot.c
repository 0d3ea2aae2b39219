/* The drawings of the HTML page, as SVG. Each has a name that a screen reader tells; numbers stand in the tables. */
#include "oracle/compare.h"
#include "oracle/report_html.h"

#include <math.h>

/* In units of the drawing. */
enum { WIDE = 420, HIGH = 220, LEFT = 46, RIGHT = 10, TOP = 12, BOTTOM = 34 };

static bool drawable(double v)
{
    return isfinite(v) && v > 0;
}

/* The decades that hold all points and the limit; false when there is no point. */
static bool find_decades(const fh1_html_plot *p, double *lo, double *hi)
{
    double least = (double)INFINITY, most = 0;
    for (int k = 0; k < p->n_curves; k++)
        for (int64_t i = 0; i < p->n; i++)
            if (drawable(p->curves[k].y[i])) {
                least = fmin(least, p->curves[k].y[i]);
                most = fmax(most, p->curves[k].y[i]);
            }
    if (!(most > 0)) return false;
    if (p->limit > 0) {
        least = fmin(least, p->limit);
        most = fmax(most, p->limit);
    }
    *hi = ceil(log10(most) + 0.02);
    *lo = fmax(floor(log10(least)), *hi - 12); /* what lies lower is drawn at the bottom */
    if (!(*lo < *hi)) *lo = *hi - 1;
    return true;
}

typedef struct {
    double lo, hi;
    int64_t n;
} axes;

static double x_of(const axes *a, double i)
{
    return LEFT + (a->n > 1 ? i / (double)(a->n - 1) : 0.5) * (WIDE - LEFT - RIGHT);
}

static double y_of(const axes *a, double v)
{
    const double share = fmax((log10(v) - a->lo) / (a->hi - a->lo), 0);
    return HIGH - BOTTOM - share * (HIGH - TOP - BOTTOM);
}

static void put_grid(FILE *out, const fh1_html_plot *p, const axes *a)
{
    const int decades = (int)(a->hi - a->lo), every = decades > 6 ? 2 : 1;
    for (int d = 0; d <= decades; d += every) {
        const double y = y_of(a, pow(10, a->lo + d));
        fprintf(out, "<line class=\"grid\" x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\"/>", LEFT, WIDE - RIGHT, y, y);
        fprintf(out, "<text class=\"y\" x=\"%d\" y=\"%.1f\">%.0e</text>", LEFT - 4, y + 3, pow(10, a->lo + d));
    }
    const int64_t step = p->n > 12 ? (p->n + 7) / 8 : 1;
    for (int64_t i = 0; i < p->n && !p->marks; i += step)
        fprintf(out, "<text class=\"x\" x=\"%.1f\" y=\"%d\">%lld</text>", x_of(a, (double)i), HIGH - BOTTOM + 13,
                (long long)i);
    int64_t n_marks = 0;
    double last = -100;
    for (int64_t i = 0; p->marks && i < p->n; i++) {
        if (!p->marks[i]) continue;
        const double x = x_of(a, (double)i);
        fprintf(out, "<line class=\"mark\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%d\" y2=\"%d\"/>", x, x, TOP, HIGH - BOTTOM);
        if (x - last >= 18)
            fprintf(out, "<text class=\"x\" x=\"%.1f\" y=\"%d\">%lld</text>", last = x, HIGH - BOTTOM + 13,
                    (long long)n_marks);
        n_marks++;
    }
    fprintf(out, "<text class=\"x\" x=\"%d\" y=\"%d\">%s</text>", (LEFT + WIDE - RIGHT) / 2, HIGH - 6, p->x_name);
    if (p->limit > 0)
        fprintf(out, "<line class=\"limit\" x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\"/>", LEFT, WIDE - RIGHT,
                y_of(a, p->limit), y_of(a, p->limit));
}

/* A line through neighbours, a dot with its number at each point. */
static void put_curve(FILE *out, const fh1_html_curve *c, const axes *a)
{
    bool open = false;
    for (int64_t i = 0; i < a->n; i++) {
        const bool here = drawable(c->y[i]);
        if (here) {
            if (!open) fprintf(out, "<polyline class=\"%s\" points=\"", c->css);
            fprintf(out, "%.1f,%.1f ", x_of(a, (double)i), y_of(a, c->y[i]));
        } else if (open) {
            fputs("\"/>", out);
        }
        open = here;
    }
    if (open) fputs("\"/>", out);
    for (int64_t i = 0; i < a->n; i++)
        if (drawable(c->y[i]))
            fprintf(out, "<circle class=\"%s\" cx=\"%.1f\" cy=\"%.1f\" r=\"%s\"><title>%s %lld: %.3g</title></circle>",
                    c->css, x_of(a, (double)i), y_of(a, c->y[i]), a->n > 80 ? "1.2" : "2.6", c->name, (long long)i,
                    c->y[i]);
}

void fh1_html_draw(FILE *out, const fh1_html_plot *p)
{
    axes a = {.n = p->n};
    if (!find_decades(p, &a.lo, &a.hi)) return;
    fprintf(out, "<figure class=\"plot\"><figcaption>%s", p->title);
    for (int k = 0; k < p->n_curves; k++)
        if (p->n_curves > 1) fprintf(out, " <span class=\"key %s\">%s</span>", p->curves[k].css, p->curves[k].name);
    fprintf(out, "</figcaption><svg viewBox=\"0 0 %d %d\" role=\"img\" aria-label=\"%s\">", WIDE, HIGH, p->title);
    put_grid(out, p, &a);
    for (int k = 0; k < p->n_curves; k++) put_curve(out, &p->curves[k], &a);
    fputs("</svg></figure>\n", out);
}

/* Heights are logarithmic: the few elements near the limit are what one looks for. */
void fh1_html_histogram(FILE *out, const fh1_report_kind_row *row)
{
    enum { BAR = 9, TALL = 48, LIMIT = 12 }; /* bin 12 is the first above 1 */
    int64_t total = 0, above = 0, most = 0;
    for (int k = 0; k < FH1_MARGIN_BINS; k++) {
        total += row->histogram[k];
        above += k >= LIMIT ? row->histogram[k] : 0;
        most = row->histogram[k] > most ? row->histogram[k] : most;
    }
    fputs("<figure class=\"hist\"><figcaption>", out);
    fh1_report_markup(out, row->name);
    fprintf(out,
            "</figcaption><svg viewBox=\"0 0 %d %d\" role=\"img\" aria-label=\"%lld elements, %lld above allowed\">",
            BAR * FH1_MARGIN_BINS, TALL + 12, (long long)total, (long long)above);
    for (int k = 0; k < FH1_MARGIN_BINS; k++) {
        if (!row->histogram[k]) continue;
        const double high = fmax(TALL * log1p((double)row->histogram[k]) / log1p((double)most), 2);
        fprintf(out, "<rect class=\"%s\" x=\"%d\" y=\"%.1f\" width=\"%d\" height=\"%.1f\"><title>",
                k >= LIMIT ? "b" : "a", BAR * k, TALL - high, BAR - 1, high);
        if (k == 0) fprintf(out, "below 2^%d", k + 1 - LIMIT);
        else if (k == FH1_MARGIN_BINS - 1) fprintf(out, "2^%d and above", k - LIMIT);
        else fprintf(out, "2^%d to 2^%d", k - LIMIT, k + 1 - LIMIT);
        fprintf(out, ": %lld</title></rect>", (long long)row->histogram[k]);
    }
    fprintf(out, "<line class=\"limit\" x1=\"%d\" x2=\"%d\" y1=\"0\" y2=\"%d\"/>", BAR * LIMIT, BAR * LIMIT, TALL);
    fprintf(out, "<text class=\"y\" x=\"%d\" y=\"%d\">1</text></svg></figure>\n", BAR * LIMIT + 3, TALL + 10);
}

void fh1_html_sparkline(FILE *out, const double *past, int64_t n, double now)
{
    enum { SHOWN = 24, GAP = 4, TALL = 18 };
    const int64_t from = n > SHOWN ? n - SHOWN : 0;
    double most = fmax(now, 0);
    char a[32];
    for (int64_t i = from; i < n; i++) most = fmax(most, past[i]);
    if (n == 0 || !isfinite(now)) return;
    fprintf(out,
            "<svg class=\"spark\" viewBox=\"0 0 %d %d\" role=\"img\" aria-label=\"last %lld runs, now %s\"><polyline "
            "points=\"",
            SHOWN * GAP + 8, TALL + 4, (long long)(n - from), fh1_report_number(now, a));
    for (int64_t i = from; i <= n; i++) {
        const double v = i < n ? past[i] : now, share = most > 0 ? fmax(v, 0) / most : 0;
        fprintf(out, "%lld,%.1f ", (long long)((SHOWN - (n - i)) * GAP + 4), 2 + TALL * (1 - share));
    }
    fprintf(out, "\"/><circle cx=\"%d\" cy=\"%.1f\" r=\"2.2\"/></svg>", SHOWN * GAP + 4,
            2 + TALL * (1 - (most > 0 ? fmax(now, 0) / most : 0)));
}
