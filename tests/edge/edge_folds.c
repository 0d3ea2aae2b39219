/* D-95 and D-100: multipliers folded into weights by the export to GGUF, before and after a merge, and what happens to
 * weights that are folded, converted or written already. The factors are told here by name, independently of the
 * converter's table. */
#include "tests/edge/edge_file_cases.h"
#include "tests/edge/edge_rows.h"

#include "convert/file.h"
#include "convert/gguf.h"
#include "convert/hf_write.h"
#include "convert/model_open.h"
#include "convert/native.h"
#include "oracle/compare.h"

#include <math.h>
#include <string.h>

static const cvt_write_options forced = {.force = true};

fh1_status edge_hide_private(edge_run *r, const char *name)
{
    char path[EDGE_PATH], *data;
    size_t n;
    bool hidden = false;
    FH1_TRY(cvt_file_read(edge_path(r, name, path), (size_t)16 << 20, &data, &n));
    for (char *at = data; (at = memmem(at, n - (size_t)(at - data), "fh1.", 4)) != NULL; at += 4)
        hidden = true, memcpy(at, "xyz.", 4);
    fh1_status s =
        hidden ? cvt_file_write(path, data, n, true) : fh1_fail(FH1_E_INTERNAL, "no private keys in %s", path);
    free(data);
    return s;
}

/* ---- the factors ---- */

static bool ends(const char *name, const char *end)
{
    const size_t n = strlen(name), k = strlen(end);
    return n >= k && strcmp(name + n - k, end) == 0;
}

/* What the formulas multiply the output of this row of the tensor with. */
static double factor_of(const fh1_config *c, const char *name, int64_t row)
{
    if (ends(name, "q_proj.weight") || ends(name, "v_proj.weight")) return c->m_attn_in;
    if (ends(name, "k_proj.weight")) return c->m_attn_in * c->m_key;
    if (ends(name, "o_proj.weight")) return c->m_attn_out;
    if (ends(name, "gate_proj.weight")) return c->m_gate;
    if (ends(name, "down_proj.weight")) return c->m_down;
    if (ends(name, "mamba.out_proj.weight")) return c->m_ssm_out;
    if (ends(name, "embed_tokens.weight")) return c->m_emb;
    if (ends(name, "lm_head.weight")) return c->m_lm;
    if (!ends(name, "in_proj.weight")) return 1;
    const int64_t gn = c->G * c->N, end[4] = {c->d_ssm, 2 * c->d_ssm, 2 * c->d_ssm + gn, 2 * c->d_ssm + 2 * gn};
    int k = 0;
    while (k < 4 && row >= end[k]) ++k;
    return c->m_ssm_in * c->m_ssm[k];
}

/* A_log is stored as A and comes back through a logarithm: A is f32, so A_log is right to about 2^-23 of 1 and more. */
static bool is_log(const char *name)
{
    return ends(name, "A_log");
}

/* ---- D-95 ---- */

/* A folder of r->folder as GGUF, its private keys hidden, opened with f32 weights: those of the file. */
static fh1_status open_folded(edge_run *r, const char *folder, cvt_gguf_type type, cvt_ckpt **out)
{
    char from[EDGE_PATH], to[EDGE_PATH];
    cvt_ckpt *c;
    FH1_TRY(cvt_ckpt_open(edge_path(r, folder, from), &c));
    fh1_status s = cvt_gguf_write(c, edge_path(r, "folded.gguf", to), type, &forced);
    cvt_ckpt_close(c);
    FH1_TRY(edge_accepted(r, s, "the export"));
    FH1_TRY(edge_hide_private(r, "folded.gguf"));
    return edge_accepted(r, cvt_ckpt_open_wide(to, out), "the file with stock keys alone");
}

static fh1_status read_f64(cvt_ckpt *c, const char *name, int64_t n, double **out)
{
    const int64_t t = cvt_ckpt_find(c, name);
    if (t < 0) return fh1_fail(FH1_E_WRONG, "the file has no %s", name);
    const uint64_t bytes = cvt_ckpt_tensor_bytes(&c->tensors[t]);
    char *raw = malloc(bytes + 1);
    *out = malloc((size_t)n * sizeof **out + 1);
    fh1_status s = raw && *out ? cvt_ckpt_read(c, t, 0, bytes, raw) : fh1_no_memory(bytes, name);
    if (!s) fh1_to_f64(*out, raw, c->tensors[t].dtype, n);
    free(raw);
    return s;
}

static double rounded(fh1_dtype t, double v)
{
    double narrow;
    fh1_from_f64(&narrow, t, &v, 1);
    fh1_to_f64(&v, &narrow, t, 1);
    return v;
}

/* Every element of the file is the weight times its factor, rounded once to `dtype`: matrices; vectors stay f32. */
static fh1_status folded_once(edge_run *r, const fh1_model *m, cvt_ckpt *file, fh1_dtype dtype)
{
    for (int64_t i = 0; i < m->n_weights; ++i) {
        const fh1_tensor *w = &m->weights[i].t;
        const char *name = m->weights[i].name;
        const int64_t n = fh1_n_elems(w), width = n / w->shape[0];
        const fh1_dtype type = w->rank == 2 ? dtype : FH1_F32;
        double *got, worst = 0;
        FH1_TRY(read_f64(file, name, n, &got));
        int64_t wrong = 0;
        for (int64_t k = 0; k < n; ++k) {
            const double v = fh1_get(w, k), want = rounded(type, v * factor_of(&m->config, name, k / width));
            const double err = fabs(got[k] - want), most = is_log(name) ? 0x1p-22 * (1 + fabs(v)) : 0;
            wrong += !fh1_within(err, most);
            if (err > worst) worst = err;
        }
        free(got);
        FH1_TRY(edge_require(r, wrong == 0,
                             "%s: %d of %d folded elements are not the weight times its factor, worst %.3g", name,
                             (int)wrong, (int)n, worst));
    }
    return NULL;
}

/* Folding W alone and adding f·ΔW, against folding W + ΔW. The one rounds f·W and then the sum, the other W + ΔW in the
 * merge and then its fold: two half ulps each of values at most |f|·(|W| + |ΔW|), 2^-24 of it each, 2^-22 in all. */
static fh1_status same_fold(edge_run *r, const fh1_model *base, const fh1_model *merged, const double *alone,
                            const double *after, const char *name)
{
    const fh1_tensor *w = NULL, *v = NULL;
    for (int64_t i = 0; i < base->n_weights; ++i)
        if (strcmp(base->weights[i].name, name) == 0) w = &base->weights[i].t, v = &merged->weights[i].t;
    const int64_t n = fh1_n_elems(w), width = w->shape[1];
    const bool plain = edge_plants(r, "delta_not_folded");
    int64_t wrong = 0;
    for (int64_t k = 0; k < n; ++k) {
        const double delta = fh1_get(v, k) - fh1_get(w, k), f = factor_of(&base->config, name, k / width);
        const double sum = alone[k] + (plain ? delta : f * delta);
        const double size = fabs(f) * (fabs(fh1_get(w, k)) + fabs(fh1_get(v, k)));
        wrong += !fh1_within(fabs(sum - after[k]), 0x1p-22 * size);
    }
    return edge_require(r, wrong == 0, "%s: folded and then adapted, %d of %d elements are not those of the merged one",
                        name, (int)wrong, (int)n);
}

#define L0 "model.layers.0."

static fh1_status compare_order(edge_run *r, const fh1_model *base, const fh1_model *merged)
{
    static const char *const adapted[] = {L0 "mamba.in_proj.weight", L0 "self_attn.k_proj.weight",
                                          L0 "feed_forward.gate_proj.weight", L0 "feed_forward.down_proj.weight"};
    for (size_t i = 0; i < sizeof adapted / sizeof *adapted; ++i) {
        cvt_ckpt *before, *after;
        double *x = NULL, *y = NULL;
        int64_t n = 0;
        for (int64_t k = 0; k < base->n_weights; ++k)
            if (strcmp(base->weights[k].name, adapted[i]) == 0) n = fh1_n_elems(&base->weights[k].t);
        FH1_TRY(open_folded(r, "base", CVT_GGUF_F32, &before));
        fh1_status s = read_f64(before, adapted[i], n, &x);
        cvt_ckpt_close(before);
        if (!s) s = open_folded(r, "merged", CVT_GGUF_F32, &after);
        if (!s) s = read_f64(after, adapted[i], n, &y);
        if (!s) cvt_ckpt_close(after);
        if (!s) s = same_fold(r, base, merged, x, y, adapted[i]);
        free(x);
        free(y);
        FH1_TRY(s);
    }
    return NULL;
}

static fh1_status save_delta(edge_run *r, const fh1_config *c)
{
    const edge_delta d[] = {{L0 "mamba.in_proj", fh1_in_proj_dim(c), c->D, 2, 1.5, 0.2, false, false, false},
                            {L0 "self_attn.k_proj", c->Hkv * c->A, c->D, 2, 1.5, 0.2, false, false, false},
                            {L0 "feed_forward.gate_proj", c->F, c->D, 2, 1.5, 0.2, false, false, false},
                            {L0 "feed_forward.down_proj", c->D, c->F, 2, 1.5, 0.2, false, false, false},
                            {0}};
    return edge_save_deltas(r, "adapter",
                            "\"r\":2,\"lora_alpha\":3,\"target_modules\":[\"0.mamba.in_proj\",\"0.self_attn.k_proj\","
                            "\"0.feed_forward.gate_proj\",\"0.feed_forward.down_proj\"]",
                            d);
}

static fh1_status folded_in(edge_run *r, const fh1_model *m, const char *folder, cvt_gguf_type type, fh1_dtype dtype)
{
    cvt_ckpt *file;
    FH1_TRY(open_folded(r, folder, type, &file));
    fh1_status s = folded_once(r, m, file, dtype);
    cvt_ckpt_close(file);
    return s;
}

static fh1_status fold_steps(edge_run *r, const fh1_model *base, void *unused)
{
    (void)unused;
    char path[EDGE_PATH], adapter[EDGE_PATH], gguf[EDGE_PATH];
    fh1_model merged;
    FH1_TRY(edge_save(r, base, "base", EDGE_FORM_5));
    FH1_TRY(save_delta(r, &base->config));
    FH1_TRY(edge_accepted(
        r, edge_merge(r, edge_path(r, "base", path), edge_path(r, "adapter", adapter), "merged", CVT_ROUND_EXACT),
        "merge"));
    FH1_TRY(edge_accepted(r, cvt_model_open(edge_path(r, "merged", path), &merged), "the merged model"));
    fh1_status s = NULL;
    if (r->bit == EDGE_F64) {
        s = folded_in(r, base, "base", CVT_GGUF_F32, FH1_F32);
        if (!s) s = folded_in(r, base, "base", CVT_GGUF_BF16, FH1_BF16);
        if (!s) s = compare_order(r, base, &merged);
    }
    if (!s) s = folded_in(r, &merged, "merged", CVT_GGUF_F32, FH1_F32);
    if (!s) s = edge_check_file(r, edge_path(r, "folded.gguf", gguf), &merged, EDGE_FOLDED);
    edge_contract(r, r->profile);
    fh1_model_free(&merged);
    return s;
}

fh1_status edge_folds(edge_run *r)
{
    char spec[1024]; /* not the theta that llama.cpp takes where it is told none */
    snprintf(spec, sizeof spec, "%s,theta=1e11", edge_model_text(0));
    return edge_on_model(r, spec, fold_steps, NULL);
}

/* ---- D-100 ---- */

static fh1_status write_again(const edge_run *r, const char *from, const char *to, const char *kind)
{
    char a[EDGE_PATH], b[EDGE_PATH];
    cvt_ckpt *c;
    FH1_TRY(cvt_ckpt_open(edge_path(r, from, a), &c));
    const char *target = edge_path(r, to, b);
    const cvt_write_options once = {.force = false};
    fh1_status s = strcmp(kind, "native") == 0 ? cvt_native_write(c, target, &once)
                   : strcmp(kind, "gguf") == 0 ? cvt_gguf_write(c, target, CVT_GGUF_F32, &once)
                                               : cvt_hf_write(c, target, &once);
    cvt_ckpt_close(c);
    return s;
}

static fh1_status same_file(edge_run *r, const char *a, const char *b)
{
    char x[EDGE_PATH], y[EDGE_PATH], *p, *q;
    size_t n, k;
    FH1_TRY(cvt_file_read(edge_path(r, a, x), (size_t)16 << 20, &p, &n));
    FH1_TRY(cvt_file_read(edge_path(r, b, y), (size_t)16 << 20, &q, &k));
    const bool same = n == k && memcmp(p, q, n) == 0;
    free(p);
    free(q);
    return edge_require(r, same, "%s and %s are not the same bytes", a, b);
}

/* A folder made from a stock file says that it is folded, its multipliers are 1: to fold it again changes nothing. With
 * the multipliers of the original put back it is refused. */
static fh1_status fold_twice(edge_run *r, const fh1_model *m)
{
    char path[EDGE_PATH], *text;
    FH1_TRY(edge_accepted(r, write_again(r, "base", "a.gguf", "gguf"), "the first export"));
    FH1_TRY(edge_refused(r, write_again(r, "a.gguf", "b.gguf", "gguf"), "already", "GGUF to GGUF"));
    FH1_TRY(edge_hide_private(r, "a.gguf"));
    FH1_TRY(edge_refused(r, write_again(r, "a.gguf", "b.gguf", "gguf"), "already", "stock GGUF to GGUF"));
    FH1_TRY(edge_accepted(r, write_again(r, "a.gguf", "folded", "hf"), "a stock file as a folder"));
    FH1_TRY(edge_accepted(r, write_again(r, "folded", "b.gguf", "gguf"), "a folded folder as GGUF"));
    FH1_TRY(edge_hide_private(r, "b.gguf"));
    fh1_model x, y;
    FH1_TRY(edge_accepted(r, cvt_model_open(edge_path(r, "a.gguf", path), &x), "the first file"));
    fh1_status s = edge_accepted(r, cvt_model_open(edge_path(r, "b.gguf", path), &y), "the second file");
    if (!s) s = edge_same_model(r, &x, &y, "folded twice");
    if (!s) fh1_model_free(&y);
    fh1_model_free(&x);
    FH1_TRY(s);
    FH1_TRY(edge_config_text(&m->config, FH1_F32, EDGE_FORM_5, "\"fh1_folded\":true,", &text));
    s = edge_text(r, "folded/config.json", text);
    free(text);
    if (!s) s = edge_refused(r, write_again(r, "folded", "c.gguf", "gguf"), "folded already", "multipliers put back");
    return s;
}

static fh1_status convert_steps(edge_run *r, const fh1_model *m, void *unused)
{
    (void)unused;
    char path[EDGE_PATH];
    FH1_TRY(edge_save(r, m, "base", EDGE_FORM_5));
    FH1_TRY(edge_accepted(r, write_again(r, "base", "a.fh1", "native"), "a container"));
    FH1_TRY(edge_refused(r, write_again(r, "base", "a.fh1", "native"), "exists", "onto a target that is there"));
    FH1_TRY(edge_accepted(r, write_again(r, "a.fh1", "b.fh1", "native"), "a container of a container"));
    FH1_TRY(edge_accepted(r, write_again(r, "b.fh1", "back", "hf"), "a folder of a container of a container"));
    FH1_TRY(same_file(r, "base/model.safetensors", "back/model.safetensors"));
    FH1_TRY(same_file(r, "base/config.json", "back/config.json"));
    FH1_TRY(edge_accepted(r, write_again(r, "back", "again", "hf"), "a folder of a folder"));
    FH1_TRY(same_file(r, "base/model.safetensors", "again/model.safetensors"));
    FH1_TRY(fold_twice(r, m));
    FH1_TRY(edge_check_file(r, edge_path(r, "b.fh1", path), m, 0));
    return edge_check_file(r, edge_path(r, "b.gguf", path), m, EDGE_FOLDED);
}

fh1_status edge_convert_twice(edge_run *r)
{
    return edge_on_model(r, edge_model_text(0), convert_steps, NULL);
}
