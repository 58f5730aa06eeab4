// y[i,o] = epilogue(sum_k w[o,k] x[i,k]), w unstructured sparse with one bit a weight:
// stored sparse, multiplied dense (mma.sync), worth it where bytes are what limits.
//   w in tiles of 64 rows x 64 columns of 16-bit values, tile (mt, kt) from 16 * offset[mt (KT+1) + kt]
//   to 16 * offset[mt (KT+1) + kt + 1] bytes: 64 words of 64 bits, word (s*4 + i)*4 + j; 16 uint16,
//   number s*4 + i saying how many values come before word (s*4 + i)*4; the values, word by word,
//   low bits first; zeros up to 16 bytes. Bit 2 lane + e of a word is row 16 i + g + 8 (j%2),
//   column 16 s + 8 (j/2) + 2t + e: the order of an A fragment (lane = 4g + t).
//   maxtile: bytes of the largest tile, rounded up to 64 (x's stages stay on 128, as the swizzle needs).
//   x (rows, in), in % 8 == 0, ldx % 8 == 0. Epilogue as in weights.cuh.
//
// v1: per k-tile the block copies bitmaps, values and x with cp.async (2 stages), the four
//     warps expand their quarter into a dense tile in lane order (popcounts give each lane
//     its place), then the products run as in gemm.cuh.
#pragma once
#include "tile_gemm.cuh"

// expand_word: the two halves of a lane's register from one word of the bitmap.
// before counts the values ahead of the word; lo, hi mask the bits of lower lanes.
__device__ __forceinline__ uint32_t expand_word(uint32_t w0, uint32_t w1, uint32_t lo, uint32_t hi, int lane,
                                                uint32_t values, int& before) {
    int at = before + __popc(w0 & lo) + __popc(w1 & hi);
    before += __popc(w0) + __popc(w1);
    uint32_t bits = (lane < 16 ? w0 : w1) >> (2 * lane % 32);
    uint32_t a = 0, b = 0;
    if (bits & 1u) asm volatile("ld.shared.u16 %0, [%1];" : "=r"(a) : "r"(values + 2 * at));
    if (bits & 2u) asm volatile("ld.shared.u16 %0, [%1];" : "=r"(b) : "r"(values + 2 * (at + int(bits & 1u))));
    return a | b << 16;
}

template <class X, class Y, int BN, int WM, int WN>
__device__ __forceinline__ void spmm_bitmask(const void* x, const void* w, const uint32_t* offset, int maxtile, float* ws,
                                             uint32_t* tickets, int rows, int out, int in, int ldx, const Epilogue<Y>& e) {
    constexpr int kMI = WM / 16, kNJ = WN / 8, kWarpsN = BN / WN, kXBytes = BN * 128, kPitch = kTileRows + 4;
    constexpr int kXChunks = BN * 8 / kTileThreads, kHead = 512 + 32, kOpen = 2 * 8192;
    extern __shared__ __align__(128) char smem[];
    const uint32_t base = smem_addr(smem), stages = base + kOpen;
    const uint32_t stride = kXBytes + 2 * maxtile;
    const int tid = threadIdx.x, lane = tid % kWarp, warp = tid / kWarp;
    const int warp_m = warp / kWarpsN, warp_n = warp % kWarpsN, row0 = blockIdx.y * BN;
    const int tiles = (in + 63) / 64, per = (tiles + gridDim.z - 1) / gridDim.z;
    const int first = blockIdx.z * per, last = min(first + per, tiles);
    const int blocks = min(2, (out + 63) / 64 - 2 * int(blockIdx.x));
    const uint32_t* from = offset + size_t(blockIdx.x) * 2 * (tiles + 1);
    const uint32_t lo = lane < 16 ? (1u << (2 * lane)) - 1 : 0xffffffffu;
    const uint32_t hi = lane < 16 ? 0 : (1u << (2 * lane - 32)) - 1;

    const int chunk = tid % 8, xrow = tid / 8;
    const char* xsrc = static_cast<const char*>(x) + size_t(row0 + xrow) * ldx * 2 + chunk * 16;
    const uint32_t xdst = xrow * 128 + (chunk ^ (xrow & 7)) * 16;
    auto copy = [&](int kt, uint32_t stage) {
#pragma unroll 1
        for (int b = 0; b < blocks; b++) {
            const uint32_t* t = from + b * (tiles + 1) + kt;
            const char* src = static_cast<const char*>(w) + size_t(t[0]) * 16;
            for (int c = tid; c < int(t[1] - t[0]); c += kTileThreads)
                copy_async(stage + kXBytes + b * maxtile + c * 16, src + c * 16, true);
        }
#pragma unroll
        for (int q = 0; q < kXChunks; q++)
            copy_async(stage + xdst + q * 16 * 128, xsrc + size_t(q) * 16 * ldx * 2 + size_t(kt) * 128,
                       kt * 64 + chunk * 8 < in && row0 + xrow + q * 16 < rows);
    };

    float acc[kMI][kNJ][4] = {};
    typename Dense<X>::template Operand<kMI> fw;
    uint32_t fx[kNJ][2];
    const int i0 = WM == 64 ? 0 : warp_m % 2 * 2;
    const uint32_t wfrag = base + (WM == 64 ? warp_m : warp_m / 2) * 8192;
    const uint32_t xfrag = warp_n * WN * 128 + x_lane<4>(lane);
    if (first < last) copy(first, stages);
    copy_commit();
#pragma unroll 1
    for (int kt = first; kt < last; kt++) {
        const uint32_t stage = stages + ((kt - first) & 1) * stride;
        if (kt + 1 < last) copy(kt + 1, stages + ((kt - first + 1) & 1) * stride);
        copy_commit();
        copy_wait<1>();
        __syncthreads();
#pragma unroll 1
        for (int unit = warp; unit < 32; unit += 4) { // (row block, s, i), 256 weights each
            uint32_t open = base + unit * 512 + lane * 16, r[4] = {};
            if (unit / 16 < blocks) {
                const uint32_t tile = stage + kXBytes + unit / 16 * maxtile, word = tile + unit % 16 * 32;
                uint4 a = load_shared16(word), b = load_shared16(word + 16);
                uint32_t before;
                asm volatile("ld.shared.u16 %0, [%1];" : "=r"(before) : "r"(tile + 512 + unit % 16 * 2));
                int at = int(before);
                r[0] = expand_word(a.x, a.y, lo, hi, lane, tile + kHead, at);
                r[1] = expand_word(a.z, a.w, lo, hi, lane, tile + kHead, at);
                r[2] = expand_word(b.x, b.y, lo, hi, lane, tile + kHead, at);
                r[3] = expand_word(b.z, b.w, lo, hi, lane, tile + kHead, at);
            }
            asm volatile("st.shared.v4.u32 [%0], {%1,%2,%3,%4};" ::"r"(open), "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3])
                         : "memory");
        }
        __syncthreads();
#pragma unroll
        for (int s = 0; s < 4; s++) {
            load_x(fx, stage + xfrag, s);
#pragma unroll
            for (int i = 0; i < kMI; i++) {
                fw.refill(i, wfrag, lane, s, i0);
                fw.product(0, i, acc[i], fx);
            }
        }
        __syncthreads(); // and no copy is in flight after the last turn
    }
    store_tile<Y, BN, WM, WN, kPitch>(acc, reinterpret_cast<float*>(smem), warp_m, warp_n, row0, rows, out, ws,
                                     tickets, nullptr, e);
}

#define SPMM_BITMASK(X, NAME, BN, WM, WN)                                                                           \
    KERNEL __launch_bounds__(kTileThreads) spmm_bitmask_##NAME##_n##BN(                                             \
        __half* y, const X* x, const void* w, const uint32_t* offset, int maxtile, float* ws, uint32_t* tickets,    \
        const float* scale, const float* bias, const __half* res, int rows, int out, int in, int ldy, int ldx,      \
        int ldr, int act) {                                                                                         \
        spmm_bitmask<X, __half, BN, WM, WN>(x, w, offset, maxtile, ws, tickets, rows, out, in, ldx,                 \
                                            {y, scale, bias, res, ldy, ldr, act});                                  \
    }
SPMM_BITMASK(__half, f16, 128, 64, 64)
SPMM_BITMASK(__half, f16, 64, 64, 32)
SPMM_BITMASK(__half, f16, 16, 32, 16)
SPMM_BITMASK(__nv_bfloat16, bf16, 128, 64, 64)
SPMM_BITMASK(__nv_bfloat16, bf16, 64, 64, 32)
SPMM_BITMASK(__nv_bfloat16, bf16, 16, 32, 16)
