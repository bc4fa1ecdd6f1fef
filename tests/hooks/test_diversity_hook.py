import logging
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample

from mmdiverse.config import load_fragment, plain_twin
from mmdiverse.hooks import DiversityHook
from mmdiverse.taps import build_tap
from mmdiverse.terms import DiversityTerm
from tests.runs import digits_config, same_state, train

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
                                     method='power', weight=1.)])
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


def test_resumed_run_equals_the_uninterrupted_one(tmp_path: Path) -> None:
    whole = train(digits_config('deit-nano_diverse_digits', tmp_path / 'whole', epochs=2))

    class Interrupted(Exception):
        pass

    cfg = digits_config('deit-nano_diverse_digits', tmp_path / 'parts', epochs=2)
    runner = Runner.from_cfg(cfg)
    runner.logger.setLevel(logging.ERROR)
    from mmengine.hooks import Hook

    class Interrupt(Hook):
        def before_train_epoch(self, runner: Runner) -> None:
            if runner.epoch == 1:
                raise Interrupted
    runner.register_hook(Interrupt())
    with pytest.raises(Interrupted):
        runner.train()
    cfg = digits_config('deit-nano_diverse_digits', tmp_path / 'parts', epochs=2, resume=True)
    cfg.experiment_name = 'resumed'
    resumed = train(cfg)
    assert resumed.iter == whole.iter
    starts = whole.message_hub.log_scalars['train/loss_weight_conditional_orthogonality']
    again = resumed.message_hub.log_scalars['train/loss_weight_conditional_orthogonality']
    assert len(starts.data[0]) == len(again.data[0])
