"""What a user meets before anything runs: import errors, config names, wheels, MIM, metadata."""
from __future__ import annotations

import email
import os
import re
import shutil
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest
from mmengine.fileio import load

import mmdiverse

ROOT = Path(__file__).resolve().parent.parent
GOOD = {'mmengine': '0.10.7', 'mmcv': '2.1.0', 'mmpretrain': '1.2.0'}


def test_public_names_are_listed_and_can_be_imported_together():
    public = {'audit', 'get_model', 'list_models', '__version__'}
    assert public <= set(dir(mmdiverse)) and public <= set(mmdiverse.__all__)
    names = {}
    exec('from mmdiverse import *', names)
    assert public <= names.keys() and names['audit'] is mmdiverse.audit


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
    start = ROOT / 'docs' / 'get_started.md'
    for line in ("pip install -c requirements/constraints.txt -e '.[openmmlab]'",
                 "MMCV_WITH_OPS=0 pip install -c requirements/constraints.txt -e '.[onedl]'"):
        assert f'\n  {line}\n' in message and line in start.read_text()


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
    assert "-e '.[openmmlab]'" in message and "-e '.[onedl]'" in message


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


def test_importing_the_package_imports_no_model_loss_or_hook():
    code = 'import sys, mmdiverse; print([n for n in sys.modules if n.startswith("mmdiverse.")])'
    names = eval(python('-c', code).splitlines()[-1])
    assert set(names) == {'mmdiverse.version', 'mmdiverse.compat', 'mmdiverse.checkpoint'}


@pytest.mark.parametrize('name', mmdiverse.FUNCTIONS)
def test_public_functions_are_there_when_they_are_used(name):
    assert getattr(mmdiverse, name).__module__ == mmdiverse.FUNCTIONS[name]


def test_an_attribute_that_there_is_not_is_named():
    with pytest.raises(AttributeError, match="module 'mmdiverse' has no attribute 'get_modle'"):
        _ = mmdiverse.get_modle


def test_the_metafiles_list_every_config_under_its_own_name():
    index = load(ROOT / 'model-index.yml')['Import']
    models = [model for path in index for model in load(ROOT / path)['Models']]
    leaves = [path.relative_to(ROOT) for path in (ROOT / 'configs').rglob('*.py')
              if '_base_' not in path.parts]
    assert sorted((model['Name'], model['Config']) for model in models) == sorted(
        (path.stem, path.as_posix()) for path in leaves)


def test_the_name_of_a_config_stands_for_no_other_file():
    # MIM finds a config by the name of its file, anywhere in the package.
    names = [path.name for folder in ('configs', 'tools', 'mmdiverse')
             for path in (ROOT / folder).rglob('*.py') if '.mim' not in path.parts]
    leaves = {path.name for path in (ROOT / 'configs').rglob('*.py') if '_base_' not in path.parts}
    assert leaves and all(names.count(name) == 1 for name in leaves)


def test_the_citation_has_what_its_format_asks_for():
    citation = load(ROOT / 'CITATION.cff', file_format='yml')
    assert citation['cff-version'] == '1.2.0'
    assert citation['message'] and citation['title'] == 'mmdiverse' and citation['authors']
    paper = citation['preferred-citation']
    assert paper['type'] == 'conference-paper' and paper['year'] == 2022
    assert [author['family-names'] for author in paper['authors']] == [
        'Chen', 'Zhang', 'Cheng', 'Awadallah', 'Wang']
    assert f"title={{{paper['title']}}}" in (ROOT / 'README.md').read_text()
    assert paper['identifiers'][0]['value'] == 'arXiv:2203.06345'


def python(*words: str | Path, cwd: Path | None = None, **env: str) -> str:
    """Output of a Python of its own, which must end well."""
    ended = subprocess.run([sys.executable, *map(str, words)], cwd=cwd, env={**os.environ, **env},
                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert ended.returncode == 0, ended.stdout
    return ended.stdout


def pip(*words: str | Path, cwd: Path) -> None:
    python('-m', 'pip', '--disable-pip-version-check', '--no-input', *words, '--no-deps',
           '--no-build-isolation', '--no-index', cwd=cwd)


def build(source: Path, target: Path) -> Path:
    """A wheel of a source tree or an sdist."""
    pip('wheel', source, '--wheel-dir', target, cwd=target)
    wheel, = target.glob('*.whl')
    return wheel


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """The sources as a fresh clone has them."""
    clone = tmp_path / 'clone'
    skipped = ('.*', 'work_dirs', 'build', 'dist', '*.egg-info', '__pycache__')
    shutil.copytree(ROOT, clone, ignore=shutil.ignore_patterns(*skipped))
    return clone


@pytest.fixture
def installed(source: Path, tmp_path: Path) -> Path:
    """A folder into which the wheel was installed."""
    target = tmp_path / 'site-packages'
    pip('install', build(source, tmp_path), '--target', target, cwd=tmp_path)
    return target


def test_a_wheel_holds_the_package_and_copies_of_configs_and_tools(source, tmp_path):
    # With what an editable install and an earlier build left behind, as in a developer's checkout.
    mim = source / 'mmdiverse' / '.mim'
    mim.mkdir()
    (mim / 'configs').symlink_to('../../configs')
    stale = source / 'build' / 'lib' / 'mmdiverse' / 'gone.py'
    stale.parent.mkdir(parents=True)
    stale.touch()
    with zipfile.ZipFile(build(source, tmp_path)) as wheel:
        names = {name for name in wheel.namelist() if '.dist-info/' not in name}

    def files(folder: str) -> set[str]:
        return {path.relative_to(source).as_posix() for path in (source / folder).rglob('*')
                if path.is_file() and '.mim' not in path.parts}

    assert names == files('mmdiverse') | {'mmdiverse/.mim/model-index.yml'} | {
        f'mmdiverse/.mim/{name}' for name in files('configs') | files('tools')}


def test_an_sdist_builds_the_same_wheel(source, tmp_path):
    sdist, direct, indirect = (tmp_path / name for name in ('sdist', 'direct', 'indirect'))
    for folder in (sdist, direct, indirect):
        folder.mkdir()
    code = 'import sys; from setuptools.build_meta import build_sdist; build_sdist(sys.argv[1])'
    python('-c', code, sdist, cwd=source)
    archive, = sdist.glob('*.tar.gz')
    contents = []
    for wheel in build(archive, indirect), build(source, direct):
        with zipfile.ZipFile(wheel) as opened:
            contents.append({item.filename: item.CRC for item in opened.infolist()})
    assert contents[0] and contents[0] == contents[1]


def test_the_metadata_name_licence_python_and_extras(source, tmp_path):
    with zipfile.ZipFile(build(source, tmp_path)) as wheel:
        name, = (name for name in wheel.namelist() if name.endswith('.dist-info/METADATA'))
        metadata = email.message_from_bytes(wheel.read(name))
        licence = wheel.read(name.replace('METADATA', 'licenses/LICENSE')).decode()
    assert metadata['Version'] == mmdiverse.__version__
    assert metadata['License-Expression'] == 'Apache-2.0' and 'Apache License' in licence
    assert metadata['Requires-Python'] == '>=3.10'
    assert {'openmmlab', 'onedl', 'tests'} <= set(metadata.get_all('Provides-Extra'))
    assert metadata['Description-Content-Type'] == 'text/markdown'
    assert metadata.get_payload(decode=True).decode() == (ROOT / 'README.md').read_text()


def test_building_warns_of_nothing_that_is_going_to_end(source):
    for hook in ('build_sdist', 'build_wheel', 'build_editable'):
        code = f'from setuptools import build_meta; build_meta.{hook}("..")'
        log = python('-W', 'always', '-c', code, cwd=source)
        assert not re.search('deprecat|UserWarning', log, flags=re.IGNORECASE), log


def test_an_editable_install_links_to_the_checkout(source, tmp_path):
    pip('install', '--editable', source, '--target', tmp_path / 'site-packages', '--use-pep517',
        cwd=tmp_path)
    mim = source / 'mmdiverse' / '.mim'
    assert sorted(path.name for path in mim.iterdir()) == ['configs', 'model-index.yml', 'tools']
    assert all(path.is_symlink() and path.exists() for path in mim.iterdir())


@pytest.mark.slow
def test_an_installed_wheel_trains_and_tests_without_a_clone(installed, tmp_path):
    log = python(ROOT / 'tests' / 'smoke_wheel.py', cwd=tmp_path, PYTHONPATH=str(installed))
    assert log.count('passed: ') == 8


@pytest.mark.skipif(find_spec('mim') is None or find_spec('pkg_resources') is None,
                    reason='needs openmim, and the pkg_resources of a setuptools before 82 for it')
@pytest.mark.slow
def test_mim_trains_and_tests_an_installed_wheel(installed, tmp_path):
    name = 'deit-nano_diverse_digits.py'
    env = {'PYTHONPATH': str(installed), 'HOME': str(tmp_path)}  # MIM keeps a cache at home
    log = python('-m', 'mim', 'train', 'mmdiverse', name, '--work-dir', 'run', '--cfg-options',
                 'train_cfg.max_epochs=1', 'train_dataloader.num_batch_per_epoch=10',
                 cwd=tmp_path, **env)
    assert f'will use {installed}/mmdiverse/.mim/configs/digits/{name}' in log.replace('\n', '')
    assert 'loss_patch_cosine' in log and 'Training finished successfully' in log
    log = python('-m', 'mim', 'test', 'mmdiverse', name, '--checkpoint', 'run/epoch_1.pth',
                 '--work-dir', 'run', cwd=tmp_path, **env)
    assert 'accuracy/top1' in log and 'Testing finished successfully' in log
