"""Does MobileNetV2 fit into 1 MB of flash and 320 KB of SRAM of a microcontroller, and at which size?"""

from torchvision.models import mobilenet_v2

import archcost

for width, side in ((1.0, 224), (0.35, 160), (0.35, 96)):
    model = mobilenet_v2(weights=None, width_mult=width, num_classes=10).eval()
    found = archcost.footprint(model, input_size=(1, 3, side, side), flash="1 MB", sram="320 KB")
    worst = max(found.layers, key=lambda layer: layer.sram).name
    print(
        f"width {width} at {side} px: {found.flash / 1e3:.0f} kB of flash, {found.sram / 1e3:.0f} kB of SRAM "
        f"at {worst}: {'fits' if found.fits else 'does not fit'}"
    )
