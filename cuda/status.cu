#include "cuda/common.h"

namespace CU_NS
{

fh1_status cu_status(cudaError_t e, const char *doing)
{
    if (e == cudaSuccess) return NULL;
    const fh1_status s = fh1_fail(FH1_E_INTERNAL, "%s failed on the device: %s", doing, cudaGetErrorString(e));
    if (e == cudaErrorMemoryAllocation)
        return fh1_hint(s, "the device has too little free memory: fewer rows, a shorter context, or a smaller model");
    return s;
}

fh1_status cu_launched(const char *kernel)
{
    return cu_status(cudaGetLastError(), kernel);
}

} // namespace CU_NS
