"""Makes marlin_64x256.safetensors: a marlin-24 weight whose group (128) is half of its
inputs (256), where compressed-tensors leaves the scales unpermuted, and what it stands for.

    V/bin/python loader/testdata/make_marlin.py     # compressed-tensors 0.14.0.1; from the project's root
"""
import torch
from compressed_tensors.compressors.sparse_quantized_compressors.marlin_24 import Marlin24Compressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from safetensors.torch import save_file

torch.manual_seed(3)
w = torch.randn(64, 256)
drop = w.abs().reshape(-1, 4).argsort(1)[:, :2]
w = w.reshape(-1, 4).scatter(1, drop, 0).reshape(64, 256)
scale = (w.reshape(64, 2, 128).abs().amax(2) / 7).half()
q = (w.reshape(64, 2, 128) / scale.float()[:, :, None]).round().clamp(-8, 7)
dense = (q * scale.float()[:, :, None]).reshape(64, 256).half()
args = QuantizationArgs(num_bits=4, type="int", symmetric=True, strategy="group", group_size=128)
out = Marlin24Compressor().compress({"m.weight": dense, "m.weight_scale": scale}, {"m": QuantizationScheme(targets=["Linear"], weights=args)})
out = {k: v.contiguous() for k, v in out.items()}
out["want"] = dense
save_file(out, "loader/testdata/marlin_64x256.safetensors")
