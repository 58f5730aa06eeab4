// y[i,o] = epilogue(sum_k w[o,k] x[i,k]) on tensor cores, one block a tile of
// 128 outputs x BN activation rows, for every packed weight form of tile.cuh.
// The operand A of the products is w, B is x: y's tile comes out transposed and
// is turned in shared memory.
//
// Per k-tile (128 bytes of an x row) a block copies 2 weight tiles and BN rows of
// x with cp.async into one of S stages; x rows are 8 chunks of 16 bytes, chunk c of
// row r lying at c ^ (r & 7), so that both the copies and ldmatrix touch every bank
// once. Fragments are loaded one step ahead of the products.
// gridDim.z > 1 splits k: every block leaves its f32 sums in ws, and the last of a tile to
// arrive - tickets counts them - adds them up in the order of z and applies the epilogue, so
// that few rows fill the device with one launch and always give the same bits.
//   ws       (ceil(rows/BN), gridDim.x, gridDim.z, BN, 128) f32
//   tickets  (ceil(rows/BN), gridDim.x) uint32, zero before; the kernel leaves zeros
#pragma once
#include "tile.cuh"
#include "weights.cuh"

constexpr int kTileThreads = 128;
constexpr int kTileRows = 128; // outputs a block

// Geometry of one instance: WN columns of x and WM outputs a warp, S stages.
template <class P, int BN, int WM, int WN, int S> struct TileShape {
    static constexpr int kWarpsN = BN / WN, kMI = WM / 16, kNJ = WN / 8;
    static constexpr int kXBytes = BN * 128, kWBytes = 2 * P::kTileBytes, kStage = kXBytes + kWBytes;
    static constexpr int kPitch = kTileRows + 4; // f32 of a row of the turned tile
    static constexpr int kShared = S * kStage > BN * kPitch * 4 ? S * kStage : BN * kPitch * 4;
    static_assert(kTileRows / WM * kWarpsN * kWarp == kTileThreads, "warps");
};

// store_tile turns the block's tile in shared memory and stores it through the epilogue;
// where k is split, the last block of the tile does so with everybody's sums.
template <class Y, int BN, int WM, int WN, int kPitch, class Acc, int MI, int NJ>
__device__ __forceinline__ void store_tile(const Acc (&acc)[MI][NJ][4], float* turned, int warp_m, int warp_n, int row0,
                                           int rows, int out, float* ws, uint32_t* tickets, const float* tokscale,
                                           const Epilogue<Y>& e) {
    const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
    // Element (output m, row n) goes to turned[n][m]; the pitch makes the 32 lanes of a
    // store, at n = 2t, m = g, hit 32 banks.
#pragma unroll
    for (int i = 0; i < MI; i++)
#pragma unroll
        for (int j = 0; j < NJ; j++)
#pragma unroll
            for (int q = 0; q < 4; q++) {
                int m = warp_m * WM + i * 16 + lane / 4 + q / 2 * 8, n = warp_n * WN + j * 8 + lane % 4 * 2 + q % 2;
                turned[n * kPitch + m] = float(acc[i][j][q]);
            }
    __syncthreads();
    const int m = lane * 4, o = blockIdx.x * kTileRows + m;
    const int tile = blockIdx.y * gridDim.x + blockIdx.x, splits = gridDim.z;
    float4* parts = reinterpret_cast<float4*>(ws) + size_t(tile) * splits * (BN * kTileRows / 4) + lane;
    if (splits > 1) {
#pragma unroll 1
        for (int n = warp; n < BN && row0 + n < rows; n += kTileThreads / kWarp)
            parts[(size_t(blockIdx.z) * BN + n) * kWarp] = *reinterpret_cast<const float4*>(turned + n * kPitch + m);
        __threadfence(); // the sums are there before the ticket is taken
        __syncthreads();
        // Row 1 of the turned tile, which nobody reads any more, tells every warp.
        uint32_t* arrived = reinterpret_cast<uint32_t*>(turned) + kPitch;
        if (threadIdx.x == 0) *arrived = atomicInc(tickets + tile, splits - 1);
        __syncthreads();
        if (*arrived + 1 < splits) return;
        __threadfence();
    }
#pragma unroll 1
    for (int n = warp; n < BN && row0 + n < rows; n += kTileThreads / kWarp) {
        float4 v = {};
        if (splits > 1) {
#pragma unroll 4
            for (int z = 0; z < splits; z++) { // several reads at a time: this is latency
                float4 p = __ldcg(parts + (size_t(z) * BN + n) * kWarp); // from L2: other blocks wrote it
                v.x += p.x, v.y += p.y, v.z += p.z, v.w += p.w;
            }
        } else {
            v = *reinterpret_cast<const float4*>(turned + n * kPitch + m);
        }
        const int i = row0 + n;
        float f[4] = {v.x, v.y, v.z, v.w};
        float tok = tokscale ? tokscale[i] : 1.0f;
#pragma unroll
        for (int q = 0; q < 4; q++) f[q] *= tok;
        e.store4(i, o, out, f);
    }
}

template <class P, class Y, int BN, int WM, int WN, int S>
__device__ __forceinline__ void tile_gemm(const void* x, const void* w, float* ws, uint32_t* tickets,
                                          const float* tokscale, int rows, int out, int in, int ldx, const Epilogue<Y>& e) {
    using Shape = TileShape<P, BN, WM, WN, S>;
    using X = typename P::Elem;
    using Acc = decltype(acc_of(X{}));
    constexpr int kMI = Shape::kMI, kNJ = Shape::kNJ, kXChunks = BN * 8 / kTileThreads;
    constexpr int kCols = 128 / sizeof(X); // columns of a k-tile
    extern __shared__ __align__(128) char smem[];
    const uint32_t base = smem_addr(smem);
    const int tid = threadIdx.x, lane = tid % kWarp, warp = tid / kWarp;
    const int warp_m = warp / Shape::kWarpsN, warp_n = warp % Shape::kWarpsN;
    const int row0 = blockIdx.y * BN;

    // This block's share of k, in k-tiles.
    const int tiles = (in + kCols - 1) / kCols, per = (tiles + gridDim.z - 1) / gridDim.z;
    const int first = blockIdx.z * per, last = min(first + per, tiles);

    // Where this thread copies from and to.
    const int blocks = min(2, (out + 63) / 64 - 2 * int(blockIdx.x));
    const int wstep = blocks * P::kTileBytes, wmine = wstep / 16 - tid; // chunks of 16 bytes
    const char* wsrc = static_cast<const char*>(w) + size_t(blockIdx.x) * 2 * tiles * P::kTileBytes +
                       size_t(first) * wstep + tid * 16;
    const int chunk = tid % 8, xrow = tid / 8; // rows xrow + 16 q
    const char* xsrc = static_cast<const char*>(x) + (size_t(row0 + xrow) * ldx * sizeof(X)) + (first * 8 + chunk) * 16;
    const size_t xstep = size_t(16) * ldx * sizeof(X);
    const int xrows = rows - row0 - xrow; // rows of x from this thread's first on
    const uint32_t xdst = base + xrow * 128 + (chunk ^ (xrow & 7)) * 16;
    const uint32_t wdst = base + Shape::kXBytes + tid * 16;
    int xleft = (in - first * kCols) / int(16 / sizeof(X)) - chunk; // chunks of the row from this one on
    // Beyond the last k-tile nothing is read; there is no branch, so that the copies can
    // be scheduled among the products.
    auto copy = [&](uint32_t stage, bool live) {
        const int wlive = live ? wmine : 0, xlive = live && xleft > 0 ? xrows : 0;
#pragma unroll
        for (int q = 0; q < (Shape::kWBytes / 16 + kTileThreads - 1) / kTileThreads; q++) {
            const int at = q * kTileThreads * 16;
            const bool always = at + kTileThreads * 16 <= P::kTileBytes; // within the first tile of the band
            copy_async_if(stage + wdst + at, wsrc + at, always ? live : at / 16 < wlive);
        }
#pragma unroll
        for (int q = 0; q < kXChunks; q++)
            copy_async(stage + xdst + q * 16 * 128, xsrc + q * xstep, xlive > 16 * q);
        wsrc += wstep;
        xsrc += 128;
        xleft -= 8;
    };

    // Where this lane reads fragments from.
    const int i0 = WM == 64 ? 0 : warp_m % 2 * 2;
    // Where the band has one row block only, the other half's warps read it too: their outputs are dropped.
    const uint32_t wfrag = base + Shape::kXBytes + min(WM == 64 ? warp_m : warp_m / 2, blocks - 1) * P::kTileBytes;
    const uint32_t xfrag = base + warp_n * WN * 128 + x_lane<P::kSteps>(lane);
    typename P::template Operand<kMI> fw;
    uint32_t fx[2][kNJ][P::kSteps == 2 ? 4 : 2];

    Acc acc[kMI][kNJ][4];
#pragma unroll
    for (int i = 0; i < kMI; i++)
#pragma unroll
        for (int j = 0; j < kNJ; j++)
#pragma unroll
            for (int q = 0; q < 4; q++) acc[i][j][q] = 0;

#pragma unroll
    for (int s = 0; s < S - 1; s++) {
        copy(s * Shape::kStage, first + s < last);
        copy_commit();
    }
    copy_wait<S - 2>();
    __syncthreads();
    uint32_t from = 0, to = (S - 1) * Shape::kStage;
    if (first < last) {
        fw.ahead(0, from + wfrag, lane, 0, i0);
        load_x(fx[0], from + xfrag, 0);
#pragma unroll
        for (int i = 0; i < kMI; i++) fw.refill(i, from + wfrag, lane, 0, i0);
    }
#pragma unroll 1
    for (int kt = first; kt < last; kt++) {
#pragma unroll
        for (int s = 0; s < P::kSteps; s++) {
            const int next = (s + 1) % P::kSteps, buf = s % 2;
            if (next == 0) { // every warp has read this stage, and the next one has arrived
                from = from == (S - 1) * Shape::kStage ? 0 : from + Shape::kStage;
                copy_wait<S - 2>();
                __syncthreads();
            }
            const bool more = next > 0 || kt + 1 < last;
            if (more) {
                fw.ahead(1 - buf, from + wfrag, lane, next, i0);
                load_x(fx[1 - buf], from + xfrag, next);
            }
            if (s == 0) {
                copy(to, kt + S - 1 < last);
                copy_commit();
                to = to == (S - 1) * Shape::kStage ? 0 : to + Shape::kStage;
            }
#pragma unroll
            for (int i = 0; i < kMI; i++) {
                fw.product(buf, i, acc[i], fx[buf]);
                if (more) fw.refill(i, from + wfrag, lane, next, i0);
            }
        }
    }
    copy_wait<0>();
    __syncthreads();

    store_tile<Y, BN, WM, WN, Shape::kPitch>(acc, reinterpret_cast<float*>(smem), warp_m, warp_n, row0, rows, out, ws,
                                             tickets, tokscale, e);
}

// NAME_n{128,64,32,16}: the tile's BN. Pick the smallest that holds the rows, or n128.
#define TILE_GEMM(P, NAME, Y, BN, WM, WN, S)                                                                        \
    KERNEL __launch_bounds__(kTileThreads)                                                                          \
        NAME##_n##BN(Y* y, const void* x, const void* w, float* ws, uint32_t* tickets, const float* tokscale,       \
                     const float* scale, const float* bias, const Y* res, int rows, int out, int in, int ldy,       \
                     int ldx, int ldr, int act) {                                                                   \
        tile_gemm<P, Y, BN, WM, WN, S>(x, w, ws, tickets, tokscale, rows, out, in, ldx,                             \
                                       {y, scale, bias, res, ldy, ldr, act});                                       \
    }
// Stages are as many as leave two blocks an SM of sm_80 (sparse) and one of sm_86 (dense, 99 KiB).
#define TILE_GEMMS(P, NAME, Y)            \
    TILE_GEMM(P, NAME, Y, 128, 64, 64, 3) \
    TILE_GEMM(P, NAME, Y, 64, 64, 32, 4)  \
    TILE_GEMM(P, NAME, Y, 32, 32, 32, 5)  \
    TILE_GEMM(P, NAME, Y, 16, 32, 16, 6)
#define TILE_GEMMS_WIDE(P, NAME, Y)       \
    TILE_GEMM(P, NAME, Y, 128, 64, 64, 3) \
    TILE_GEMM(P, NAME, Y, 64, 64, 32, 4)  \
    TILE_GEMM(P, NAME, Y, 32, 32, 32, 4)  \
    TILE_GEMM(P, NAME, Y, 16, 32, 16, 5)
