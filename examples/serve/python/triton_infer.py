"""Triton's own client against sparserun: python triton_infer.py HOST:PORT GRPC_HOST:PORT MODEL."""

import sys

import numpy as np
import tritonclient.grpc as grpcclient
import tritonclient.http as httpclient

http_addr, grpc_addr, model = sys.argv[1:4]
for lib, addr in ((httpclient, http_addr), (grpcclient, grpc_addr)):
    client = lib.InferenceServerClient(addr)
    assert client.is_server_ready() and client.is_model_ready(model)
    meta = client.get_model_metadata(model, as_json=True) if lib is grpcclient else client.get_model_metadata(model)
    first = meta["inputs"][0]
    shape = [1 if int(d) < 0 else int(d) for d in first["shape"]]
    x = lib.InferInput(first["name"], shape, first["datatype"])
    x.set_data_from_numpy(np.zeros(shape, np.float32))
    y = client.infer(model, [x])
    name = meta["outputs"][0]["name"]
    print(lib.__name__, first["name"], shape, "->", name, y.as_numpy(name).shape)
    client.close()
