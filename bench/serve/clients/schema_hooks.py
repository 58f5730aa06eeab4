"""Hooks for schemathesis: requests name models that are there, and texts stay short.

    SCHEMATHESIS_HOOKS=schema_hooks SERVE_LM=chat schemathesis run http://127.0.0.1:8080/openapi.json
"""

import os

import schemathesis

LM = os.environ.get("SERVE_LM", "chat")
NET = os.environ.get("SERVE_NET") or LM


@schemathesis.hook
def map_body(ctx, body):
    if isinstance(body, dict):
        if isinstance(body.get("model"), str):
            body["model"] = LM
        # Whole numbers only: a wrong one is what a negative case is about.
        for key in ("max_tokens", "max_completion_tokens"):
            if isinstance(body.get(key), int) and body[key] > 4:
                body[key] = 4
        if isinstance(body.get("n"), int) and body["n"] > 2:
            body["n"] = 2
    return body


@schemathesis.hook
def map_path_parameters(ctx, path_parameters):
    if path_parameters and "model" in path_parameters:
        generate = ctx.operation is not None and "generate" in ctx.operation.path
        path_parameters["model"] = LM if generate else NET
        if "version" in path_parameters:
            path_parameters["version"] = "1"
    return path_parameters


@schemathesis.hook
def before_call(ctx, case, kwargs):
    """Some microseconds are kept to: 503, as they should be. Here, as the coverage phase passes no other hook."""
    t = case.body.get("timeout") if isinstance(case.body, dict) else None
    if type(t) is int and 0 < t < 10**8:
        case.body["timeout"] = 10**8
