"""Which of several models is called more diverse, from values that are made up."""
import math
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mmdiverse.evaluation.audit import ModelAudit
from mmdiverse.evaluation.audit_comparison import (
    ALIKE,
    ALONE,
    FEW,
    NEITHER,
    NOISE,
    WIDTHS,
    Comparison,
    compare_models,
)
from mmdiverse.evaluation.redundancy import summarize
from mmdiverse.measures import MEASURES, noise_quarter_energy

#: What images differ by, whatever the model.
IMAGES = torch.linspace(-.2, .2, 20, dtype=torch.float64)
#: What a model differs by from image to image, of mean 0 and standard error 0.001.
SCATTER = torch.tensor([1., -1.]).double().repeat(10)
SCATTER *= .001 / (SCATTER.std() / 20**.5)


def of_tokens(name: str, images: Tensor, measure: str = 'token_cosine_absolute',
              width: int = 64) -> ModelAudit:
    """A model of one layer with a value for each image, NaN where it was not looked at."""
    value = images[~images.isnan()].mean()
    return ModelAudit(name, {}, {measure: [0]}, {measure: [value]}, {}, {measure: [value.item()]},
                      [], shapes={'tokens': [[width, width]]}, per_image={measure: images[:, None]})


def of_weights(name: str, measure: str, values: list[Tensor], shape: list[int]) -> ModelAudit:
    """A model of as many blocks, each with one matrix, all of one shape."""
    matrices = {'q': values}
    return ModelAudit(name, {}, {measure: list(range(len(values)))}, {measure: matrices}, {},
                      {measure: summarize(MEASURES[measure], matrices)}, [],
                      shapes={'tokens': [], 'q': [shape] * len(values)})


def compare(*models: ModelAudit) -> Comparison:
    comparison, = compare_models(models)
    return comparison


@pytest.mark.parametrize(('difference', 'winner', 'reason'), [
    (-.0021, 'b', ''), (.0021, 'a', ''), (.0019, '', NOISE), (-.0019, '', NOISE)])
def test_a_winner_is_two_standard_errors_ahead(difference: float, winner: str, reason: str) -> None:
    # The images differ by a hundred times more, but both models saw the same.
    found = compare(of_tokens('a', .5 + IMAGES), of_tokens('b', .5 + IMAGES + SCATTER + difference))
    assert (found.winner, found.reason) == (winner, reason)
    assert found.differences == pytest.approx([difference])
    assert found.difference_errors == pytest.approx([.001])
    assert found.errors[0] == pytest.approx(IMAGES.std().item() / 20**.5)


def test_where_more_is_better_the_winner_has_more() -> None:
    models = [of_tokens(name, .5 + IMAGES + gain, 'rank_collapse_residual')
              for name, gain in (('a', 0.), ('b', .1))]
    assert compare(*models).winner == 'b'


def test_the_winner_is_ahead_of_each_other_model() -> None:
    ahead, near, far = (of_tokens(name, .5 + IMAGES + gain) for name, gain in (
        ('ahead', -.1), ('near', -.1 + SCATTER), ('far', .1)))
    assert compare(ahead, far).winner == compare(far, ahead).winner == 'ahead'
    assert compare(ahead, near, far).reason == compare(far, near, ahead).reason == ALIKE
    near = of_tokens('near', .4015 + IMAGES + SCATTER)
    assert compare(far, near, ahead).reason == NOISE


def test_images_that_only_one_model_saw_are_no_pairs() -> None:
    images = .5 + IMAGES
    images[3] = math.nan
    found = compare(of_tokens('a', images), of_tokens('b', .4 + IMAGES))
    assert found.winner == 'b' and found.difference_errors[0] < 1e-9


@pytest.mark.parametrize('seen', [0, 1])
def test_a_single_image_has_no_spread(seen: int) -> None:
    few = [torch.where(torch.arange(20) < seen, .5 + IMAGES + gain, math.nan) for gain in (0, .1)]
    models = [of_tokens('a', few[0]), of_tokens('b', few[1])]
    if seen:
        assert (compare(*models).winner, compare(*models).reason) == ('', FEW)
    else:
        assert compare(*models).reason == ALONE


def test_no_direction_has_no_winner() -> None:
    models = [of_tokens(name, .5 + IMAGES + gain, 'attention_entropy')
              for name, gain in (('a', 0.), ('b', .1))]
    assert (compare(*models).winner, compare(*models).reason) == ('', NEITHER)


def test_a_model_wins_over_none_that_lacks_the_measure() -> None:
    lacking = ModelAudit('lacking', {}, {}, {}, {}, {}, [])
    found = compare(of_tokens('a', .5 + IMAGES), lacking)
    assert (found.winner, found.reason) == ('', ALONE)
    assert math.isnan(found.values[1]) and math.isnan(found.differences[0])


@pytest.mark.parametrize(('other', 'winner', 'reason'), [
    (10.001, '', ALIKE), (10.02, 'b', ''), (9.98, 'a', '')])
def test_weights_are_exact_to_the_digits_shown(other: float, winner: str, reason: str) -> None:
    models = [of_weights(name, 'stable_rank', [torch.tensor(rank)], [64, 64])
              for name, rank in (('a', 10.), ('b', other))]
    found = compare(*models)
    assert (found.winner, found.reason, found.unit) == (winner, reason, '')
    assert math.isnan(found.errors[0]) and math.isnan(found.difference_errors[0])


def test_ranks_of_different_widths_are_parts_of_the_largest() -> None:
    narrow, wide = 20 + IMAGES, 30 + IMAGES
    found = compare(of_tokens('narrow', narrow, 'effective_rank', 64),
                    of_tokens('wide', wide, 'effective_rank', 128))
    assert found.winner == 'narrow' and 'part of the largest' in found.unit
    assert found.values == pytest.approx([20 / 64, 30 / 128])
    assert found.errors[0] == pytest.approx(IMAGES.std().item() / 20**.5 / 64)
    same = compare(*(of_tokens(name, rank, 'effective_rank', 64)
                     for name, rank in (('narrow', narrow), ('wide', wide))))
    assert same.winner == 'wide' and same.values == pytest.approx([20, 30]) and not same.unit


def test_ranks_of_matrices_are_parts_of_the_largest_too() -> None:
    found = compare(of_weights('narrow', 'stable_rank', [torch.tensor(20.)] * 2, [256, 64]),
                    of_weights('wide', 'stable_rank', [torch.tensor(30.)] * 3, [512, 128]))
    assert found.winner == 'narrow' and found.values == pytest.approx([20 / 64, 30 / 128])


def test_energies_of_different_widths_are_counted_from_noise() -> None:
    shapes = [64, 64], [256, 64]
    noise = [noise_quarter_energy(*shape) for shape in shapes]
    found = compare(*(of_weights(name, 'pca_energy', [torch.full((64, ), energy)], shape)
                      for name, energy, shape in zip('ab', (noise[0], noise[1] + .1), shapes)))
    assert found.winner == 'a' and noise[0] > noise[1] + .1
    assert found.values == pytest.approx([0, .1 / (1 - noise[1])], abs=1e-6)


@pytest.mark.parametrize('measure', ['eigenvalue_spread', 'neuron_cosine_mean',
                                     'neuron_cosine_max'])
def test_what_width_alone_moves_is_not_compared(measure: str) -> None:
    models = [of_weights(name, measure, [torch.tensor(value)], [width, width])
              for name, value, width in (('a', .1, 64), ('b', .5, 128))]
    found = compare(*models)
    assert (found.winner, found.reason) == ('', WIDTHS) and math.isnan(found.differences[0])
    assert compare(models[0], of_weights('c', measure, [torch.tensor(.5)], [64, 64])).winner == 'a'


def test_ranks_of_images_of_several_sizes_have_no_largest() -> None:
    models = [of_tokens(name, 20 + IMAGES + gain, 'effective_rank', width)
              for name, gain, width in (('a', 0, 64), ('b', 10, 128))]
    models[0].shapes['tokens'] = [[None, 64]]
    assert compare(*models).reason == WIDTHS


def test_models_of_different_depth_are_of_one_width() -> None:
    found = compare(of_weights('a', 'eigenvalue_spread', [torch.tensor(1.)] * 2, [64, 64]),
                    of_weights('b', 'eigenvalue_spread', [torch.tensor(2.)] * 3, [64, 64]))
    assert found.winner == 'a'


def test_the_docs_say_what_is_compared_where_widths_differ() -> None:
    page = Path(__file__).parents[2] / 'docs' / 'audit.md'
    section = page.read_text(encoding='utf-8').partition('## Models side by side')[2]
    rows = [set(re.findall(r'`(\w+)`', line)) for line in section.partition('\n## ')[0].splitlines()
            if line.startswith('| `')]
    assert rows == [{name for name, measure in MEASURES.items() if measure.width == width}
                    for width in ('rank', 'noise', 'bound')]
