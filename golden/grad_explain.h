/* What explains wrong gradients. Internal to the judge of gradients. */
#pragma once

#include "golden/gradcheck.h"

/* The faulty backward pass of each gradient fault (oracle/fault_list_gradient*.h) over the same batch, and a constant
 * factor, against the residual: its share at the first failing tensor, and over all that fail, each in the unit of its
 * truth; the mean of the two is the score. failed[truth->grads->n]; `first` -1: the loss alone. The best go to
 * fh1_report_suspects and to `found`. */
fh1_status gld_grad_explain(const gld_grad_truth *t, const gld_grad_judged *j, const bool *failed, int64_t first,
                            fh1_report *report, gld_grad_first *found);
