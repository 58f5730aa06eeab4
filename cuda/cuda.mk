# The CUDA toolchain without CUDA: NVIDIA's compilers come from PyPI wheels into
# .cuda (ignored by git), nothing of theirs is committed. The root Makefile
# includes this file and runs it from the project's root.
#
#   cuda-toolchain  installs the pinned wheels (about 134 MB) into .cuda
#   cuda-ptx        kernels.cu -> PTX: what the simulator executes
#   cuda-cubins     the same PTX -> one cubin per architecture, by ptxas: so what
#                   is assembled for hardware is the very text that was simulated
#   cuda-rivals     CUTLASS's SparseGemm (PyPI nvidia-cutlass), same nvcc
#   cuda-gates      static gates on the SASS; writes gates.md and gates.json
#
# Quantities: a full build is about a minute of one core per architecture.

CUDA_ENV   ?= .cuda
CUDA_VER   := 13.5.37
CUDA_STAMP := $(CUDA_ENV)/.installed-$(CUDA_VER)
CUDA_ROOT   = $(firstword $(wildcard $(CUDA_ENV)/lib/python3*/site-packages/nvidia/cu13))
CUTLASS     = $(firstword $(wildcard $(CUDA_ENV)/lib/python3*/site-packages/cutlass_library/source))
NVCC        = $(CUDA_ROOT)/bin/nvcc
PTXAS       = $(CUDA_ROOT)/bin/ptxas
CUDA_OUT   := cuda/build
NICE       ?= nice -n 10
NVCC_FLAGS := -std=c++17 -O3 --diag-suppress=177

# Architectures with hardware to run on: A100, RTX 30, L4/RTX 40, H100, B200, RTX 50.
CUDA_ARCHS ?= 80 86 89 90a 100a 120a
# PTX families: 80 holds every portable kernel; 89 adds fp8; 90a holds wgmma.sp (experimental).
# mma.sync multiplies fp8 natively on 89 and 120a. On 90a and 100a ptxas unpacks it to f16
# products in registers, for which only the kernels of few rows have room: the others spill
# up to 11 KB a thread there and are left out.
E4M3_SMALL := spmm_nm24_e4m3_n16,gemm_e4m3_n16,gemm_e4m3_n32,gemm_e4m3_n64,quantise_e4m3_f16,quantise_e4m3_f32
KERNEL_SRC  := kernels.cu $(wildcard cuda/kernels/*.cuh)
PTX_FILES   := $(CUDA_OUT)/kernels_80.ptx $(CUDA_OUT)/kernels_89.ptx $(CUDA_OUT)/kernels_90a.ptx
CUBIN_FILES := $(foreach a,$(CUDA_ARCHS),$(CUDA_OUT)/kernels_80.sm_$(a).cubin) \
               $(foreach a,$(filter 89 90a 100a 120a,$(CUDA_ARCHS)),$(CUDA_OUT)/kernels_89.sm_$(a).cubin) \
               $(foreach a,$(filter 90a,$(CUDA_ARCHS)),$(CUDA_OUT)/kernels_90a.sm_$(a).cubin)
RIVAL_FILES := $(CUDA_OUT)/cutlass_sparse_gemm.sm_80.cubin

.PHONY: cuda-toolchain cuda-ptx cuda-cubins cuda-rivals cuda-gates cuda-found

cuda-toolchain: $(CUDA_STAMP) ## install the pinned CUDA compilers from PyPI into .cuda
$(CUDA_STAMP):
	python3 -m venv $(CUDA_ENV)
	$(CUDA_ENV)/bin/pip install -q --disable-pip-version-check nvidia-cuda-nvcc==$(CUDA_VER) \
	    nvidia-cuda-runtime==$(CUDA_VER) nvidia-cuda-cccl==13.3.5.0.6 \
	    nvidia-cuda-cuobjdump==$(CUDA_VER) nvidia-cuda-nvdisasm==$(CUDA_VER)
	$(CUDA_ENV)/bin/pip install -q --disable-pip-version-check --no-deps nvidia-cutlass==4.2.0.0
	touch $@

# cuda-found prints what is there, so that build and test say what they skip.
build test: cuda-found
cuda-found:
	@if [ -x "$(NVCC)" ]; then echo "nvcc: $(CUDA_VER), $(NVCC)"; \
	else echo "nvcc: not found (make cuda-toolchain, needs Python): PTX, cubins and static gates cannot be made"; fi
	@if [ -f $(CUDA_OUT)/kernels_80.ptx ]; then echo "PTX: $(CUDA_OUT)"; \
	else echo "PTX: not there (make cuda-ptx): tests that simulate the GPU kernels are skipped"; fi
	@command -v $(CC) >/dev/null && echo "C compiler: $(CC)" || \
	echo "C compiler: not found: the -tags cuda binary and its end-to-end test are skipped"

cuda-ptx: $(PTX_FILES) ## kernels.cu to PTX, which the tests then simulate
$(CUDA_OUT)/kernels_%.ptx: $(KERNEL_SRC) | $(CUDA_STAMP)
	@mkdir -p $(CUDA_OUT)
	$(NICE) $(NVCC) $(NVCC_FLAGS) -DSPARSERUN_PTX=$(patsubst %a,%,$*) -arch=compute_$* -ptx -o $@.tmp kernels.cu
	mv $@.tmp $@

cuda-cubins: $(CUBIN_FILES)
define cubin_rule
$(CUDA_OUT)/kernels_$(1).sm_$(2).cubin: $(CUDA_OUT)/kernels_$(1).ptx
	$$(NICE) $$(PTXAS) -O3 -v -arch=sm_$(2) $(if $(filter 89:90a 89:100a,$(1):$(2)),--entry $(E4M3_SMALL)) -o $$@.tmp $$< > $$@.log 2>&1 || { cat $$@.log; exit 1; }
	mv $$@.tmp $$@
endef
$(foreach a,$(CUDA_ARCHS),$(foreach f,80 89 90a,$(eval $(call cubin_rule,$(f),$(a)))))

cuda-rivals: $(RIVAL_FILES)
$(CUDA_OUT)/cutlass_sparse_gemm.sm_80.cubin: cuda/gates/rivals/cutlass_sparse_gemm.cu | $(CUDA_STAMP)
	@mkdir -p $(CUDA_OUT)
	$(NICE) $(NVCC) -std=c++17 -O3 -w -arch=sm_80 -cubin -I$(CUTLASS)/include -I$(CUTLASS)/tools/util/include -o $@.tmp $<
	mv $@.tmp $@

cuda-gates: cuda-cubins cuda-rivals ## static gates on the SASS, beside CUTLASS: gates.md, gates.json
	go run ./cuda/gates -build $(CUDA_OUT) -tools $(CUDA_ROOT)/bin -out $(CUDA_OUT)

# The binary with the CUDA backend. gorgonia.org/cu compiles with CUDA 12 headers
# and links -lcuda, which cuda/dl satisfies: it opens the real driver at start.
CUDA12_ENV   ?= .cuda12
CUDA12_STAMP := $(CUDA12_ENV)/.installed-12.6.77
CUDA12_INC    = $(abspath $(firstword $(wildcard $(CUDA12_ENV)/lib/python3*/site-packages/nvidia/cuda_runtime/include)))
CUDA_CGO      = CGO_ENABLED=1 CGO_CFLAGS="-O2 -I$(CUDA12_INC)" CGO_LDFLAGS="-L$(abspath $(CUDA_OUT)) -ldl"

$(CUDA12_STAMP):
	python3 -m venv $(CUDA12_ENV)
	$(CUDA12_ENV)/bin/pip install -q --disable-pip-version-check nvidia-cuda-runtime-cu12==12.6.77
	touch $@

$(CUDA_OUT)/libcuda.a: cuda/dl/dl.c cuda/dl/functions.h cuda/dl/slots.h
	@mkdir -p $(CUDA_OUT)
	$(CC) -O2 -fPIC -Wall -c -o $(CUDA_OUT)/dl.o cuda/dl/dl.c
	ar rcs $@ $(CUDA_OUT)/dl.o

cuda/dl/slots.h: cuda/dl/functions.h
	{ echo '// Made from functions.h by make (cuda/cuda.mk): table slots as assembler constants.'; \
	  sed -n 's/^X(\(cu.*\))/\1/p' $< | awk '{printf "__asm__(\".set slot_%s, %d\");\n", $$1, NR-1}'; } > $@

.PHONY: cuda cuda-sim cuda-test
cuda: cuda-cubins $(CUDA12_STAMP) $(CUDA_OUT)/libcuda.a ## build ./sparserun-cuda, with the GPU backend
	@# go does not see inside libcuda.a: naming its hash makes it link again when that changes
	$(CUDA_CGO) go build -tags cuda -trimpath -ldflags "-X main.cudaForwarder=$$(sha256sum $(CUDA_OUT)/libcuda.a | cut -c1-12)" -o sparserun-cuda ./cmd/sparserun

# The fake driver: the simulator as libcuda.so.1.
cuda-sim: $(CUDA_OUT)/sim/libcuda.so.1
$(CUDA_OUT)/sim/libcuda.so.1: $(wildcard cuda/ptxsim/*.go cuda/ptxsim/libcuda/*.go cuda/ptxsim/libcuda/*.c)
	@mkdir -p $(CUDA_OUT)/sim
	CGO_ENABLED=1 go build -buildmode=c-shared -ldflags=-extldflags=-Wl,-soname,libcuda.so.1 -o $@ ./cuda/ptxsim/libcuda

cuda-test: cuda cuda-sim ## run the -tags cuda binary end to end on the simulated driver
	./cuda/e2e.sh

# dist/gpu-check needs only an NVIDIA driver on x86-64: copy it to a GPU machine and
# run run.sh there.
.PHONY: gpu-check gpu-check-tiny
gpu-check: cuda-cubins $(CUDA12_STAMP) $(CUDA_OUT)/libcuda.a ## pack dist/gpu-check for a GPU machine
	@mkdir -p dist/gpu-check
	$(CUDA_CGO) go build -tags cuda -trimpath -o dist/gpu-check/sparserun ./cmd/sparserun
	$(CUDA_CGO) go build -tags cuda -trimpath -o dist/gpu-check/gpucheck ./cuda/gpucheck
	$(CUDA_CGO) go test -tags cuda -trimpath -c -o dist/gpu-check/conformance ./cuda/gpucheck
	cp cuda/gpucheck/run.sh cuda/gpucheck/rivals.py dist/gpu-check/
	@if command -v nvidia-smi >/dev/null; then ./dist/gpu-check/run.sh dist/gpu-check/report; \
	else echo "no NVIDIA driver here: copy dist/gpu-check to a GPU machine and run run.sh"; fi

# The same script in short on the simulated driver: some of the conformance suite, tiny
# benches. A minute of one core.
SHORT_CONFORMANCE := TestConformance/./^(Linear_(nm24_f16|nm24_int4|bitmask_bf16|dense_int8)|heads9)
gpu-check-tiny: gpu-check cuda-sim ## the same, tiny, on the simulated driver
	rm -rf dist/gpu-check/simulated
	LD_LIBRARY_PATH=$(abspath $(CUDA_OUT)/sim) SPARSERUN_CONFORMANCE='$(SHORT_CONFORMANCE)' \
	  ./dist/gpu-check/run.sh dist/gpu-check/simulated -tiny
	grep -q 'simulated, not a speed' dist/gpu-check/simulated/report.md
	grep -q 'PASS: TestConformance/Attention/heads9' dist/gpu-check/simulated/conformance.txt
