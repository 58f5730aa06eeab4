// o[i,h,:] = sum_p softmax_p(scale q[i,h,:].k[p,h',:]) v[p,h',:]
//   over the positions p of row i's sequence with lo <= p <= pos[i], h' = h / (heads / kvheads),
//   lo = 0, or pos[i] - window + 1 for a sliding window > 0.
//   q, o (rows, heads, headdim) T, row strides ldq, ldo; pos, seq (rows) int32;
//   the cache is paged as in kv_write.cuh and already holds the rows' own keys and values.
//   A row with seq < 0 gives zeros.
//
// v1 naive: any headdim <= 256. One block a (row, head): its 4 warps take every
//    fourth position, the lanes share headdim, softmax is online, and the warps'
//    partial results meet in shared memory. Serves prefill and decode.
// v2 attention_decode.cuh: splits the context over blocks, reads K and V once per GQA group.
// v3 attention_prefill.cuh: 64 rows against 64 positions on tensor cores.
#pragma once
#include "kv_write.cuh"

constexpr int kAttnMaxDim = 256;
constexpr int kAttnWarps = 4;

template <class T>
__device__ __forceinline__ void attention_row(T* o, const T* q, const T* kcache, const T* vcache, const int* table,
                                              int pos, int lo, int pagesize, int kvheads, int kvhead, int headdim,
                                              float scale) {
    constexpr int kPer = kAttnMaxDim / kWarp;
    __shared__ float tops[kAttnWarps], sums[kAttnWarps], part[kAttnWarps][kAttnMaxDim];
    int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
    float qr[kPer], acc[kPer], top = -INFINITY, sum = 0;
#pragma unroll
    for (int i = 0; i < kPer; i++) {
        int d = lane + i * kWarp;
        qr[i] = d < headdim ? to_f32(q[d]) * scale * kLog2e : 0.0f;
        acc[i] = 0;
    }
    for (int p = lo + warp; p <= pos; p += kAttnWarps) {
        size_t slot = size_t(table[p / pagesize]) * pagesize + p % pagesize;
        size_t at = (slot * kvheads + kvhead) * headdim;
        float dot = 0;
#pragma unroll
        for (int i = 0; i < kPer; i++) {
            int d = lane + i * kWarp;
            if (d < headdim) dot = fmaf(qr[i], to_f32(kcache[at + d]), dot);
        }
        dot = warp_sum(dot);
        float next = fmaxf(top, dot), keep = exp2_fast(top - next), w = exp2_fast(dot - next);
        top = next;
        sum = sum * keep + w;
#pragma unroll
        for (int i = 0; i < kPer; i++) {
            int d = lane + i * kWarp;
            if (d < headdim) acc[i] = fmaf(w, to_f32(vcache[at + d]), acc[i] * keep);
        }
    }
    if (lane == 0) tops[warp] = top, sums[warp] = sum;
#pragma unroll
    for (int i = 0; i < kPer; i++)
        if (lane + i * kWarp < headdim) part[warp][lane + i * kWarp] = acc[i];
    __syncthreads();
    float all = tops[0];
    for (int w = 1; w < kAttnWarps; w++) all = fmaxf(all, tops[w]);
    float total = 0, share[kAttnWarps];
#pragma unroll
    for (int w = 0; w < kAttnWarps; w++) {
        share[w] = exp2_fast(tops[w] - all); // a warp without positions has top -inf and weighs 0
        total = fmaf(sums[w], share[w], total);
    }
    float norm = 1.0f / total;
    for (int d = threadIdx.x; d < headdim; d += blockDim.x) {
        float v = 0;
#pragma unroll
        for (int w = 0; w < kAttnWarps; w++) v = fmaf(part[w][d], share[w], v);
        o[d] = from_f32<T>(v * norm);
    }
}

#define ATTENTION(T, NAME)                                                                                       \
    KERNEL __launch_bounds__(kAttnWarps* kWarp)                                                                  \
        attention_##NAME(T* o, const T* q, const T* kcache, const T* vcache, const int* pos, const int* seq,     \
                         const int* table, int maxpages, int pagesize, int heads, int kvheads, int headdim,      \
                         int ldo, int ldq, int window, float scale) {                                            \
        int row = blockIdx.x, head = blockIdx.y;                                                                 \
        T* out = o + size_t(row) * ldo + size_t(head) * headdim;                                                 \
        if (seq[row] < 0) {                                                                                      \
            for (int d = threadIdx.x; d < headdim; d += blockDim.x) out[d] = from_f32<T>(0.0f);                  \
            return;                                                                                              \
        }                                                                                                        \
        int lo = window > 0 && pos[row] >= window ? pos[row] - window + 1 : 0;                                   \
        attention_row<T>(out, q + size_t(row) * ldq + size_t(head) * headdim, kcache, vcache,                    \
                         table + size_t(seq[row]) * maxpages, pos[row], lo, pagesize, kvheads,                   \
                         head / (heads / kvheads), headdim, scale);                                              \
    }
ATTENTION(float, f32)
ATTENTION(__half, f16)
