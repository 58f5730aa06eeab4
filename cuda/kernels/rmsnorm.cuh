// y[i,:] = x[i,:] / sqrt(mean(x[i,:]^2) + eps) * w
//   x, y (rows, width) T with row strides ldx, ldy; w (width) f32.
// rmsnorm_heads: the same per head of `width`, for QK-norm: x is (rows, heads, width).
// add_rmsnorm: x += r first, and x is written back: the residual stream of a
// transformer block, one read of x saved.
//
// v1: one block a row, two passes over the row, the second one from L1.
#pragma once
#include "lane.cuh"

template <class T, bool kAdd>
__device__ __forceinline__ void rmsnorm_row(T* y, T* x, const T* r, const float* w, int width, float eps) {
    __shared__ float slots[kWarp];
    float sum = 0;
    for (int i = threadIdx.x; i < width; i += blockDim.x) {
        float v = to_f32(x[i]);
        if (kAdd) {
            T s = from_f32<T>(v + to_f32(r[i]));
            x[i] = s;
            v = to_f32(s);
        }
        sum = fmaf(v, v, sum);
    }
    float scale = rsqrt_fast(block_sum(sum, slots) / float(width) + eps);
    for (int i = threadIdx.x; i < width; i += blockDim.x) y[i] = from_f32<T>(to_f32(x[i]) * scale * w[i]);
}

#define RMSNORM(T, NAME)                                                                                    \
    KERNEL rmsnorm_##NAME(T* y, const T* x, const float* w, int width, int ldy, int ldx, float eps) {       \
        rmsnorm_row<T, false>(y + size_t(blockIdx.x) * ldy, const_cast<T*>(x) + size_t(blockIdx.x) * ldx,   \
                              nullptr, w, width, eps);                                                      \
    }                                                                                                       \
    KERNEL rmsnorm_heads_##NAME(T* x, const float* w, int width, int ldx, float eps) {                      \
        T* head = x + size_t(blockIdx.x) * ldx + size_t(blockIdx.y) * width;                                \
        rmsnorm_row<T, false>(head, head, nullptr, w, width, eps);                                          \
    }                                                                                                       \
    KERNEL add_rmsnorm_##NAME(T* y, T* x, const T* r, const float* w, int width, int ldy, int ldx, int ldr, \
                              float eps) {                                                                  \
        rmsnorm_row<T, true>(y + size_t(blockIdx.x) * ldy, x + size_t(blockIdx.x) * ldx,                    \
                             r + size_t(blockIdx.x) * ldr, w, width, eps);                                  \
    }
RMSNORM(float, f32)
RMSNORM(__half, f16)
