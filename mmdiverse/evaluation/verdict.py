"""What an audit says in plain words, and the diversity terms that it suggests.

Thresholds are conventions, stated with every finding: a value beyond them is worth a look, it does
not prove that anything is useless.
"""
import math
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from torch import Tensor

from ..config import load_fragment
from ..measures import noise_quarter_energy
from ..spelling import counted
from ..taps.base import EMBED
from .audit import UNTRAINED, ModelAudit
from .redundancy import name_blocks, quarter_energy

#: Tokens of a layer collapse from this mean absolute cosine on.
TOKEN_COSINE = 0.5
#: A block hardly changes the directions of tokens from this mean cosine to the block before on.
SAME_TOKEN_COSINE = 0.98
#: Two heads are duplicates from this cosine of their maps on.
HEAD_COSINE = 0.9
#: Heads attend to all tokens alike from this share of the largest entropy on.
UNIFORM_ENTROPY = 0.98
#: A matrix is of low rank where the energy in a quarter of its components is at least so far on the
#: way from that of Gaussian noise of its shape to 1: from 0.75 on for a square matrix, whose noise
#: has 0.62, and from 0.62 on for four times as many rows as columns, whose noise has 0.43.
LOW_RANK = 1 / 3
#: Neurons have twins from this mean of their largest absolute cosines on.
NEURON_COSINE = 0.7

#: At most so many pairs of heads are named.
NAMED_PAIRS = 5
#: Matrices with about as many rows as columns, whose eigenvalues can all be equal.
SQUARE = ('q', 'k', 'v', 'proj')
#: The coefficient of a term that stands in no fragment: the cosine of the rows of other matrices.
ROW_COSINE_WEIGHT = 0.1


@dataclass(frozen=True)
class Finding:
    """What measures of one level say.

    Attributes:
        level (str): ``'patch'``, ``'attention'`` or ``'weight'``.
        redundant (bool): Whether a threshold is passed.
        text (str): In plain words, with figures and thresholds.
        layers (list[int]): The blocks that pass it.
    """

    level: str
    redundant: bool
    text: str
    layers: list[int]


@dataclass(frozen=True)
class Suggestion:
    """A diversity term.

    Attributes:
        config (dict): Of a :class:`~mmdiverse.terms.DiversityTerm`.
        reason (str): What was measured.
    """

    config: dict[str, Any]
    reason: str


def judge(model: ModelAudit) -> list[Finding]:
    """Say which layers collapse, which heads are duplicates and which matrices are of low rank.

    Args:
        model (ModelAudit): What was measured. Findings whose measures are not among it, or are
            nowhere defined, are left out.

    Returns:
        list[Finding]: Patches first, then attention, then weights.
    """
    finders: dict[str, Callable[[ModelAudit], Finding | None]] = {
        'token_cosine_absolute': _judge_tokens, 'cross_layer_cosine': _judge_changes,
        'head_cosine': _judge_heads, 'attention_entropy': _judge_entropy,
        'pca_energy': _judge_energy, 'neuron_cosine_max': _judge_neurons}
    found = [find(model) for measure, find in finders.items() if measure in model.values]
    return [finding for finding in found if finding is not None]


def suggest(model: ModelAudit) -> list[Suggestion]:
    """Diversity terms for what :func:`judge` finds redundant, at the blocks where it is.

    Coefficients are those of the fragments in ``configs/_base_/diversity``: of ``all.py`` where
    terms are of several levels, and of that of the level where they are of one.

    Args:
        model (ModelAudit): What was measured.

    Returns:
        list[Suggestion]: Empty where no threshold is passed, and for random initial weights.
    """
    suggestions: list[Suggestion] = []
    if model.untrained:
        return suggestions
    if 'token_cosine_absolute' in model.values and (collapsed := _collapsed_layers(model)):
        finding = _judge_tokens(model)
        suggestions.append(Suggestion(
            dict(type='CosineLoss', on='patch', layers=collapsed), finding.text))
        last = model.facts['num_blocks'] - 1
        partner = _contrast_partner(model, last)
        if last in collapsed and partner is not None:
            suggestions.append(Suggestion(
                dict(type='ContrastiveLoss', on='patch', layers=[partner, last]),
                'Tokens of the last block collapse; this keeps each nearer to what it was in '
                f'{_name_layer(partner)} than to the others.'))
    if 'head_cosine' in model.values and (finding := _judge_heads(model)).redundant:
        suggestions.append(Suggestion(
            dict(type='CosineLoss', on='attention', layers=finding.layers), finding.text))
    suggestions += _suggest_weights(model)
    _set_coefficients([suggestion.config for suggestion in suggestions])
    for suggestion in suggestions:
        if len(suggestion.config['layers']) == model.facts['num_blocks'] > 2:
            suggestion.config['layers'] = 'all'
    return suggestions


def _set_coefficients(terms: Sequence[dict[str, Any]]) -> None:
    """Give terms the coefficients of the fragment for their levels."""
    levels = sorted({term['on'] for term in terms})
    if not levels:
        return
    fragment = load_fragment('all' if len(levels) > 1 else levels[0])
    weights = {(term['type'], term['on']): term['weight'] for term in fragment['terms']}
    for term in terms:
        term['weight'] = weights.get((term['type'], term['on']), ROW_COSINE_WEIGHT)


def why_none(model: ModelAudit) -> str:
    """Why :func:`suggest` has no term for a model.

    Args:
        model (ModelAudit): What was measured.
    """
    return UNTRAINED if model.untrained else 'no measure passes its threshold'


def format_fragment(suggestions: Sequence[Suggestion], name: str, command: str = '',
                    none: str = 'no measure passes its threshold') -> str:
    """A config file with suggested terms, for ``tools/train.py --diversity``.

    Args:
        suggestions (Sequence[Suggestion]): From :func:`suggest`.
        name (str): Of the model.
        command (str): That trains with the file. Defaults to none.
        none (str): Why there are no suggestions, where there are none; see :func:`why_none`.

    Returns:
        str: Python that defines ``diversity``, with the reasons as comments.
    """
    lines = [f'# Diversity terms that an audit of {_one_line(name)} suggests.']
    if not suggestions:
        lines.append(f'# None: {none}.')
    elif command:
        lines += [f'# {line}' for line in f'Train with them by: {command}'.splitlines()]
    lines += ['diversity = dict(', "    type='mmdiverse.DiversityHook',", '    terms=[']
    for suggestion in suggestions:
        lines += [f'        # {line}' for line in textwrap.wrap(_one_line(suggestion.reason), 88)]
        options = ', '.join(f'{key}={value!r}' for key, value in suggestion.config.items())
        lines += [f'        dict({options}),']
    return '\n'.join([*lines, '    ])', ''])


def _judge_tokens(model: ModelAudit) -> Finding | None:
    known = [(layer, value) for layer, value in zip(model.layers['token_cosine_absolute'],
                                                    model.summary['token_cosine_absolute'])
             if not math.isnan(value)]  # as of a single token
    if not known:
        return None
    layers, values = zip(*known)
    collapsed = _collapsed_layers(model)
    shown = [say_beside(value, TOKEN_COSINE) for value in values]
    text = (f'The mean absolute cosine between patch tokens is {shown[0]} in '
            f'{_name_layer(layers[0])} and {shown[-1]} after {_name_layer(layers[-1])}. ')
    # What enters the first block cannot collapse, so it comes nearest to nothing either.
    blocks = [place for place, layer in enumerate(layers) if layer != EMBED]
    worst = max(blocks, key=values.__getitem__, default=None)
    if len(collapsed) == 1:
        text += (f'Tokens collapse in {name_blocks(collapsed)} ({shown[worst]}, where '
                 f'{TOKEN_COSINE} or more is collapse).')
    elif collapsed:
        text += (f'Tokens collapse in {name_blocks(collapsed)} ({TOKEN_COSINE} or more), most in '
                 f'{_name_layer(layers[worst])} ({shown[worst]}).')
    elif worst is not None:
        text += (f'No block reaches {TOKEN_COSINE}; {_name_layer(layers[worst])} comes nearest '
                 f'({shown[worst]}).')
    if 'rank_collapse_residual' in model.summary:
        last = model.layers['rank_collapse_residual'].index(layers[-1])
        text += (f' Without their mean, {model.summary["rank_collapse_residual"][last]:.0%} of the '
                 'norm of the last tokens is left.')
    return Finding('patch', bool(collapsed), text, collapsed)


def _collapsed_layers(model: ModelAudit) -> list[int]:
    return [layer for layer, value in zip(model.layers['token_cosine_absolute'],
                                          model.summary['token_cosine_absolute'])
            if layer != EMBED and value >= TOKEN_COSINE]


def _judge_changes(model: ModelAudit) -> Finding:
    values = model.summary['cross_layer_cosine']
    later = model.layers['cross_layer_cosine'][1:]
    idle = [layer for layer, value in zip(later, values) if value >= SAME_TOKEN_COSINE]
    known = [(value, layer) for layer, value in zip(later, values) if value == value]
    if not known:
        return Finding('patch', False, 'No two neighbouring layers have tokens of one shape.', [])
    hardly = f'hardly change{"s" * (len(idle) == 1)}'
    text = (f'{name_blocks(idle).capitalize()} {hardly} the direction of a token (cosine of '
            f'{SAME_TOKEN_COSINE} or more to the layer before). ') if idle else (
            f'Every block changes the direction of tokens: the cosine to the layer before stays '
            f'below {SAME_TOKEN_COSINE}. ')
    value, layer = max(known)
    return Finding('patch', bool(idle),
                   f'{text}The highest is {say_beside(value, SAME_TOKEN_COSINE, 3)}, in '
                   f'{_name_layer(layer)}.', idle)


def _judge_heads(model: ModelAudit) -> Finding:
    pairs = sorted((
        (value, layer, pair) for layer, matrix in zip(model.layers['head_cosine'],
                                                      model.values['head_cosine'])
        for pair, value in _pairs(matrix) if not math.isnan(value)), reverse=True)
    if not pairs:
        return Finding('attention', False, 'No block has two heads to compare.', [])
    twins = [entry for entry in pairs if entry[0] >= HEAD_COSINE]
    layers = sorted({layer for _, layer, _ in twins})
    if not twins:
        value, layer, (first, second) = pairs[0]
        return Finding('attention', False, (
            f'No two heads of a block are duplicates (cosine of {HEAD_COSINE} or more). Nearest '
            f'are heads {first} and {second} of block {layer} '
            f'({say_beside(value, HEAD_COSINE)}).'), [])
    named = '; '.join(f'heads {first} and {second} of block {layer} '
                      f'({say_beside(value, HEAD_COSINE)})'
                      for value, layer, (first, second) in twins[:NAMED_PAIRS])
    more = f' and {len(twins) - NAMED_PAIRS} more' * (len(twins) > NAMED_PAIRS)
    return Finding('attention', True, (
        f'{len(twins)} of {counted(len(pairs), "pair")} of heads are duplicates (cosine of their '
        f'maps {HEAD_COSINE} or more), in {name_blocks(layers)}: {named}{more}.'), layers)


def _judge_entropy(model: ModelAudit) -> Finding | None:
    heads = [(layer, head) for layer, values in zip(model.layers['attention_entropy'],
                                                    model.values['attention_entropy'])
             for head in values.tolist() if not math.isnan(head)]
    if not heads:
        return None
    uniform = [layer for layer, value in heads if value >= UNIFORM_ENTROPY]
    layers = sorted(set(uniform))
    where = f', in {name_blocks(layers)}' if layers else ''
    return Finding('attention', bool(layers), (
        f'{len(uniform)} of {counted(len(heads), "head")} attend{"s" * (len(uniform) == 1)} to '
        f'all tokens nearly alike (entropy of {UNIFORM_ENTROPY:.0%} of the largest or more)'
        f'{where}.'), layers)


def _judge_energy(model: ModelAudit) -> Finding | None:
    low = _low_rank_matrices(model)
    every = []
    for matrix, curves in model.values['pca_energy'].items():
        for layer, curve in enumerate(curves):
            energy, (noise, limit) = quarter_energy(curve), _noise_and_limit(model, matrix, layer)
            if not math.isnan(energy) and limit < 1:  # else noise has it all, as of two rows
                every.append(((energy - limit) / (1 - limit), energy, noise, limit, matrix, layer))
    if not every:
        return None
    _, energy, noise, limit, matrix, layer = max(every)
    criterion = ('in a quarter of the components all the energy that noise of its shape has there, '
                 'and a third of the rest')
    named = (f'{matrix} of block {layer} ({say_beside(energy, limit)}, where noise of its shape '
             f'has {noise:.2f} and low rank starts at {limit:.2f})')
    if not low:
        return Finding('weight', False, (
            f'No matrix is of low rank ({criterion}). Nearest is {named}.'), [])
    matrices = sum(map(len, low.values()))
    return Finding('weight', True, (
        f'{matrices} of {counted(len(every), "matrix", "matrices")} '
        f'{"is" if matrices == 1 else "are"} of low rank ({criterion}): {_name_matrices(low)}. '
        f'The lowest is {named}.'),
        sorted({layer for layers in low.values() for layer in layers}))


def _noise_and_limit(model: ModelAudit, matrix: str, layer: int) -> tuple[float, float]:
    """The quarter energy of noise of the shape of a matrix, and that from which on it is low."""
    noise = noise_quarter_energy(*model.matrix_shape(matrix, layer))
    return noise, round(noise + LOW_RANK * (1 - noise), 2)  # as it is said


def _judge_neurons(model: ModelAudit) -> Finding | None:
    twins = _twin_matrices(model)
    every = [(value.item(), matrix, layer)
             for matrix, values in model.values['neuron_cosine_max'].items()
             for layer, value in enumerate(values) if not value.isnan()]
    if not every:
        return None
    value, matrix, layer = max(every)
    highest = f'Highest in {matrix} of block {layer} ({say_beside(value, NEURON_COSINE)}).'
    if not twins:
        return Finding('weight', False, (
            'No matrix has neurons that are alike: the largest cosine of a neuron with another '
            f'is on average below {NEURON_COSINE}. {highest}'), [])
    return Finding('weight', True, (
        f'Neurons have near twins (largest cosine with another on average {NEURON_COSINE} or '
        f'more) in {_name_matrices(twins)}. {highest}'),
        sorted({layer for layers in twins.values() for layer in layers}))


def _low_rank_matrices(model: ModelAudit) -> dict[str, list[int]]:
    def is_low(matrix: str, layer: int, curve: Tensor) -> bool:
        _, limit = _noise_and_limit(model, matrix, layer)
        return limit < 1 and quarter_energy(curve) >= limit

    return _beyond(model, 'pca_energy', is_low)


def _twin_matrices(model: ModelAudit) -> dict[str, list[int]]:
    return _beyond(model, 'neuron_cosine_max',
                   lambda matrix, layer, value: value.item() >= NEURON_COSINE)


def _beyond(model: ModelAudit, measure: str, passes: Callable[[str, int, Tensor], bool]
            ) -> dict[str, list[int]]:
    """By matrix the blocks in which it passes a threshold."""
    found = {matrix: [layer for layer, value in enumerate(values) if passes(matrix, layer, value)]
             for matrix, values in model.values.get(measure, {}).items()}
    return {matrix: layers for matrix, layers in found.items() if layers}


def _suggest_weights(model: ModelAudit) -> list[Suggestion]:
    low, twins = _low_rank_matrices(model), _twin_matrices(model)
    # A term takes its matrices of every block that it names.
    lacking = {matrix: [gap.layers for gap in model.gaps if gap.matrix == matrix]
               for matrix in model.facts['matrices']}
    kinds = dict.fromkeys((matrix in SQUARE, str(blocks)) for matrix, blocks in lacking.items())
    suggestions = []
    for kind in sorted(kinds, key=lambda kind: not kind[0]):
        square, _ = kind
        term = dict(type='ConditionalOrthogonalityLoss', method='power') if square else \
            dict(type='CosineLoss')
        found = {matrix: sorted({*low.get(matrix, []), *twins.get(matrix, [])})
                 for matrix, blocks in lacking.items()
                 if (matrix in SQUARE, str(blocks)) == kind and (matrix in low or matrix in twins)}
        if not found:
            continue
        reasons = []
        for name, matrices in (('low rank', low), ('near twins among neurons', twins)):
            matrices = {matrix: matrices[matrix] for matrix in found if matrix in matrices}
            reasons += [f'{name}: {_name_matrices(matrices)}'] if matrices else []
        layers = sorted({layer for layers in found.values() for layer in layers})
        if any(suggestion.config['type'] == term['type'] for suggestion in suggestions):
            term['name'] = f'weight_{"_".join(found)}'  # for those of one name are refused
        suggestions.append(Suggestion(
            dict(type=term['type'], on='weight', layers=layers, matrices=list(found),
                 **{key: value for key, value in term.items() if key != 'type'}),
            f'{"; ".join(reasons).capitalize()}.'))
    return suggestions


def _contrast_partner(model: ModelAudit, last: int) -> int | str | None:
    """The first layer whose tokens have the shape of those of the last block."""
    if 'cross_layer_cosine' not in model.values:
        return EMBED
    column = model.values['cross_layer_cosine'][:-1, -1]
    layers = model.layers['cross_layer_cosine']
    return next((layer for layer, value in zip(layers, column.tolist()) if value == value), None)


def say_beside(value: float, threshold: float, digits: int = 2) -> str:
    """A number with as many decimals as tell it from a threshold.

    Args:
        value (float): To be said.
        threshold (float): What it is compared with; values from it on pass.
        digits (int): Decimals at least. Defaults to 2.

    Returns:
        str: Such as 0.4996 beside 0.5, where 0.50 would seem to pass.
    """
    while digits < 17:
        text = f'{value:.{digits}f}'
        if math.isnan(value) or (float(text) >= threshold) == (value >= threshold):
            return text
        digits += 1
    return repr(value)


def _pairs(matrix: Tensor) -> Iterable[tuple[tuple[int, int], float]]:
    for first, second in combinations(range(len(matrix)), 2):
        yield (first, second), matrix[first, second].item()


def _name_layer(layer: int | str) -> str:
    return 'the input of the first block' if layer == EMBED else f'block {layer}'


def _name_matrices(matrices: dict[str, list[int]]) -> str:
    return '; '.join(f'{matrix} in {name_blocks(layers)}' for matrix, layers in matrices.items())


def _one_line(text: str) -> str:
    return ' '.join(text.split())
