"""Runs the official clients against a server of its own, with models whose answers are
known.

    python run.py SPARSERUN MODELS [--lm NAME=PATH]

SPARSERUN is the binary, MODELS the folder that `go run ./bench/serve/models` wrote. With
--lm OpenAI's client also talks to that chat model.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
KEY = "sk-of-the-official-clients"


def main():
    p = argparse.ArgumentParser()
    p.add_argument("sparserun")
    p.add_argument("models", type=pathlib.Path)
    p.add_argument("--lm", help="NAME=PATH of a chat model")
    a = p.parse_args()
    names = ["abc"] + ([a.lm.split("=")[0]] if a.lm else [])
    with tempfile.TemporaryDirectory() as tmp:
        keys = pathlib.Path(tmp, "keys")
        keys.write_text(f"clients {KEY}\n")
        keys.chmod(0o600)
        ready, log = pathlib.Path(tmp, "ready.json"), pathlib.Path(tmp, "log")
        specs = [f"abc={a.models / 'abc'}", f"affine={a.models / 'affine.onnx'}", f"echo={a.models / 'echo.onnx'}"] + ([a.lm] if a.lm else [])
        with ready.open("wb") as out, log.open("wb") as err:
            server = subprocess.Popen([a.sparserun, "serve", *specs, "--addr", "127.0.0.1:0", "--grpc-addr", "127.0.0.1:0",
                                       "--sparse", "off", "--api-keys", str(keys), "--json"], stdout=out, stderr=err)
        try:
            until = time.time() + 120
            while not ready.read_text().strip():
                if server.poll() is not None or time.time() > until:
                    sys.exit("the server does not start:\n" + log.read_text())
                time.sleep(0.1)
            at = json.loads(ready.read_text())
            for name in names:
                run("openai_client.py", at["url"], name, KEY)
            run("triton_client.py", at["url"], at["grpc_addr"], "abc", KEY)
            server.terminate()
            code = server.wait(timeout=60)
            if code != 0:
                sys.exit(f"exit code {code} after SIGTERM, want 0:\n" + log.read_text()[-4000:])
        finally:
            if server.poll() is None:
                server.kill()


def run(script, *args):
    code = subprocess.run([sys.executable, HERE / script, *args], timeout=600, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}).returncode
    if code != 0:
        sys.exit(f"{script} {args[1]}: exit code {code}")


main()
