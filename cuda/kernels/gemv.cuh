// y[i,o] = epilogue(sum_k w[o,k] x[i,k]), i < rows <= 8: dense decode
//   w dense (out, in) as in weights.cuh: f32 f16 bf16 int8 int4; x, y (rows, .) T.
//   x rows must start on 16 bytes. Epilogue as in weights.cuh.
//
// v1: linear_naive.cuh, one thread an output.
// v2: one warp takes kRows rows of w; a lane reads 16 bytes of each row and
//     turn, converts once and uses them for every activation row; sums meet by
//     shuffles. No shared memory: x (8-28 KB a row) stays in L1, w does not enter it.
#pragma once
#include "weights.cuh"

constexpr int kGemvWarps = 4; // warps a block
constexpr int kGemvRows = 2;  // rows of w a warp
// Blocks an SM, for the register budget.
constexpr int gemv_blocks(int batch) { return batch == 1 ? 5 : 2; }

template <class W> struct Chunk { static constexpr int kElems = 16 / sizeof(W); };
template <> struct Chunk<float> { static constexpr int kElems = 8; };
template <> struct Chunk<Int4> { static constexpr int kElems = 32; };

// x_row: where row b of x starts. Past the last row that one is read again and dropped.
template <int B> __device__ __forceinline__ size_t x_row(int b, int rows, int ldx) {
    return B == 1 ? 0 : size_t(min(b, rows - 1)) * ldx;
}

// gemv_finish: reduces acc over the warp and stores rows o0.., activation rows < rows.
template <class T, int B>
__device__ __forceinline__ void gemv_finish(float (&acc)[kGemvRows][B], int o0, int out, int rows, const Epilogue<T>& e) {
    int lane = threadIdx.x % kWarp;
    float mine = 0;
#pragma unroll
    for (int r = 0; r < kGemvRows; r++)
#pragma unroll
        for (int b = 0; b < B; b++) {
            float v = warp_sum(acc[r][b]);
            if (lane == r * B + b) mine = v;
        }
    int o = o0 + lane / B, b = lane % B;
    if (lane < kGemvRows * B && o < out && b < rows) e.store(b, o, mine);
}

// One chunk of the sum: kElems columns from k on, of every row.
template <class W, class T, int B>
__device__ __forceinline__ void gemv_chunk(float (&acc)[kGemvRows][B], const T* x, const char* const (&w)[kGemvRows],
                                           const __half* const (&gs)[kGemvRows], int k, int ldx, int rows,
                                           int gshift) {
    constexpr int kE = Chunk<W>::kElems, kWords = kE / 8 * Unpack8<W>::kWords;
    uint32_t raw[kGemvRows][kWords];
#pragma unroll
    for (int r = 0; r < kGemvRows; r++)
#pragma unroll
        for (int q = 0; q < kWords / 4; q++) {
            uint4 v = load_stream(w[r] + bytes_of<W>(k) + 16 * q);
            raw[r][4 * q] = v.x, raw[r][4 * q + 1] = v.y, raw[r][4 * q + 2] = v.z, raw[r][4 * q + 3] = v.w;
        }
    // int4: a chunk is 32 columns, never more than a group: its scale is applied to its sum.
    float part[kGemvRows][B];
#pragma unroll
    for (int r = 0; r < kGemvRows; r++)
#pragma unroll
        for (int b = 0; b < B; b++) part[r][b] = kGrouped<W> ? 0.0f : acc[r][b];
#pragma unroll
    for (int s = 0; s < kE / 8; s++) {
        float wf[kGemvRows][8];
#pragma unroll
        for (int r = 0; r < kGemvRows; r++) Unpack8<W>::to(&raw[r][s * Unpack8<W>::kWords], wf[r]);
#pragma unroll
        for (int b = 0; b < B; b++) {
            float xf[8];
            load8(x + x_row<B>(b, rows, ldx) + k + 8 * s, xf);
#pragma unroll
            for (int r = 0; r < kGemvRows; r++)
#pragma unroll
                for (int i = 0; i < 8; i++) part[r][b] = fmaf(wf[r][i], xf[i], part[r][b]);
        }
    }
#pragma unroll
    for (int r = 0; r < kGemvRows; r++) {
        float scale = kGrouped<W> ? to_f32(gs[r][k >> gshift]) : 1.0f;
#pragma unroll
        for (int b = 0; b < B; b++) acc[r][b] = kGrouped<W> ? fmaf(part[r][b], scale, acc[r][b]) : part[r][b];
    }
}

template <class W, class T, int B>
__device__ __forceinline__ void gemv_warp(const T* x, const void* w, const __half* gscale, int rows, int out, int in,
                                          int ldx, int ldw, int lds, int gshift, const Epilogue<T>& e) {
    constexpr int kE = Chunk<W>::kElems;
    int lane = threadIdx.x % kWarp;
    int o0 = (blockIdx.x * kGemvWarps + threadIdx.x / kWarp) * kGemvRows;
    float acc[kGemvRows][B] = {};
    const char* wr[kGemvRows];
    const __half* gs[kGemvRows];
#pragma unroll
    for (int r = 0; r < kGemvRows; r++) {
        int o = min(o0 + r, out - 1); // warps past the end read the last row and drop it
        wr[r] = static_cast<const char*>(w) + bytes_of<W>(size_t(o) * ldw);
        gs[r] = gscale + size_t(o) * lds;
    }
    int k = lane * kE, full = in / kE * kE;
#pragma unroll(B == 1 ? 2 : 1)
    for (; k < full; k += kWarp * kE) gemv_chunk<W, T, B>(acc, x, wr, gs, k, ldx, rows, gshift);
#pragma unroll 1
    for (k = full + lane; k < in; k += kWarp) // fewer than kE columns are left
#pragma unroll
        for (int r = 0; r < kGemvRows; r++) {
            float v = at<W>(wr[r], k);
            if (kGrouped<W>) v *= to_f32(gs[r][k >> gshift]);
#pragma unroll
            for (int b = 0; b < B; b++) acc[r][b] = fmaf(v, to_f32(x[x_row<B>(b, rows, ldx) + k]), acc[r][b]);
        }
    gemv_finish<T, B>(acc, o0, out, rows, e);
}

// gscale, lds, gshift (log2 of the group) count for int4 only.
#define GEMV(W, WN, T, TN, B)                                                                                      \
    KERNEL __launch_bounds__(kGemvWarps* kWarp, gemv_blocks(B))                                                                  \
        gemv_##WN##_##TN##_b##B(T* y, const T* x, const void* w, const __half* gscale, const float* scale,         \
                                const float* bias, const T* res, int rows, int out, int in, int ldy, int ldx,      \
                                int ldw, int lds, int gshift, int ldr, int act) {                                  \
        gemv_warp<W, T, B>(x, w, gscale, rows, out, in, ldx, ldw, lds, gshift, {y, scale, bias, res, ldy, ldr, act}); \
    }
#define GEMV_BATCHES(W, WN, T, TN) GEMV(W, WN, T, TN, 1) GEMV(W, WN, T, TN, 4) GEMV(W, WN, T, TN, 8)
GEMV_BATCHES(float, f32, float, f32)
GEMV_BATCHES(__half, f16, float, f32)
GEMV_BATCHES(__half, f16, __half, f16)
GEMV_BATCHES(__nv_bfloat16, bf16, float, f32)
GEMV_BATCHES(__nv_bfloat16, bf16, __half, f16)
GEMV_BATCHES(int8_t, int8, float, f32)
GEMV_BATCHES(int8_t, int8, __half, f16)
GEMV_BATCHES(Int4, int4, float, f32)
GEMV_BATCHES(Int4, int4, __half, f16)
