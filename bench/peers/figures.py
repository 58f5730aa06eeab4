"""The figures that are wanted of the kernels, from the rows of kernels.py."""

OURS, GGML = "sparserun ", "ggml "
F16 = [OURS + "dense/f16/0", GGML + "f16", "torch f16", "torch bf16"]
INT8 = [OURS + "dense/int8/0", GGML + "q8_0", "onnxruntime int8 dynamic", "torch int8 dynamic"]
INT4 = [OURS + "dense/int4/0", GGML + "q4_0", GGML + "q4_K"]
BLAS = ["numpy OpenBLAS f32", "numpy OpenBLAS f32 (X W^T)", "numpy OpenBLAS f32 (W X)"]

# what, batch, wanted, rivals of which the fastest counts, ours of which the fastest counts
WANTED = [
    ("dense f16 decode against ggml f16", 1, 1.1, [GGML + "f16"], [F16[0]]),
    ("dense int8 decode against ggml q8_0", 1, 1.1, [GGML + "q8_0"], [INT8[0]]),
    ("dense int4 decode against ggml q4_0, q4_K", 1, 1.1, INT4[1:], [INT4[0]]),
    ("2:4 f16 against the best dense f16", 1, 1.6, F16, [OURS + "nm24/f16/0.5"]),
    ("2:4 int8 against the best dense int8", 1, 1.45, INT8, [OURS + "nm24/int8/0.5"]),
    ("2:4 int4 against the best dense int4", 1, 1.25, INT4, [OURS + "nm24/int4/0.5"]),
    ("80 % zeros, f16, decode against our dense f16", 1, 1.6, F16[:1], [OURS + "csr/f16/0.8"]),
    ("90 % zeros, f16, decode against our dense f16", 1, 3.0, F16[:1], [OURS + "csr/f16/0.9"]),
    ("95 % zeros, f16, decode against our dense f16", 1, 6.0, F16[:1], [OURS + "csr/f16/0.95"]),
    ("50 % zeros, int8 bitmask, decode against the best dense int8", 1, None, INT8, [OURS + "bitmask/int8/0.5"]),
    ("70 % zeros, int8 bitmask, decode against the best dense int8", 1, None, INT8, [OURS + "bitmask/int8/0.7"]),
    ("50 % zeros, f32, batch 128, against OpenBLAS", 128, 1.3, BLAS, [OURS + "csr/f32/0.5", OURS + "nm24/f32/0.5"]),
    ("80 % zeros, f32, batch 128, against OpenBLAS", 128, 3.0, BLAS, [OURS + "csr/f32/0.8"]),
    ("90 % zeros, f32, batch 128, against OpenBLAS", 128, 6.0, BLAS, [OURS + "csr/f32/0.9"]),
    ("95 % zeros, f32, batch 128, against OpenBLAS", 128, 8.0, BLAS, [OURS + "csr/f32/0.95"]),
    ("80 % zeros, f32, batch 128, against DeepSparse", 128, 1.0, ["deepsparse f32 0.8"], [OURS + "csr/f32/0.8"]),
    ("90 % zeros, f32, batch 128, against DeepSparse", 128, 1.0, ["deepsparse f32 0.9"], [OURS + "csr/f32/0.9"]),
    ("95 % zeros, f32, batch 128, against DeepSparse", 128, 1.0, ["deepsparse f32 0.95"], [OURS + "csr/f32/0.95"]),
    ("dense f32, batch 128, against OpenBLAS", 128, 0.9, BLAS, [OURS + "dense/f32/0"]),
    ("dense f32, batch 512, against OpenBLAS", 512, 0.9, BLAS, [OURS + "dense/f32/0"]),
    ("dense f16, batch 128, against our dense f32", 128, None, [OURS + "dense/f32/0"], [OURS + "dense/f16/0"]),
    ("dense int8, batch 128, against the best dense int8 of others", 128, None, INT8[1:], INT8[:1]),
]


def figures(rows):
    """Prints one table: a column for each shape and number of threads."""
    columns = list(dict.fromkeys((r["threads"], r["rows"], r["cols"]) for r in rows))
    print("| what | wanted | " + " | ".join(f"{r}x{c}, {t} thread{'s' if t > 1 else ''}" for t, r, c in columns) + " |")
    print("|---|---:|" + "---:|" * len(columns))
    for what, batch, wanted, rivals, ours in WANTED:
        cells = []
        for t, r, c in columns:
            at = {e["entry"]: e["ns"] for e in rows if (e["threads"], e["rows"], e["cols"], e["batch"]) == (t, r, c, batch)}
            them, we = [at[n] for n in rivals if n in at], [at[n] for n in ours if n in at]
            if not them or not we:
                cells.append("-")
                continue
            ratio = min(them) / min(we)
            cells.append(f"{ratio:.2f}" if wanted is None or ratio >= wanted else f"**{ratio:.2f}**")
        if any(c != "-" for c in cells):
            print(f"| {what} | {wanted or '-'} | " + " | ".join(cells) + " |")
    print("\nBold: less than wanted.")
