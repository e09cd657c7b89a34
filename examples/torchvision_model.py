"""What a torchvision model costs: the table, the totals, the five costliest layers."""

import torchvision

import archcost

model = torchvision.models.resnet18(weights=None).eval()
analysis = archcost.analyze(model, input_size=(1, 3, 224, 224))

print(analysis)

total = analysis.total
print(f"{total.params / 1e6:.1f} M parameters, {total.macs / 1e9:.2f} GMACs, depth {total.depth}")
print(f"peak activation memory {total.peak_memory_bytes / 1e6:.1f} MB")
print()
print(
    analysis.to_pandas(by="layers", top=5)[["name", "output_shape", "macs", "params"]].to_string(index=False)
)
