// The rival of spmm_nm24_f16_n128: CUTLASS 4.2's SparseGemm for Ampere, f16 in, f32
// accumulate, tile 128x128x64, warp tile 64x64x64, 3 stages. Ours to compile and to
// count instructions of, never to ship. (NVIDIA CUTLASS, BSD-3; only its public API is used.)
#include <cutlass/cutlass.h>
#include <cutlass/gemm/device/gemm_sparse.h>

using Gemm = cutlass::gemm::device::SparseGemm<
    cutlass::half_t, cutlass::layout::RowMajor, cutlass::half_t, cutlass::layout::ColumnMajor, cutlass::half_t,
    cutlass::layout::RowMajor, float, cutlass::arch::OpClassTensorOp, cutlass::arch::Sm80,
    cutlass::gemm::GemmShape<128, 128, 64>, cutlass::gemm::GemmShape<64, 64, 64>, cutlass::gemm::GemmShape<16, 8, 32>,
    cutlass::epilogue::thread::LinearCombination<cutlass::half_t, 8, float, float>,
    cutlass::gemm::threadblock::GemmIdentityThreadblockSwizzle<>, 3>;

template __global__ void cutlass::Kernel<Gemm::GemmKernel>(Gemm::GemmKernel::Params);
