"""The launches of docs/distributed.md, as the page has them, on processes of this machine."""
import os
import re
import shutil
import socket
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmpretrain.models.backbones.vision_transformer import TransformerEncoderLayer

import mmdiverse  # noqa: F401  (lets torch read MMEngine's checkpoints)
from mmdiverse.evaluation.distributed_cost import build_on_meta
from tests.robustness.test_faults import Command

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
PAGE = (ROOT / 'docs' / 'distributed.md').read_text(encoding='utf-8')
CONFIGS = ROOT / 'configs' / 'vision_transformer'
FSDP = CONFIGS / 'vit-large-p16_diverse_32xb128-mae-fsdp_in1k.py'
#: Seconds; half a minute on an idle machine, and tests may share it.
PATIENCE = 500


def commands(*parts: str) -> list[str]:
    """The commands of the page that hold all of these."""
    lines = [line for block in re.findall(r'^```shell\n(.*?)^```$', PAGE, flags=re.M | re.S)
             for line in block.splitlines()]
    found = [line for line in lines if all(part in line for part in parts)]
    assert found, f'the page has no command with {parts}'
    return found


def free_port() -> int:
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        return free.getsockname()[1]


def machine(folder: Path) -> Path:
    """A folder that looks like a clone of the repository."""
    folder.mkdir()
    for name in ('tools', 'configs'):
        (folder / name).symlink_to(ROOT / name)
    return folder


def typed(command: str, folder: Path, port: int) -> Command:
    """A command as a user types it, but for the port, which another test may have."""
    return Command(folder, 'bash', '-c', command.replace('29500', str(port)), PORT=str(port),
                   PATH=f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}')


def end_well(*running: Command) -> list[str]:
    """What commands printed that run side by side and must all end well."""
    try:
        for command in running:
            assert command.code(PATIENCE) == 0, command.output[-3000:]
    finally:
        for command in running:
            command.kill()
    return [command.output for command in running]


def test_one_machine_trains_and_tests(tmp_path: Path) -> None:
    folder, port = machine(tmp_path / 'one'), free_port()
    train, = commands('dist_train.sh', ' 2 ')
    test, = commands('dist_test.sh')
    printed, = end_well(typed(train, folder, port))
    assert 'GPU number: 2' in printed and 'accuracy/top1' in printed
    printed, = end_well(typed(test, folder, port))
    assert 'Epoch(test)' in printed and 'accuracy/top1' in printed


def train_on_two_machines(folder: Path, *pair: str) -> None:
    """Train with one process on each of two machines that share nothing."""
    port = free_port()
    printed = end_well(*(typed(command, machine(folder / str(index)), port)
                         for index, command in enumerate(pair)))
    first, second = sorted(printed, key=lambda text: 'Epoch(train)' not in text)
    assert 'GPU number: 2' in first and 'accuracy/top1' in first
    assert 'Epoch(train) [1][20/23]' in first  # 1,437 images / (2 x 32)
    assert 'Epoch(train)' not in second
    assert len([*folder.glob('*/work_dirs/*/epoch_1.pth')]) == 1


def test_two_machines_train_together(tmp_path: Path) -> None:
    first, second = commands('dist_train.sh', 'NNODES=2')
    assert first.replace('NODE_RANK=0', 'NODE_RANK=1') == second != first
    train_on_two_machines(tmp_path, first, second)


def test_two_machines_find_each_other_through_a_rendezvous(tmp_path: Path) -> None:
    command, = commands('torchrun --nnodes 2')
    train_on_two_machines(tmp_path, command, command)


def test_torchrun_as_a_module_scales_the_learning_rate(tmp_path: Path) -> None:
    command, = commands('python -m torch.distributed.run')
    printed, = end_well(typed(command, machine(tmp_path / 'one'), free_port()))
    assert 'GPU number: 2' in printed
    assert 'batch size of 32 and the current batch size is 64. Scaling the original LR by 2' \
        in printed


def test_slurm_would_run_what_the_page_shows(tmp_path: Path) -> None:
    lines = commands('dry')
    printed, = end_well(typed('\n'.join(lines), machine(tmp_path / 'one'), free_port()))
    shown, = re.findall(r'^```text\n(srun .*?)^```$', PAGE, flags=re.M | re.S)
    assert printed.replace(sys.executable, 'python').replace(str(ROOT), '$REPO') == shown
    assert len(shown.splitlines()) == len(lines) - 1


# FSDP

#: A config cut down to 64 images of the digits and a CPU.
SHRUNK = '''
_base_ = [{base!r}]
model = dict(
    backbone=dict(img_size=16, patch_size=2, arch=dict(
        _delete_=True, embed_dims=48, num_layers=4, num_heads=3, feedforward_channels=192)),
    head=dict(num_classes=10, in_channels=48, init_cfg=dict(
        type='TruncNormal', layer='Linear', std=0.3)))
data_preprocessor = dict(num_classes=10, patch_size=2)
dataset = dict(_delete_=True, type='mmdiverse.Digits', split='val', indices=32,
               pipeline=[dict(type='PackInputs')])
train_dataloader = dict(batch_size=8, num_workers=0, persistent_workers=False, dataset=dataset)
val_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dataset)
test_dataloader = val_dataloader
val_evaluator = dict(topk=(1, ))
train_cfg = dict(max_epochs=2)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=True, end=20, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=1e-5, by_epoch=True)]
default_hooks = dict(logger=dict(interval=1))
randomness = dict(seed=0)
custom_hooks = [dict(type='mmdiverse.EpochSeedHook'), _base_.diversity]
'''
#: The moments of AdamW are saved as one on a CPU, unless they are left where they are.
ON_CPU = '''
strategy = dict(
    model_wrapper=dict(device_id='cpu', auto_wrap_policy=dict(min_num_params=20_000)),
    state_dict_cfg=dict(
        _delete_=True, state_dict_type='FULL_STATE_DICT',
        state_dict_config=dict(type='FullStateDictConfig', rank0_only=True),
        optim_state_dict_config=dict(type='FullOptimStateDictConfig', rank0_only=True,
                                     offload_to_cpu=False)))
'''
IN_BF16 = "optim_wrapper = dict(type='mmdiverse.AutocastOptimWrapper', dtype='bfloat16')\n"
#: Of torch, whose threads for gloo may still run when Python ends; the run is over by then.
ABORTED = 'terminate called without an active exception'


def train_shrunk(folder: Path, base: Path, text: str, *words: object) -> str:
    """Train a shrunk config in ``folder / 'out'`` with two processes; what that printed."""
    folder.mkdir(exist_ok=True)
    (folder / 'shrunk.py').write_text(SHRUNK.format(base=str(base)) + text)
    with Command(folder, 'bash', ROOT / 'tools' / 'dist_train.sh', 'shrunk.py', 2, '--work-dir',
                 'out', *words, PORT=str(free_port())) as command:
        code = command.code(PATIENCE)
        assert code == 0 or ABORTED in command.output, command.output[-3000:]
        assert re.search(r'Epoch\(val\) \[2\]\[1/1\] +accuracy/top1', command.output)
        return command.output


def last_of(folder: Path) -> dict:
    return torch.load(folder / 'out' / 'epoch_2.pth', weights_only=True)


@pytest.fixture(scope='module')
def sharded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a run under FSDP, and what the run printed."""
    folder = tmp_path_factory.mktemp('sharded')
    return folder, train_shrunk(folder, FSDP, ON_CPU)


def test_every_block_is_a_unit_that_is_checkpointed(sharded: tuple[Path, str]) -> None:
    _, printed = sharded
    units = re.findall(r'layers\.(\d)\._fsdp_wrapped_module\._checkpoint_wrapped_module\.ln1\.bias',
                       printed)
    assert units == ['0', '1', '2', '3']
    assert printed.count('_fsdp_wrapped_module') == printed.count('_checkpoint_wrapped_module')


def test_at_full_size_blocks_alone_are_large_enough_for_a_unit() -> None:
    size = Config.fromfile(FSDP).strategy.model_wrapper.auto_wrap_policy.min_num_params
    backbone = build_on_meta(str(FSDP)).backbone

    def count(module: torch.nn.Module) -> int:
        return sum(parameter.numel() for parameter in module.parameters())

    large = [module for module in backbone.modules() if count(module) >= size]
    blocks = [*backbone.layers]
    assert len(blocks) == 24 and all(type(b) is TransformerEncoderLayer for b in blocks)
    assert large == [backbone, backbone.layers, *blocks]  # units in the order of children
    assert count(backbone) - sum(map(count, blocks)) < size  # what is left is the root's


def test_fsdp_trains_as_ddp_does(sharded: tuple[Path, str], tmp_path: Path) -> None:
    folder, printed = sharded
    plain = FSDP.with_name(FSDP.name.replace('-fsdp', ''))
    beside = train_shrunk(tmp_path / 'ddp', plain, IN_BF16)
    ours, theirs = last_of(folder), last_of(tmp_path / 'ddp')
    assert ours['state_dict'].keys() == theirs['state_dict'].keys()
    for name, weight in theirs['state_dict'].items():
        torch.testing.assert_close(ours['state_dict'][name], weight, rtol=0, atol=1e-6, msg=name)
    for level in ('patch_cosine', 'attention_cosine', 'weight_conditional_orthogonality'):
        values = [re.findall(rf' loss_{level}: (\S+)', text) for text in (printed, beside)]
        assert len(values[0]) == 4 and values[0] == values[1]


def test_the_same_weights_decay_as_under_ddp(sharded: tuple[Path, str]) -> None:
    folder, _ = sharded
    decays = {group['params'][0]: group['weight_decay']
              for group in last_of(folder)['optimizer']['param_groups']}
    assert set(decays.values()) == {0., 0.3}
    matrices = {name for name, weight in last_of(folder)['state_dict'].items()
                if name.endswith('.weight') and weight.ndim > 1}
    assert {name for name, decay in decays.items() if decay} == matrices


def test_fsdp_resumes_as_if_it_had_not_been_interrupted(sharded: tuple[Path, str],
                                                        tmp_path: Path) -> None:
    folder, _ = sharded
    shutil.copytree(folder, tmp_path / 'parts')
    (tmp_path / 'parts' / 'out' / 'epoch_2.pth').unlink()
    printed = train_shrunk(tmp_path / 'parts', FSDP, ON_CPU, '--resume',
                           tmp_path / 'parts' / 'out' / 'epoch_1.pth')
    assert 'resumed epoch: 1, iter: 2' in printed
    whole, resumed = last_of(folder), last_of(tmp_path / 'parts')
    for part in ('state_dict', 'diversity_hook'):
        torch.testing.assert_close(resumed[part], whole[part], rtol=0, atol=0)
    torch.testing.assert_close(resumed['optimizer']['state'], whole['optimizer']['state'],
                               rtol=0, atol=0)
