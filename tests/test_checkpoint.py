"""Files that survive kills and full disks, and loads that execute nothing."""
from __future__ import annotations

import errno
import functools
import os
import signal
import socket
import stat
import subprocess
import sys
import textwrap
import threading
import time
from argparse import Namespace
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import mmengine.runner
import numpy as np
import pytest
import torch
from mmengine.fileio import FileClient, get_file_backend
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader, save_checkpoint
from torch._tensor import _rebuild_from_type_v2

from mmdiverse import checkpoint
from mmdiverse.checkpoint import FORBID, FORCE, guarded, load_from_local

from .test_compat import ROOT, RUN

posix_only = pytest.mark.skipif(os.name != 'posix', reason='needs signals and limits of POSIX')
DEAD = 2 ** 22 + 1  # above the largest process id of Linux


def put(content: bytes, path: Path) -> None:
    get_file_backend(path).put(content, path)


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


class TestAtomicWrites:

    def test_the_file_has_the_content(self, tmp_path):
        put(b'content', tmp_path / 'a.pth')
        assert (tmp_path / 'a.pth').read_bytes() == b'content'

    def test_text_too(self, tmp_path):
        path = tmp_path / 'a.txt'
        get_file_backend(path).put_text('Größe', path, encoding='latin-1')
        assert path.read_bytes() == 'Größe'.encode('latin-1')

    def test_missing_folders_are_made(self, tmp_path):
        put(b'content', tmp_path / 'new' / 'folder' / 'a.pth')
        assert names(tmp_path / 'new' / 'folder') == ['a.pth']

    def test_a_bare_name_is_written_to_the_current_folder(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        get_file_backend('a.pth').put(b'content', 'a.pth')
        assert names(tmp_path) == ['a.pth']

    def test_until_it_is_whole_the_file_has_another_name(self, tmp_path, monkeypatch):
        seen = []
        monkeypatch.setattr(os, 'fsync', lambda fd: seen.append(names(tmp_path)))
        put(b'content', tmp_path / 'a.pth')
        assert [name[:7] + name[-5:] for name in seen[0]] == ['.a.pth..part']
        assert names(tmp_path) == ['a.pth']

    @pytest.mark.parametrize('mask', [0o022, 0o077])
    def test_a_new_file_has_ordinary_permissions(self, tmp_path, mask):
        before = os.umask(mask)
        try:
            put(b'content', tmp_path / 'a.pth')
        finally:
            os.umask(before)
        assert stat.S_IMODE((tmp_path / 'a.pth').stat().st_mode) == 0o666 & ~mask

    def test_a_replaced_file_keeps_its_own(self, tmp_path):
        path = tmp_path / 'a.pth'
        path.touch()
        path.chmod(0o640)
        put(b'content', path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o640

    def test_behind_a_link_the_file_is_replaced(self, tmp_path):
        (tmp_path / 'disk').mkdir()
        (tmp_path / 'link.pth').symlink_to(tmp_path / 'disk' / 'a.pth')
        put(b'content', tmp_path / 'link.pth')
        assert (tmp_path / 'link.pth').is_symlink()
        assert (tmp_path / 'disk' / 'a.pth').read_bytes() == b'content'
        assert names(tmp_path / 'disk') == ['a.pth']

    @posix_only
    def test_the_host_calls_it_by_the_name_of_its_own(self):
        assert get_file_backend('a.pth').name == 'LocalBackend'
        assert FileClient('disk').name == FileClient.infer_client(uri='a.pth').name == \
            'HardDiskBackend'

    def test_a_device_is_written_in_place(self):
        put(b'content', Path(os.devnull))
        assert not Path(os.devnull).is_file()

    @pytest.mark.parametrize('where', ['fsync', 'replace'])
    def test_a_full_disk_leaves_the_file_as_it_was(self, tmp_path, monkeypatch, where):
        put(b'old', tmp_path / 'a.pth')
        monkeypatch.setattr(os, where, full)
        with pytest.raises(OSError):
            put(b'new', tmp_path / 'a.pth')
        assert (tmp_path / 'a.pth').read_bytes() == b'old'
        assert names(tmp_path) == ['a.pth']

    def test_a_full_disk_is_named(self, tmp_path, monkeypatch):
        monkeypatch.setattr(os, 'fsync', full)
        with pytest.raises(OSError) as caught:
            put(b'new', tmp_path / 'a.pth')
        assert caught.value.errno == errno.ENOSPC
        assert str(caught.value) == (
            f'[Errno 28] {tmp_path}/a.pth could not be written: No space left on device. Files '
            f'written before are intact; free space there, or set another `work_dir`')

    def test_a_folder_that_cannot_be_made_is_named(self, tmp_path):
        (tmp_path / 'file').touch()
        with pytest.raises(OSError, match='file/folder/a.pth could not be written: Not a dir'):
            put(b'new', tmp_path / 'file' / 'folder' / 'a.pth')

    def test_an_interrupt_leaves_nothing_behind(self, tmp_path, monkeypatch):
        def interrupt(*_: Any) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(os, 'fsync', interrupt)
        with pytest.raises(KeyboardInterrupt):
            put(b'new', tmp_path / 'a.pth')
        assert names(tmp_path) == []

    @posix_only
    def test_a_write_that_the_system_cuts_off_leaves_the_file_as_it_was(self, tmp_path):
        """A limit on file sizes: half of the new content is written, then the system refuses."""
        put(b'old', tmp_path / 'a.pth')
        ended = python('''
            import resource, signal, sys
            from mmdiverse.checkpoint import AtomicLocalBackend
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (2 ** 16, 2 ** 16))
            AtomicLocalBackend().put(bytes(2 ** 20), 'a.pth')''', tmp_path)
        assert ended.stderr.splitlines()[-1].startswith(
            'OSError: [Errno 27] a.pth could not be written: File too large. Files written before')
        assert (tmp_path / 'a.pth').read_bytes() == b'old'
        assert names(tmp_path) == ['a.pth']

    @posix_only
    def test_kill_9_leaves_one_version_or_the_other(self, tmp_path):
        path = tmp_path / 'a.pth'
        # Forked writers share the parent's imports, so that most of the time is spent writing.
        ended = python('''
            import io, os, random, signal, time, torch
            from mmengine.fileio import get_file_backend
            import mmdiverse
            versions = []
            for version in range(2):
                with io.BytesIO() as file:
                    torch.save(dict(version=version, weights=torch.full((2 ** 19,), version)), file)
                    versions.append(file.getvalue())
            backend, cut = get_file_backend('a.pth'), 0
            backend.put(versions[0], 'a.pth')
            for _ in range(20):
                child = os.fork()
                if not child:
                    while True:
                        for version in versions:
                            backend.put(version, 'a.pth')
                time.sleep(random.uniform(0.005, 0.05))
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                found = torch.load('a.pth', weights_only=True)
                assert (found['weights'] == found['version']).all()
                cut += len(os.listdir()) > 1
            backend.put(versions[0], 'a.pth')
            print(os.listdir(), cut)''', tmp_path)
        listed, _, cut = ended.stdout.rpartition(' ')
        assert listed == "['a.pth']", ended.stderr[-2000:]
        assert int(cut) > 0  # some writes were indeed cut off
        assert path.is_file()


class TestStaleParts:

    def part(self, folder: Path, host: str, pid: int, name: str = 'a.pth') -> Path:
        path = folder / f'.{name}.{host}-{pid}-0123abcd.part'
        path.touch()
        return path

    def test_of_a_dead_process_they_go(self, tmp_path):
        part = self.part(tmp_path, socket.gethostname(), DEAD)
        put(b'content', tmp_path / 'a.pth')
        assert not part.exists()

    def test_of_a_living_process_they_stay(self, tmp_path):
        part = self.part(tmp_path, socket.gethostname(), os.getppid())
        put(b'content', tmp_path / 'a.pth')
        assert part.exists()

    def test_of_another_machine_they_stay(self, tmp_path):
        part = self.part(tmp_path, 'elsewhere', DEAD)
        put(b'content', tmp_path / 'a.pth')
        assert part.exists()

    def test_of_another_file_they_stay(self, tmp_path):
        part = self.part(tmp_path, socket.gethostname(), DEAD, 'b.pth')
        put(b'content', tmp_path / 'a.pth')
        assert part.exists()

    def test_nobody_takes_them_for_checkpoints(self, tmp_path):
        self.part(tmp_path, socket.gethostname(), os.getpid())
        assert list(tmp_path.glob('*.pth')) == []
        assert list(get_file_backend(tmp_path).list_dir_or_file(tmp_path)) == []


def full(*_: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def python(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, '-c', textwrap.dedent(code)], cwd=folder, capture_output=True, text=True,
        env={**os.environ, 'PYTHONPATH': str(ROOT), 'CUDA_VISIBLE_DEVICES': ''}, timeout=120)


class Call:
    """Pickled, the call of a function; a part of the arguments may be such a call too."""

    def __init__(self, function: Callable | Call, *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> tuple:
        return self.call

    def __call__(self) -> None:
        """What is called must look callable when it is pickled."""


def poisoned_history(marker: Path) -> HistoryBuffer:
    history = HistoryBuffer([1.], [1])
    history._log_history = Call(os.system, f'touch {marker}')
    return history


def object_array(marker: Path) -> np.ndarray:
    array = np.empty(1, dtype=object)
    array[0] = Call(os.system, f'touch {marker}')
    return array


# Each runs in a plain `pickle.load`.
HOSTILE: dict[str, Callable[[Path], Any]] = {
    'os.system': lambda marker: Call(os.system, f'touch {marker}'),
    'builtins.eval': lambda marker: Call(eval, f"open({str(marker)!r}, 'w').close()"),
    'builtins.exec': lambda marker: Call(exec, f"open({str(marker)!r}, 'w').close()"),
    'subprocess.Popen': lambda marker: Call(subprocess.Popen, ['touch', str(marker)]),
    'getattr chain': lambda marker: Call(
        Call(getattr, Call(__import__, 'os'), 'system'), f'touch {marker}'),
    # What needs no global but getattr beside torch's own, and is why that must not be allowed.
    'getattr and torch': lambda marker: Call(
        _rebuild_from_type_v2, Call(getattr, Call(getattr, getattr, '__self__'), 'exec'),
        torch.Tensor, (f"open({str(marker)!r}, 'w').close()",), {}),
    'object array': object_array,
    'history buffer': poisoned_history,
    'functools.partial': lambda marker: Call(
        Call(functools.partial, os.system), f'touch {marker}'),
}
each_attack = pytest.mark.parametrize('attack', HOSTILE)


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / 'executed'


@pytest.fixture
def hostile(tmp_path: Path, marker: Path) -> Callable[..., Path]:
    """Writes a hostile checkpoint that is complete but for one entry."""
    def write(attack: str, name: str = 'hostile.pth', **kwargs: bool) -> Path:
        content = dict(meta=dict(epoch=1, iter=2), state_dict={'weight': torch.ones(1)},
                       message_hub=HOSTILE[attack](marker))
        torch.save(content, tmp_path / name, **kwargs)
        return tmp_path / name
    return write


class TestHostileFiles:

    @each_attack
    def test_these_are_attacks_indeed(self, attack, hostile, marker):
        with suppress(Exception):
            torch.load(hostile(attack), weights_only=False)
        wait_for(marker)
        assert marker.exists()

    @pytest.mark.parametrize('zipped', [True, False], ids=['zip', 'legacy'])
    @each_attack
    def test_a_loader_refuses_them(self, attack, zipped, hostile, marker):
        path = hostile(attack, _use_new_zipfile_serialization=zipped)
        with pytest.raises(UnpicklingError, match='hostile.pth was not loaded, and nothing in it'):
            CheckpointLoader.load_checkpoint(str(path))
        assert not marker.exists()

    @each_attack
    def test_they_are_refused_where_the_host_allows_getattr(self, attack, hostile, marker):
        """As OneDL's MMEngine does, and then loads without safeguard what still was refused."""
        def load_from_elsewhere(filename: str, map_location: Any = None) -> Any:
            try:
                with torch.serialization.safe_globals([slice, getattr, HistoryBuffer]):
                    return torch.load(filename, map_location, weights_only=True)
            except UnpicklingError:
                return torch.load(filename, map_location, weights_only=False)

        allowed = set(torch.serialization.get_safe_globals())
        with pytest.raises(UnpicklingError, match='nothing in it was executed'):
            guarded(load_from_elsewhere)(str(hostile(attack)))
        assert not marker.exists()
        assert set(torch.serialization.get_safe_globals()) == allowed

    def test_what_another_library_took_off_the_list_is_allowed_again(self, tmp_path):
        torch.save(dict(args=Namespace(model='deit'), state_dict={}), tmp_path / 'options.pth')
        with torch.serialization.safe_globals([Namespace]):
            pass  # as timm does, which takes off what was there before as well
        assert Namespace not in torch.serialization.get_safe_globals()
        content = CheckpointLoader.load_checkpoint(str(tmp_path / 'options.pth'))
        assert content['args'] == Namespace(model='deit')

    @pytest.mark.parametrize('attack', ['os.system', 'getattr and torch'])
    def test_loading_into_a_model_refuses_them(self, attack, hostile, marker):
        with pytest.raises(UnpicklingError, match='nothing in it was executed'):
            mmengine.runner.load_checkpoint(torch.nn.Linear(1, 1), str(hostile(attack)))
        assert not marker.exists()

    @pytest.mark.parametrize('attack', ['os.system', 'getattr and torch'])
    def test_a_pretrained_model_refuses_them(self, attack, hostile, marker):
        from mmpretrain import get_model
        with pytest.raises(UnpicklingError, match='nothing in it was executed'):
            get_model('deit-tiny_4xb256_in1k', pretrained=str(hostile(attack)))
        assert not marker.exists()

    def test_a_file_from_the_web_is_refused(self, hostile, marker, tmp_path, monkeypatch):
        monkeypatch.setattr(torch.hub, '_hub_dir', str(tmp_path))
        (tmp_path / 'checkpoints').mkdir()
        hostile('os.system', 'checkpoints/hostile.pth')  # as if downloaded before
        with pytest.raises(UnpicklingError, match='https://example.org/hostile.pth was not loaded'):
            CheckpointLoader.load_checkpoint('https://example.org/hostile.pth')
        assert not marker.exists()

    def test_a_run_refuses_them(self, hostile, marker, tmp_path):
        """To resume from and to load, in one process, each with every attack."""
        paths = [str(hostile(attack, f'hostile_{number}.pth', _use_new_zipfile_serialization=bool(
            number % 2))) for number, attack in enumerate(HOSTILE)]
        ended = python('import mmdiverse\n' + RUN + textwrap.dedent(f'''
            for path in {paths}:
                for resume in (True, False):
                    runner = build('out', epochs=2, resume=resume, load_from=path,
                                   experiment_name=path.replace('/', '_') + str(resume))
                    try:
                        runner.train()
                    except Exception as error:
                        print('REFUSED', 'nothing in it was executed' in str(error))'''), tmp_path)
        said = [line for line in ended.stdout.splitlines() if line.startswith('REFUSED')]
        assert said == ['REFUSED True'] * 2 * len(HOSTILE), ended.stderr[-2000:]
        assert not marker.exists()

    @pytest.mark.parametrize('zipped', [True, False], ids=['zip', 'legacy'])
    def test_the_message_names_file_and_global(self, zipped, hostile):
        path = hostile('os.system', _use_new_zipfile_serialization=zipped)
        with pytest.raises(UnpicklingError) as caught:
            CheckpointLoader.load_checkpoint(str(path))
        module = os.system.__module__
        assert str(caught.value) == (
            f'{path} was not loaded, and nothing in it was executed: it asks for {module}.system. '
            f'No checkpoint needs {module}.system: the file is most likely hostile')

    @pytest.mark.parametrize('zipped', [True, False], ids=['zip', 'legacy'])
    def test_for_another_global_it_says_how_to_allow_it(self, zipped, tmp_path):
        path = tmp_path / 'unknown.pth'
        torch.save({'path': signal.Signals(9)}, path, _use_new_zipfile_serialization=zipped)
        with pytest.raises(UnpicklingError) as caught:
            CheckpointLoader.load_checkpoint(str(path))
        assert str(caught.value) == (
            f'{path} was not loaded, and nothing in it was executed: it asks for signal.Signals, '
            f'which mmdiverse does not allow, because a hostile file could run any code through '
            f'what it names. If you trust the file, import what it names in a module of your own '
            f'(`custom_imports` in the config) and call '
            f'torch.serialization.add_safe_globals([signal.Signals]) there')
        with torch.serialization.safe_globals([signal.Signals]):
            assert CheckpointLoader.load_checkpoint(str(path)) == {'path': 9}

    def test_torch_does_not_advise_to_load_it_unsafely(self, hostile):
        with pytest.raises(UnpicklingError) as caught:
            CheckpointLoader.load_checkpoint(str(hostile('os.system')))
        assert 'weights_only' not in str(caught.value) and caught.value.__suppress_context__

    def test_the_config_in_an_old_checkpoint_is_no_longer_run_but_kept(self, tmp_path):
        torch.save({'meta': {'config': 'a = 1'}}, tmp_path / 'old.pth')
        meta = CheckpointLoader.load_checkpoint(str(tmp_path / 'old.pth'))['meta']
        assert meta == {'config_text': 'a = 1'}


def wait_for(path: Path) -> None:
    """For what a process of its own makes."""
    for _ in range(100):
        if not path.exists():
            time.sleep(0.05)


class TestEnvironment:

    @pytest.mark.parametrize('user', [{}, {FORCE: '0'}, {FORCE: '1'}, {FORBID: '1'}],
                             ids=['none', 'force 0', 'force 1', 'forbid'])
    @pytest.mark.parametrize('fails', [False, True])
    def test_it_is_what_it_was_afterwards(self, user, fails, monkeypatch):
        for name in (FORCE, FORBID):
            monkeypatch.delenv(name, raising=False)
        for name, value in user.items():
            monkeypatch.setenv(name, value)
        inside = []

        def load(filename: str) -> None:
            inside.append({name: os.environ.get(name) for name in (FORCE, FORBID)})
            if fails:
                raise OSError

        before = dict(os.environ)
        try:
            guarded(load)('a.pth')
        except OSError:
            pass
        assert inside == [{FORCE: '1', FORBID: None}]
        assert dict(os.environ) == before

    def test_forbidding_the_safeguard_does_not_open_hostile_files(self, hostile, marker,
                                                                   monkeypatch):
        monkeypatch.setenv(FORBID, '1')
        with pytest.raises(UnpicklingError, match='nothing in it was executed'):
            CheckpointLoader.load_checkpoint(str(hostile('os.system')))
        assert not marker.exists()

    def test_threads_take_turns(self):
        loading, together = [], []

        def load(filename: str) -> None:
            loading.append(filename)
            time.sleep(0.01)
            together.append(len(loading))
            loading.remove(filename)

        threads = [threading.Thread(target=guarded(load), args=(str(i),)) for i in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert together == [1] * 5 and FORCE not in os.environ

    def test_a_loader_may_use_another(self, tmp_path):
        torch.save({'a': 1}, tmp_path / 'a.pth')
        outer = guarded(lambda filename: load_from_local(filename))
        assert outer(str(tmp_path / 'a.pth')) == {'a': 1}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a run with three checkpoints; the clock gives each another age."""
    for number, name in enumerate(('epoch_1', 'best_score_epoch_2', 'epoch_3')):
        path = tmp_path / f'{name}.pth'
        save_checkpoint(dict(weights=torch.zeros(1000)), str(path))
        os.utime(path, (number,) * 2)
    return tmp_path


def message(path: Path | str) -> str:
    with pytest.raises(RuntimeError) as caught:
        CheckpointLoader.load_checkpoint(str(path))
    return str(caught.value)


class TestDamagedFiles:

    CAUSE = 'The process was killed, or the disk full, while it was written or copied. '

    def others(self, folder: Path) -> str:
        return (f'Readable checkpoints in {folder}, newest first: best_score_epoch_2.pth, '
                f'epoch_1.pth (those named best_ are without optimizer). To continue from a '
                f'checkpoint, name it: `--resume PATH`, or `resume=True` and `load_from=PATH` in '
                f'the config')

    def test_a_truncated_file_is_named_with_the_others(self, run):
        path = run / 'epoch_3.pth'
        os.truncate(path, 1500)
        assert message(path) == (f'{path} cannot be read as a checkpoint: its end is missing, it '
                                 f'has 1,500 bytes. {self.CAUSE}{self.others(run)}')

    def test_an_empty_file_is_named_with_the_others(self, run):
        path = run / 'epoch_3.pth'
        os.truncate(path, 0)
        assert message(path) == (f'{path} cannot be read as a checkpoint: the file is empty. '
                                 f'{self.CAUSE}{self.others(run)}')

    @pytest.mark.parametrize('content', [b'\0' * 100, b'<html>Not found</html>', b'\x80\x02'])
    def test_something_else_is_named(self, run, content):
        (run / 'epoch_3.pth').write_bytes(content)
        assert ('the file is damaged or something else, it has '
                f'{len(content)} bytes (') in message(run / 'epoch_3.pth')

    @pytest.mark.parametrize('cut', [10, *range(60, 320, 13), 3000])
    def test_a_truncated_file_of_the_older_format_is_named(self, run, cut):
        path = run / 'epoch_3.pth'
        torch.save(dict(weights=torch.zeros(1000)), path, _use_new_zipfile_serialization=False)
        os.truncate(path, cut)
        assert f'damaged or something else, it has {cut:,} bytes' in message(path)

    def test_damaged_files_are_not_offered(self, run):
        os.truncate(run / 'epoch_1.pth', 1500)
        os.truncate(run / 'epoch_3.pth', 1500)
        assert 'newest first: best_score_epoch_2.pth (' in message(run / 'epoch_3.pth')

    def test_where_there_is_none_it_says_so(self, tmp_path):
        (tmp_path / 'a.pth').touch()
        assert message(tmp_path / 'a.pth').endswith(
            f'There is no other readable checkpoint in {tmp_path}')

    def test_of_many_the_newest_five_are_offered(self, tmp_path):
        for number in range(8):
            save_checkpoint({}, str(tmp_path / f'epoch_{number}.pth'))
            os.utime(tmp_path / f'epoch_{number}.pth', (number,) * 2)
        (tmp_path / 'epoch_8.pth').touch()
        assert ('epoch_7.pth, epoch_6.pth, epoch_5.pth, epoch_4.pth, epoch_3.pth and 3 more. '
                ) in message(tmp_path / 'epoch_8.pth')

    def test_a_damaged_download_is_to_be_removed(self, tmp_path, monkeypatch):
        monkeypatch.setattr(torch.hub, '_hub_dir', str(tmp_path))
        (tmp_path / 'checkpoints').mkdir()
        (tmp_path / 'checkpoints' / 'a.pth').touch()
        assert message('https://example.org/a.pth') == (
            'https://example.org/a.pth cannot be read as a checkpoint: the file is empty. Remove '
            f'the download {tmp_path}/checkpoints/a.pth and try again')

    def test_a_missing_file_is_named_with_the_others(self, run):
        with pytest.raises(FileNotFoundError) as caught:
            CheckpointLoader.load_checkpoint(str(run / 'epoch_4.pth'))
        assert str(caught.value).startswith(
            f'there is no checkpoint {run}/epoch_4.pth. Readable checkpoints in {run}, newest '
            f'first: epoch_3.pth, ')

    def test_an_empty_name_is_explained(self):
        with pytest.raises(FileNotFoundError, match='`last_checkpoint` in its `work_dir` is empty'):
            CheckpointLoader.load_checkpoint('')

    @pytest.mark.skipif(torch.cuda.is_available(), reason='needs a machine without a GPU')
    def test_a_missing_device_is_no_damage(self, run):
        with pytest.raises(RuntimeError, match='Found no NVIDIA driver|CUDA'):
            CheckpointLoader.load_checkpoint(str(run / 'epoch_3.pth'), map_location='cuda')

    def test_an_error_of_the_system_passes(self):
        with pytest.raises(OSError, match='No space left'):
            guarded(full)('epoch_3.pth')

    def test_an_intact_file_loads(self, run):
        loaded = CheckpointLoader.load_checkpoint(str(run / 'epoch_3.pth'), map_location='cpu')
        assert torch.equal(loaded['weights'], torch.zeros(1000))


class TestLastCheckpoint:

    def restore(self, folder: Path) -> str | None:
        return checkpoint.restore_last_checkpoint(folder, folder, 'epoch_*.pth')

    def test_a_new_run_starts(self, tmp_path):
        assert self.restore(tmp_path) is None

    def test_checkpoints_of_others_do_not_keep_it_from_that(self, tmp_path):
        save_checkpoint({}, str(tmp_path / 'pretrained.pth'))
        assert self.restore(tmp_path) is None

    def test_what_it_names_is_left(self, run):
        (run / 'last_checkpoint').write_text(f'{run}/epoch_1.pth')
        assert self.restore(run) is None
        assert (run / 'last_checkpoint').read_text() == f'{run}/epoch_1.pth'
