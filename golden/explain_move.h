/* The movers of a search for causes: each moves one parameter, or one kind of them, of the tap's op and tells what of
 * the residual that explains. Internal to golden/explain_*.c. */
#pragma once

#include "golden/explain.h"

typedef struct {
    const gld_residual *r;
    gld_slot *s;
    fh1_model model; /* shallow copy, with a layer that is ours */
    fh1_layer *layers;
    double *plus, *minus, *jacobian;
    double handicap;
    fh1_suspect *list;
    int *n;
} gld_search;

/* One number of q->model.config; where it must stay positive no other value is tried. */
fh1_status gld_move_number(gld_search *q, double *at, const char *name, bool positive);
/* All components [n] of a small weight whose component i·stride + at belongs to part i of a row of the tap. */
fh1_status gld_move_weight(gld_search *q, fh1_tensor *w, const char *name, int64_t parts, int64_t stride, int64_t at);
/* The rows of a linear layer's weight, its bias, and one weight alone. No run is needed. */
fh1_status gld_move_rows(gld_search *q, const char *name, const fh1_tensor *bias);
/* A recorded input multiplied by a factor: what a wrong scale inside the op amounts to. */
fh1_status gld_move_input(gld_search *q, fh1_tap_id input, const char *name);
/* All of the tap by one factor: what a multiplier of no name amounts to. */
void gld_move_scale(gld_search *q);

/* Every parameter that the tap's op has in the model's family, golden/explain_ops.c. */
fh1_status gld_move_all(gld_search *q);
