#include "tests/edge/edge_store.h"

#include "convert/file.h"
#include "convert/hf_config.h"
#include "convert/hf_write.h"
#include "convert/model_open.h"
#include "convert/safetensors.h"
#include "convert/text.h"
#include "golden/calls.h"
#include "golden/record.h"
#include "oracle/compare.h"
#include "oracle/random.h"

#include <math.h>
#include <string.h>
#include <sys/stat.h>

const char *edge_path(const edge_run *r, const char *name, char buf[EDGE_PATH])
{
    snprintf(buf, EDGE_PATH, "%s/%.250s", r->folder, name);
    return buf;
}

fh1_status edge_text(const edge_run *r, const char *name, const char *text)
{
    char path[EDGE_PATH];
    return cvt_file_write(edge_path(r, name, path), text, strlen(text), true);
}

fh1_status edge_accepted(edge_run *r, fh1_status s, const char *what)
{
    char line[400];
    if (s) fh1_status_line(s, line, sizeof line);
    return edge_require(r, s == NULL, "%s is refused: %s", what, s ? line : "");
}

fh1_status edge_refused(edge_run *r, fh1_status s, const char *word, const char *what)
{
    char line[800] = "it is accepted";
    const fh1_code code = s ? s->code : FH1_OK;
    if (s) fh1_status_line(s, line, sizeof line);
    return edge_require(r, code == FH1_E_INPUT && strstr(line, word), "%s: \"%s\" expected, but %.250s", what, word,
                        line);
}

/* ---- config.json ---- */

static void add_bool(cvt_text *b, const char *key, bool v)
{
    cvt_text_add(b, "\"%s\":%s,", key, v ? "true" : "false");
}

static void add_sizes(cvt_text *b, const fh1_config *c)
{
    const struct {
        const char *key;
        int64_t v;
    } sizes[] = {{"hidden_size", c->D},
                 {"num_hidden_layers", c->n_layers},
                 {"vocab_size", c->V},
                 {"intermediate_size", c->F},
                 {"num_attention_heads", c->Hq},
                 {"num_key_value_heads", c->Hkv},
                 {"head_dim", c->A},
                 {"mamba_d_ssm", c->d_ssm},
                 {"mamba_n_heads", c->H},
                 {"mamba_d_head", c->P},
                 {"mamba_n_groups", c->G},
                 {"mamba_d_state", c->N},
                 {"mamba_d_conv", c->K},
                 {"mamba_chunk_size", c->Q},
                 {"max_position_embeddings", c->rope.max_position ? c->rope.max_position : 4096}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; ++i)
        cvt_text_add(b, "\"%s\":%lld,", sizes[i].key, (long long)sizes[i].v);
}

static void add_switches(cvt_text *b, const fh1_config *c)
{
    add_bool(b, "attention_bias", c->attention_bias);
    add_bool(b, "mlp_bias", c->mlp_bias);
    add_bool(b, "projectors_bias", c->projectors_bias);
    add_bool(b, "tie_word_embeddings", c->tied);
    add_bool(b, "mamba_conv_bias", c->mamba_conv_bias);
    add_bool(b, "mamba_proj_bias", c->mamba_proj_bias);
    add_bool(b, "mamba_rms_norm", c->mamba_rms_norm);
    add_bool(b, "mamba_norm_before_gate", c->norm_before_gate);
}

static void add_multipliers(cvt_text *b, const fh1_config *c)
{
    cvt_text_add(b, "\"embedding_multiplier\":%.17g,\"lm_head_multiplier\":%.17g,\"key_multiplier\":%.17g,", c->m_emb,
                 c->m_lm, c->m_key);
    cvt_text_add(b, "\"attention_in_multiplier\":%.17g,\"attention_out_multiplier\":%.17g,", c->m_attn_in,
                 c->m_attn_out);
    cvt_text_add(b, "\"ssm_in_multiplier\":%.17g,\"ssm_out_multiplier\":%.17g,", c->m_ssm_in, c->m_ssm_out);
    cvt_text_add(b, "\"ssm_multipliers\":[%.17g,%.17g,%.17g,%.17g,%.17g],", c->m_ssm[0], c->m_ssm[1], c->m_ssm[2],
                 c->m_ssm[3], c->m_ssm[4]);
    cvt_text_add(b, "\"mlp_multipliers\":[%.17g,%.17g],", c->m_gate, c->m_down);
}

fh1_status edge_config_text(const fh1_config *c, fh1_dtype dtype, edge_form form, const char *more, char **out)
{
    cvt_text b = {0};
    cvt_text_add(&b, "{\"model_type\":\"falcon_h1\",\"hidden_act\":\"silu\",%s", more);
    add_sizes(&b, c);
    add_switches(&b, c);
    add_multipliers(&b, c);
    if (c->dt_lo > 0 || isfinite(c->dt_hi)) cvt_text_add(&b, "\"time_step_limit\":[%.17g,%.17g],", c->dt_lo, c->dt_hi);
    if (form != EDGE_FORM_5) cvt_text_add(&b, "\"rope_scaling\":null,\"rope_theta\":%.17g,", c->rope.theta);
    if (form != EDGE_FORM_4)
        cvt_text_add(&b, "\"rope_parameters\":{\"rope_theta\":%.17g,\"rope_type\":\"default\"},", c->rope.theta);
    cvt_text_add(&b, "\"%s\":\"%s\",", form == EDGE_FORM_4 ? "torch_dtype" : "dtype", cvt_hf_dtype_name(dtype));
    cvt_text_add(&b, "\"rms_norm_eps\":%.17g}\n", c->eps);
    *out = b.s;
    return b.failed ? fh1_no_memory(b.n, "a config") : NULL;
}

/* ---- models ---- */

static fh1_status put_all(const fh1_model *m, cvt_st_writer *w)
{
    FH1_TRY(cvt_st_writer_meta(w, "format", "pt"));
    for (int64_t i = 0; i < m->n_weights; ++i)
        FH1_TRY(cvt_st_writer_declare(w, m->weights[i].name, m->weights[i].t.dtype, m->weights[i].t.rank,
                                      m->weights[i].t.shape));
    for (int64_t i = 0; i < m->n_weights; ++i)
        FH1_TRY(cvt_st_writer_put(w, m->weights[i].name, 0, m->weights[i].t.data, fh1_n_elems(&m->weights[i].t)));
    return cvt_st_writer_commit(w);
}

fh1_status edge_save_weights(const edge_run *r, const fh1_model *m, const char *path)
{
    char full[EDGE_PATH];
    cvt_st_writer *w;
    FH1_TRY(cvt_st_writer_new(edge_path(r, path, full), true, &w));
    fh1_status s = put_all(m, w);
    cvt_st_writer_free(w);
    return s;
}

fh1_status edge_save(edge_run *r, const fh1_model *m, const char *name, edge_form form)
{
    char path[EDGE_PATH], file[250], *text;
    mkdir(edge_path(r, name, path), 0777);
    FH1_TRY(edge_config_text(&m->config, m->embed.dtype, form, "", &text));
    snprintf(file, sizeof file, "%.200s/config.json", name);
    fh1_status s = edge_text(r, file, text);
    free(text);
    snprintf(file, sizeof file, "%.200s/model.safetensors", name);
    return s ? s : edge_accepted(r, edge_save_weights(r, m, file), "writing a model");
}

fh1_status edge_same_model(edge_run *r, const fh1_model *a, const fh1_model *b, const char *what)
{
    FH1_TRY(edge_require(r, a->n_weights == b->n_weights, "%s: %d tensors, not %d", what, (int)b->n_weights,
                         (int)a->n_weights));
    for (int64_t i = 0; i < a->n_weights; ++i) {
        const fh1_tensor *x = &a->weights[i].t, *y = &b->weights[i].t;
        const bool same = strcmp(a->weights[i].name, b->weights[i].name) == 0 && x->dtype == y->dtype &&
                          fh1_same_shape(x, y) && memcmp(x->data, y->data, fh1_n_bytes(x)) == 0;
        FH1_TRY(edge_require(r, same, "%s: %s is another tensor", what, a->weights[i].name));
    }
    char *p, *q;
    FH1_TRY(edge_config_text(&a->config, FH1_F32, EDGE_FORM_5, "", &p));
    FH1_TRY(edge_config_text(&b->config, FH1_F32, EDGE_FORM_5, "", &q));
    const bool same = strcmp(p, q) == 0;
    int at = 0;
    while (!same && p[at] == q[at]) ++at;
    fh1_status s = edge_require(r, same, "%s: the configs differ: …%.60s", what, q + (at > 30 ? at - 30 : 0));
    free(p);
    free(q);
    return s;
}

static fh1_status logits_of(edge_run *r, const fh1_model *m, const gld_trace *like, gld_trace *out)
{
    fh1_engine *truth;
    const gld_record_options o = {.taps = "logits", .no_cache_taps = true, .store = FH1_F64};
    FH1_TRY(edge_truth(r, &truth));
    FH1_TRY(fh1_engine_open(truth, m));
    return gld_record_like(truth, m, like, &o, out);
}

static double distance(const gld_trace *a, const gld_trace *b)
{
    fh1_rms all = {0};
    for (int64_t j = 0; j < a->n_steps; ++j) {
        const gld_tap *x = gld_trace_find(a, j, FH1_TAP_LOGITS, 0), *y = gld_trace_find(b, j, FH1_TAP_LOGITS, 0);
        if (!x || !y || !fh1_same_shape(&x->t, &y->t)) return (double)INFINITY;
        for (int64_t i = 0; i < fh1_n_elems(&x->t); ++i) {
            const double p = fh1_get(&x->t, i), q = fh1_get(&y->t, i);
            fh1_rms_add(&all, fh1_error_of(q, p), p, i);
        }
    }
    return all.max_err / fh1_rms_ref(&all);
}

fh1_status edge_distance(edge_run *r, const fh1_model *a, const fh1_model *b, double *out)
{
    gld_calls *calls = malloc(sizeof *calls);
    gld_trace inputs = {0}, x = {0}, y = {0};
    if (!calls) return fh1_no_memory(sizeof *calls, "a schedule");
    fh1_status s = gld_calls_parse("p7x2l:0,2;d2", calls);
    if (!s) s = gld_calls_trace(calls, a->config.V, r->seed, &inputs);
    if (!s) s = logits_of(r, a, &inputs, &x);
    if (!s) s = logits_of(r, b, &inputs, &y);
    if (!s) *out = distance(&x, &y);
    gld_trace_free(&y);
    gld_trace_free(&x);
    gld_trace_free(&inputs);
    free(calls);
    return s;
}

fh1_status edge_check_short(edge_run *r, const fh1_model *m)
{
    return edge_check(r, m, r->bit & (EDGE_CUDA_HOST | EDGE_CUDA) ? "p5x2l:0,2;d1" : "p11x3l:0,4,1;d2;c3", r->seed);
}

fh1_status edge_check_file(edge_run *r, const char *path, const fh1_model *like, double most)
{
    fh1_model m;
    double d = 0;
    FH1_TRY(edge_accepted(r, cvt_model_open(path, &m), path));
    fh1_status s = like ? edge_distance(r, like, &m, &d) : NULL;
    if (!s && like)
        s = edge_require(r, fh1_within(d, most), "%s computes something else: logits are off by %.3g, %.3g allowed",
                         path, d, most);
    if (!s) s = edge_check_short(r, &m);
    edge_contract(r, r->profile); /* the engines may hold on to the model */
    fh1_model_free(&m);
    return s;
}

/* ---- adapters ---- */

static fh1_status put_adapter(const edge_run *r, const edge_adapter_tensor *t, cvt_st_writer *w)
{
    char name[256];
    for (const edge_adapter_tensor *e = t; e->name; ++e) {
        snprintf(name, sizeof name, "base_model.model.%s", e->name);
        FH1_TRY(cvt_st_writer_declare(w, name, FH1_F32, e->n1 ? 2 : 1, (int64_t[]){e->n0, e->n1}));
    }
    for (const edge_adapter_tensor *e = t; e->name; ++e) {
        const int64_t n = e->n0 * (e->n1 ? e->n1 : 1);
        const fh1_stream stream = fh1_stream_open(r->seed, e->name);
        float *v = malloc((size_t)n * sizeof *v);
        if (!v) return fh1_no_memory((size_t)n * sizeof *v, "an adapter");
        for (int64_t i = 0; i < n; ++i) v[i] = (float)(e->scale * fh1_random_normal(stream, (uint64_t)i));
        snprintf(name, sizeof name, "base_model.model.%s", e->name);
        fh1_status s = cvt_st_writer_put(w, name, 0, v, n);
        free(v);
        FH1_TRY(s);
    }
    return cvt_st_writer_commit(w);
}

fh1_status edge_save_adapter(const edge_run *r, const char *name, const char *members, const edge_adapter_tensor *t)
{
    char path[EDGE_PATH], file[250], text[2048];
    cvt_st_writer *w;
    mkdir(edge_path(r, name, path), 0777);
    snprintf(text, sizeof text, "{\"peft_type\":\"LORA\",%s}", members);
    snprintf(file, sizeof file, "%.200s/adapter_config.json", name);
    FH1_TRY(edge_text(r, file, text));
    snprintf(path, sizeof path, "%s/%.200s/adapter_model.safetensors", r->folder, name);
    FH1_TRY(cvt_st_writer_new(path, true, &w));
    fh1_status s = put_adapter(r, t, w);
    cvt_st_writer_free(w);
    return s;
}

fh1_status edge_merge(const edge_run *r, const char *base, const char *adapter, const char *out, cvt_rounding rounding)
{
    char path[EDGE_PATH];
    cvt_ckpt *below, *merged;
    cvt_adapter a;
    const cvt_write_options write = {.force = true};
    const cvt_merge_options o = {.rounding = rounding};
    FH1_TRY(cvt_ckpt_open(base, &below));
    fh1_status s = cvt_adapter_open(adapter, NULL, below, &a);
    if (s) {
        cvt_ckpt_close(below);
        return s;
    }
    s = cvt_ckpt_merge(below, &(cvt_merge_part){&a, 1}, 1, &o, &merged);
    if (!s) {
        s = cvt_hf_write(merged, edge_path(r, out, path), &write);
        cvt_ckpt_close(merged);
    }
    cvt_adapter_free(&a);
    return s;
}
