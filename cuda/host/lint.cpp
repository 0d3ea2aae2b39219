/* FH1_CUDA_LINT=1: what the accesses of block 0 of each launch cost on the device, per source line. Shared memory: how
 * many times the 32 banks of 4 bytes must be asked, 8- and 16-byte accesses half and quarter warps at a time. Global
 * memory: how many sectors of 32 bytes are touched. Printed where it is 5/4 of the ideal or more. Lanes are matched by
 * how often each has come to a place, which is exact where a warp does not diverge. */
#include "cuda/host/check.h"

#include <algorithm>
#include <map>
#include <string>

namespace cu_host
{
namespace sim
{

bool linting = getenv("FH1_CUDA_LINT") && !strcmp(getenv("FH1_CUDA_LINT"), "1");

/* One instruction of one warp. */
struct Instruction {
    uintptr_t at[32];
    uint32_t lanes;
    uint8_t size;
    bool write, shared;
};
enum : uint32_t { MOST_VISITS = 1024 };
static std::unordered_map<uint64_t, std::vector<Instruction>> seen; /* (warp, pc) */
static std::unordered_map<uint64_t, uint32_t> visits;               /* (thread, pc) */

void lint_access(const Thread *t, uintptr_t a, size_t n, bool write, bool shared, uint32_t pc)
{
    if (n > 16) return;
    const uint32_t k = visits[static_cast<uint64_t>(t->lin) << 32 | pc]++;
    if (k >= MOST_VISITS) return;
    std::vector<Instruction> &v = seen[static_cast<uint64_t>(t->warp) << 32 | pc];
    if (v.size() <= k) v.resize(k + 1);
    v[k].at[t->lane] = a;
    v[k].lanes |= 1u << t->lane;
    v[k].size = static_cast<uint8_t>(n);
    v[k].write = write;
    v[k].shared = shared;
}

struct Cost {
    unsigned long count, real, ideal;
    int size;
};

static unsigned different(std::vector<uint64_t> &v)
{
    std::sort(v.begin(), v.end());
    return static_cast<unsigned>(std::unique(v.begin(), v.end()) - v.begin());
}

static void add_shared(Cost &c, const Instruction &x)
{
    const int together = x.size <= 4 ? 32 : x.size == 8 ? 16 : 8;
    for (int g = 0; g < 32; g += together) {
        std::vector<uint64_t> bank[32];
        unsigned worst = 0;
        for (int l = g; l < g + together; ++l)
            for (unsigned o = 0; x.lanes >> l & 1 && o < std::max<unsigned>(x.size, 4); o += 4)
                bank[(x.at[l] + o) / 4 % 32].push_back((x.at[l] + o) / 4);
        for (std::vector<uint64_t> &b : bank) worst = std::max(worst, different(b));
        c.real += worst;
        c.ideal += worst > 0;
    }
}

static void add_global(Cost &c, const Instruction &x)
{
    std::vector<uint64_t> sectors, bytes;
    for (int l = 0; l < 32; ++l)
        for (unsigned o = 0; x.lanes >> l & 1 && o < x.size; ++o) {
            sectors.push_back((x.at[l] + o) / 32);
            bytes.push_back(x.at[l] + o);
        }
    c.real += different(sectors);
    c.ideal += (different(bytes) + 31) / 32;
}

void lint_block_end(const Block *b)
{
    if (b->id.x || b->id.y || b->id.z) return;
    std::map<std::string, Cost> table;
    std::vector<uint32_t> pcs;
    for (const auto &i : seen) pcs.push_back(static_cast<uint32_t>(i.first));
    find_source_lines(pcs);
    for (const auto &i : seen)
        for (const Instruction &x : i.second) {
            if (!x.lanes || (x.size < 16 && is_copy_async(static_cast<uint32_t>(i.first)))) continue; /* zeros, NaN */
            Cost &c = table[source_line(static_cast<uint32_t>(i.first)) + (x.shared ? " shared " : " global ") +
                            (x.write ? "store" : "load")];
            ++c.count;
            c.size = std::max<int>(c.size, x.size);
            if (x.shared) add_shared(c, x);
            else add_global(c, x);
        }
    for (const auto &i : table) {
        const Cost &c = i.second;
        if (c.real * 4 < c.ideal * 5) continue;
        fprintf(stderr, "cu-lint: %-24s %-44s %2d bytes/lane %8lu times %6.2f x the ideal, %s\n", kernel_name(),
                i.first.c_str(), c.size, c.count, static_cast<double>(c.real) / static_cast<double>(c.ideal),
                i.first.find(" shared ") != std::string::npos ? "bank conflicts" : "sectors");
    }
    seen.clear();
    visits.clear();
}

} // namespace sim
} // namespace cu_host
