"""What every registered tap keeps to, whatever its family of backbones."""
import weakref
from collections import defaultdict
from functools import partial
from typing import Any

import pytest
import torch
from mmpretrain.models.backbones import SVT, ResNet
from mmpretrain.models.peft import LoRAModel
from mmpretrain.models.peft.lora import LoRALinear
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from mmdiverse.image_mask import ImageMask
from mmdiverse.records import AttentionRecord, HeadRecord, Record, TokenRecord
from mmdiverse.registry import TAPS
from mmdiverse.taps import Tap, build_tap
from mmdiverse.taps.base import HEADS, Weights, find_weight
from tests.taps.families import (
    FAMILIES,
    Family,
    attached,
    everything,
    timm_davit,
    timm_sam,
    timm_swin,
    timm_tiny_vit,
    timm_twins,
)
from tests.taps.families.davit import DAVIT, DaViTFamily, davit
from tests.taps.families.swin import SWIN, swin
from tests.taps.families.tinyvit import TINYVIT, TinyViTFamily, tinyvit
from tests.taps.families.twins import TWINS, TwinsFamily, twins
from tests.taps.families.vit import FAMILIES as VIT
from tests.taps.families.vit_sam import SAM, vit_sam

TAPS.import_from_location()

every_family = pytest.mark.parametrize('family', FAMILIES, ids=str)
PADDED = [
    # 6 x 6 tokens in windows of 4, then 3 x 3 in one.
    Family('swin-padded', make=lambda: swin(img_size=12, pad_small_map=True),
           **{**SWIN, 'image_size': 12, 'num_patches': 36}),
    # 3 x 3 tokens in windows of 2.
    Family('vit-sam-padded', make=lambda: vit_sam(img_size=12),
           **{**SAM, 'image_size': 12, 'num_patches': 9}),
    # 6 x 6 tokens in windows of 4, then 3 x 3: in windows of 2, in one, in one.
    TwinsFamily('svt-padded', make=lambda: twins(SVT, window_sizes=[4, 2]),
                **{**TWINS, 'image_size': 24, 'num_patches': 36}),
    DaViTFamily('davit-padded', make=lambda: davit(pad_small_map=True),
                **{**DAVIT, 'image_size': 12, 'num_patches': 36}),
    TinyViTFamily('tinyvit-padded', make=lambda: tinyvit(window_size=4), **TINYVIT),
    *timm_davit.PADDED,
    *timm_sam.PADDED,
    *timm_swin.PADDED,
    *timm_tiny_vit.PADDED,
    *timm_twins.PADDED,
]
fused_families = pytest.mark.parametrize(
    'family', [family for family in FAMILIES if not TAPS.get(family.tap).probed], ids=str)
families_with_maps = pytest.mark.parametrize(
    'family', [family for family in FAMILIES if family.with_maps], ids=str)
every_source = pytest.mark.parametrize(
    ('family', 'source'),
    [pytest.param(family, source, id=f'{family}-{source}') for family in FAMILIES
     for source in ('patch', *HEADS) if source == 'patch' or family.with_maps])


def split_qkv(qkv: Tensor, heads: int) -> list[Tensor]:
    """Queries, keys and values ``(B, H, N, d)`` of the output of a fused layer."""
    batch, tokens, width = qkv.shape
    return list(qkv.view(batch, tokens, 3, heads, width // 3 // heads).permute(2, 0, 3, 1, 4))


def hooks_of(backbone: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks)
               for module in backbone.modules())


def seeded_forward(backbone: nn.Module, images: Tensor) -> tuple[Tensor, ...]:
    torch.manual_seed(7)
    return backbone(images)


def second(tap: Tap, source: str) -> int:
    """The second of the layers that have what is captured."""
    return [layer for each, layer in everything(tap) if each == source and layer != 'embed'][1]


def tensors_of(output: Any) -> list[Tensor]:
    return [each for each in (output if isinstance(output, tuple) else (output, ))
            if isinstance(each, Tensor)]


def read_all(tap: Tap) -> None:
    for source, layer in tap._captured:
        tap.records(source, layer)


def test_every_registered_tap_has_a_family() -> None:
    registered = {name for name in TAPS.module_dict
                  if TAPS.module_dict[name].__module__.startswith('mmdiverse.')}
    assert registered == {family.tap for family in FAMILIES}


@every_family
def test_the_right_tap_is_built(family: Family) -> None:
    assert type(build_tap(family.build())) is TAPS.get(family.tap)


@every_family
@pytest.mark.parametrize('training', [False, True])
def test_outputs_stay_the_same_bit_for_bit(family: Family, training: bool) -> None:
    backbone = family.build()
    backbone.train(training)
    expected = seeded_forward(backbone, family.images())
    tap = attached(backbone)
    with tap.recording():
        outputs = seeded_forward(backbone, family.images())
        read_all(tap)
    assert all(torch.equal(*pair) for pair in zip(outputs, expected, strict=True))


@families_with_maps
def test_maps_times_values_are_the_attention(family: Family) -> None:
    backbone = family.build()
    tap, seen, blocks = attached(backbone), {}, family.find_blocks(backbone)
    for source, layer in everything(tap):
        if source != 'maps':
            continue
        family.find_attention(blocks[layer]).get_submodule(family.proj).register_forward_pre_hook(
            lambda module, args, layer=layer: seen.update({layer: args[0]}))
    with tap.recording():
        backbone(family.images())
        for layer in (layer for source, layer in tap._captured if source == 'maps'):
            maps, values, outputs = (tap.records(source, layer)[0] for source in HEADS)
            output = maps.maps @ values.heads
            torch.testing.assert_close(output, outputs.heads, rtol=1e-5, atol=1e-5)
            if family.head_outputs:
                expected = family.head_outputs(seen[layer])
                torch.testing.assert_close(
                    output.transpose(1, 2).flatten(2),
                    expected.reshape(len(output), output.size(2), -1), rtol=1e-5, atol=1e-5)


@fused_families
def test_values_and_outputs_are_those_of_the_heads(family: Family) -> None:
    backbone = family.build()
    tap, seen = attached(backbone), {}
    attention = family.find_attention(family.find_blocks(backbone)[1])
    attention.qkv.register_forward_hook(
        lambda module, args, output: seen.update(qkv=output))
    attention.proj.register_forward_pre_hook(lambda module, args: seen.update(proj=args[0]))
    with tap.recording():
        backbone(family.images())
        values, outputs = (tap.records(source, 1)[0].vectors() for source in ('values', 'outputs'))
    assert torch.equal(values, split_qkv(seen['qkv'], attention.num_heads)[2].flatten(2))
    for head, own in enumerate(seen['proj'].chunk(attention.num_heads, dim=-1)):
        assert torch.equal(outputs[:, head], own.flatten(1))


@families_with_maps
def test_maps_have_a_row_per_token_that_sums_to_one(family: Family) -> None:
    backbone = family.build()
    tap = attached(backbone)
    with tap.recording():
        backbone(family.images())
        maps = tap.records('maps', 0)[0].maps
    torch.testing.assert_close(maps.sum(-1), torch.ones(maps.shape[:-1]))


@every_family
def test_patch_records_are_the_outputs_of_blocks_without_prefix(family: Family) -> None:
    backbone = family.build()
    tap, outputs = attached(backbone), []
    for block in family.find_blocks(backbone):
        block.register_forward_hook(
            lambda module, args, output: outputs.append(family.output(output)))
    with tap.recording():
        backbone(family.images())
        records = [tap.records('patch', layer)[0] for layer in range(len(tap.blocks))]
        # A register may hold several tokens, so they are counted from the patches.
        skipped = outputs[0].size(1) - family.num_patches
        assert skipped >= len(family.prefix) and len(records) == len(outputs)
        assert all(torch.equal(record.vectors(), output[:, skipped:])
                   for record, output in zip(records, outputs))


@every_family
def test_prefix_tokens_are_not_in_the_embedding_record(family: Family) -> None:
    backbone = family.build()
    tap = attached(backbone)

    def embedding() -> Tensor:
        with tap.recording(), torch.no_grad():
            backbone(family.images())
            return tap.records('patch', 'embed')[0].vectors()

    before = embedding()
    with torch.no_grad():
        for path in family.prefix:
            parent, _, name = path.rpartition('.')
            getattr(backbone.get_submodule(parent), name).add_(torch.randn(()))
    after = embedding()
    assert after.size(1) == family.num_patches and torch.equal(after, before)


@every_source
def test_gradient_reaches_the_layer_and_those_before_it(family: Family, source: str) -> None:
    backbone = family.build()
    tap, blocks = attached(backbone), family.find_blocks(backbone)
    layer = second(tap, source)
    with tap.recording():
        backbone(family.images())
        tap.records(source, layer)[0].vectors().square().sum().backward()
    for block in blocks[:layer + 1]:
        # Maps of the last block know nothing of its values.
        assert family.find_weights(block)[0 if source == 'maps' else -1].grad.abs().sum() > 0
    assert all(parameter.grad is None for block in blocks[layer + 1:]
               for parameter in block.parameters())


@every_family
def test_gradient_of_the_embedding_reaches_no_block(family: Family) -> None:
    backbone = family.build()
    tap = attached(backbone)
    with tap.recording():
        backbone(family.images())
        tap.records('patch', 'embed')[0].vectors().square().sum().backward()
    of_blocks = {parameter for block in family.find_blocks(backbone)
                 for parameter in block.parameters()}
    trained = {parameter for parameter in backbone.parameters() if parameter.grad is not None}
    assert trained and not trained & of_blocks


@every_family
def test_every_parameter_of_the_embedding_is_known(family: Family) -> None:
    # Else training one of them alone would not be noticed where its gradient is cut.
    backbone = family.build()
    tap = attached(backbone)
    with tap.recording():
        backbone(family.images())
        tap._captured['patch', 'embed'].square().sum().backward()  # prefix tokens too
    known = {id(parameter) for parameter in tap._parameters_before('embed')}
    assert {name for name, parameter in backbone.named_parameters()
            if parameter.grad is not None and id(parameter) not in known} == set()


@every_family
def test_nothing_is_captured_outside_recording(family: Family) -> None:
    backbone = family.build()
    tap = attached(backbone)
    backbone(family.images())
    with pytest.raises(RuntimeError, match='nothing was captured'):
        tap.records('patch', 0)


@every_family
def test_detaching_leaves_no_hook_and_no_tensor(family: Family) -> None:
    backbone, kept = family.build(), []
    family.find_blocks(backbone)[0].register_forward_hook(
        lambda module, args, output: kept.extend(map(weakref.ref, tensors_of(output))))
    hooks = hooks_of(backbone)
    tap = attached(backbone)
    tap.start()
    backbone(family.images())
    read_all(tap)
    tap.detach()
    assert hooks_of(backbone) == hooks and kept and all(each() is None for each in kept)


@every_family
def test_leaving_recording_forgets_the_tensors(family: Family) -> None:
    backbone, kept = family.build(), []
    family.find_blocks(backbone)[0].register_forward_hook(
        lambda module, args, output: kept.extend(map(weakref.ref, tensors_of(output))))
    tap = attached(backbone)
    with tap.recording():
        backbone(family.images())
        tap.records('patch', 0)
    assert kept and all(each() is None for each in kept)


@every_family
def test_weights_are_found_by_name(family: Family) -> None:
    backbone = family.build()
    tap = build_tap(backbone)
    for layer, block in enumerate(family.find_blocks(backbone)):
        for name, matrix in family.find_matrices(block).items():
            record, = tap.records('weight', layer, Weights((name, )))
            assert torch.equal(record.vectors(), matrix[None])


@every_family
def test_matrices_of_one_linear_layer_share_a_record_in_the_order_asked_for(family: Family
                                                                           ) -> None:
    backbone = family.build()
    block = family.find_blocks(backbone)[0]
    matrices = family.find_matrices(block)
    *found, single = build_tap(backbone).records(
        'weight', 0, Weights(('v', 'q', 'proj')))
    fused = [matrix for record in found for matrix in record.vectors()]
    assert len(found) == (1 if len(family.find_weights(block)) == 1 and not family.split else 2)
    assert all(torch.equal(*pair)
               for pair in zip(fused, (matrices['v'], matrices['q']), strict=True))
    assert torch.equal(single.vectors(), matrices['proj'][None])


@pytest.mark.parametrize('family', [family for family in FAMILIES if not family.split], ids=str)
def test_queries_keys_and_values_together_are_no_copy(family: Family) -> None:
    backbone = family.build()
    weights = family.find_weights(family.find_blocks(backbone)[0])
    records = build_tap(backbone).records('weight', 0)
    assert [record.vectors().untyped_storage().data_ptr() for record in records] == \
        [weight.untyped_storage().data_ptr() for weight in weights]


@every_family
def test_matrices_per_head_are_rows_of_queries_and_columns_of_the_projection(family: Family
                                                                            ) -> None:
    backbone = family.build()
    block = family.find_blocks(backbone)[0]
    heads, matrices = family.count_heads(block), family.find_matrices(block)
    queries, projection = build_tap(backbone).records(
        'weight', 0, Weights(('q', 'proj'), per_head=True))
    assert torch.equal(queries.vectors(), torch.stack(matrices['q'].chunk(heads)))
    assert torch.equal(projection.vectors(), torch.stack(matrices['proj'].chunk(heads, dim=1)))


@every_family
@pytest.mark.parametrize('per_head', [False, True])
def test_columns_are_the_rows_of_the_transpose(family: Family, per_head: bool) -> None:
    tap = build_tap(family.build())
    rows, columns = (tap.records('weight', 0, Weights(('q', 'k', 'v'), vectors, per_head))[0]
                     for vectors in ('rows', 'columns'))
    assert torch.equal(columns.vectors(), rows.vectors().mT)


@every_family
def test_layers_that_no_head_shares_are_refused_per_head(family: Family) -> None:
    with pytest.raises(ValueError, match=r"`per_head=True` needs `matrices` .*got \['fc2'\]"):
        build_tap(family.build()).check_weights(Weights(('q', 'fc2'), per_head=True))


@every_family
def test_gradients_of_a_loss_are_records_that_train(family: Family) -> None:
    backbone = family.build().double()
    tap = attached(backbone)
    images = family.images().double()
    with tap.recording(), sdpa_kernel(SDPBackend.MATH):
        loss = (backbone(images)[0]**2).mean()
        record, = tap.gradient_records(0, loss)
        tokens, = torch.autograd.grad(loss, tap._captured['patch', 0], retain_graph=True)
        torch.testing.assert_close(record.vectors(),
                                   len(images) * tap._arrange(tokens)[:, tap.num_prefix:])
        record.vectors().square().sum().backward()
    weight = family.find_weights(family.find_blocks(backbone)[1])[-1]
    assert weight.grad.abs().sum() > 0


@every_family
def test_unknown_matrices_are_refused(family: Family) -> None:
    with pytest.raises(ValueError, match=r"`matrices` must be taken from .*'fc2'.*got \['qkv'\]"):
        build_tap(family.build()).check_weights(Weights(('q', 'qkv')))


@every_family
def test_a_sharded_weight_is_refused(family: Family) -> None:
    backbone = family.build()
    weight = family.find_weights(family.find_blocks(backbone)[1])[0]
    weight.data = weight.data.flatten()[:10]
    with pytest.raises(RuntimeError, match='in block 1 .*is sharded away'):
        build_tap(backbone).records('weight', 1)


@every_source
def test_a_frozen_backbone_is_read_without_gradient(family: Family, source: str) -> None:
    backbone = family.build().requires_grad_(False)
    tap = attached(backbone)
    with tap.recording():
        backbone(family.images())
        assert not tap.records(source, 0)[0].vectors().requires_grad


@every_source
def test_a_layer_that_was_not_reached_is_an_error(family: Family, source: str) -> None:
    tap = attached(family.build())
    message = f"nothing was captured of '{source}' at layer 1.*change `layers`"
    with tap.recording(), pytest.raises(RuntimeError, match=message):
        tap.records(source, 1)


@families_with_maps
@pytest.mark.parametrize('frozen_embedding', [False, True])
@pytest.mark.parametrize('source', HEADS)
def test_reentrant_checkpointing_hides_attention_and_is_named(
        family: Family, source: str, frozen_embedding: bool) -> None:
    backbone = family.build().requires_grad_(not frozen_embedding)
    blocks, layer = family.find_blocks(backbone), second(build_tap(backbone), source)
    for block in blocks:
        block.requires_grad_(True)
    block = family.find_called(blocks[layer])
    forward = block.forward
    block.forward = lambda *args, **kwargs: checkpoint(partial(forward, **kwargs), *args,
                                                       use_reentrant=True)
    tap = attached(backbone)
    with tap.recording():
        backbone(family.images())
        with pytest.raises(RuntimeError, match='has no gradient.*`activation_checkpointing`'):
            tap.records(source, layer)
        assert tap.records('patch', layer)[0].vectors().requires_grad


@families_with_maps
def test_checkpointing_that_is_not_reentrant_gives_the_same_gradient(family: Family) -> None:
    gradients = []
    for checkpointed in (False, True):
        backbone = family.build()
        layer = second(build_tap(backbone), 'maps')
        block = family.find_blocks(backbone)[layer]
        if checkpointed:
            called = family.find_called(block)
            called.forward = partial(checkpoint, called.forward, use_reentrant=False)
        tap = attached(backbone)
        with tap.recording():
            backbone(family.images())
            tap.records('maps', layer)[0].vectors().square().sum().backward()
        gradients.append(family.find_weights(block)[0].grad)
    torch.testing.assert_close(*gradients)


@pytest.fixture(scope='module')
def tap() -> Tap:
    return build_tap(VIT[0].build())


@pytest.mark.parametrize(('layers', 'on', 'expected'), [
    (-1, 'patch', [2]),
    (0, 'attention', [0]),
    ([-1, 0], 'patch', [2, 0]),
    ('embed', 'patch', ['embed']),
    (('embed', -1), 'patch', ['embed', 2]),
    ('all', 'patch', [0, 1, 2]),
    ('all', 'weight', [0, 1, 2]),
    (range(2), 'weight', [0, 1]),
])
def test_layers_become_block_indices(tap: Tap, layers: object, on: str, expected: list) -> None:
    assert tap.resolve_layers(layers, on) == expected


@pytest.mark.parametrize(('layers', 'on', 'message'), [
    (3, 'patch', "from -3 to 2, or 'embed', .*with 3 blocks, but got 3"),
    (-4, 'attention', "from -3 to 2 or be 'all' at level 'attention'.*got -4"),
    ([0, 7], 'weight', '`layers` must hold .*got 7'),
    ('embed', 'attention', "`layers` must hold .*got 'embed'"),
    ('last', 'patch', "`layers` must hold .*got 'last'"),
    (1.0, 'patch', '`layers` must hold .*got 1.0'),
    (True, 'patch', '`layers` must hold .*got True'),
    ([0, 'all'], 'patch', "`layers` must hold .*got 'all'"),
    ([], 'patch', '`layers` is empty'),
    ([-1, 2], 'patch', r'`layers` names a block twice: \[-1, 2\]'),
])
def test_layers_that_do_not_exist_are_refused(tap: Tap, layers: object, on: str, message: str
                                              ) -> None:
    with pytest.raises(ValueError, match=message):
        tap.resolve_layers(layers, on)


def test_an_unknown_backbone_names_the_pages_to_read() -> None:
    with pytest.raises(ValueError, match='no tap knows the backbone ResNet .*docs/coverage.md .*'
                                         r'docs/add_a_backbone.md\)$'):
        build_tap(ResNet(18))


def test_a_missing_module_is_named() -> None:
    backbone = VIT[0].build()
    del backbone.layers[1].attn.qkv
    tap = build_tap(backbone)
    with pytest.raises(ValueError, match='expects a module `attn.qkv` .*block 1 of VisionTransf'):
        tap.attach(everything(tap))


def test_a_failed_attach_leaves_no_hook() -> None:
    backbone = VIT[0].build()
    backbone.layers[2].attn = nn.Identity()
    tap = build_tap(backbone)
    with pytest.raises(ValueError, match='attention of VisionTransformer is a Identity'):
        tap.attach([('patch', 0), ('maps', 2)])
    assert hooks_of(backbone) == 0


def test_wrappers_are_looked_through() -> None:
    backbone = LoRAModel(module=dict(type='VisionTransformer', arch=dict(
        embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=24), img_size=12,
        patch_size=4), rank=2, targets=[dict(type='qkv')])
    for index, block in enumerate(backbone.module.layers):
        block.attn = checkpoint_wrapper(block.attn)
        backbone.module.layers[index] = checkpoint_wrapper(block)
    tap = attached(backbone)
    with tap.recording():
        backbone(torch.randn(2, 3, 12, 12))
        for source in ('patch', *HEADS):
            assert tap.records(source, 1)[0].shape[0] == 2


def test_weights_with_lora_are_the_sum_of_both_parts() -> None:
    linear = LoRALinear(nn.Linear(4, 6), alpha=3, rank=2)
    nn.init.normal_(linear.lora_up.weight)
    weight, shape = find_weight(linear)
    inputs = torch.randn(5, 4)
    torch.testing.assert_close(inputs @ weight.T + linear.original_layer.bias, linear(inputs))
    assert shape == weight.shape == (6, 4)


def places(block: nn.Module, rows: int, columns: int) -> list[list[tuple[int, int]]]:
    """Row and column of the tokens that a block attends to together, loop by loop."""
    attention = getattr(block, 'attn', None)
    shifted = hasattr(attention, 'shift_size')
    sizes = [getattr(part, 'window_size', 0) for part in (block, attention)]
    size = max((size for size in sizes if isinstance(size, int)), default=0)
    if not size:
        return [[(row, column) for row in range(rows) for column in range(columns)]]
    single = not shifted or min(rows, columns) == size and not attention.pad_small_map
    shift = 0 if single else attention.shift_size
    high, wide = -(-rows // size) * size, -(-columns // size) * size
    return [[((top + row + shift) % high, (left + column + shift) % wide)
             for row in range(size) for column in range(size)]
            for top in range(0, high, size) for left in range(0, wide, size)]


def contents(record: Record) -> Tensor:
    """What a record holds, with its tokens in dimension -2."""
    return {AttentionRecord: lambda: record.maps, HeadRecord: lambda: record.heads,
            TokenRecord: record.vectors}[type(record)]()


def without(item: Tensor, kept: list[int], num_prefix: int, source: str) -> Tensor:
    """One item without the tokens that do not count."""
    if source == 'patch':
        return item[kept]
    kept = [*range(num_prefix), *(token + num_prefix for token in kept)]
    if source != 'maps':
        return item[:, kept]
    maps = item[:, kept][:, :, kept]
    return maps / maps.sum(-1, keepdim=True)


@pytest.mark.parametrize('family', PADDED + [
    family for family in FAMILIES
    if TAPS.get(family.tap).patch_size is not Tap.patch_size and not family.masks], ids=str)
@pytest.mark.parametrize('padding', [False, True])
@pytest.mark.parametrize('layer', [0, 1, -1])
@pytest.mark.parametrize('source', ['patch', *HEADS])
def test_no_token_of_padding_enters_a_record(family: Family, padding: bool, layer: int,
                                             source: str) -> None:
    backbone, side = family.build(), family.image_size
    tap = attached(backbone)
    layer %= len(tap.blocks)
    patch = tap.patch_size(layer)[0]
    sizes = [(side, side)] * 3
    if padding:  # a row that ends within a patch, and a patch with a column more
        sizes[1:] = [(side - 1, side), (side - patch, side - patch + 1)]
    if source in HEADS and (source, layer) not in everything(tap):
        pytest.skip('it has no maps')
    rows = -(-side // patch)
    together = [[(row, column) for row in range(rows) for column in range(rows)]] \
        if source == 'patch' else (family.places or places)(tap.blocks[layer], rows, rows)
    with tap.recording(ImageMask(sizes, (side, side))):
        backbone(family.images())
        captured = contents(tap.whole_record(source, layer))
        keys = {'maps': -1, 'values': -2}.get(source)
        if keys and captured.size(keys) != tap.num_prefix + len(together[0]):
            pytest.skip('it has other keys than queries')
        records = tap.records(source, layer)
    expected = defaultdict(list)
    for (high, wide), windows in zip(sizes, captured.split(len(together)), strict=True):
        for item, tokens in zip(windows, together, strict=True):
            kept = [index for index, (row, column) in enumerate(tokens)
                    if row < rows and column < rows and (row + 1) * patch <= high
                    and (column + 1) * patch <= wide]
            if len(kept) > 1:
                expected[len(kept)].append(without(item, kept, tap.num_prefix, source))
    assert len(records) == len(expected)
    for record, count in zip(records, sorted(expected), strict=True):
        torch.testing.assert_close(contents(record), torch.stack(expected[count]))
    assert len(expected) > 1 or not padding
