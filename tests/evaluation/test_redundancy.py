import math

import numpy as np
import pytest
import torch
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample

from mmdiverse.evaluation.redundancy import measure_redundancy
from tests.runs import DIGITS


def build_model(name: str) -> torch.nn.Module:
    from mmengine.config import Config
    init_default_scope('mmpretrain')
    torch.manual_seed(0)
    return MODELS.build(Config.fromfile(DIGITS / f'{name}.py').model).train()


def batches(sizes: list[int]) -> list[dict]:
    images = torch.randint(0, 256, (sum(sizes), 3, 16, 16),
                           generator=torch.Generator().manual_seed(0)).float()
    return [dict(inputs=part, data_samples=[DataSample() for _ in part])
            for part in images.split(sizes)]


def mean_absolute_cosine(vectors: np.ndarray) -> float:
    total, count = 0., 0
    for i, x in enumerate(vectors):
        for j, y in enumerate(vectors):
            if i != j:
                total += abs(float(x @ y)) / math.sqrt(float(x @ x) * float(y @ y))
                count += 1
    return total / count


def test_tokens_agree_with_the_loop() -> None:
    model = build_model('vit-nano_digits')
    data = batches([2])
    measured = measure_redundancy(model, data)['token_cosine'][2]
    outputs = []
    handle = model.backbone.layers[2].register_forward_hook(
        lambda module, args, output: outputs.append(output))
    with torch.no_grad():
        model(data[0]['inputs'])
    handle.remove()
    expected = np.mean([mean_absolute_cosine(image[1:].double().numpy()) for image in outputs[0]])
    assert measured == pytest.approx(expected, rel=1e-5)


def test_weights_agree_with_the_loop() -> None:
    model = build_model('vit-nano_digits')
    measured = measure_redundancy(model, batches([1]))['weight_cosine'][0]
    qkv = model.backbone.layers[0].attn.qkv.weight.detach().double().numpy()
    expected = np.mean([mean_absolute_cosine(part) for part in np.split(qkv, 3)])
    assert measured == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize('name', ['deit-nano_digits', 'deit-nano_diverse_digits',
                                  'swin-nano_digits', 'swin-nano_diverse_digits'])
def test_one_value_in_the_range_per_block(name: str) -> None:
    measured = measure_redundancy(build_model(name), batches([2]))
    assert set(measured) == {'token_cosine', 'head_cosine', 'weight_cosine'}
    for values in measured.values():
        assert len(values) >= 4 and all(0 <= value <= 1 for value in values)


def test_batch_size_does_not_matter() -> None:
    model = build_model('swin-nano_digits')
    whole, parts = (measure_redundancy(model, batches(sizes)) for sizes in ([6], [4, 1, 1]))
    for measure, values in whole.items():
        assert parts[measure] == pytest.approx(values, rel=1e-5)


def test_nothing_stays_attached() -> None:
    model = build_model('vit-nano_digits')
    measure_redundancy(model, batches([1]))
    assert not any(module._forward_hooks for module in model.modules())


def test_no_batch_is_refused() -> None:
    with pytest.raises(ValueError, match='at least one batch'):
        measure_redundancy(build_model('vit-nano_digits'), [])
