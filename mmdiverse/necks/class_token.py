"""The class token of a backbone that gives all its tokens."""
from torch import Tensor, nn

from ..registry import MODELS


@MODELS.register_module()
class ClassTokenNeck(nn.Module):
    """Hands the class token, ``(B, D)``, of tokens ``(B, 1 + N, D)`` to the head.

    MMPretrain's TIMMBackbone gives all tokens of a vision transformer, and MMPretrain's heads
    would classify each. The class token must be the first, as it is in timm. It has no weights.

    Raises:
        ValueError: If the backbone gives no tokens.
    """

    def forward(self, feats: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Take the first token of the last feature."""
        tokens = feats[-1]
        if tokens.dim() != 3:
            raise ValueError('ClassTokenNeck needs tokens (B, 1 + N, D), but the backbone gives '
                             f'{tuple(tokens.shape)}; set `model.neck=None`')
        return (tokens[:, 0], )
