// y[i,j] = e^(scale x[i,j] - m) / sum_j e^(scale x[i,j] - m), m = max_j scale x[i,j], scale > 0
//   x, y (rows, width) T with row strides; y may be x.
//
// v1: one block a row, three passes, the later ones from L1.
#pragma once
#include "lane.cuh"

#define SOFTMAX(T, NAME)                                                                                        \
    KERNEL softmax_##NAME(T* y, const T* x, int width, int ldy, int ldx, float scale) {                         \
        __shared__ float tops[kWarp], sums[kWarp];                                                              \
        const T* in = x + size_t(blockIdx.x) * ldx;                                                             \
        T* out = y + size_t(blockIdx.x) * ldy;                                                                  \
        float top = -INFINITY;                                                                                  \
        for (int i = threadIdx.x; i < width; i += blockDim.x) top = fmaxf(top, to_f32(in[i]));                  \
        top = block_max(top, tops);                                                                             \
        float k = scale * kLog2e, sum = 0;                                                                      \
        for (int i = threadIdx.x; i < width; i += blockDim.x) sum += exp2_fast((to_f32(in[i]) - top) * k);      \
        float norm = 1.0f / block_sum(sum, sums);                                                               \
        for (int i = threadIdx.x; i < width; i += blockDim.x)                                                   \
            out[i] = from_f32<T>(exp2_fast((to_f32(in[i]) - top) * k) * norm);                                  \
    }
SOFTMAX(float, f32)
SOFTMAX(__half, f16)
