"""Writes golden.json: losses, gradients and optimiser steps of PyTorch (CPU, float64 rounded to
float32), which golden_test.go compares with ours.

    python golden.py [SPARSERUN_DATA] > golden.json      # torch 2.15, transformers 4.57

Weights are listed in the order of the graph that the test builds.
"""
import json, os, sys
import torch, torch.nn as nn, torch.nn.functional as F

torch.manual_seed(0)
torch.set_default_dtype(torch.float64)
data = sys.argv[1] if len(sys.argv) > 1 else os.path.join(os.path.dirname(__file__), "../../../shared/data")
out = {}


def nums(t):
    return [float("%.8g" % v) for v in t.detach().flatten().tolist()]


def case(params, x, y, logits, smoothing=0.0, stats=()):
    loss = F.cross_entropy(logits, y, label_smoothing=smoothing)
    loss.backward()
    return {"x": nums(x), "y": y.tolist(), "loss": loss.item(), "logits": nums(logits),
            "weights": [nums(p) for p in params], "grads": [nums(p.grad) for p in params], "stats": [nums(s) for s in stats]}


def rounded(m):
    with torch.no_grad():
        for p in m.parameters():
            p.copy_(p.float().double())
    return m


# A convolutional network: conv 2->3 3x3 pad 1, batch norm, ReLU, max pool 2, depthwise conv 3x3 stride 2
# pad 1, GELU, global average, linear 3->4.
conv, bn, dw, fc = nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 3, stride=2, padding=1, groups=3), nn.Linear(3, 4)
with torch.no_grad():
    bn.weight.uniform_(0.5, 1.5)
    bn.bias.uniform_(-0.5, 0.5)
net = rounded(nn.Sequential(conv, bn, nn.ReLU(), nn.MaxPool2d(2), dw, nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), fc))
x, y = torch.randn(10, 2, 6, 6).float().double(), torch.tensor([0, 1, 2, 3, 0, 1, 2, 3, 1, 1])
params = [conv.weight, conv.bias, bn.weight, bn.bias, dw.weight, dw.bias, fc.weight, fc.bias]
out["conv"] = case(params, x, y, net(x), stats=[bn.running_mean, bn.running_var])

# A feed-forward block: linear 5->8, LayerNorm, GELU (tanh), linear 8->8, RMSNorm, SiLU, linear 8->3;
# label smoothing 0.1.
l1, ln, l2, rn, l3 = nn.Linear(5, 8), nn.LayerNorm(8), nn.Linear(8, 8), nn.RMSNorm(8, eps=1e-5), nn.Linear(8, 3)
with torch.no_grad():
    for p in (ln.weight, rn.weight):
        p.uniform_(0.5, 1.5)
net = rounded(nn.Sequential(l1, ln, nn.GELU(approximate="tanh"), l2, rn, nn.SiLU(), l3))
x, y = torch.randn(7, 5).float().double(), torch.tensor([0, 1, 2, -100, 0, 1, 2])
params = [l1.weight, l1.bias, ln.weight, ln.bias, l2.weight, l2.bias, rn.weight, l3.weight, l3.bias]
out["block"] = case(params, x, y, net(x), smoothing=0.1)

# Optimisers on six numbers over six steps of given gradients.
w0 = torch.randn(6).float().double()
grads = torch.randn(6, 6).float().double()
out["optimisers"] = {"w": nums(w0), "grads": [nums(g) for g in grads], "after": {}}
for name, make in {
    "sgd": lambda p: torch.optim.SGD(p, 0.1),
    "sgd_momentum": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.05),
    "sgd_nesterov": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True, weight_decay=0.05),
    "adam": lambda p: torch.optim.Adam(p, 0.1, weight_decay=0.05),
    "adamw": lambda p: torch.optim.AdamW(p, 0.1, weight_decay=0.05),
}.items():
    p = nn.Parameter(w0.clone())
    o, after = make([p]), []
    for g in grads:
        p.grad = g.clone()
        o.step()
        after.append(nums(p))
    out["optimisers"]["after"][name] = after

# stories260K: loss of two sequences and, for every weight, the norm of its gradient and a few entries.
from transformers import LlamaForCausalLM
m = LlamaForCausalLM.from_pretrained(os.path.join(data, "stories260K"), dtype=torch.float64, attn_implementation="eager")
g = torch.Generator().manual_seed(1)
seqs = [torch.randint(3, 512, (n,), generator=g) for n in (70, 9, 33)]
total = sum(len(s) - 1 for s in seqs)
loss = 0
for s in seqs:
    logits = m(s[None, :-1]).logits[0]
    loss = loss + F.cross_entropy(logits, s[1:], reduction="sum") / total
loss.backward()
tensors = {}
for name, p in m.named_parameters():
    f = p.grad.flatten()
    idx = [(i * 7919) % len(f) for i in range(1, 9)]
    tensors[name] = {"norm": f.norm().item(), "at": idx, "grad": [float("%.8g" % f[i]) for i in idx]}
out["stories"] = {"seqs": [s.tolist() for s in seqs], "loss": loss.item(), "tensors": tensors}
json.dump(out, sys.stdout, indent=None, separators=(",", ":"))
print()
