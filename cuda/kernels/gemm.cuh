// y[i,o] = epilogue(sum_k w[o,k] x[i,k]), w dense, on tensor cores
//   the dense baseline of spmm_nm24.cuh: the same kernel, the same tiles, twice the
//   weight bytes and twice the products.
#pragma once
#include "tile_gemm.cuh"

#if SPARSERUN_PTX == 80
TILE_GEMMS_WIDE(Dense<__half>, gemm_f16, __half)
TILE_GEMMS_WIDE(Dense<__nv_bfloat16>, gemm_bf16, __half)
TILE_GEMMS_WIDE(Dense<int8_t>, gemm_int8, __half)
TILE_GEMMS(DenseInt4, gemm_int4, __half)
#elif SPARSERUN_PTX == 89
TILE_GEMMS_WIDE(Dense<E4M3>, gemm_e4m3, __half)
#endif
