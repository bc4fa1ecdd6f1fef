"""Train a model: MMPretrain's own train.py and its arguments, and ``--diversity``.

    python tools/train.py CONFIG
    python tools/train.py mmpretrain::deit/deit-small_4xb256_in1k.py --diversity all
"""
from mmdiverse.launch import run

if __name__ == '__main__':
    run('train.py')
