import pickle
import shutil
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from mmengine.config import Config
from mmpretrain.apis.model import ModelHub
from mmpretrain.models import ImageClassifier
from mmpretrain.models.backbones import vision_transformer
from PIL import Image
from safetensors.torch import save_file
from sklearn.datasets import load_sample_images
from timm.models import _registry
from torch import nn

from mmdiverse.datasets.audit_images import SUFFIXES, open_images
from mmdiverse.evaluation.model_loading import AS_GIVEN, LOAD, PACK, load_model
from tests.runs import DIGITS, digits_config, same_state, train
from tests.taps.families.swin import swin

DEIT = DIGITS / 'deit-nano_digits.py'
TINY = 'deit_tiny_patch16_224'
ZOO = 'deit-tiny_4xb256_in1k'
ARCH = dict(embed_dims=16, num_layers=3, num_heads=2, feedforward_channels=24)


def tiny_config(backbone: dict[str, Any] | None = None, **options: Any) -> Config:
    """A config of a classifier with a tiny backbone."""
    vit = dict(type='VisionTransformer', img_size=12, patch_size=4, arch=ARCH)
    return Config(dict(dict(model=dict(type='ImageClassifier', backbone={**vit, **(backbone or {})})
                            ), **options))


def save(model: nn.Module, path: Path, wrap: Callable[[dict], Any] = lambda state: state) -> Path:
    """Save a state dict in whatever wraps it."""
    torch.save(wrap(model.state_dict()), path)
    return path


def another(**backbone: Any) -> nn.Module:
    """A tiny classifier whose weights are not those of a first one."""
    classifier = load_model(tiny_config(backbone)).model
    with torch.no_grad():
        for parameter in classifier.parameters():
            parameter.add_(1)
    return classifier


def swin_classifier(**options: Any) -> nn.Module:
    """A classifier with a tiny Swin."""
    classifier = load_model(tiny_config()).model
    classifier.backbone = swin(**options)
    return classifier


def same_backbone(first: nn.Module, second: nn.Module) -> bool:
    return same_state(first.backbone.state_dict(), second.backbone.state_dict())


@pytest.fixture(scope='module')
def work_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run with an average of its weights leaves behind."""
    folder = tmp_path_factory.mktemp('run')
    train(digits_config('deit-nano_diverse_digits', folder, batches=1,
                        custom_hooks=[dict(type='EMAHook')]))
    return folder


@pytest.fixture(scope='module')
def timm_model() -> nn.Module:
    return timm.create_model(TINY)


class TestConfigs:

    def test_says_what_it_loaded(self) -> None:
        loaded = load_model(DEIT)
        assert (loaded.name, loaded.source) == ('deit-nano_digits', str(DEIT))
        assert loaded.checkpoint is None and loaded.digits and loaded.config == str(DEIT)
        assert isinstance(loaded.model, ImageClassifier) and not loaded.model.training

    def test_name_can_be_chosen(self) -> None:
        assert load_model(tiny_config(), name='mine').name == 'mine'

    def test_initial_weights_are_those_of_init_weights(self) -> None:
        weight = load_model(DEIT).model.backbone.layers[0].attn.qkv.weight
        assert weight.std().item() == pytest.approx(0.15, rel=0.05)

    def test_initial_weights_are_the_same_at_each_call(self) -> None:
        first = load_model(tiny_config()).model
        torch.rand(1)
        assert same_state(first.state_dict(), load_model(tiny_config()).model.state_dict())

    def test_random_numbers_of_others_go_on(self) -> None:
        state = torch.get_rng_state()
        load_model(tiny_config())
        assert torch.equal(state, torch.get_rng_state())

    def test_config_is_left_as_it_was(self) -> None:
        cfg = Config.fromfile(DEIT)
        before = deepcopy(cfg.to_dict())
        load_model(cfg)
        assert cfg.to_dict() == before

    def test_console_stays_quiet(self, capfd: pytest.CaptureFixture) -> None:
        load_model(DEIT)
        assert capfd.readouterr() == ('', '')

    def test_config_of_a_package(self) -> None:
        loaded = load_model('mmpretrain::deit/deit-tiny_4xb256_in1k.py')
        assert loaded.name == 'deit-tiny_4xb256_in1k' and not loaded.digits
        assert loaded.config == 'mmpretrain::deit/deit-tiny_4xb256_in1k.py'
        assert loaded.model.data_preprocessor.to_rgb

    def test_types_may_be_classes(self, tmp_path: Path) -> None:
        path = tmp_path / 'lazy.py'
        path.write_text(
            'from mmcv.transforms import LoadImageFromFile\n'
            'from mmpretrain.datasets import CenterCrop, PackInputs\n'
            'from mmpretrain.models import ImageClassifier, SwinTransformer\n'
            'model = dict(type=ImageClassifier, backbone=dict(type=SwinTransformer))\n'
            'test_dataloader = dict(dataset=dict(type="CustomDataset", pipeline=[\n'
            '    dict(type=LoadImageFromFile), dict(type=CenterCrop, crop_size=7),\n'
            '    dict(type=PackInputs)]))\n')
        loaded = load_model(path)
        assert [*loaded.pipeline[1]] == ['type', 'crop_size'] and len(loaded.pipeline) == 3
        assert open_images('photos', loaded.pipeline, 1)[0]['inputs'].shape == (3, 7, 7)

    def test_missing_config_is_named(self) -> None:
        with pytest.raises(FileNotFoundError, match='nowhere.py'):
            load_model('nowhere.py')

    @pytest.mark.parametrize('options', [
        dict(backbone=dict(init_cfg=dict(type='Pretrained', checkpoint='x.pth'))),
        dict(backbone=dict(init_cfg=[dict(type='TruncNormal', layer='Linear'),
                                     dict(type='Pretrained', checkpoint='x.pth')])),
    ])
    def test_weights_of_others_do_not_pass_as_initial(self, options: dict) -> None:
        with pytest.raises(ValueError, match='starts from pretrained weights.*give a checkpoint'):
            load_model(tiny_config(**options))

    def test_timm_weights_in_a_config_do_not_pass_as_initial(
            self, monkeypatch: pytest.MonkeyPatch, timm_model: nn.Module) -> None:
        monkeypatch.setattr(timm, 'create_model', lambda **options: deepcopy(timm_model))
        backbone = dict(type='TIMMBackbone', model_name=TINY, pretrained=True)
        with pytest.raises(ValueError, match='starts from pretrained weights'):
            load_model(Config(dict(model=dict(type='ImageClassifier', backbone=backbone))))


class TestWorkDirs:

    def test_config_and_last_checkpoint(self, work_dir: Path) -> None:
        loaded = load_model(work_dir)
        assert (loaded.name, loaded.source) == (work_dir.name, str(work_dir))
        assert loaded.config == str(work_dir / 'deit-nano_diverse_digits.py')
        assert loaded.checkpoint == str(work_dir / 'epoch_1.pth') and loaded.digits
        state = torch.load(loaded.checkpoint, weights_only=True)['state_dict']
        backbone = {f'backbone.{key}': value
                    for key, value in loaded.model.backbone.state_dict().items()}
        assert same_state(backbone, {key: state[key] for key in backbone})

    def test_folder_may_have_been_moved(self, work_dir: Path, tmp_path: Path) -> None:
        moved = tmp_path / 'moved'
        shutil.copytree(work_dir, moved)
        (moved / 'last_checkpoint').write_text('work_dirs/gone/epoch_1.pth')
        assert load_model(moved).checkpoint == str(moved / 'epoch_1.pth')

    def test_other_checkpoint(self, work_dir: Path, tmp_path: Path) -> None:
        wanted = load_model(DEIT).model
        path = save(wanted, tmp_path / 'other.pth')
        loaded = load_model(work_dir, path)
        assert loaded.checkpoint == str(path) and same_backbone(loaded.model, wanted)

    @pytest.mark.parametrize('note', [None, '\n'])
    def test_run_without_last_checkpoint(self, tmp_path: Path, note: str | None) -> None:
        shutil.copy(DEIT.parents[1] / '_base_' / 'digits_bs32.py', tmp_path)
        if note:
            (tmp_path / 'last_checkpoint').write_text(note)
        with pytest.raises(FileNotFoundError, match='last_checkpoint.*is missing or empty; give'):
            load_model(tmp_path)

    def test_folder_without_config(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match='no work dir of a run: it holds no config'):
            load_model(tmp_path)


class TestZoo:

    def test_released_weights(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        wanted = load_model('mmpretrain::deit/deit-tiny_4xb256_in1k.py').model
        nn.init.ones_(wanted.backbone.cls_token)
        path = save(wanted, tmp_path / 'released.pth', lambda state: dict(state_dict=state))
        released = ModelHub.get(ZOO)
        released.weights = str(path)
        monkeypatch.setitem(ModelHub._models_dict, ZOO, released)
        loaded = load_model('DeiT-tiny_4xb256_in1k')
        assert (loaded.name, loaded.checkpoint) == ('DeiT-tiny_4xb256_in1k', str(path))
        assert loaded.config == 'mmpretrain::deit/deit-tiny_4xb256_in1k.py'
        assert same_backbone(loaded.model, wanted)

    def test_weights_that_cannot_be_downloaded(self, monkeypatch: pytest.MonkeyPatch,
                                               tmp_path: Path) -> None:
        monkeypatch.setenv('TORCH_HOME', str(tmp_path))
        released = ModelHub.get(ZOO)
        released.weights = 'http://127.0.0.1:9/released.pth'
        monkeypatch.setitem(ModelHub._models_dict, ZOO, released)
        with pytest.raises(OSError, match='http://127.0.0.1:9/released.pth could not be loaded'):
            load_model(ZOO)

    def test_model_without_released_weights(self) -> None:
        with pytest.raises(ValueError, match='no weights of hivit-base.*; give a check'):
            load_model('hivit-base-p16_16xb64_in1k')

    def test_unknown_name(self) -> None:
        with pytest.raises(ValueError, match=(
                r"no model 'deit-tiny_4xb256' \(similar: deit-tiny_4xb256_in1k.*"
                "'package::path', the work dir.*model zoo, or 'timm:NAME'")):
            load_model('deit-tiny_4xb256')


class TestTimm:

    @pytest.mark.parametrize('wrap', [
        lambda state: state,
        lambda state: dict(model=state),
        lambda state: dict(state_dict={f'module.{key}': value for key, value in state.items()},
                           state_dict_ema={}, epoch=3),
    ], ids=['bare', 'deit', 'timm-ddp'])
    def test_checkpoint_with_timm_keys(self, timm_model: nn.Module, tmp_path: Path,
                                       wrap: Callable) -> None:
        path = save(timm_model, tmp_path / 'timm.pth', wrap)
        loaded = load_model(f'timm:{TINY}', path)
        assert (loaded.name, loaded.checkpoint, loaded.config) == (TINY, str(path), None)
        state = timm_model.state_dict()
        found = loaded.model.backbone.timm_model.state_dict()
        assert same_state(found, {key: state[key] for key in found})

    def test_safetensors(self, timm_model: nn.Module, tmp_path: Path) -> None:
        save_file(timm_model.state_dict(), tmp_path / 'model.safetensors')
        loaded = load_model(f'timm:{TINY}', tmp_path / 'model.safetensors')
        assert torch.equal(loaded.model.backbone.timm_model.pos_embed, timm_model.pos_embed)

    def test_released_weights(self, monkeypatch: pytest.MonkeyPatch, timm_model: nn.Module,
                              tmp_path: Path) -> None:
        path = save(timm_model, tmp_path / 'released.pth')
        # timm's own way to a local file instead of the hub.
        monkeypatch.setattr(_registry._model_pretrained_cfgs[TINY], 'file', str(path))
        loaded = load_model(f'timm:{TINY}')
        assert loaded.checkpoint.startswith(f'timm/{TINY}.')
        assert torch.equal(loaded.model.backbone.timm_model.pos_embed, timm_model.pos_embed)

    def test_weights_that_cannot_be_downloaded(self, monkeypatch: pytest.MonkeyPatch,
                                               tmp_path: Path) -> None:
        monkeypatch.setattr(_registry._model_pretrained_cfgs[TINY], 'file', str(tmp_path / 'no'))
        with pytest.raises(OSError, match=f'weights of timm:{TINY} could not be downloaded'):
            load_model(f'timm:{TINY}')

    def test_images_are_prepared_as_timm_does(self, timm_model: nn.Module,
                                              tmp_path: Path) -> None:
        photo = Image.fromarray(load_sample_images().images[0])
        photo.save(tmp_path / 'photo.png')
        loaded = load_model(f'timm:{TINY}', save(timm_model, tmp_path / 'timm.pth'))
        inputs = open_images(tmp_path, loaded.pipeline)[0]['inputs']
        found = loaded.model.data_preprocessor(dict(inputs=inputs[None]))['inputs'][0]
        transform = timm.data.create_transform(**timm.data.resolve_model_data_config(timm_model))
        assert torch.allclose(found, transform(photo), atol=1e-5)

    def test_unknown_name(self) -> None:
        with pytest.raises(ValueError, match=rf"timm has no model '{TINY}4' \(similar: {TINY}"):
            load_model(f'timm:{TINY}4')

    @pytest.mark.parametrize('checkpoint', [None, 'some.pth'])
    def test_unknown_tag(self, checkpoint: str | None) -> None:
        with pytest.raises(ValueError, match=rf"timm has no (model|weights of) '{TINY}\.nobody'"):
            load_model(f'timm:{TINY}.nobody', checkpoint)

    def test_cnn_is_refused_before_any_download(self) -> None:
        with pytest.raises(ValueError, match='no tap knows the backbone TIMMBackbone'):
            load_model('timm:resnet18')


class TestClassifiers:

    def test_as_it_is(self) -> None:
        classifier = another().train()
        before = deepcopy(classifier)
        loaded = load_model(classifier)
        assert loaded.model is classifier and not classifier.training
        assert (loaded.name, loaded.checkpoint) == ('ImageClassifier', AS_GIVEN)
        assert loaded.config is None
        assert same_backbone(classifier, before)

    def test_with_a_checkpoint(self, tmp_path: Path) -> None:
        wanted = another()
        loaded = load_model(load_model(tiny_config()).model, save(wanted, tmp_path / 'it.pth'))
        assert same_backbone(loaded.model, wanted)

    @pytest.mark.parametrize('make', [
        lambda: load_model(tiny_config()).model,
        lambda: swin_classifier(img_size=12),
        lambda: ImageClassifier(backbone=dict(type='TIMMBackbone', model_name=TINY, img_size=12,
                                              patch_size=4)),
    ], ids=['vit', 'swin', 'timm'])
    def test_images_get_the_size_that_the_backbone_wants(self, make: Callable) -> None:
        pipeline = load_model(make()).pipeline
        assert (pipeline[0], pipeline[-1]) == (LOAD, PACK)
        assert open_images('photos', pipeline, 1)[0]['inputs'].shape == (3, 12, 12)

    @pytest.mark.parametrize('make', [
        lambda: dict(type='MAEViT', arch=ARCH, img_size=12, patch_size=4),
        lambda: dict(type='MaskFeatViT', arch=ARCH, img_size=12, patch_size=4),
        lambda: dict(type='MILANViT', arch=ARCH, img_size=12, patch_size=4)])
    def test_backbones_that_mask_patches_are_refused(self, make: Callable) -> None:
        backbone = make()
        with pytest.raises(ValueError, match=f"config has the backbone {backbone['type']}, which "
                                             "masks patches for pre-training; .* in the backbone "
                                             "'VisionTransformer'"):
            load_model(Config(dict(model=dict(type='ImageClassifier', backbone=backbone))))

    def test_the_whole_model_of_timms_classifier_is_loaded(self, tmp_path: Path) -> None:
        cfg = Config(dict(model=dict(type='TimmClassifier', model_name=TINY, img_size=12,
                                     patch_size=4, embed_dim=16, depth=2, num_heads=2)))
        wanted = load_model(cfg).model
        nn.init.ones_(wanted.model.cls_token)
        loaded = load_model(cfg, save(wanted, tmp_path / 'it.pth'))
        assert loaded.backbone is loaded.model.model
        assert same_state(loaded.backbone.state_dict(), wanted.model.state_dict())

    def test_other_modules_are_refused(self) -> None:
        with pytest.raises(ValueError, match='image classifiers.*but Linear is a Linear'):
            load_model(nn.Linear(2, 2))


class TestRefusedModels:

    def test_cnn_is_refused_before_weights_are_read(self) -> None:
        cfg = Config(dict(model=dict(type='ImageClassifier', backbone=dict(
            type='ResNet', depth=18))))
        with pytest.raises(ValueError, match='no tap knows the backbone ResNet.*docs/coverage.md'):
            load_model(cfg, 'nowhere.pth')

    @pytest.mark.parametrize('name, kind', [
        ('blip-base_3rdparty_caption', 'BlipCaption'),
        ('mmpretrain::mae/mae_vit-base-p16_8xb512-amp-coslr-300e_in1k.py', 'MAE'),
    ])
    def test_model_for_something_else(self, name: str, kind: str) -> None:
        with pytest.raises(ValueError, match=f'image classifiers.*but {name} is a {kind}'):
            load_model(name)

    def test_config_without_model(self) -> None:
        with pytest.raises(ValueError, match='is a config without `model`'):
            load_model(Config(dict(lr=0.1)))


class TestCheckpoints:

    @pytest.mark.parametrize('wrap', [
        lambda state: state,
        lambda state: dict(state_dict=state, meta=dict(epoch=1)),
        lambda state: dict(model={f'module.{key}': value for key, value in state.items()}),
        lambda state: dict(state_dict={f'model.{key}': value for key, value in state.items()}
                           | {'criterion.weight': torch.ones(3)}, epoch=1),
        lambda state: {f'net.module.{key}': value for key, value in state.items()},
    ], ids=['bare', 'mmengine', 'ddp', 'lightning', 'ddp in lightning'])
    def test_forms(self, tmp_path: Path, wrap: Callable) -> None:
        wanted = another()
        path = save(wanted, tmp_path / 'it.pth', wrap)
        loaded = load_model(tiny_config(), path)
        assert loaded.checkpoint == str(path) and same_backbone(loaded.model, wanted)

    def test_head_may_differ(self, tmp_path: Path) -> None:
        wanted = load_model(DEIT).model
        wanted.head.layers.head = nn.Linear(48, 3)
        assert same_backbone(load_model(DEIT, save(wanted, tmp_path / 'it.pth')).model, wanted)

    def test_position_embedding_is_resized(self, tmp_path: Path) -> None:
        path = save(another(img_size=20), tmp_path / 'it.pth')
        backbone = load_model(tiny_config(), path).model.backbone
        assert backbone.pos_embed.shape == (1, 10, 16) and backbone.pos_embed.mean() > 0.5

    def test_buffers_may_be_missing(self, tmp_path: Path) -> None:
        # MMPretrain drops the index of a Swin whose windows it resizes.
        wanted = swin_classifier()
        path = save(wanted, tmp_path / 'it.pth', lambda state: {
            key: value for key, value in state.items() if not key.endswith('position_index')})
        assert same_backbone(load_model(swin_classifier(), path).model, wanted)

    def test_host_that_stumbles(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def resize(*args: Any) -> None:
            raise NotImplementedError('gone')

        monkeypatch.setattr(vision_transformer, 'resize_pos_embed', resize)
        path = save(another(img_size=20), tmp_path / 'it.pth')
        with pytest.raises(ValueError, match='does not fit config.*NotImplementedError: gone'):
            load_model(tiny_config(), path)

    @pytest.mark.parametrize('backbone, message', [
        (dict(arch=dict(embed_dims=8, num_layers=3, num_heads=2, feedforward_channels=24)),
         'size mismatch for'),
        (dict(arch=dict(embed_dims=16, num_layers=4, num_heads=2, feedforward_channels=24)),
         r'42 of the 42 keys of VisionTransformer fit; unexpected layers\.3\..* and 8 more'),
        (dict(arch=dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=24)),
         r'30 of the 42 keys of VisionTransformer fit; missing layers\.2\..*; .* and 8 more'),
    ], ids=['narrow', 'deep', 'shallow'])
    def test_other_architecture(self, tmp_path: Path, backbone: dict, message: str) -> None:
        path = save(load_model(tiny_config(backbone)).model, tmp_path / 'it.pth')
        with pytest.raises(ValueError, match=rf'it\.pth does not fit config.*{message}'):
            load_model(tiny_config(), path)

    def test_other_architecture_of_timm(self, timm_model: nn.Module, tmp_path: Path) -> None:
        path = save(timm_model, tmp_path / 'it.pth')
        with pytest.raises(ValueError, match='does not fit timm:.*size mismatch for .*and'):
            load_model('timm:deit_small_patch16_224', path)

    def test_keys_of_timm_in_a_config(self, timm_model: nn.Module, tmp_path: Path) -> None:
        path = save(timm_model, tmp_path / 'it.pth')
        with pytest.raises(ValueError, match='for another architecture. 0 of the 42 keys.*missing'):
            load_model(tiny_config(), path)

    @pytest.mark.parametrize('load', [tiny_config, lambda: f'timm:{TINY}'], ids=['mm', 'timm'])
    def test_missing_file(self, load: Callable) -> None:
        with pytest.raises(FileNotFoundError, match='no checkpoint nowhere.pth'):
            load_model(load(), 'nowhere.pth')

    @pytest.mark.parametrize('name', ['it.pth', 'it.safetensors'])
    def test_truncated_file(self, tmp_path: Path, name: str) -> None:
        path = save(another(), tmp_path / name)
        path.write_bytes(path.read_bytes()[:2000])
        with pytest.raises(ValueError, match=f'checkpoint .*{name} could not be loaded'):
            load_model(tiny_config(), path)

    def test_hostile_file(self, tmp_path: Path) -> None:
        path = tmp_path / 'it.pth'
        torch.save(Touch(str(tmp_path / 'executed')), path)
        with pytest.raises(ValueError, match='it.pth could not be loaded.*nothing in it was exec'):
            load_model(tiny_config(), path)
        assert not (tmp_path / 'executed').exists()

    def test_file_with_something_else(self, tmp_path: Path) -> None:
        torch.save([1, 2], tmp_path / 'it.pth')
        with pytest.raises(ValueError, match='it.pth is no checkpoint: expected a dict of tensors'):
            load_model(tiny_config(), tmp_path / 'it.pth')


class Touch:
    """Makes a file where it is unpickled without care."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (Path(self.path), )


class TestPipelines:

    def test_that_of_the_config(self) -> None:
        resize = dict(type='ResizeEdge', scale=20, edge='short')
        crop = dict(type='mmpretrain.CenterCrop', crop_size=12)
        given = [dict(type='LoadImageFromFile', backend_args=dict(backend='petrel')), resize, crop,
                 dict(type='PackInputs', algorithm_keys=['text'])]
        loader = dict(dataset=dict(type='ImageNet', pipeline=given))
        wanted = [LOAD, resize, crop, PACK]
        assert load_model(tiny_config(test_dataloader=loader)).pipeline == wanted
        assert load_model(tiny_config(val_dataloader=loader)).pipeline == wanted

    @pytest.mark.parametrize('load', [
        dict(LOAD, color_type='grayscale'), dict(LOAD, imdecode_backend='pillow', to_float32=True),
        dict(LOAD, ignore_empty=True, backend_args=dict(backend='local')),
        dict(LOAD, file_client_args=dict(backend='disk')), dict(type='mmcv.LoadImageFromFile'),
    ], ids=str)
    def test_its_loader_and_its_sizes_are_kept(self, load: dict) -> None:
        loader = dict(dataset=dict(type='CustomDataset', pipeline=[load, PACK]))
        loaded = load_model(tiny_config(test_dataloader=loader))
        assert loaded.pipeline == [load, PACK]
        # Images that are none of its own are fitted to the model.
        assert [step['type'] for step in loaded.fit] == ['ResizeEdge', 'CenterCrop']

    @pytest.mark.parametrize('pack', [
        dict(type='PackInputs', input_key='crop', algorithm_keys=['text']),
        dict(type='PackMultiTaskInputs', multi_task_fields=('gt_label', ), input_key='crop')])
    def test_images_are_packed_without_labels(self, pack: dict) -> None:
        loader = dict(dataset=dict(type='CustomDataset', pipeline=[LOAD, pack]))
        assert load_model(tiny_config(test_dataloader=loader)).pipeline == [
            LOAD, dict(PACK, input_key='crop')]

    def test_images_in_memory_get_a_loader(self) -> None:
        resize = dict(type='Resize', scale=(12, 12))
        loader = dict(dataset=dict(type='CIFAR10', pipeline=[resize, PACK]))
        assert load_model(tiny_config(test_dataloader=loader)).pipeline == [LOAD, resize, PACK]

    def test_loader_gives_the_channels_that_the_backbone_takes(self) -> None:
        gray = dict(LOAD, color_type='grayscale')
        loader = dict(dataset=dict(type='MNIST', pipeline=[PACK]))
        for options in (dict(), dict(test_dataloader=loader)):
            pipeline = load_model(tiny_config(dict(in_channels=1), **options)).pipeline
            assert pipeline[0] == gray
            assert open_images('photos', pipeline, 1)[0]['inputs'].shape == (1, 12, 12)

    def test_suffixes_of_the_config(self) -> None:
        assert load_model(tiny_config()).suffixes == SUFFIXES
        loader = dict(dataset=dict(type='CustomDataset', extensions=['.PNG', '.npy']))
        assert load_model(tiny_config(test_dataloader=loader)).suffixes == ('.png', '.npy')

    def test_transforms_that_are_not_known_are_named(self) -> None:
        loader = dict(dataset=dict(type='CustomDataset', pipeline=[dict(type='NoTransform')]))
        with pytest.raises(ValueError, match='`test_dataloader.dataset.pipeline`.*NoTransform'):
            load_model(tiny_config(test_dataloader=loader))

    def test_images_are_resized_where_the_config_does_not(self) -> None:
        pipeline = load_model(DEIT).pipeline
        assert [step['type'] for step in pipeline] == [
            'LoadImageFromFile', 'ResizeEdge', 'CenterCrop', 'PackInputs']
        assert open_images('photos', pipeline, 1)[0]['inputs'].shape == (3, 16, 16)

    @pytest.mark.parametrize('wrap', [
        lambda dataset: dict(type='RepeatDataset', dataset=dataset),
        lambda dataset: dict(type='ConcatDataset', datasets=[dataset, dataset]),
    ], ids=['repeat', 'concat'])
    def test_wrapped_data_set(self, wrap: Callable) -> None:
        dataset = wrap(dict(type='mmdiverse.Digits', split='val', pipeline=[
            dict(type='ResizeEdge', scale=9), PACK]))
        loaded = load_model(tiny_config(test_dataloader=dict(dataset=dataset)))
        assert loaded.digits and loaded.pipeline == [LOAD, dict(type='ResizeEdge', scale=9), PACK]

    @pytest.mark.parametrize('options', [
        dict(),
        dict(test_dataloader=None),
        dict(test_dataloader=dict(dataset=dict(type='Other'))),
        dict(test_dataloader=dict(dataset=dict(type='Other', pipeline=[
            dict(type='Rotate', angle=9), dict(type='PackMultiTaskInputs')]))),
    ], ids=['none', 'empty', 'no-pipeline', 'other-task'])
    def test_default(self, options: dict) -> None:
        loaded = load_model(tiny_config(**options))
        assert not loaded.digits
        assert [step['type'] for step in loaded.pipeline] == [
            'LoadImageFromFile', 'ResizeEdge', 'CenterCrop', 'PackInputs']

    def test_oblong_images(self) -> None:
        pipeline = load_model(tiny_config(dict(img_size=(8, 12)))).pipeline
        assert open_images('photos', pipeline, 1)[0]['inputs'].shape == (3, 8, 12)

    def test_can_be_sent_to_another_process(self) -> None:
        assert pickle.loads(pickle.dumps(load_model(DEIT).pipeline))[0] == LOAD
