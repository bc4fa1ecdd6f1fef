"""Each mend against the breakage it mends: in a fresh process, without it and with it."""
from __future__ import annotations

import io
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from pickle import UnpicklingError

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.fileio import FileClient, LocalBackend, get_file_backend
from mmengine.fileio.backends import backends
from mmengine.logging import MessageHub
from mmengine.runner import CheckpointLoader

from mmdiverse import compat
from mmdiverse.checkpoint import AtomicLocalBackend
from mmdiverse.registry import OWN

ROOT = Path(__file__).resolve().parent.parent
#: The host's own text of a config, which the mend wraps.
HOST_TEXT = next(cell.cell_contents for cell in Config.pretty_text.fget.__closure__
                 if isinstance(cell.cell_contents, property))
OPENMMLAB_ONLY = "OneDL's MMEngine does not have this breakage"


def is_onedl() -> bool:
    from importlib.metadata import PackageNotFoundError, version
    try:
        return bool(version('onedl-mmengine'))
    except PackageNotFoundError:
        return False


def python(code: str, *paths: Path, cwd: Path | None = None,
           **env: str) -> subprocess.CompletedProcess[str]:
    """Runs ``code`` in a process of its own that sees ``paths``, the project and no GPU."""
    path = os.pathsep.join([*map(str, paths), str(ROOT)])
    return subprocess.run(
        [sys.executable, '-c', textwrap.dedent(code)], cwd=cwd, capture_output=True, text=True,
        env={**os.environ, 'PYTHONPATH': path, 'CUDA_VISIBLE_DEVICES': '', **env}, timeout=120)


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a Runner saves: model, AdamW, EMA, two schedulers, the hooks' scores, message hub."""
    folder = tmp_path_factory.mktemp('run')
    # The mend matters when loading: made without mmdiverse, as MMPretrain's users make theirs.
    ended = python(RUN + 'build("run", epochs=2).train()', cwd=folder)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return folder / 'run' / 'epoch_2.pth'


RUN = '''
import numpy as np, torch
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.model import BaseModel
from mmengine.runner import Runner

class Model(BaseModel):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(4, 2)
    def forward(self, inputs, labels, mode='tensor'):
        logits = self.linear(torch.stack(list(inputs)))
        loss = torch.nn.functional.cross_entropy(logits, torch.as_tensor(labels))
        return dict(loss=loss) if mode == 'loss' else logits

class Score(BaseMetric):
    def process(self, data_batch, data_samples):
        self.results.append(1)
    def compute_metrics(self, results):
        return dict(score=np.float32(0.5))  # save_best keeps it as it is

def build(work_dir, epochs, **kwargs):
    data = dict(dataset=[(torch.ones(4), 0), (torch.zeros(4), 1)], batch_size=1,
                sampler=dict(type='DefaultSampler', shuffle=True))
    return Runner(
        Model(), work_dir, train_dataloader=data, val_dataloader=data, val_cfg=dict(),
        val_evaluator=Evaluator([Score()]), train_cfg=dict(by_epoch=True, max_epochs=epochs),
        optim_wrapper=dict(optimizer=dict(type='AdamW', lr=1e-3), clip_grad=dict(max_norm=1.)),
        param_scheduler=[dict(type='LinearLR', end=1), dict(type='CosineAnnealingLR', begin=1)],
        default_hooks=dict(
            checkpoint=dict(type='CheckpointHook', interval=1, save_best='score', rule='greater')),
        custom_hooks=[dict(type='EMAHook')], default_scope='mmengine', **kwargs)
'''


def saved(content: object, **kwargs: bool) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **kwargs)
    return buffer.getvalue()


def as_numpy_1(content: object) -> bytes:
    """A file as written under numpy 1, whose module has another name."""
    # The legacy format is a bare pickle, where a module's name can be exchanged.
    new = saved(content, _use_new_zipfile_serialization=False)
    old = new.replace(b'numpy._core.multiarray', b'numpy.core.multiarray')
    assert b'numpy.core.multiarray' in old and b'_core' not in old
    return old


def as_numpy_2(content: object) -> bytes:
    return saved(content, _use_new_zipfile_serialization=False).replace(
        b'numpy.core.multiarray', b'numpy._core.multiarray')


def load(content: bytes, **kwargs: bool) -> dict:
    return torch.load(io.BytesIO(content), **kwargs)


def history(value: float | int = 0.5) -> dict:
    """The message hub's part of a checkpoint."""
    hub = MessageHub(f'history of {value}')
    hub.update_scalar('train/loss', value)
    return hub.state_dict()


def named(item: object) -> str:
    """The name by which an entry of the allow-list is asked for."""
    return item[1] if isinstance(item, tuple) else f'{item.__module__}.{item.__qualname__}'


# By the name of each entry, something that a run of MMEngine saves and that needs it.
NEEDED = {
    'mmengine.logging.history_buffer.HistoryBuffer': lambda: saved(history()),
    'builtins.getattr': lambda: saved(history()),
    'numpy.ndarray': lambda: saved(history()),
    'numpy.dtype': lambda: saved({'best_score': np.float64(0.5)}),
    'numpy.dtypes.Float64DType': lambda: saved({'best_score': np.float64(0.5)}),
    'numpy.dtypes.Float32DType': lambda: saved({'best_score': np.float32(0.5)}),
    'numpy.dtypes.Int64DType': lambda: saved(history()),  # how often each value counts
    'numpy.core.multiarray._reconstruct': lambda: as_numpy_1(history()),
    'numpy._core.multiarray._reconstruct': lambda: as_numpy_2(history()),
    'numpy.core.multiarray.scalar': lambda: as_numpy_1({'best_score': np.float64(0.5)}),
    'numpy._core.multiarray.scalar': lambda: as_numpy_2({'best_score': np.float64(0.5)}),
}


class TestCheckpointGlobals:

    def test_without_it_torch_refuses_the_file(self, checkpoint):
        mended = torch.serialization.get_safe_globals()
        torch.serialization.clear_safe_globals()
        try:
            with pytest.raises(UnpicklingError, match='Unsupported global'):
                torch.load(checkpoint, weights_only=True)
        finally:
            torch.serialization.add_safe_globals(mended)

    @pytest.mark.skipif(is_onedl(), reason=OPENMMLAB_ONLY)
    def test_without_it_resuming_fails(self, checkpoint, tmp_path):
        resume = f'build("out", epochs=3, resume=True, load_from={str(checkpoint)!r}).train()'
        ended = python(RUN + resume, cwd=tmp_path)
        assert ended.returncode == 1
        assert 'HistoryBuffer was not an allowed global' in ended.stderr

    @pytest.mark.skipif(not is_onedl(), reason="OpenMMLab's MMEngine stops instead")
    def test_without_it_resuming_loads_unsafely(self, checkpoint, tmp_path):
        resume = f'build("out", epochs=3, resume=True, load_from={str(checkpoint)!r}).train()'
        ended = python(RUN + resume, cwd=tmp_path)
        assert 'Falling back to weights_only=False' in ended.stdout + ended.stderr

    def test_with_it_a_run_resumes_and_never_loads_unsafely(self, checkpoint, tmp_path):
        resume = f'build("out", epochs=3, resume=True, load_from={str(checkpoint)!r}).train()'
        ended = python('import mmdiverse\n' + RUN + resume, cwd=tmp_path)
        assert ended.returncode == 0, ended.stderr[-3000:]
        assert 'resumed epoch: 2' in ended.stdout
        assert 'Falling back' not in ended.stdout + ended.stderr
        assert (tmp_path / 'out' / 'epoch_3.pth').exists()

    def test_with_it_every_part_of_the_file_arrives(self, checkpoint):
        loaded = torch.load(checkpoint, weights_only=True)
        assert loaded['message_hub']['log_scalars']['train/loss'].statistics('mean') > 0
        assert loaded['message_hub']['runtime_info']['best_score'] == 0.5
        assert {'state_dict', 'optimizer', 'param_schedulers', 'ema_state_dict'} <= set(loaded)

    def test_getattr_itself_stays_forbidden(self, tmp_path):
        class Thief:
            def __reduce__(self):
                return getattr, (str, 'format')

        torch.save(Thief(), tmp_path / 'bad.pth')
        assert not any(item is getattr for item in torch.serialization.get_safe_globals())
        with pytest.raises(Exception, match='Weights only load failed'):
            torch.load(tmp_path / 'bad.pth', weights_only=True)

    def test_getattr_stays_forbidden_where_others_allow_it(self):
        """OneDL's MMEngine does while it loads."""
        with torch.serialization.safe_globals([getattr]):
            allowed = torch.serialization.get_safe_globals()
        try:
            assert not any(item is getattr for item in allowed)
            assert (compat._history_statistic, 'builtins.getattr') in allowed
        finally:
            compat.allow_checkpoint_globals()

    @pytest.mark.parametrize(('owner', 'name'), [(str, 'min'), ('history', '__init__')])
    def test_its_stand_in_knows_four_names_only(self, owner, name):
        from mmengine.logging import HistoryBuffer
        with pytest.raises(Exception, match='allows only the statistics of .*HistoryBuffer'):
            compat._history_statistic(HistoryBuffer if owner == 'history' else owner, name)

    def test_a_file_written_under_numpy_1_loads(self):
        assert load(as_numpy_1({'score': np.float64(2)}), weights_only=True)['score'] == 2

    def test_it_allows_nothing_else(self):
        assert {named(item) for item in compat._checkpoint_globals()} == set(NEEDED)

    @pytest.mark.parametrize('name', NEEDED)
    def test_every_entry_is_needed(self, name):
        """Without it alone, something that MMEngine writes does not load."""
        content = NEEDED[name]()
        kept = torch.serialization.get_safe_globals()
        try:
            torch.serialization.clear_safe_globals()
            torch.serialization.add_safe_globals(compat._checkpoint_globals())
            load(content, weights_only=True)
            torch.serialization.clear_safe_globals()
            torch.serialization.add_safe_globals(
                [item for item in compat._checkpoint_globals() if named(item) != name])
            with pytest.raises(UnpicklingError):
                load(content, weights_only=True)
        finally:
            torch.serialization.clear_safe_globals()
            torch.serialization.add_safe_globals(kept)


class TestLoadersAndFiles:
    """What they do is tested in test_checkpoint.py; here, that they are registered."""

    def test_every_loader_is_guarded_under_its_name(self):
        loaders = CheckpointLoader._schemes.values()
        assert all(loader.is_guarded for loader in loaders)
        # MMEngine logs what comes after `load_from_`.
        assert {loader.__name__ for loader in loaders} == {
            f'load_from_{kind}' for kind in ('local', 'http', 'pavi', 'ceph', 'torchvision',
                                             'openmmlab', 'mmcls', 'weights')}

    def test_a_loader_registered_later_is_guarded_by_the_next_call(self, monkeypatch):
        monkeypatch.setattr(CheckpointLoader, '_schemes', dict(CheckpointLoader._schemes))
        CheckpointLoader.register_scheme('mine://', lambda filename, map_location: {})
        assert compat.guard_checkpoint_loaders()
        assert CheckpointLoader._schemes['mine://'].is_guarded
        assert not compat.guard_checkpoint_loaders()

    @pytest.mark.parametrize('arguments', [
        dict(uri='epoch_1.pth'), dict(uri=Path('epoch_1.pth')),
        dict(backend_args=dict(backend='local')), dict(uri='a.txt', enable_singleton=True)])
    def test_local_files_are_written_atomically(self, arguments):
        assert isinstance(get_file_backend(**arguments), AtomicLocalBackend)

    @pytest.mark.parametrize('arguments', [
        dict(uri='epoch_1.pth'), dict(file_client_args=dict(backend='disk'))])
    def test_local_files_of_a_file_client_are_too(self, arguments):
        assert isinstance(FileClient.infer_client(**arguments).client, AtomicLocalBackend)

    def test_a_backend_of_someone_else_stays(self, monkeypatch):
        class Own(LocalBackend):
            pass

        monkeypatch.setitem(backends, 'local', Own)
        assert not compat.write_files_atomically()
        assert backends['local'] is Own

    def test_without_it_resuming_runs_text_of_the_file(self, checkpoint, tmp_path):
        ended = resume_with_config(checkpoint, tmp_path)
        assert (tmp_path / 'executed').exists(), ended.stderr[-2000:]

    def test_with_it_the_text_stays_text(self, checkpoint, tmp_path):
        ended = resume_with_config(checkpoint, tmp_path, 'import mmdiverse\n')
        assert ended.returncode == 0, ended.stderr[-2000:]
        assert not (tmp_path / 'executed').exists()


def resume_with_config(checkpoint: Path, folder: Path, first: str = '') -> \
        subprocess.CompletedProcess[str]:
    content = torch.load(checkpoint, weights_only=True)
    content['meta']['config'] = 'done = open("executed", "w").close()'
    torch.save(content, folder / 'hostile.pth')
    # Without the package, OpenMMLab's MMEngine reads no file of its own under today's torch.
    env = {} if first else dict(TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD='1')
    resume = 'build("out", epochs=3, resume=True, load_from="hostile.pth").train()'
    return python(first + RUN + resume, cwd=folder, **env)


class TestConfigPackage:

    def test_without_it_mmengine_does_not_know_the_package(self, monkeypatch):
        from mmengine.config import Config, utils

        monkeypatch.delitem(utils.MODULE2PACKAGE, 'mmdiverse')
        with pytest.raises(AssertionError, match='does not support to load mmdiverse config'):
            Config.fromstring("_base_ = 'mmdiverse::_base_/diversity/all.py'", '.py')

    def test_it_names_a_module_where_the_distribution_does_not_hold_the_package(self, monkeypatch):
        """A modern editable install: metadata in site-packages, sources elsewhere."""
        from mmengine.config import utils
        from mmengine.utils import get_installed_path

        class Elsewhere:
            def locate_file(self, name):
                return Path('/site-packages', name)

        monkeypatch.delitem(utils.MODULE2PACKAGE, 'mmdiverse')
        monkeypatch.setattr(compat, 'distribution', lambda name: Elsewhere())
        assert compat.register_config_package()
        found = Path(get_installed_path(utils.MODULE2PACKAGE['mmdiverse']))
        assert found == ROOT / 'mmdiverse'


class TestEditableConfigs:
    """Packages whose metadata lie in site-packages, and their sources elsewhere."""

    CONFIG = 'with read_base():\n    from ours.configs.base import *\nb = a + 1\n'

    def test_a_new_style_config_inherits_from_one(self, monkeypatch, tmp_path):
        from mmengine.config import Config, config

        package = tmp_path / 'src' / 'ours'
        (package / 'configs').mkdir(parents=True)
        (package / '__init__.py').touch()
        (package / 'configs' / 'base.py').write_text('a = 1\n')
        path = tmp_path / 'mine.py'
        path.write_text(f'from mmengine.config import read_base\n{self.CONFIG}')
        monkeypatch.syspath_prepend(tmp_path / 'src')
        monkeypatch.setattr(config, 'get_installed_path', lambda name: f'/site-packages/{name}')
        with pytest.raises(Exception, match='/site-packages/ours/configs/base.py not found'):
            Config.fromfile(path)
        assert compat.find_editable_configs()
        assert Config.fromfile(path).b == 2
        assert not compat.find_editable_configs()

    @pytest.mark.parametrize('name', ['mmsegmentation', 'name-with-dashes'])
    def test_what_is_no_module_is_left_to_mmengine(self, monkeypatch, name):
        from mmengine.config import config

        monkeypatch.setattr(config, 'get_installed_path', lambda package: f'asked for {package}')
        compat.find_editable_configs()
        assert config.get_installed_path(name) == f'asked for {name}'


class TestSegmentationPackage:

    @pytest.mark.parametrize('distribution, entry', [
        ('onedl-mmsegmentation', 'mmseg'),
        ('mmsegmentation', 'mmsegmentation'),
        (None, 'mmsegmentation'),
    ])
    def test_the_entry_names_what_is_installed(self, monkeypatch, distribution, entry):
        from mmengine.config import utils

        def is_installed(name: str) -> bool:
            return name == distribution

        monkeypatch.setitem(utils.MODULE2PACKAGE, 'mmseg', 'mmsegmentation')
        monkeypatch.setattr(compat, '_is_installed', is_installed)
        assert compat.find_onedl_segmentation() == (entry == 'mmseg')
        assert utils.MODULE2PACKAGE['mmseg'] == entry
        assert not compat.find_onedl_segmentation()


class TestReadableConfigs:

    CFG = dict(clip_grad=dict(norm_type=float('inf'), rest=[-float('inf'), (float('nan'), )]),
               lr=1e-3, path='C:\\new\n')

    def test_without_it_a_dumped_config_cannot_be_read(self, monkeypatch):
        monkeypatch.setattr(Config, 'pretty_text', HOST_TEXT)
        with pytest.raises(NameError, match="name 'inf' is not defined"):
            Config.fromstring(Config(self.CFG).pretty_text, '.py')

    def test_with_it_the_config_is_what_it_was(self, tmp_path):
        cfg = Config(self.CFG)
        cfg.dump(tmp_path / 'dumped.py')
        read = Config.fromfile(tmp_path / 'dumped.py')
        assert repr(read.to_dict()) == repr(cfg.to_dict())
        assert read.clip_grad.norm_type == float('inf')

    def test_keys_are_what_they_were(self):
        keys = {'.x"y': 3, '\\bnorm': 1, "it's": 2, 'new\nline': 3}
        cfg = Config(dict(custom_keys=keys))
        assert Config.fromstring(cfg.pretty_text, '.py').custom_keys == keys

    def test_any_other_text_is_that_of_the_host(self):
        cfg = Config.fromfile(ROOT / 'configs/deit/deit-small_diverse_8xb128_in1k.py')
        assert cfg.pretty_text == HOST_TEXT.fget(cfg)

    def test_a_property_of_someone_else_stays(self, monkeypatch):
        theirs = property(lambda cfg: '')
        monkeypatch.setattr(Config, 'pretty_text', theirs)
        assert not compat.write_readable_configs()
        assert Config.pretty_text is theirs


def fake(folder: Path, name: str, version: str, **modules: str) -> None:
    """A package, and the metadata by which MMPretrain decides whether it is installed."""
    package = folder / name
    package.mkdir(parents=True)
    (package / '__init__.py').write_text('')
    for module, source in modules.items():
        (package / f'{module}.py').write_text(source)
    info = folder / f'{name}-{version}.dist-info'
    info.mkdir()
    (info / 'METADATA').write_text(f'Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n')


class TestMultimodal:

    @pytest.fixture
    def clash(self, tmp_path: Path) -> Path:
        """A transformers that lost what MMPretrain imports, beside pycocotools."""
        fake(tmp_path, 'transformers', '5.0.0', modeling_utils='class PreTrainedModel: ...')
        fake(tmp_path, 'pycocotools', '2.0')
        return tmp_path

    def test_without_it_no_model_of_mmpretrain_can_be_imported(self, clash):
        ended = python('import mmpretrain.models', clash)
        assert ended.returncode == 1
        assert 'Error' in ended.stderr and 'transformers' in ended.stderr + 'NoneType'

    def test_with_it_the_vision_models_can(self, clash):
        ended = python('''
            import mmdiverse
            from mmpretrain.models import VisionTransformer
            from mmpretrain.registry import MODELS
            MODELS.build(dict(type='BlipCaption'))''', clash)
        assert 'requires extra multi-modal dependencies' in ended.stderr

    def test_not_applied_when_transformers_has_the_names(self, clash, monkeypatch):
        wanted = {name.rpartition('.') for name in lost(clash, monkeypatch)}
        for module, _, name in wanted:
            file = clash.joinpath(*module.split('.')).with_suffix('.py')
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open('a') as source:
                source.write(f'\n{name} = object')
        assert wanted and lost(clash, monkeypatch) == []

    def test_not_applied_without_pycocotools(self, clash, monkeypatch):
        (clash / 'pycocotools').rename(clash / 'something_else')
        monkeypatch.syspath_prepend(clash)
        assert not compat.disable_broken_multimodal()


def lost(clash: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    find = compat.find_spec
    with monkeypatch.context() as patch:
        from importlib.machinery import PathFinder
        patch.setattr(compat, 'find_spec', lambda name: PathFinder.find_spec(name, [str(clash)])
                      or find(name))
        return sorted(set(compat._lost_transformers_names()))


class TestProcessGroup:

    ENV = dict(RANK='0', LOCAL_RANK='0', WORLD_SIZE='1', MASTER_ADDR='127.0.0.1')
    WRAP = '''
        import os, socket, torch
        with socket.socket() as free:
            free.bind(('127.0.0.1', 0))
            os.environ['MASTER_PORT'] = str(free.getsockname()[1])
        import mmdiverse.compat as compat
        from mmengine.runner import Runner
        from mmengine.model import BaseModel
        class Model(BaseModel):
            def __init__(self):
                super().__init__()
                self.linear = torch.nn.Linear(1, 1)
            def forward(self):
                pass
        '''

    @pytest.mark.skipif(torch.cuda.is_available(), reason='needs a machine without a GPU')
    def test_without_it_the_runner_asks_for_a_gpu(self, tmp_path):
        ended = python(textwrap.dedent(self.WRAP) + 'Runner(Model(), "out", launcher="pytorch")',
                       cwd=tmp_path, **self.ENV)
        assert ended.returncode == 1
        assert 'in init_dist' in ended.stderr and 'set_device' in ended.stderr

    def test_without_the_options_the_wrapper_refuses_the_cpu(self, tmp_path):
        ended = python(textwrap.dedent(self.WRAP) + textwrap.dedent('''
            compat.init_process_group_without_gpu("pytorch")
            Runner(Model(), "out", launcher="pytorch")'''), cwd=tmp_path, **self.ENV)
        assert 'device_ids and output_device arguments only work' in ended.stderr

    def test_with_both_the_model_is_wrapped(self, tmp_path):
        ended = python(textwrap.dedent(self.WRAP) + textwrap.dedent('''
            from argparse import ArgumentParser
            from mmengine.config import Config, DictAction
            from mmengine.registry import MODELS
            assert compat.init_process_group_without_gpu("pytorch")
            assert not compat.init_process_group_without_gpu("pytorch")
            MODELS.register_module(module=Model)
            cfg = Config(dict(model=dict(type="Model"), work_dir="out", launcher="pytorch",
                              find_unused_parameters=True))
            parser = ArgumentParser()
            parser.add_argument("--cfg-options", nargs="+", action=DictAction)
            words = ["--cfg-options", *compat.cpu_wrapper_options(cfg)]
            cfg.merge_from_dict(parser.parse_args(words).cfg_options)
            model = Runner.from_cfg(cfg).model
            print(type(model).__name__, model.device_ids, model.broadcast_buffers,
                  model.find_unused_parameters)'''), cwd=tmp_path, **self.ENV)
        assert 'MMDistributedDataParallel None False True' in ended.stdout, ended.stderr[-2000:]

    def test_nothing_to_do_without_a_launcher(self):
        assert not compat.init_process_group_without_gpu('none')

    @pytest.mark.skipif(torch.cuda.is_available(), reason='needs a machine without a GPU')
    @pytest.mark.parametrize(('launcher', 'missing'), [
        ('pytorch', 'RANK'), ('slurm', 'SLURM_PROCID'), ('mpi', 'OMPI_COMM_WORLD_RANK')])
    def test_a_missing_variable_of_the_launcher_is_named(self, launcher, missing, monkeypatch):
        for name in ('RANK', 'SLURM_PROCID', 'OMPI_COMM_WORLD_RANK'):
            monkeypatch.delenv(name, raising=False)
        with pytest.raises(RuntimeError, match=f'--launcher {launcher} needs {missing}'):
            compat.init_process_group_without_gpu(launcher)

    def test_slurm_variables_are_translated(self, tmp_path):
        scontrol = tmp_path / 'scontrol'
        scontrol.write_text('#!/bin/sh\necho 127.0.0.1\necho other\n')
        scontrol.chmod(0o755)
        ended = python('''
            import os, socket
            with socket.socket() as free:
                free.bind(('127.0.0.1', 0))
                os.environ['MASTER_PORT'] = str(free.getsockname()[1])
            from mmdiverse import compat
            from torch import distributed
            print(compat.init_process_group_without_gpu('slurm'), distributed.get_backend(),
                  os.environ['MASTER_ADDR'])''',
                       SLURM_PROCID='0', SLURM_NTASKS='1', SLURM_LOCALID='0',
                       SLURM_NODELIST='n[1-2]', PATH=f'{tmp_path}{os.pathsep}{os.environ["PATH"]}')
        assert ended.stdout.split() == ['True', 'gloo', '127.0.0.1'], ended.stderr[-2000:]


class TestShardedRunsResume:
    ENV = dict(RANK='0', LOCAL_RANK='0', WORLD_SIZE='1', MASTER_ADDR='127.0.0.1', MASTER_PORT='0')
    LOAD = '''
        import torch
        from mmengine._strategy.fsdp import FSDPStrategy
        from mmengine.optim import OptimWrapper
        from torch.distributed.fsdp import FullyShardedDataParallel

        def load(kind):
            torch.distributed.init_process_group('gloo')
            strategy = kind.__new__(kind)
            strategy.model = FullyShardedDataParallel(
                torch.nn.Linear(1, 1), device_id='cpu', use_orig_params=True)
            optimizer = torch.optim.SGD(strategy.model.parameters(), lr=1., momentum=0.5)
            strategy.optim_wrapper = OptimWrapper(optimizer)
            strategy.model(torch.ones(1, 1)).sum().backward()
            optimizer.step()
            state = FullyShardedDataParallel.optim_state_dict(strategy.model, optimizer)
            optimizer.state.clear()
            strategy.load_optim_state_dict(state)
            print([float(kept['momentum_buffer'].sum()) for kept in optimizer.state.values()])
        '''

    def test_without_it_the_state_of_the_optimizer_cannot_be_loaded(self):
        ended = python(textwrap.dedent(self.LOAD) + 'load(FSDPStrategy)', **self.ENV)
        assert "TypeError: unhashable type: 'dict'" in ended.stderr

    def test_with_it_the_state_of_the_optimizer_is_loaded(self):
        ended = python(textwrap.dedent(self.LOAD) + textwrap.dedent('''
            import mmdiverse
            from mmengine.registry import STRATEGIES
            load(STRATEGIES.get('FSDPStrategy'))'''), **self.ENV)
        assert ended.stdout.strip() == '[1.0, 1.0]', ended.stderr[-2000:]

    def test_a_strategy_that_someone_else_registered_stays(self, monkeypatch):
        from mmengine.registry import STRATEGIES
        monkeypatch.setitem(STRATEGIES.module_dict, 'FSDPStrategy', object)
        assert not compat.let_sharded_runs_resume()
        assert STRATEGIES.get('FSDPStrategy') is object


class TestMissingPrefix:

    @pytest.mark.parametrize('registry', OWN, ids=lambda registry: registry.name)
    @pytest.mark.parametrize('of_root', [False, True], ids=['mmpretrain', 'root'])
    def test_every_type_of_mmdiverse_is_told_to_have_one(self, registry, of_root):
        registry.import_from_location()
        host = registry.counterpart.root if of_root else registry.counterpart
        assert registry.module_dict
        for name in registry.module_dict:
            with pytest.raises(KeyError, match=f"prefix: write type='mmdiverse.{name}'"):
                host.build(dict(type=name))

    def test_inside_of_another_type(self):
        from mmpretrain.registry import MODELS
        backbone = dict(type='VisionTransformer', arch='deit-t', img_size=16)
        with pytest.raises(KeyError, match="write type='mmdiverse.PatchMixingClsHead'"):
            MODELS.build(dict(type='ImageClassifier', backbone=backbone,
                              head=dict(type='PatchMixingClsHead')))

    def test_misspelt_without_it(self):
        from mmengine.registry import HOOKS
        with pytest.raises(KeyError, match="no hook 'DiversityHok'.*'mmdiverse.DiversityHook'"):
            HOOKS.build(dict(type='DiversityHok', terms=[]))

    @pytest.mark.parametrize('name', ['CheckpointHok', 'Nothing'])
    def test_other_errors_are_those_of_mmengine(self, name):
        from mmengine.registry import HOOKS
        with pytest.raises(KeyError, match=f'{name} is not in the mmengine::hook registry'):
            HOOKS.build(dict(type=name))

    def test_errors_of_what_is_built_come_through(self):
        from mmengine.registry import FUNCTIONS

        def broken():
            raise KeyError('DiversityHook is not in the dict')

        with pytest.raises(KeyError, match='DiversityHook is not in the dict'):
            FUNCTIONS.build(dict(type=broken))


def test_apply_names_what_it_did_and_a_second_call_finds_nothing(monkeypatch):
    from mmengine._strategy.fsdp import FSDPStrategy
    from mmengine.config import config
    from mmengine.config.utils import MODULE2PACKAGE
    from mmengine.registry import HOOKS, STRATEGIES, build_from_cfg
    from mmengine.runner import checkpoint
    from mmengine.utils import get_installed_path

    monkeypatch.delitem(MODULE2PACKAGE, 'mmdiverse')
    monkeypatch.setattr(config, 'get_installed_path', get_installed_path)
    monkeypatch.setitem(STRATEGIES.module_dict, 'FSDPStrategy', FSDPStrategy)
    torch.serialization.clear_safe_globals()
    monkeypatch.setattr(CheckpointLoader, '_schemes', {'': checkpoint.load_from_local})
    monkeypatch.setitem(backends, 'local', LocalBackend)
    monkeypatch.setattr(Config, 'pretty_text', HOST_TEXT)
    monkeypatch.setattr(HOOKS, 'build_func', build_from_cfg)
    assert compat.apply() == ['allow_checkpoint_globals', 'register_weights_schemes',
                              'guard_checkpoint_loaders', 'write_files_atomically',
                              'register_config_package', 'find_editable_configs',
                              'write_readable_configs', 'let_sharded_runs_resume',
                              'explain_missing_prefix']
    assert compat.apply() == []


def test_importing_the_package_imports_no_models():
    ended = python('''
        import mmdiverse, sys
        print([name for name in ('mmpretrain.models', 'transformers') if name in sys.modules])''')
    assert ended.stdout.strip() == '[]', ended.stderr
