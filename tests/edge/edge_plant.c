/* Faults of the converters are planted in a second compilation of convert/, which a second program is linked with:
 * edge_cases_planted, made from the same sources. edge_cases itself judges the library's own converters, and starts the
 * second program where one of their faults is to turn a case red. */
#include "tests/edge/edge_impl.h"

#include "convert/fault.h"

#include <string.h>
#include <unistd.h>

static cvt_fault find(const char *name)
{
    static const char *const names[CVT_FAULT_COUNT] = {
        "",
#define CVT_FAULT_LIST(id, name, source, what) name,
#include "convert/fault_list.h"
#undef CVT_FAULT_LIST
    };
    for (int i = 1; name && i < CVT_FAULT_COUNT; ++i)
        if (strcmp(names[i], name) == 0) return (cvt_fault)i;
    return CVT_FAULT_NONE;
}

#ifdef CVT_FAULTY

void edge_plant(const char *name)
{
    cvt_fault_now = find(name);
}

bool edge_planted_elsewhere(const char *name)
{
    (void)name;
    return false;
}

#else

void edge_plant(const char *name)
{
    (void)name;
}

bool edge_planted_elsewhere(const char *name)
{
    return find(name) != CVT_FAULT_NONE;
}

#endif

/* Its one line on the fault says RED or MISSED; what stands before the colon is ours to print again. */
bool edge_run_elsewhere(const char *command, char *line, size_t size)
{
    char self[512], text[2048];
    const ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    bool red = false;
    snprintf(line, size, "edge_cases_planted does not run");
    if (n <= 0) return false;
    self[n] = '\0';
    snprintf(text, sizeof text, "'%s_planted' %s", self, command);
    FILE *out = popen(text, "r");
    while (out && fgets(text, sizeof text, out)) {
        const char *at = strstr(text, " fault     "), *why = at ? strstr(at, ": ") : NULL;
        if (!why) continue;
        red = strncmp(at + strlen(" fault     "), "RED", 3) == 0;
        snprintf(line, size, "%.*s", (int)strcspn(why + 2, "\n"), why + 2);
    }
    return out && pclose(out) == 0 && red;
}
