"""Writes golden_tensor.json: losses and gradients of PyTorch (CPU, float64, weights rounded to
float32) for a fire module with squeeze and excitation, and for an encoder over token ids.

    python golden_tensor.py > golden_tensor.json      # torch 2.15
"""
import json, math
import torch, torch.nn as nn, torch.nn.functional as F

torch.manual_seed(5)
torch.set_default_dtype(torch.float64)


def nums(t):
    return [float("%.8g" % v) for v in t.detach().flatten().tolist()]


def param(*shape, scale=0.4, mean=0.0):
    return nn.Parameter((mean + scale * torch.randn(*shape)).float().double())


def case(p, x, y, logits):
    loss = F.cross_entropy(logits, y)
    loss.backward()
    return {"x": nums(x), "y": y.tolist(), "loss": loss.item(), "logits": nums(logits),
            "weights": {k: nums(v) for k, v in p.items()}, "grads": {k: nums(v.grad) for k, v in p.items()}}


# Fire: squeeze 1x1, two expansions side by side; channels times sigmoid of a linear of their means;
# tanh; the middle two of the channels; mean over space; linear.
p = {"squeeze": param(3, 2, 1, 1), "left": param(4, 3, 1, 1), "right": param(4, 3, 3, 3), "gate": param(8, 8), "scale": param(8, 1, 1, mean=1.0), "fc": param(3, 4)}
x, y = torch.randn(6, 2, 5, 4).float().double(), torch.tensor([0, 1, 2, 0, 1, 2])
s = F.relu(F.conv2d(x, p["squeeze"]))
f = torch.cat([F.conv2d(s, p["left"]), F.conv2d(s, p["right"], padding=1)], 1)
g = torch.sigmoid(F.linear(f.mean((2, 3)), p["gate"]))
f = f * g[:, :, None, None] * p["scale"]
f = torch.tanh(f).clamp(-0.6, 0.7)[:, 2:6].mean((2, 3))
fire = case(p, x, y, F.linear(f, p["fc"]))

# Encoder: 5 tokens of 11, width 8, 2 heads, GELU written with erf, the first position's vector.
N, T, H, heads, D = 4, 5, 8, 2, 4
p = {"table": param(11, H), "position": param(1, T, H), "ln0.w": param(H, mean=1.0), "ln0.b": param(H)}
for k in ("q", "k", "v", "o"):
    p[k + ".w"], p[k + ".b"] = param(H, H), param(H)
p.update({"ln1.w": param(H, mean=1.0), "ln1.b": param(H), "up.w": param(12, H), "up.b": param(12), "down.w": param(H, 12), "down.b": param(H), "fc.w": param(3, H), "fc.b": param(3)})
ids, y = torch.randint(0, 11, (N, T)), torch.tensor([0, 1, 2, 1])
h = F.layer_norm(p["table"][ids] + p["position"], (H,), p["ln0.w"], p["ln0.b"], 1e-5)
lin = lambda k, v: F.linear(v, p[k + ".w"], p[k + ".b"])
cut = lambda v: v.reshape(N, T, heads, D).transpose(1, 2)
q, k, v = cut(lin("q", h)), cut(lin("k", h)), cut(lin("v", h))
a = torch.softmax(q @ k.transpose(2, 3) / math.sqrt(D), -1) @ v
h = F.layer_norm(h + lin("o", a.transpose(1, 2).reshape(N, T, H)), (H,), p["ln1.w"], p["ln1.b"], 1e-5)
u = lin("up", h)
h = h + lin("down", u * 0.5 * (1 + torch.erf(u / math.sqrt(2))))
encoder = case(p, ids, y, lin("fc", h[:, 0]))
print(json.dumps({"fire": fire, "encoder": encoder}))
