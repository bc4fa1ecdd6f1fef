import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import FlexibleRunner, Runner
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample

from mmdiverse.config import add_mixing, load_fragment, plain_twin
from mmdiverse.hooks import DiversityHook
from mmdiverse.registry import LOSSES
from mmdiverse.taps import build_tap
from mmdiverse.terms import DiversityTerm
from tests.processes import run_processes
from tests.robustness.modes import MODES, mode_config
from tests.runs import assert_resumes_as_uninterrupted, digits_config, same_state, train

TERM = dict(type='CosineLoss', on='patch', weight=0.5)
WEIGHT_TERM = dict(type='CosineLoss', on='weight', layers=0, weight=0.5)


def build_model(name: str = 'vit-nano_digits', **backbone) -> torch.nn.Module:
    torch.manual_seed(0)
    cfg = digits_config(name, Path('unused'))
    cfg.model.backbone.update(backbone)
    model = MODELS.build(dict(cfg.model, _scope_='mmpretrain'))
    return model.train()


def batch(size: int = 4) -> dict:
    generator = torch.Generator().manual_seed(0)
    return dict(inputs=torch.randn(size, 3, 16, 16, generator=generator),
                data_samples=[DataSample().set_gt_label(i) for i in range(size)])


def has_hooks(model: torch.nn.Module) -> bool:
    return any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_loss_is_the_heads_plus_the_weighted_terms() -> None:
    model = build_model()
    plain = model(**batch(), mode='loss')['loss']
    hook = DiversityHook(terms=[TERM])
    hook.attach(model)
    losses = model(**batch(), mode='loss')
    total, _ = model.parse_losses(losses)
    torch.testing.assert_close(losses['loss_cls'], plain, rtol=0, atol=0)
    torch.testing.assert_close(losses['loss_patch_cosine'], 0.5 * losses['patch_cosine'])
    torch.testing.assert_close(total, plain + losses['loss_patch_cosine'])


def test_raw_values_are_not_optimized() -> None:
    model = build_model()
    hook = DiversityHook(terms=[TERM])
    hook.attach(model)
    assert not model(**batch(), mode='loss')['patch_cosine'].requires_grad


def test_gradient_is_that_of_the_sum() -> None:
    model = build_model()
    hook = DiversityHook(terms=[TERM, WEIGHT_TERM])
    hook.attach(model)
    model.parse_losses(model(**batch(), mode='loss'))[0].backward()
    actual = {name: p.grad.clone() for name, p in model.named_parameters()}
    hook.detach()
    model.zero_grad()
    tap = build_tap(model.backbone)
    tap.attach([('patch', 3)])
    with tap.recording():
        loss = model(**batch(), mode='loss')['loss']
        loss = loss + sum(0.5 * DiversityTerm(**term).evaluate(tap) for term in (TERM, WEIGHT_TERM))
    loss.backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(actual[name], parameter.grad)


def test_validation_and_tensor_mode_are_untouched() -> None:
    model = build_model()
    hook = DiversityHook(terms=[TERM])
    hook.attach(model)
    model.eval()
    assert set(model(**batch(), mode='loss')) == {'loss'}
    model.train()
    assert isinstance(model(**batch(), mode='tensor'), torch.Tensor)


def test_no_tensor_is_kept_after_a_step() -> None:
    model = build_model()
    hook = DiversityHook(terms=[TERM])
    hook.attach(model)
    model(**batch(), mode='loss')
    assert not hook.tap._captured and not hook.tap._records


def test_detach_leaves_the_model_as_it_was() -> None:
    model = build_model()
    hook = DiversityHook(terms=load_fragment('all').terms)
    hook.attach(model)
    hook.detach()
    assert not has_hooks(model)


def test_nothing_is_attached_where_all_weights_are_zero() -> None:
    model = build_model()
    hook = DiversityHook(terms=[dict(TERM, weight=0)])
    hook.attach(model)
    assert not has_hooks(model)


def test_starts_come_from_seed_and_iteration_and_spare_the_hosts_numbers() -> None:
    model = build_model()
    hook = DiversityHook(terms=[dict(type='ConditionalOrthogonalityLoss', on='weight',
                                     method='official', weight=1.)])
    hook.attach(model)

    def value(iteration: int) -> torch.Tensor:
        class Runner:
            seed, iter = 3, iteration
        hook.before_train_iter(Runner, 0)
        return model(**batch(), mode='loss')['weight_conditional_orthogonality']

    state = torch.get_rng_state()
    first, second, again = value(0), value(1), value(0)
    assert torch.equal(first, again) and not torch.equal(first, second)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_terms_are_computed_in_float32_under_autocast(dtype: torch.dtype) -> None:
    model = build_model()
    hook = DiversityHook(terms=load_fragment('official').terms)
    hook.attach(model)
    with torch.autocast('cpu', dtype=dtype):
        losses = model(**batch(), mode='loss')
    for term in hook.terms:
        assert losses[term.name].dtype == torch.float32 and losses[term.name].isfinite()


def test_frozen_term_is_refused() -> None:
    model = build_model()
    model.backbone.requires_grad_(False)
    hook = DiversityHook(terms=[WEIGHT_TERM])
    hook.attach(model)
    with pytest.raises(RuntimeError, match="'weight_cosine' has no gradient.*frozen"):
        model(**batch(), mode='loss')


def test_name_that_the_model_logs_already_is_refused() -> None:
    model = build_model()
    hook = DiversityHook(terms=[dict(TERM, name='cls')])
    hook.attach(model)
    with pytest.raises(ValueError, match="logs 'loss_cls' already.*`name`"):
        model(**batch(), mode='loss')


def test_model_without_backbone_is_refused() -> None:
    with pytest.raises(ValueError, match='needs a model with a `backbone`'):
        DiversityHook(terms=[TERM]).attach(torch.nn.Linear(2, 2))


def test_layers_out_of_range_name_the_term_and_key() -> None:
    hook = DiversityHook(terms=[TERM, dict(WEIGHT_TERM, layers=[0, 4])])
    with pytest.raises(ValueError, match=r'terms\[1\].*`layers`.*-4 to 3.*got 4'):
        hook.attach(build_model())


def test_contrast_between_stages_of_a_swin_is_refused() -> None:
    model = build_model('swin-nano_digits')
    hook = DiversityHook(terms=[dict(type='ContrastiveLoss', on='patch', weight=1.)])
    hook.attach(model)
    with pytest.raises(ValueError, match="'patch_contrastive'.*`layers`"):
        model(**batch(), mode='loss')


@pytest.mark.parametrize('size', [1, 3])
@pytest.mark.parametrize('name', ['deit-nano_diverse_digits', 'swin-nano_diverse_digits'])
def test_odd_batches_and_a_batch_of_one_train(name: str, size: int, tmp_path: Path) -> None:
    cfg = digits_config(name, tmp_path, batches=1)
    cfg.train_dataloader.batch_size = size
    runner = train(cfg)
    assert all(p.isfinite().all() for p in runner.model.parameters())


@pytest.mark.parametrize('name', ['deit-nano', 'swin-nano', 'vit-nano'])
def test_run_with_zero_weights_equals_the_plain_run_bit_for_bit(name: str, tmp_path: Path) -> None:
    plain = train(digits_config(f'{name}_digits', tmp_path / 'plain'))
    cfg = plain_twin(digits_config(f'{name}_diverse_digits', tmp_path / 'zero'))
    hook = digits_config(f'{name}_diverse_digits', tmp_path).custom_hooks[0]
    for term in hook.terms:
        term.weight = 0
    cfg.custom_hooks = [hook]
    zero = train(cfg)
    assert same_state(plain.model.state_dict(), zero.model.state_dict())


def test_log_has_the_total_and_every_term(tmp_path: Path) -> None:
    runner = train(digits_config('deit-nano_diverse_digits', tmp_path))
    scalars = runner.message_hub.log_scalars
    names = [f'train/{key}' for term in ('patch_cosine', 'patch_contrastive', 'attention_cosine',
                                         'weight_conditional_orthogonality')
             for key in (f'loss_{term}', 'loss_cls')]
    total = scalars['train/loss'].current()
    parts = sum(scalars[name].current() for name in {*names})
    assert total == pytest.approx(parts, rel=1e-5)
    assert not has_hooks(runner.model)


def test_mismatch_of_classes_is_refused_before_training(tmp_path: Path) -> None:
    cfg = digits_config('vit-nano_diverse_digits', tmp_path, **{'model.head.num_classes': 7})
    with pytest.raises(ValueError, match='10 classes, but the head has 7.*`model.head'):
        train(cfg)


def test_unknown_backbone_is_refused_before_training(tmp_path: Path) -> None:
    cfg = digits_config('vit-nano_diverse_digits', tmp_path)
    cfg.model.backbone = dict(type='ResNet', depth=18)
    cfg.model.neck = dict(type='GlobalAveragePooling')
    cfg.model.head = dict(type='LinearClsHead', num_classes=10, in_channels=512)
    with pytest.raises(ValueError, match='no tap knows the backbone ResNet'):
        train(cfg)


def test_type_resolves_in_a_config_without_custom_imports() -> None:
    runner_cfg = Config(dict(type='mmdiverse.DiversityHook', terms=[TERM]))
    from mmpretrain.registry import HOOKS
    assert isinstance(HOOKS.build(runner_cfg), DiversityHook)


@pytest.mark.parametrize('terms', [
    load_fragment('official').terms,
    [dict(type='ConditionalOrthogonalityLoss', on='weight', method='power', weight=1.)],
    [dict(TERM, schedule=dict(type='LinearParamScheduler', start_factor=0.1, by_epoch=False,
                              end=5))],
], ids=['official', 'power', 'schedule'])
def test_resumed_run_equals_the_uninterrupted_one(terms: list[dict], tmp_path: Path) -> None:
    def config(name: str, **options) -> Config:
        cfg = digits_config('deit-nano_diverse_digits', tmp_path / name, epochs=2, **options)
        cfg.custom_hooks = [dict(type='mmdiverse.DiversityHook', terms=terms)]
        # Else batches and drop path would go another way: MMEngine saves no random numbers.
        cfg.train_dataloader.sampler = dict(type='DefaultSampler', shuffle=False)
        cfg.train_dataloader.dataset.pipeline = [dict(type='PackInputs')]
        cfg.model.train_cfg = None
        cfg.model.backbone.drop_path_rate = 0.
        return cfg

    assert_resumes_as_uninterrupted(config)


SCHEDULE = [dict(type='LinearParamScheduler', start_factor=0.5, by_epoch=False, end=3),
            dict(type='MultiStepParamScheduler', milestones=[2], gamma=0.)]


class Record(Hook):
    """Keeps what every iteration logs."""

    def __init__(self) -> None:
        self.seen: list[dict[str, float]] = []

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None,
                         outputs: dict | None = None) -> None:
        self.seen.append({key: float(value) for key, value in outputs.items()})
        self.keys = {*runner.message_hub.log_scalars}


def test_schedule_moves_the_weight_and_stops_the_term(tmp_path: Path) -> None:
    cfg = digits_config('vit-nano_digits', tmp_path, epochs=3, batches=2)
    cfg.custom_hooks = [dict(type='mmdiverse.DiversityHook', terms=[dict(TERM, schedule=SCHEDULE)])]
    runner, record = Runner.from_cfg(cfg), Record()
    runner.register_hook(record)
    runner.train()
    weights = [seen.get('patch_cosine_weight') for seen in record.seen]
    assert weights == [0.25, 0.375, 0.5, 0.5, None, None]
    for seen in record.seen[:4]:
        assert seen['loss_patch_cosine'] == pytest.approx(
            seen['patch_cosine_weight'] * seen['patch_cosine'])
    assert {*record.seen[4]} == {'loss', 'loss_cls'}
    assert not any('patch_cosine' in key for key in record.keys)


def test_schedule_by_epoch_is_refused_where_a_run_counts_iterations(tmp_path: Path) -> None:
    cfg = digits_config('vit-nano_digits', tmp_path)
    cfg.train_cfg = dict(by_epoch=False, max_iters=2)
    cfg.param_scheduler = []
    cfg.custom_hooks = [dict(type='mmdiverse.DiversityHook', terms=[
        dict(TERM, schedule=dict(type='LinearParamScheduler', end=5))])]
    with pytest.raises(ValueError, match="'patch_cosine': `schedule` goes by epoch.*`by_epoch="):
        train(cfg)


GRADIENT_TERM = dict(type='GradientDiversityLoss', on='patch', weight=1.)


def mixing_model() -> torch.nn.Module:
    torch.manual_seed(0)
    cfg = add_mixing(digits_config('deit-nano_digits', Path('unused')))
    cfg.model.backbone.drop_path_rate = 0.
    return MODELS.build(dict(cfg.model, _scope_='mmpretrain')).double().train()


def mixed_batch(model: torch.nn.Module, size: int = 3) -> dict:
    data = batch(size)
    num_patches = model.backbone.pos_embed.size(1) - 1
    for index, sample in enumerate(data['data_samples']):
        sample.set_field(torch.tensor([9 - index]), 'mix_label')
        sample.set_field(0.3, 'mix_lam', field_type='metainfo')
        sample.set_field(torch.linspace(0, 1, num_patches), 'patch_shares')
    return dict(data, inputs=data['inputs'].double())


@pytest.mark.parametrize('layer', [-1, 1])
@pytest.mark.parametrize('form', ['coherence', 'diversity'])
def test_gradient_diversity_trains_the_model_as_its_value_says(layer: int, form: str) -> None:
    model = mixing_model()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    data = mixed_batch(model)
    hook = DiversityHook(terms=[dict(GRADIENT_TERM, layers=layer, form=form)])
    hook.attach(model)
    value = model(**data, mode='loss')['loss_patch_gradient_diversity']
    value.backward()
    direction = {name: torch.randn_like(p) for name, p in model.named_parameters()}
    slope = sum((p.grad * direction[name]).sum() for name, p in model.named_parameters()
                if p.grad is not None)

    def moved(step: float) -> torch.Tensor:
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.add_(step * direction[name])
        return model(**data, mode='loss')['loss_patch_gradient_diversity'].detach()

    step = 1e-6
    forth, back = moved(step), moved(-2 * step)
    torch.testing.assert_close(slope, (forth - back) / (2 * step), rtol=1e-5, atol=1e-8)


def test_gradient_diversity_is_refused_where_patches_have_no_gradient() -> None:
    model = build_model('deit-nano_digits')
    hook = DiversityHook(terms=[GRADIENT_TERM])
    hook.attach(model)
    with pytest.raises(RuntimeError, match="'patch_gradient_diversity': the loss of the model does "
                                           'not depend on the patches.*--mixing'):
        model(**batch(), mode='loss')


def test_gradient_diversity_waits_for_a_head_that_starts_at_zero() -> None:
    model = mixing_model()
    torch.nn.init.zeros_(model.head.layers.head.weight)
    hook = DiversityHook(terms=[GRADIENT_TERM])
    hook.attach(model)
    losses = model(**mixed_batch(model), mode='loss')
    model.parse_losses(losses)[0].backward()
    assert losses['patch_gradient_diversity'] == 0
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_gradient_diversity_works_before_the_last_block_of_a_plain_model() -> None:
    model = build_model('deit-nano_digits')
    hook = DiversityHook(terms=[dict(GRADIENT_TERM, layers=1)])
    hook.attach(model)
    model.parse_losses(model(**batch(), mode='loss'))[0].backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


LOSSES.import_from_location()


@pytest.mark.parametrize('name', ['deit-nano_digits', 'swin-nano_digits'])
@pytest.mark.parametrize(('type', 'on'), [(type, on) for type, loss in LOSSES.module_dict.items()
                                          for on in loss.levels])
def test_every_loss_trains_at_every_level(type: str, on: str, name: str) -> None:
    model = build_model(name)
    # Not the first layers of a plain DeiT's gradients, nor two stages of a Swin.
    layers = dict(layers=[-2, -1]) if LOSSES.get(type).num_records == 2 else dict(layers=-2)
    hook = DiversityHook(terms=[dict(type=type, on=on, weight=1., **layers)])
    hook.attach(model)
    loss = model(**batch(), mode='loss')[f'loss_{hook.terms[0].name}']
    loss.backward()
    gradients = [p.grad for p in model.backbone.parameters() if p.grad is not None]
    assert loss.isfinite() and all(gradient.isfinite().all() for gradient in gradients)
    assert any(gradient.any() for gradient in gradients)


SHARED = [dict(type='ConditionalOrthogonalityLoss', on='weight', method=method, weight=1.,
               name=method, matrices=['q', 'k', 'v', 'fc1'])
          for method in ('exact', 'power', 'official')]


def run_shared(rank: int, world_size: int, folder: Path) -> None:
    """One process of a distributed step; saves what it logged, its gradients and its state."""
    torch.distributed.init_process_group('gloo', rank=rank, world_size=world_size,
                                         init_method=f'file://{folder}/store{world_size}')
    model = build_model()
    hook = DiversityHook(terms=SHARED)
    hook.attach(model)
    hook._share_weights = True
    wrapped = torch.nn.parallel.DistributedDataParallel(model)
    for iteration in range(2):  # the second goes on from where the power iteration ended
        hook.before_train_iter(SimpleNamespace(seed=0, iter=iteration), iteration)
        model.zero_grad()
        losses = wrapped(**batch(), mode='loss')
        model.parse_losses(losses)[0].backward()
    state: dict = {}
    hook.before_save_checkpoint(None, state)
    torch.save([{key: losses[key].detach() for key in losses}, state['diversity_hook']['power'],
                [p.grad for p in model.parameters()]], folder / f'{world_size}-{rank}.pth')
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


# Five processes are more than the four matrices of fc1.
@pytest.mark.parametrize('world_size', [2, 5])
def test_shared_weight_terms_equal_those_of_one_process(world_size: int, tmp_path: Path) -> None:
    for size in (1, world_size):
        run_processes(run_shared, size, tmp_path, count=size)
    whole = torch.load(tmp_path / '1-0.pth')
    for rank in range(world_size):
        torch.testing.assert_close(torch.load(tmp_path / f'{world_size}-{rank}.pth'), whole)


def broken_run(tmp_path: Path, term: bool = True, model: bool = False, first: int = 1,
               last: int = 99, batches: int = 3, **optim_wrapper) -> Runner:
    """A run whose term, model or both are NaN from an iteration to another."""
    class Break(Hook):
        def before_train_iter(self, runner: Runner, batch_idx: int,
                              data_batch: dict | None = None) -> None:
            broken = first <= runner.iter <= last
            diversity, = (h for h in runner.hooks if isinstance(h, DiversityHook))
            loss = diversity.terms[0].loss
            vars(loss).pop('forward', None)
            runner.model.head.loss_module._forward_hooks.clear()
            if broken and term:
                loss.forward = lambda record: record.mean_direction().sum(dim=-1) * float('nan')
            if broken and model:
                runner.model.head.loss_module.register_forward_hook(
                    lambda module, args, output: output * float('nan'))

    cfg = digits_config('vit-nano_digits', tmp_path, epochs=2, batches=batches)
    cfg.custom_hooks = [dict(type='mmdiverse.DiversityHook', terms=[TERM])]
    cfg.optim_wrapper.update(optim_wrapper)
    runner = Runner.from_cfg(cfg)
    runner.register_hook(Break())
    return runner


@pytest.mark.parametrize(('term', 'model', 'said'), [
    (True, False, r"patch_cosine is nan in .* are \{'loss_cls': \d"),
    (True, True, r"patch_cosine is nan in .* are \{'loss_cls': nan\}"),
    (False, True, r"loss is nan in .* are \{'loss_cls': nan\}"),
], ids=['term', 'both', 'model'])
def test_a_loss_that_is_not_finite_ends_training(term: bool, model: bool, said: str, tmp_path: Path
                                                 ) -> None:
    runner = broken_run(tmp_path, term, model, first=2)
    with pytest.raises(RuntimeError, match=f'{said}.*Training ends before this is saved. Lower'):
        runner.train()
    assert runner.iter == 2 and not list(tmp_path.glob('*.pth'))


HALF = dict(type='mmdiverse.AutocastOptimWrapper', dtype='float16')


def test_an_overflow_of_all_losses_is_left_to_the_scaler(tmp_path: Path) -> None:
    runner = broken_run(tmp_path, model=True, **HALF)
    runner.train()
    assert runner.iter == 6 and all(p.isfinite().all() for p in runner.model.parameters())
    assert not runner.optim_wrapper.optimizer._optimizer_step_pre_hooks


def test_overflows_in_a_row_are_not_saved(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match='losses are not finite for 6 iterations in a row, the '
                       r"last in iteration 8 of epoch 2, where .* \{'loss_cls': nan\}.* the last "
                       r'checkpoint is \S+epoch_1.pth. Lower .*`optim_wrapper.optimizer.lr`.*'
                       "`optim_wrapper.dtype='bfloat16'`"):
        broken_run(tmp_path, model=True, first=2, batches=4, **HALF).train()
    assert [path.name for path in tmp_path.glob('*.pth')] == ['epoch_1.pth']


def test_overflows_in_a_row_end_training(tmp_path: Path) -> None:
    runner = broken_run(tmp_path, model=True, loss_scale=dict(init_scale=2.), **HALF)
    with pytest.raises(RuntimeError, match='the gradient overflows even at a loss scale of 0.5, '
                       'below 1, in iteration 3 of epoch 1'):
        runner.train()
    assert not list(tmp_path.glob('*.pth'))


def test_under_a_scaler_a_term_may_not_overflow_alone(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match='patch_cosine is nan.*bfloat16 in place of float16'):
        broken_run(tmp_path, **HALF).train()


def two_hooks(work_dir: Path, **options) -> Config:
    """A run with two hooks, each with a power iteration, whose batches come without chance."""
    cfg = digits_config('deit-nano_digits', work_dir, epochs=2, **options)
    power = dict(type='ConditionalOrthogonalityLoss', on='weight', method='power', weight=0.1)
    cfg.custom_hooks = [
        dict(type='mmdiverse.DiversityHook', terms=[TERM, power]),
        dict(type='mmdiverse.DiversityHook', gradient_interval=2,
             terms=[dict(power, matrices=['fc1'], name='mlp')])]
    cfg.train_dataloader.sampler = dict(type='DefaultSampler', shuffle=False)
    cfg.train_dataloader.dataset.pipeline = [dict(type='PackInputs')]
    cfg.model.train_cfg = None
    cfg.model.backbone.drop_path_rate = 0.
    return cfg


def test_a_run_with_two_hooks_is_resumed_and_shares_are_over_the_terms_of_both(tmp_path: Path
                                                                               ) -> None:
    assert_resumes_as_uninterrupted(lambda name, **options: two_hooks(tmp_path / name, **options))
    saved = torch.load(tmp_path / 'whole' / 'epoch_2.pth')['diversity_hook']
    assert {name: [*state] for name, state in saved.items()}.keys() == {
        'weight_conditional_orthogonality', 'mlp'} and all(saved.values())
    lines = [json.loads(line) for path in (tmp_path / 'whole').glob('*/vis_data/scalars.json')
             for line in path.read_text().splitlines()]
    found = shares(lines[0])
    assert found.keys() == {f'{name}_gradient_share' for name in (
        'model', 'patch_cosine', 'weight_conditional_orthogonality', 'mlp')}
    assert sum(found.values()) == pytest.approx(1) and min(found.values()) > 0


def test_two_hooks_train_like_one_with_the_terms_of_both(tmp_path: Path) -> None:
    apart = train(two_hooks(tmp_path / 'apart'))
    cfg = two_hooks(tmp_path / 'together')
    first, second = cfg.custom_hooks
    cfg.custom_hooks = [dict(first, terms=[*first.terms, *second.terms])]
    assert same_state(apart.model.state_dict(), train(cfg).model.state_dict())
    assert not has_hooks(apart.model)


def test_a_hook_that_another_drives_works_alone(tmp_path: Path) -> None:
    class Driver(Hook):
        def __init__(self) -> None:
            self.driven = DiversityHook(terms=[TERM])

        def before_train(self, runner: Runner) -> None:
            self.driven.before_train(runner)

        def after_train(self, runner: Runner) -> None:
            self.driven.after_train(runner)

    runner = Runner.from_cfg(digits_config('deit-nano_digits', tmp_path, batches=1))
    runner.register_hook(Driver())
    runner.train()
    assert 'train/loss_patch_cosine' in runner.message_hub.log_scalars


def test_terms_of_two_hooks_need_names_of_their_own(tmp_path: Path) -> None:
    cfg = two_hooks(tmp_path)
    cfg.custom_hooks[1].terms = [dict(TERM, layers=0)]
    with pytest.raises(ValueError, match="2 terms share the name 'patch_cosine'; give each a `na"):
        train(cfg)


def shares(seen: dict[str, float]) -> dict[str, float]:
    return {key: value for key, value in seen.items() if key.endswith('_gradient_share')}


def diverse_run(work_dir: Path, gradient_interval: int, terms: list[dict], batches: int = 3,
                **options) -> tuple[Runner, Record, DiversityHook]:
    cfg = digits_config('deit-nano_digits', work_dir, batches=batches, **options)
    cfg.model.backbone.drop_path_rate = 0.2
    cfg.custom_hooks = [dict(type='mmdiverse.DiversityHook', terms=terms,
                             gradient_interval=gradient_interval)]
    runner, record = Runner.from_cfg(cfg), Record()
    runner.register_hook(record)
    runner.train()
    hook, = (hook for hook in runner.hooks if isinstance(hook, DiversityHook))
    return runner, record, hook


def test_gradient_shares_are_those_of_separate_backward_passes() -> None:
    model = build_model()
    hook = DiversityHook(terms=[TERM, WEIGHT_TERM], gradient_interval=1)
    hook.attach(model)
    norms = []
    for key in ('loss_cls', 'loss_patch_cosine', 'loss_weight_cosine'):
        model.zero_grad()
        model(**batch(), mode='loss')[key].backward()
        norms.append(torch.cat([p.grad.flatten() for p in model.parameters()
                                if p.grad is not None]).norm().item())
    hook._measures_gradients = True
    found = shares(model(**batch(), mode='loss'))
    assert {key: value.item() for key, value in found.items()} == {
        f'{name}_gradient_share': pytest.approx(norm / sum(norms), rel=1e-4)
        for name, norm in zip(('model', 'patch_cosine', 'weight_cosine'), norms)}


@pytest.mark.parametrize('fragment', ['all', 'official'])
def test_measuring_gradients_leaves_training_as_it_is_bit_for_bit(fragment: str, tmp_path: Path
                                                                  ) -> None:
    states = []
    for interval in (0, 1):
        runner, record, hook = diverse_run(tmp_path / str(interval), interval,
                                           load_fragment(fragment).terms)
        assert all(bool(shares(seen)) == bool(interval) for seen in record.seen)
        ends = {f'{term.name} {key}': value for term in hook.terms
                for key, value in term.loss.state.items()}
        assert bool(ends) == (fragment == 'all')
        states.append({**runner.model.state_dict(), **ends, 'numbers': torch.get_rng_state()})
    assert same_state(*states)


def test_shares_are_measured_every_so_often_and_every_line_of_the_log_has_the_newest(
        tmp_path: Path) -> None:
    _, record, _ = diverse_run(tmp_path, 2, [TERM], batches=4,
                               **{'default_hooks.logger.interval': 1})
    measured = [shares(seen) for seen in record.seen]
    assert [bool(found) for found in measured] == [True, False, True, False]
    for found in measured[::2]:
        assert {*found} == {'model_gradient_share', 'patch_cosine_gradient_share'}
        assert sum(found.values()) == pytest.approx(1) and min(found.values()) > 0
    log, = tmp_path.glob('*/vis_data/scalars.json')
    lines = [shares(json.loads(line)) for line in log.read_text().splitlines()]
    newest = [measured[0], measured[0], measured[2], measured[2]]
    assert lines[:4] == [pytest.approx(found) for found in newest]
    assert measured[0] != measured[2]


def test_the_log_forgets_the_share_of_a_term_that_its_schedule_stops(tmp_path: Path) -> None:
    schedule = dict(type='MultiStepParamScheduler', milestones=[2], gamma=0., by_epoch=False)
    runner, record, _ = diverse_run(tmp_path, 1, [dict(TERM, schedule=schedule), WEIGHT_TERM])
    assert [('patch_cosine_gradient_share' in seen) for seen in record.seen] == [True, True, False]
    assert sum(shares(record.seen[2]).values()) == pytest.approx(1)
    assert {key for key in record.keys if key.endswith('gradient_share')} == {
        'train/model_gradient_share', 'train/weight_cosine_gradient_share'}


def test_shares_wait_until_half_precision_no_longer_overflows(tmp_path: Path) -> None:
    scale = dict(init_scale=2.**40, backoff_factor=2.**-20)
    _, record, _ = diverse_run(tmp_path, 1000, [TERM], batches=4, **{
        'optim_wrapper.type': 'mmdiverse.AutocastOptimWrapper', 'optim_wrapper.dtype': 'float16',
        'optim_wrapper.loss_scale': scale})
    measured = [bool(shares(seen)) for seen in record.seen]
    assert not measured[0] and measured.count(True) == 1
    found = shares(record.seen[measured.index(True)])
    assert sum(found.values()) == pytest.approx(1) and min(found.values()) > 0


def test_shares_of_a_term_of_gradients() -> None:
    model = mixing_model()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    hook = DiversityHook(terms=[dict(GRADIENT_TERM, layers=1)], gradient_interval=1)
    hook.attach(model)
    hook._measures_gradients = True
    losses = model(**mixed_batch(model), mode='loss')
    model.parse_losses(losses)[0].backward()
    found = shares(losses)
    assert len(found) == 2 and sum(found.values()) == pytest.approx(1) and min(found.values()) > 0


def test_a_term_that_takes_the_name_of_the_models_share_is_refused() -> None:
    model = build_model()
    hook = DiversityHook(terms=[dict(TERM, name='model_gradient_share')], gradient_interval=1)
    hook.attach(model)
    hook._measures_gradients = True
    with pytest.raises(ValueError, match="logs 'model_gradient_share' already.*`name`"):
        model(**batch(), mode='loss')


@pytest.mark.parametrize('interval', [-1, 1.5, True, None])
def test_gradient_interval_must_be_a_number_of_iterations(interval: object) -> None:
    with pytest.raises(ValueError, match='`gradient_interval` must be a number of iterations'):
        DiversityHook(terms=[TERM], gradient_interval=interval)


def run_measured(rank: int, name: str, terms: list[dict], folder: Path) -> None:
    """A run of a mode, as one of its processes, that keeps what it logged."""
    mode, = (mode for mode in MODES if mode.name == name)
    cfg = mode_config(mode, 'deit', folder)
    cfg.log_level = 'WARNING'
    cfg.custom_hooks = [dict(type='mmdiverse.DiversityHook', terms=terms, gradient_interval=1)]
    if mode.processes:
        torch.distributed.init_process_group('gloo', rank=rank, world_size=mode.processes,
                                             init_method=f'file://{folder}/store')
    with mode.around():
        runner, record = (FlexibleRunner if 'strategy' in cfg else Runner).from_cfg(cfg), Record()
        runner.register_hook(record)
        runner.train()
    torch.save(record.seen, folder / f'{rank}.pth')
    if mode.processes:
        torch.distributed.destroy_process_group()


def measured_in(name: str, terms: list[dict], folder: Path, monkeypatch: pytest.MonkeyPatch
                ) -> list[list[dict[str, float]]]:
    """The shares of every iteration, of every process."""
    folder.mkdir()
    mode, = (mode for mode in MODES if mode.name == name)
    if mode.processes:
        monkeypatch.setenv('LOCAL_RANK', '0')  # these processes have no GPUs to number
        run_processes(run_measured, name, terms, folder, count=mode.processes)
    else:
        run_measured(0, name, terms, folder)
    seen = [torch.load(folder / f'{rank}.pth') for rank in range(max(mode.processes, 1))]
    assert all(len(iterations) == 2 for iterations in seen)
    return [[shares(iteration) for iteration in iterations] for iterations in seen]


@pytest.mark.parametrize('name', ['DDP, 2 processes', 'DDP, 2 processes, `static_graph`',
                                  'activation checkpointing, not re-entrant'])
def test_shares_in_a_mode_are_those_of_a_plain_run(name: str, tmp_path: Path,
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    terms = [dict(TERM, weight=20.), dict(SHARED[0], weight=5.)]
    plain, = measured_in('fp32', terms, tmp_path / 'plain', monkeypatch)
    assert all(len(found) == 3 for found in plain)
    for process in measured_in(name, terms, tmp_path / 'mode', monkeypatch):
        assert process == [pytest.approx(found, rel=1e-4) for found in plain]


@pytest.mark.parametrize(('name', 'obstacle'), [
    ('activation checkpointing, re-entrant', 're-entrant activation checkpointing'),
    ('`torch.compile`, backend eager', '`compile`'),
    ('FSDP, `SHARD_GRAD_OP`', 'MMFullyShardedDataParallel'),
])
def test_where_shares_cannot_be_measured_one_warning_says_so(
        name: str, obstacle: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for process in measured_in(name, [TERM], tmp_path / 'run', monkeypatch):
        assert process == [{}, {}]
    log = '\n'.join(path.read_text() for path in (tmp_path / 'run').rglob('*.log'))
    assert log.count('no `gradient_share` of terms') == 1
    assert f'because {obstacle} allows no gradients' in log and '`gradient_interval` to 0' in log
