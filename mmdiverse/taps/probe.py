"""What an attention module computes, seen from the functions that it calls."""
from collections.abc import Callable
from types import FunctionType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

SOFTMAX = (torch.softmax, Tensor.softmax, F.softmax)
#: What hands on maps without changing them, but for dropout.
PASSES = (F.dropout, torch.dropout, Tensor.to, Tensor.type_as, Tensor.float, Tensor.half,
          Tensor.contiguous, Tensor.clone)
MATMUL = (torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.bmm, Tensor.bmm)
TRANSPOSE = (torch.transpose, Tensor.transpose)

#: What ``nn.MultiheadAttention`` computes, as it is but for the line that hides it from a probe.
_MULTI_HEAD = FunctionType(F.multi_head_attention_forward.__code__,
                           {**vars(F), 'has_torch_function': lambda tensors: False},
                           argdefs=F.multi_head_attention_forward.__defaults__)


class Scores(NamedTuple):
    r"""The maps of a fused attention, :math:`\mathrm{softmax}(s\, Q K^\top + b)`.

    Attributes:
        q (Tensor): Queries ``(B, H, N, d)``.
        k (Tensor): Keys ``(B, H, M, d)``.
        scale (float): ``s``.
        bias (Tensor | None): ``b``, which can be broadcast to ``(B, H, N, M)``.
    """

    q: Tensor
    k: Tensor
    scale: float
    bias: Tensor | None

    @property
    def requires_grad(self) -> bool:
        """Whether a loss of them has a gradient."""
        return any(each is not None and each.requires_grad for each in (self.q, self.k, self.bias))


class Attention(NamedTuple):
    """One attention.

    Attributes:
        maps (Tensor | Scores): ``(B, H, N, M)``, or what they are computed from.
        values (Tensor): ``(B, H, M, d)``.
        outputs (Tensor): Maps times values, ``(B, H, N, d)``, as the module has it.
    """

    maps: Tensor | Scores
    values: Tensor
    outputs: Tensor


class AttentionProbe(TorchFunctionMode):
    """Sees the attention that is computed while it is entered, and changes nothing.

    That is either a call of ``scaled_dot_product_attention``; or a softmax over the last dimension
    and the product of its result with the values, whatever becomes part of the scores before. So
    what is found is what the module used. Nothing is computed or copied.

    Args:
        where (str): Name of the module in errors.

    Attributes:
        found (list[Attention]): Every attention, in the order of computation.
    """

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where = where
        self.found: list[Attention] = []
        self._maps: Tensor | None = None
        #: The maps, and what they were handed on as; kept so that no other takes their identity.
        self._same: list[Tensor] = []
        self._transposed: Tensor | None = None

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (),
                           kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        if func is F.multi_head_attention_forward:
            with self:
                return _MULTI_HEAD(*args, **kwargs)
        result = func(*args, **kwargs)
        if func is F.scaled_dot_product_attention:
            self.found.append(self._fused(result, *args, **kwargs))
        elif func in SOFTMAX:
            if self._maps is not None:
                raise RuntimeError(
                    f'{self.where} makes attention maps that it does not multiply with values, '
                    "or not as they are; drop the terms with `on='attention'`")
            self._maps, self._same = result, [result]
        elif self._maps is not None and args and self._is_maps(args[0]):
            if func in PASSES:
                self._same.append(result)
            elif func in TRANSPOSE and {dim % result.dim() for dim in args[1:]} == {
                    result.dim() - 2, result.dim() - 1}:
                self._transposed = result
            elif func in MATMUL:
                self._add(args[1], result)
        elif func in MATMUL and self._transposed is not None and args[1] is self._transposed:
            self._add(args[0].mT, result.mT)  # channels before tokens
        return result

    def _add(self, values: Tensor, outputs: Tensor) -> None:
        self.found.append(Attention(self._maps, values, outputs))
        self._maps, self._same, self._transposed = None, [], None

    def _is_maps(self, tensor: Any) -> bool:
        return any(tensor is same for same in self._same)

    def _fused(self, outputs: Tensor, query: Tensor, key: Tensor, value: Tensor,
               attn_mask: Tensor | None = None, dropout_p: float = 0., is_causal: bool = False,
               scale: float | None = None, enable_gqa: bool = False) -> Attention:
        if is_causal or enable_gqa:
            raise RuntimeError(f'attention of {self.where} is causal or grouped, whose maps cannot '
                               "be rebuilt; drop the terms with `on='attention'`")
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill_(
                ~attn_mask, -torch.inf)
        if attn_mask is not None and not outputs.requires_grad:
            # A bias made before re-entrant activation checkpointing would hide that the rest has
            # no gradient.
            attn_mask = attn_mask.detach()
        scale = query.size(-1)**-0.5 if scale is None else scale
        return Attention(Scores(query, key, scale, attn_mask), value, outputs)

    def only(self) -> Attention:
        """The one attention that was found.

        Raises:
            RuntimeError: If there was none or more than one.
        """
        if len(self.found) != 1 or self._maps is not None:
            raise RuntimeError(
                f'{self.where} should compute one attention, but {len(self.found)} could be '
                "followed from the scores to the outputs of heads; drop the terms with "
                "`on='attention'`")
        return self.found[0]
