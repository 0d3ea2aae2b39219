#include "cli/train_adapter.h"

#include "convert/adapter.h"
#include "convert/file.h"
#include "convert/text.h"

#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#define CONFIG "adapter_config.json"
#define WEIGHTS "adapter_model.safetensors"
enum { PIECE = 1 << 14 }; /* numbers converted at a time */

/* Keys in the order that PEFT writes them in; the values of plain LoRA. */
static const struct {
    const char *key, *value; /* NULL: filled in below */
} fields[] = {
    {"alora_invocation_tokens", "null"},
    {"alpha_pattern", "{}"},
    {"arrow_config", "null"},
    {"auto_mapping", "null"},
    {"base_model_name_or_path", NULL},
    {"bias", "\"none\""},
    {"corda_config", "null"},
    {"ensure_weight_tying", "false"},
    {"eva_config", "null"},
    {"exclude_modules", "null"},
    {"fan_in_fan_out", "false"},
    {"inference_mode", "true"},
    {"init_lora_weights", "true"},
    {"kasa_config", "null"},
    {"layer_replication", "null"},
    {"layers_pattern", "null"},
    {"layers_to_transform", "null"},
    {"loftq_config", "{}"},
    {"lora_alpha", NULL},
    {"lora_bias", "false"},
    {"lora_dropout", "0.0"},
    {"lora_ga_config", "null"},
    {"megatron_config", "null"},
    {"megatron_core", "\"megatron.core\""},
    {"modules_to_save", "null"},
    {"monteclora_config", "null"},
    {"peft_type", "\"LORA\""},
    {"peft_version", "\"0.21.2\""},
    {"qalora_group_size", "16"},
    {"r", NULL},
    {"rank_pattern", "{}"},
    {"revision", "null"},
    {"target_modules", NULL},
    {"target_parameters", "null"},
    {"task_type", "\"CAUSAL_LM\""},
    {"trainable_token_indices", "null"},
    {"use_bdlora", "null"},
    {"use_dora", "false"},
    {"use_qalora", "false"},
    {"use_rslora", NULL},
    {"velora_config", "null"},
};
enum { N_FIELDS = sizeof fields / sizeof *fields };

static int by_text(const void *a, const void *b)
{
    return strcmp(a, b);
}

static void add_targets(cvt_text *t, const cli_lora_spec *spec)
{
    cli_lora_spec sorted = *spec;
    qsort(sorted.targets, (size_t)sorted.n, sizeof sorted.targets[0], by_text);
    cvt_text_add(t, "[");
    for (int i = 0; i < sorted.n; i++) cvt_text_add(t, "%s\n    \"%s\"", i ? "," : "", sorted.targets[i]);
    cvt_text_add(t, "\n  ]");
}

static void add_value(cvt_text *t, const char *key, const cli_lora_spec *spec, const char *base)
{
    if (strcmp(key, "base_model_name_or_path") == 0) cvt_text_json(t, base, true);
    else if (strcmp(key, "r") == 0) cvt_text_add(t, "%" PRId64, spec->r);
    else if (strcmp(key, "use_rslora") == 0) cvt_text_add(t, spec->rslora ? "true" : "false");
    else if (strcmp(key, "target_modules") == 0) add_targets(t, spec);
    else cvt_text_add(t, "%.17g", spec->alpha);
}

fh1_status cli_adapter_config(const cli_lora_spec *spec, const char *base, char **text, size_t *n)
{
    cvt_text t = {0};
    for (int i = 0; i < N_FIELDS; i++) {
        cvt_text_add(&t, "%s\n  \"%s\": ", i ? "," : "{", fields[i].key);
        if (fields[i].value) cvt_text_add(&t, "%s", fields[i].value);
        else add_value(&t, fields[i].key, spec, base);
    }
    cvt_text_add(&t, "\n}\n");
    *text = t.s;
    *n = t.n;
    if (!t.failed) return NULL;
    free(t.s);
    *text = NULL;
    return fh1_no_memory(t.n, CONFIG);
}

static fh1_status put_tensor(cvt_st_writer *w, const fh1_param *p, const void *value, fh1_dtype dtype)
{
    float piece[PIECE];
    const int64_t n = fh1_n_elems(p->value);
    const size_t width = (size_t)fh1_dtype_bits(dtype) / 8;
    for (int64_t at = 0; at < n; at += PIECE) {
        const int64_t some = n - at < PIECE ? n - at : PIECE;
        fh1_to_f32(piece, (const char *)value + (size_t)at * width, dtype, some);
        FH1_TRY(cvt_st_writer_put(w, p->name, at, piece, some));
    }
    return NULL;
}

static fh1_status write_weights(const char *dir, const fh1_grads *params, const void *const *values)
{
    char path[PATH_MAX];
    cvt_st_writer *w;
    FH1_TRY(cvt_path_join(path, sizeof path, dir, WEIGHTS));
    FH1_TRY(cvt_st_writer_new(path, false, &w));
    fh1_status s = cvt_st_writer_meta(w, "format", "pt");
    for (int64_t i = 0; i < params->n && !s; i++) {
        const fh1_param *p = &params->params[i];
        if (p->adapter) s = cvt_st_writer_declare(w, p->name, FH1_F32, p->value->rank, p->value->shape);
    }
    for (int64_t i = 0; i < params->n && !s; i++) {
        const fh1_param *p = &params->params[i];
        if (!p->adapter) continue;
        s = values[i] ? put_tensor(w, p, values[i], params->dtype) : put_tensor(w, p, p->value->data, p->value->dtype);
    }
    if (!s) s = cvt_st_writer_commit(w);
    cvt_st_writer_free(w);
    return s;
}

/* What merge and PEFT will do with the folder first. */
static fh1_status prove(const char *dir, cvt_ckpt *base)
{
    cvt_adapter a;
    fh1_status s = cvt_adapter_open(dir, NULL, base, &a);
    if (!s) cvt_adapter_free(&a);
    return s ? fh1_hint(s, "the trained adapter is not one that can be opened again: this is a bug of fh1") : NULL;
}

fh1_status cli_adapter_save(const char *out, bool force, const char *config, size_t n_config, const fh1_grads *params,
                            const void *const *values, cvt_ckpt *base)
{
    cvt_target t;
    char path[PATH_MAX];
    fh1_status s = cvt_target_begin(out, true, force, &t);
    if (!s) s = cvt_path_join(path, sizeof path, t.temp, CONFIG);
    if (!s) s = cvt_file_write(path, config, n_config, false);
    if (!s) s = write_weights(t.temp, params, values);
    if (!s) s = prove(t.temp, base);
    if (!s) s = cvt_target_commit(&t);
    cvt_target_free(&t);
    return s;
}
