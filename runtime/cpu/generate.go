package cpu

// The assembly is written by the module in asm/ (avo); go generate runs it. No
// emulator at hand runs AVX-512: TestTiled and TestQuantPanels run every instruction
// set that the machine has. Last passed, both AVX2 and AVX-512 with VNNI: AMD EPYC,
// family 25 model 17 (Zen 4), 2026-11-24.

//go:generate go run -C asm . -stem gemv_dense -out ../gemv_dense_amd64.s -stubs ../gemv_dense_amd64.go -pkg cpu
//go:generate go run -C asm . -stem gemv_int8 -out ../gemv_int8_amd64.s -stubs ../gemv_int8_amd64.go -pkg cpu
//go:generate go run -C asm . -stem gemv_int4 -out ../gemv_int4_amd64.s -stubs ../gemv_int4_amd64.go -pkg cpu
//go:generate go run -C asm . -stem spmm_nm24 -out ../spmm_nm24_amd64.s -stubs ../spmm_nm24_amd64.go -pkg cpu
//go:generate go run -C asm . -stem spmm_nm24_int8 -out ../spmm_nm24_int8_amd64.s -stubs ../spmm_nm24_int8_amd64.go -pkg cpu
//go:generate go run -C asm . -stem spmm_nm24_int4 -out ../spmm_nm24_int4_amd64.s -stubs ../spmm_nm24_int4_amd64.go -pkg cpu
//go:generate go run -C asm . -stem quant -out ../quant_amd64.s -stubs ../quant_amd64.go -pkg cpu
//go:generate go run -C asm . -stem stream -out ../stream_amd64.s -stubs ../stream_amd64.go -pkg cpu
//go:generate go run -C asm . -stem csr -out ../csr_amd64.s -stubs ../csr_amd64.go -pkg cpu
//go:generate go run -C asm . -stem csr_batch -out ../csr_batch_amd64.s -stubs ../csr_batch_amd64.go -pkg cpu
//go:generate go run -C asm . -stem bitmask -out ../bitmask_amd64.s -stubs ../bitmask_amd64.go -pkg cpu
//go:generate go run -C asm . -stem unpack -out ../unpack_amd64.s -stubs ../unpack_amd64.go -pkg cpu
//go:generate go run -C asm . -stem tile_run -out ../tile_run_amd64.go
//go:generate go test -run TestKernelVersion . -update
