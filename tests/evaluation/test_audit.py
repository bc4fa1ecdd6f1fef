"""The audit of real, tiny models over real images."""
import os
import re
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from PIL import Image
from torch import nn

import mmdiverse
from mmdiverse.evaluation import audit as audit_module
from mmdiverse.evaluation.audit import (
    NUM_EXAMPLES,
    UNTRAINED,
    Audit,
    Example,
    audit,
    choose_examples,
)
from mmdiverse.evaluation.model_loading import load_model
from mmdiverse.measures import MEASURES
from tests.runs import DIGITS, folder_config
from tests.taps.families.davit import davit
from tests.taps.families.twins import twins
from tests.taps.families.xcit import xcit

DEIT, SWIN = (str(DIGITS / f'{name}-nano_digits.py') for name in ('deit', 'swin'))
CHEAP = [name for name, measure in MEASURES.items() if not measure.subsampled]


def run(models: object = DEIT, images: object = 'digits', **options: object) -> Audit:
    return audit(models, images, **{**dict(num_images=12, num_workers=0, device='cpu'), **options})


def flatten(values: object) -> list[float]:
    if isinstance(values, torch.Tensor):
        return values.flatten().tolist()
    values = values.values() if isinstance(values, dict) else values
    return [number for value in values for number in flatten(value)]


def assert_same(first: Audit, second: Audit) -> None:
    for one, other in zip(first.models, second.models):
        assert one.values.keys() == other.values.keys()
        for name, values in one.values.items():
            assert flatten(other.values[name]) == pytest.approx(
                flatten(values), rel=1e-6, abs=1e-6, nan_ok=True), name


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for index in range(6):
        path = tmp_path / 'images' / str(index % 2) / f'{index}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(path)
    return tmp_path / 'images'


@pytest.mark.parametrize('model', [DEIT, SWIN])
def test_everything_is_measured(model: str) -> None:
    result = run(model)
    measured = result.models[0]
    assert set(measured.values) == set(MEASURES) and result.images['measured'] == 12
    assert not np.isnan([flatten(measured.values[name]) for name in
                         ('token_cosine_absolute', 'effective_rank')]).any()
    assert set(measured.values['stable_rank']) == {'q', 'k', 'v', 'proj', 'fc1', 'fc2'}
    assert len(measured.layers['token_cosine_absolute']) == measured.facts['num_blocks'] + 1


def classifier(backbone: nn.Module) -> nn.Module:
    """A classifier with a tiny backbone of another family."""
    model = load_model(DEIT).model
    model.backbone = backbone
    return model


def test_a_family_without_maps_says_so() -> None:
    measured = run(classifier(xcit(use_pos_embed=False)), 'photos', num_images=2).models[0]
    levels = {MEASURES[name].level for name in measured.values}
    assert levels == {'patch', 'weight'} and measured.examples[0].maps == {}
    gap, = measured.gaps
    assert gap.reason.startswith('XCiT attends from channels to channels')
    assert set(gap.measures) == {name for name in MEASURES if name not in measured.values}


def test_measures_that_a_family_lacks_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match='head_cosine.*channels to channels'):
        run(classifier(xcit(use_pos_embed=False)), 'photos', measures=['head_cosine'])


def test_blocks_without_maps_are_left_out_of_examples() -> None:
    backbone = davit()
    backbone.img_size = 16  # which it does not know itself
    measured = run(classifier(backbone), 'photos', num_images=2).models[0]
    assert measured.layers['head_cosine'] == [0, 2]
    # The first has several windows, and those with odd numbers are of channels.
    assert {layer: tuple(maps.shape) for layer, maps in measured.examples[0].maps.items()} == {
        2: (4, 4, 4)}
    assert measured.facts['num_heads'] == [2, 2, 4, 4]


def test_attention_to_pooled_keys_is_kept_over_their_grid() -> None:
    backbone = twins()
    backbone.img_size = 32
    maps = run(classifier(backbone), 'photos', num_images=2).models[0].examples[0].maps
    assert {layer: tuple(each.shape) for layer, each in maps.items()} == {
        0: (2, 4, 4), 1: (2, 4, 4), 2: (4, 4, 4), 3: (4, 4, 4)}
    assert all((each.sum((1, 2)) - 1).abs().max() < 1e-5 for each in maps.values())


def test_the_model_of_timms_classifier_is_audited() -> None:
    config = Config(dict(model=dict(
        type='TimmClassifier', model_name='vit_tiny_patch16_224', img_size=16, patch_size=8,
        embed_dim=16, depth=2, num_heads=2, num_classes=10)))
    measured = run(config, 'photos', num_images=2).models[0]
    assert measured.facts['backbone'] == 'VisionTransformer'
    assert measured.facts['image_size'] == [16, 16] and set(measured.values) == set(MEASURES)


@pytest.mark.parametrize('model', [DEIT, SWIN])
def test_batch_size_and_workers_do_not_matter(model: str) -> None:
    whole = run(model, num_subsampled=5)
    assert_same(whole, run(model, num_subsampled=5, batch_size=5, num_workers=2))
    assert_same(whole, run(model, num_subsampled=5, batch_size=1))


def test_a_folder_of_images_will_do(folder: Path) -> None:
    result = run(images=folder)
    assert result.images['measured'] == 6 and result.images['source'] == str(folder)


def test_models_see_the_same_images_side_by_side() -> None:
    together = run([DEIT, SWIN], measures=CHEAP)
    assert [model.name for model in together.models] == ['deit-nano_digits', 'swin-nano_digits']
    for index, model in enumerate((DEIT, SWIN)):
        alone = run(model, measures=CHEAP)
        assert_same(alone, Audit([together.models[index]], together.images, together.machine))


def test_dear_measures_take_a_part_of_the_images() -> None:
    result = run(num_subsampled=3)
    assert result.images['subsampled'] == 3
    first = run(num_images=12, num_subsampled=12).models[0].values
    assert flatten(first['head_cosine']) == flatten(result.models[0].values['head_cosine'])
    assert flatten(first['effective_rank']) != flatten(result.models[0].values['effective_rank'])


def test_unreadable_images_are_named_skipped_and_counted(folder: Path) -> None:
    expected = run(images=folder, measures=CHEAP)
    (folder / '0' / 'broken.jpg').write_bytes(b'no image')
    (folder / '1' / 'empty.png').touch()
    result = run(images=folder, measures=CHEAP)
    assert result.images['measured'] == 6 and result.images['asked'] == 8
    assert [image['name'] for image in result.images['unreadable']] == ['0/broken.jpg',
                                                                       '1/empty.png']
    assert_same(expected, result)


def test_other_files_are_named_and_counted(folder: Path) -> None:
    (folder / '0' / 'notes.txt').touch()
    (folder / '.DS_Store').touch()
    result = run(images=folder, measures=CHEAP)
    assert [file['name'] for file in result.images['skipped']] == ['0/notes.txt']
    assert result.images['asked'] == 6


LOAD, RESIZE = dict(type='LoadImageFromFile'), dict(type='Resize', scale=(32, 32))


@pytest.fixture(scope='module')
def textures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Colour images of several shapes, in three classes."""
    folder = tmp_path_factory.mktemp('textures')
    rng = np.random.default_rng(0)
    for index, shape in enumerate([(32, 64), (64, 32), (40, 40), (32, 64), (48, 32), (64, 32)]):
        path = folder / 'abc'[index // 2] / f'{index}.png'
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (*shape, 3), dtype=np.uint8)).save(path)
    return folder


@pytest.mark.parametrize('pipeline, backbone', [
    ([LOAD, RESIZE], {}),
    ([dict(LOAD, color_type='grayscale'), RESIZE], {}),
    ([dict(LOAD, color_type='grayscale'), RESIZE], dict(in_channels=1)),
    ([dict(LOAD, to_float32=True), RESIZE], {}),
    ([LOAD, dict(type='ResizeEdge', scale=32)], {}),
    ([LOAD, dict(type='NumpyToPIL', to_rgb=True), dict(type='torchvision/Resize', size=(32, 32)),
      dict(type='torchvision/ToTensor')], {}),
], ids=['colour', 'gray', 'one-channel', 'float', 'shapes', 'torchvision'])
def test_the_audit_sees_what_the_metric_of_an_evaluation_sees(
        textures: Path, tmp_path: Path, pipeline: list, backbone: dict) -> None:
    cfg = folder_config(textures, tmp_path, pipeline, **backbone)
    if backbone:
        cfg.data_preprocessor = dict(mean=[127.], std=[60.])
    model = load_model(cfg)
    torch.save(model.model.state_dict(), tmp_path / 'it.pth')
    cfg.load_from = str(tmp_path / 'it.pth')
    metrics = Runner.from_cfg(cfg).test()
    found = run(model, textures, batch_size=4).models[0]
    assert found.examples[0].pixels.shape[2] == 3
    for name in ('token_cosine_absolute', 'rank_collapse_residual', 'head_cosine'):
        for layer, value in zip(found.layers[name], found.summary[name]):
            if layer != 'embed':
                assert metrics[f'redundancy/{name}/block_{layer}'] == pytest.approx(value, abs=1e-6)


def test_images_of_different_shapes_are_not_padded(textures: Path, tmp_path: Path) -> None:
    model = load_model(folder_config(textures, tmp_path, [LOAD]))
    single = run(model, textures, batch_size=1)
    assert single.models[0].facts['num_image_sizes'] == 4
    for batch_size in (4, 6):
        assert_same(single, run(model, textures, batch_size=batch_size))


def test_photos_are_fitted_to_a_model_whose_pipeline_leaves_sizes(tmp_path: Path) -> None:
    model = load_model(folder_config(tmp_path, tmp_path, [LOAD]))
    assert run(model, 'photos', num_images=1).models[0].facts['image_size'] == [32, 32]


@pytest.mark.parametrize('backbone, load, message', [
    (dict(type='TIMMBackbone', model_name='vit_tiny_patch16_224', img_size=32, patch_size=8,
          embed_dim=16, depth=2, num_heads=2), LOAD,
     r'3 channels and 40 x 40 pixels.*made for 3 channels and 32 x 32 pixels'),
    (dict(in_channels=5), LOAD, r'3 channels and 40 x 40 .*made for 5 channels .*`color_type` of'),
], ids=['size', 'channels'])
def test_images_that_a_model_does_not_take_are_an_error(
        textures: Path, tmp_path: Path, backbone: dict, load: dict, message: str) -> None:
    cfg = folder_config(textures, tmp_path, [load])
    cfg.model.backbone = {**(cfg.model.backbone if 'type' not in backbone else {}), **backbone}
    with pytest.raises(ValueError, match=r'does not take images of ' + message):
        run(cfg, textures)


@pytest.mark.parametrize('names, chosen', [
    (['0.png', '1.png', '2.png', '3.png', '4.png', '5.png'], [0, 2, 4]),
    (['a/0.png', 'a/1.png', 'a/2.png', 'b/0.png', 'c/0.png'], [0, 3, 4]),
    (['a/0.png', 'b/0.png', 'c/0.png', 'd/0.png', 'e/0.png', 'f/0.png'], [0, 2, 4]),
    (['val/a/0.png', 'val/a/1.png', 'val/b/x/0.png', 'val/b/y/0.png', 'val/b/y/1.png'], [0, 1, 2]),
    (['a/0.png', 'b/0.png', 'b/1.png', 'b/2.png', 'b/3.png'], [0, 1, 3]),
    (['a/0.png', 'b/0.png'], [0, 1]),
    (['0.png'], [0]),
])
def test_examples_are_of_different_classes_and_evenly_spaced(names: list[str], chosen: list[int]
                                                             ) -> None:
    assert choose_examples(names) == chosen


def test_unreadable_examples_are_replaced(folder: Path) -> None:
    for name in ('0/0.png', '1/1.png', '1/3.png'):
        (folder / name).write_bytes(b'')
    examples = run(images=folder, measures=CHEAP, batch_size=2).models[0].examples
    assert [example.name for example in examples] == ['0/2.png', '0/4.png', '1/5.png']


def test_no_readable_image_is_an_error(tmp_path: Path) -> None:
    (tmp_path / 'broken.jpg').write_bytes(b'no image')
    with pytest.raises(ValueError, match=r'none of the images can be read.*broken\.jpg'):
        run(images=tmp_path)


def test_an_empty_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='--images'):
        run(images=tmp_path)


def test_a_cnn_is_an_error(tmp_path: Path) -> None:
    config = Config(dict(model=dict(
        type='ImageClassifier', backbone=dict(type='ResNet', depth=18),
        head=dict(type='LinearClsHead', num_classes=2, in_channels=512))))
    with pytest.raises(ValueError, match='no tap knows the backbone ResNet'):
        run(config)


def interrupt_after(batches: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Send Ctrl-C to this process while a batch is at work."""
    start = audit_module.RedundancyMeter.start
    calls = []

    def counting_start(self: object, *args: object) -> None:
        calls.append(1)
        if len(calls) == batches:
            os.kill(os.getpid(), signal.SIGINT)
        start(self, *args)

    monkeypatch.setattr(audit_module.RedundancyMeter, 'start', counting_start)


def test_ctrl_c_gives_what_was_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = run(num_images=360, measures=CHEAP, batch_size=180)
    interrupt_after(2, monkeypatch)
    result = run(num_images=360, measures=CHEAP, batch_size=4)
    assert result.images['interrupted'] and result.images['measured'] == 8
    assert len(result.models[0].examples) == NUM_EXAMPLES
    assert not expected.images['interrupted']
    again = run(num_images=360, measures=CHEAP, batch_size=8)
    assert again.images['measured'] == 360
    assert_same(expected, again)


def test_models_that_are_interrupted_have_seen_the_same_images(
        monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt_after(3, monkeypatch)  # while the first model has its second batch
    result = run([DEIT, (DEIT, None)], names=['first', 'second'], batch_size=4, measures=CHEAP)
    assert result.images['measured'] == 8
    assert result.models[0].summary == result.models[1].summary


def test_ctrl_c_is_handled_as_before_afterwards() -> None:
    before = signal.getsignal(signal.SIGINT)
    run(measures=CHEAP)
    assert signal.getsignal(signal.SIGINT) is before


def test_it_works_in_another_thread() -> None:
    results = []
    thread = threading.Thread(target=lambda: results.append(run(measures=CHEAP)))
    thread.start()
    thread.join()
    assert results[0].images['measured'] == 12


def test_attention_of_a_few_images_is_kept() -> None:
    example = run().models[0].examples[0]
    assert example.pixels.shape == (16, 16, 3) and example.pixels.dtype == torch.uint8
    assert {layer: tuple(maps.shape) for layer, maps in example.maps.items()} == {
        layer: (3, 8, 8) for layer in range(4)}
    assert all((maps.sum((1, 2)) <= 1 + 1e-5).all() for maps in example.maps.values())


def test_names_must_differ() -> None:
    with pytest.raises(ValueError, match='share a name.*--names'):
        run([DEIT, DEIT])


@pytest.mark.parametrize('option', ['num_images', 'num_subsampled', 'batch_size'])
def test_numbers_below_one_are_refused(option: str) -> None:
    with pytest.raises(ValueError, match=f'`{option}`'):
        run(**{option: 0})


def test_negative_workers_are_refused() -> None:
    with pytest.raises(ValueError, match='`num_workers`.*-1'):
        run(num_workers=-1)


def test_the_package_offers_it() -> None:
    assert mmdiverse.audit is audit


def test_results_have_a_short_repr() -> None:
    result = run(measures=['head_cosine', 'stable_rank'])
    model = result.models[0]
    assert repr(result) == "Audit(['deit-nano_digits'], 12 images of digits)"
    assert repr(model) == "ModelAudit('deit-nano_digits', 4 blocks, 2 measures)"
    assert re.fullmatch(r"Example\('.*', 16 x 16 pixels, maps of blocks 0 to 3\)",
                        repr(model.examples[0]))
    assert repr(Example('a', torch.zeros(2, 3, 3))) == "Example('a', 2 x 3 pixels, no maps)"


def test_every_image_is_kept_in_its_place(folder: Path) -> None:
    whole = run(images=folder, measures=['head_cosine', 'effective_rank'], num_subsampled=2)
    model = whole.models[0]
    per_image = model.per_image['head_cosine']
    assert per_image.shape == (6, 4) and not per_image.isnan().any()
    assert per_image.mean(0).tolist() == pytest.approx(model.summary['head_cosine'])
    seen = ~model.per_image['effective_rank'].isnan().all(1)
    assert seen.tolist() == [True, False, False, True, False, False]
    (folder / '0' / '2.png').write_bytes(b'no image')
    less = run(images=folder, measures=['head_cosine'], batch_size=2).models[0]
    missing = less.per_image['head_cosine'].isnan().all(1)
    assert missing.sum() == 1
    torch.testing.assert_close(less.per_image['head_cosine'][~missing], per_image[~missing])


def test_shapes_travel_with_the_result() -> None:
    model = run(num_images=2).models[0]
    rows, columns = model.matrix_shape('fc1', 3)
    assert rows == 4 * columns and model.shapes['tokens'] == [[64, columns]] * 5
    assert model.matrix_shape('unknown', 0) == (384, 384)


def test_random_weights_are_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    said = []
    monkeypatch.setattr(audit_module, 'print_log', lambda text, *_: said.append(text))
    result = run([DEIT, load_model(DEIT).model], names=['drawn', 'given'],
                 measures=['stable_rank'], num_images=1)
    assert said == [f'drawn: {UNTRAINED}']
    assert [model.untrained for model in result.models] == [True, False]


def test_nothing_stays_attached() -> None:
    model = audit_module.load_model(DEIT)
    run(model)
    assert not any(module._forward_hooks or module._forward_pre_hooks
                   for module in model.model.modules())
