// y[i,o] = epilogue(sum_k w[o,k] x[i,k]), any rows, any widths, any alignment
//   dense f32 f16 bf16 int8 int4 and nm24 of the same, forms as in weights.cuh
//   but no padding is asked for: ldw, ldv, ldm may be the bare widths
//   (int4: rows start on whole words).
//
// v1 of every matrix product: one thread an output. It is what the others are
// compared with, and what runs where their conditions do not hold.
#pragma once
#include "weights.cuh"

template <class W, class T>
__device__ __forceinline__ void linear_dense(const T* x, const void* w, const __half* gscale, int out, int in, int ldx,
                                             int ldw, int lds, int gshift, const Epilogue<T>& e) {
    int o = blockIdx.x * blockDim.x + threadIdx.x, i = blockIdx.y;
    if (o >= out) return;
    const char* row = static_cast<const char*>(w) + bytes_of<W>(size_t(o) * ldw);
    float acc = 0;
#pragma unroll 1
    for (int k = 0; k < in; k++) {
        float v = at<W>(row, k);
        if (kGrouped<W>) v *= to_f32(gscale[size_t(o) * lds + (k >> gshift)]);
        acc = fmaf(v, to_f32(x[size_t(i) * ldx + k]), acc);
    }
    e.store(i, o, acc);
}

template <class W, class T>
__device__ __forceinline__ void linear_nm24(const T* x, const void* values, const uint16_t* meta, const __half* gscale,
                                            int out, int in, int ldx, int ldv, int ldm, int lds, int gshift,
                                            const Epilogue<T>& e) {
    int o = blockIdx.x * blockDim.x + threadIdx.x, i = blockIdx.y;
    if (o >= out) return;
    const char* row = static_cast<const char*>(values) + bytes_of<W>(size_t(o) * ldv);
    float acc = 0;
#pragma unroll 1
    for (int c = 0; c < (in + 3) / 4 * 2; c++) {
        int k = kept_column(meta + size_t(o) * ldm, c);
        if (k >= in) continue; // a group that sticks out of an odd width
        float v = at<W>(row, c);
        if (kGrouped<W>) v *= to_f32(gscale[size_t(o) * lds + (k >> gshift)]);
        acc = fmaf(v, to_f32(x[size_t(i) * ldx + k]), acc);
    }
    e.store(i, o, acc);
}

#define LINEAR_NAIVE(W, WN, T, TN)                                                                                \
    KERNEL linear_##WN##_##TN(T* y, const T* x, const void* w, const __half* gscale, const float* scale,          \
                              const float* bias, const T* res, int rows, int out, int in, int ldy, int ldx,       \
                              int ldw, int lds, int gshift, int ldr, int act) {                                   \
        linear_dense<W, T>(x, w, gscale, out, in, ldx, ldw, lds, gshift, {y, scale, bias, res, ldy, ldr, act});   \
    }                                                                                                             \
    KERNEL linear_nm24_##WN##_##TN(T* y, const T* x, const void* values, const uint16_t* meta,                    \
                                   const __half* gscale, const float* scale, const float* bias, const T* res,     \
                                   int rows, int out, int in, int ldy, int ldx, int ldv, int ldm, int lds,        \
                                   int gshift, int ldr, int act) {                                                \
        linear_nm24<W, T>(x, values, meta, gscale, out, in, ldx, ldv, ldm, lds, gshift,                           \
                          {y, scale, bias, res, ldy, ldr, act});                                                  \
    }
LINEAR_NAIVE(float, f32, float, f32)
LINEAR_NAIVE(__half, f16, float, f32)
LINEAR_NAIVE(__half, f16, __half, f16)
LINEAR_NAIVE(__nv_bfloat16, bf16, float, f32)
LINEAR_NAIVE(__nv_bfloat16, bf16, __half, f16)
LINEAR_NAIVE(int8_t, int8, float, f32)
LINEAR_NAIVE(int8_t, int8, __half, f16)
LINEAR_NAIVE(Int4, int4, float, f32)
LINEAR_NAIVE(Int4, int4, __half, f16)
