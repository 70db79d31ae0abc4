"""What a short model name means."""

from __future__ import annotations

from dataclasses import replace

from supernet.config import ModelSpec, Outlook

__all__ = ["ZOO", "lookup"]


def _deit(size: str, timm_size: str, embed_dim: int, num_heads: int) -> ModelSpec:
    timm = f"deit_{timm_size}_patch16_224"
    return ModelSpec(f"deit-{size}", timm, (12,), embed_dim, num_heads, 4.0, 16, 224)


def _small_vit(name: str, img_size: int, embed_dim: int, depth: int, num_heads: int) -> ModelSpec:
    overrides = {"patch_size": 4, "embed_dim": embed_dim, "depth": depth, "num_heads": num_heads}
    return ModelSpec(
        name=name,
        timm="vit_tiny_patch16_224",
        depth=(depth,),
        embed_dim=embed_dim,
        num_heads=num_heads,
        mlp_ratio=4.0,
        patch_size=4,
        img_size=img_size,
        overrides=tuple(overrides.items()),
    )


def _volo(
    name: str,
    timm: str,
    img_size: int,
    depth: tuple[int, int],
    wide: tuple[int, int],
    outlook: Outlook,
) -> ModelSpec:
    embed_dim, num_heads = wide
    return ModelSpec(name, timm, depth, embed_dim, num_heads, 3.0, 16, img_size, outlook=outlook)


def _local(spec: ModelSpec) -> ModelSpec:
    """Return the variant with the feed-forward of :mod:`supernet.locality`, which registers it."""
    return replace(spec, name=f"{spec.name}-local", timm=f"local_{spec.timm}")


_PLAIN = (
    _deit("ti", "tiny", 192, 3),
    _deit("s", "small", 384, 6),
    _deit("b", "base", 768, 12),
    _small_vit("vit-xs", img_size=32, embed_dim=96, depth=6, num_heads=3),
    _small_vit("vit-mu", img_size=16, embed_dim=24, depth=4, num_heads=2),
)
_VOLO = (
    _volo("volo-d1", "volo_d1_224", 224, (4, 14), (384, 12), Outlook(192, 6)),
    _volo("volo-mu", "volo_mu", 32, (2, 4), (24, 2), Outlook(16, 2, stem_dim=8)),
)

ZOO: dict[str, ModelSpec] = {spec.name: spec for spec in (*_PLAIN, *_VOLO, *map(_local, _PLAIN))}


def lookup(name: str) -> ModelSpec | None:
    """Return the model of that short name; :func:`supernet.elastic.describe` takes any timm name."""
    return ZOO.get(name)
