"""Which of several audited models is more diverse, and where that cannot be said."""
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..measures import MEASURES, Measure, noise_quarter_energy
from .audit import ModelAudit
from .redundancy import quarter_energy, summarize

#: A model is more diverse where it differs by more than so many standard errors over the images.
STANDARD_ERRORS = 2
#: Digits of a mean that are shown. Weights are exact: there the last of them decides.
DIGITS = 4

#: Why no model is more diverse.
NEITHER, ALONE, ALIKE = 'neither direction is', 'nothing to compare', 'alike'
NOISE, FEW, WIDTHS = 'within noise', 'too few images', 'widths differ'
#: What is compared instead where widths differ.
PARTS = {'rank': 'as a part of the largest possible',
         'noise': 'from noise of the same shape, 0, to all, 1'}


@dataclass(frozen=True)
class Comparison:
    """A measure of several models: its mean over layers.

    Attributes:
        measure (Measure): What was measured.
        values (list[float]): One for each model, NaN where it is not measured.
        errors (list[float]): Their standard errors over the images; NaN at weight level, and for
            a single image.
        differences (list[float]): From the first model to each other one; NaN where widths differ
            and values of different widths cannot be compared.
        difference_errors (list[float]): Their standard errors. The models saw the same images, so
            these are of the differences image by image.
        unit (str): What the values are where widths differ, or nothing for those of the measure.
        winner (str): Name of the model that is more diverse, or nothing.
        reason (str): Why there is no winner, or nothing.
    """

    measure: Measure
    values: list[float]
    errors: list[float]
    differences: list[float]
    difference_errors: list[float]
    unit: str
    winner: str
    reason: str


def compare_models(models: Sequence[ModelAudit]) -> list[Comparison]:
    """Compare models that saw the same images.

    Args:
        models (Sequence[ModelAudit]): From :func:`mmdiverse.audit`, of which some may lack a
            measure.

    Returns:
        list[Comparison]: One for each measure of any of them, in the order of the catalogue.
    """
    return [_compare(measure, models) for name, measure in MEASURES.items()
            if any(name in model.values for model in models)]


def _compare(measure: Measure, models: Sequence[ModelAudit]) -> Comparison:
    differ = measure.width != 'free' and _widths_differ(measure, models)
    comparable = not differ or measure.width in PARTS and all(
        _of_one_size(measure, model) for model in models)
    in_parts = differ and comparable
    images = [_per_image(measure, model, in_parts) for model in models]
    values = [_mean(measure, model, in_parts) for model in models]
    errors = [_standard_error(each) for each in images]
    differences = [value - values[0] if comparable else math.nan for value in values[1:]]
    difference_errors = [_standard_error(_minus(each, images[0])) for each in images[1:]]
    best, reason = _find_best(measure, values, images) if comparable else (None, WIDTHS)
    return Comparison(measure, values, errors, differences, difference_errors,
                      PARTS[measure.width] if in_parts else '',
                      '' if best is None else models[best].name, reason)


def _find_best(measure: Measure, values: Sequence[float], images: Sequence[Tensor | None]
               ) -> tuple[int | None, str]:
    """The model that is more diverse than each other, or why there is none."""
    if measure.diverse == 'neither':
        return None, NEITHER
    known = [place for place, value in enumerate(values) if not math.isnan(value)]
    if len(known) < 2:
        return None, ALONE
    sign = 1 if measure.diverse == 'higher' else -1
    best = max(known, key=lambda place: sign * values[place])
    for other in known:
        if other == best:
            continue
        if f'{values[other]:.{DIGITS}g}' == f'{values[best]:.{DIGITS}g}':
            return None, ALIKE
        if measure.captured == 'weight':
            continue
        error = _standard_error(_minus(images[best], images[other]))
        if math.isnan(error):
            return None, FEW
        if abs(values[best] - values[other]) <= STANDARD_ERRORS * error:
            return None, NOISE
    return best, ''


def _standard_error(values: Tensor | None) -> float:
    """Of the mean over images; NaN at weight level, and for fewer than two images."""
    known = values[~values.isnan()] if values is not None else torch.empty(0)
    return (known.std() / len(known)**0.5).item() if len(known) > 1 else math.nan


def _minus(values: Tensor | None, others: Tensor | None) -> Tensor | None:
    return None if values is None or others is None else values - others


def _mean(measure: Measure, model: ModelAudit, in_parts: bool) -> float:
    """The mean over layers where it is defined, NaN if it nowhere is."""
    if measure.name not in model.values:
        return math.nan
    summary = model.summary[measure.name]
    if in_parts and measure.captured == 'weight':
        summary = summarize(measure, _weights_in_parts(measure, model))
    elif in_parts:
        summary = [value / largest for value, largest in zip(summary, _largest_ranks(model))]
    known = [value for value in summary if not math.isnan(value)]
    return statistics.fmean(known) if known else math.nan


def _per_image(measure: Measure, model: ModelAudit, in_parts: bool) -> Tensor | None:
    """What each image says of the mean over layers, NaN if it was not looked at."""
    values = model.per_image.get(measure.name)
    if values is None:
        return None
    if in_parts:
        values = values / values.new_tensor(_largest_ranks(model))
    looked_at = ~values.isnan().all(1)
    defined = ~values[looked_at].isnan().any(0)
    return values[:, defined].mean(1)


def _largest_ranks(model: ModelAudit) -> list[int]:
    """Of the patch tokens of every layer."""
    return [min(shape) for shape in model.shapes['tokens']]


def _weights_in_parts(measure: Measure, model: ModelAudit) -> dict[str, list[Tensor]]:
    """Values of matrices in parts of what their shapes allow."""
    def in_parts(value: Tensor, shape: Sequence[int] | None) -> Tensor:
        if shape is None:  # the block lacks the matrix
            return value
        if measure.width == 'rank':
            return value / min(shape)
        noise = noise_quarter_energy(*shape)
        left = 1 - noise  # nothing but rounding of two rows
        share = (quarter_energy(value) - noise) / left if left > 1e-6 else math.nan
        return value.new_tensor([share])

    return {matrix: [in_parts(value, shape) for value, shape in zip(values, model.shapes[matrix])]
            for matrix, values in model.values[measure.name].items()}


def _of_one_size(measure: Measure, model: ModelAudit) -> bool:
    """Whether the images of a model all have equally many tokens, if the measure is of these."""
    return measure.captured == 'weight' or all(None not in shape
                                               for shape in model.shapes['tokens'])


def _widths_differ(measure: Measure, models: Sequence[ModelAudit]) -> bool:
    """Whether means over layers are of differently shaped things."""
    having = [model for model in models if measure.name in model.values]
    found = []
    for model in having:
        names = [*model.values[measure.name]] if measure.captured == 'weight' else ['tokens']
        found.append({name: model.shapes.get(name, []) for name in names})
    first = found[0]
    for other in found[1:]:
        if other == first:
            continue
        kinds = [{name: {str(shape) for shape in shapes} for name, shapes in each.items()}
                 for each in (first, other)]
        # Models of different depth are of one width where all their layers are.
        if kinds[0] != kinds[1] or any(len(shapes) > 1 for shapes in kinds[0].values()):
            return True
    return False
