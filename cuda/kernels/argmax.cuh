// argmax: index[i] = the smallest j with x[i,j] = max_j x[i,j]      (greedy decoding)
// topk:   values[i,0..k-1], index[i,0..k-1] = the k largest of x[i,:], descending, ties by smaller j
//   x (rows, width) T, row stride ldx; index int32, values f32 (rows, k). k > width pads with -inf, -1.
//   NaN compares below everything.
//
// v1: one block a row; topk makes k passes over the row (k <= 64, the row stays in L2).
#pragma once
#include "lane.cuh"

// ahead(v, i, w, j): does (v, i) come before (w, j) in the order of the result?
__device__ __forceinline__ bool ahead(float v, int i, float w, int j) { return v > w || (v == w && i < j); }

// warp_best: the first of the lanes' (v, i) in that order, to every lane.
__device__ __forceinline__ void warp_best(float& v, int& i) {
#pragma unroll
    for (int d = kWarp / 2; d > 0; d >>= 1) {
        float w = __shfl_xor_sync(0xffffffffu, v, d);
        int j = __shfl_xor_sync(0xffffffffu, i, d);
        if (ahead(w, j, v, i)) v = w, i = j;
    }
}

#define NO_INDEX 0x7fffffff

// block_best: the same over the block. Rounds that follow each other use slots and
// where of their own (round % 2): between two uses of one lies the other's barrier.
__device__ __forceinline__ void block_best(float& v, int& i, float* slots, int* where) {
    unsigned lane = threadIdx.x % kWarp;
    warp_best(v, i);
    if (lane == 0) slots[threadIdx.x / kWarp] = v, where[threadIdx.x / kWarp] = i;
    __syncthreads();
    bool there = lane < blockDim.x / kWarp;
    v = there ? slots[lane] : -INFINITY;
    i = there ? where[lane] : NO_INDEX;
    warp_best(v, i);
}

template <class T, bool kValues>
__device__ __forceinline__ void topk_row(float* values, int* index, const T* x, int width, int k) {
    __shared__ float slots[2][kWarp];
    __shared__ int where[2][kWarp];
    float last = INFINITY;
    int at = -1;
    for (int r = 0; r < k; r++) {
        float best = -INFINITY;
        int j = NO_INDEX;
        for (int i = threadIdx.x; i < width; i += blockDim.x) {
            float v = to_f32(x[i]);
            if (v != v) v = -INFINITY;
            if (ahead(last, at, v, i) && ahead(v, i, best, j)) best = v, j = i;
        }
        block_best(best, j, slots[r % 2], where[r % 2]);
        last = best, at = j;
        if (threadIdx.x == 0) {
            if (kValues) values[r] = best;
            index[r] = j == NO_INDEX ? -1 : j;
        }
    }
}

#define ARGMAX(T, NAME)                                                                              \
    KERNEL argmax_##NAME(int* index, const T* x, int width, int ldx) {                               \
        topk_row<T, false>(nullptr, index + blockIdx.x, x + size_t(blockIdx.x) * ldx, width, 1);            \
    }                                                                                                \
    KERNEL topk_##NAME(float* values, int* index, const T* x, int width, int ldx, int k) {           \
        topk_row<T, true>(values + size_t(blockIdx.x) * k, index + size_t(blockIdx.x) * k,                 \
                    x + size_t(blockIdx.x) * ldx, width, k);                                         \
    }
ARGMAX(float, f32)
ARGMAX(__half, f16)
