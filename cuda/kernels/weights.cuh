// The forms a weight matrix (out, in) takes on the device, and how one lane
// reads them. Everything else about a format is in package sparse.
//
//   dense   W[out][ldw], row-major, k fastest. f32 f16 bf16 int8; int4: codes
//           u = q + 8, element k in nibble k%8 (LSB first) of word k/8, ldw in elements.
//   nm24    values V[out][ldv] (the kept two of every four, ldv in elements) and
//           metadata M[out][ldm] of uint16: the nibble of group j (dense columns
//           4j..4j+3) is bits 4(j%4).. of word j/4: idx0 | idx1 << 2, idx0 < idx1.
//   scales  int8: one f32 per row, applied in the epilogue.
//           int4: f16 S[out][lds], one per `group` dense columns: w = S * (u - 8).
//
// Rows are padded with zeros (int4: code 8; metadata: nibble 4) so that one lane
// may read 16 bytes at a time: ldw, ldv multiples of 16 bytes; the padded dense
// width is a multiple of 16 columns (nm24 f32 f16 bf16), 32 (int8), 64 (int4).
// Activations need no padding beyond 16-byte aligned rows: reads stop at `in`.
#pragma once
#include "lane.cuh"

struct Int4 {}; // a tag: two codes a byte

// kGrouped: does a form have a scale per group of columns?
template <class W> constexpr bool kGrouped = false;
template <> constexpr bool kGrouped<Int4> = true;

// Read-only 128-bit load that does not push the activations out of L1.
__device__ __forceinline__ uint4 load_stream(const void* p) {
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(p));
    return v;
}

__device__ __forceinline__ float2 half2_to_f32(uint32_t v) {
    __half2 h = *reinterpret_cast<__half2*>(&v);
    return __half22float2(h);
}
__device__ __forceinline__ float bf16_lo(uint32_t v) { return __uint_as_float(v << 16); }
__device__ __forceinline__ float bf16_hi(uint32_t v) { return __uint_as_float(v & 0xffff0000u); }

// unpack8<W>(p, w): 8 consecutive elements of registers p as f32.
template <class W> struct Unpack8;
template <> struct Unpack8<float> {
    static constexpr int kWords = 8;
    __device__ __forceinline__ static void to(const uint32_t* p, float* w) {
#pragma unroll
        for (int i = 0; i < 8; i++) w[i] = __uint_as_float(p[i]);
    }
};
template <> struct Unpack8<__half> {
    static constexpr int kWords = 4;
    __device__ __forceinline__ static void to(const uint32_t* p, float* w) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            float2 f = half2_to_f32(p[i]);
            w[2 * i] = f.x, w[2 * i + 1] = f.y;
        }
    }
};
template <> struct Unpack8<__nv_bfloat16> {
    static constexpr int kWords = 4;
    __device__ __forceinline__ static void to(const uint32_t* p, float* w) {
#pragma unroll
        for (int i = 0; i < 4; i++) w[2 * i] = bf16_lo(p[i]), w[2 * i + 1] = bf16_hi(p[i]);
    }
};
template <> struct Unpack8<int8_t> {
    static constexpr int kWords = 2;
    __device__ __forceinline__ static void to(const uint32_t* p, float* w) {
#pragma unroll
        for (int i = 0; i < 8; i++) w[i] = float(int(p[i / 4] << (24 - 8 * (i % 4))) >> 24);
    }
};
// int4: (u | 0x6400) is the f16 1024 + u, so one AND-OR and one subtraction make
// two exact halves; element i pairs with element i + 4 in one word.
template <> struct Unpack8<Int4> {
    static constexpr int kWords = 1;
    __device__ __forceinline__ static void to(const uint32_t* p, float* w) {
        const uint32_t bias = 0x64086408u; // 1024 + 8
#pragma unroll
        for (int i = 0; i < 4; i++) {
            uint32_t u = ((p[0] >> (4 * i)) & 0x000f000fu) | 0x64006400u;
            __half2 d = __hsub2(*reinterpret_cast<__half2*>(&u), *reinterpret_cast<const __half2*>(&bias));
            float2 f = __half22float2(d);
            w[i] = f.x, w[i + 4] = f.y;
        }
    }
};

// bytes_of<W>(n): where element n of a row starts.
template <class W> __device__ __forceinline__ size_t bytes_of(size_t n) { return n * sizeof(W); }
template <> __device__ __forceinline__ size_t bytes_of<Int4>(size_t n) { return n / 2; }

// load8(x, v): v[0..7] = x[0..7] as f32; x on 16 bytes.
__device__ __forceinline__ void load8(const float* x, float* v) {
    float4 a = *reinterpret_cast<const float4*>(x), b = *reinterpret_cast<const float4*>(x + 4);
    v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w, v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
}
__device__ __forceinline__ void load8(const __half* x, float* v) {
    uint4 a = *reinterpret_cast<const uint4*>(x);
    Unpack8<__half>::to(&a.x, v);
}

// at<W>(row, k): element k of a row as f32, without its scale.
template <class W> __device__ __forceinline__ float at(const void* row, int k) {
    return to_f32(static_cast<const W*>(row)[k]);
}
template <> __device__ __forceinline__ float at<Int4>(const void* row, int k) {
    return float(int((static_cast<const uint32_t*>(row)[k / 8] >> (4 * (k % 8))) & 15u) - 8);
}

// kept_column(meta, c): the dense column of kept value c of a 2:4 row.
__device__ __forceinline__ int kept_column(const uint16_t* meta, int c) {
    uint32_t nibble = uint32_t(meta[c / 8]) >> (4 * (c / 2 % 4));
    return c / 2 * 4 + int(c % 2 ? nibble >> 2 & 3u : nibble & 3u);
}

// What every matrix product does with a finished sum:
//   v = acc * scale[o]; v += bias[o]; v = act(v); v += res[i,o]; y[i,o] = v
// Null pointers skip their step.
template <class T> struct Epilogue {
    T* y;
    const float* scale;
    const float* bias;
    const T* res;
    int ldy, ldr, act;
    __device__ __forceinline__ void store(int i, int o, float v) const {
        if (scale) v *= scale[o];
        if (bias) v += bias[o];
        v = activate(v, act);
        if (res) v += to_f32(res[size_t(i) * ldr + o]);
        y[size_t(i) * ldy + o] = from_f32<T>(v);
    }
    // store4: outputs o..o+3, those below out. One wide store where the row allows it.
    __device__ __forceinline__ void store4(int i, int o, int out, float (&v)[4]) const {
        T packed[4];
#pragma unroll
        for (int q = 0; q < 4; q++) {
            bool in = o + q < out;
            if (scale && in) v[q] *= scale[o + q];
            if (bias && in) v[q] += bias[o + q];
        }
        if (act != kActNone)
#pragma unroll 1
            for (int q = 0; q < 4; q++) { // v turns, so that the switch is there once
                float first = activate(v[0], act);
                v[0] = v[1], v[1] = v[2], v[2] = v[3], v[3] = first;
            }
#pragma unroll
        for (int q = 0; q < 4; q++) {
            if (res && o + q < out) v[q] += to_f32(res[size_t(i) * ldr + o + q]);
            packed[q] = from_f32<T>(v[q]);
        }
        T* to = y + size_t(i) * ldy + o;
        if (o + 4 <= out && reinterpret_cast<uintptr_t>(to) % sizeof(packed) == 0) {
            if (sizeof(T) == 2) *reinterpret_cast<uint2*>(to) = *reinterpret_cast<uint2*>(packed);
            else *reinterpret_cast<uint4*>(to) = *reinterpret_cast<uint4*>(packed);
        } else {
#pragma unroll
            for (int q = 0; q < 4; q++)
                if (o + q < out) to[q] = packed[q];
        }
    }
};
