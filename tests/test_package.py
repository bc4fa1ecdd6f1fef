"""What a user meets before anything runs: import errors, config names, the contents of a wheel."""
from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import mmdiverse

ROOT = Path(__file__).resolve().parent.parent
GOOD = {'mmengine': '0.10.7', 'mmcv': '2.1.0', 'mmpretrain': '1.2.0'}


def import_error(folder: Path, hosts: dict[str, str | None]) -> str:
    """Message of ``import mmdiverse`` among stub hosts; None leaves a package without a version."""
    for name, version in hosts.items():
        (folder / name).mkdir()
        line = '' if version is None else f'__version__ = {version!r}\n'
        (folder / name / '__init__.py').write_text(line)
    if 'mmengine' in hosts:
        (folder / 'mmengine' / 'utils.py').write_text(
            'def get_installed_path():\n    import pkg_resources\n')
    code = f'import sys; sys.path[:0] = [{str(folder)!r}, {str(ROOT)!r}]; import mmdiverse'
    # -S hides site-packages, and with them the real hosts and setuptools.
    ended = subprocess.run([sys.executable, '-S', '-I', '-c', code], capture_output=True, text=True)
    assert ended.returncode == 1
    return ended.stderr.partition('ImportError: ')[2]


def test_without_a_host_both_installations_are_named(tmp_path):
    message = import_error(tmp_path, {})
    assert message.startswith('mmdiverse needs mmengine>=0.10.4,<1, but mmengine is not installed.')
    assert "pip install 'mmdiverse[openmmlab]'" in message
    assert "pip install 'mmdiverse[onedl]'" in message


@pytest.mark.parametrize(('name', 'version', 'wanted'), [
    ('mmengine', '0.10.3', 'mmengine>=0.10.4,<1'),
    ('mmengine', '1.0.0', 'mmengine>=0.10.4,<1'),
    ('mmcv', '1.7.2', 'mmcv>=2.0,<2.4'),
    ('mmcv', '2.4.0', 'mmcv>=2.0,<2.4'),
    ('mmpretrain', '1.1.1', 'mmpretrain>=1.2.0,<2'),
    ('mmpretrain', '2.0.0rc1', 'mmpretrain>=1.2.0,<2'),
])
def test_a_host_out_of_range_is_named_with_what_was_found(name, version, wanted, tmp_path):
    (tmp_path / 'pkg_resources.py').touch()
    message = import_error(tmp_path, {**GOOD, name: version})
    assert message.startswith(f'mmdiverse needs {wanted}, but {name} {version} is installed.')
    assert "'mmdiverse[openmmlab]'" in message and "'mmdiverse[onedl]'" in message


@pytest.mark.parametrize('name', ['mmcv', 'mmpretrain'])
def test_a_missing_host_is_named(name, tmp_path):
    (tmp_path / 'pkg_resources.py').touch()
    message = import_error(tmp_path, {host: GOOD[host] for host in GOOD if host != name})
    assert f'but {name} is not installed' in message


def test_a_folder_that_only_has_the_name_of_a_host_is_told_apart(tmp_path):
    assert 'has no __version__' in import_error(tmp_path, {'mmengine': None})


def test_a_setuptools_without_pkg_resources_has_a_message_of_its_own(tmp_path):
    message = import_error(tmp_path, GOOD)
    assert "pip install 'setuptools<81'" in message and 'MMEngine 0.10.7' in message


def test_the_version_is_the_one_in_the_changelog():
    assert f'## [{mmdiverse.__version__}]' in (ROOT / 'CHANGELOG.md').read_text()


@pytest.mark.skipif(not (ROOT / 'mmdiverse' / '.mim').exists(),
                    reason='needs an installed package: pip install -e . --no-deps')
def test_a_config_can_inherit_by_package_name():
    from mmengine.config import Config

    cfg = Config.fromstring("_base_ = 'mmdiverse::_base_/diversity/all.py'", '.py')
    assert cfg.diversity.type == 'mmdiverse.DiversityHook'


def test_the_metafiles_name_every_diversified_config_and_none_that_is_missing():
    from mmengine.fileio import load

    index = load(ROOT / 'model-index.yml')['Import']
    listed = {model['Config'] for path in index for model in load(ROOT / path)['Models']}
    present = {path.relative_to(ROOT).as_posix() for path in (ROOT / 'configs').rglob('*.py')
               if '_base_' not in path.parts}
    assert listed <= present
    assert {path for path in present if '_diverse_' in path} <= listed


@pytest.fixture(scope='module')
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sources as a fresh clone has them."""
    clone = tmp_path_factory.mktemp('clone') / 'mmdiverse'
    skipped = ('.*', 'work_dirs', 'build', 'dist', '*.egg-info', '__pycache__')
    shutil.copytree(ROOT, clone, ignore=shutil.ignore_patterns(*skipped))
    return clone


def pip(*words: str, cwd: Path) -> None:
    command = [sys.executable, '-m', 'pip', '--disable-pip-version-check', *words, '--no-deps',
               '--no-build-isolation', '--no-index']
    ended = subprocess.run(command, cwd=cwd, capture_output=True, text=True,
                           env={**os.environ, 'PIP_NO_INPUT': '1'})
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_a_wheel_holds_copies_of_configs_and_tools(source, tmp_path):
    # With links of an earlier editable install in the way, as in a developer's checkout.
    mim = source / 'mmdiverse' / '.mim'
    mim.mkdir()
    (mim / 'configs').symlink_to('../../configs')
    pip('wheel', '.', '--wheel-dir', str(tmp_path), cwd=source)
    with zipfile.ZipFile(next(tmp_path.glob('*.whl'))) as wheel:
        names = set(wheel.namelist())
    for folder in ('configs', 'tools'):
        expected = {f'mmdiverse/.mim/{path.relative_to(ROOT).as_posix()}'
                    for path in (ROOT / folder).rglob('*')
                    if path.is_file() and '__pycache__' not in path.parts}
        assert expected and expected == {
            name for name in names if name.startswith(f'mmdiverse/.mim/{folder}/')}
    assert 'mmdiverse/.mim/model-index.yml' in names
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / 'mmdiverse').rglob('*.py')
               if '.mim' not in path.parts}
    assert modules <= names
    tops = {re.sub(r'-.*\.dist-info$', '', name.partition('/')[0]) for name in names}
    assert tops == {'mmdiverse'}


def test_an_editable_install_links_to_the_checkout(source, tmp_path):
    shutil.rmtree(source / 'mmdiverse' / '.mim', ignore_errors=True)
    pip('install', '--editable', '.', '--target', str(tmp_path), '--use-pep517', cwd=source)
    mim = source / 'mmdiverse' / '.mim'
    assert sorted(path.name for path in mim.iterdir()) == ['configs', 'model-index.yml', 'tools']
    assert all(path.is_symlink() and path.exists() for path in mim.iterdir())
