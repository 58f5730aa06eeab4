// y[i,:] = w[token[i],:] (* scale[token[i]] for int8 tables, f32; other types do not look at it)
//   w (vocab, width) f32, f16, bf16 or int8, row-major; token (rows) int32; y (rows, width) T.
//   A token outside 0..vocab-1 gives a row of zeros: the host rejects it before.
//
// v1: one block a row.
#pragma once
#include "lane.cuh"

template <class W, class T>
__device__ __forceinline__ void embedding_row(T* y, const W* w, const float* scale, const int* token, int vocab,
                                              int width, int ldy) {
    int id = token[blockIdx.x];
    bool ok = id >= 0 && id < vocab;
    float s = sizeof(W) == 1 && ok ? scale[id] : 1.0f;
    const W* from = w + size_t(ok ? id : 0) * width;
    T* to = y + size_t(blockIdx.x) * ldy;
    for (int j = threadIdx.x; j < width; j += blockDim.x) to[j] = from_f32<T>(ok ? to_f32(from[j]) * s : 0.0f);
}

#define EMBEDDING(W, WN, T, TN)                                                                              \
    KERNEL embedding_##WN##_##TN(T* y, const W* w, const float* scale, const int* token, int vocab, int width, \
                                 int ldy) {                                                                  \
        embedding_row<W, T>(y, w, scale, token, vocab, width, ldy);                                          \
    }
EMBEDDING(float, f32, float, f32)
EMBEDDING(float, f32, __half, f16)
EMBEDDING(__half, f16, float, f32)
EMBEDDING(__half, f16, __half, f16)
EMBEDDING(__nv_bfloat16, bf16, float, f32)
EMBEDDING(__nv_bfloat16, bf16, __half, f16)
EMBEDDING(int8_t, int8, float, f32)
EMBEDDING(int8_t, int8, __half, f16)
