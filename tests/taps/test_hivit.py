"""HiViT: stages before the main one, whose blocks have no attention."""
from tests.taps.families import attached
from tests.taps.families.hivit import FAMILIES


def test_blocks_are_those_of_the_main_stage() -> None:
    backbone = FAMILIES[0].build()
    tap = attached(backbone)
    assert tap.blocks == list(backbone.blocks[3:]) and len(tap.blocks) == 4
    assert all(block.attn is not None for block in tap.blocks)


def test_the_stages_before_are_the_embedding() -> None:
    backbone = FAMILIES[0].build()
    known = {id(parameter) for parameter in attached(backbone)._parameters_before('embed')}
    assert all(id(parameter) in known for parameter in backbone.blocks[:3].parameters())
