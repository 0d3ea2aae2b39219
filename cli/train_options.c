#include "cli/train_options.h"

#include "cli/commands.h"
#include "cli/train_numbers.h"
#include "convert/file.h"
#include "convert/hash.h"
#include "convert/text.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

const char cli_train_help[] =
    "usage: fh1 train MODEL --data FILE --steps N --lr X -o OUT [options]\n\n"
    "Trains MODEL on FILE with AdamW and writes a model folder, or trains a LoRA adapter and writes a PEFT folder. "
    "Every\n"
    "number depends on the options alone: the same command writes the same bytes, resumed or not "
    "(docs/training.md).\n\n"
    "  --data FILE         text: one document per line, token ids separated by blanks; packed into rows, the loss "
    "never\n"
    "                      crosses documents\n"
    "  --steps N           until step N is done\n"
    "  --lr X              learning rate\n"
    "  -o, --out OUT       folder that is written whole or not at all; --force replaces one\n"
    "what is trained (default: every weight)\n"
    "  --lora R,ALPHA,TARGETS  a new adapter on modules such as in_proj+q_proj+v_proj; --rslora scales by "
    "ALPHA/sqrt(R)\n"
    "  --adapter DIR       go on with this adapter\n"
    "  --train GLOBS, --freeze GLOBS  only these weights, all but these: '*norm*,*.A_log'\n"
    "  --engine E          ref-f32 (default), ref-f64, ref-bf16, cuda, cuda-host (slow)\n"
    "a step\n"
    "  --batch B           rows (default 1) of --seq-len T columns (default 512)\n"
    "  --accumulate K      K batches per step (default 1): exactly a batch of K·B rows\n"
    "  --shuffle S         each epoch in an order drawn from S (default: the file's order)\n"
    "  --recompute         keep only the layers' inputs and compute layers twice: less memory, the same bits\n"
    "AdamW\n"
    "  --betas B1,B2 (0.9,0.999)  --eps E (1e-8)  --weight-decay D (0.01)\n"
    "  --decay all|hf      decay all tensors (default), or as transformers' Trainer all but biases and norms\n"
    "  --clip NORM         of all gradients together (default 1; 0: off)\n"
    "  --schedule S        constant (default), linear, cosine, inverse-power[:P] (P 0.25), after --warmup N steps, "
    "down\n"
    "                      to --min-lr X (0)\n"
    "  --mup FILE          factors on learning rate and decay per kind of tensor (JSON)\n"
    "  --seed N            of a new adapter (default 1)\n"
    "the run\n"
    "  --save-every N      OUT.ckpt every N steps and at the end; --resume goes on from it to the same bits\n"
    "  --json              one JSON line per step and a summary; --quiet: nothing on the way\n\n"
    "exit codes: 0 good, 1 loss or gradients are not finite, 2 refused, 3 internal error\n\n"
    "example: seq -s ' ' 3 40 > ids.txt && fh1 train golden/models/mini-0.5b --data ids.txt --steps 5 --lr 1e-3 -o "
    "/tmp/trained\n";

static fh1_status missing(const char *option, const char *what)
{
    return fh1_hint(FH1_BAD("--%s is missing: %s", option, what), "see fh1 train --help");
}

static fh1_status check_kind(const cli_train_options *o)
{
    if (o->lora_text && o->adapter)
        return fh1_hint(FH1_BAD("--lora makes a new adapter, --adapter goes on with one"), "choose one of them");
    if (o->rslora && !o->lora_text) return FH1_BAD("--rslora belongs to --lora");
    if ((o->train.n || o->freeze.n) && cli_trains_adapter(o))
        return fh1_hint(FH1_BAD("an adapter is trained on a frozen model: --train and --freeze have no meaning"),
                        "leave them out, or train weights in full without an adapter");
    if (strcmp(o->decay_rule, "all") != 0 && strcmp(o->decay_rule, "hf") != 0)
        return fh1_found(fh1_expected(FH1_BAD("--decay: unknown rule"), "all or hf"), "'%s'", o->decay_rule);
    if (cvt_has_suffix(o->out, ".gguf") || cvt_has_suffix(o->out, ".fh1"))
        return fh1_hint(FH1_BAD("-o names a folder, and this is the name of a file"),
                        "train into a folder, then fh1 convert it");
    return NULL;
}

#define MOST_TOKENS (1 << 26) /* of one batch: its ids and masks alone are 3 GiB */

static fh1_status understand(cli_train_options *o)
{
    double betas[2] = {0.9, 0.999};
    if (!o->data) return missing("data", "the documents to train on");
    if (o->steps == 0) return missing("steps", "how many");
    if (!o->lr_text) return missing("lr", "the learning rate");
    if (!o->out) return missing("out", "where to write");
    FH1_TRY(check_kind(o));
    if (o->batch > MOST_TOKENS / o->T)
        return fh1_hint(fh1_found(fh1_expected(FH1_BAD("--batch rows of --seq-len columns are too many at once"),
                                               "%d tokens at most", MOST_TOKENS),
                                  "%" PRId64 " x %" PRId64, o->batch, o->T),
                        "--accumulate takes several batches into a step");
    o->decay_all = strcmp(o->decay_rule, "all") == 0;
    FH1_TRY(cli_read_number("--lr", o->lr_text, 0, 1e6, &o->schedule.lr));
    FH1_TRY(cli_read_number("--min-lr", o->min_lr_text, 0, 1e6, &o->schedule.min));
    FH1_TRY(cli_read_pair("--betas", o->betas_text, 0, 1 - 1e-12, betas));
    FH1_TRY(cli_read_number("--eps", o->eps_text, 0, 1, &o->adamw.eps));
    FH1_TRY(cli_read_number("--weight-decay", o->decay_text, 0, 1e6, &o->adamw.decay));
    FH1_TRY(cli_read_number("--clip", o->clip_text, 0, 1e30, &o->clip));
    FH1_TRY(cli_schedule_parse(o->schedule_text, &o->schedule));
    o->schedule.steps = o->steps;
    o->schedule.warmup = o->warmup;
    FH1_TRY(cli_schedule_check(&o->schedule));
    o->adamw.beta1 = betas[0];
    o->adamw.beta2 = betas[1];
    if (o->lora_text) FH1_TRY(cli_lora_parse(o->lora_text, &o->lora));
    o->lora.rslora = o->rslora;
    FH1_TRY(cli_engine_known(o->engine));
    return o->mup ? cli_groups_read(o->mup, &o->groups) : NULL;
}

fh1_status cli_train_options_read(int argc, char **argv, cli_train_options *o, cli_list *words, bool *done)
{
    *o = (cli_train_options){.engine = "ref-f32",
                             .decay_rule = "all",
                             .betas_text = "0.9,0.999",
                             .eps_text = "1e-8",
                             .decay_text = "0.01",
                             .clip_text = "1",
                             .schedule_text = "constant",
                             .min_lr_text = "0",
                             .batch = 1,
                             .T = 512,
                             .accumulate = 1,
                             .seed = 1,
                             .shuffle = -1};
    const cli_option options[] = {
        {"data", 0, CLI_TEXT, &o->data, 0, 0},
        {"steps", 0, CLI_INT, &o->steps, 1, INT64_C(1) << 40},
        {"lr", 0, CLI_TEXT, &o->lr_text, 0, 0},
        {"out", 'o', CLI_TEXT, &o->out, 0, 0},
        {"lora", 0, CLI_TEXT, &o->lora_text, 0, 0},
        {"rslora", 0, CLI_FLAG, &o->rslora, 0, 0},
        {"adapter", 0, CLI_TEXT, &o->adapter, 0, 0},
        {"train", 0, CLI_LIST, &o->train, 0, 0},
        {"freeze", 0, CLI_LIST, &o->freeze, 0, 0},
        {"engine", 0, CLI_TEXT, &o->engine, 0, 0},
        {"batch", 0, CLI_INT, &o->batch, 1, 1 << 20},
        {"seq-len", 0, CLI_INT, &o->T, 2, 1 << 24},
        {"accumulate", 0, CLI_INT, &o->accumulate, 1, 1 << 16},
        {"shuffle", 0, CLI_INT, &o->shuffle, 0, INT64_MAX},
        {"recompute", 0, CLI_FLAG, &o->recompute, 0, 0},
        {"betas", 0, CLI_TEXT, &o->betas_text, 0, 0},
        {"eps", 0, CLI_TEXT, &o->eps_text, 0, 0},
        {"weight-decay", 0, CLI_TEXT, &o->decay_text, 0, 0},
        {"decay", 0, CLI_TEXT, &o->decay_rule, 0, 0},
        {"clip", 0, CLI_TEXT, &o->clip_text, 0, 0},
        {"schedule", 0, CLI_TEXT, &o->schedule_text, 0, 0},
        {"warmup", 0, CLI_INT, &o->warmup, 0, INT64_C(1) << 40},
        {"min-lr", 0, CLI_TEXT, &o->min_lr_text, 0, 0},
        {"mup", 0, CLI_TEXT, &o->mup, 0, 0},
        {"seed", 0, CLI_INT, &o->seed, 0, INT64_MAX},
        {"save-every", 0, CLI_INT, &o->save_every, 1, INT64_C(1) << 40},
        {"resume", 0, CLI_FLAG, &o->resume, 0, 0},
        {"json", 0, CLI_FLAG, &o->json, 0, 0},
        {"force", 0, CLI_FLAG, &o->force, 0, 0},
        {"quiet", 'q', CLI_FLAG, &o->quiet, 0, 0},
    };
    const cli_syntax syntax = {"train", cli_train_help, options, sizeof options / sizeof *options, 1, 1, "MODEL"};
    FH1_TRY(cli_parse(&syntax, argc, argv, words, done));
    if (*done) return NULL;
    o->model = words->items[0];
    return understand(o);
}

void cli_train_options_free(cli_train_options *o)
{
    cli_list_free(&o->train);
    cli_list_free(&o->freeze);
    cli_groups_free(&o->groups);
}

bool cli_trains_adapter(const cli_train_options *o)
{
    return o->lora_text || o->adapter;
}

cli_globs cli_train_globs(const cli_train_options *o)
{
    return (cli_globs){o->train.items, o->train.n};
}

cli_globs cli_freeze_globs(const cli_train_options *o)
{
    return (cli_globs){o->freeze.items, o->freeze.n};
}

/* The words with commas between; what is long is told by its hash besides. */
static void add_words(cli_conditions *c, const char *name, const char *const *items, int n)
{
    cvt_text t = {0};
    for (int i = 0; i < n; i++) cvt_text_add(&t, "%s%s", i ? "," : "", items[i]);
    const char *text = t.s ? t.s : "none";
    if (t.n > 200) cli_condition_add(c, name, "%.160s… %016" PRIx64, text, cvt_hash64(t.s, t.n));
    else cli_condition_add(c, name, "%s", text);
    free(t.s);
}

void cli_train_conditions(const cli_train_options *o, cli_conditions *c)
{
    const cli_schedule *s = &o->schedule;
    cli_condition_add(c, "--engine", "%s", o->engine);
    cli_condition_add(c, "--lr", "%.17g", s->lr);
    cli_condition_add(c, "--schedule", "%s", o->schedule_text);
    cli_condition_add(c, "--warmup", "%" PRId64, s->warmup);
    cli_condition_add(c, "--min-lr", "%.17g", s->min);
    if (cli_schedule_needs_steps(s)) cli_condition_add(c, "--steps", "%" PRId64, s->steps);
    cli_condition_add(c, "--batch", "%" PRId64, o->batch);
    cli_condition_add(c, "--seq-len", "%" PRId64, o->T);
    cli_condition_add(c, "--accumulate", "%" PRId64, o->accumulate);
    if (o->shuffle < 0) cli_condition_add(c, "--shuffle", "none");
    else cli_condition_add(c, "--shuffle", "%" PRId64, o->shuffle);
    cli_condition_add(c, "--betas", "%.17g,%.17g", o->adamw.beta1, o->adamw.beta2);
    cli_condition_add(c, "--eps", "%.17g", o->adamw.eps);
    cli_condition_add(c, "--weight-decay", "%.17g", o->adamw.decay);
    cli_condition_add(c, "--decay", "%s", o->decay_rule);
    cli_condition_add(c, "--clip", "%.17g", o->clip);
    cli_condition_add(c, "--mup", "%s", o->mup ? o->groups.hash : "none");
    add_words(c, "--lora", &o->lora_text, o->lora_text != NULL);
    cli_condition_add(c, "--rslora", "%s", o->rslora ? "yes" : "no");
    if (o->lora_text) cli_condition_add(c, "--seed", "%" PRId64, o->seed);
    add_words(c, "--train", o->train.items, o->train.n);
    add_words(c, "--freeze", o->freeze.items, o->freeze.n);
}
