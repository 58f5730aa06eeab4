"""Triton's own Python clients, HTTP and gRPC, against a server.

    python triton_client.py URL GRPC LM [KEY]

URL is http://127.0.0.1:8080, GRPC 127.0.0.1:8081. The server has the networks affine and
echo of bench/serve/models under these names, and the language model LM. Every check is an
assertion; the exit status tells.
"""

import asyncio
import pathlib
import queue
import sys
import tempfile
import time
from importlib.metadata import version

import ml_dtypes
import numpy as np
import tritonclient.grpc as tg
import tritonclient.grpc.aio as tga
import tritonclient.http as th
from google.protobuf import descriptor_pb2
from grpc_tools import protoc
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

URL, GRPC, LM = sys.argv[1].removeprefix("http://").rstrip("/"), sys.argv[2], sys.argv[3]
HEADERS = {"authorization": "Bearer " + sys.argv[4]} if len(sys.argv) > 4 else {}
NUMPY = {
    "BOOL": np.bool_, "UINT8": np.uint8, "UINT16": np.uint16, "UINT32": np.uint32, "UINT64": np.uint64,
    "INT8": np.int8, "INT16": np.int16, "INT32": np.int32, "INT64": np.int64,
    "FP16": np.float16, "BF16": ml_dtypes.bfloat16, "FP32": np.float32, "FP64": np.float64, "BYTES": np.object_,
}


W = np.array([[1, 2], [3, 4], [5, 6]], np.float32)  # affine: y = x * W


def sample(datatype):
    t = NUMPY[datatype]
    if datatype == "BYTES":
        return np.array([[b"", b"a"], ["\u00e9".encode(), b"\x00\xff"]], dtype=np.object_)
    if datatype == "BOOL":
        return np.array([[True, False], [False, True]])
    if datatype.startswith(("INT", "UINT")):
        i = np.iinfo(t)
        return np.array([[0, 1], [i.min, i.max]], dtype=t)
    return np.array([[0, -1.5], [0.25, 65504]], dtype=t)


def raises(call, text):
    try:
        call()
    except InferenceServerException as e:
        assert text in e.message(), e
        return e
    raise AssertionError("no error")


def common(c, mod, http):
    """What both clients do alike."""
    h = lambda: {"headers": dict(HEADERS)}  # the HTTP client writes into it
    assert c.is_server_live(**h()) and c.is_server_ready(**h())
    assert c.is_model_ready("affine", **h())
    meta = c.get_server_metadata(**h()) if http else c.get_server_metadata(as_json=True, **h())
    assert meta["name"] == "sparserun" and "binary_tensor_data" in meta["extensions"]
    m = c.get_model_metadata("affine", **h()) if http else c.get_model_metadata("affine", as_json=True, **h())
    assert m["inputs"][0]["name"] == "x" and m["inputs"][0]["datatype"] == "FP32"
    assert [int(d) for d in m["inputs"][0]["shape"]] == [-1, 3]
    raises(lambda: c.get_model_metadata("nobody", **h()), "no such model")

    rng = np.random.default_rng(1)
    x = rng.integers(-8, 8, (5, 3)).astype(np.float32)
    want = x @ W
    modes = [(True, True), (True, False), (False, True), (False, False)] if http else [(None, None)]
    for send, receive in modes:
        i = mod.InferInput("x", [5, 3], "FP32")
        i.set_data_from_numpy(x, **({"binary_data": send} if http else {}))
        o = mod.InferRequestedOutput("y", **({"binary_data": receive} if http else {}))
        r = c.infer("affine", [i], outputs=[o], request_id="r1", **h())
        assert np.array_equal(r.as_numpy("y"), want), (send, receive)
        res = r.get_response()
        assert (res["id"] if http else res.id) == "r1"
        r = c.infer("affine", [i], **h())  # no outputs named: all, binary
        assert np.array_equal(r.as_numpy("y"), want)
    raises(lambda: c.infer("affine", [i], outputs=[mod.InferRequestedOutput("z")], **h()), "no output")
    bad = mod.InferInput("x", [1, 2], "FP32")
    bad.set_data_from_numpy(np.zeros((1, 2), np.float32))
    raises(lambda: c.infer("affine", [bad], **h()), "want shape [-1 3]")

    inputs = []
    for d in NUMPY:
        i = mod.InferInput(d, [2, 2], d)
        i.set_data_from_numpy(sample(d))
        inputs.append(i)
    r = c.infer("echo", inputs, **h())
    for d in NUMPY:
        got = r.as_numpy(d + "out")
        assert got.shape == (2, 2) and got.dtype == NUMPY[d], (d, got.dtype)
        assert np.array_equal(got, sample(d)), (d, got)

    # A language model.
    text = mod.InferInput("text_input", [2, 1], "BYTES")
    text.set_data_from_numpy(np.array([["The capital of France is"], ["Two plus two is"]], dtype=np.object_))
    a = c.infer(LM, [text], parameters={"max_tokens": 6}, **h())
    assert a.as_numpy("text_output").shape == (2, 1)
    assert set(a.as_numpy("finish_reason").ravel()) <= {b"length", b"stop"}
    again = c.infer(LM, [text], parameters={"max_tokens": 6}, **h())
    assert np.array_equal(a.as_numpy("text_output"), again.as_numpy("text_output")), "greedy by default"
    ids = mod.InferInput("input_ids", [1, 3], "INT64")
    ids.set_data_from_numpy(np.array([[97, 98, 99]], np.int64))
    o = c.infer(LM, [ids], outputs=[mod.InferRequestedOutput("output_ids")], parameters={"max_tokens": 5, "ignore_eos": True}, **h())
    assert o.as_numpy("output_ids").shape == (5,)
    raises(lambda: c.infer(LM, [text], parameters={"temperature": -1.0}, **h()), "temperature")

    stats = c.get_inference_statistics("affine", **h()) if http else c.get_inference_statistics("affine", as_json=True, **h())
    assert int(stats["model_stats"][0]["inference_stats"]["success"]["count"]) > 0
    index = c.get_model_repository_index(**h()) if http else c.get_model_repository_index(as_json=True, **h())["models"]
    assert {"affine", "echo", LM} <= {m["name"] for m in index}
    assert all(m["state"] == "READY" for m in index)
    raises(lambda: c.unload_model("affine", **h()), "admin listener")
    return a.as_numpy("text_output")[0, 0]


def http():
    with th.InferenceServerClient(URL, concurrency=4, network_timeout=60) as c:
        text = common(c, th, True)
        x = np.arange(6, dtype=np.float32).reshape(2, 3)
        i = th.InferInput("x", [2, 3], "FP32")
        i.set_data_from_numpy(x)
        want = x @ W
        for r in [c.async_infer("affine", [i], headers=dict(HEADERS)) for _ in range(16)]:
            assert np.array_equal(r.get_result().as_numpy("y"), want)
        for how in ("gzip", "deflate"):
            r = c.infer("affine", [i], request_compression_algorithm=how, headers=dict(HEADERS))
            assert np.array_equal(r.as_numpy("y"), want), how
        return text


def grpc_sync(expected):
    with tg.InferenceServerClient(GRPC) as c:
        assert common(c, tg, False) == expected, "HTTP and gRPC answer alike"
        # Pieces of text over a stream, as Triton's vLLM clients read them.
        results = queue.Queue()
        c.start_stream(callback=lambda result, error: results.put((result, error)), headers=dict(HEADERS))

        def ask(request_id, stream):
            text = tg.InferInput("text_input", [1], "BYTES")
            text.set_data_from_numpy(np.array(["The capital of France is"], dtype=np.object_))
            s = tg.InferInput("stream", [1], "BOOL")
            s.set_data_from_numpy(np.array([stream]))
            p = tg.InferInput("sampling_parameters", [1], "BYTES")
            p.set_data_from_numpy(np.array([b'{"max_tokens": "6", "temperature": "0"}'], dtype=np.object_))
            c.async_stream_infer(LM, [text, s, p], request_id=request_id, outputs=[tg.InferRequestedOutput("text_output")], enable_empty_final_response=True)

        def collect(n):
            texts, responses, finals = {}, {}, 0
            while finals < n:
                result, error = results.get(timeout=60)
                assert error is None, error
                r = result.get_response()
                responses[r.id] = responses.get(r.id, 0) + 1
                texts[r.id] = texts.get(r.id, b"") + result.as_numpy("text_output")[0]
                finals += r.parameters["triton_final_response"].bool_param
            return texts, responses

        ask("pieces", True)
        ask("whole", False)
        texts, responses = collect(2)
        assert texts == {"pieces": expected, "whole": expected}, (texts, expected)
        assert responses["whole"] == 1  # pieces that come faster than they are sent are one, too
        c.async_stream_infer("nobody", [], request_id="x")
        result, error = results.get(timeout=60)
        assert result is None and "no such model" in error.message()
        c.stop_stream()

        # Cancelling ends the work.
        long = tg.InferInput("text_input", [1], "BYTES")
        long.set_data_from_numpy(np.array(["a"], dtype=np.object_))
        fails = lambda: int(c.get_inference_statistics(LM, as_json=True, headers=dict(HEADERS))["model_stats"][0]["inference_stats"]["fail"].get("count", 0))
        before = fails()
        done = queue.Queue()
        call = c.async_infer(LM, [long], callback=lambda result, error: done.put(error), parameters={"max_tokens": 4000, "ignore_eos": True}, headers=dict(HEADERS))
        time.sleep(0.02)
        call.cancel()
        assert "CANCELLED" in done.get(timeout=10).status()
        until = time.time() + 5
        while fails() <= before:
            assert time.time() < until, "the request goes on"
            time.sleep(0.02)


async def grpc_async():
    async with tga.InferenceServerClient(GRPC) as c:
        x = np.ones((1, 3), np.float32)
        i = tga.InferInput("x", [1, 3], "FP32")
        i.set_data_from_numpy(x)
        for r in await asyncio.gather(*(c.infer("affine", [i], headers=dict(HEADERS)) for _ in range(16))):
            assert np.array_equal(r.as_numpy("y"), x @ W)


def descriptors():
    """Our .proto has the field numbers and types of Triton's stubs, for all that it has."""
    proto = pathlib.Path(__file__).resolve().parents[3] / "serve/oip/inference/inference.proto"
    with tempfile.NamedTemporaryFile() as f:
        assert protoc.main(["protoc", f"-I{proto.parent}", f"--descriptor_set_out={f.name}", proto.name]) == 0
        ours = descriptor_pb2.FileDescriptorSet.FromString(f.read()).file[0]
    theirs = descriptor_pb2.FileDescriptorProto()
    service_pb2.DESCRIPTOR.CopyToProto(theirs)
    assert ours.package == theirs.package

    def fields(messages, prefix=""):
        for m in messages:
            yield prefix + m.name, {(f.name, f.number, f.type, f.label, f.type_name) for f in m.field}
            yield from fields(m.nested_type, prefix + m.name + ".")

    known = dict(fields(theirs.message_type))
    for name, f in fields(ours.message_type):
        assert f == known[name], (name, f ^ known[name])
    methods = lambda d: {(m.name, m.input_type, m.output_type, m.client_streaming, m.server_streaming) for m in d.service[0].method}
    assert methods(ours) <= methods(theirs) and ours.service[0].name == theirs.service[0].name


def main():
    start = time.time()
    text = http()
    print(f"tritonclient {version('tritonclient')}: http ok, {time.time() - start:.2f} s", flush=True)
    start = time.time()
    grpc_sync(text)
    asyncio.run(grpc_async())
    print(f"tritonclient {version('tritonclient')}: grpc ok, {time.time() - start:.2f} s", flush=True)
    descriptors()


main()
