"""The elastic VOLO: outlookers on a fine grid, transformers on a coarse one, each a growing stage.

Importing this module registers ``volo_mu`` with timm, the tiny network that tests train.

Legend: B images, C channels, H W grid cells, N tokens, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from timm.layers import resample_abs_pos_embed_nhwc
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.volo import VOLO, ClassBlock, Downsample, Outlooker, Transformer
from torch import Tensor, nn

from supernet.config import ALL_TOKENS, ModelSpec, Outlook, Slots, SubnetConfig, first_slots
from supernet.cost import parameters
from supernet.network import DropPath, ElasticViT, resize

__all__ = ["ElasticVOLO", "check_volo", "describe_volo"]


class ElasticVOLO(ElasticViT):
    """An elastic timm ``VOLO``: its two growing stages are the outlookers and the transformers.

    Training and evaluation see the logits of timm's ``forward``: those of the class token plus half the
    largest of all tokens, so that the auxiliary head learns from class labels. Token labelling and mix-token
    are left out. As in timm, outlookers have no drop-path; the transformers' rates rise over all blocks.
    """

    def __init__(self, spec: ModelSpec, vit: VOLO) -> None:
        super().__init__(spec, vit)
        for block in self.stages[1]:
            block.drop_path1, block.drop_path2 = DropPath(), DropPath()

    @staticmethod
    def block_lists(vit: VOLO) -> tuple[tuple[nn.Sequential, ...], ...]:
        """Return the list of outlookers and the lists of transformers; ``network[1]`` lies between."""
        return (vit.network[0],), tuple(vit.network[2:])

    def forward(self, images: Tensor, subnet: SubnetConfig, slots: Slots | None = None) -> Tensor:
        """Return the logits of ``subnet`` for images (B, C, H, W), resized where they differ in size.

        ``slots`` says which block slots run, in order; the first ones of each stage when left out. All tokens
        are kept, since outlookers see neighbours.
        """
        running = first_slots(subnet.depth) if slots is None else slots
        assert tuple(map(len, running)) == subnet.depth, (
            f"{subnet} does not run the slots {running}"
        )
        assert subnet.tokens == ALL_TOKENS, f"a VOLO keeps all tokens, but got {subnet}"
        vit = self.vit
        x = vit.patch_embed(resize(images, subnet.img_size))  # (B, D', 2H, 2W)
        # Contiguous, since compiled blocks would need one more graph for the first one's layout.
        x = x.permute(0, 2, 3, 1).contiguous()
        for outlooker in self._blocks(running, stage=0):
            x = self.checkpointed(outlooker, x)
        x = vit.network[1](x).contiguous()  # (B, H, W, D)
        x = vit.pos_drop(x + self.resampled_positions(subnet.img_size))
        for transformer in self._blocks(running, stage=1):
            x = self.checkpointed(transformer, x)
        x = vit.forward_cls(x.flatten(1, 2))  # (B, 1 + N, D)
        return vit.forward_head(vit.norm(x))

    def resampled_positions(self, img_size: int) -> Tensor:
        """Return the position table (1, H, W, D) for another size; the parameter stays as it is."""
        side = img_size // self.spec.patch_size
        return resample_abs_pos_embed_nhwc(self.vit.pos_embed, [side, side])


def check_volo(timm_name: str, vit: VOLO) -> None:
    """Refuse VOLOs whose forward, growth or cost would not be that of timm's own ones."""
    kinds = [
        type(part) if isinstance(part, Downsample) else {type(block) for block in part}
        for part in vit.network
    ]
    if kinds != [{Outlooker}, Downsample, *[{Transformer}] * (len(kinds) - 2)] or len(kinds) < 3:
        problem = "must have outlookers, then one downsampling, then transformers"
        raise ValueError(f"{timm_name}: {problem}, but has another order")
    # The forward adds half the auxiliary head's largest logits, so a VOLO without it is another network.
    class_blocks = {type(block) for block in vit.post_network or ()}
    if class_blocks != {ClassBlock} or vit.aux_head is None or vit.global_pool != "token":
        problem = "must have class attention, token pooling and an auxiliary head"
        raise ValueError(f"{timm_name}: {problem}, but lacks one of them")
    if vit.pooling_scale != 2:
        raise ValueError(f"{timm_name}: pooling_scale must be 2, but got {vit.pooling_scale}")
    height, width = vit.pos_embed.shape[1:3]
    if height != width:
        raise ValueError(f"{timm_name}: img_size must be square, but got a grid {height}x{width}")


def describe_volo(timm_name: str, vit: VOLO, overrides: Mapping[str, Any]) -> ModelSpec:
    """Describe a built VOLO; ``overrides`` are the arguments that it was built with.

    Raises ValueError where arguments gave it layers whose cost the formulas do not count.
    """
    check_volo(timm_name, vit)
    stem, outlooker, transformer = vit.patch_embed, vit.network[0][0], vit.network[2][0]
    hidden = transformer.mlp.fc1
    stride = 2 * stem.conv[0].stride[0] * stem.proj.stride[0]
    img_size: int | Sequence[int] = overrides.get("img_size", stride * vit.pos_embed.shape[1])
    spec = ModelSpec(
        name=timm_name,
        timm=timm_name,
        depth=tuple(sum(map(len, lists)) for lists in ElasticVOLO.block_lists(vit)),
        embed_dim=hidden.in_features,
        num_heads=transformer.attn.num_heads,
        mlp_ratio=hidden.out_features / hidden.in_features,
        patch_size=stride,
        img_size=img_size if isinstance(img_size, int) else img_size[0],
        in_chans=vit.in_chans,
        overrides=tuple((key, value) for key, value in overrides.items() if key != "img_size"),
        outlook=Outlook(
            embed_dim=stem.proj.out_channels,
            num_heads=outlooker.attn.num_heads,
            stem_dim=stem.proj.in_channels,
            class_blocks=len(vit.post_network),
        ),
    )
    if parameters(spec, spec.depth, vit.num_classes) != sum(p.numel() for p in vit.parameters()):
        problem = "must have the layers of timm's own VOLOs"
        raise ValueError(
            f"{timm_name}: {problem}, but overrides change their biases, norms or widths"
        )
    return spec


default_cfgs = generate_default_cfgs(
    {"volo_mu": {"input_size": (3, 32, 32), "first_conv": "patch_embed.conv.0", "crop_pct": 0.96}}
)


@register_model
def volo_mu(pretrained: bool = False, **kwargs: Any) -> VOLO:
    """A VOLO of 2 outlookers and 4 transformers for images of 32 px, 54 thousand parameters at 10 classes."""
    shape = {
        "layers": (2, 2, 1, 1),
        "embed_dims": (16, 24, 24, 24),
        "num_heads": (2, 2, 2, 2),
        "stem_hidden_dim": 8,
        "img_size": 32,
    }
    return build_model_with_cfg(VOLO, "volo_mu", pretrained, **{**shape, **kwargs})
