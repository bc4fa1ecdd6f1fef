"""Writing checkpoints so that they survive, and loading them so that nothing in them is executed.

What :mod:`mmdiverse.compat` registers with MMEngine: storage backends that replace a file in one
step, and checkpoint loaders that load tensors and never code, with errors that say what to do.
"""
from __future__ import annotations

import errno
import os
import re
import secrets
import socket
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from urllib.parse import urlparse

import mmengine
import torch
from mmengine.fileio import HardDiskBackend, LocalBackend
from torch.serialization import add_safe_globals, get_safe_globals, get_unsafe_globals_in_checkpoint

FORCE = 'TORCH_FORCE_WEIGHTS_ONLY_LOAD'
FORBID = 'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD'

#: Globals that only an attack has use for; torch leaves out `builtins` in its messages.
ATTACK = re.compile(r'(os|posix|nt|sys|subprocess|shutil|runpy|importlib|socket)\..+|'
                    r'(builtins\.)?(eval|exec|compile|open|__import__|getattr|setattr)')

#: At most so many checkpoints are offered in place of one that cannot be read.
OFFERED = 5

_loading = threading.RLock()


class AtomicLocalBackend(LocalBackend):
    """MMEngine's local storage, whose files are there whole or not at all.

    ``put`` and ``put_text`` write to a hidden file beside the target, ``.NAME.HOST-PID-*.part``,
    flush it to the disk and give it the target's name in one step. A process that is killed, or a
    disk that is full, leaves the target as it was. Partial files of processes that are no more
    go when the next write of the same target succeeds.

    A new file has the permissions of any other (umask), a replaced one keeps its own. Behind a
    symbolic link, the file it points to is replaced. What is no regular file (a device, a pipe)
    is written in place.

    Raises:
        OSError: With the ``errno`` of the operating system, if the file cannot be written.
    """

    @property
    def name(self) -> str:
        """That of the backend whose place it takes: callers ask for storage by its name."""
        return LocalBackend.__name__

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write bytes.

        Args:
            obj (bytes): The content of the file.
            filepath (str or Path): Its path; missing folders are made.
        """
        if _irregular(filepath):
            super().put(obj, filepath)
        else:
            _replace(filepath, obj, 'xb')

    def put_text(self, obj: str, filepath: str | Path, encoding: str = 'utf-8') -> None:
        """Write text.

        Args:
            obj (str): The content of the file.
            filepath (str or Path): Its path; missing folders are made.
            encoding (str): Its encoding.
        """
        if _irregular(filepath):
            super().put_text(obj, filepath, encoding)
        else:
            _replace(filepath, obj, 'x', encoding)


class AtomicHardDiskBackend(AtomicLocalBackend, HardDiskBackend):
    """:class:`AtomicLocalBackend` for MMEngine's older ``FileClient``, which has its own alias."""

    @property
    def name(self) -> str:
        """That of the backend whose place it takes."""
        return HardDiskBackend.__name__


def _irregular(filepath: str | Path) -> bool:
    return os.path.exists(filepath) and not os.path.isfile(filepath)


def _replace(filepath: str | Path, content: bytes | str, mode: str,
             encoding: str | None = None) -> None:
    try:
        mmengine.mkdir_or_exist(os.path.dirname(filepath))
        target = Path(os.path.realpath(filepath))
        part = target.with_name(
            f'.{target.name}.{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}.part')
        try:
            with open(part, mode, encoding=encoding) as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            if target.exists():
                part.chmod(target.stat().st_mode & 0o7777)
            os.replace(part, target)
        except BaseException:  # also Ctrl-C: a partial file is of use to nobody
            part.unlink(missing_ok=True)
            raise
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        raise OSError(error.errno, (
            f'{filepath} could not be written: {error.strerror or error}. Files written before '
            f'are intact; {"free space there" if full else "mend that"}, or set another '
            f'`work_dir`')) from error
    _sync(target.parent)
    _remove_stale_parts(target)


def _sync(folder: Path) -> None:
    """Brings a new name to the disk, where the system can do that."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _remove_stale_parts(target: Path) -> None:
    """Removes what writers of ``target`` that are no more left behind."""
    prefix = f'.{target.name}.{socket.gethostname()}-'
    with suppress(OSError):  # the target is written; a leftover does no harm
        for path in target.parent.glob('.*.part'):
            pid = path.name.removeprefix(prefix).partition('-')[0]
            if path.name.startswith(prefix) and pid.isdigit() and not _alive(int(pid)):
                path.unlink(missing_ok=True)


def _alive(pid: int) -> bool:
    if os.name != 'posix':  # elsewhere signal 0 is a real one
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True


@contextmanager
def weights_only() -> Iterator[None]:
    """Every ``torch.load`` in this context loads tensors and allowed globals, and executes nothing.

    By ``TORCH_FORCE_WEIGHTS_ONLY_LOAD``, torch's own switch, which overrules an explicit
    ``weights_only=False``: torch.hub says so for files from the web, and OneDL's MMEngine when its
    first attempt fails. A ``TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD`` of the user's would make torch stop
    with ``Only one of ...``; it is put aside meanwhile, because with the mends of
    :mod:`mmdiverse.compat` no checkpoint of MMEngine needs it, and it would open every other file
    too. Who trusts a file allows what it names, by ``torch.serialization.add_safe_globals``.

    Environment and allowed globals belong to the process, so one thread at a time is in this
    context. Both are afterwards what they were; OneDL's MMEngine removes globals when it is done,
    and so does timm. What mmdiverse allows is therefore allowed again first.
    """
    from .compat import allow_checkpoint_globals  # late: it imports this module

    with _loading:
        allow_checkpoint_globals()
        allowed = get_safe_globals()
        environment = {name: os.environ.pop(name, None) for name in (FORCE, FORBID)}
        os.environ[FORCE] = '1'
        try:
            yield
        finally:
            for name, value in environment.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value
            add_safe_globals(allowed)


def guarded(loader: Callable[..., Any]) -> Callable[..., Any]:
    """A checkpoint loader that executes nothing and whose errors say what to do.

    Args:
        loader (Callable): What is registered with MMEngine's ``CheckpointLoader``.

    Returns:
        Callable: The same, in the context :func:`weights_only`; under the same name, which MMEngine
        logs. Of ``meta['config']``, which ``Runner.resume`` would run as Python, the text is moved
        to ``meta['config_text']``.

    Raises:
        UnpicklingError: If the file asks for a global that is not allowed.
        RuntimeError: If the file is empty, truncated or otherwise unreadable.
    """

    @wraps(loader)
    def load(filename: str, *args: Any, **kwargs: Any) -> Any:
        try:
            with weights_only():
                checkpoint = loader(filename, *args, **kwargs)
        except (OSError, ImportError, MemoryError, torch.OutOfMemoryError):
            raise  # not about the content of the file
        except UnpicklingError as error:
            if (refusal := _refusal(filename, error)) is not None:
                raise UnpicklingError(refusal) from None  # torch's own advises weights_only=False
            raise RuntimeError(_unreadable(filename, error)) from error
        except Exception as error:
            if _is_about_content(filename, error):
                raise RuntimeError(_unreadable(filename, error)) from error
            raise
        meta = checkpoint.get('meta') if isinstance(checkpoint, dict) else None
        if isinstance(meta, dict) and 'config' in meta:
            meta['config_text'] = meta.pop('config')
        return checkpoint

    load.is_guarded = True
    return load


@guarded
def load_from_local(filename: str, map_location: Any = None) -> Any:
    """Loads a local checkpoint, in place of MMEngine's loader of that name.

    OneDL's tries again without the safeguard, and says so in the log even where that is forbidden.

    Args:
        filename (str): Its path.
        map_location (str or Callable, optional): As for ``torch.load``.

    Returns:
        dict: The checkpoint.

    Raises:
        FileNotFoundError: If there is no such file.
    """
    if not filename:
        # What MMEngine's find_latest_checkpoint makes of an empty `last_checkpoint`.
        raise FileNotFoundError(
            'the name of the checkpoint is empty. Where a run is to resume, the file '
            '`last_checkpoint` in its `work_dir` is empty: the process was killed, or the disk '
            'full, while it was written. ' + HOW_TO_CONTINUE)
    path = Path(filename).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f'there is no checkpoint {path}. {offer(path)}')
    return torch.load(path, map_location=map_location, weights_only=True)


HOW_TO_CONTINUE = ('To continue from a checkpoint, name it: `--resume PATH`, or `resume=True` and '
                   '`load_from=PATH` in the config')


def readable_checkpoints(folder: Path, pattern: str = '*.pth') -> list[Path]:
    """Checkpoints that look whole, judged by the last bytes of each file.

    Args:
        folder (Path): Where to look.
        pattern (str): What their names match.

    Returns:
        list[Path]: The newest first.
    """
    try:
        found = [(path.stat().st_mtime, path) for path in folder.glob(pattern)
                 if path.is_file() and zipfile.is_zipfile(path)]
    except OSError:
        return []
    return [path for _, path in sorted(found, reverse=True)]


def offer(path: Path) -> str:
    """What to continue from where a checkpoint cannot be loaded.

    Args:
        path (Path): The checkpoint.

    Returns:
        str: The readable ones in the same folder, and how to name one.
    """
    others = [other for other in readable_checkpoints(path.parent) if other.name != path.name]
    if not others:
        return f'There is no other readable checkpoint in {path.parent}'
    more = f' and {len(others) - OFFERED} more' if len(others) > OFFERED else ''
    return (f'Readable checkpoints in {path.parent}, newest first: '
            f'{", ".join(other.name for other in others[:OFFERED])}{more}'
            f'{" (those named best_ are without optimizer)" * _any_best(others)}. '
            f'{HOW_TO_CONTINUE}')


def _any_best(paths: list[Path]) -> bool:
    return any(path.name.startswith('best_') for path in paths[:OFFERED])


def restore_last_checkpoint(work_dir: str | Path, folder: str | Path, pattern: str) -> str | None:
    """Makes the file ``last_checkpoint`` name the latest checkpoint, where a kill prevented that.

    A process may end between a checkpoint and this file. MMEngine would then start from scratch and
    overwrite the checkpoints, or look for one without a name.

    Args:
        work_dir (str or Path): Where MMEngine looks for the file ``last_checkpoint``.
        folder (str or Path): Where the run's checkpoints are.
        pattern (str): What their names match.

    Returns:
        str: The newest readable checkpoint, if the file was missing or empty and there is one.

    Raises:
        FileNotFoundError: If the file names a checkpoint that is not there, or is empty and there
            is none.
    """
    note = Path(work_dir, 'last_checkpoint')
    # In the encoding of the locale, as MMEngine reads it.
    name = note.read_text().strip() if note.exists() else ''
    if name:
        if '://' not in name and not Path(name).exists():
            raise FileNotFoundError(f'the run is to resume, but {note} names {name}, which does '
                                    f'not exist. {offer(Path(folder, "?"))}')
        return None
    newest = next(iter(readable_checkpoints(Path(folder), pattern)), None)
    if newest is not None:
        AtomicLocalBackend().put_text(str(newest), note)
        return str(newest)
    if note.exists():
        raise FileNotFoundError(f'the run is to resume, but {note} is empty, and there is no '
                                f'readable checkpoint in {folder}; remove it to start anew')
    return None


def _refusal(filename: str, error: UnpicklingError) -> str | None:
    """What to say where the file asks for something that is not allowed; None if it does not."""
    path, message = _local(filename), str(error)
    reason = message.split('WeightsUnpickler error: ')[-1].split('\n\nCheck the doc')[0].strip()
    named = re.search(r'GLOBAL (\S+) was not an allowed global|GLOBAL (\S+) whose module', message)
    intact = path is not None and zipfile.is_zipfile(path)
    if named is None and not intact and not re.search(
            r'asks for getattr|Trying to call reduce|Can only|Only persistent_load', message):
        return None
    names = {next(name for name in named.groups() if name)} if named else set()
    if names and path is not None and not intact and _ends_within(path, *names):
        return None
    with suppress(Exception):  # of files in the older format, torch cannot tell
        names = set(get_unsafe_globals_in_checkpoint(path)) or names
    start = f'{filename} was not loaded, and nothing in it was executed: '
    if not names:
        last = reason.splitlines()[-1]
        return f'{start}{last}. No checkpoint that MMEngine writes does that'
    names = sorted(names)
    if attacks := [name for name in names if ATTACK.fullmatch(name)]:
        return (f'{start}it asks for {", ".join(names)}. No checkpoint needs '
                f'{", ".join(attacks)}: the file is most likely hostile')
    return (f'{start}it asks for {", ".join(names)}, which mmdiverse does not allow, because a '
            f'hostile file could run any code through what it names. If you trust the file, '
            f'import what it names in a module of your own (`custom_imports` in the config) and '
            f'call torch.serialization.add_safe_globals([{", ".join(names)}]) there')


def _ends_within(path: Path, name: str) -> bool:
    """Whether a file ends in the middle of a global's name, of which torch drops the last byte."""
    with open(path, 'rb') as file:
        file.seek(max(0, path.stat().st_size - 500))
        tail = file.read()
    return not tail.endswith(b'\n') and tail[:-1].endswith(name.rpartition('.')[2].encode())


def _is_about_content(filename: str, error: Exception) -> bool:
    """Whether an error while loading means that the file is damaged."""
    if 'PytorchStreamReader' in str(error):
        return True
    path = _local(filename)
    if path is None or zipfile.is_zipfile(path):
        return isinstance(error, EOFError)
    return 'Attempting to deserialize' not in str(error)  # torch: onto a device that is not there


def _unreadable(filename: str, error: Exception) -> str:
    path = _local(filename)
    reason = f'{type(error).__name__}: {str(error).strip() or "end of file"}'.splitlines()[0]
    if path is None:
        return f'{filename} cannot be read as a checkpoint ({reason})'
    size = path.stat().st_size
    with open(path, 'rb') as file:
        is_zip = file.read(4) == b'PK\x03\x04'
    if not size:
        trouble = 'the file is empty'
    elif is_zip and not zipfile.is_zipfile(path):
        trouble = f'its end is missing, it has {size:,} bytes'
    else:
        trouble = f'the file is damaged or something else, it has {size:,} bytes ({reason})'
    if '://' in filename:
        return (f'{filename} cannot be read as a checkpoint: {trouble}. Remove the download {path} '
                f'and try again')
    return (f'{filename} cannot be read as a checkpoint: {trouble}. The process was killed, or the '
            f'disk full, while it was written or copied. {offer(path)}')


def _local(filename: str) -> Path | None:
    """The file that was read, or None where it cannot be known."""
    if '://' not in filename:
        path = Path(filename).expanduser()
    elif filename.startswith(('http://', 'https://')):  # torch.hub's copy
        path = Path(torch.hub.get_dir(), 'checkpoints', os.path.basename(urlparse(filename).path))
    else:
        return None
    return path if path.is_file() else None
