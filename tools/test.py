"""Test a model: MMPretrain's own test.py and its arguments.

    python tools/test.py CONFIG CHECKPOINT
"""
from mmdiverse.launch import run

if __name__ == '__main__':
    run('test.py')
