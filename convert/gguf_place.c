/* Where the tensors of a GGUF file lie: one after another, from the first byte of the data to the end of the file. */
#include "convert/gguf_file.h"

#include <stdlib.h>

static int by_begin(const void *a, const void *b, void *tensors)
{
    const cvt_gguf_info *t = tensors, *x = &t[*(const int64_t *)a], *y = &t[*(const int64_t *)b];
    if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
    return (x->at > y->at) - (x->at < y->at);
}

static uint64_t align_up(uint64_t v, uint64_t alignment)
{
    return (v + alignment - 1) / alignment * alignment;
}

fh1_status cvt_gguf_place(cvt_gguf_file *f)
{
    uint64_t at = 0, end = 0;
    f->data_begin = align_up(f->infos_end, f->alignment);
    f->in_order = malloc(((size_t)f->n_tensors + 1) * sizeof *f->in_order);
    if (!f->in_order) return fh1_no_memory((size_t)f->n_tensors * sizeof *f->in_order, "the tensors of a GGUF file");
    for (int64_t i = 0; i < f->n_tensors; i++) f->in_order[i] = i;
    qsort_r(f->in_order, (size_t)f->n_tensors, sizeof *f->in_order, by_begin, f->tensors);
    for (int64_t i = 0; i < f->n_tensors; i++) {
        cvt_gguf_info *t = &f->tensors[f->in_order[i]];
        if (t->begin != at)
            return cvt_gguf_at(
                fh1_found(fh1_expected(fh1_where(FH1_BAD(t->begin < at ? "two tensors overlap"
                                                                       : "there is a hole before the tensor"),
                                                 "tensor \"%.63s\"", t->name),
                                       "offset %llu", (unsigned long long)at),
                          "%llu", (unsigned long long)t->begin),
                f, t->at);
        /* Each size is below 2^63 and each sum is compared with the file before it grows further. */
        end = at + t->bytes;
        if (end > f->file_bytes)
            return cvt_gguf_at(fh1_found(fh1_expected(fh1_where(FH1_BAD("the file ends before the tensor does"),
                                                                "tensor \"%.63s\"", t->name),
                                                      "%llu bytes of data", (unsigned long long)end),
                                         "a file of %llu bytes", (unsigned long long)f->file_bytes),
                               f, t->at);
        t->begin += f->data_begin;
        at = align_up(end, f->alignment);
    }
    const uint64_t least = f->n_tensors ? f->data_begin + end : f->infos_end, most = f->data_begin + at;
    if (f->file_bytes < least || f->file_bytes > most)
        return fh1_where(
            fh1_found(fh1_expected(FH1_BAD(f->file_bytes < least ? "the file is cut off"
                                                                 : "there are bytes behind the last tensor"),
                                   "%llu to %llu bytes", (unsigned long long)least, (unsigned long long)most),
                      "%llu", (unsigned long long)f->file_bytes),
            "%s", f->path);
    return NULL;
}
