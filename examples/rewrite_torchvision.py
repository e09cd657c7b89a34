"""A torchvision model with fewer MACs and the same outputs: rewrites that lose nothing.

DenseNet pools behind the 1x1 convolutions of its transitions. Before them it is a quarter of the work, and
the same sum (rule pool_first). Its convolutions take over the batch normalisations behind them (merge).

python examples/rewrite_torchvision.py               # densenet121
python examples/rewrite_torchvision.py resnet18      # another of torchvision's
"""

import sys

import torch

import archcost

name = sys.argv[1] if len(sys.argv) > 1 else "densenet121"
torch.manual_seed(0)
model = archcost.load(f"torchvision:{name}").model.eval()
x = torch.randn(1, 3, 224, 224)
with torch.no_grad():
    model.train()(torch.randn(2, 3, 224, 224))  # statistics other than 0 and 1, as after training
    model.eval()

new = archcost.rewrite(model, x, rules=["pool_first", "merge"])
before, after = new.before.total, new.after.total

torch.set_num_threads(1)
race = new.race(seconds=10)
print(f"{name}: {len(new.plan)} places rewritten")
for rule in ("pool_first", "merge"):
    print(f"  {rule}: {sum(one.rule == rule for one in new.plan)}")
print(f"MACs {before.macs:,} -> {after.macs:,} ({after.macs / before.macs:.3f}x)")
print(f"{race.old_ms:.0f} ms -> {race.new_ms:.0f} ms here, one thread: {race.speedup:.2f} times as fast")
print(f"outputs within {new.output_error:.0e} of the largest: the same function")
