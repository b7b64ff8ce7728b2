"""The answer of a compression: the better arm, how certain it is, a table and a plot."""

import math
import shutil

import keras
import numpy as np

from keras_distill import _files, report
from keras_distill._messages import say
from keras_distill.experiments.comparison import first_examples, for_export
from keras_distill.experiments.run_folder import RunFolder
from keras_distill.experiments.tuning.ranking import name_of
from keras_distill.export import write as write_exports
from keras_distill.report.measures import right_of_examples
from keras_distill.report.tables import plain
from keras_distill.report.tasks import TASKS, Classes

SURE = 0.05
EXPORTED = 256  # the number of examples on which an exported model is checked


def write(folder, found, results, experiment, seeds):
    """Chooses between the arms of the last comparison and writes the answer.

    Args:
        folder: the folder of the run, a `pathlib.Path`.
        found: the results before the choice, a dict.
        results: the results of the last comparison, as `Experiment.run` returns them.
        experiment: the experiment that was compared.
        seeds: the seeds of the comparison.

    Returns:
        `found` with the `answer`, as in `compress.json`.
    """
    task = experiment.task
    judged = paired(RunFolder(folder / "final"), experiment.data("valid"), seeds, task)
    arm = "distilled" if judged["gain"] > 0 else "alone"
    best = int(np.argmax(judged[arm]))
    model = RunFolder(folder / "final").model(f"{arm}-{seeds[best]}")
    with _files.whole(folder / "student.keras") as part:
        model.save(part)
    rows = {arm: results["arms"][arm]["seeds"] for arm in ("teacher", "alone", "distilled")}
    test = {each: [_scaled(row[task.metric], task) for row in rows[each]] for each in rows}
    found["answer"] = {**judged, "arm": arm, "seed": seeds[best], "test": test,
                       "verdict": verdict(judged, found)}  # fmt: skip
    text = summary(found)
    _files.write(folder / "summary.md", text)
    _files.write_json(folder / "compress.json", _files.plain(found))
    try:
        plot(folder / "pareto.png", found)
    except Exception as error:  # matplotlib's, of any class: the result does not need a picture
        say(f"Could not draw pareto.png: {error}")
    say(f"\n{text}\nThe student: {folder / 'student.keras'}. The plot: {folder / 'pareto.png'}. "
        f"The report: {folder / 'final' / 'report.html'}")  # fmt: skip
    return found


def export(folder, found, experiment, formats, quantize):
    """Exports the chosen student to other formats, each checked on validation examples.

    An export of the same student to the same formats is kept.
    """
    asked = {**{name: found[name] for name in ("student", "setting")}, "quantize": quantize,
             **{name: found["answer"][name] for name in ("arm", "seed")},
             "formats": list(formats)}  # fmt: skip
    exported, record = folder / "exported", folder / "exported.json"
    if exported.exists() and _files.read_json(record) == _files.plain(asked):
        return
    record.unlink(missing_ok=True)
    inputs, targets = for_export(*first_examples(experiment.data("valid"), EXPORTED))
    provenance = {name: found[name] for name in ("student", "setting", "default", "keep")}
    provenance["answer"] = found["answer"]
    student = keras.saving.load_model(folder / "student.keras", compile=False)
    with _files.whole(exported) as part:
        written = write_exports(student, part, formats, name=experiment.name, quantize=quantize,
                                inputs=inputs, targets=targets, provenance=provenance)  # fmt: skip
        shutil.rmtree(exported, ignore_errors=True)  # of another student or to other formats
    _files.write_json(record, _files.plain(asked))
    for each in written:
        say(str(each).replace(part, str(exported)))


def _scaled(value, task):
    return None if value is None else task.scale * value


def paired(run, valid, seeds, task=Classes):
    """Compares both arms on the validation split by pairs of seeds, with a test of the difference.

    For classes this is McNemar's exact test. It counts the examples of all seeds that one arm has
    right and the other wrong; without a difference each is a toss of a fair coin. For numbers,
    signs of the differences of squared errors are flipped, and for an answer for each token or
    pixel those of an example's share of right answers. Each difference is an example's mean over
    the seeds.
    """
    worth = _right if task is Classes else _explained
    found = {arm: [] for arm in ("alone", "distilled")}
    for arm, rows in found.items():
        for seed in seeds:
            rows.append(worth(run.model(f"{arm}-{seed}"), valid))
    one_each = np.isin(found["alone"], (0, 1)).all() and np.isin(found["distilled"], (0, 1)).all()
    alone, distilled = (task.scale * np.asarray(found[arm]) for arm in ("alone", "distilled"))
    gains = (distilled - alone).mean(-1)
    won, lost = int((distilled > alone).sum()), int((alone > distilled).sum())
    many = len(seeds) > 1
    return {
        "alone": alone.mean(-1).tolist(),
        "distilled": distilled.mean(-1).tolist(),
        "gain": float(gains.mean()),
        "error": float(gains.std(ddof=1) / math.sqrt(len(seeds))) if many else None,
        "won": won,
        "lost": lost,
        "p": (report.mcnemar(won, lost) if task is Classes and one_each
              else report.sign_flips((distilled - alone).mean(0))),
    }  # fmt: skip


def _right(model, data):
    """Returns 1 for each right example, or its share of right answers; the mean is the accuracy."""
    right, counted = right_of_examples(model, data)
    return right / counted.mean()


def _explained(model, data):
    """Returns `1 - (y - f)^2 / var y` of each example; the mean is R squared.

    It is the mean over the example's numbers. A value that is not finite counts as the mean of the
    targets, which explains nothing.
    """
    values, true = report.predictions(model, data, "numbers")
    values = np.where(np.isfinite(values), values, true.mean(0))
    return (1 - (true - values) ** 2 / true.var(0)).mean(-1)


def verdict(judged, found):
    """Says in a sentence whether the teacher helps and, if it does not, what to try next."""
    classes = found["task"] == "classes"
    digits, unit = (2, "points") if classes else (4, "in R²")
    error = "" if judged["error"] is None else f" ± {judged['error']:.{digits}f}"
    said = (f"{judged['gain']:+.{digits}f}{error} {unit} on the validation split over "
            f"{len(judged['alone'])} seeds, p = {judged['p']:.2g}")  # fmt: skip
    if judged["gain"] <= 0:
        return (f"The teacher does not help here ({said}). The student alone is exported. "
                f"{advice(judged, found)}")  # fmt: skip
    if judged["p"] >= SURE:
        return (f"The teacher may help ({said}). The distilled student is exported. Give more "
                "--repeats to be sure.")  # fmt: skip
    return f"The teacher helps ({said}). The distilled student is exported."


def advice(judged, found):
    """Returns what to try next, by the teacher's results on the data."""
    signs = found["default"]["signs"]
    if TASKS[found["task"]].scale * found["teacher"]["score"] <= np.mean(judged["alone"]):
        return "The teacher is no better than the student. Train a better teacher."
    if signs.get("confidence") and signs["confidence"] > 0.99:
        return (
            "The teacher is sure of all its training examples. Train for more epochs, and give the "
            "teacher inputs that it was not trained on, such as augmented or unlabeled ones."
        )
    return "Soft targets need more epochs than labels. Train for more epochs."


def summary(found):
    """Returns the answer in Markdown."""
    answer, cost = found["answer"], found["students"][found["student"]]
    task, theirs = TASKS[found["task"]], found["teacher"]
    goal = task.scale * theirs["score"]
    rows = [("teacher", theirs, goal, _mean(answer["test"]["teacher"]))]
    rows += [(f"{found['student']}, {arm}", cost, _mean(answer[arm]), _mean(answer["test"][arm]))
             for arm in ("alone", "distilled")]  # fmt: skip
    unit = "%" if task.scale == 100 else task.heading
    digits = 2 if task.scale == 100 else 4
    lines = [
        f"| model | validation {unit} | test {unit} | ms | MB | parameters |",
        "|---|---|---|---|---|---|",
        *(f"| {name} | {valid:.{digits}f} | {plain(test, 1, digits)} | {each['ms']:.3f} "
          f"| {each['mb']:.3f} | {each['parameters']:,} |" for name, each, valid, test in rows),
    ]  # fmt: skip
    name = name_of(task)
    kept = f"Its validation {name} is {np.mean(answer[answer['arm']]):.{digits}f}"
    if goal > 0:
        share = np.mean(answer[answer["arm"]]) / goal
        kept = f"It keeps {share:.1%} of the teacher's validation {name}"
    if found["keep"]:
        kept += f" ({found['keep']:.1%} were asked for)"
    cost = (f"The search cost {found['trainings']:.1f} trainings of a student, in the time of "
            f"{found['trainings_alone']:.1f} trainings of this one alone, and the comparison "
            f"{2 * len(answer['alone'])}.")  # fmt: skip
    return "\n".join([*lines, "", answer["verdict"], f"{kept}. {cost}", ""])


def _mean(values):
    """Returns the mean over the seeds, or `None` if a value is not known."""
    return None if None in values else float(np.mean(values))


def plot(path, found):
    """Plots the score against milliseconds for every fully trained student, with the front."""
    from matplotlib.figure import Figure

    task = TASKS[found["task"]]
    figure = Figure(figsize=(6.4, 4.8), layout="constrained")
    axes = figure.subplots()
    last = max(each["epochs"] for each in found["search"])
    points = [(found["students"][each["student"]]["ms"], task.scale * each["score"],
               each["setting"] is not None) for each in found["search"]
              if each["epochs"] == last and "failed" not in each]  # fmt: skip
    for taught, label, color in ((False, "alone", "#d97706"), (True, "distilled", "#2563eb")):
        of = [(ms, score) for ms, score, each in points if each == taught]
        if of:
            axes.plot(*zip(*of), "o", color=color, label=label)
    front = report.pareto([(ms, score) for ms, score, _ in points])
    axes.step(*zip(*front), where="post", color="#9ca3af", lw=1, label="Pareto front")
    theirs = found["teacher"]
    axes.plot(theirs["ms"], task.scale * theirs["score"], "s", color="#6b7280", label="teacher")
    answer = found["answer"]
    axes.plot(found["students"][found["student"]]["ms"], np.mean(answer[answer["arm"]]), "*",
              ms=15, color="#16a34a", label="exported")  # fmt: skip
    axes.set_xlabel("milliseconds per prediction, batch 1")
    axes.set_ylabel(f"validation {task.heading}")
    axes.legend()
    with _files.whole(path) as part:
        figure.savefig(part, format="png", dpi=120)
