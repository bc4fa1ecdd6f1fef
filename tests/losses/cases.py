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
BOTH = (True, False)

#: Enough for the vectors of the contract, whose eigenvalues at both ends are well apart.
POWER = dict(method='power', steps=60)

#: Maps of three heads: all uniform, or each sharp and attending to another position.
HEADS, TOKENS = 3, 8
UNIFORM_MAPS = torch.full((1, HEADS, TOKENS, TOKENS), 1 / TOKENS)
SHARP_MAPS = torch.stack([torch.eye(TOKENS).roll(shift, 0) for shift in range(HEADS)])[None]

#: Three directions at 120 degrees: their X^T X is 1.5 I.
TRIPOD = torch.tensor([[[1., 0.], [-.5, .75**0.5], [-.5, -.75**0.5]]])

Formula = Callable[..., Tensor]


@dataclass(frozen=True)
class Case:
    """One formula.

    Attributes:
        type: Name of the registered loss.
        options: Its options.
        reference: The same formula in plain loops; takes the ``(M, D)`` rows of each record.
        takes_starts: Whether the value depends on random starts. The reference then takes them
            too, ``(M, )`` each, after the rows.
        frozen: Of the records, those that get no gradient.
    """

    type: str
    options: dict[str, Any]
    reference: Formula
    takes_starts: bool = False
    frozen: tuple[int, ...] = ()

    def __str__(self) -> str:
        return '-'.join([self.type, *(f'{key}={value}' for key, value in self.options.items())])

    def build(self, starts: Tensor | None = None) -> DiversityLoss:
        """Build the loss; ``starts`` ``(2, B, M)`` take the place of drawn ones."""
        loss = build_loss(self.type, **self.options)
        loss.generator = torch.Generator().manual_seed(0)
        if self.takes_starts and starts is not None:
            loss.draw_starts = lambda record: starts
        return loss

    def expected(self, rows: list[Tensor], starts: Tensor) -> Tensor:
        """The reference for the ``(M, D)`` rows of each record, given starts ``(2, M)``."""
        return self.reference(*rows, *(starts if self.takes_starts else ()))


def maybe_directions(normalize: bool, formula: Formula, num_records: int = 1) -> Formula:
    """A formula of the vectors as they are, or of their directions."""
    def of_rows(*arguments: Tensor) -> Tensor:
        records, rest = arguments[:num_records], arguments[num_records:]
        return formula(*map(reference.directions, records) if normalize else records, *rest)
    return of_rows


CASES = [
    *(Case('CosineLoss', dict(form=form, diagonal=diagonal),
           lambda rows, f=form, d=diagonal: reference.cosine(rows, f, d))
      for form, diagonal in product(FORMS, BOTH)),
    *(Case('CrossCosineLoss', dict(form=form),
           lambda a, b, f=form: reference.cross_cosine(a, b, f)) for form in FORMS),
    *(Case('ContrastiveLoss', dict(stop_gradient=stop, normalize=normalize),
           maybe_directions(normalize, reference.contrastive, 2), frozen=(0, ) if stop else ())
      for stop, normalize in product(BOTH, BOTH)),
    *(Case('ConditionalOrthogonalityLoss', dict(**method, normalize=normalize),
           maybe_directions(normalize, reference.eigenvalue_spread))
      for method, normalize in product((dict(method='exact'), POWER), BOTH)),
    *(Case('ConditionalOrthogonalityLoss', dict(method='official', normalize=normalize, eps=eps),
           maybe_directions(normalize, lambda rows, x, z, e=eps: reference.power_step(
               rows, x, z, e)), takes_starts=True)
      for normalize, eps in product(BOTH, (0., 1e-6))),
    *(Case('SoftOrthogonalityLoss', dict(normalize=normalize),
           maybe_directions(normalize, reference.soft_orthogonality)) for normalize in BOTH),
    *(Case('SRIPLoss', dict(**method, normalize=normalize),
           maybe_directions(normalize, reference.srip))
      for method, normalize in product((dict(method='exact'), POWER), BOTH)),
    *(Case('HypersphericalEnergyLoss', dict(power=power, half_space=half),
           lambda rows, p=power, h=half: reference.energy(rows, p, h, 1e-4))
      for power, half in product((0., 1., 2.), BOTH)),
    Case('HypersphericalEnergyLoss', dict(eps=0.1),
         lambda rows: reference.energy(rows, 1., False, 0.1)),
    *(Case('HypersphericalSeparationLoss', dict(temperature=temperature),
           lambda rows, t=temperature: -reference.separation(rows, t))
      for temperature in (0., 0.1, 1.)),
    Case('HypersphericalSeparationLoss', dict(official=True),
         lambda rows: -reference.authors_separation(rows)),
    *(Case('GramDeterminantLoss', dict(bandwidth=bandwidth, jitter=jitter),
           lambda rows, b=bandwidth, j=jitter: reference.negative_log_determinant(
               reference.directions(rows), b, j)) for bandwidth, jitter in ((1., 1e-6), (3., .1))),
    Case('GramDeterminantLoss', dict(official=True),
         lambda rows: reference.negative_log_determinant(
             reference.authors_directions(rows), 1., 1e-6)),
    *(Case('DisagreementLoss', dict(normalize=normalize),
           maybe_directions(normalize, reference.inner_product)) for normalize in BOTH),
    Case('RankCollapseLoss', dict(), reference.rank_collapse),
    Case('GradientDiversityLoss', dict(form='coherence'),
         lambda rows: 1 / (len(rows) * reference.gradient_diversity(rows))),
    Case('GradientDiversityLoss', dict(form='diversity'),
         lambda rows: -reference.gradient_diversity(rows)),
]


def make_record(level: str, vectors: Tensor, layer: int = 0) -> Record:
    """A record of a level with the vectors ``(B, M, D)``; at attention level D is a square."""
    if level == 'patch':
        return TokenRecord(vectors, layer)
    if level == 'weight':
        return WeightRecord(vectors, layer)
    side = round(vectors.size(-1)**0.5)
    return AttentionRecord(layer, maps=vectors.unflatten(-1, (side, side)))
