// Package sparse holds the forms a weight matrix is stored in: dense, 2:4,
// bitmask and CSR, each with values in f32, f16, bf16, int8, int4 or fp8.
//
// It is a leaf: it knows nothing of networks, files or kernels. A form is a
// Matrix; Pack turns any Matrix into another form, ReadRows turns any form back
// into float32 rows. The forms here are canonical - what files and other
// libraries agree on. Backends repack them for their kernels.
//
// # Layouts
//
//   - Dense: values [R, C] row-major.
//   - NM24: of every 4 columns of a row 2 are kept; values [R, 2*ceil(C/4)],
//     metadata 2 bits per kept value (one nibble a group, low index first).
//   - Bitmask: one bit per weight, least significant bit first, rows padded to
//     whole bytes (compressed-tensors "sparse-bitmask"), values of the set bits.
//   - CSR: row pointers, column indices (16 bits where C allows), values.
//
// Quantised values (int8, int4, fp8) carry a Quant: a scale, and for asymmetric
// forms a zero point, per group of dense columns of a row.
package sparse
