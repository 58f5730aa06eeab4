// The one CUDA translation unit of sparserun: every kernel, with an extern "C" name.
//
//   nvcc -std=c++17 -O3 -arch=compute_80 -DSPARSERUN_PTX=80 -ptx kernels.cu     (make cuda-ptx)
//
// SPARSERUN_PTX picks the family: 80 all portable kernels, 89 those that need
// fp8 tensor cores, 90 the experimental wgmma.sp of sm_90a. The PTX is what the
// simulator executes and what ptxas assembles for every architecture.
#ifndef SPARSERUN_PTX
#define SPARSERUN_PTX 80
#endif

#if SPARSERUN_PTX == 80
#include "cuda/kernels/add.cuh"
#include "cuda/kernels/argmax.cuh"
#include "cuda/kernels/attention.cuh"
#include "cuda/kernels/attention_decode.cuh"
#include "cuda/kernels/attention_prefill.cuh"
#include "cuda/kernels/embedding.cuh"
#include "cuda/kernels/embedding_tile.cuh"
#include "cuda/kernels/gemm.cuh"
#include "cuda/kernels/gemv.cuh"
#include "cuda/kernels/gemv_nm24.cuh"
#include "cuda/kernels/im2col.cuh"
#include "cuda/kernels/kv_write.cuh"
#include "cuda/kernels/linear_naive.cuh"
#include "cuda/kernels/prune_nm24.cuh"
#include "cuda/kernels/quantise.cuh"
#include "cuda/kernels/rmsnorm.cuh"
#include "cuda/kernels/rope.cuh"
#include "cuda/kernels/silu_gate.cuh"
#include "cuda/kernels/softmax.cuh"
#include "cuda/kernels/spmm_bitmask.cuh"
#include "cuda/kernels/spmm_nm24.cuh"
#include "cuda/kernels/spmv_csr.cuh"
#include "cuda/kernels/tile_pack.cuh"
#elif SPARSERUN_PTX == 89
#include "cuda/kernels/gemm.cuh"
#include "cuda/kernels/quantise.cuh"
#include "cuda/kernels/spmm_nm24.cuh"
#elif SPARSERUN_PTX == 90
#include "cuda/kernels/wgmma_nm24.cuh"
#endif
