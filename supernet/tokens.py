"""Which patches go on: scores of tokens, and the gather that really drops the others.

Kept tokens are those of highest score, in the order of their score, prefix tokens first. Nothing behind
depends on that order: positions were added before, attention and feed-forward treat tokens alike, and
pooling reads the prefix or all patches.

Legend: B images, N tokens, K tokens kept, P prefix tokens, D width, H heads, d width of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from timm.layers import Attention
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

from supernet.cost import BlockTokens

__all__ = [
    "PruningBlock",
    "attend",
    "class_attention",
    "keep_tokens",
    "patch_scores",
    "run_blocks",
]


def run_blocks(
    vit: VisionTransformer,
    blocks: Iterable[nn.Module],
    x: Tensor,
    counts: Sequence[BlockTokens],
    by: str,
    run: Callable[[nn.Module, Tensor, BlockTokens], Tensor],
) -> Tensor:
    """Return the tokens behind ``blocks`` for embedded tokens ``x`` (B, N, D), dropped where counts fall.

    Before block 0 tokens are dropped ahead of ``norm_pre``. ``run`` applies one block, and drops what
    its counts say to drop inside.
    """
    prefix = vit.num_prefix_tokens
    x = vit.norm_pre(keep_tokens(x, counts[0].attention, prefix, by))
    for block, count in zip(blocks, counts, strict=True):
        x = run(block, keep_tokens(x, count.attention, prefix, by), count)
    return x


def patch_scores(patches: Tensor, by: str) -> Tensor:
    """Return one score (B, N) for each of the patches (B, N, D), without a gradient.

    ``magnitude`` is the L1 norm over channels, ``l2_magnitude`` the sum of squares. ``random`` draws
    from the global generator of the device, also in eval mode.
    """
    if by == "random":
        return torch.rand(patches.shape[:2], device=patches.device)
    # Not linalg.vector_norm: on CPU that takes three to four times as long.
    values = patches.detach().float()
    return (values.abs() if by == "magnitude" else values.square()).sum(-1)


def keep_tokens(x: Tensor, num_kept: int, num_prefix_tokens: int, by: str) -> Tensor:
    """Return the prefix and the best patches of ``x`` (B, N, D), ``num_kept`` tokens in all.

    Where that is all of them, ``x`` itself is returned, without a score or a random number.
    """
    if num_kept == x.shape[1]:
        return x
    scores = patch_scores(x[:, num_prefix_tokens:], by)
    return _gather(x, scores, num_kept, num_prefix_tokens)


def attend(attn: Attention, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return what ``attn(x)`` returns for ``x`` (B, N, D), with the queries and keys (B, H, N, d) behind it.

    timm's attention keeps these to itself, and projecting them a second time would cost a third of
    the projection again.
    """
    images, tokens, _ = x.shape
    qkv = attn.qkv(x).reshape(images, tokens, 3, attn.num_heads, attn.head_dim)
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each (B, H, N, d)
    q, k = attn.q_norm(q), attn.k_norm(k)
    dropout = attn.attn_drop.p if attn.training else 0.0
    mixed = functional.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
    mixed = attn.norm(mixed.transpose(1, 2).reshape(images, tokens, attn.attn_dim))
    if attn.gate is not None:
        mixed = mixed * attn.gate(x).sigmoid()
    return attn.proj_drop(attn.proj(mixed)), q, k


def class_attention(q: Tensor, k: Tensor, scale: float) -> Tensor:
    """Return the class token's attention (B, N) to all tokens, mean over heads, without a gradient.

    Fused attention never has this row, so it is computed from the query of the first token alone, in
    O(N) for each head.
    """
    logits = (q[:, :, :1].detach() * scale) @ k.detach().transpose(-2, -1)  # (B, H, 1, N)
    return logits.softmax(-1, dtype=torch.float32).mean(1).squeeze(1)


class PruningBlock(nn.Module):
    """Runs a timm ``Block`` that drops patches between its attention and its feed-forward (SuperViT).

    The patches that the class token attends to most in this block stay; the others are gone for good.
    It has no parameters, so one serves all blocks and, compiled, adds one graph to theirs.
    """

    def forward(self, block: Block, x: Tensor, num_kept: int, num_prefix_tokens: int) -> Tensor:
        """Return the tokens (B, K, D) of ``block`` for tokens ``x`` (B, N, D)."""
        attended, q, k = attend(block.attn, block.norm1(x))
        x = x + block.drop_path1(block.ls1(attended))
        scores = class_attention(q, k, block.attn.scale)[:, num_prefix_tokens:]
        x = _gather(x, scores, num_kept, num_prefix_tokens)
        return x + block.drop_path2(block.ls2(block.mlp(block.norm2(x))))


def _gather(x: Tensor, scores: Tensor, num_kept: int, num_prefix_tokens: int) -> Tensor:
    """Return the prefix and the best-scored patches of ``x`` (B, N, D): (B, K, D).

    Of equal scores the first wins, so that the choice is the same on every device. The rows of all
    images are picked as one list: on CPU that takes a third of the time of ``Tensor.gather``.
    """
    images, tokens, width = x.shape
    ranked = scores.argsort(dim=1, descending=True, stable=True) + num_prefix_tokens
    prefix = torch.arange(num_prefix_tokens, device=x.device).expand(images, -1)
    kept = torch.cat([prefix, ranked[:, : num_kept - num_prefix_tokens]], dim=1)  # (B, K)
    rows = kept + tokens * torch.arange(images, device=x.device).unsqueeze(1)
    picked = x.reshape(images * tokens, width).index_select(0, rows.flatten())
    return picked.reshape(images, num_kept, width)
