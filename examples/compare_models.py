"""ResNet-50 and MobileNet-V2 side by side."""

import archcost

comparison = archcost.compare("torchvision:resnet50", "torchvision:mobilenet_v2")
print(comparison)

resnet, mobilenet = comparison.a.total, comparison.b.total
print(f"MobileNet-V2 has {resnet.macs / mobilenet.macs:.1f} times fewer MACs than ResNet-50,")
print(f"but only {resnet.peak_memory_bytes / mobilenet.peak_memory_bytes:.1f} times less peak memory:")
print(
    f"{resnet.arithmetic_intensity:.0f} against {mobilenet.arithmetic_intensity:.0f} operations a byte moved."
)
