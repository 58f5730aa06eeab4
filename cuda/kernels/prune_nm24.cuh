// 2:4 pruning on the device: of every four neighbouring columns of a row the two
// with the largest score are kept, score = |w| * norm[col] (norm null: |w|; Wanda
// with the activations' norms); ties keep the smaller column.
//   w (out, in) T, row stride ldw -> values V (out, ldv) T and metadata M (out, ldm)
//   uint16, the forms of weights.cuh, tails zero-filled up to ldv and ldm.
//   Columns beyond `in` never win against real ones.
//
// v1: one thread a metadata word (16 columns); grid (ceil(ldm/128), out), block 128.
#pragma once
#include "weights.cuh"

template <class T>
__device__ __forceinline__ void prune_nm24_word(T* v, uint16_t* m, const T* w, const float* norm, int in, int ldv, int ldm) {
    int word = blockIdx.x * blockDim.x + threadIdx.x;
    if (word >= ldm) return;
    uint32_t meta = 0;
#pragma unroll 1
    for (int q = 0; q < 4; q++) {
        int k = word * 16 + q * 4;
        float f[4], score[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            bool there = k + i < in;
            f[i] = there ? to_f32(w[k + i]) : 0.0f;
            score[i] = there ? fabsf(f[i]) * (norm ? norm[k + i] : 1.0f) : -1.0f;
        }
        uint32_t nibble = 0;
        int kept = 0;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int ahead = 0;
#pragma unroll
            for (int j = 0; j < 4; j++) ahead += j < i ? score[j] >= score[i] : j > i && score[j] > score[i];
            if (ahead >= 2) continue;
            nibble |= i << (2 * kept);
            int c = word * 8 + q * 2 + kept++;
            if (c < ldv) v[c] = from_f32<T>(f[i]);
        }
        meta |= nibble << (4 * q);
    }
    m[word] = uint16_t(meta);
}

#define PRUNE_NM24(T, NAME)                                                                                     \
    KERNEL prune_nm24_##NAME(T* values, uint16_t* meta, const T* w, const float* norm, int in, int ldw, int ldv, \
                             int ldm) {                                                                         \
        size_t o = blockIdx.y;                                                                                  \
        prune_nm24_word<T>(values + o * ldv, meta + o * ldm, w + o * ldw, norm, in, ldv, ldm);                  \
    }
PRUNE_NM24(float, f32)
PRUNE_NM24(__half, f16)
PRUNE_NM24(__nv_bfloat16, bf16)
