"""Writes two tiny ONNX networks whose results are known: affine.onnx, y = x * w, and
echo.onnx, which gives tensors of all types back. Plain bytes, so that no ONNX package is
needed.

    python make_models.py FOLDER
"""

import pathlib
import struct
import sys

W = [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]

# The protocol's datatypes with ONNX's numbers of them.
TYPES = {
    "BOOL": 9, "UINT8": 2, "UINT16": 4, "UINT32": 12, "UINT64": 13, "INT8": 3, "INT16": 5,
    "INT32": 6, "INT64": 7, "FP16": 10, "BF16": 16, "FP32": 1, "FP64": 11, "BYTES": 8,
}


def varint(n):
    out = b""
    while n > 127:
        out += bytes([n & 127 | 128])
        n >>= 7
    return out + bytes([n])


def number(field, n):
    return varint(field << 3) + varint(n)


def part(field, b):
    b = b.encode() if isinstance(b, str) else b
    return varint(field << 3 | 2) + varint(len(b)) + b


def port(name, elem, shape):
    dims = b"".join(part(1, part(2, "N") if d < 0 else number(1, d)) for d in shape)
    return part(1, name) + part(2, part(1, number(1, elem) + part(2, dims)))


def node(op, inputs, outputs):
    return b"".join(part(1, s) for s in inputs) + b"".join(part(2, s) for s in outputs) + part(4, op)


def model(nodes, weights, inputs, outputs):
    g = b"".join(part(1, n) for n in nodes) + part(2, "test") + b"".join(part(5, w) for w in weights)
    g += b"".join(part(11, p) for p in inputs) + b"".join(part(12, p) for p in outputs)
    return number(1, 8) + part(7, g) + part(8, part(1, "") + number(2, 17))


def main(folder):
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    raw = struct.pack("<6f", *(x for row in W for x in row))
    w = number(1, 3) + number(1, 2) + number(2, 1) + part(8, "w") + part(9, raw)
    (folder / "affine.onnx").write_bytes(
        model([node("MatMul", ["x", "w"], ["y"])], [w], [port("x", 1, [-1, 3])], [port("y", 1, [-1, 2])]))
    (folder / "echo.onnx").write_bytes(model(
        [node("Identity", [d], [d + "out"]) for d in TYPES], [],
        [port(d, e, [-1, 2]) for d, e in TYPES.items()], [port(d + "out", e, [-1, 2]) for d, e in TYPES.items()]))


if __name__ == "__main__":
    main(sys.argv[1])
