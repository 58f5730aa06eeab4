// y[i,o] = epilogue(sum_n values[n] x[i, col[n]]), n from rowptr[o] to rowptr[o+1]-1, i < rows
//   CSR weights: rowptr (out + 1) uint32, col uint16 or uint32, values f32 f16 int8.
//   x, y (rows, .) T, rows <= B; epilogue as in weights.cuh.
//
// v1: one warp a row of w; values and columns are read coalesced, x is gathered
//     from L1 (it is 8-28 KB), every column serves all rows of x.
#pragma once
#include "weights.cuh"

constexpr int kCsrWarps = 4;

template <class W, class C, class T, int B>
__device__ __forceinline__ void spmv_csr_warp(const T* x, const uint32_t* rowptr, const C* col, const W* values,
                                              int rows, int out, int ldx, const Epilogue<T>& e) {
    int lane = threadIdx.x % kWarp, o = blockIdx.x * kCsrWarps + threadIdx.x / kWarp;
    if (o >= out) return;
    float acc[B] = {};
    uint32_t end = rowptr[o + 1];
#pragma unroll(B == 1 ? 4 : 1)
    for (uint32_t n = rowptr[o] + lane; n < end; n += kWarp) {
        uint32_t c = col[n];
        float w = to_f32(values[n]);
#pragma unroll
        for (int b = 0; b < B; b++) acc[b] = fmaf(w, to_f32(x[(B == 1 ? 0 : size_t(min(b, rows - 1)) * ldx) + c]), acc[b]);
    }
    float mine = 0;
#pragma unroll
    for (int b = 0; b < B; b++) {
        float v = warp_sum(acc[b]);
        if (lane == b) mine = v;
    }
    if (lane < rows) e.store(lane, o, mine);
}

#define SPMV_CSR(W, WN, T, TN, C, CN, B)                                                                         \
    KERNEL __launch_bounds__(kCsrWarps* kWarp)                                                                   \
        spmv_csr_##WN##_##TN##_c##CN##_b##B(T* y, const T* x, const uint32_t* rowptr, const C* col, const W* values, \
                                            const float* scale, const float* bias, const T* res, int rows,       \
                                            int out, int ldy, int ldx, int ldr, int act) {                       \
        spmv_csr_warp<W, C, T, B>(x, rowptr, col, values, rows, out, ldx, {y, scale, bias, res, ldy, ldr, act}); \
    }
#define SPMV_CSR_ALL(W, WN, T, TN)                                                    \
    SPMV_CSR(W, WN, T, TN, uint16_t, 16, 1) SPMV_CSR(W, WN, T, TN, uint16_t, 16, 8) \
    SPMV_CSR(W, WN, T, TN, uint32_t, 32, 1) SPMV_CSR(W, WN, T, TN, uint32_t, 32, 8)
SPMV_CSR_ALL(float, f32, float, f32)
SPMV_CSR_ALL(__half, f16, float, f32)
SPMV_CSR_ALL(__half, f16, __half, f16)
SPMV_CSR_ALL(int8_t, int8, float, f32)
SPMV_CSR_ALL(int8_t, int8, __half, f16)
