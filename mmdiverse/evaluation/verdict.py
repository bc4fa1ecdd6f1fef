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

from ..taps.base import EMBED
from .audit import ModelAudit
from .redundancy import name_blocks, quarter_energy

#: Tokens of a layer collapse from this mean absolute cosine on.
TOKEN_COSINE = 0.5
#: A block hardly changes the directions of tokens from this mean cosine to the block before on.
SAME_TOKEN_COSINE = 0.98
#: Two heads are duplicates from this cosine of their maps on.
HEAD_COSINE = 0.9
#: Heads attend to all tokens alike from this share of the largest entropy on.
UNIFORM_ENTROPY = 0.98
#: A matrix is of low rank from this share of the energy in a quarter of its components on. For a
#: square matrix of independent Gaussian entries it is 0.63.
QUARTER_ENERGY = 0.75
#: Neurons have twins from this mean of their largest absolute cosines on.
NEURON_COSINE = 0.7

#: At most so many pairs of heads are named.
NAMED_PAIRS = 5
#: Matrices with about as many rows as columns, whose eigenvalues can all be equal.
SQUARE = ('q', 'k', 'v', 'proj')


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

    Coefficients are those of the fragments in ``configs/_base_/diversity``.

    Args:
        model (ModelAudit): What was measured.

    Returns:
        list[Suggestion]: Empty where no threshold is passed.
    """
    suggestions = []
    if 'token_cosine_absolute' in model.values and (collapsed := _collapsed_layers(model)):
        finding = _judge_tokens(model)
        suggestions.append(Suggestion(
            dict(type='CosineLoss', on='patch', layers=collapsed, weight=0.5), finding.text))
        last = model.facts['num_blocks'] - 1
        partner = _contrast_partner(model, last)
        if last in collapsed and partner is not None:
            suggestions.append(Suggestion(
                dict(type='ContrastiveLoss', on='patch', layers=[partner, last], weight=0.5),
                'Tokens of the last block collapse; this keeps each nearer to what it was in '
                f'{_name_layer(partner)} than to the others.'))
    if 'head_cosine' in model.values and (finding := _judge_heads(model)).redundant:
        suggestions.append(Suggestion(
            dict(type='CosineLoss', on='attention', layers=finding.layers, weight=0.1),
            finding.text))
    suggestions += _suggest_weights(model)
    for suggestion in suggestions:
        if len(suggestion.config['layers']) == model.facts['num_blocks'] > 2:
            suggestion.config['layers'] = 'all'
    return suggestions


def format_fragment(suggestions: Sequence[Suggestion], name: str) -> str:
    """A config file with suggested terms, for ``tools/train.py --diversity``.

    Args:
        suggestions (Sequence[Suggestion]): From :func:`suggest`.
        name (str): Of the model.

    Returns:
        str: Python that defines ``diversity``, with the reasons as comments.
    """
    lines = [f'# Diversity terms that an audit of {_one_line(name)} suggests.']
    if not suggestions:
        lines.append('# None: no measure passes its threshold.')
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
    text = (f'The mean absolute cosine between patch tokens is {values[0]:.2f} in '
            f'{_name_layer(layers[0])} and {values[-1]:.2f} after {_name_layer(layers[-1])}. ')
    worst = max(range(len(values)), key=values.__getitem__)
    if collapsed:
        text += (f'Tokens collapse in {name_blocks(collapsed)} ({TOKEN_COSINE} or more), most in '
                 f'{_name_layer(layers[worst])} ({values[worst]:.2f}).')
    else:
        text += (f'No block reaches {TOKEN_COSINE}; {_name_layer(layers[worst])} comes nearest '
                 f'({values[worst]:.2f}).')
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
                   f'{text}The highest is {value:.3f}, in {_name_layer(layer)}.', idle)


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
            f'are heads {first} and {second} of block {layer} ({value:.2f}).'), [])
    named = '; '.join(f'heads {first} and {second} of block {layer} ({value:.2f})'
                      for value, layer, (first, second) in twins[:NAMED_PAIRS])
    more = f' and {len(twins) - NAMED_PAIRS} more' * (len(twins) > NAMED_PAIRS)
    return Finding('attention', True, (
        f'{len(twins)} of {len(pairs)} pairs of heads are duplicates (cosine of their maps '
        f'{HEAD_COSINE} or more), in {name_blocks(layers)}: {named}{more}.'), layers)


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
        f'{len(uniform)} of {len(heads)} heads attend to all tokens nearly alike (entropy of '
        f'{UNIFORM_ENTROPY:.0%} of the largest or more){where}.'), layers)


def _judge_energy(model: ModelAudit) -> Finding:
    low = _low_rank_matrices(model)
    every = [(energy, matrix, layer) for matrix, curves in model.values['pca_energy'].items()
             for layer, energy in enumerate(map(quarter_energy, curves)) if not math.isnan(energy)]
    value, matrix, layer = max(every)
    nearest = f'{matrix} of block {layer} ({value:.2f})'
    if not low:
        return Finding('weight', False, (
            f'No matrix is of low rank (a quarter of its components with {QUARTER_ENERGY:.0%} of '
            f'its energy or more). Nearest is {nearest}.'), [])
    return Finding('weight', True, (
        f'{sum(map(len, low.values()))} of {len(every)} matrices are of low rank (a quarter of '
        f'their components with {QUARTER_ENERGY:.0%} of their energy or more): '
        f'{_name_matrices(low)}. The lowest is {nearest}.'),
        sorted({layer for layers in low.values() for layer in layers}))


def _judge_neurons(model: ModelAudit) -> Finding | None:
    twins = _twin_matrices(model)
    every = [(value.item(), matrix, layer)
             for matrix, values in model.values['neuron_cosine_max'].items()
             for layer, value in enumerate(values) if not value.isnan()]
    if not every:
        return None
    value, matrix, layer = max(every)
    highest = f'Highest in {matrix} of block {layer} ({value:.2f}).'
    if not twins:
        return Finding('weight', False, (
            'No matrix has neurons that are alike: the largest cosine of a neuron with another '
            f'is on average below {NEURON_COSINE}. {highest}'), [])
    return Finding('weight', True, (
        f'Neurons have near twins (largest cosine with another on average {NEURON_COSINE} or '
        f'more) in {_name_matrices(twins)}. {highest}'),
        sorted({layer for layers in twins.values() for layer in layers}))


def _low_rank_matrices(model: ModelAudit) -> dict[str, list[int]]:
    return _beyond(model, 'pca_energy', lambda curve: quarter_energy(curve) >= QUARTER_ENERGY)


def _twin_matrices(model: ModelAudit) -> dict[str, list[int]]:
    return _beyond(model, 'neuron_cosine_max', lambda value: value.item() >= NEURON_COSINE)


def _beyond(model: ModelAudit, measure: str, passes: Callable[[Tensor], bool]
            ) -> dict[str, list[int]]:
    """By matrix the blocks in which it passes a threshold."""
    found = {matrix: [layer for layer, value in enumerate(values) if passes(value)]
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
                 **{key: value for key, value in term.items() if key != 'type'},
                 weight=2e-2 if square else 0.1),
            f'{"; ".join(reasons).capitalize()}.'))
    return suggestions


def _contrast_partner(model: ModelAudit, last: int) -> int | str | None:
    """The first layer whose tokens have the shape of those of the last block."""
    if 'cross_layer_cosine' not in model.values:
        return EMBED
    column = model.values['cross_layer_cosine'][:-1, -1]
    layers = model.layers['cross_layer_cosine']
    return next((layer for layer, value in zip(layers, column.tolist()) if value == value), None)


def _pairs(matrix: Tensor) -> Iterable[tuple[tuple[int, int], float]]:
    for first, second in combinations(range(len(matrix)), 2):
        yield (first, second), matrix[first, second].item()


def _name_layer(layer: int | str) -> str:
    return 'the input of the first block' if layer == EMBED else f'block {layer}'


def _name_matrices(matrices: dict[str, list[int]]) -> str:
    return '; '.join(f'{matrix} in {name_blocks(layers)}' for matrix, layers in matrices.items())


def _one_line(text: str) -> str:
    return ' '.join(text.split())
