#include "fuzz/slow_index.h"

#include "fuzz/plant.h"

#include <string.h>

static bool rule(bool holds, const char *name)
{
    return holds || fuzz_planted(name);
}

static bool ends(const char *s, const char *end)
{
    return strlen(s) >= strlen(end) && strcmp(s + strlen(s) - strlen(end), end) == 0;
}

/* The rule that a file's name breaks: it must be one of a weight file in this folder and no other. NULL: none. */
static const char *broken(const char *name)
{
    if (strchr(name, '/') || strchr(name, '\\')) return "slash";
    if (name[0] == '.') return "dot";
    if (!ends(name, ".safetensors")) return "suffix";
    return strlen(name) > 255 ? "long" : NULL;
}

static slow_shard *find(slow_shard *shards, int n, const char *name)
{
    for (int i = 0; i < n; i++)
        if (strcmp(shards[i].name, name) == 0) return &shards[i];
    return NULL;
}

static bool has(const slow_safetensors *f, const char *tensor)
{
    for (size_t i = 0; i < f->n; i++)
        if (strcmp(f->tensors[i].name, tensor) == 0) return true;
    return false;
}

/* Each mapped file is a plain name of a file that is there, and sound. */
static bool read_map(const slow_json *map, slow_shard *shards, int n)
{
    for (const slow_json *m = map->first; m; m = m->next) {
        if (!rule(m->kind == SLOW_STRING, "text")) return false;
        if (m->kind != SLOW_STRING) continue;
        if (broken(m->text)) {
            if (!fuzz_planted(broken(m->text))) return false;
            continue;
        }
        slow_shard *s = find(shards, n, m->text);
        if (!rule(s != NULL, "missing")) return false;
        if (s) s->named = true;
    }
    for (int i = 0; i < n; i++) {
        if (!shards[i].named || slow_safetensors_read(shards[i].data, shards[i].size, &shards[i].read)) continue;
        if (!fuzz_planted("shard")) return false;
        shards[i].named = false; /* by the plant alone */
    }
    return true;
}

/* The map and the headers say the same. */
static bool same(const slow_json *map, slow_shard *shards, int n, uint64_t *total)
{
    *total = 0;
    for (int i = 0; i < n; i++) {
        for (size_t k = 0; shards[i].named && k < shards[i].read.n; k++) {
            const slow_tensor *t = &shards[i].read.tensors[k];
            const slow_json *m = slow_json_member(map, t->name);
            *total += (uint64_t)(t->end - t->begin);
            if (!rule(m != NULL, "unmapped")) return false;
            if (m && m->kind == SLOW_STRING && !rule(strcmp(m->text, shards[i].name) == 0, "moved")) return false;
        }
    }
    for (const slow_json *m = map->first; m; m = m->next) {
        slow_shard *s = m->kind == SLOW_STRING ? find(shards, n, m->text) : NULL;
        if (s && s->named && !rule(has(&s->read, m->name), "absent")) return false;
    }
    return true;
}

static bool audit(const slow_json *index, slow_shard *shards, int n)
{
    uint64_t total;
    const slow_json *map = slow_json_member(index, "weight_map");
    if (!rule(map && map->kind == SLOW_OBJECT && map->n > 0, "map")) return false;
    if (!map || map->kind != SLOW_OBJECT) return true; /* by the plant alone */
    if (!read_map(map, shards, n) || !same(map, shards, n, &total)) return false;
    const slow_json *size = slow_json_member(slow_json_member(index, "metadata"), "total_size");
    if (!size) return true;
    if (size->kind != SLOW_NUMBER) return fuzz_planted("total_text");
    return rule(slow_json_double(size) == (double)total, "total");
}

bool slow_index_audit(const char *text, size_t size, slow_shard *shards, int n)
{
    slow_json *index = slow_json_read(text, size, 8);
    const bool good = index && audit(index, shards, n);
    slow_json_free(index);
    return good;
}

void slow_index_free(slow_shard *shards, int n)
{
    for (int i = 0; i < n; i++) {
        slow_safetensors_free(&shards[i].read);
        shards[i].named = false;
    }
}
