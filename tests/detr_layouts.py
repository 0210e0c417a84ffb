"""RT-DETR's and D-FINE's checkpoints as they lie on the hub (2024, 2025): tables of names and shapes, by the two papers' sizes.

Shorthand: `conv_norm` is a convolution without bias and its batch normalisation, `linear` a matrix with bias.
"""

from itertools import pairwise

Shapes = dict[str, tuple[int, ...]]
STATISTICS = ("weight", "bias", "running_mean", "running_var")
CLASSES, WIDTH, LAYERS = 80, 256, 6


def norm(name: str, width: int, *, frozen: bool = False) -> Shapes:
    counter: Shapes = {} if frozen else {f"{name}.num_batches_tracked": ()}
    return {f"{name}.{part}": (width,) for part in STATISTICS} | counter


def conv_norm(name: str, inputs: int, outputs: int, kernel: int, names: tuple[str, str] = ("conv", "norm"), groups: int = 1) -> Shapes:
    frozen = names[1] == "normalization"  # the backbones' have no counters
    return {f"{name}.{names[0]}.weight": (outputs, inputs // groups, kernel, kernel)} | norm(f"{name}.{names[1]}", outputs, frozen=frozen)


def linear(name: str, inputs: int, outputs: int) -> Shapes:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def layer_norm(name: str, width: int = WIDTH) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def perceptron(name: str, *widths: int) -> Shapes:
    shapes: Shapes = {}
    for i, (inputs, outputs) in enumerate(pairwise(widths)):
        shapes |= linear(f"{name}.layers.{i}", inputs, outputs)
    return shapes


def projections(name: str, inputs: tuple[int, ...]) -> Shapes:
    shapes: Shapes = {}
    for i, width in enumerate(inputs):
        shapes |= {f"{name}.{i}.0.weight": (WIDTH, width, 1, 1)} | norm(f"{name}.{i}.1", WIDTH)
    return shapes


def attention(name: str) -> Shapes:
    shapes: Shapes = {}
    for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
        shapes |= linear(f"{name}.{part}", WIDTH, WIDTH)
    return shapes


def transformer_layer(name: str) -> Shapes:
    shapes = attention(f"{name}.self_attn") | linear(f"{name}.fc1", WIDTH, 1024) | linear(f"{name}.fc2", 1024, WIDTH)
    return shapes | layer_norm(f"{name}.self_attn_layer_norm") | layer_norm(f"{name}.final_layer_norm")


def heads(corners: int) -> Shapes:
    shapes: Shapes = {"model.denoising_class_embed.weight": (CLASSES + 1, WIDTH)}
    shapes |= linear("model.enc_output.0", WIDTH, WIDTH) | layer_norm("model.enc_output.1") | linear("model.enc_score_head", WIDTH, CLASSES)
    shapes |= perceptron("model.enc_bbox_head", WIDTH, WIDTH, WIDTH, 4) | perceptron("model.decoder.query_pos_head", 4, 2 * WIDTH, WIDTH)
    for i in range(LAYERS):
        shapes |= linear(f"model.decoder.class_embed.{i}", WIDTH, CLASSES)
        shapes |= perceptron(f"model.decoder.bbox_embed.{i}", WIDTH, WIDTH, WIDTH, corners)
    return shapes


def rtdetr_r50() -> Shapes:
    """Zhao et al., CVPR 2024: ResNet-50-D, one encoder layer, CSP blocks with three RepVGG blocks, six decoder layers."""
    shapes = heads(4) | transformer_layer("model.encoder.encoder.0.layers.0")
    shapes |= projections("model.encoder_input_proj", (512, 1024, 2048)) | projections("model.decoder_input_proj", (WIDTH,) * 3)
    backbone, names = "model.backbone.model", ("convolution", "normalization")
    for i, (inputs, outputs) in enumerate(((3, 32), (32, 32), (32, 64))):
        shapes |= conv_norm(f"{backbone}.embedder.embedder.{i}", inputs, outputs, 3, names)
    before = 64
    for stage, (depth, width) in enumerate(((3, 64), (4, 128), (6, 256), (3, 512))):
        for i in range(depth):
            layer = f"{backbone}.encoder.stages.{stage}.layers.{i}"
            if i == 0:
                shapes |= conv_norm(f"{layer}.shortcut" + (".1" if stage else ""), before, 4 * width, 1, names)
            for j, (inputs, outputs, kernel) in enumerate(((before, width, 1), (width, width, 3), (width, 4 * width, 1))):
                shapes |= conv_norm(f"{layer}.layer.{j}", inputs, outputs, kernel, names)
            before = 4 * width
    for i in range(2):
        shapes |= conv_norm(f"model.encoder.lateral_convs.{i}", WIDTH, WIDTH, 1) | conv_norm(
            f"model.encoder.downsample_convs.{i}", WIDTH, WIDTH, 3
        )
        for block in (f"model.encoder.fpn_blocks.{i}", f"model.encoder.pan_blocks.{i}"):
            shapes |= conv_norm(f"{block}.conv1", 2 * WIDTH, WIDTH, 1) | conv_norm(f"{block}.conv2", 2 * WIDTH, WIDTH, 1)
            for j in range(3):
                shapes |= conv_norm(f"{block}.bottlenecks.{j}.conv1", WIDTH, WIDTH, 3) | conv_norm(
                    f"{block}.bottlenecks.{j}.conv2", WIDTH, WIDTH, 1
                )
    for i in range(LAYERS):
        layer = f"model.decoder.layers.{i}"
        shapes |= transformer_layer(layer) | layer_norm(f"{layer}.encoder_attn_layer_norm")
        for name, outputs in (("sampling_offsets", 192), ("attention_weights", 96), ("value_proj", WIDTH), ("output_proj", WIDTH)):
            shapes |= linear(f"{layer}.encoder_attn.{name}", WIDTH, outputs)
    return shapes


def dfine_large() -> Shapes:
    """Peng et al., ICLR 2025: HGNetv2-B4, RepNCSPELAN4 blocks of width 512 and 128, distributions of 33 bins a corner."""
    shapes = heads(4 * 33) | transformer_layer("model.encoder.encoder.0.layers.0")
    shapes |= projections("model.encoder_input_proj", (512, 1024, 2048)) | perceptron("model.decoder.pre_bbox_head", WIDTH, WIDTH, WIDTH, 4)
    shapes |= {"model.decoder.up": (1,), "model.decoder.reg_scale": (1,)}
    shapes |= _hgnet("model.backbone.model", ("convolution", "normalization"))
    for i in range(2):
        shapes |= conv_norm(f"model.encoder.lateral_convs.{i}", WIDTH, WIDTH, 1)
        shapes |= conv_norm(f"model.encoder.downsample_convs.{i}.conv1", WIDTH, WIDTH, 1)
        shapes |= conv_norm(f"model.encoder.downsample_convs.{i}.conv2", WIDTH, WIDTH, 3, groups=WIDTH)
        for block in (f"model.encoder.fpn_blocks.{i}", f"model.encoder.pan_blocks.{i}"):
            shapes |= conv_norm(f"{block}.conv1", 512, 512, 1) | conv_norm(f"{block}.conv4", 512 + 2 * 128, WIDTH, 1)
            shapes |= conv_norm(f"{block}.conv2", 128, 128, 3) | conv_norm(f"{block}.conv3", 128, 128, 3)
            for path, inputs in (("csp_rep1", WIDTH), ("csp_rep2", 128)):
                shapes |= conv_norm(f"{block}.{path}.conv1", inputs, 128, 1) | conv_norm(f"{block}.{path}.conv2", inputs, 128, 1)
                for j in range(3):
                    shapes |= conv_norm(f"{block}.{path}.bottlenecks.{j}.conv1", 128, 128, 3)
                    shapes |= conv_norm(f"{block}.{path}.bottlenecks.{j}.conv2", 128, 128, 1)
    for i in range(LAYERS):
        layer = f"model.decoder.layers.{i}"
        shapes |= transformer_layer(layer) | linear(f"{layer}.gateway.gate", 512, 512) | layer_norm(f"{layer}.gateway.norm")
        shapes |= linear(f"{layer}.encoder_attn.sampling_offsets", WIDTH, 192) | linear(
            f"{layer}.encoder_attn.attention_weights", WIDTH, 96
        )
        shapes |= {f"{layer}.encoder_attn.num_points_scale": (12,)} | perceptron(f"model.decoder.lqe_layers.{i}.reg_conf", 20, 64, 1)
    return shapes


def _hgnet(name: str, names: tuple[str, str]) -> Shapes:
    stem = {"stem1": (3, 32, 3), "stem2a": (32, 16, 2), "stem2b": (16, 32, 2), "stem3": (64, 32, 3), "stem4": (32, 48, 1)}
    shapes: Shapes = {}
    for part, (inputs, outputs, kernel) in stem.items():
        shapes |= conv_norm(f"{name}.embedder.{part}", inputs, outputs, kernel, names)
    sizes = ((48, 48, 128, 1, 3, False), (128, 96, 512, 1, 3, False), (512, 192, 1024, 3, 5, True), (1024, 384, 2048, 1, 5, True))
    for stage, (before, middle, after, blocks, kernel, light) in enumerate(sizes):
        if stage:
            shapes |= conv_norm(f"{name}.encoder.stages.{stage}.downsample", before, before, 3, names, groups=before)
        for b in range(blocks):
            block, inputs = f"{name}.encoder.stages.{stage}.blocks.{b}", before if b == 0 else after
            total = inputs + 6 * middle
            for j in range(6):
                first = inputs if j == 0 else middle
                if light:
                    shapes |= conv_norm(f"{block}.layers.{j}.conv1", first, middle, 1, names)
                    shapes |= conv_norm(f"{block}.layers.{j}.conv2", middle, middle, kernel, names, groups=middle)
                else:
                    shapes |= conv_norm(f"{block}.layers.{j}", first, middle, kernel, names)
            shapes |= conv_norm(f"{block}.aggregation.0", total, after // 2, 1, names)
            shapes |= conv_norm(f"{block}.aggregation.1", after // 2, after, 1, names)
    return shapes
