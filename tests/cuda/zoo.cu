/* zoo list, or zoo NAME honest|planted: runs one animal of the zoo and prints GOOD, BAD (wrong numbers) or REFUSED (a
 * call of the runtime API failed). Reports of tools go to stderr. */
#include "tests/cuda/zoo.h"

using namespace CU_NS;

static const animal *find(const char *name)
{
    for (const auto *house : {&zoo_shared, &zoo_global, &zoo_threads, &zoo_copies, &zoo_hopper, &zoo_host})
        for (const animal &a : *house) {
            if (!name) printf("%s\n", a.name);
            else if (!strcmp(a.name, name)) return &a;
        }
    return nullptr;
}

static int visit(const animal &a, int bug)
{
    std::vector<float> in(T), out(T, -1.f);
    for (int i = 0; i < T; ++i) in[static_cast<size_t>(i)] = static_cast<float>(i * 7 % 17 + 1);
    float *x, *o;
    if (cudaMalloc(&x, T * sizeof *x) || cudaMalloc(&o, T * sizeof *o) ||
        cudaMemcpy(x, in.data(), T * sizeof *x, cudaMemcpyHostToDevice) || cudaMemset(o, 0, T * sizeof *o))
        return 2;
    cage c{o, x, in.data(), bug, {}};
    a.run(&c);
    const cudaError_t e = cudaDeviceSynchronize(), last = cudaGetLastError();
    if (e != cudaSuccess || last != cudaSuccess) {
        printf("REFUSED\n");
        return 1;
    }
    if (c.seen.empty()) {
        if (cudaMemcpy(out.data(), o, T * sizeof *o, cudaMemcpyDeviceToHost)) return 2;
        c.seen = out;
    }
    bool good = true;
    for (int i = 0; i < T; ++i) good = good && c.seen[static_cast<size_t>(i)] == a.want(in.data(), i);
    printf(good ? "GOOD\n" : "BAD\n");
    return !good;
}

int main(int argc, char **argv)
{
    if (argc == 2 && !strcmp(argv[1], "list")) return find(nullptr) != nullptr;
    const animal *a = argc == 3 ? find(argv[1]) : nullptr;
    if (!a || (strcmp(argv[2], "honest") != 0 && strcmp(argv[2], "planted") != 0)) {
        fprintf(stderr, "usage: zoo list, or zoo NAME honest|planted\n");
        return 2;
    }
    return visit(*a, !strcmp(argv[2], "planted"));
}
