// v2 of attention.cuh for few rows and long contexts, f16, headdim 64 or 128:
//   one block a (row, kv head, split of the context): K and V are read once for the
//   up to G query heads that share them. headdim/8 lanes take one position, 16 bytes
//   of K and V each; every such lane group keeps its own online softmax, and all meet
//   in shared memory.
//   gridDim.z = splits > 1: sums go to ws (splits, rows, heads, headdim + 2) f32 (weighted
//   values, then maximum in log2 units and sum), and attention_combine joins them.
#pragma once
#include "attention.cuh"
#include "weights.cuh"

template <int HD, int G>
__device__ __forceinline__ void attention_decode(__half* o, float* ws, const __half* q, const __half* kcache,
                                                 const __half* vcache, const int* pos, const int* seq, const int* table,
                                                 int maxpages, int pagesize, int heads, int kvheads, int ldo, int ldq,
                                                 int window, float scale) {
    constexpr int kLanes = HD / 8, kGroups = kAttnWarps * kWarp / kLanes;
    // Element d = 8 sub + e of a head lies at e * kLanes + sub, and lane groups are kLanes
    // banks apart: the lanes of a warp write, and later read, 32 different banks.
    __shared__ float part[kGroups][G * HD + kLanes], tops[kGroups][G], sums[kGroups][G];
    const int row = blockIdx.x, kvhead = blockIdx.y, group = heads / kvheads;
    const int sub = threadIdx.x % kLanes, gid = threadIdx.x / kLanes;
    const bool live = seq[row] >= 0;
    const int end = live ? pos[row] + 1 : 0, lo = window > 0 && end > window ? end - window : 0;
    const int per = (end - lo + gridDim.z - 1) / gridDim.z;
    const int from = lo + int(blockIdx.z) * per, to = min(from + per, end);

    float qr[G][8], acc[G][8] = {}, top[G], sum[G];
#pragma unroll
    for (int g = 0; g < G; g++) {
        load8(q + size_t(row) * ldq + (kvhead * group + min(g, group - 1)) * HD + sub * 8, qr[g]);
#pragma unroll
        for (int d = 0; d < 8; d++) qr[g][d] *= scale * kLog2e;
        top[g] = -INFINITY, sum[g] = 0;
    }
    const int* pages = table + size_t(live ? seq[row] : 0) * maxpages;
    int page = (from + gid) / pagesize, slot = (from + gid) % pagesize;
#pragma unroll 1
    for (int base = from; base < to; base += kGroups) {
        const bool there = base + gid < to;
        uint4 k = {}, v = {};
        if (there) {
            size_t at = ((size_t(pages[page]) * pagesize + slot) * kvheads + kvhead) * HD + sub * 8;
            k = *reinterpret_cast<const uint4*>(kcache + at);
            v = *reinterpret_cast<const uint4*>(vcache + at);
        }
        for (slot += kGroups; slot >= pagesize; slot -= pagesize) page++;
        float kf[8], vf[8];
        Unpack8<__half>::to(&k.x, kf);
        Unpack8<__half>::to(&v.x, vf);
#pragma unroll
        for (int g = 0; g < G; g++) {
            float dot = 0;
#pragma unroll
            for (int d = 0; d < 8; d++) dot = fmaf(qr[g][d], kf[d], dot);
#pragma unroll
            for (int d = kLanes / 2; d > 0; d >>= 1) dot += __shfl_xor_sync(0xffffffffu, dot, d);
            float next = there ? fmaxf(top[g], dot) : top[g];
            float keep = there ? exp2_fast(top[g] - next) : 1.0f, w = there ? exp2_fast(dot - next) : 0.0f;
            top[g] = next;
            sum[g] = sum[g] * keep + w;
#pragma unroll
            for (int d = 0; d < 8; d++) acc[g][d] = fmaf(w, vf[d], acc[g][d] * keep);
        }
    }
#pragma unroll
    for (int g = 0; g < G; g++) {
#pragma unroll
        for (int d = 0; d < 8; d++) part[gid][g * HD + d * kLanes + sub] = acc[g][d];
        if (sub == 0) tops[gid][g] = top[g], sums[gid][g] = sum[g];
    }
    __syncthreads();
#pragma unroll 1
    for (int n = threadIdx.x; n < G * HD; n += blockDim.x) {
        int g = n / HD, d = n % kLanes * 8 + n % HD / kLanes;
        if (g >= group) break;
        float all = -INFINITY, total = 0, value = 0;
        for (int i = 0; i < kGroups; i++) all = fmaxf(all, tops[i][g]);
        float base = all == -INFINITY ? 0.0f : all; // a split without positions, a dead row
        for (int i = 0; i < kGroups; i++) {
            float share = exp2_fast(tops[i][g] - base); // 0 where a lane group had no position
            total = fmaf(sums[i][g], share, total);
            value = fmaf(part[i][n], share, value);
        }
        int head = kvhead * group + g;
        if (gridDim.z > 1) {
            float* at = ws + ((size_t(blockIdx.z) * gridDim.x + row) * heads + head) * (HD + 2);
            at[d] = value;
            if (d == 0) at[HD] = all, at[HD + 1] = total;
        } else {
            o[size_t(row) * ldo + head * HD + d] = __float2half_rn(total > 0 ? value / total : 0.0f);
        }
    }
}

#define ATTENTION_DECODE(HD, G)                                                                                    \
    KERNEL __launch_bounds__(kAttnWarps* kWarp) attention_decode_f16_hd##HD##_g##G(                                \
        __half* o, float* ws, const __half* q, const __half* kcache, const __half* vcache, const int* pos,         \
        const int* seq, const int* table, int maxpages, int pagesize, int heads, int kvheads, int ldo, int ldq,    \
        int window, float scale) {                                                                                 \
        attention_decode<HD, G>(o, ws, q, kcache, vcache, pos, seq, table, maxpages, pagesize, heads, kvheads,     \
                                ldo, ldq, window, scale);                                                          \
    }
ATTENTION_DECODE(64, 1)
ATTENTION_DECODE(64, 4)
ATTENTION_DECODE(64, 8)
ATTENTION_DECODE(128, 1)
ATTENTION_DECODE(128, 4)
ATTENTION_DECODE(128, 8)

// o[i,h,:] = sum_z e^(top_z - top) value_z / sum_z e^(top_z - top) sum_z; grid (rows, heads), block 128.
KERNEL attention_combine_f16(__half* o, const float* ws, int splits, int headdim, int ldo) {
    const int row = blockIdx.x, head = blockIdx.y;
    const size_t pitch = headdim + 2, step = size_t(gridDim.x) * gridDim.y * pitch;
    const float* at = ws + (size_t(row) * gridDim.y + head) * pitch;
    float all = -INFINITY, total = 0;
    // A dead row has -inf everywhere: its weights are NaN, and total > 0 is false.
#pragma unroll 1
    for (int z = 0; z < splits; z++) all = fmaxf(all, at[z * step + headdim]);
#pragma unroll 1
    for (int z = 0; z < splits; z++) total = fmaf(at[z * step + headdim + 1], exp2_fast(at[z * step + headdim] - all), total);
    for (int d = threadIdx.x; d < headdim; d += blockDim.x) {
        float value = 0;
#pragma unroll 1
        for (int z = 0; z < splits; z++) value = fmaf(at[z * step + d], exp2_fast(at[z * step + headdim] - all), value);
        o[size_t(row) * ldo + head * headdim + d] = __float2half_rn(total > 0 ? value / total : 0.0f);
    }
}
