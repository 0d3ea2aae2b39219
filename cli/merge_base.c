#include "cli/merge_base.h"

#include "convert/bnb.h"
#include "convert/hf_config.h"

#include <string.h>

fh1_status cli_decode(cvt_ckpt *c, cvt_ckpt **out)
{
    cJSON *json = NULL;
    fh1_dtype dtype = FH1_BF16;
    *out = NULL;
    fh1_status s = cvt_ckpt_config_json(c, &json);
    if (!s) s = cvt_hf_config_dtype_parse(json, c->path, &dtype);
    cJSON_Delete(json);
    if (s) {
        cvt_ckpt_close(c);
        return s;
    }
    return cvt_ckpt_dequantise(c, dtype, out);
}

static fh1_status wants_original(const cli_base_choice *choice, bool *out)
{
    *out = choice->image && strcmp(choice->image, "original") == 0;
    if (!choice->image || *out || strcmp(choice->image, "quantised") == 0) return NULL;
    return fh1_found(fh1_expected(FH1_BAD("--base-image: unknown image"), "quantised or original"), "'%s'",
                     choice->image);
}

static fh1_status check_plain(const cli_base_choice *choice, bool original)
{
    if (choice->image && !original)
        return fh1_hint(fh1_where(FH1_BAD("--base-image quantised: the base is not quantised"), "%s", choice->path),
                        "name the quantised folder as BASE and this one with --original");
    if (choice->original)
        return fh1_hint(fh1_where(FH1_BAD("--original: the base is not quantised"), "%s", choice->path),
                        "name the quantised folder as BASE, or leave the option out");
    return NULL;
}

static fh1_status open_original(const char *path, cvt_ckpt **out)
{
    FH1_TRY(cvt_ckpt_open(path, out));
    bool quantised;
    fh1_status s = cvt_bnb_is(*out, &quantised);
    if (!s && !quantised) return NULL;
    cvt_ckpt_close(*out);
    *out = NULL;
    if (s) return s;
    return fh1_where(FH1_BAD("--original: this model is quantised too"), "%s", path);
}

fh1_status cli_merge_base(const cli_base_choice *choice, cvt_ckpt **base, cvt_ckpt **other, const char **model)
{
    bool original;
    cvt_ckpt *c, *plain = NULL;
    *base = *other = NULL;
    *model = choice->path;
    FH1_TRY(wants_original(choice, &original));
    FH1_TRY(cvt_ckpt_open(choice->path, &c));
    bool quantised;
    fh1_status s = cvt_bnb_is(c, &quantised);
    if (s || !quantised) {
        if (!s) s = check_plain(choice, original);
        if (s) cvt_ckpt_close(c);
        else *base = c;
        return s;
    }
    if (original && !choice->original)
        s = fh1_hint(fh1_where(FH1_BAD("--base-image original: the base is quantised"), "%s", choice->path),
                     "name the model that it was quantised from with --original DIR");
    if (!s && choice->original) s = open_original(choice->original, &plain);
    if (s) {
        cvt_ckpt_close(c);
        return s;
    }
    s = cli_decode(c, original ? other : base);
    if (!s && original) *model = choice->original;
    if (!s) *(original ? base : other) = plain;
    else cvt_ckpt_close(plain);
    return s;
}

fh1_status cli_merge_base_image(const cli_base_choice *choice, cvt_ckpt **out)
{
    bool original;
    cvt_ckpt *c;
    *out = NULL;
    FH1_TRY(wants_original(choice, &original));
    if (original) return NULL;
    FH1_TRY(cvt_ckpt_open(choice->path, &c));
    bool quantised;
    fh1_status s = cvt_bnb_is(c, &quantised);
    if (!s && quantised) return cli_decode(c, out);
    cvt_ckpt_close(c);
    return s;
}
