// y[i,o] = epilogue(sum_k w[o,k] x[i,k]), w 2:4 sparse, on sparse tensor cores
//   w packed in tiles (tile.cuh); x (rows, in) in w's value type (int4: f16), row stride
//   ldx with 16-byte aligned rows, in a multiple of 16 bytes; y (rows, out) f16.
//   int8 and e4m3: v = sum * tokscale[i] * scale[o], int32 sums (f32 for e4m3).
//
// v1 linear_naive.cuh. v2: 64x64x64 tile, 2 stages, one ldmatrix a product.
// v3: tile_gemm.cuh with weights packed in lane order.
#pragma once
#include "tile_gemm.cuh"

#if SPARSERUN_PTX == 80
TILE_GEMMS(Nm24<__half>, spmm_nm24_f16, __half)
TILE_GEMMS(Nm24<__nv_bfloat16>, spmm_nm24_bf16, __half)
TILE_GEMMS(Nm24<int8_t>, spmm_nm24_int8, __half)
TILE_GEMMS(Nm24Int4, spmm_nm24_int4, __half)
#elif SPARSERUN_PTX == 89
TILE_GEMMS(Nm24<E4M3>, spmm_nm24_e4m3, __half)
#endif
