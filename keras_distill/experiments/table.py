"""Tables of the measures of a comparison."""

import numpy as np


def over_seeds(results: dict) -> dict:
    """Returns one row for each arm, with a list of one number for each seed in each column.

    Args:
        results: `{arm: [{column: number} of each seed]}`, as `Runner.run` returns it.

    Returns:
        `{arm: {column: [number of each seed]}}`, as `markdown` takes it.

    Example:

    ```python
    experiments.over_seeds({"alone": [{"accuracy": 90.0}, {"accuracy": 92.0}]})
    # {"alone": {"accuracy": [90.0, 92.0]}}
    ```
    """
    return {
        arm: {column: [row[column] for row in rows if column in row]
              for column in dict.fromkeys(name for row in rows for name in row)}
        for arm, rows in results.items()
    }  # fmt: skip


def markdown(rows: dict, digits: int = 2) -> str:
    """Returns a Markdown table, one line for each row.

    Args:
        rows: `{name: {column: number or list of numbers}}`. A list is shown as mean and standard
            deviation of the sample. Whole numbers that are the same for every seed are counts. A
            row may lack a column.
        digits: the number of decimals, at least 0. Defaults to `2`.

    Returns:
        A string. A missing number is "-".

    Example:

    ```python
    rows = {"alone": {"accuracy": [90.0, 92.0]}, "distilled": {"accuracy": [93.0, 94.0]}}
    print(experiments.markdown(rows))
    ```
    """
    heads = list(dict.fromkeys(head for row in rows.values() for head in row))
    lines = ["| | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for name, row in rows.items():
        cells = [_cell(row.get(head), digits) for head in heads]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(value, digits):
    if value is None:
        return "-"
    values = value if isinstance(value, list) else [value]
    if isinstance(values[0], int) and len(set(values)) == 1:
        return f"{values[0]:,}"
    spread = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):,.{digits}f}{spread}"
