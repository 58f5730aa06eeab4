// y[i,o] = epilogue(tokscale[i] * sum_z ws[z,i,o])
//   ws (splits, rows, out) f32: what a split tile_gemm left; epilogue as in weights.cuh.
//
// v1: one output a thread; grid (ceil(out/256), rows).
#pragma once
#include "weights.cuh"

#define SPLITK_FINISH(Y, NAME)                                                                                    \
    KERNEL splitk_finish_##NAME(Y* y, const float* ws, const float* tokscale, const float* scale,                 \
                                const float* bias, const Y* res, int splits, int rows, int out, int ldy, int ldr, \
                                int act) {                                                                        \
        int o = blockIdx.x * blockDim.x + threadIdx.x, i = blockIdx.y;                                            \
        if (o >= out) return;                                                                                     \
        float v = 0;                                                                                              \
        _Pragma("unroll 1") for (int z = 0; z < splits; z++) v += ws[(size_t(z) * rows + i) * out + o];                               \
        if (tokscale) v *= tokscale[i];                                                                           \
        Epilogue<Y>{y, scale, bias, res, ldy, ldr, act}.store(i, o, v);                                           \
    }
SPLITK_FINISH(float, f32)
SPLITK_FINISH(__half, f16)
SPLITK_FINISH(__nv_bfloat16, bf16)
