"""Trains the settings from which the rules of `recipes.default` were derived.

Each setting is trained over paired seeds, from the teacher's cached answers, and so is the student
alone. Gains are points on the validation split. Every training is saved when it is done, so the
same command continues an interrupted run.

    python benchmarks/default_recipe.py --data=DIR --out=runs/rules [--seeds=3] [--pairs NAME ...]
"""

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from pairs import FOR_RULES
from trained_pairs import FALLS, Trained

CLASSES = [
    {"recipe": recipe, "temperature": t, "alpha": alpha}
    for recipe, t, alpha in (
        ("hinton", 1.0, 0.5), ("hinton", 1.0, 0.9), ("dist", 1.0, 0.5), ("dist", 1.0, 0.9),
        ("dist", 2.0, 0.5), ("dist", 4.0, 0.5), ("hinton", 2.0, 0.5), ("hinton", 4.0, 0.5),
        ("hinton", 2.0, FALLS), ("hinton", 4.0, FALLS), ("dist", 2.0, FALLS),
    )
]  # fmt: skip
VALUES = [{"recipe": "values", "alpha": alpha} for alpha in (0.5, 0.9, FALLS)]


def named(setting):
    return " ".join(str(value) for value in setting.values())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="the folder of the data sets")
    parser.add_argument("--out", required=True, help="where the run is written, and goes on")
    parser.add_argument("--seeds", type=int, default=3, help="how many seeds to run")
    parser.add_argument("--pairs", nargs="+", choices=FOR_RULES, default=list(FOR_RULES),
                        help="the pairs to run (default: all)")  # fmt: skip
    given = parser.parse_args()
    for name in given.pairs:
        trained = Trained(name, FOR_RULES[name], given.data, given.out)
        teacher = {split: trained.score(trained.answers[split], split) for split in trained.data}
        seeds = range(given.seeds)
        alone = [trained.trained("alone", None, seed) for seed in seeds]
        mean = {split: np.mean([each[split] for each in alone]) for split in teacher}
        print(f"\n{name}: teacher {teacher}, alone {mean}", flush=True)
        for setting in CLASSES if FOR_RULES[name].loss == "classes" else VALUES:
            found = [trained.trained(named(setting).replace(" ", "_"), setting, s) for s in seeds]
            gains = np.subtract([each["valid"] for each in found], [e["valid"] for e in alone])
            error = gains.std(ddof=1) / len(gains) ** 0.5
            print(f"  {named(setting):18} {gains.mean():+.2f} ± {error:.2f}", flush=True)


if __name__ == "__main__":
    main()
