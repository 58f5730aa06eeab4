// How the tensor-core kernels store weights and hold them in registers.
//
// A packed weight is a sequence of tiles, each 64 rows x 128 bytes of dense row
// (a k-tile: 64 columns of 16-bit types and int4, 128 of 8-bit types), stored in
// the order in which the lanes read it: no ldmatrix and no swizzle for A, every
// load is 16 consecutive bytes a lane, and a tile is one linear copy.
// Two consecutive row blocks (mt = 2 band, 2 band + 1) share a band of 128 rows;
// with KT = ceil(in / k-tile), MT = ceil(out / 64), n = min(2, MT - 2 band):
//   tile (mt, kt) starts at ((2 band) KT + kt n + mt % 2) * kTileBytes.
// Rows and columns beyond the matrix are zero (metadata nibble 4, int4 code 8).
//
// Inside a tile a step s is what one product consumes of a dense row: 64 bytes for
// nm24 (s < 2), 32 bytes for dense (s < 4), of which 32 bytes are stored either way.
// i < 4 is the m16 block, lane = 4 g + t, register j < 4 as in mma.cuh: row
// 16 i + g + 8 (j%2), stored bytes 16 (j/2) + 4t .. +3 of the step.
//   values         at ((s*4 + i)*32 + lane)*16 + 4j
//   int4 codes     at s*512 + lane*16 + 4i, a word: stored element 8 (j/2) + 2t of register j's
//                  row in nibble j, element 8 (j/2) + 2t + 1 in nibble j + 4
//   metadata of 16-bit types and int4, at META + s*256 + lane*8 + p*4, p < 2: with i = 2p + t/2, h = t%2:
//                  low half: the word of row 16 i + g, columns 32 s + 16 h .. +15; high half: of row + 8
//   metadata of 8-bit types, at META + s*512 + lane*16 + 4i: the two words of row 16 i + g + 8 (t%2),
//                  columns 64 s + 32 (t/2) .. +31
//   int4 scales    f16, at SCALE + (g*4 + i)*4: of row 16 i + g, then of row + 8; they belong to one
//                  k-tile (64 columns): a group of 128 repeats its scale.
//   META follows the values (4096; int4 1024), SCALE follows META or, dense, the codes (1536; dense 2048).
#pragma once
#include "mma.cuh"

// An operand holds what a warp needs of w: MI m16 blocks from i0 (0 or 2) on.
//   ahead(buf, ...)  at the start of a step loads the next step's part into buffer buf;
//   refill(i, ...)   after the products of block i loads the next step's block i into
//                    the registers just used: values need no second buffer;
//   product(buf, i, ...) multiplies block i of the step in buffer buf.

// Nm24<X>: 2:4 values of X with metadata.
template <class X> struct Nm24 {
    using Elem = X;
    static constexpr bool kNarrow = sizeof(X) == 1; // 8-bit: a metadata register for each m16 block
    static constexpr int kTileBytes = kNarrow ? 5120 : 4608, kSteps = 2;
    template <int MI> struct Operand {
        static constexpr int kMeta = kNarrow ? MI : MI / 2;
        uint32_t a[MI][4], e[2][kMeta];
        __device__ __forceinline__ void ahead(int buf, uint32_t tile, int lane, int s, int i0) {
            if (kNarrow) {
                uint4 v = load_shared16(tile + 4096 + s * 512 + lane * 16);
                uint32_t all[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
                for (int i = 0; i < kMeta; i++) e[buf][i] = MI == 4 || i0 == 0 ? all[i] : all[2 + i % 2];
            } else {
                uint2 v = load_shared8(tile + 4096 + s * 256 + lane * 8);
                e[buf][0] = MI == 4 || i0 == 0 ? v.x : v.y;
                if (MI == 4) e[buf][kMeta - 1] = v.y;
            }
        }
        __device__ __forceinline__ void refill(int i, uint32_t tile, int lane, int s, int i0) {
            uint4 v = load_shared16(tile + ((s * 4 + i0 + i) * kWarp + lane) * 16);
            a[i][0] = v.x, a[i][1] = v.y, a[i][2] = v.z, a[i][3] = v.w;
        }
        template <class Acc, int NJ>
        __device__ __forceinline__ void product(int buf, int i, Acc (&acc)[NJ][4], const uint32_t (&b)[NJ][4]) const {
#pragma unroll
            for (int j = 0; j < NJ; j++) mma_sparse(X{}, acc[j], a[i], b[j], kNarrow ? e[buf][i % kMeta] : e[buf][i / 2], i % 2);
        }
    };
};

// Dense<X>: the baseline, the same tiles without sparsity.
template <class X> struct Dense {
    using Elem = X;
    static constexpr int kTileBytes = 8192, kSteps = 4;
    template <int MI> struct Operand {
        uint32_t a[MI][4];
        __device__ __forceinline__ void ahead(int, uint32_t, int, int, int) {}
        __device__ __forceinline__ void refill(int i, uint32_t tile, int lane, int s, int i0) {
            uint4 v = load_shared16(tile + ((s * 4 + i0 + i) * kWarp + lane) * 16);
            a[i][0] = v.x, a[i][1] = v.y, a[i][2] = v.z, a[i][3] = v.w;
        }
        template <class Acc, int NJ>
        __device__ __forceinline__ void product(int, int i, Acc (&acc)[NJ][4], const uint32_t (&b)[NJ][2]) const {
#pragma unroll
            for (int j = 0; j < NJ; j++) mma_dense(X{}, acc[j], a[i], b[j][0], b[j][1]);
        }
    };
};

// dequant4(a, codes, s): 8 int4 codes to a lane's 8 f16 of an m16 block:
// a = f16((u - 8) * scale), s the scales of row g (low half) and row g + 8 (high).
// u | 0x6400 is the f16 1024 + u; the subtraction is exact, the product rounds once.
__device__ __forceinline__ void dequant4(uint32_t (&a)[4], uint32_t codes, uint32_t s) {
    const uint32_t bias = 0x64086408u;
    const __half2 scales = *reinterpret_cast<__half2*>(&s);
    const __half2 row[2] = {__low2half2(scales), __high2half2(scales)};
#pragma unroll
    for (int j = 0; j < 4; j++) {
        uint32_t u = ((codes >> (4 * j)) & 0x000f000fu) | 0x64006400u;
        __half2 v = __hmul2(__hsub2(*reinterpret_cast<__half2*>(&u), *reinterpret_cast<const __half2*>(&bias)), row[j % 2]);
        a[j] = *reinterpret_cast<uint32_t*>(&v);
    }
}

// pick4: registers i0..i0+MI-1 of v, i0 0 or 2.
template <int MI> __device__ __forceinline__ void pick4(uint32_t (&to)[MI], uint4 v, int i0) {
    uint32_t all[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int i = 0; i < MI; i++) to[i] = MI == 4 || i0 == 0 ? all[i] : all[2 + i % 2];
}

// Nm24Int4: 2:4 with int4 values, dequantised in registers, one m16 block at a time
// and just before its products.
struct Nm24Int4 {
    using Elem = __half;
    static constexpr int kTileBytes = 1664, kSteps = 2;
    template <int MI> struct Operand {
        uint32_t codes[2][MI], scale[2][MI], e[2][MI / 2];
        __device__ __forceinline__ void ahead(int buf, uint32_t tile, int lane, int s, int i0) {
            pick4<MI>(codes[buf], load_shared16(tile + s * 512 + lane * 16), i0);
            pick4<MI>(scale[buf], load_shared16(tile + 1536 + lane / 4 * 16), i0);
            uint2 v = load_shared8(tile + 1024 + s * 256 + lane * 8);
            e[buf][0] = MI == 4 || i0 == 0 ? v.x : v.y;
            if (MI == 4) e[buf][MI / 2 - 1] = v.y;
        }
        __device__ __forceinline__ void refill(int, uint32_t, int, int, int) {}
        template <int NJ>
        __device__ __forceinline__ void product(int buf, int i, float (&acc)[NJ][4], const uint32_t (&b)[NJ][4]) const {
            uint32_t a[4];
            dequant4(a, codes[buf][i], scale[buf][i]);
#pragma unroll
            for (int j = 0; j < NJ; j++) mma_sparse(__half{}, acc[j], a, b[j], e[buf][i / 2], i % 2);
        }
    };
};

struct DenseInt4 {
    using Elem = __half;
    static constexpr int kTileBytes = 2176, kSteps = 4;
    template <int MI> struct Operand {
        uint32_t codes[2][MI], scale[2][MI];
        __device__ __forceinline__ void ahead(int buf, uint32_t tile, int lane, int s, int i0) {
            pick4<MI>(codes[buf], load_shared16(tile + s * 512 + lane * 16), i0);
            pick4<MI>(scale[buf], load_shared16(tile + 2048 + lane / 4 * 16), i0);
        }
        __device__ __forceinline__ void refill(int, uint32_t, int, int, int) {}
        template <int NJ>
        __device__ __forceinline__ void product(int buf, int i, float (&acc)[NJ][4], const uint32_t (&b)[NJ][2]) const {
            uint32_t a[4];
            dequant4(a, codes[buf][i], scale[buf][i]);
#pragma unroll
            for (int j = 0; j < NJ; j++) mma_dense(__half{}, acc[j], a, b[j][0], b[j][1]);
        }
    };
};

// load_x: the fragments of step s of NJ n8 blocks; addr is this lane's row of x in
// shared memory at chunk 0 of step 0 (see x_lane), its swizzle included.
//   nm24: one ldmatrix for the 64 bytes of a block; dense: one for the 32 bytes of two.
template <int NJ> __device__ __forceinline__ void load_x(uint32_t (&b)[NJ][4], uint32_t addr, int s) {
#pragma unroll
    for (int j = 0; j < NJ; j++) ldmatrix4(b[j], (addr ^ (s * 64)) + j * 1024);
}
template <int NJ> __device__ __forceinline__ void load_x(uint32_t (&b)[NJ][2], uint32_t addr, int s) {
#pragma unroll
    for (int j = 0; j < NJ; j += 2) {
        uint32_t r[4];
        ldmatrix4(r, (addr ^ (s * 32)) + j * 1024);
        b[j][0] = r[0], b[j][1] = r[1], b[j + 1][0] = r[2], b[j + 1][1] = r[3];
    }
}
// x_lane: byte offset of the address a lane gives to ldmatrix, from row 0 of its blocks.
template <int kSteps> __device__ __forceinline__ uint32_t x_lane(int lane) {
    return kSteps == 2 ? lane % 8 * 128 + ((lane / 8) ^ (lane % 8)) * 16
                       : (lane % 8 + lane / 16 * 8) * 128 + ((lane / 8 % 2) ^ (lane % 8)) * 16;
}
