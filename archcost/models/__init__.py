"""Models: a torch.nn.Module from a SPEC such as ``torchvision:resnet50``. Nothing is downloaded."""
