"""The tables of a comparison as text, for Markdown and the page alike."""

FORMATS = {"serving": "SavedModel", "litert": "LiteRT", "onnx": "ONNX", "openvino": "OpenVINO"}
NAMES = {
    "nll": "negative log-likelihood", "expected_calibration_error": "ECE", "accuracy": "accuracy",
    "label_accuracy": "accuracy of labels", "mean_absolute_error": "mean absolute error",
    "root_mean_square_error": "root mean square error", "agreement": "agreement %",
    "rouge1": "ROUGE-1 %", "rouge2": "ROUGE-2 %", "rouge_to_teacher": "ROUGE-L to teacher %",
    "kl_to_teacher": "KL to teacher", "distance_to_teacher": "distance to teacher",
}  # fmt: skip
PERCENT = ("agreement", "top_2_agreement", "top_5_agreement", "accuracy", "label_accuracy",
           "rouge1", "rouge2", "rouge_to_teacher")  # fmt: skip
MISSING = "-"
LOST_MOST = 5
MEMORY = (
    "Peak memory is what a fresh process takes for the model and its predictions, beside what it "
    "takes with its libraries loaded."
)


def tables(results):
    """Returns all tables of a comparison that have rows.

    Args:
        results: the results of a `Comparison`.

    Returns:
        A list of `(title, heads, rows, note)`. `heads` is a list of strings, `rows` a list of lists
        of strings, and the others are strings.
    """
    found = [quality(results), likeness(results), classes(results), robust(results),
             costs(results), exported(results)]  # fmt: skip
    return [table for table in found if table[2]]


def quality(results):
    """Returns the measure of each model, its interval, and the other measures."""
    scale, rows = results["measure"]["scale"], results["rows"]
    main = results["measure"]["name"]
    others = [name for name in next(iter(rows.values()))["measures"] if name != main]
    base = results["baseline"]
    against = [f"against {base}", "better / worse", "p"] if base else []
    heads = [results["measure"]["heading"], "95% interval", *against, *map(heading, others)]
    body = []
    for name, row in rows.items():
        gap = row.get("difference")
        compared = []
        if base:
            compared = [MISSING] * 3 if gap is None else [
                f"{signed(gap['value'], scale)}{between(gap, scale, sign=True, left=' ')}",
                f"{gap['won']:,} / {gap['lost']:,}", small(gap["p"]),
            ]  # fmt: skip
        measures = [number(row["measures"].get(each), each) for each in others]
        body.append([name, plain(row["value"], scale) + seeds(row, scale), between(row, scale),
                     *compared, *measures])  # fmt: skip
    data = results["provenance"].get("data")
    told = (f"{results['examples']:,} examples{f' ({data})' if data else ''}. The interval is over "
            "resampled examples.")  # fmt: skip
    if base:
        told += (" Better / worse counts the examples of all seeds on which a model is better or "
                 f"worse than {base}. p is that of McNemar's test.")  # fmt: skip
    return "Quality", ["", *heads], body, told


def likeness(results):
    """Returns the likeness of each student to its teacher."""
    rows = {name: row["likeness"] for name, row in results["rows"].items()
            if row.get("likeness") and row["model"] != "teacher"}  # fmt: skip
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    body = [[name, *(number(row.get(each), each) for each in names)] for name, row in rows.items()]
    return "Likeness to the teacher", ["", *map(heading, names)], body, ""


def classes(results):
    """Returns the classes on which the last student lost most against its teacher."""
    rows = results["rows"]
    theirs = next((row for row in rows.values() if row["model"] == "teacher"), {})
    name = [*rows][-1]
    if not {"classes"} <= {*theirs} & {*rows[name]} or rows[name] is theirs:
        return "Classes", [], [], ""
    pairs = zip(rows[name]["classes"]["accuracy"], theirs["classes"]["accuracy"])
    lost = {i: b - a for i, (a, b) in enumerate(pairs) if None not in (a, b) and a < b}
    worst = sorted(lost, key=lambda i: -lost[i])[:LOST_MOST]
    arms = [arm for arm, row in rows.items() if "classes" in row]
    body = [[class_name(results, i), str(theirs["classes"]["count"][i]),
             *(plain(rows[arm]["classes"]["accuracy"][i], 100) for arm in arms),
             signed(-lost[i], 100)] for i in worst]  # fmt: skip
    heads = ["", "answers", *(f"{arm} %" for arm in arms), "difference"]
    told = (f"The {len(worst)} of {len(lost)} classes in which {name} lost most, compared with the "
            "teacher.")  # fmt: skip
    return "Classes", heads, body, told


def robust(results):
    """Returns the measure on worse inputs."""
    rows = {name: row["robustness"] for name, row in results["rows"].items()
            if row.get("robustness")}  # fmt: skip
    kinds = [*next(iter(rows.values()), {})]
    scale = results["measure"]["scale"]
    body = [[name, *(plain(row[kind], scale) for kind in kinds)] for name, row in rows.items()]
    told = (f"{results['measure']['heading']} on the first {results['examples_of_exports']:,} "
            "examples after each change. Of several seeds the first is measured.")  # fmt: skip
    return "Robustness", ["", *kinds], body, told


def costs(results):
    """Returns the costs of each Keras model."""
    body = [[name, f"{row['parameters']:,}", count(row["operations"]), size(row["size_bytes"]),
             *latencies(row)] for name, row in results["costs"].items()]  # fmt: skip
    heads = ["", "parameters", "operations", ".keras file", *LATENCY_HEADS]
    return "Cost", heads, body, "Latency of a compiled function. The models run in turns."


def exported(results):
    """Returns the costs and measures of each exported model."""
    scale, body = results["measure"]["scale"], []
    for each in results["exported"]:
        alike = each["to_the_student"].get("agreement")
        body.append([label(each), plain(each["quality"]["value"], scale),
                     plain(each["student"], scale),
                     number(alike, "agreement"), size(each["size_bytes"]),
                     size(each["peak_bytes"]), *latencies(each)])  # fmt: skip
    heads = ["", results["measure"]["heading"], "its student", "agreement %", "size", "peak memory",
             *LATENCY_HEADS]  # fmt: skip
    told = (f"Each exported model runs in its own runtime and a new process, on the first "
            f"{results['examples_of_exports']:,} examples, beside the student that was exported. "
            "Of several seeds the first is measured. Peak memory is that of the whole process."
            )  # fmt: skip
    return "Exported models", heads, body, told


LATENCY_HEADS = ["median ms", "p99 ms", "median ms at 32", "p99 ms at 32", "examples/s at 32"]


def latencies(row):
    """Returns the cells of `LATENCY_HEADS`."""
    one, many = (row["latency"].get(batch) or {} for batch in ("1", "32"))
    cells = [plain(each.get(key), 1, 3) for each in (one, many) for key in ("median_ms", "p99_ms")]
    return [*cells, plain(many.get("per_second"), 1, 0)]


def label(exported):
    """Returns the name of an exported model."""
    how = "" if exported["quantize"] == "none" else f", {exported['quantize']}"
    return f"{exported['of']}, {FORMATS[exported['format']]}{how}"


def class_name(results, index):
    """Returns the name of a class, or its index."""
    names = results["classes"]
    return str(index) if names is None or index >= len(names) else names[index]


def heading(name):
    """Returns the heading of a measure's column."""
    if name.startswith("top_"):
        return f"shared top {name.split('_')[1]} %"
    return f"{name} %" if NAMES.get(name) in ("accuracy",) else NAMES.get(name, name)


def number(value, name):
    """Returns a measure's value as a cell."""
    return plain(value, 100) if name in PERCENT else plain(value, 1, 4)


def plain(value, scale=1, digits=None):
    """Formats a number with two decimals if it is a percentage, else with four; "-" for none."""
    if value is None or value != value:
        return MISSING
    digits = (2 if scale == 100 else 4) if digits is None else digits
    return f"{scale * value:,.{digits}f}"


def signed(value, scale):
    """Returns a difference with its sign."""
    text = plain(value, scale)
    return text if text == MISSING or text.startswith("-") else f"+{text}"


def between(row, scale, sign=False, left=""):
    """Formats an interval."""
    if row["low"] is None:
        return ""
    form = signed if sign else plain
    text = f"{form(row['low'], scale)} to {form(row['high'], scale)}"
    return f"{left}({text})" if sign else text


def seeds(row, scale):
    """Returns the sample's deviation over seeds."""
    values = row["by_seed"]
    if len(values) < 2:
        return ""
    mean = sum(values) / len(values)
    spread = (sum((v - mean) ** 2 for v in values) / (len(values) - 1)) ** 0.5
    return f" ± {plain(spread, scale)}"


def small(p, sign=False):
    """Formats a p-value, with the sign before it if asked for."""
    return "< 0.001" if p < 0.001 else f"{'= ' if sign else ''}{p:.3f}"


def size(count):
    """Formats a number of bytes in the unit that shows three digits."""
    if count is None:
        return MISSING
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.{2 if count < 10 * factor else 1}f} {unit}"
    return f"{count} B"


def count(number):
    """Formats a count, in thousands or millions."""
    if number is None:
        return MISSING
    for unit, factor in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= factor:
            return f"{number / factor:.2f} {unit}"
    return str(number)
