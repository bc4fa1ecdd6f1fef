"""Train a study: plain and diversified arms of one or more models, with several seeds.

Usage:
    python tools/study.py configs/cifar/study_cifar10-subset.yaml --jobs 2
    python tools/study.py configs/cifar/study_cifar10.yaml --devices 0 1 --jobs 4

On machines that share a file system, as an array of slurm:
    sbatch --array 0-$(($(python tools/study.py STUDY --list | wc -l) - 1)) --gres gpu:1 \\
        --wrap 'python tools/study.py STUDY --task $SLURM_ARRAY_TASK_ID'
"""
import argparse
import sys
from pathlib import Path

import mmdiverse  # noqa: F401  first: it says what to install where a host is missing

# isort: split
from mmdiverse.evaluation.interruption import explain_interruption
from mmdiverse.evaluation.study import load_study, run_study, run_task, write_results


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(
        'Train every arm of a study with every seed, each run in a process of its own, and write '
        'results.csv; tools/study_report.py makes tables and plots of it. Interrupt it at any '
        'time: the same command goes on, and tries again what failed.'))
    parser.add_argument('study',
                        help='a YAML file, such as configs/cifar/study_cifar10-subset.yaml')
    parser.add_argument('--work-dir', help='default: work_dirs/study/<name of the study>')
    parser.add_argument('--jobs', type=int, default=1,
                        help='runs at a time, on each device (default: 1)')
    parser.add_argument('--devices', nargs='+', default=[], metavar='N', help='numbers of GPUs')
    parser.add_argument('--list', action='store_true', help='print the runs, and train none')
    parser.add_argument('--task', type=int, metavar='N',
                        help='train run N of the list alone, in this process')
    return parser.parse_args()


def main() -> int:
    args = parse_args()
    try:
        study = load_study(args.study)
        work_dir = Path(args.work_dir or Path('work_dirs') / 'study' / study.name)
        runs = study.runs(work_dir)
        if args.list:
            print(*runs, sep='\n')
            return 0
        if args.task is not None:
            if not 0 <= args.task < len(runs):
                raise ValueError(f'--task must be from 0 to {len(runs) - 1}, but got {args.task}')
            ended = run_task(runs[args.task])
        else:
            command = [sys.executable, __file__, args.study, '--work-dir', str(work_dir), '--task']
            ended = run_study(runs, command, args.jobs, args.devices)
            print(work_dir / 'results.csv')
        write_results(study, runs, work_dir / 'results.csv')
    except KeyboardInterrupt as interruption:  # of a single run, which goes on where it was
        sys.exit(explain_interruption(interruption))
    except (OSError, ValueError) as error:
        sys.exit(f'{type(error).__name__}: {error}')
    return int(not ended)


if __name__ == '__main__':
    sys.exit(main())
