"""What does it take to train ResNet-50, and what does freezing all but the last stage save?"""

from torchvision.models import resnet50

import archcost

model = resnet50(weights=None)
for frozen in (False, True):
    for name, parameter in model.named_parameters():
        parameter.requires_grad = not frozen or name.startswith(("layer4", "fc"))
    step = archcost.training_step(model, input_size=(8, 3, 224, 224))
    batch = archcost.largest_batch(model, (1, 3, 224, 224), memory="8 GB").value
    trained = "last stage" if frozen else "all layers"
    print(f"{trained}: {step.total_macs / 8e9:.1f} GMACs an image; 8 GB hold a batch of {batch}")
