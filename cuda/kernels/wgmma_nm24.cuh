// EXPERIMENTAL: compiled and gated, never executed: neither a GPU nor the simulator ran it.
//
// y[i,o] = epilogue(sum_k w[o,k] x[i,k]), w 2:4 sparse f16, by wgmma.sp of sm_90a
//   w packed as for spmm_nm24 (tile.cuh): its lane order is what wgmma wants of A in
//   registers; warp i of a warpgroup takes m16 block i.
//   x by TMA: xmap is a 2-D tensor map of x (rows, in) f16, box 64 columns x 128 rows,
//   swizzle 128 bytes: the same chunk ^ (row & 7) as in tile_gemm.cuh. What lies beyond x is 0.
//   Grid (ceil(out/128), ceil(rows/128)), block 256, shared 1024 + kWgStages * 25600.
//
// v1: two warpgroups of 64 outputs x 128 rows; one thread asks for the weight tile (a
//     linear bulk copy) and x's box, kWgStages - 1 k-tiles ahead; mbarriers count the bytes.
#pragma once
#include "tile.cuh"
#include "weights.cuh"

#if SPARSERUN_PTX == 90
constexpr int kWgStages = 4, kWgTile = 4608, kWgX = 128 * 128, kWgStage = 25600; // x, two tiles, rounded up to 1 KiB
constexpr int kWgPitch = 128 + 4;

struct alignas(64) TensorMap { uint64_t opaque[16]; };

__device__ __forceinline__ void barrier_init(uint32_t bar, uint32_t count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(bar), "r"(count) : "memory");
}
__device__ __forceinline__ void barrier_expect(uint32_t bar, uint32_t bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(bar), "r"(bytes) : "memory");
}
__device__ __forceinline__ void barrier_wait(uint32_t bar, uint32_t parity) {
    asm volatile("{ .reg .pred p;\n again: mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n @!p bra again; }" ::"r"(bar),
                 "r"(parity)
                 : "memory");
}
__device__ __forceinline__ void copy_bulk(uint32_t to, const void* from, uint32_t bytes, uint32_t bar) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to), "l"(from),
                 "r"(bytes), "r"(bar)
                 : "memory");
}
__device__ __forceinline__ void copy_box(uint32_t to, const TensorMap* map, int col, int row, uint32_t bar) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(to),
                 "l"(map), "r"(col), "r"(row), "r"(bar)
                 : "memory");
}

// x_descriptor: 128 rows of 128 bytes, K-major, swizzle 128 bytes, groups of 8 rows 1 KiB apart.
__device__ __forceinline__ uint64_t x_descriptor(uint32_t addr) {
    return uint64_t((addr & 0x3ffff) >> 4) | uint64_t(1) << 16 | uint64_t(1024 >> 4) << 32 | uint64_t(1) << 62;
}

// wgmma_sp: d (64 x 128) += A B, A 64 x 32 of which 16 are kept, in registers; metadata in lanes t < 2.
__device__ __forceinline__ void wgmma_sp(float (&d)[64], const uint32_t (&a)[4], uint64_t b, uint32_t e) {
    asm volatile("wgmma.mma_async.sp.sync.aligned.m64n128k32.f32.f16.f16 "
                 "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
                 "{%64, %65, %66, %67}, %68, %69, 0, 1, 1, 1, 0;"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
                   "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]),
                   "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]),
                   "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]),
                   "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]),
                   "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]),
                   "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]),
                   "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(e));
}

KERNEL __launch_bounds__(256) wgmma_nm24_f16(__half* y, const __grid_constant__ TensorMap xmap, const void* w,
                                             const float* tokscale, const float* scale, const float* bias,
                                             const __half* res, int rows, int out, int in, int ldy, int ldr, int act) {
    extern __shared__ __align__(1024) char smem[];
    __shared__ __align__(8) uint64_t full[kWgStages];
    const uint32_t base = smem_addr(smem), bars = smem_addr(full);
    const int tid = threadIdx.x, lane = tid % kWarp, warp = tid / kWarp, group = warp / 4, i = warp % 4;
    const int tiles = (in + 63) / 64, row0 = blockIdx.y * 128;
    const int blocks = min(2, (out + 63) / 64 - 2 * int(blockIdx.x));
    const char* wsrc = static_cast<const char*>(w) + size_t(blockIdx.x) * 2 * tiles * kWgTile;
    auto ask = [&](int kt) {
        uint32_t stage = base + kt % kWgStages * kWgStage, bar = bars + kt % kWgStages * 8;
        barrier_expect(bar, kWgX + blocks * kWgTile);
        copy_box(stage, &xmap, kt * 64, row0, bar);
        copy_bulk(stage + kWgX, wsrc + size_t(kt) * blocks * kWgTile, blocks * kWgTile, bar);
    };
    if (tid == 0) {
        for (int s = 0; s < kWgStages; s++) barrier_init(bars + 8 * s, 1);
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    __syncthreads();
    if (tid == 0)
        for (int kt = 0; kt < min(kWgStages - 1, tiles); kt++) ask(kt);

    float acc[64] = {};
    const int meta_lane = i % 2 ? lane ^ 2 : lane; // selector 0 reads lanes t < 2; blocks 1 and 3 lie in t >= 2
#pragma unroll 1
    for (int kt = 0; kt < tiles; kt++) {
        const uint32_t stage = base + kt % kWgStages * kWgStage;
        const uint32_t tile = stage + kWgX + min(group, blocks - 1) * kWgTile;
        if (tid == 0 && kt + kWgStages - 1 < tiles) ask(kt + kWgStages - 1);
        barrier_wait(bars + kt % kWgStages * 8, kt / kWgStages & 1);
        uint32_t a[2][4], e[2];
#pragma unroll
        for (int s = 0; s < 2; s++) {
            uint4 v = load_shared16(tile + ((s * 4 + i) * kWarp + lane) * 16);
            a[s][0] = v.x, a[s][1] = v.y, a[s][2] = v.z, a[s][3] = v.w;
            uint2 m = load_shared8(tile + 4096 + s * 256 + meta_lane * 8);
            e[s] = i < 2 ? m.x : m.y;
        }
        asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
        for (int s = 0; s < 2; s++) wgmma_sp(acc, a[s], x_descriptor(stage + s * 64), e[s]);
        asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
        asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
        __syncthreads(); // this stage may be filled again
    }
    float* turned = reinterpret_cast<float*>(smem);
#pragma unroll
    for (int j = 0; j < 16; j++)
#pragma unroll
        for (int q = 0; q < 4; q++)
            turned[(j * 8 + lane % 4 * 2 + q % 2) * kWgPitch + warp * 16 + lane / 4 + q / 2 * 8] = acc[4 * j + q];
    __syncthreads();
    const Epilogue<__half> ep{y, scale, bias, res, ldy, ldr, act};
#pragma unroll 1
    for (int n = warp; n < 128 && row0 + n < rows; n += 8) {
        float4 v = *reinterpret_cast<const float4*>(turned + n * kWgPitch + lane * 4);
        float tok = tokscale ? tokscale[row0 + n] : 1.0f;
        float f[4] = {v.x * tok, v.y * tok, v.z * tok, v.w * tok};
        ep.store4(row0 + n, blockIdx.x * 128 + lane * 4, out, f);
    }
}
#endif
