/* What the checker says: one line per pair of places, and the program's exit code. */
#include "cuda/host/check.h"

#include <link.h>
#include <set>
#include <string>
#include <unistd.h>

namespace cu_host
{
namespace sim
{

enum : uint32_t { SITES = 0xf0000000 }; /* from here on pcs are numbers of `sites` */
enum { MOST_LINES = 40 };

bool strict = getenv("FH1_CUDA_CHECK_STRICT") && !strcmp(getenv("FH1_CUDA_CHECK_STRICT"), "1");
static const char *kernel = "?";
static unsigned long mistakes, warnings;

void set_kernel(const char *name)
{
    kernel = name;
}
const char *kernel_name()
{
    return kernel;
}

static uintptr_t program_base()
{
    uintptr_t base = 0;
    dl_iterate_phdr(
        [](dl_phdr_info *i, size_t, void *p) {
            *static_cast<uintptr_t *>(p) = i->dlpi_addr;
            return 1;
        },
        &base);
    return base;
}

uint32_t relative_pc(const void *return_address)
{
    static const uintptr_t base = program_base();
    return static_cast<uint32_t>(reinterpret_cast<uintptr_t>(return_address) - base);
}

static std::vector<Site> &sites()
{
    static std::vector<Site> s;
    return s;
}

uint32_t pc_of_site(Site s)
{
    std::vector<Site> &all = sites();
    for (size_t i = all.size(); i-- > 0;)
        if (all[i].line == s.line && all[i].file == s.file) return SITES + static_cast<uint32_t>(i);
    all.push_back(s);
    return SITES + static_cast<uint32_t>(all.size() - 1);
}

static std::unordered_map<uint32_t, std::string> &lines()
{
    static std::unordered_map<uint32_t, std::string> l;
    return l;
}

static const char *file_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* Frames of what kernels are written in are of no interest: the innermost one outside of it. */
static bool is_language(const char *path)
{
    return strstr(path, "/cuda/host/") || strstr(path, "_ops.h") || strstr(path, "/gpu.h") ||
           strstr(path, "/vec16.h") || strstr(path, "/include/c++/");
}

static std::set<uint32_t> &copies()
{
    static std::set<uint32_t> c;
    return c;
}

bool is_copy_async(uint32_t pc)
{
    return copies().count(pc) != 0;
}

/* addr2line prints of each address itself, then of each frame the function and file:line. */
void find_source_lines(const std::vector<uint32_t> &pcs)
{
    std::string command = "addr2line -a -f -i -e /proc/" + std::to_string(getpid()) + "/exe";
    std::vector<uint32_t> asked;
    for (uint32_t pc : pcs) {
        if (lines().count(pc) || pc >= SITES) continue;
        char hex[16];
        snprintf(hex, sizeof hex, " 0x%x", pc - 1);
        command += hex;
        lines()[pc] = "?";
        asked.push_back(pc);
    }
    if (asked.empty()) return;
    FILE *f = popen((command + " 2> /dev/null").c_str(), "r");
    if (!f) return;
    char text[1024];
    size_t at = 0;
    bool found = false;
    for (bool name = false; fgets(text, sizeof text, f); name = !name) {
        text[strcspn(text, " \n")] = 0;
        if (!strncmp(text, "0x", 2)) {
            const uint32_t a = static_cast<uint32_t>(strtoul(text, nullptr, 16)) + 1;
            while (at < asked.size() && asked[at] != a) ++at;
            found = false;
            name = false; /* the loop turns it: the next line is a function */
            continue;
        }
        if (name || at >= asked.size() || found) continue;
        if (strstr(text, "/copy_async.h")) copies().insert(asked[at]);
        std::string &line = lines()[asked[at]];
        if (line == "?" || !is_language(text)) line = file_name(text);
        found = !is_language(text);
    }
    pclose(f);
}

const std::string &source_line(uint32_t pc)
{
    if (pc >= SITES && !lines().count(pc)) {
        const Site s = sites()[pc - SITES];
        lines()[pc] = s.file ? std::string(file_name(s.file)) + ":" + std::to_string(s.line) : "?";
    }
    find_source_lines({pc});
    return lines()[pc];
}

static std::string address_name(const Block *b, uintptr_t a)
{
    char text[256];
    if (b && is_shared(b, a)) {
        const SharedStatic *s = nullptr;
        for (const SharedStatic &v : b->statics)
            if (a >= reinterpret_cast<uintptr_t>(v.p) && (!s || v.p > s->p)) s = &v;
        const uintptr_t from = reinterpret_cast<uintptr_t>(s ? s->p : b->arena);
        snprintf(text, sizeof text, "%s shared%s%s+%zu", s ? "static" : "dynamic", s ? " " : "", s ? s->var->name : "",
                 static_cast<size_t>(a - from));
        return text;
    }
    size_t freed;
    if (was_freed(reinterpret_cast<void *>(a), &freed)) {
        snprintf(text, sizeof text, "freed memory of %zu bytes", freed);
        return text;
    }
    for (const Allocation &x : allocations()) /* just before one? */
        if (!x.pinned && a < x.at && x.at - a < 4096) {
            snprintf(text, sizeof text, "global memory, %zu bytes before an allocation of %zu",
                     static_cast<size_t>(x.at - a), x.n);
            if (!allocation_of(reinterpret_cast<void *>(a))) return text;
        }
    const Allocation *x = allocation_before(reinterpret_cast<void *>(a));
    if (x && !x->pinned && on_device(reinterpret_cast<void *>(a)))
        snprintf(text, sizeof text, "global memory, byte %zu of %zu", static_cast<size_t>(a - x->at), x->n);
    else snprintf(text, sizeof text, "global memory at %p", reinterpret_cast<void *>(a));
    return text;
}

void report(const Finding &f, Verdict v)
{
    static std::set<std::pair<uint32_t, uint32_t>> seen;
    static int printed[2];
    ++(v == MISTAKE ? mistakes : warnings);
    if (!seen.insert({f.pc, f.earlier_pc}).second || printed[v]++ >= MOST_LINES) return;
    const Block *b = cur ? cur->blk : nullptr;
    std::string text = std::string("cu-check: ") + (v == WARNING ? "warning: " : "") + f.what + ": " +
                       address_name(b, f.at) + ", " + kernel;
    if (b) {
        char who[96];
        snprintf(who, sizeof who, " block %u,%u,%u, thread %u", b->id.x, b->id.y, b->id.z, cur->lin);
        text += who;
    }
    text += " at " + source_line(f.pc);
    if (f.earlier) {
        text += std::string("; earlier ") + f.earlier + " at " + source_line(f.earlier_pc);
        text += strcmp(f.earlier, "another block") ? ", no barrier between" : ", blocks are not ordered";
    }
    fprintf(stderr, "%s\n", text.c_str());
}

/* At the end of the program: mistakes overrule whatever it wanted to say. */
static const struct Summary {
    ~Summary()
    {
        if (warnings)
            fprintf(stderr,
                    "cu-check: %lu reads of bytes that nobody wrote (warnings; FH1_CUDA_CHECK_STRICT=1: errors)\n",
                    warnings);
        if (!mistakes) return;
        fprintf(stderr, "cu-check: %lu bad accesses\n", mistakes);
        exit_mistake();
    }
} summary;

} // namespace sim
} // namespace cu_host
