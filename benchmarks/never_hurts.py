"""Compares `recipes.default`, untuned, with the student alone, on pairs that made no rules.

For each pair the student is trained alone, and distilled by the choice of `recipes.default`, over
paired seeds with the same budget of updates, from the teacher's answers on the training split. One
more training of the student alone, under another seed, shows how well it fits. If the answers are
classes, `keras.distillation` is trained at its best setting, too, from the same answers
(`peer.py`). The setting is the best of six on the validation split (temperature 1, 2 and 4, alpha
0.5 and 0.9), each trained once under another seed.

*Test* scores are accuracy in %, or 100 R squared for a regression. "Returned" is the arm that
`compress` would return: the one with the higher mean on the validation split. Every training is
saved when it is done, so the same command continues an interrupted run. A whole run takes hours on
two cores.

    python benchmarks/never_hurts.py --data=DIR --out=runs/gains [--seeds=5] [--pairs NAME ...]

`pairs.py` describes `DIR`. `docs/gains.py` draws the picture from `gains.json`.
"""

import argparse
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from measuring import machine
from pairs import HELD_OUT, NOT_AHEAD
from trained_pairs import Trained

from keras_distill._files import write_json
from keras_distill.experiments.tuning.settings import shown

PAIRS = {**HELD_OUT, **NOT_AHEAD}


def row(name, data, out, seeds):
    """Returns the scores of one pair, and their paired difference."""
    trained = Trained(name, PAIRS[name], data, out)
    chosen = trained.default(seed=min(seeds) - 1)
    alone = [trained.trained("alone", None, seed) for seed in seeds]
    kind = shown(chosen.setting).replace(", ", "-").replace(" ", "_")
    taught = [trained.trained(f"default-{kind}", chosen.setting, seed) for seed in seeds]
    gains = np.subtract([each["test"] for each in taught], [each["test"] for each in alone])
    valid = np.mean([t["valid"] - a["valid"] for t, a in zip(taught, alone)])
    return {
        **peer(trained, seeds, [each["test"] for each in alone]),
        "pair": name, "setting": chosen.setting, "reasons": chosen.reasons,
        "teacher": trained.score(trained.answers["test"], "test"),
        "alone": [each["test"] for each in alone], "default": [each["test"] for each in taught],
        "gain": float(gains.mean()), "error": float(gains.std(ddof=1) / len(gains) ** 0.5),
        "valid_gain": float(valid), "returned": float(gains.mean()) if valid > 0 else 0.0,
    }  # fmt: skip


def peer(trained, seeds, alone):
    """Returns the scores of `keras.distillation` at its best setting; none for a regression."""
    if trained.pair.loss != "classes":
        return {}
    first = min(seeds) - 1
    tried = {(t, a): trained.by_keras(t, a, first)["valid"] for t in (1, 2, 4) for a in (0.5, 0.9)}
    best = max(tried, key=tried.get)
    found = [trained.by_keras(*best, seed)["test"] for seed in seeds]
    gains = np.subtract(found, alone)
    return {"keras": found, "keras_setting": best, "keras_gain": float(gains.mean()),
            "keras_error": float(gains.std(ddof=1) / len(gains) ** 0.5)}  # fmt: skip


def table(rows):
    lines = ["| pair | chosen | teacher | alone | default | gain ± error | returned "
             "| keras.distillation |", "|---|---|---|---|---|---|---|---|"]  # fmt: skip
    for each in rows:
        lines.append(
            f"| {each['pair']} | {shown(each['setting'])} | {each['teacher']:.2f} "
            f"| {np.mean(each['alone']):.2f} | {np.mean(each['default']):.2f} "
            f"| {each['gain']:+.2f} ± {each['error']:.2f} | {each['returned']:+.2f} "
            f"| {_keras(each)} |"
        )
    return "\n".join(lines)


def summary(rows):
    """Returns a sentence on the pairs whose teachers are trained to their end."""
    gains = {each["pair"]: (each["gain"], each["error"]) for each in rows}
    gains = [gains[name] for name in HELD_OUT if name in gains]
    won, worst = sum(gain > error for gain, error in gains), min(gains, default=None)
    return worst and (f"Without the teachers that are not ahead: {won} of {len(gains)} are better "
                      f"by more than the standard error. The worst: {worst[0]:+.2f}.")  # fmt: skip


def _keras(row):
    if "keras_gain" not in row:
        return "-"
    temperature, alpha = row["keras_setting"]
    return f"{row['keras_gain']:+.2f} ± {row['keras_error']:.2f} (T {temperature:g}, {alpha:g})"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, metavar="DIR", help="the folder of the data sets")
    parser.add_argument("--out", required=True, metavar="DIR",
                        help="where the run is written, and goes on")  # fmt: skip
    parser.add_argument("--seeds", type=int, default=5, help="how many seeds to run")
    parser.add_argument("--pairs", nargs="+", choices=PAIRS, default=list(PAIRS),
                        help="the pairs to run (default: all)")  # fmt: skip
    given = parser.parse_args()
    rows = []
    for name in given.pairs:
        rows.append(row(name, given.data, given.out, range(100, 100 + given.seeds)))
        print(table(rows[-1:]).splitlines()[2], flush=True)
        found = {"machine": machine(), "seeds": given.seeds, "rows": rows}
        write_json(pathlib.Path(given.out) / "gains.json", found)
    print(table(rows), summary(rows) or "", sep="\n\n")


if __name__ == "__main__":
    main()
