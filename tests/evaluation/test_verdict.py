"""What an audit concludes from values that are made up, so that it is known what they say."""
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from mmdiverse.evaluation.audit import CURVE, ModelAudit
from mmdiverse.evaluation.redundancy import Gap, summarize
from mmdiverse.evaluation.verdict import format_fragment, judge, suggest
from mmdiverse.hooks import DiversityHook
from mmdiverse.measures import MEASURES
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
