"""Makes pruned.pt and pruned.safetensors: a state dict of a network pruned with
torch.nn.utils.prune (weight_orig, weight_mask), and the weights it stands for.

    V/bin/python loader/testdata/make_torch.py      # torch 2.15; from the project's root
"""
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils import prune

torch.manual_seed(1)
net = nn.Sequential(nn.Linear(20, 12), nn.ReLU(), nn.Linear(12, 7).to(torch.float16))
prune.l1_unstructured(net[0], "weight", amount=0.5)
prune.random_unstructured(net[0], "bias", amount=3)
prune.ln_structured(net[2], "weight", amount=0.5, n=2, dim=0)
want = {"0.weight": net[0].weight, "0.bias": net[0].bias, "2.weight": net[2].weight, "2.bias": net[2].bias}
state = net.state_dict()
state["view"] = torch.arange(12, dtype=torch.float32).reshape(3, 4)[1:]  # an offset into its storage
want["view"] = state["view"]
torch.save({"epoch": 3, "lr": 0.5, "state_dict": state, "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}}}, "loader/testdata/pruned.pt")
save_file({k: v.detach().contiguous().clone() for k, v in want.items()}, "loader/testdata/pruned.safetensors")
