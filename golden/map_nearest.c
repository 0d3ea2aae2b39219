#include "golden/map_rules.h"

#include <string.h>

/* Longer names are no slips of the pen; it also bounds the work. */
#define MAX_LENGTH 128

int gld_map_distance(const char *a, int n_a, const char *b, int limit)
{
    int row[FH1_TAP_NAME_SIZE + 1];
    int n_b = (int)strlen(b);
    if (n_b > FH1_TAP_NAME_SIZE) return limit + 1;
    for (int k = 0; k <= n_b; k++) row[k] = k;
    for (int i = 1; i <= n_a; i++) {
        int diagonal = row[0], least = i;
        row[0] = i;
        for (int k = 1; k <= n_b; k++) {
            int change = diagonal + (a[i - 1] != b[k - 1]);
            int shorter = (row[k] < row[k - 1] ? row[k] : row[k - 1]) + 1;
            diagonal = row[k];
            row[k] = change < shorter ? change : shorter;
            if (row[k] < least) least = row[k];
        }
        if (least > limit) return limit + 1;
    }
    return row[n_b];
}

bool gld_nearest_name(const char *name, const fh1_config *c, char buf[FH1_TAP_NAME_SIZE])
{
    const char *p = name + 4;
    int64_t step;
    if (strncmp(name, "step", 4) == 0 && gld_map_number(&p, &step) && *p == '/') name = p + 1;
    size_t length = strlen(name);
    if (length == 0 || length > MAX_LENGTH) return false;

    int n = (int)length, best = n / 3 + 1; /* beyond a third, another name is meant */
    bool found = false;
    for (int i = 0; i < GLD_INPUT_COUNT; i++) {
        int d = gld_map_distance(name, n, gld_input_name((gld_input)i), best);
        if (d >= best) continue;
        best = d;
        found = true;
        strcpy(buf, gld_input_name((gld_input)i));
    }
    for (int id = 0; id < FH1_TAP_COUNT; id++) {
        if (!fh1_tap_exists(c, (fh1_tap_id)id)) continue;
        int64_t layers = fh1_tap_is_per_layer((fh1_tap_id)id) ? c->n_layers : 1;
        for (int64_t layer = 0; layer < layers; layer++) {
            char tap[FH1_TAP_NAME_SIZE];
            int d = gld_map_distance(name, n, fh1_tap_name(c->family, (fh1_tap_id)id, layer, tap), best);
            if (d >= best) continue;
            best = d;
            found = true;
            strcpy(buf, tap);
        }
    }
    return found;
}
