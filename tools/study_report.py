"""Make tables and plots of the results of a study.

Usage:
    python tools/study_report.py configs/cifar/study_cifar10-subset.yaml
    python tools/study_report.py configs/cifar/study_cifar10-subset.yaml --results docs/study.csv \\
        --out docs/study --insert README.md docs/study.md
"""
import argparse
import sys
from pathlib import Path

import mmdiverse  # noqa: F401  first: it says what to install where a host is missing

# isort: split
from mmdiverse.evaluation.study import load_study
from mmdiverse.report.markdown import insert_table
from mmdiverse.report.study import (
    Runs,
    differences_table,
    means_table,
    plot_accuracy,
    plot_similarity,
    plot_tradeoff,
    read_results,
)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(
        'Print means over seeds and paired differences to the plain twin with 95 %% confidence '
        'intervals; write them to study.md, and accuracy.png, similarity.png and tradeoff.png.'))
    parser.add_argument('study', help='the YAML file of the study')
    parser.add_argument('--results', type=Path, metavar='CSV',
                        help='default: work_dirs/study/<name of the study>/results.csv')
    parser.add_argument('--out', type=Path, metavar='FOLDER', help='default: beside the results')
    parser.add_argument('--insert', nargs='+', type=Path, default=[], metavar='PAGE',
                        help='Markdown pages with marks for the tables <name of the study>-means '
                             'or <name of the study>-differences')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    try:
        study = load_study(args.study)
        results = args.results or Path('work_dirs') / 'study' / study.name / 'results.csv'
        if not results.is_file():
            raise FileNotFoundError(f'no results at {results}: call tools/study.py before, or say '
                                    'by --results where they are')
        runs = Runs(read_results(results, study))
        if not runs.values:
            raise ValueError(f'{results}: no run has ended yet')
        out = args.out or results.parent
        out.mkdir(parents=True, exist_ok=True)
        tables = {f'{study.name}-means': means_table(runs),
                  f'{study.name}-differences': differences_table(runs)}
        failed = [f'{model}, {arm}, seed {seed}: {status}'
                  for (model, arm, seed), status in runs.failed.items()]
        text = '\n\n'.join([*tables.values(), *runs.describe_ends(),
                            *['\n'.join(failed)] * bool(failed)])
        (out / 'study.md').write_text(text + '\n', encoding='utf-8')
        for plot in (plot_accuracy, plot_similarity, plot_tradeoff):
            plot(runs, out / f'{plot.__name__.removeprefix("plot_")}.png')
        for path in args.insert:
            page = path.read_text(encoding='utf-8')
            marked = [name for name in tables if f'<!-- {name}: begin -->' in page]
            if not marked:
                raise ValueError(f'--insert {path}: it has no mark for a table, such as '
                                 f'`<!-- {study.name}-means: begin -->`')
            for name in marked:
                page = insert_table(page, name, tables[name])
            path.write_text(page, encoding='utf-8')
    except (OSError, ValueError) as error:
        sys.exit(f'{type(error).__name__}: {error}')
    print(f'{text}\n\n{out}')


if __name__ == '__main__':
    main()
