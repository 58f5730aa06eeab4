// v3 of attention.cuh for prefill, f16, headdim 64 or 128: 64 query rows of one
// sequence against 64 positions at a time, both products on tensor cores, softmax
// online in f32, K and V copied two steps ahead through the page table.
//   tiles (n, 2) int32: first row and number of rows (<= 64); the rows of a tile belong
//   to one sequence, positions ascending. Grid (n, heads), block 128: a warp takes 16 rows.
//   Shared: Q, 2 x K, 2 x V, each 64 rows of headdim f16, chunk c of row r at c ^ (r & 7).
#pragma once
#include "attention.cuh"
#include "mma.cuh"

constexpr int kAttnTile = 64;

template <int HD>
__device__ __forceinline__ void attention_prefill(__half* o, const __half* q, const __half* kcache,
                                                  const __half* vcache, const int* tiles, const int* pos,
                                                  const int* seq, const int* table, int maxpages, int pagesize,
                                                  int heads, int kvheads, int ldo, int ldq, int window, float scale) {
    constexpr int kChunks = HD / 8, kRow = HD * 2, kBytes = kAttnTile * kRow, kThreads = kAttnWarps * kWarp;
    extern __shared__ __align__(128) char smem[];
    const uint32_t base = smem_addr(smem);
    const int tid = threadIdx.x, lane = tid % kWarp, warp = tid / kWarp;
    const int row0 = tiles[2 * blockIdx.x], n = tiles[2 * blockIdx.x + 1], head = blockIdx.y;
    const int kvhead = head / (heads / kvheads);
    const int* pages = table + size_t(seq[row0]) * maxpages;
    const int last = pos[row0 + n - 1];
    const int start = window > 0 && pos[row0] >= window ? pos[row0] - window + 1 : 0;

    // The thread's chunk of each of its rows: rows tid / kChunks + kThreads / kChunks * i.
    const int chunk = tid % kChunks, crow = tid / kChunks;
    const uint32_t cdst = crow * kRow;
    auto swizzle = [&](int r, int c) { return uint32_t((c ^ (r & 7)) * 16); };
#pragma unroll
    for (int i = 0; i < kChunks / 2; i++) {
        int r = crow + i * (kThreads / kChunks);
        copy_async(base + cdst + i * (kThreads / kChunks) * kRow + swizzle(r, chunk),
                   q + size_t(row0 + min(r, n - 1)) * ldq + head * HD + chunk * 8, r < n);
    }
    auto copy = [&](int p0, uint32_t stage) {
#pragma unroll
        for (int i = 0; i < kChunks / 2; i++) {
            int r = crow + i * (kThreads / kChunks), p = p0 + r;
            bool there = p <= last;
            int page = pages[there ? p / pagesize : 0];
            size_t at = ((size_t(page) * pagesize + (there ? p % pagesize : 0)) * kvheads + kvhead) * HD + chunk * 8;
            uint32_t to = stage + cdst + i * (kThreads / kChunks) * kRow + swizzle(r, chunk);
            copy_async(to, kcache + at, there);
            copy_async(to + kBytes, vcache + at, there);
        }
    };
    uint32_t stage = base + kBytes, other = base + 3 * kBytes;
    copy(start, stage);
    copy_commit();

    const int rows[2] = {warp * 16 + lane / 4, warp * 16 + lane / 4 + 8};
    int at[2], lo[2];
    float top[2] = {-INFINITY, -INFINITY}, sum[2] = {};
#pragma unroll
    for (int h = 0; h < 2; h++) {
        at[h] = rows[h] < n ? pos[row0 + rows[h]] : -1;
        lo[h] = window > 0 ? at[h] - window + 1 : 0;
    }
    uint32_t qf[HD / 16][4];
    float acc[HD / 8][4] = {};
    const float k2 = scale * kLog2e;
    bool first = true;
#pragma unroll 1
    for (int p0 = start; p0 <= last; p0 += kAttnTile) {
        if (p0 + kAttnTile <= last) copy(p0 + kAttnTile, other);
        copy_commit();
        copy_wait<1>();
        __syncthreads();
        if (first) {
            int r = warp * 16 + lane % 16;
#pragma unroll
            for (int s = 0; s < HD / 16; s++) ldmatrix4(qf[s], base + r * kRow + swizzle(r, 2 * s + lane / 16));
            first = false;
        }
        float s[8][4] = {};
#pragma unroll
        for (int j = 0; j < 8; j++)
#pragma unroll
            for (int c = 0; c < HD / 32; c++) {
                uint32_t b[4];
                int r = j * 8 + lane % 8;
                ldmatrix4(b, stage + r * kRow + swizzle(r, 4 * c + lane / 8));
                mma_dense(__half{}, s[j], qf[2 * c], b[0], b[1]);
                mma_dense(__half{}, s[j], qf[2 * c + 1], b[2], b[3]);
            }
        float next[2] = {top[0], top[1]};
#pragma unroll
        for (int j = 0; j < 8; j++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                int p = p0 + j * 8 + lane % 4 * 2 + e % 2;
                s[j][e] = p <= at[e / 2] && p >= lo[e / 2] ? s[j][e] * k2 : -INFINITY;
                next[e / 2] = fmaxf(next[e / 2], s[j][e]);
            }
        float shift[2];
#pragma unroll
        for (int h = 0; h < 2; h++) {
            next[h] = fmaxf(next[h], __shfl_xor_sync(0xffffffffu, next[h], 1));
            next[h] = fmaxf(next[h], __shfl_xor_sync(0xffffffffu, next[h], 2));
            shift[h] = next[h] == -INFINITY ? 0.0f : next[h]; // nothing allowed so far
            float keep = exp2_fast(top[h] - shift[h]);
            top[h] = next[h];
            sum[h] *= keep;
#pragma unroll
            for (int d = 0; d < HD / 8; d++) acc[d][2 * h] *= keep, acc[d][2 * h + 1] *= keep;
        }
        uint32_t pf[4][4];
#pragma unroll
        for (int j = 0; j < 8; j++)
#pragma unroll
            for (int h = 0; h < 2; h++) {
                float a = exp2_fast(s[j][2 * h] - shift[h]), b = exp2_fast(s[j][2 * h + 1] - shift[h]);
                sum[h] += a + b;
                __half2 two = __floats2half2_rn(a, b);
                pf[j / 2][j % 2 * 2 + h] = *reinterpret_cast<uint32_t*>(&two);
            }
#pragma unroll
        for (int c = 0; c < 4; c++)
#pragma unroll
            for (int d = 0; d < HD / 16; d++) {
                uint32_t b[4];
                int r = c * 16 + lane % 16;
                ldmatrix4_trans(b, stage + kBytes + r * kRow + swizzle(r, 2 * d + lane / 16));
                mma_dense(__half{}, acc[2 * d], pf[c], b[0], b[1]);
                mma_dense(__half{}, acc[2 * d + 1], pf[c], b[2], b[3]);
            }
        __syncthreads();
        uint32_t t = stage;
        stage = other, other = t;
    }
#pragma unroll
    for (int h = 0; h < 2; h++) {
        sum[h] += __shfl_xor_sync(0xffffffffu, sum[h], 1);
        sum[h] += __shfl_xor_sync(0xffffffffu, sum[h], 2);
        if (rows[h] >= n) continue;
        float norm = 1.0f / sum[h];
        __half* to = o + size_t(row0 + rows[h]) * ldo + head * HD + lane % 4 * 2;
#pragma unroll
        for (int d = 0; d < HD / 8; d++)
            *reinterpret_cast<__half2*>(to + d * 8) = __floats2half2_rn(acc[d][2 * h] * norm, acc[d][2 * h + 1] * norm);
    }
}

#define ATTENTION_PREFILL(HD)                                                                                      \
    KERNEL __launch_bounds__(kAttnWarps* kWarp) attention_prefill_f16_hd##HD(                                      \
        __half* o, const __half* q, const __half* kcache, const __half* vcache, const int* tiles, const int* pos,  \
        const int* seq, const int* table, int maxpages, int pagesize, int heads, int kvheads, int ldo, int ldq,    \
        int window, float scale) {                                                                                 \
        attention_prefill<HD>(o, q, kcache, vcache, tiles, pos, seq, table, maxpages, pagesize, heads, kvheads,    \
                              ldo, ldq, window, scale);                                                            \
    }
ATTENTION_PREFILL(64)
ATTENTION_PREFILL(128)
