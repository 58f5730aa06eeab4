// The instructions behind the matrix kernels, one function each: tensor-core
// products, ldmatrix, asynchronous copies. Lane l has g = l / 4, t = l % 4.
//
// In bytes all element types look alike: A (m16) is 16 rows of 32 bytes (sparse:
// what is kept of 64), register j of a lane holding bytes 16 (j/2) + 4t .. +3 of
// row g + 8 (j%2); B (n8) is 8 columns of 64 bytes for sparse, 32 for dense, register
// j holding bytes 16 j + 4t .. +3 of column g; C and D: element i is row
// g + 8 (i/2), column 2t + i%2. Source: PTX ISA, "Matrix Fragments for mma.sp".
#pragma once
#include "lane.cuh"

__device__ __forceinline__ uint32_t smem_addr(const void* p) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// 16 bytes from global to shared, past L1; with full false the bytes become zero
// and nothing is read.
__device__ __forceinline__ void copy_async(uint32_t to, const void* from, bool full) {
    int n = full ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(n) : "memory");
}
// The same, or nothing at all: one predicated instruction, no branch.
__device__ __forceinline__ void copy_async_if(uint32_t to, const void* from, bool there) {
    asm volatile("{ .reg .pred p; setp.ne.s32 p, %2, 0; @p cp.async.cg.shared.global [%0], [%1], 16; }" ::"r"(to), "l"(from),
                 "r"(int(there))
                 : "memory");
}
__device__ __forceinline__ void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N> __device__ __forceinline__ void copy_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory"); }

// Four 8x8 matrices of b16: lane l gives the address of row l % 8 of matrix l / 8.
__device__ __forceinline__ void ldmatrix4(uint32_t (&r)[4], uint32_t addr) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(addr));
}
__device__ __forceinline__ void ldmatrix4_trans(uint32_t (&r)[4], uint32_t addr) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(addr));
}
__device__ __forceinline__ uint4 load_shared16(uint32_t addr) {
    uint4 v;
    asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "r"(addr));
    return v;
}
__device__ __forceinline__ uint2 load_shared8(uint32_t addr) {
    uint2 v;
    asm volatile("ld.shared.v2.u32 {%0,%1}, [%2];" : "=r"(v.x), "=r"(v.y) : "r"(addr));
    return v;
}

// Tags for element types that C++ has no name for here.
struct E4M3 {};

// The accumulator that goes with an element type.
__device__ float acc_of(__half);
__device__ float acc_of(__nv_bfloat16);
__device__ float acc_of(E4M3);
__device__ int acc_of(int8_t);

// mma_dense<X>(d, a, b0, b1): D += A B, A 16 x 32 bytes, B 32 bytes x 8.
#define MMA_DENSE(X, ACC, REG, SHAPE, TYPES)                                                                  \
    __device__ __forceinline__ void mma_dense(X, ACC (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) { \
        asm volatile("mma.sync.aligned." SHAPE ".row.col." TYPES                                              \
                     " {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"                                 \
                     : "+" REG(d[0]), "+" REG(d[1]), "+" REG(d[2]), "+" REG(d[3])                             \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));                         \
    }
// mma_sparse<SEL>(X, d, a, b, e): D += A B, A 16 x 64 bytes of which 32 are kept, B 64 bytes x 8,
// e the metadata, SEL which lanes of a quad hold it (16-bit types only; else 0).
#define MMA_SPARSE_SEL(SEL, ACC, REG, SHAPE, TYPES)                                                           \
    asm volatile("mma.sp::ordered_metadata.sync.aligned." SHAPE ".row.col." TYPES                             \
                 " {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9,%10,%11}, {%0,%1,%2,%3}, %12, " SEL ";"               \
                 : "+" REG(d[0]), "+" REG(d[1]), "+" REG(d[2]), "+" REG(d[3])                                 \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "r"(b[2]), "r"(b[3]), "r"(e))

MMA_DENSE(__half, float, "f", "m16n8k16", "f32.f16.f16.f32")
MMA_DENSE(__nv_bfloat16, float, "f", "m16n8k16", "f32.bf16.bf16.f32")
MMA_DENSE(int8_t, int, "r", "m16n8k32", "s32.s8.s8.s32")

__device__ __forceinline__ void mma_sparse(__half, float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[4],
                                           uint32_t e, int sel) {
    if (sel) MMA_SPARSE_SEL("0x1", float, "f", "m16n8k32", "f32.f16.f16.f32");
    else MMA_SPARSE_SEL("0x0", float, "f", "m16n8k32", "f32.f16.f16.f32");
}
__device__ __forceinline__ void mma_sparse(__nv_bfloat16, float (&d)[4], const uint32_t (&a)[4],
                                           const uint32_t (&b)[4], uint32_t e, int sel) {
    if (sel) MMA_SPARSE_SEL("0x1", float, "f", "m16n8k32", "f32.bf16.bf16.f32");
    else MMA_SPARSE_SEL("0x0", float, "f", "m16n8k32", "f32.bf16.bf16.f32");
}
__device__ __forceinline__ void mma_sparse(int8_t, int (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[4],
                                           uint32_t e, int) {
    MMA_SPARSE_SEL("0x0", int, "r", "m16n8k64", "s32.s8.s8.s32");
}
#if SPARSERUN_PTX >= 89
MMA_DENSE(E4M3, float, "f", "m16n8k32", "f32.e4m3.e4m3.f32")
__device__ __forceinline__ void mma_sparse(E4M3, float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[4],
                                           uint32_t e, int) {
    MMA_SPARSE_SEL("0x0", float, "f", "m16n8k64", "f32.e4m3.e4m3.f32");
}
#endif
