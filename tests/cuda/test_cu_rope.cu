/* Rotation and append against sines of an angle reduced in 113-bit integers, so that positions up to 2^53 are judged
 * too; pages in shuffled order, and nothing else in the pool touched. */
#include "cuda/rope.cuh"
#include "tests/cuda/attention_fixture.h"

/* position·f mod 2π to about 2^-50: position and the significand of f are integers, their product below 2^106 is exact,
 * and 2π is given by 2^-120 steps. */
static double reduced(int64_t position, double f)
{
    /* 1/(2π) = 0.159154943091895335768883763372514362034459645740... in 64-bit words after the point */
    static const uint64_t INVERSE[4] = {0x28be60db9391054aull, 0x7f09d5f47d4d3770ull, 0x36d8a5664f10e410ull,
                                        0x7f9458eaf7aef158ull};
    int e;
    const uint64_t significand = static_cast<uint64_t>(ldexp(frexp(fabs(f), &e), 53));
    const unsigned __int128 n = static_cast<unsigned __int128>(significand) * static_cast<uint64_t>(position);
    e -= 53; /* the angle is n·2^e; turns = n·2^e/(2π), of which only the fraction counts */
    /* the fraction of n·INVERSE·2^e, in 256 bits after the point, from words of 32 bits */
    uint64_t word[12] = {0}; /* word[i] weighs 2^(32·(3-i)): 4 words before the point, 8 after it */
    for (int i = 0; i < 4; ++i)
        for (int j = 0; j < 8; ++j) {
            const uint64_t a = static_cast<uint32_t>(n >> (32 * i));
            const uint64_t b = static_cast<uint32_t>(INVERSE[j / 2] >> (j % 2 ? 0 : 32));
            const uint64_t product = a * b;
            const int at = 4 + j - i; /* 2^(32·i)·2^(-32·(j+1)) */
            word[at] += product & 0xffffffffu;
            word[at - 1] += product >> 32;
        }
    for (int i = 11; i > 0; --i) {
        word[i - 1] += word[i] >> 32;
        word[i] &= 0xffffffffu;
    }
    double turns = 0;
    for (int i = 11; i >= 0; --i) turns += fmod(ldexp(static_cast<double>(word[i]), 32 * (3 - i) + e), 1);
    turns = fmod(turns, 1);
    return copysign(turns * 6.283185307179586477, f);
}

struct rope_case {
    cu_type type;
    int Hq, Hkv, A;
    std::vector<int> past, count;
    std::vector<int64_t> position; /* [M]; empty: the slot */
    float m_key, scale;
    int gap; /* elements between rows of q, k, v */
    bool append;
};

static void pairs(const float *x, double mul, const double *angle, double scale, int A, double *out, double *size)
{
    for (int i = 0; i < A / 2; ++i) {
        const double a = static_cast<double>(x[i]) * mul, b = static_cast<double>(x[i + A / 2]) * mul;
        const double c = cos(angle[i]) * scale, s = sin(angle[i]) * scale;
        out[i] = a * c - b * s;
        out[i + A / 2] = b * c + a * s;
        size[i] = fabs(a * c) + fabs(b * s);
        size[i + A / 2] = fabs(b * c) + fabs(a * s);
    }
}

/* x·m_key, a cosine, two products and a sum are each rounded to f32: 4·2^-24 of the terms, and a cosine near its zero
 * is only good to 2^-50 of 1 (the reduction): both terms together are below 2^-40. Then half an ulp of what is stored.
 */
static double margin(cu_type type, double got, double want, double size)
{
    const double err = size * ldexp(4, -24) + ldexp(1, -40);
    const double allowed = err + ldexp(fabs(want) + err, type == CU_BF16 ? -8 : -24);
    const double m = fabs(got - want) / allowed;
    return std::isnan(m) ? INFINITY : m;
}

static double rope_margin(cu_path path, const char *name, const rope_case &r, double wrong = 0)
{
    att_case c = {r.type, r.Hq, r.Hkv ? r.Hkv : 1, r.A, r.past, r.count, {}};
    att_batch t = att_make(name, c);
    const int half = r.A / 2;
    std::vector<double> freq(static_cast<size_t>(half));
    for (int i = 0; i < half; ++i) freq[static_cast<size_t>(i)] = pow(1e6, -2.0 * i / r.A);
    std::vector<int64_t> position = r.position;
    if (position.empty()) position.assign(t.slot.begin(), t.slot.end());
    const size_t M = static_cast<size_t>(t.M), A = static_cast<size_t>(r.A), Hq = static_cast<size_t>(r.Hq);
    const size_t Hkv = static_cast<size_t>(r.Hkv), gap = static_cast<size_t>(r.gap);
    const size_t ldq = Hq * A + gap, ldk = Hkv * A + gap;
    const std::vector<float> q = as_stored(r.type, draw("q", M * ldq)), k = as_stored(r.type, draw("k", M * ldk)),
                             v = as_stored(r.type, draw("v", M * ldk));
    std::vector<float> pool(static_cast<size_t>(t.n_pages) * static_cast<size_t>(c.Hkv) * CU_PAGE * A);
    for (size_t i = 0; i < pool.size(); ++i) pool[i] = static_cast<float>(i % 97);
    cu_rope a = {};
    a.type = r.type;
    a.t = att_tokens(t);
    a.t.position = to_device(position);
    a.Hq = r.Hq, a.Hkv = r.Hkv, a.A = r.A;
    a.inv_freq = to_device(freq);
    a.scale = r.scale;
    a.m_key = r.m_key;
    a.q = to_device(r.type, q);
    a.ldq = static_cast<int64_t>(ldq);
    if (r.Hkv) {
        a.k = to_device(r.type, k), a.v = to_device(r.type, v);
        a.ldk = a.ldv = static_cast<int64_t>(ldk);
    }
    if (r.append) a.kv = att_kv(t, pool, pool);
    cu_ctx ctx = context(path);
    good(cu_rope_fwd(&ctx, &a));
    std::vector<float> want_key = pool, want_value = pool;
    const std::vector<float> rq = from_device(r.type, a.q, M * ldq);
    const std::vector<float> rk = r.Hkv ? from_device(r.type, a.k, M * ldk) : std::vector<float>();
    double worst = 0;
    std::vector<double> angle(static_cast<size_t>(half)), out(A), size(A);
    for (size_t m = 0; m < M; ++m) {
        for (int i = 0; i < half; ++i)
            angle[static_cast<size_t>(i)] = reduced(position[m], freq[static_cast<size_t>(i)]) + wrong;
        for (size_t h = 0; h < Hq + Hkv; ++h) {
            const bool is_q = h < Hq;
            const size_t at = is_q ? m * ldq + h * A : m * ldk + (h - Hq) * A;
            pairs(&(is_q ? q : k)[at], is_q ? 1.0 : static_cast<double>(r.m_key), angle.data(),
                  static_cast<double>(r.scale), r.A, out.data(), size.data());
            for (size_t i = 0; i < A; ++i) {
                const float got = (is_q ? rq : rk)[at + i];
                worst = fmax(worst, margin(r.type, static_cast<double>(got), out[i], size[i]));
                if (is_q || !r.append) continue;
                const size_t to = att_at(t, t.row[m], static_cast<int>(h - Hq), t.slot[m]) + i;
                want_key[to] = got;
                want_value[to] = v[at + i];
            }
        }
        for (size_t i = Hq * A; i < ldq; ++i) ck_assert(rq[m * ldq + i] == q[m * ldq + i]);
    }
    if (r.append) {
        ck_assert(from_device(r.type, a.kv.key, pool.size()) == as_stored(r.type, want_key));
        ck_assert(from_device(r.type, a.kv.value, pool.size()) == as_stored(r.type, want_value));
    }
    free_device();
    return worst;
}

static void both_paths(const char *name, const rope_case &r)
{
    for (cu_path p : {CU_GENERAL, CU_AUTO}) {
        const double m = rope_margin(p, name, r);
        printf("%-24s %-8s margin %.3f\n", name, p == CU_AUTO ? "auto" : "general", m);
        ck_assert_msg(m <= 1, "%s: %g of what is allowed", name, m);
    }
}

START_TEST(shapes)
{
    both_paths("golden", {CU_F32, 6, 2, 8, {0, 5, 60, 0}, {3, 1, 9, 0}, {}, 0.7f, 1, 0, true});
    both_paths("golden, bf16", {CU_BF16, 8, 2, 8, {0, 5}, {3, 1}, {}, 1.3f, 1, 0, true});
    both_paths("one pair", {CU_F32, 1, 1, 2, {7}, {2}, {}, 1, 1, 1, true});
    both_paths("odd half", {CU_BF16, 3, 1, 14, {63}, {3}, {}, 0.3f, 1, 2, true});
    both_paths("64 wide", {CU_BF16, 4, 1, 64, {62, 0}, {5, 2}, {}, 0.39f, 1, 64, true});
    both_paths("128 wide, f32", {CU_F32, 12, 2, 128, {1000}, {3}, {}, 0.39f, 1.25f, 12, true});
    both_paths("rows not at 16 bytes", {CU_BF16, 2, 2, 32, {0}, {3}, {}, 1, 1, 1, true});
    both_paths("queries only", {CU_BF16, 4, 0, 64, {5}, {3}, {}, 1, 1, 0, false});
    both_paths("nothing appended", {CU_BF16, 4, 2, 64, {5}, {3}, {}, 0.5f, 1, 0, false});
    both_paths("no token", {CU_F32, 2, 1, 8, {5}, {0}, {}, 1, 1, 0, true});
}
END_TEST

START_TEST(large_positions)
{
    const int64_t two53 = 1ll << 53;
    const std::vector<int64_t> far = {0,
                                      1,
                                      262143,
                                      (1 << 24) + 1,
                                      1ll << 31,
                                      1ll << 40,
                                      two53 - 1,
                                      two53 - 12345677,
                                      6381956970095103,
                                      411557987,
                                      5419351,
                                      1783366216531,
                                      12};
    both_paths("far, f32", {CU_F32, 1, 1, 64, {0}, {static_cast<int>(far.size())}, far, 1, 1, 0, true});
    both_paths("far, bf16", {CU_BF16, 2, 1, 128, {0}, {static_cast<int>(far.size())}, far, 1, 1, 0, true});
}
END_TEST

/* Position 0 turns nothing, to the bit. */
START_TEST(exact)
{
    for (cu_path p : {CU_GENERAL, CU_AUTO}) {
        const att_batch t = att_make("zero", {CU_F32, 1, 1, 16, {0}, {1}, {}});
        cu_rope a = {};
        a.type = CU_F32;
        a.t = att_tokens(t);
        a.t.position = to_device(std::vector<int64_t>{0});
        a.Hq = 1, a.A = 16, a.scale = 1, a.ldq = 16;
        const double nan = NAN;
        std::vector<double> freq(8, 0.5);
        a.inv_freq = to_device(freq);
        a.q = to_device(CU_F32, t.q);
        cu_ctx k = context(p);
        good(cu_rope_fwd(&k, &a));
        ck_assert(from_device(CU_F32, a.q, 16) == t.q);
        freq[3] = nan; /* a frequency of NaN shows */
        a.inv_freq = to_device(freq);
        good(cu_rope_fwd(&k, &a));
        const std::vector<float> q = from_device(CU_F32, a.q, 16);
        for (size_t i = 0; i < 16; ++i) ck_assert(std::isnan(q[i]) == (i % 8 == 3));
        free_device();
    }
}
END_TEST

START_TEST(wrong_variants_are_seen)
{
    const rope_case r = {CU_F32, 2, 1, 64, {100}, {3}, {}, 0.5f, 1, 0, true};
    ck_assert(rope_margin(CU_AUTO, "wrong", r) <= 1);
    ck_assert(rope_margin(CU_AUTO, "wrong", r, 1e-5) > 1); /* an angle made in f32 */
}
END_TEST

int main(void)
{
    Suite *s = suite_create("rope");
    TCase *t = tcase_create("rope");
    tcase_add_test(t, shapes);
    tcase_add_test(t, large_positions);
    tcase_add_test(t, exact);
    tcase_add_test(t, wrong_variants_are_seen);
    suite_add_tcase(s, t);
    return run_suite(s);
}
