#!/bin/sh
# Makes the Go code of inference.proto. protoc is that of PyPI's grpcio-tools (its
# Python is $PYTHON, default python3), the plugins are built from the Go module proxy.
set -eu
cd "$(dirname "$0")"
bin=$(mktemp -d)
trap 'rm -rf "$bin"' EXIT
GOBIN=$bin go install google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.12
GOBIN=$bin go install google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.6.2
PATH=$bin:$PATH "${PYTHON:-python3}" -m grpc_tools.protoc -I. \
  --go_out=. --go_opt=paths=source_relative \
  --go-grpc_out=. --go-grpc_opt=paths=source_relative inference.proto
