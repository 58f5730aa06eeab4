// y[i,:] = w[token[i],:], w dense in the tiles of tile.cuh: an embedding that is also the
// head of its model is stored once, in the form that the head's products read.
//   token (rows) int32, in 0..vocab-1 (others give zeros); scale (vocab) f32 for int8; y (rows, width) f16.
//
// v1: one block a row, an element a thread and turn. A row of a tile lies in words 16 bytes
//     apart, which costs more sectors than row-major would; a token's row is a few KiB.
#pragma once
#include "tile_pack.cuh"

// tile_value: element c of a row of a tile, times its scale.
template <class W> struct TileValue {
    static constexpr int kBytes = 8192, kColumns = 128 / sizeof(W);
    __device__ __forceinline__ static float at(const char* tile, int row, int c, float scale) {
        int byte = c * int(sizeof(W)), s = byte / 32, b = byte % 32;
        int word = ((s * 4 + row / 16) * kWarp + row % 8 * 4 + b % 16 / 4) * 4 + b / 16 * 2 + row / 8 % 2;
        return to_f32(*reinterpret_cast<const W*>(tile + word * 4 + b % 4)) * scale;
    }
};
template <> struct TileValue<Int4> {
    static constexpr int kBytes = 2176, kColumns = 64;
    __device__ __forceinline__ static float at(const char* tile, int row, int c, float) {
        int e = c % 16, nibble = e / 8 * 2 + row / 8 % 2 + e % 2 * 4;
        uint32_t codes = *reinterpret_cast<const uint32_t*>(tile + c / 16 * 512 + (row % 8 * 4 + e % 8 / 2) * 16 + row / 16 * 4);
        __half group = *reinterpret_cast<const __half*>(tile + 2048 + (row % 8 * 4 + row / 16) * 4 + row / 8 % 2 * 2);
        return float(int(codes >> (4 * nibble) & 15u) - 8) * to_f32(group);
    }
};

template <class W, bool kScaled>
__device__ __forceinline__ void embedding_tile(__half* y, const char* w, const float* scale, const int* token, int vocab,
                                               int width, int ldy) {
    using V = TileValue<W>;
    const int id = token[blockIdx.x];
    const bool ok = id >= 0 && id < vocab;
    const int row = ok ? id : 0;
    const float s = kScaled ? scale[row] : 1.0f;
    const unsigned nk = (width + V::kColumns - 1) / V::kColumns, nm = (vocab + 63) / 64;
    for (int j = threadIdx.x; j < width; j += blockDim.x) {
        const char* tile = w + tile_start(row / 64, j / V::kColumns, nk, nm, V::kBytes);
        y[size_t(blockIdx.x) * ldy + j] = __float2half_rn(ok ? V::at(tile, row % 64, j % V::kColumns, s) : 0.0f);
    }
}

#define EMBEDDING_TILE(W, NAME, SCALED)                                                                              \
    KERNEL embedding_tile_##NAME##_f16(__half* y, const char* w, const float* scale, const int* token, int vocab,    \
                                       int width, int ldy) {                                                         \
        embedding_tile<W, SCALED>(y, w, scale, token, vocab, width, ldy);                                            \
    }
EMBEDDING_TILE(__half, f16, false)
EMBEDDING_TILE(__nv_bfloat16, bf16, false)
EMBEDDING_TILE(int8_t, int8, true)
EMBEDDING_TILE(Int4, int4, false)
