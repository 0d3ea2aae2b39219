#include "cuda/tokens_upload.h"

#include <vector>

namespace CU_NS
{
namespace
{

template <typename T> fh1_status send(const std::vector<T> &v, cu_buffer *b, cudaStream_t stream, const T **out)
{
    const size_t bytes = v.size() * sizeof(T);
    FH1_TRY(cu_buffer_need(b, bytes));
    *out = static_cast<const T *>(b->p);
    return bytes ? cu_status(cudaMemcpyAsync(b->p, v.data(), bytes, cudaMemcpyHostToDevice, stream), "sending tokens")
                 : NULL;
}

/* Where the document of each new token begins: `start` in this call, `first` among the row's stored keys. */
void find_documents(const fh1_tokens *t, const fh1_cache *past, std::vector<int> *start, std::vector<int> *first)
{
    for (int64_t b = 0; b < t->B; ++b) {
        const fh1_cache_row *r = &past->rows[b];
        int64_t doc = r->doc, from = r->doc_begin, begin = -1;
        for (int64_t m = t->row_begin[b]; m < t->row_begin[b + 1]; ++m) {
            if (t->doc[m] != doc) {
                doc = t->doc[m];
                from = r->n + m - t->row_begin[b];
                begin = m;
            }
            start->push_back(static_cast<int>(begin));
            first->push_back(static_cast<int>(from));
        }
    }
}

std::vector<int> as_int(const int64_t *p, int64_t n)
{
    std::vector<int> v(static_cast<size_t>(n));
    for (size_t i = 0; i < v.size(); ++i) v[i] = static_cast<int>(p[i]);
    return v;
}

} // namespace

fh1_status cu_tokens_upload(const fh1_tokens *t, const fh1_cache *past, cudaStream_t stream, cu_token_buffers *b,
                            cu_tokens *out)
{
    std::vector<int> stored, start, first;
    int64_t longest = 0, most = 0;
    for (int64_t i = 0; i < t->B; ++i) {
        const int64_t n = t->row_begin[i + 1] - t->row_begin[i], keys = past->rows[i].n + n;
        longest = n > longest ? n : longest;
        most = keys > most ? keys : most;
        stored.push_back(static_cast<int>(past->rows[i].n));
    }
    if (t->M > INT32_MAX / 2 || most > INT32_MAX / 2 || t->B > INT32_MAX / 2)
        return fh1_hint(FH1_BAD("too many tokens for one call on the device"), "split the prompt");
    find_documents(t, past, &start, &first);

    *out = {};
    out->M = static_cast<int>(t->M);
    out->B = static_cast<int>(t->B);
    out->longest = static_cast<int>(longest);
    out->most_keys = static_cast<int>(most);
    const std::vector<int> id = as_int(t->id, t->M), row = as_int(t->row, t->M), begin = as_int(t->row_begin, t->B + 1);
    const std::vector<int64_t> position(t->position, t->position + t->M);
    FH1_TRY(send(id, &b->id, stream, &out->id));
    FH1_TRY(send(row, &b->row, stream, &out->row));
    FH1_TRY(send(begin, &b->row_begin, stream, &out->row_begin));
    FH1_TRY(send(stored, &b->past, stream, &out->past));
    FH1_TRY(send(position, &b->position, stream, &out->position));
    FH1_TRY(send(start, &b->start, stream, &out->start));
    FH1_TRY(send(first, &b->first, stream, &out->first));
    return cu_status(cudaStreamSynchronize(stream), "sending tokens"); /* the arrays go out of scope */
}

void cu_token_buffers_free(cu_token_buffers *b)
{
    for (cu_buffer *p : {&b->id, &b->row, &b->row_begin, &b->past, &b->position, &b->start, &b->first})
        cu_buffer_free(p);
}

} // namespace CU_NS
