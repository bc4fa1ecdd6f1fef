"""Every registered loss with every set of options that makes it another formula.

A loss that has no case here fails the contract (:mod:`tests.losses.test_contract`).
"""
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor

from mmdiverse.losses import DiversityLoss
from mmdiverse.records import AttentionRecord, Record, TokenRecord, WeightRecord
from mmdiverse.terms import build_loss
from tests import reference

FORMS = ('signed', 'absolute', 'squared')


@dataclass(frozen=True)
class Case:
    """One formula.

    Attributes:
        type: Name of the registered loss.
        options: Its options.
        reference: The same formula in plain loops; takes the ``(M, D)`` rows of each record, and
            the random starts ``(2, M)``, which most ignore.
        no_collapse: Why collapsed vectors need not score worse than orthogonal ones. The
            docstring of the loss has to say so too.
    """

    type: str
    options: dict[str, Any]
    reference: Callable[[list[Tensor], Tensor], Tensor]
    no_collapse: str = ''

    def __str__(self) -> str:
        return '-'.join([self.type, *(f'{key}={value}' for key, value in self.options.items())])

    def build(self, starts: Tensor | None = None) -> DiversityLoss:
        """Build the loss; ``starts`` ``(2, B, M)`` take the place of drawn ones."""
        loss = build_loss(self.type, **self.options)
        if starts is not None and hasattr(loss, 'draw_starts'):
            loss.draw_starts = lambda record: starts.to(record.vectors())
        return loss


def spread(normalize: bool) -> Callable[[list[Tensor], Tensor], Tensor]:
    def expected(rows: list[Tensor], starts: Tensor) -> Tensor:
        return reference.eigenvalue_spread(directions(rows[0]) if normalize else rows[0])
    return expected


def power(normalize: bool, eps: float) -> Callable[[list[Tensor], Tensor], Tensor]:
    def expected(rows: list[Tensor], starts: Tensor) -> Tensor:
        return reference.power_step(directions(rows[0]) if normalize else rows[0], *starts, eps)
    return expected


def directions(rows: Tensor) -> Tensor:
    return torch.stack([reference.unit(row) for row in rows])


CASES = [
    *(Case('CosineLoss', dict(form=form, diagonal=diagonal),
           lambda rows, starts, f=form, d=diagonal: reference.cosine(rows[0], f, d))
      for form, diagonal in product(FORMS, (False, True))),
    *(Case('CrossCosineLoss', dict(form=form),
           lambda rows, starts, f=form: reference.cross_cosine(*rows, f)) for form in FORMS),
    Case('ContrastiveLoss', dict(), lambda rows, starts: reference.contrastive(*rows)),
    *(Case('ConditionalOrthogonalityLoss', dict(normalize=normalize), spread(normalize))
      for normalize in (False, True)),
    *(Case('ConditionalOrthogonalityLoss', dict(method='power', normalize=normalize, eps=eps),
           power(normalize, eps)) for normalize, eps in product((False, True), (0., 1e-6))),
]


def make_record(level: str, vectors: Tensor, layer: int = 0) -> Record:
    """A record of a level with the vectors ``(B, M, D)``; at attention level D is a square."""
    if level == 'patch':
        return TokenRecord(vectors, layer)
    if level == 'weight':
        return WeightRecord(vectors, layer)
    side = round(vectors.size(-1)**0.5)
    return AttentionRecord(layer, maps=vectors.unflatten(-1, (side, side)))
