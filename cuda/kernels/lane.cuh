// What every kernel shares: element types, conversions, one warp's and one
// block's reductions. No sinf/powf and no libdevice slow paths anywhere in the
// kernels: tables come from the host, exponentials are one ex2. That keeps the
// set of PTX opcodes small, which the simulator (cuda/ptxsim) executes.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cstdint>

#define KERNEL extern "C" __global__ void

constexpr int kWarp = 32;
constexpr float kLog2e = 1.4426950408889634f;

__device__ __forceinline__ float to_f32(float v) { return v; }
__device__ __forceinline__ float to_f32(__half v) { return __half2float(v); }
__device__ __forceinline__ float to_f32(__nv_bfloat16 v) { return __bfloat162float(v); }
__device__ __forceinline__ float to_f32(int8_t v) { return float(v); }

// from_f32<T>(v): round to nearest even into T.
template <class T> __device__ __forceinline__ T from_f32(float v);
template <> __device__ __forceinline__ float from_f32<float>(float v) { return v; }
template <> __device__ __forceinline__ __half from_f32<__half>(float v) { return __float2half_rn(v); }
template <> __device__ __forceinline__ __nv_bfloat16 from_f32<__nv_bfloat16>(float v) { return __float2bfloat16_rn(v); }

// 2^x, e^x, 1/x, 1/sqrt(x) by the special function unit; e^x has a relative
// error of about 2^-22 + |x| 2^-24.
__device__ __forceinline__ float exp2_fast(float x) { float y; asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x)); return y; }
__device__ __forceinline__ float exp_fast(float x) { return exp2_fast(x * kLog2e); }
__device__ __forceinline__ float rcp_fast(float x) { float y; asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x)); return y; }
__device__ __forceinline__ float rsqrt_fast(float x) { float y; asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x)); return y; }

__device__ __forceinline__ float warp_sum(float v) {
#pragma unroll
    for (int d = kWarp / 2; d > 0; d >>= 1) v += __shfl_xor_sync(0xffffffffu, v, d);
    return v;
}
__device__ __forceinline__ float warp_max(float v) {
#pragma unroll
    for (int d = kWarp / 2; d > 0; d >>= 1) v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, d));
    return v;
}

// block_sum, block_max: every thread of the block gets the result. slots holds
// one float per warp (32 of them) in shared memory; to use it again, put a barrier between.
__device__ __forceinline__ float block_sum(float v, float* slots) {
    v = warp_sum(v);
    if (threadIdx.x % kWarp == 0) slots[threadIdx.x / kWarp] = v;
    __syncthreads();
    return warp_sum(threadIdx.x % kWarp < blockDim.x / kWarp ? slots[threadIdx.x % kWarp] : 0.0f);
}
__device__ __forceinline__ float block_max(float v, float* slots) {
    v = warp_max(v);
    if (threadIdx.x % kWarp == 0) slots[threadIdx.x / kWarp] = v;
    __syncthreads();
    return warp_max(threadIdx.x % kWarp < blockDim.x / kWarp ? slots[threadIdx.x % kWarp] : -INFINITY);
}

// Activations of the field, by number as the launchers pass them.
enum Act : int { kActNone = 0, kActReLU = 1, kActSiLU = 2, kActGELU = 3, kActSigmoid = 4, kActTanh = 5 };

// act(v): GELU is the tanh form; tanh(x) = 1 - 2/(e^2x + 1).
__device__ __forceinline__ float sigmoid_fast(float v) { return rcp_fast(1.0f + exp_fast(-v)); }
__device__ __forceinline__ float tanh_fast(float v) { return 1.0f - 2.0f * rcp_fast(1.0f + exp_fast(2.0f * v)); }
__device__ __forceinline__ float activate(float v, int act) {
    switch (act) {
    case kActReLU: return fmaxf(v, 0.0f);
    case kActSiLU: return v * sigmoid_fast(v);
    case kActGELU: return 0.5f * v * (1.0f + tanh_fast(0.7978845608028654f * (v + 0.044715f * v * v * v)));
    case kActSigmoid: return sigmoid_fast(v);
    case kActTanh: return tanh_fast(v);
    default: return v;
    }
}
