// Convolution as a matrix product: y[(b, oy, ox), (c, ky, kx)] =
//   x[b, c, oy stride - pad + ky dilation, ox stride - pad + kx dilation], 0 outside
//   x (batch, channels, height, width) T; y (batch*outh*outw, ldy) T, columns c*kh*kw.
//
// v1: one thread an element; grid (ceil(channels*kh*kw/256), batch*outh*outw), block 256.
#pragma once
#include "lane.cuh"

#define IM2COL(T, NAME)                                                                                         \
    KERNEL im2col_##NAME(T* y, const T* x, int channels, int height, int width, int kh, int kw, int outh,       \
                         int outw, int stride_h, int stride_w, int pad_h, int pad_w, int dil_h, int dil_w,      \
                         int ldy) {                                                                             \
        int j = blockIdx.x * blockDim.x + threadIdx.x, row = blockIdx.y;                                        \
        if (j >= channels * kh * kw) return;                                                                    \
        int ox = row % outw, oy = row / outw % outh, b = row / outw / outh;                                     \
        int kx = j % kw, ky = j / kw % kh, c = j / kw / kh;                                                     \
        int iy = oy * stride_h - pad_h + ky * dil_h, ix = ox * stride_w - pad_w + kx * dil_w;                   \
        bool in = iy >= 0 && iy < height && ix >= 0 && ix < width;                                              \
        y[size_t(row) * ldy + j] =                                                                              \
            in ? x[((size_t(b) * channels + c) * height + iy) * width + ix] : from_f32<T>(0.0f);                \
    }
IM2COL(float, f32)
IM2COL(__half, f16)
