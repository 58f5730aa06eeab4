#!/usr/bin/env python3
"""Writes criteria.json: scores of weights by gradient criteria, with PyTorch in float64.

The network is conv 1->3 3x3, ReLU, max pool 2, 12->7, ReLU, 7->4 on 40 images of 6x6:

    python3 criteria.py > criteria.json
"""
import json

import torch
import torch.nn.functional as F

torch.manual_seed(7)
f = lambda *s: (0.4 * torch.randn(*s)).float().double()
names = ["conv.weight", "conv.bias", "fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"]
shapes = [(3, 1, 3, 3), (3,), (7, 12), (7,), (4, 7), (4,)]
params = [f(*s).requires_grad_() for s in shapes]
X, Y = torch.randn(40, 1, 6, 6).float().double(), torch.randint(0, 4, (40,))
matrices = [0, 2, 4]


def net(p, x):
    x = F.max_pool2d(F.relu(F.conv2d(x, p[0], p[1])), 2).flatten(1)
    return F.linear(F.relu(F.linear(x, p[2], p[3])), p[4], p[5])


def grads(p, x, y):
    return torch.autograd.grad(F.cross_entropy(net(p, x), y), p)


def flat(ts):
    return [[float(v) for v in t.detach().flatten()] for t in ts]


full = grads(params, X, Y)
single = [grads(params, X[i : i + 1], Y[i : i + 1]) for i in range(40)]
out = {
    "names": names,
    "weights": flat(params),
    "x": X.flatten().tolist(),
    "y": Y.tolist(),
    # |w g| of the mean loss
    "snip": flat([(params[i] * full[i]).abs() for i in matrices]),
    # mean over batches (of one) of (w g)^2
    "taylor": flat([sum((params[i] * g[i]) ** 2 for g in single) / 40 for i in matrices]),
    # w^2/2 times the mean of the samples' squared gradients
    "fisher": flat([0.5 * params[i] ** 2 * sum(g[i] ** 2 for g in single) / 40 for i in matrices]),
}

# Movement: five steps of gradient descent at 0.05 on all images; the sum of -w g.
p = [t.detach().clone().requires_grad_() for t in params]
moved = [torch.zeros_like(p[i]) for i in matrices]
for _ in range(5):
    g = grads(p, X, Y)
    for k, i in enumerate(matrices):
        moved[k] -= p[i].detach() * g[i]
    p = [(t.detach() - 0.05 * d).requires_grad_() for t, d in zip(p, g)]
out["movement"] = flat(moved)


def lamp(w):
    s = w.detach().flatten() ** 2
    return torch.stack([s[i] / s[s >= s[i]].sum() for i in range(len(s))])


out["lamp"] = flat([lamp(params[i]) for i in matrices])
out["std"] = flat([params[i].abs() / params[i].std(unbiased=False) for i in matrices])


def smallest(scores, share):  # positions, over all matrices as one vector
    s = torch.cat([t.detach().flatten() for t in scores])
    return sorted(torch.argsort(s, stable=True)[: int(len(s) * share)].tolist())


out["lamp_60"] = smallest([lamp(params[i]) for i in matrices], 0.6)
out["snip_60"] = smallest([(params[i] * full[i]).abs() for i in matrices], 0.6)
print(json.dumps(out))
