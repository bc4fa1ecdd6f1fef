"""What an audit concludes from values that are made up, so that it is known what they say."""
import math
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from mmdiverse.config import load_fragment
from mmdiverse.evaluation.audit import CURVE, UNTRAINED, ModelAudit
from mmdiverse.evaluation.redundancy import Gap, summarize
from mmdiverse.evaluation.verdict import (
    HEAD_COSINE,
    NEURON_COSINE,
    SAME_TOKEN_COSINE,
    TOKEN_COSINE,
    UNIFORM_ENTROPY,
    format_fragment,
    judge,
    say_beside,
    suggest,
    why_none,
)
from mmdiverse.hooks import DiversityHook
from mmdiverse.measures import MEASURES, pca_energy
from mmdiverse.records import TokenRecord
from tests.runs import DIGITS, digits_config, train

BLOCKS = 4
LINE = torch.linspace(1 / CURVE, 1, CURVE)
FLAT = LINE.sqrt()
STEEP = LINE**0.1


def model(**values: object) -> ModelAudit:
    """A diverse model of four blocks with two heads, but for the values given."""
    cosines = torch.eye(2) * 0.8 + 0.2
    everything = {
        'token_cosine_absolute': [torch.tensor(.2)] * (BLOCKS + 1),
        'cross_layer_cosine': torch.eye(BLOCKS + 1) * 0.5 + 0.5,
        'head_cosine': [cosines] * BLOCKS,
        'attention_entropy': [torch.tensor([.5, .6])] * BLOCKS,
        'pca_energy': {name: [FLAT] * BLOCKS for name in ('q', 'fc1')},
        'neuron_cosine_max': {name: [torch.tensor(.3)] * BLOCKS for name in ('q', 'fc1')}, **values}
    everything = {name: value for name, value in everything.items() if value is not None}
    blocks = list(range(BLOCKS))
    return ModelAudit(
        'made up', dict(num_blocks=BLOCKS, matrices=['q', 'fc1']),
        {name: ['embed', *blocks] if MEASURES[name].captured == 'patch' else blocks
         for name in everything},
        everything, {}, {name: summarize(MEASURES[name], value)
                         for name, value in everything.items()}, [])


def tokens(*values: float) -> dict:
    return dict(token_cosine_absolute=[torch.tensor(value) for value in values])


def heads(**cosines: float) -> dict:
    matrices = [torch.eye(2) * 0.8 + 0.2 for _ in range(BLOCKS)]
    for name, cosine in cosines.items():
        matrices[int(name[-1])] = torch.tensor([[1., cosine], [cosine, 1.]])
    return dict(head_cosine=matrices)


LOW_RANK = dict(pca_energy=dict(q=[FLAT, STEEP, STEEP, FLAT], fc1=[FLAT] * 4))
TWINS = dict(neuron_cosine_max=dict(q=[torch.tensor(.3)] * 4,
                                    fc1=[torch.tensor(.3)] * 3 + [torch.tensor(.9)]))


def test_a_diverse_model_has_nothing_redundant_and_needs_no_term() -> None:
    assert not any(finding.redundant for finding in judge(model()))
    assert suggest(model()) == []


def test_collapsing_layers_are_named() -> None:
    finding = judge(model(**tokens(.1, .2, .3, .7, .8)))[0]
    assert finding.redundant and finding.layers == [2, 3]
    assert 'blocks 2, 3' in finding.text and '0.80' in finding.text


def test_the_input_of_the_first_block_cannot_collapse() -> None:
    finding = judge(model(**tokens(.9, .2, .3, .3, .3)))[0]
    assert not finding.redundant and finding.layers == []


def test_idle_blocks_are_named() -> None:
    cosines = torch.eye(BLOCKS + 1) * 0.5 + 0.5
    cosines[2, 3] = cosines[3, 2] = .99
    finding = judge(model(cross_layer_cosine=cosines))[1]
    assert finding.layers == [2] and 'Block 2' in finding.text


def test_duplicate_heads_are_named() -> None:
    finding = judge(model(**heads(block_2=.97)))[2]
    assert finding.redundant and finding.layers == [2]
    assert '1 of 4 pairs' in finding.text and 'heads 0 and 1 of block 2 (0.97)' in finding.text


def test_uniform_heads_are_counted() -> None:
    entropies = [torch.tensor([.5, .6])] * 3 + [torch.tensor([.5, .99])]
    finding = judge(model(attention_entropy=entropies))[3]
    assert '1 of 8 heads' in finding.text and finding.layers == [3]


def test_low_rank_matrices_are_named() -> None:
    finding = judge(model(**LOW_RANK))[4]
    assert finding.layers == [1, 2] and 'q in blocks 1, 2' in finding.text


def test_matrices_with_twins_are_named() -> None:
    finding = judge(model(**TWINS))[5]
    assert finding.layers == [3] and 'fc1 in block 3' in finding.text


@pytest.mark.parametrize('measure', ['token_cosine_absolute', 'cross_layer_cosine', 'head_cosine',
                                     'attention_entropy', 'pca_energy', 'neuron_cosine_max'])
def test_what_was_not_measured_is_not_judged(measure: str) -> None:
    partial = model(**{measure: None})
    assert len(judge(partial)) == 5
    suggest(partial)


def test_stages_of_different_shapes_are_no_partners() -> None:
    cosines = torch.full((BLOCKS + 1, BLOCKS + 1), torch.nan)
    cosines[3:, 3:] = .5
    contrast = suggest(model(**tokens(.1, .2, .3, .3, .8), cross_layer_cosine=cosines))[1]
    assert contrast.config['layers'] == [2, 3]


def test_terms_stand_where_the_redundancy_is() -> None:
    suggested = [suggestion.config for suggestion in suggest(model(
        **tokens(.1, .2, .3, .7, .8), **heads(block_1=.95), **LOW_RANK, **TWINS))]
    assert [(term['type'], term['on'], term['layers']) for term in suggested] == [
        ('CosineLoss', 'patch', [2, 3]),
        ('ContrastiveLoss', 'patch', ['embed', 3]),
        ('CosineLoss', 'attention', [1]),
        ('ConditionalOrthogonalityLoss', 'weight', [1, 2]),
        ('CosineLoss', 'weight', [3])]
    assert [term['matrices'] for term in suggested[3:]] == [['q'], ['fc1']]


def test_blocks_without_maps_keep_their_numbers() -> None:
    # As in DaViT, every second block has no map.
    twins = torch.tensor([[1., .97], [.97, 1.]])
    audit = model(head_cosine=[twins * 0.5, twins], attention_entropy=[torch.tensor([.5, .99])] * 2)
    audit.layers.update(head_cosine=[0, 2], attention_entropy=[0, 2])
    assert [finding.layers for finding in judge(audit)[2:4]] == [[2], [0, 2]]
    assert suggest(audit)[0].config['layers'] == [2]


def test_what_is_nowhere_defined_is_not_judged() -> None:
    nan = torch.tensor(torch.nan)
    audit = model(token_cosine_absolute=[nan] * 5, attention_entropy=[nan.expand(2)] * 4,
                  neuron_cosine_max=dict(q=[nan] * 4), head_cosine=[nan.expand(2, 2)] * 4)
    assert [finding.level for finding in judge(audit)] == ['patch', 'attention', 'weight']
    assert suggest(audit) == []


def test_a_term_names_no_matrix_that_one_of_its_blocks_lacks() -> None:
    # As in VOLO, the first two blocks have no queries.
    none = torch.full((CURVE, ), torch.nan)
    audit = model(pca_energy=dict(q=[none, none, STEEP, STEEP], v=[STEEP] * 4, fc1=[FLAT] * 4))
    audit.facts['matrices'] = ['q', 'v', 'fc1']
    audit.gaps = [Gap(['pca_energy'], [0, 1], 'an outlooker has none', 'q')]
    terms = [suggestion.config for suggestion in suggest(audit)]
    assert [(term['matrices'], term['layers']) for term in terms] == [(['q'], [2, 3]),
                                                                      (['v'], 'all')]
    assert terms[1]['name'] == 'weight_v'  # for DiversityHook wants different names
    DiversityHook(terms)


def test_where_all_blocks_are_redundant_it_says_all() -> None:
    assert suggest(model(**tokens(.1, .9, .9, .9, .9)))[0].config['layers'] == 'all'


def write(tmp_path: Path, *suggestions: object) -> Config:
    path = tmp_path / 'diversity.py'
    path.write_text(format_fragment(*suggestions, 'made\nup'))
    return Config.fromfile(path)


def test_the_fragment_runs_as_it_is(tmp_path: Path) -> None:
    suggestions = suggest(model(**tokens(.1, .2, .3, .7, .8), **heads(block_1=.95), **LOW_RANK,
                                **TWINS))
    cfg = digits_config('deit-nano_digits', tmp_path)
    cfg.custom_hooks = [write(tmp_path, suggestions).diversity]
    logged = train(cfg).message_hub.log_scalars
    assert all(f'train/{name}' in logged for name in (
        'loss_patch_cosine', 'loss_patch_contrastive', 'loss_attention_cosine',
        'loss_weight_conditional_orthogonality', 'loss_weight_cosine'))


def test_a_fragment_without_terms_runs_too(tmp_path: Path) -> None:
    assert DiversityHook(**{key: value for key, value in write(tmp_path, []).diversity.items()
                            if key != 'type'}).terms == []


def test_reasons_stand_in_the_fragment() -> None:
    suggestions = suggest(model(**heads(block_1=.95)))
    text = format_fragment(suggestions, 'made up')
    assert '# 1 of 4 pairs of heads are duplicates' in text and str(DIGITS) not in text


def energies(*weights: torch.Tensor) -> list[torch.Tensor]:
    """Curves of whole matrices, at as many shares as the audit keeps."""
    curves = [pca_energy(TokenRecord(weight[None].double(), 0))[0] for weight in weights]
    return [curve[(LINE * len(curve)).ceil().long() - 1] for curve in curves]


def drawn(rows: int, columns: int, init: str, seed: int = 0) -> torch.Tensor:
    weight = torch.empty(rows, columns)
    generator = torch.Generator().manual_seed(seed)
    if init == 'xavier':
        return torch.nn.init.xavier_uniform_(weight, generator=generator)
    return torch.nn.init.trunc_normal_(weight, std=.02, generator=generator)


SHAPES = [(384, 384), (64, 384), (1536, 384), (384, 1536), (192, 48), (48, 48)]


def energy_finding(weight: torch.Tensor) -> tuple[bool, str]:
    audit = model(pca_energy=dict(fc1=energies(weight)))
    audit.shapes['fc1'] = [list(weight.shape)]
    finding = judge(audit)[4]
    return finding.redundant, finding.text


@pytest.mark.parametrize('init', ['xavier', 'trunc normal'])
@pytest.mark.parametrize('shape', SHAPES, ids=str)
def test_initial_weights_are_of_no_low_rank_in_any_shape(shape: tuple, init: str) -> None:
    assert not energy_finding(drawn(*shape, init))[0]


@pytest.mark.parametrize('shape', SHAPES, ids=str)
def test_a_matrix_of_low_rank_is_found_in_any_shape(shape: tuple) -> None:
    rows, columns = shape
    rank = min(shape) // 4
    weight = drawn(rows, rank, 'xavier') @ drawn(rank, columns, 'xavier', 1)
    noise = weight.std() * drawn(rows, columns, 'xavier', 2) / columns**0.5
    redundant, text = energy_finding(weight + noise)
    assert redundant and '1 of 1 matrix is of low rank' in text


def test_a_wide_layer_is_judged_as_strictly_as_a_square_one() -> None:
    # 0.70 is far from noise of this shape, but was near to 0.75.
    audit = model(pca_energy=dict(fc1=[LINE**math.log(.7, .25)], q=[LINE**math.log(.7, .25)]))
    audit.facts['num_blocks'] = 1
    audit.shapes.update(fc1=[[1536, 384]], q=[[384, 384]])
    finding = judge(audit)[4]
    assert 'fc1 in block 0. The lowest is fc1 of block 0 (0.70, where noise of its shape has ' \
        '0.43 and low rank starts at 0.62)' in finding.text
    assert '1 of 2 matrices is of low rank' in finding.text
    assert [term.config['matrices'] for term in suggest(audit)] == [['fc1']]


def test_two_components_that_noise_fills_too_are_not_judged() -> None:
    audit = model(pca_energy=dict(q=[torch.ones(CURVE)]))
    audit.shapes['q'] = [[2, 8]]  # the mean leaves one component
    assert [finding.level for finding in judge(audit)] == ['patch'] * 2 + ['attention'] * 2 + [
        'weight']


@pytest.mark.parametrize(('value', 'threshold', 'digits', 'said'), [
    (.4996, .5, 2, '0.4996'), (.4949, .5, 2, '0.49'), (.5, .5, 2, '0.50'), (.501, .5, 2, '0.50'),
    (.49999999, .5, 2, '0.49999999'), (.9796, .98, 3, '0.9796'), (.979, .98, 3, '0.979'),
    (.7487, .75, 2, '0.749'), (math.nan, .5, 2, 'nan')])
def test_numbers_are_told_from_thresholds(value: float, threshold: float, digits: int, said: str
                                          ) -> None:
    assert say_beside(value, threshold, digits) == said


def test_every_finding_tells_what_comes_nearest_from_its_threshold() -> None:
    changes = torch.eye(BLOCKS + 1) * 0.5 + 0.5
    changes[1, 2] = changes[2, 1] = SAME_TOKEN_COSINE - 2e-4
    texts = [finding.text for finding in judge(model(
        **tokens(.1, .2, TOKEN_COSINE - 4e-4, .3, .3), **heads(block_1=HEAD_COSINE - 4e-4),
        cross_layer_cosine=changes, pca_energy=dict(q=[LINE**math.log(.7496, .25)]),
        neuron_cosine_max=dict(q=[torch.tensor(NEURON_COSINE - 4e-4)])))]
    for text, number in zip(texts[:3] + texts[4:], (0.4996, 0.9798, 0.8996, 0.7496, 0.6996)):
        assert f'{number}' in text


def test_the_input_of_the_first_block_comes_nearest_to_nothing() -> None:
    assert 'block 1 comes nearest (0.30)' in judge(model(**tokens(.9, .2, .3, .1, .1)))[0].text


def shipped(fragment: str) -> dict[tuple[str, str], float]:
    return {(term['type'], term['on']): term['weight']
            for term in load_fragment(fragment)['terms']}


LEVELS = {'patch': tokens(.1, .2, .3, .7, .8), 'attention': heads(block_1=.95), 'weight': LOW_RANK}


@pytest.mark.parametrize('level', LEVELS)
def test_terms_of_one_level_have_the_coefficients_of_its_fragment(level: str) -> None:
    suggested = suggest(model(**LEVELS[level]))
    assert {(term.config['type'], term.config['on']): term.config['weight']
            for term in suggested} == shipped(level)


@pytest.mark.parametrize('without', [None, *LEVELS])
def test_terms_of_several_levels_have_those_of_all(without: str | None) -> None:
    values = {key: value for level, each in LEVELS.items() if level != without
              for key, value in each.items()}
    suggested = suggest(model(**values))
    assert {(term.config['type'], term.config['on']): term.config['weight']
            for term in suggested} == {kind: weight for kind, weight in shipped('all').items()
                                       if kind[1] != without}


def test_random_weights_get_no_terms() -> None:
    audit = model(**LEVELS['patch'])
    audit.facts['checkpoint'] = None
    assert judge(audit)[0].redundant and suggest(audit) == []
    assert why_none(audit) == UNTRAINED
    assert f'# None: {UNTRAINED}.' in format_fragment([], 'made up', none=UNTRAINED)


def test_the_fragment_names_its_command() -> None:
    text = format_fragment(suggest(model(**heads(block_1=.95))), 'x', "train 'my  config.py'")
    assert "# Train with them by: train 'my  config.py'\n" in text


def test_one_of_many_is_said_in_the_singular() -> None:
    entropies = [torch.tensor([.99])]
    text = judge(model(attention_entropy=entropies))[3].text
    assert text.startswith('1 of 1 head attends to all tokens')


def test_the_docs_name_the_thresholds() -> None:
    page = (Path(__file__).parents[2] / 'docs' / 'audit.md').read_text(encoding='utf-8')
    section = page.partition('## What the verdict says')[2].partition('\n## ')[0]
    rows = [line for line in section.splitlines() if line.startswith('|')][2:]
    said = [TOKEN_COSINE, SAME_TOKEN_COSINE, HEAD_COSINE, f'{100 * UNIFORM_ENTROPY:.0f} %',
            'a third of', NEURON_COSINE]
    assert len(rows) == len(said)
    assert all(f' {number} ' in row for number, row in zip(said, rows))
