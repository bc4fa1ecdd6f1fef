"""What every measure keeps to: it agrees with plain loops, has the shape of its axis, its range."""
from collections.abc import Callable
from dataclasses import fields

import numpy as np
import pytest
import torch
from torch import Tensor

from mmdiverse.measures import DEFAULT, MEASURES, Measure, find_measures
from mmdiverse.measures.base import AXES
from mmdiverse.records import AttentionRecord, HeadRecord, Record, TokenRecord
from tests import reference
from tests.measures import cases
from tests.measures.cases import CASES, NUM_ITEMS, TRIALS, assert_agrees, bounds, draw, expected

every_trial = pytest.mark.parametrize(('name', 'sizes'), TRIALS, ids=str)
every_measure = pytest.mark.parametrize('name', MEASURES)
every_dtype = pytest.mark.parametrize('dtype', [torch.float64, torch.float32],
                                      ids=['float64', 'float32'])
LEVELS = {'patch': 'patch', 'maps': 'attention', 'outputs': 'attention', 'weight': 'weight'}


def record_of(record: Record, tensor: Tensor) -> Record:
    """A record like another, of another tensor."""
    if not isinstance(record, AttentionRecord):
        return type(record)(tensor)
    made = AttentionRecord(maps=tensor)
    made.num_prefix, made.grid = record.num_prefix, record.grid
    return made


def tensor_of(record: Record) -> Tensor:
    """What a record holds."""
    if isinstance(record, AttentionRecord):
        return record.maps
    return record.heads if isinstance(record, HeadRecord) else record.vectors()


def test_every_measure_has_a_case() -> None:
    assert set(CASES) == set(MEASURES)


@every_trial
@every_dtype
def test_measures_agree_with_plain_loops(name: str, sizes: tuple, dtype: torch.dtype) -> None:
    drawn = draw(MEASURES[name], sizes, dtype)
    assert_agrees(MEASURES[name].function(drawn.argument), expected(name, drawn.items))


@every_trial
def test_the_axis_says_the_shape(name: str, sizes: tuple) -> None:
    drawn = draw(MEASURES[name], sizes)
    assert MEASURES[name].function(drawn.argument).shape == (NUM_ITEMS, *drawn.shape)


@every_trial
@every_dtype
def test_values_are_in_their_range(name: str, sizes: tuple, dtype: torch.dtype) -> None:
    drawn = draw(MEASURES[name], sizes, dtype)
    low, high = bounds(name, drawn.items[0])
    values = MEASURES[name].function(drawn.argument)
    rounding = 16 * torch.finfo(values.dtype).eps
    assert bool(((values >= low - rounding) & (values <= high + rounding)).all())


@every_trial
def test_an_item_does_not_depend_on_the_rest_of_the_batch(name: str, sizes: tuple) -> None:
    drawn = draw(MEASURES[name], sizes)
    values = MEASURES[name].function(drawn.argument)
    second = slice(1, 2)
    part = [record.select(second) for record in drawn.argument] \
        if isinstance(drawn.argument, list) else drawn.argument.select(second)
    assert_agrees(MEASURES[name].function(part), values[second])


@every_measure
def test_half_precision_is_measured_in_float32(name: str) -> None:
    measure = MEASURES[name]
    argument = draw(measure, cases.sizes_of(measure)[0]).argument

    def measured(function: Callable[[Tensor], Tensor]) -> Tensor:
        if isinstance(argument, list):
            return measure.function([record_of(record, function(tensor_of(record)))
                                     for record in argument])
        return measure.function(record_of(argument, function(tensor_of(argument))))

    values = measured(Tensor.bfloat16)
    assert values.dtype in (torch.float32, torch.float64)
    assert torch.equal(values, measured(lambda tensor: tensor.bfloat16().float()))


@every_measure
def test_bounds_are_those_that_the_range_states(name: str) -> None:
    measure = MEASURES[name]
    low, _ = bounds(name, draw(measure, cases.sizes_of(measure)[0]).items[0])
    low = 0 if measure.finish else low  # of terms, which finish as an alignment
    assert measure.range.removeprefix('about ').startswith(f'{low:g}'.replace('-', '−'))


@pytest.mark.parametrize('name', [name for name in MEASURES if MEASURES[name].finish])
def test_alignments_agree_with_plain_loops(name: str) -> None:
    measure = MEASURES[name]
    drawn = draw(measure, cases.sizes_of(measure)[0])
    mean = measure.function(drawn.argument).mean(0)
    assert_agrees(measure.finish(mean), reference.alignment(expected(name, drawn.items).mean(0)))


@every_measure
def test_entries_are_complete(name: str) -> None:
    measure = MEASURES[name]
    assert measure.name == name
    assert measure.axis in AXES
    assert measure.level == LEVELS[measure.captured]
    assert measure.diverse in ('lower', 'higher', 'neither')
    assert all(getattr(measure, field.name) != '' for field in fields(Measure))


def test_titles_differ() -> None:
    assert len({measure.title for measure in MEASURES.values()}) == len(MEASURES)


def test_what_takes_an_eigen_decomposition_of_images_is_subsampled() -> None:
    assert {'effective_rank', 'ridge_error'} <= {
        name for name, measure in MEASURES.items() if measure.subsampled}


def test_measures_of_weights_are_not_subsampled() -> None:
    assert not any(measure.subsampled for measure in MEASURES.values()
                   if measure.captured == 'weight')


def test_all_measures_are_found() -> None:
    assert find_measures('all') == list(MEASURES.values())


def test_default_measures_have_one_of_each_level() -> None:
    measures = find_measures('default')
    assert [measure.name for measure in measures] == list(DEFAULT)
    assert {measure.level for measure in measures} == {'patch', 'attention', 'weight'}


def test_measures_are_found_in_the_order_of_their_names() -> None:
    names = ['stable_rank', 'head_cosine']
    assert [measure.name for measure in find_measures(names)] == names


@pytest.mark.parametrize('names', ['head_cosine', '', ['head_cosine', 1], [None]])
def test_what_is_no_list_of_names_is_refused(names: object) -> None:
    with pytest.raises(TypeError, match="`measures` must be 'all', 'default' or a list of names"):
        find_measures(names)


@pytest.mark.parametrize('names', [['head_cosines'], [], ['head_cosine', 'head_cosine'],
                                   ['head_cosine', 'all']])
def test_an_unknown_name_one_twice_and_none_are_refused(names: list[str]) -> None:
    with pytest.raises(ValueError, match='`measures` must hold different names among'):
        find_measures(names)


def test_a_refused_list_is_named() -> None:
    with pytest.raises(ValueError, match="got \\['head_cosines'\\]"):
        find_measures(['head_cosines'])


@every_measure
@pytest.mark.parametrize('given', [torch.ones(2, 5, 9), np.ones((2, 5, 9)), [[1.]], None],
                         ids=['tensor', 'array', 'list', 'none'])
def test_what_is_no_record_is_refused(name: str, given: object) -> None:
    with pytest.raises(TypeError, match='takes (records|a list of records).*but got '):
        MEASURES[name].function(given)


@every_measure
def test_records_of_another_kind_are_refused(name: str) -> None:
    measure = MEASURES[name]
    others = {'maps': TokenRecord(torch.ones(2, 5, 9)),
              'outputs': AttentionRecord(maps=torch.ones(2, 3, 4, 4))}
    if measure.captured in others:
        with pytest.raises(TypeError, match='takes records of type (Attention|Head)Record.*but '
                                            r'got (Token|Attention)Record of shape \('):
            measure.function(others[measure.captured])


@pytest.mark.parametrize('name', ['cross_layer_cosine', 'linear_cka'])
@pytest.mark.parametrize('given', [TokenRecord(torch.ones(2, 5, 9)), []], ids=['one', 'none'])
def test_measures_between_layers_take_a_list_of_records(name: str, given: object) -> None:
    with pytest.raises(TypeError, match='takes a list of records, one of each layer, but got'):
        MEASURES[name].function(given)
