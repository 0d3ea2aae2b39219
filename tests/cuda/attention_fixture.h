/* Cases of attention and rotation on pages: a batch of rows with a past, new tokens and documents; pages of the pool in
 * shuffled order, every slot that holds no token NaN; truth in double with its error bound. */
#pragma once

#include "cuda/attention.cuh"
#include "tests/cuda/harness.h"

struct att_case {
    cu_type type;
    int Hq, Hkv, A;
    std::vector<int> past, count;           /* per row: stored tokens, new tokens */
    std::vector<std::vector<int>> document; /* per row: slots where a document starts (0 always does) */
    double q_scale = 1, k_scale = 1, v_scale = 1;
    int pages_more = 2; /* of the pool and of each table row, more than needed */
};

struct att_batch {
    att_case c;
    int B, M, max_pages;
    std::vector<int> row, row_begin, first, slot; /* first, slot: [M] */
    std::vector<std::vector<float>> k, v;         /* per row [tokens, Hkv, A] */
    std::vector<float> q;                         /* [M, Hq, A] */
    std::vector<int> table;
    int64_t n_pages;
};

static inline int att_first(const att_case &c, int b, int slot)
{
    int first = 0;
    if (static_cast<size_t>(b) < c.document.size())
        for (int d : c.document[static_cast<size_t>(b)])
            if (d <= slot && d > first) first = d;
    return first;
}

static inline att_batch att_make(const char *name, const att_case &c)
{
    att_batch t;
    t.c = c;
    t.B = static_cast<int>(c.past.size());
    t.row_begin.push_back(0);
    t.max_pages = 0;
    int64_t used = 0;
    for (int b = 0; b < t.B; ++b) {
        const size_t i = static_cast<size_t>(b);
        const int total = c.past[i] + c.count[i], pages = (total + CU_PAGE - 1) / CU_PAGE;
        for (int j = 0; j < c.count[i]; ++j) {
            t.row.push_back(b);
            t.slot.push_back(c.past[i] + j);
            t.first.push_back(att_first(c, b, c.past[i] + j));
        }
        t.row_begin.push_back(t.row_begin.back() + c.count[i]);
        const size_t n = static_cast<size_t>(total) * static_cast<size_t>(c.Hkv * c.A);
        char key[160];
        snprintf(key, sizeof key, "%s.k%d", name, b);
        t.k.push_back(as_stored(c.type, draw(key, n, c.k_scale)));
        snprintf(key, sizeof key, "%s.v%d", name, b);
        t.v.push_back(as_stored(c.type, draw(key, n, c.v_scale)));
        t.max_pages = std::max(t.max_pages, pages);
        used += pages;
    }
    t.M = t.row_begin.back();
    t.max_pages += c.pages_more;
    t.n_pages = used + c.pages_more;
    t.q = as_stored(c.type, draw(name, static_cast<size_t>(t.M) * static_cast<size_t>(c.Hq * c.A), c.q_scale));
    /* a permutation of the pool; entries past a row's pages lead nowhere */
    std::vector<int> order(static_cast<size_t>(t.n_pages));
    for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int>(i);
    const fh1_stream s = fh1_stream_open(7, name);
    for (size_t i = order.size(); i > 1; --i)
        std::swap(order[i - 1], order[static_cast<size_t>(fh1_random_uniform(s, i) * static_cast<double>(i))]);
    t.table.assign(static_cast<size_t>(t.B * t.max_pages), 1 << 30);
    size_t next = 0;
    for (int b = 0; b < t.B; ++b) {
        const size_t i = static_cast<size_t>(b);
        for (int p = 0; p * CU_PAGE < c.past[i] + c.count[i]; ++p)
            t.table[static_cast<size_t>(b * t.max_pages + p)] = order[next++];
    }
    return t;
}

/* One row of keys or values, where it lies in the pool. */
static inline size_t att_at(const att_batch &t, int b, int h, int s)
{
    const size_t page = static_cast<size_t>(t.table[static_cast<size_t>(b * t.max_pages + s / CU_PAGE)]);
    return ((page * static_cast<size_t>(t.c.Hkv) + static_cast<size_t>(h)) * CU_PAGE +
            static_cast<size_t>(s % CU_PAGE)) *
           static_cast<size_t>(t.c.A);
}

static inline std::vector<float> att_pool(const att_batch &t, const std::vector<std::vector<float>> &x)
{
    const att_case &c = t.c;
    const size_t A = static_cast<size_t>(c.A);
    std::vector<float> pool(static_cast<size_t>(t.n_pages) * static_cast<size_t>(c.Hkv) * CU_PAGE * A, NAN);
    for (int b = 0; b < t.B; ++b)
        for (int s = 0; s < c.past[static_cast<size_t>(b)] + c.count[static_cast<size_t>(b)]; ++s)
            for (int h = 0; h < c.Hkv; ++h)
                for (size_t i = 0; i < A; ++i)
                    pool[att_at(t, b, h, s) + i] =
                        x[static_cast<size_t>(b)][static_cast<size_t>(s * c.Hkv + h) * A + i];
    return pool;
}

/* The batch on the device. */
static inline cu_tokens att_tokens(const att_batch &t)
{
    cu_tokens d = {};
    d.M = t.M;
    d.B = t.B;
    for (int b = 0; b < t.B; ++b) {
        const size_t i = static_cast<size_t>(b);
        d.longest = std::max(d.longest, t.c.count[i]);
        d.most_keys = std::max(d.most_keys, t.c.past[i] + t.c.count[i]);
    }
    d.row = to_device(t.row);
    d.row_begin = to_device(t.row_begin);
    d.past = to_device(t.c.past);
    d.first = to_device(t.first);
    return d;
}

static inline cu_kv att_kv(const att_batch &t, const std::vector<float> &key, const std::vector<float> &value)
{
    cu_kv kv = {};
    kv.type = t.c.type;
    kv.Hkv = t.c.Hkv;
    kv.A = t.c.A;
    kv.key = to_device(kv.type, key);
    kv.value = to_device(kv.type, value);
    kv.n_pages = t.n_pages;
    kv.table = to_device(t.table);
    kv.max_pages = t.max_pages;
    return kv;
}

/* The query rows lie `gap` elements apart from each other, NaN between them. */
static inline std::vector<float> att_run(cu_ctx k, const att_batch &t, bool step, int gap = 0)
{
    const att_case &c = t.c;
    const size_t width = static_cast<size_t>(c.Hq * c.A), ld = width + static_cast<size_t>(gap);
    std::vector<float> q(static_cast<size_t>(t.M) * ld, NAN);
    for (size_t m = 0; m < static_cast<size_t>(t.M); ++m)
        for (size_t i = 0; i < width; ++i) q[m * ld + i] = t.q[m * width + i];
    cu_attention a = {};
    a.type = c.type;
    a.t = att_tokens(t);
    a.Hq = c.Hq;
    a.Hkv = c.Hkv;
    a.A = c.A;
    a.q = to_device(c.type, q);
    a.ldq = static_cast<int64_t>(ld);
    a.kv = att_kv(t, att_pool(t, t.k), att_pool(t, t.v));
    a.out = device_new(c.type, static_cast<size_t>(t.M) * width);
    if (step) {
        const size_t n = cu_attention_step_scratch(&k, &a, t.B, a.t.most_keys);
        a.scratch = device_new<unsigned char>(n);
        good(cudaMemset(a.scratch, 0, n));
        good(cu_attention_step_fwd(&k, &a)); /* the second time with what the first one left in the scratch */
        good(cudaMemset(a.out, 0xff, static_cast<size_t>(t.M) * width * cu_size(c.type)));
        good(cu_attention_step_fwd(&k, &a));
    } else good(cu_attention_fwd(&k, &a));
    std::vector<float> out = from_device(c.type, a.out, static_cast<size_t>(t.M) * width);
    free_device();
    return out;
}

/* Truth and what may differ from it. With u = 2^-24, n keys, scale = A^-½ and S = scale·Σ|q·k| of the key where it is
 * largest: a score is wrong by d = (A + 4)·u·S at most (A products and sums, twice that where a tensor core truncates
 * its sums, hence the 2 below), p by a factor within e^(2d + w·u), w for the rounding of score - maximum (up to the
 * largest difference of scores, times log2 e twice) and of exp. The sum of n terms and its rescaling add (n + 8)·u. So
 *   |o' - o| <= Σ p|v| · 2·(e^(4d + w·u) - 1 + (n + 8)·u + [p rounded to bf16: 2^-8])
 * and then the rounding of what is stored, 2^-8 or 2^-24 of it. */
struct att_truth {
    std::vector<double> out, allowed; /* [M, Hq, A] */
};

static inline att_truth att_expect(const att_batch &t, bool p_in_bf16)
{
    const att_case &c = t.c;
    const size_t A = static_cast<size_t>(c.A), n_out = static_cast<size_t>(t.M) * static_cast<size_t>(c.Hq) * A;
    const double u = ldexp(1, -24), scale = 1 / sqrt(static_cast<double>(c.A));
    att_truth e = {std::vector<double>(n_out), std::vector<double>(n_out)};
    for (size_t m = 0; m < static_cast<size_t>(t.M); ++m)
        for (int h = 0; h < c.Hq; ++h) {
            const size_t b = static_cast<size_t>(t.row[m]);
            const int kv = h / (c.Hq / c.Hkv), first = t.first[m], n = t.slot[m] + 1 - first;
            const float *q = &t.q[(m * static_cast<size_t>(c.Hq) + static_cast<size_t>(h)) * A];
            std::vector<double> p(static_cast<size_t>(n));
            double max = -INFINITY, min = INFINITY, largest = 0, sum = 0;
            for (size_t s = 0; s < p.size(); ++s) {
                const float *k =
                    &t.k[b]
                        [((s + static_cast<size_t>(first)) * static_cast<size_t>(c.Hkv) + static_cast<size_t>(kv)) * A];
                double dot = 0, size = 0;
                for (size_t i = 0; i < A; ++i) {
                    const double x = static_cast<double>(q[i]) * static_cast<double>(k[i]);
                    dot += x;
                    size += fabs(x);
                }
                p[s] = dot * scale;
                if (!(p[s] <= max)) max = p[s];
                if (!(p[s] >= min)) min = p[s];
                if (size * scale > largest) largest = size * scale;
            }
            for (double &x : p) sum += x = exp(x - max);
            const double d = (c.A + 4) * u * largest, w = 8 + 4 * fmin(max - min, 128.0) + 2 * largest;
            const double relative = 2 * (expm1(4 * d + w * u) + (n + 8) * u + (p_in_bf16 ? ldexp(1, -8) : 0));
            for (size_t i = 0; i < A; ++i) {
                double o = 0, size = 0;
                for (size_t s = 0; s < p.size(); ++s) {
                    const double v = t.v[b][((s + static_cast<size_t>(first)) * static_cast<size_t>(c.Hkv) +
                                             static_cast<size_t>(kv)) *
                                                A +
                                            i];
                    o += p[s] / sum * v;
                    size += p[s] / sum * fabs(v);
                }
                const size_t at = (m * static_cast<size_t>(c.Hq) + static_cast<size_t>(h)) * A + i;
                const double err = relative * size;
                e.out[at] = o;
                e.allowed[at] = err + ldexp(fabs(o) + err, c.type == CU_BF16 ? -8 : -24);
            }
        }
    return e;
}

/* The largest error over what is allowed; infinite for a wrong class (NaN where truth is a number, or the reverse). */
static inline double att_margin(const att_truth &e, const std::vector<float> &out)
{
    double worst = 0;
    for (size_t i = 0; i < out.size(); ++i) {
        const double x = static_cast<double>(out[i]);
        if (std::isnan(e.out[i]) || std::isinf(e.out[i])) {
            if (std::isnan(e.out[i]) ? !std::isnan(x) : x != e.out[i]) return INFINITY;
            continue;
        }
        const double margin = fabs(x - e.out[i]) / e.allowed[i];
        if (!(fabs(x - e.out[i]) <= e.allowed[i])) worst = std::isnan(margin) ? INFINITY : fmax(worst, margin);
        if (margin > worst) worst = margin;
    }
    return worst;
}

static inline void att_good(const char *name, const char *what, const att_truth &e, const std::vector<float> &out)
{
    const double margin = att_margin(e, out);
    printf("%-28s %-8s margin %.3f\n", name, what, margin);
    ck_assert_msg(margin <= 1, "%s, %s: %.3f of what is allowed", name, what, margin);
}
