// add:  y[i,j] = a[i,j] + b[i,j]
// mul:  y[i,j] = a[i,j] * b[i,j]
// bias_act: y[i,j] = act(x[i,j] + bias[j]), bias f32 or null, act as in lane.cuh
//   all (rows, width) T with row strides; y may be a or x.
//
// v1: one element a thread; grid (ceil(width/256), rows).
#pragma once
#include "lane.cuh"

#define ADD(T, NAME)                                                                                      \
    KERNEL add_##NAME(T* y, const T* a, const T* b, int width, int ldy, int lda, int ldb) {               \
        int j = blockIdx.x * blockDim.x + threadIdx.x;                                                    \
        size_t i = blockIdx.y;                                                                            \
        if (j < width) y[i * ldy + j] = from_f32<T>(to_f32(a[i * lda + j]) + to_f32(b[i * ldb + j]));     \
    }                                                                                                     \
    KERNEL mul_##NAME(T* y, const T* a, const T* b, int width, int ldy, int lda, int ldb) {               \
        int j = blockIdx.x * blockDim.x + threadIdx.x;                                                    \
        size_t i = blockIdx.y;                                                                            \
        if (j < width) y[i * ldy + j] = from_f32<T>(to_f32(a[i * lda + j]) * to_f32(b[i * ldb + j]));     \
    }                                                                                                     \
    KERNEL bias_act_##NAME(T* y, const T* x, const float* bias, int width, int ldy, int ldx, int act) {   \
        int j = blockIdx.x * blockDim.x + threadIdx.x;                                                    \
        size_t i = blockIdx.y;                                                                            \
        if (j >= width) return;                                                                           \
        float v = to_f32(x[i * ldx + j]);                                                                 \
        if (bias) v += bias[j];                                                                           \
        y[i * ldy + j] = from_f32<T>(activate(v, act));                                                   \
    }
ADD(float, f32)
ADD(__half, f16)
