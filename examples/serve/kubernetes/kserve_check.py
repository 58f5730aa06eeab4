"""Holds kserve.yaml to the types of KServe's Python SDK and Kubernetes' Python client:
every key must be one of the type's, every required one must be there. The packages'
sources are read, not imported: kserve_check.py MODELS_DIR... FILE."""

import ast, os, re, sys

import yaml


def types(folders):
    """Class name -> (key -> type, required keys), from the generated model classes."""
    out = {}
    for folder in folders:
        for f in os.listdir(folder):
            if not f.endswith(".py") or f == "__init__.py":
                continue
            text = open(os.path.join(folder, f)).read()
            for cls in ast.parse(text).body:
                if not isinstance(cls, ast.ClassDef):
                    continue
                d = {t.id: ast.literal_eval(s.value) for s in cls.body if isinstance(s, ast.Assign) for t in s.targets if isinstance(t, ast.Name) and t.id in ("openapi_types", "attribute_map")}
                if len(d) == 2:
                    required = set(re.findall(r"Invalid value for `(\w+)`, must not be `None`", text))
                    out[cls.name] = ({d["attribute_map"][k]: t for k, t in d["openapi_types"].items()}, {d["attribute_map"][k] for k in required if k in d["attribute_map"]})
    return out


def check(where, value, want, known, bad):
    m = re.fullmatch(r"(list|dict)[\[(](.*)[\])]", want)
    if m and m[1] == "list":
        if not isinstance(value, list):
            bad.append(f"{where}: want a list, got {value!r}")
        else:
            for i, v in enumerate(value):
                check(f"{where}[{i}]", v, m[2], known, bad)
    elif m:
        if not isinstance(value, dict):
            bad.append(f"{where}: want a map, got {value!r}")
    elif want in known:
        keys, required = known[want]
        if not isinstance(value, dict):
            bad.append(f"{where}: want {want}, got {value!r}")
            return
        for k in required - value.keys():
            bad.append(f"{where}: {k} is missing ({want})")
        for k, v in value.items():
            if k not in keys:
                bad.append(f"{where}: {k} is not a key of {want}")
            else:
                check(f"{where}.{k}", v, keys[k], known, bad)
    elif {"str": str, "int": int, "bool": bool, "float": float}.get(want, type(value)) is not type(value):
        bad.append(f"{where}: want {want}, got {value!r}")


known, bad, n = types(sys.argv[1:-1]), [], 0
for doc in yaml.safe_load_all(open(sys.argv[-1])):
    name = doc["apiVersion"].rsplit("/", 1)[1].replace("v1", "V1", 1) + doc["kind"]
    if name not in known:
        sys.exit(f"{name}: no such type among {len(known)}")
    check(doc["kind"], doc, name, known, bad)
    n += 1
if bad:
    sys.exit("\n".join(bad))
print(f"{sys.argv[-1]}: {n} documents as KServe's and Kubernetes' {len(known)} types want them")
