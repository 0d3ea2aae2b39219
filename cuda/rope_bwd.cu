/* The transposed rotation: that by the opposite angle. */
#include "cuda/backward.cuh"
#include "cuda/rope.cuh"

namespace CU_NS
{

fh1_status cu_rope_bwd(cu_ctx *k, const cu_rope_bwd_args *a)
{
    cu_rope r = {};
    r.type = CU_F32;
    r.t = a->t;
    r.Hq = a->Hq;
    r.Hkv = a->Hkv;
    r.A = a->A;
    r.inv_freq = a->inv_freq;
    r.scale = a->scale;
    r.m_key = a->m_key;
    r.transposed = true;
    r.q = a->dq;
    r.k = a->dk;
    r.ldq = a->ldq;
    r.ldk = a->ldk;
    return cu_rope_fwd(k, &r);
}

} // namespace CU_NS
