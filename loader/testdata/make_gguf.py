"""Makes gguf_types.gguf and gguf_types.f32: random 8x256 (and raw-bits) tensors in every
GGUF type, and what gguf-py dequantises them to.

    python3 -m venv V && V/bin/pip install gguf==0.19.0 numpy
    V/bin/python loader/testdata/make_gguf.py       # from the project's root

The K types have no quantiser in gguf-py: their blocks are random bytes with tame scales,
which also reaches codes that a quantiser would not choose. gguf_types.f32 is the tensors'
values one after the other, little-endian float32, in file order.
"""
import numpy as np
from gguf import GGUFWriter, GGMLQuantizationType as Q
from gguf.quants import quantize, dequantize
from gguf.constants import GGML_QUANT_SIZES

rng = np.random.default_rng(1)
w = GGUFWriter("loader/testdata/gguf_types.gguf", "llama")
w.add_uint32("llama.block_count", 1)
out = []
for t in [Q.F32, Q.F16, Q.BF16, Q.Q4_0, Q.Q4_1, Q.Q5_0, Q.Q5_1, Q.Q8_0, Q.Q4_K, Q.Q5_K, Q.Q6_K]:
    x = (rng.standard_normal((8, 512)) * 0.1).astype(np.float32)
    block, size = GGML_QUANT_SIZES[t]
    if t in (Q.F32, Q.F16):
        raw = x.astype(np.float32 if t == Q.F32 else np.float16)
    elif t in (Q.Q4_K, Q.Q5_K, Q.Q6_K):
        raw = rng.integers(0, 256, (8, 512 // block * size), dtype=np.uint8)
        blocks = raw.reshape(-1, size)
        scales = (rng.standard_normal((len(blocks), 2)) * 0.01).astype(np.float16).view(np.uint8)
        if t == Q.Q6_K:
            blocks[:, 208:] = scales[:, :2]
        else:
            blocks[:, :4] = scales
    else:
        raw = quantize(x, t)
    w.add_tensor(t.name, raw, raw_dtype=t)
    data = raw.view(np.uint8) if t not in (Q.F32, Q.F16) else raw
    out.append(dequantize(data, t).astype(np.float32).ravel() if t not in (Q.F32, Q.F16) else raw.astype(np.float32).ravel())
w.write_header_to_file()
w.write_kv_data_to_file()
w.write_tensors_to_file()
w.close()
np.concatenate(out).astype("<f4").tofile("loader/testdata/gguf_types.f32")
