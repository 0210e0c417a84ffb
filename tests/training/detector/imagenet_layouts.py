"""Names and shapes of the ImageNet classifiers that timm and torchvision ship, written down apart from our networks."""

Layout = dict[str, tuple[int, ...]]


def norm(name: str, width: int) -> Layout:
    parts = {f"{name}.{part}": (width,) for part in ("weight", "bias", "running_mean", "running_var")}
    return parts | {f"{name}.num_batches_tracked": ()}


def conv(name: str, to: int, here: int, kernel: int) -> Layout:
    return {f"{name}.weight": (to, here, kernel, kernel)}


def pair(prefix: str, to: int, here: int, kernel: int) -> Layout:
    """A convolution `prefix.0` and its norm `prefix.1`."""
    return conv(f"{prefix}.0", to, here, kernel) | norm(f"{prefix}.1", to)


def bottleneck(prefix: str, here: int, width: int, *, downsample: bool) -> Layout:
    sizes = ((width, here, 1), (width, width, 3), (4 * width, width, 1))
    found: Layout = {}
    for k, (to, of, kernel) in enumerate(sizes, 1):
        found |= conv(f"{prefix}.conv{k}", to, of, kernel) | norm(f"{prefix}.bn{k}", to)
    return found | (pair(f"{prefix}.downsample", 4 * width, here, 1) if downsample else {})


def stage(prefix: str, here: int, width: int, count: int) -> Layout:
    found = bottleneck(f"{prefix}.0", here, width, downsample=True)
    for k in range(1, count):
        found |= bottleneck(f"{prefix}.{k}", 4 * width, width, downsample=False)
    return found


def resnet50() -> Layout:
    """torchvision's `resnet50`, and timm's: 25,557,032 parameters."""
    found = conv("conv1", 64, 3, 7) | norm("bn1", 64)
    for k, (here, width, count) in enumerate(((64, 64, 3), (256, 128, 4), (512, 256, 6), (1024, 512, 3)), 1):
        found |= stage(f"layer{k}", here, width, count)
    return found | {"fc.weight": (1000, 2048), "fc.bias": (1000,)}


def exchange(prefix: str, widths: list[int]) -> Layout:
    found: Layout = {}
    for branch, width in enumerate(widths):
        for block in range(4):
            for k in (1, 2):
                at = f"{prefix}.branches.{branch}.{block}"
                found |= conv(f"{at}.conv{k}", width, width, 3) | norm(f"{at}.bn{k}", width)
    for to in range(len(widths)):
        for here in range(len(widths)):
            at = f"{prefix}.fuse_layers.{to}.{here}"
            if here > to:
                found |= pair(at, widths[to], widths[here], 1)
            for step in range(to - here):
                found |= pair(f"{at}.{step}", widths[to] if step == to - here - 1 else widths[here], widths[here], 3)
    return found


def hrnet_w32() -> Layout:
    """timm's `hrnet_w32`, as HRNet-Image-Classification names it: 41,232,680 parameters."""
    widths = [32, 64, 128, 256]
    found = conv("conv1", 64, 3, 3) | norm("bn1", 64) | conv("conv2", 64, 64, 3) | norm("bn2", 64) | stage("layer1", 64, 64, 4)
    found |= pair("transition1.0", 32, 256, 3) | pair("transition1.1.0", 64, 256, 3)
    found |= pair("transition2.2.0", 128, 64, 3) | pair("transition3.3.0", 256, 128, 3)
    for number, modules in ((2, 1), (3, 4), (4, 3)):
        for module in range(modules):
            found |= exchange(f"stage{number}.{module}", widths[:number])
    for k, width in enumerate(widths):
        found |= bottleneck(f"incre_modules.{k}.0", width, width, downsample=True)
    for k, width in enumerate(widths[:3]):
        found |= pair(f"downsamp_modules.{k}", 8 * width, 4 * width, 3) | {f"downsamp_modules.{k}.0.bias": (8 * width,)}
    found |= pair("final_layer", 2048, 1024, 1) | {"final_layer.0.bias": (2048,)}
    return found | {"classifier.weight": (1000, 2048), "classifier.bias": (1000,)}


def num_parameters(layout: Layout) -> int:
    """Without what norms remember."""
    skip = ("running_mean", "running_var", "num_batches_tracked")
    total = 0
    for name, shape in layout.items():
        if not name.endswith(skip):
            count = 1
            for side in shape:
                count *= side
            total += count
    return total
