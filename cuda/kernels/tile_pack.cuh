// Row-major weights to tiles (tile.cuh), on the device:
//   pack_nm24_{b16,b8}: values V (out, ldv) and metadata M (out, ldm) of weights.cuh
//   pack_dense_{b16,b8}: W (out, ldw); b16: f16 or bf16, b8: int8 or e4m3
//   What lies beyond the matrix becomes zero, metadata nibble 4.
// The host's twin is Go package cuda/tile.
//
// v1: one block a tile, a word a thread and turn; grid (k-tiles, ceil(out/64)), block 128.
#pragma once
#include "tile.cuh"
#include "weights.cuh"

constexpr int kPackThreads = 128;

// tile_start: byte offset of tile (mt, kt); KT k-tiles, MT row blocks.
__device__ __forceinline__ size_t tile_start(unsigned mt, unsigned kt, unsigned KT, unsigned MT, unsigned tile_bytes) {
    unsigned band = mt / 2, n = min(2u, MT - 2 * band);
    return (size_t(band) * 2 * KT + size_t(kt) * n + mt % 2) * tile_bytes;
}

// One word of values: its row and the first stored element, counted in the tile.
template <int kSize> __device__ __forceinline__ void word_place(unsigned word, int& row, int& col) {
    unsigned j = word % 4, lane = word / 4 % kWarp, i = word / 128 % 4, s = word / 512;
    row = 16 * i + lane / 4 + 8 * (j % 2);
    col = (32 * s + 16 * (j / 2) + 4 * (lane % 4)) / kSize;
}

// kStored: stored elements of a tile row; values word by word.
template <class E, int kStored>
__device__ __forceinline__ void pack_values(uint32_t* to, const E* v, int out, int stored, int ld) {
    constexpr int kPer = 4 / sizeof(E), kWords = kStored * 64 / kPer;
#pragma unroll 1
    for (int n = 0; n < kWords / kPackThreads; n++) {
        unsigned word = n * kPackThreads + threadIdx.x;
        int row, col;
        word_place<sizeof(E)>(word, row, col);
        row += blockIdx.y * 64, col += blockIdx.x * kStored;
        uint32_t packed = 0;
#pragma unroll
        for (int e = 0; e < kPer; e++)
            if (row < out && col + e < stored) packed |= uint32_t(v[size_t(row) * ld + col + e]) << (8 * sizeof(E) * e);
        to[word] = packed;
    }
}

// The metadata word of 16 columns w of a row, nibble 4 where there are no groups.
__device__ __forceinline__ uint32_t meta_word(const uint16_t* m, int row, int w, int out, int groups, int ldm) {
    int there = row < out ? min(groups - 4 * w, 4) : 0;
    if (there <= 0) return 0x4444u;
    uint32_t keep = (1u << (4 * there)) - 1;
    return (m[size_t(row) * ldm + w] & keep) | (0x4444u & ~keep);
}

template <class E>
__device__ __forceinline__ void pack_nm24(char* packed, const E* v, const uint16_t* m, int out, int in, int ldv, int ldm) {
    constexpr bool kNarrow = sizeof(E) == 1;
    constexpr int kBytes = kNarrow ? 5120 : 4608, kStored = kNarrow ? 64 : 32;
    uint32_t* to = reinterpret_cast<uint32_t*>(packed + tile_start(blockIdx.y, blockIdx.x, gridDim.x, gridDim.y, kBytes));
    pack_values<E, kStored>(to, v, out, (in + 3) / 4 * 2, ldv);
    int groups = (in + 3) / 4;
#pragma unroll 1
    for (int n = 0; n < (kBytes - 4096) / 4 / kPackThreads; n++) {
        unsigned r = n * kPackThreads + threadIdx.x;
        int row, w;
        uint32_t lo, hi;
        if (kNarrow) {
            unsigned i = r % 4, lane = r / 4 % kWarp, s = r / 128, t = lane % 4;
            row = blockIdx.y * 64 + 16 * i + lane / 4 + 8 * (t % 2), w = blockIdx.x * 8 + 4 * s + 2 * (t / 2);
            lo = meta_word(m, row, w, out, groups, ldm), hi = meta_word(m, row, w + 1, out, groups, ldm);
        } else {
            unsigned p = r % 2, lane = r / 2 % kWarp, s = r / 64, t = lane % 4;
            row = blockIdx.y * 64 + 16 * (2 * p + t / 2) + lane / 4, w = blockIdx.x * 4 + 2 * s + t % 2;
            lo = meta_word(m, row, w, out, groups, ldm), hi = meta_word(m, row + 8, w, out, groups, ldm);
        }
        to[1024 + r] = lo | hi << 16;
    }
}

#define TILE_PACK(E, NAME)                                                                                  \
    KERNEL pack_nm24_##NAME(char* packed, const E* values, const uint16_t* meta, int out, int in, int ldv, int ldm) { \
        pack_nm24<E>(packed, values, meta, out, in, ldv, ldm);                                              \
    }                                                                                                       \
    KERNEL pack_dense_##NAME(char* packed, const E* w, int out, int in, int ldw) {                          \
        char* to = packed + tile_start(blockIdx.y, blockIdx.x, gridDim.x, gridDim.y, 8192);                 \
        pack_values<E, 128 / sizeof(E)>(reinterpret_cast<uint32_t*>(to), w, out, in, ldw);                  \
    }
TILE_PACK(uint16_t, b16)
TILE_PACK(uint8_t, b8)
