// y[i,o] = epilogue(sum_k w[o,k] x[i,k]), i < rows <= 8, w 2:4 sparse: sparse decode
//   values V (out, ldv), metadata M (out, ldm) as in weights.cuh; f32 f16 bf16 int8 int4.
//   x rows must start on 16 bytes. Epilogue as in weights.cuh.
//
// v1: linear_naive.cuh.
// v2: as gemv.cuh v2: a lane reads 16 bytes of values and the metadata of the same
//     columns; the two activations of a group are picked from registers: with
//     f16 activations by one PRMT whose selector is made from the nibble
//     ((idx0 | idx1 << 8) * 0x22 + 0x1010 names the four bytes), with f32 by selects.
#pragma once
#include "gemv.cuh"

// x of 16 dense columns, as the pick needs it.
template <class T> struct Sixteen;
template <> struct Sixteen<__half> {
    uint32_t v[8];
    __device__ __forceinline__ void load(const __half* x) {
        uint4 a = reinterpret_cast<const uint4*>(x)[0], b = reinterpret_cast<const uint4*>(x)[1];
        v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w, v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
    }
    // pick(q, meta): the two kept activations of group q < 4.
    __device__ __forceinline__ float2 pick(int q, uint32_t meta) const {
        uint32_t n = meta >> (4 * q);
        uint32_t s = ((n & 3u) | ((n << 6) & 0x300u)) * 0x22u + 0x1010u;
        return half2_to_f32(__byte_perm(v[2 * q], v[2 * q + 1], s));
    }
};
template <> struct Sixteen<float> {
    float v[16];
    __device__ __forceinline__ void load(const float* x) { load8(x, v), load8(x + 8, v + 8); }
    __device__ __forceinline__ float2 pick(int q, uint32_t meta) const {
        uint32_t n = meta >> (4 * q);
        const float* g = v + 4 * q;
        float lo = n & 1u ? g[1] : g[0]; // idx0 is 0, 1 or 2
        float hi = n & 4u ? g[3] : g[2]; // idx1 is 1, 2 or 3
        return make_float2(n & 2u ? g[2] : lo, n & 8u ? hi : g[1]);
    }
};

// How many dense columns a 16-byte read of values covers (f32: two reads).
template <class W> struct Span { static constexpr int kCols = 2 * Chunk<W>::kElems; };

template <class W, class T, int B>
__device__ __forceinline__ void gemv_nm24_span(float (&acc)[kGemvRows][B], const T* x,
                                               const char* const (&v)[kGemvRows],
                                               const uint16_t* const (&m)[kGemvRows],
                                               const __half* const (&gs)[kGemvRows], int k, int ldx, int rows,
                                               int gshift) {
    constexpr int kCols = Span<W>::kCols, kParts = kCols / 16, kWords = kParts * Unpack8<W>::kWords;
    uint32_t raw[kGemvRows][kWords], meta[kGemvRows][kParts];
#pragma unroll
    for (int r = 0; r < kGemvRows; r++) {
#pragma unroll
        for (int q = 0; q < kWords / 4; q++) {
            uint4 d = load_stream(v[r] + bytes_of<W>(k / 2) + 16 * q);
            raw[r][4 * q] = d.x, raw[r][4 * q + 1] = d.y, raw[r][4 * q + 2] = d.z, raw[r][4 * q + 3] = d.w;
        }
        const uint16_t* at = m[r] + k / 16;
        if (kParts == 1) {
            meta[r][0] = *at;
        } else if (kParts == 2) {
            uint32_t d = *reinterpret_cast<const uint32_t*>(at);
            meta[r][0] = d, meta[r][1] = d >> 16;
        } else {
            uint2 d = *reinterpret_cast<const uint2*>(at);
            meta[r][0] = d.x, meta[r][1] = d.x >> 16, meta[r][kParts - 2] = d.y, meta[r][kParts - 1] = d.y >> 16;
        }
    }
    // int4: every 32 columns share a scale, which is applied to their sum.
    float part[kGemvRows][B];
#pragma unroll
    for (int s = 0; s < kParts; s++) {
        float wf[kGemvRows][8];
#pragma unroll
        for (int r = 0; r < kGemvRows; r++) {
            Unpack8<W>::to(&raw[r][s * Unpack8<W>::kWords], wf[r]);
#pragma unroll
            for (int b = 0; b < B; b++)
                if (s == 0 || (kGrouped<W> && s == 2)) part[r][b] = kGrouped<W> ? 0.0f : acc[r][b];
        }
#pragma unroll
        for (int b = 0; b < B; b++) {
            Sixteen<T> xs;
            xs.load(x + x_row<B>(b, rows, ldx) + k + 16 * s);
#pragma unroll
            for (int r = 0; r < kGemvRows; r++)
#pragma unroll
                for (int q = 0; q < 4; q++) {
                    float2 p = xs.pick(q, meta[r][s]);
                    part[r][b] = fmaf(wf[r][2 * q], p.x, part[r][b]);
                    part[r][b] = fmaf(wf[r][2 * q + 1], p.y, part[r][b]);
                }
        }
        if (s == kParts - 1 || (kGrouped<W> && s == 1))
#pragma unroll
            for (int r = 0; r < kGemvRows; r++) {
                float scale = kGrouped<W> ? to_f32(gs[r][(k + 16 * s) >> gshift]) : 1.0f;
#pragma unroll
                for (int b = 0; b < B; b++) acc[r][b] = kGrouped<W> ? fmaf(part[r][b], scale, acc[r][b]) : part[r][b];
            }
    }
}

template <class W, class T, int B>
__device__ __forceinline__ void gemv_nm24_warp(const T* x, const void* values, const uint16_t* meta,
                                               const __half* gscale, int rows, int out, int in, int ldx, int ldv,
                                               int ldm, int lds, int gshift, const Epilogue<T>& e) {
    constexpr int kCols = Span<W>::kCols;
    int lane = threadIdx.x % kWarp;
    int o0 = (blockIdx.x * kGemvWarps + threadIdx.x / kWarp) * kGemvRows;
    float acc[kGemvRows][B] = {};
    const char* v[kGemvRows];
    const uint16_t* m[kGemvRows];
    const __half* gs[kGemvRows];
#pragma unroll
    for (int r = 0; r < kGemvRows; r++) {
        int o = min(o0 + r, out - 1);
        v[r] = static_cast<const char*>(values) + bytes_of<W>(size_t(o) * ldv);
        m[r] = meta + size_t(o) * ldm;
        gs[r] = gscale + size_t(o) * lds;
    }
    int k = lane * kCols, full = in / kCols * kCols;
#pragma unroll(B == 1 ? 2 : 1)
    for (; k < full; k += kWarp * kCols) gemv_nm24_span<W, T, B>(acc, x, v, m, gs, k, ldx, rows, gshift);
#pragma unroll 1
    for (int c = full / 2 + lane; c < (in + 3) / 4 * 2; c += kWarp) // fewer than kCols columns are left
#pragma unroll
        for (int r = 0; r < kGemvRows; r++) {
            int col = kept_column(m[r], c);
            if (col >= in) continue; // a group that sticks out of an odd width
            float w = at<W>(v[r], c);
            if (kGrouped<W>) w *= to_f32(gs[r][col >> gshift]);
#pragma unroll
            for (int b = 0; b < B; b++) acc[r][b] = fmaf(w, to_f32(x[x_row<B>(b, rows, ldx) + col]), acc[r][b]);
        }
    gemv_finish<T, B>(acc, o0, out, rows, e);
}

// Eight rows of f32 activations with int8 or int4 weights do not fit the registers:
// that kernel makes two passes of four.
#define GEMV_NM24(W, WN, T, TN, B)                                                                                  \
    KERNEL __launch_bounds__(kGemvWarps* kWarp, gemv_blocks(B))                                                                   \
        gemv_nm24_##WN##_##TN##_b##B(T* y, const T* x, const void* values, const uint16_t* meta,                    \
                                     const __half* gscale, const float* scale, const float* bias, const T* res,     \
                                     int rows, int out, int in, int ldy, int ldx, int ldv, int ldm, int lds,        \
                                     int gshift, int ldr, int act) {                                                \
        constexpr int kPass = B == 8 && sizeof(W) == 1 && sizeof(T) == 4 ? 4 : B; /* registers: see above */        \
        _Pragma("unroll 1") for (int i = 0; i < (B == kPass ? 1 : rows); i += kPass)                                                   \
            gemv_nm24_warp<W, T, kPass>(x + size_t(i) * ldx, values, meta, gscale, min(rows - i, kPass), out, in,   \
                                        ldx, ldv, ldm, lds, gshift,                                                 \
                                        {y + size_t(i) * ldy, scale, bias, res ? res + size_t(i) * ldr : res, ldy,  \
                                         ldr, act});                                                                \
    }
#define GEMV_NM24_BATCHES(W, WN, T, TN) \
    GEMV_NM24(W, WN, T, TN, 1) GEMV_NM24(W, WN, T, TN, 4) GEMV_NM24(W, WN, T, TN, 8)
GEMV_NM24_BATCHES(float, f32, float, f32)
GEMV_NM24_BATCHES(__half, f16, float, f32)
GEMV_NM24_BATCHES(__half, f16, __half, f16)
GEMV_NM24_BATCHES(__nv_bfloat16, bf16, float, f32)
GEMV_NM24_BATCHES(__nv_bfloat16, bf16, __half, f16)
GEMV_NM24_BATCHES(int8_t, int8, float, f32)
GEMV_NM24_BATCHES(int8_t, int8, __half, f16)
GEMV_NM24_BATCHES(Int4, int4, float, f32)
GEMV_NM24_BATCHES(Int4, int4, __half, f16)
