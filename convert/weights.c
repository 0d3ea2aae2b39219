#include "convert/weights.h"

#include "convert/fault.h"
#include "convert/file.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Quantised files carry their scales under these names, whatever config.json says. */
fh1_status cvt_weights_plain(const char *file, const char *name, fh1_dtype dtype)
{
    bool scales = cvt_has_suffix(name, ".absmax") || cvt_has_suffix(name, ".quant_map") || cvt_has_suffix(name, ".SCB");
    bool codes = cvt_has_suffix(name, ".weight") && (dtype == FH1_U8 || dtype == FH1_I8);
    if (!scales && !codes) return NULL;
    return fh1_hint(fh1_where(FH1_BAD("the tensor is part of a quantised model (%s), which is not supported",
                                      fh1_dtype_name(dtype)),
                              "%s, tensor \"%.120s\"", file, name),
                    "use the folder of the unquantised model");
}

void cvt_weights_free(fh1_weight *w, int64_t n)
{
    for (int64_t i = 0; i < n; i++) free(w[i].name);
    free(w);
}

static int64_t find_weight(const fh1_weight *w, int64_t n, const char *name)
{
    for (int64_t i = 0; i < n; i++)
        if (strcmp(w[i].name, name) == 0) return i;
    return -1;
}

fh1_status cvt_weights_drop_tied_head(const char *path, fh1_family family, fh1_weight *w, int64_t *n)
{
    int64_t head = find_weight(w, *n, "lm_head.weight"), embed = find_weight(w, *n, fh1_embed_weight(family));
    if (head < 0 || embed < 0) return NULL;
    const fh1_tensor *a = &w[head].t, *b = &w[embed].t;
    bool same = CVT_FAULT(RETIED_ON_LOAD) ||
                (a->dtype == b->dtype && fh1_same_shape(a, b) && memcmp(a->data, b->data, fh1_n_bytes(a)) == 0);
    if (!same)
        return fh1_hint(
            fh1_where(FH1_BAD("lm_head.weight differs from %s, but tie_word_embeddings is true", w[embed].name), "%s",
                      path),
            "set tie_word_embeddings to false if the head was trained, or remove lm_head.weight");
    free(w[head].name);
    w[head] = w[--*n];
    return NULL;
}

void cvt_weights_describe(const fh1_weight *w, int64_t n, char *buf, size_t size)
{
    char type[16] = "mixed";
    uint64_t bytes = 0;
    bool one = n > 0;
    for (int64_t i = 0; i < n; i++) {
        bytes += fh1_n_bytes(&w[i].t);
        one &= w[i].t.dtype == w[0].t.dtype;
    }
    if (one) snprintf(type, sizeof type, "%s", fh1_dtype_name(w[0].t.dtype));
    for (char *p = type; *p; p++) *p = (char)tolower((unsigned char)*p);
    snprintf(buf, size, "%s, %lld tensors, %llu bytes", type, (long long)n, (unsigned long long)bytes);
}
