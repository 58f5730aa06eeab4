// Rotary positions, in place: pairs (a, b) of each head turn by the angle of
// (position, pair): a' = a cos - b sin, b' = a sin + b cos.
//   x (rows, heads, headdim) T, row stride ldx; pos (rows) int32;
//   cos, sin (positions, rot/2) f32 tables made by the host (scaling included);
//   rot <= headdim, even: the first rot elements of a head turn.
//   interleaved 0: pair j is (j, j + rot/2) (Hugging Face); 1: (2j, 2j+1) (GGUF's original).
//
// v1: one thread a pair; grid (rows, heads), block >= 32, any size.
#pragma once
#include "lane.cuh"

#define ROPE(T, NAME)                                                                                       \
    KERNEL rope_##NAME(T* x, const float* cos_t, const float* sin_t, const int* pos, int ldx, int headdim,  \
                       int rot, int interleaved) {                                                          \
        T* head = x + size_t(blockIdx.x) * ldx + size_t(blockIdx.y) * headdim;                              \
        int half = rot / 2;                                                                                 \
        size_t at = size_t(pos[blockIdx.x]) * half;                                                         \
        for (int j = threadIdx.x; j < half; j += blockDim.x) {                                              \
            int ia = interleaved ? 2 * j : j;                                                               \
            int ib = interleaved ? 2 * j + 1 : j + half;                                                    \
            float c = cos_t[at + j], s = sin_t[at + j];                                                     \
            float a = to_f32(head[ia]), b = to_f32(head[ib]);                                               \
            head[ia] = from_f32<T>(a * c - b * s);                                                          \
            head[ib] = from_f32<T>(a * s + b * c);                                                          \
        }                                                                                                   \
    }
ROPE(float, f32)
ROPE(__half, f16)
