"""Writes bert.onnx, bert14.onnx and golden_bert.json: a small BERT (transformers' own class, random
weights, half of its encoder's matrices pruned by magnitude) exported by PyTorch's two exporters, and what
PyTorch (CPU, float64) gets for it: loss and gradients of a batch, then the losses of six steps of SGD
with momentum in which pruned weights stay zero.

    python golden_bert.py      # torch 2.15, transformers 4.57, onnxscript; writes beside itself
"""
import json, os
import onnx, torch
from transformers import BertConfig, BertForSequenceClassification

here = os.path.dirname(os.path.abspath(__file__))


def bert(attention):
    return BertForSequenceClassification(BertConfig(
        vocab_size=60, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=16, num_labels=3, attn_implementation=attention)).eval()


class OneInput(torch.nn.Module):  # token ids alone: the mask of attention is all ones
    def __init__(self, m):
        super().__init__()
        self.m = m

    def forward(self, input_ids):
        return self.m(input_ids=input_ids).logits


torch.manual_seed(7)
models = {"bert.onnx": bert("sdpa"), "bert14.onnx": bert("eager")}
first = models["bert.onnx"]
with torch.no_grad():
    for name, p in first.named_parameters():
        gain = name.endswith("LayerNorm.weight")
        p.copy_(float(gain) + (0.1 if p.dim() == 1 else 0.25) * torch.randn(p.shape))
        if "encoder" in name and p.dim() == 2:
            p[p.abs() < p.abs().flatten().median()] = 0
models["bert14.onnx"].load_state_dict(first.state_dict())

N, T = 6, 8
# Not token 0: PyTorch gives padding no gradient, and an ONNX file does not know which token that is.
ids, y = torch.randint(1, 60, (N, T)), torch.tensor([0, 1, 2, 2, 1, 0])
torch.onnx.export(OneInput(models["bert.onnx"]), (ids,), f"{here}/bert.onnx", input_names=["input_ids"], output_names=["logits"],
                  dynamo=True, external_data=False, dynamic_shapes={"input_ids": {0: torch.export.Dim("batch")}})
torch.onnx.export(OneInput(models["bert14.onnx"]), (ids,), f"{here}/bert14.onnx", input_names=["input_ids"], output_names=["logits"],
                  dynamo=False, opset_version=14, dynamic_axes={"input_ids": {0: "batch"}})
for name in models:  # the exporter's traces of its own source are most of the file
    f = onnx.load(f"{here}/{name}")
    for x in [f, f.graph, *f.graph.node, *f.graph.value_info, *f.graph.input, *f.graph.output, *f.graph.initializer]:
        x.ClearField("metadata_props")
        x.ClearField("doc_string")
    onnx.save(f, f"{here}/{name}")

m = first.double()
masks = {k: p != 0 for k, p in m.named_parameters() if "encoder" in k and p.dim() == 2}
out = {"ids": ids.flatten().tolist(), "y": y.tolist(), "held": sum(int((~k).sum()) for k in masks.values()), "losses": [], "tensors": {}}
o = torch.optim.SGD(m.parameters(), lr=0.05, momentum=0.9)
for step in range(6):
    o.zero_grad()
    logits = m(input_ids=ids).logits
    loss = torch.nn.functional.cross_entropy(logits, y)
    loss.backward()
    out["losses"].append(loss.item())
    if step == 0:
        out["logits"] = logits.flatten().tolist()
        for k, p in m.named_parameters():
            # An exporter may keep only the eight rows of positions that are read.
            used = p.numel() // 2 if "position" in k else p.numel()
            at = [int(used * (0.37 + i / 12) % used) for i in range(12)]
            out["tensors"][k] = {"size": p.numel(), "norm": p.grad.norm().item(), "at": at,
                                 "w": [p.flatten()[i].item() for i in at], "grad": [p.grad.flatten()[i].item() for i in at]}
    for k, mask in masks.items():
        m.get_parameter(k).grad *= mask
    o.step()
json.dump(out, open(f"{here}/golden_bert.json", "w"))
