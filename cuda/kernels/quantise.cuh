// Dynamic quantisation of activations, one scale a row:
//   quantise_int8: scale[i] = max_j |x[i,j]| / 127, q[i,j] = round_even(x[i,j] / scale[i])
//   quantise_e4m3: scale[i] = max_j |x[i,j]| / 448, q[i,j] = e4m3(x[i,j] / scale[i])
//   round_bf16, round_f16: q[i,j] = x[i,j] in that type, no scale: bf16 for bf16 weights, f16 for the padding alone
//   x (rows, width) T; q (rows, ldq), columns width..ldq-1 become 0, so that a
//   padded width can be multiplied; scale (rows) f32, 0 for a row of zeros.
//
// v1: one block a row, two passes, the second one from L1.
#pragma once
#include "lane.cuh"

template <class T> __device__ __forceinline__ float row_max(const T* x, int width) {
    __shared__ float slots[kWarp];
    float top = 0;
    for (int j = threadIdx.x; j < width; j += blockDim.x) top = fmaxf(top, fabsf(to_f32(x[j])));
    return block_max(top, slots);
}

#if SPARSERUN_PTX == 80
#define QUANTISE_INT8(T, NAME)                                                                          \
    KERNEL quantise_int8_##NAME(int8_t* q, float* scale, const T* x, int width, int ldq, int ldx) {     \
        const T* in = x + size_t(blockIdx.x) * ldx;                                                     \
        int8_t* to = q + size_t(blockIdx.x) * ldq;                                                      \
        float top = row_max(in, width);                                                                 \
        float inverse = 127.0f / top; /* a row of zeros: 0 * inf is NaN, which converts to 0 */         \
        for (int j = threadIdx.x; j < ldq; j += blockDim.x)                                             \
            to[j] = j < width ? int8_t(__float2int_rn(to_f32(in[j]) * inverse)) : int8_t(0);            \
        if (threadIdx.x == 0) scale[blockIdx.x] = top / 127.0f;                                         \
    }
QUANTISE_INT8(float, f32)
QUANTISE_INT8(__half, f16)

// grid (ceil(ldq/256), rows), block 256
#define ROUND(Q, QN)                                                                                          \
    KERNEL round_##QN##_f16(Q* q, const __half* x, int width, int ldq, int ldx) {                             \
        int j = blockIdx.x * blockDim.x + threadIdx.x;                                                        \
        if (j < ldq)                                                                                          \
            q[size_t(blockIdx.y) * ldq + j] = from_f32<Q>(j < width ? to_f32(x[size_t(blockIdx.y) * ldx + j]) : 0.0f); \
    }
ROUND(__nv_bfloat16, bf16)
ROUND(__half, f16)
#elif SPARSERUN_PTX == 89
#define QUANTISE_E4M3(T, NAME)                                                                          \
    KERNEL quantise_e4m3_##NAME(uint8_t* q, float* scale, const T* x, int width, int ldq, int ldx) {    \
        const T* in = x + size_t(blockIdx.x) * ldx;                                                     \
        uint8_t* to = q + size_t(blockIdx.x) * ldq;                                                     \
        float top = row_max(in, width);                                                                 \
        float inverse = top > 0 ? 448.0f / top : 0.0f;                                                  \
        for (int j = threadIdx.x; j < ldq; j += blockDim.x) {                                           \
            uint16_t two = 0;                                                                           \
            float v = j < width ? to_f32(in[j]) * inverse : 0.0f;                                       \
            asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(two) : "f"(0.0f), "f"(v));             \
            to[j] = uint8_t(two & 0xff);                                                                \
        }                                                                                               \
        if (threadIdx.x == 0) scale[blockIdx.x] = top / 448.0f;                                         \
    }
QUANTISE_E4M3(float, f32)
QUANTISE_E4M3(__half, f16)
#endif
