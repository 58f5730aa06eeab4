// Package onnxtest holds the tests of ONNX networks from file to result: ONNX's own
// conformance suite, and reference models with their published accuracies.
package onnxtest
