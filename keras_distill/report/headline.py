"""The result of a run in a sentence, and the task of its measures."""

from keras_distill.report import tables
from keras_distill.report.tasks import Classes, Numbers


def headline(arms):
    """Returns the result in a sentence, whatever it is; without a gain if a training failed."""
    failed = {arm: int(s["failed"]["mean"]) for arm, s in arms.items() if "failed" in s}
    if failed:
        told = ", ".join(f"{count} of {arm}" for arm, count in failed.items())
        return f"The gain is unknown, because trainings gave outputs that are not finite ({told})."
    task = task_in(arms.values())
    means = {arm: s[task.metric]["mean"] for arm, s in arms.items() if task.metric in s}
    numbers = task is Numbers
    said = {arm: tables.plain(each, task.scale) + ("" if numbers else "%")
            for arm, each in means.items()}  # fmt: skip
    before, after = ("R² ", "") if numbers else ("", " accuracy")
    if not {"alone", "distilled"} <= set(means):
        return "; ".join(f"{arm}: {before}{value}{after}" for arm, value in said.items())
    gain = tables.signed(means["distilled"] - means["alone"], task.scale)
    text = (
        f"The distilled student reaches {before}{said['distilled']}{after}, "
        f"{gain}{'' if numbers else ' points'} compared with the same student alone "
        f"({said['alone']})"
    )
    if "teacher" in means:
        text += f". The teacher has {said['teacher']}"
    return f"{text}."


def task_in(rows):
    """Returns the task of rows of measures: `Numbers` if one has R squared, else `Classes`."""
    return Numbers if any(Numbers.metric in row for row in rows) else Classes
