// y[i,j] = silu(g[i,j]) * u[i,j], silu(v) = v / (1 + e^-v)
//   g, u, y (rows, width) T with row strides: g and u may be two halves of one
//   matrix (a fused gate-and-up projection).
//
// v1: one element a thread; grid (ceil(width/256), rows).
#pragma once
#include "lane.cuh"

#define SILU_GATE(T, NAME)                                                                        \
    KERNEL silu_gate_##NAME(T* y, const T* g, const T* u, int width, int ldy, int ldg, int ldu) { \
        int j = blockIdx.x * blockDim.x + threadIdx.x;                                            \
        size_t i = blockIdx.y;                                                                    \
        if (j >= width) return;                                                                   \
        float v = to_f32(g[i * ldg + j]);                                                         \
        y[i * ldy + j] = from_f32<T>(v * sigmoid_fast(v) * to_f32(u[i * ldu + j]));               \
    }
SILU_GATE(float, f32)
SILU_GATE(__half, f16)
