"""Makes one self-contained HTML file of several comparisons."""

import html

from keras_distill.report import comparison_plots, plots, recorded, tables

STYLE = """
:root{color-scheme:light dark;--ink:#1f2937;--soft:#5b6472;--page:#f6f7f9;--card:#fff;
--line:#e5e7eb;--best:#ecfdf5}
@media(prefers-color-scheme:dark){:root{--ink:#e5e7eb;--soft:#a3abb8;--page:#16181d;--card:#20242b;
--line:#363c46;--best:#12312a}}
*{box-sizing:border-box}html{-webkit-text-size-adjust:100%}
body{margin:0 auto;max-width:72rem;padding:1.2rem 1rem 3rem;background:var(--page);color:var(--ink);
font:16px/1.5 system-ui,sans-serif;overflow-wrap:anywhere}
h1{font-size:1.6rem;line-height:1.2;margin:.4rem 0}h2{font-size:1.3rem;margin:2.4rem 0 .4rem}
h3{font-size:1.05rem;margin:1.6rem 0 .5rem}p{margin:.4rem 0}.soft{color:var(--soft);font-size:.9rem}
.card{background:var(--card);border:1px solid var(--line);border-radius:.6rem;padding:.7rem;
overflow-x:auto;max-width:100%}
.grid{display:grid;gap:.8rem;grid-template-columns:repeat(auto-fill,minmax(min(20rem,100%),1fr));
align-items:start}.grid>*{min-width:0}
svg{display:block;width:100%;height:auto;max-width:27rem;margin:0 auto}
svg text{font-family:system-ui,sans-serif!important}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums;font-size:.875rem}
th,td{padding:.35rem .55rem;text-align:right;border-bottom:1px solid var(--line);
white-space:nowrap}th{font-weight:600;color:var(--soft);vertical-align:bottom}
th:first-child,td:first-child{text-align:left;position:sticky;left:0;background:var(--card);
white-space:normal;overflow-wrap:break-word;min-width:7.5rem;max-width:11rem}td:first-child{font-weight:600}
tr:last-child td{border:0}pre{margin:0;white-space:pre-wrap;font-size:.85rem}
nav a{display:inline-block;margin-right:1rem}a{color:inherit}
"""


def page(comparisons, title):
    """Returns the whole page, a string.

    Args:
        comparisons: the results of some `Comparison`s.
        title: the title of the page.
    """
    many = len(comparisons) > 1
    with plots.drawing():
        front = _fronts(comparisons)
        parts = [_comparison(each, number, many) for number, each in enumerate(comparisons)]
    links = "".join(f'<a href="#run-{i}">{html.escape(each["name"])}</a>'
                    for i, each in enumerate(comparisons))  # fmt: skip
    nav = f"<nav>{links}</nav>" if many else f"<p>{html.escape(headline(comparisons[0]))}</p>"
    name = html.escape(title)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{name}</title>'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<style>{STYLE}</style></head><body><h1>{name}</h1>{nav}{front}{''.join(parts)}"
        "</body></html>"
    )


def headline(results):
    """Returns the result in a sentence, whatever it is."""
    if recorded.is_recorded(results):
        return recorded.headline(results)
    measure, rows = results["measure"], results["rows"]
    last = [*rows][-1]
    row, scale = rows[last], measure["scale"]
    text = f"{last} has {tables.plain(row['value'], scale)} ({measure['heading']}"
    text += f", {tables.between(row, scale)})" if row["low"] is not None else ")"
    gap = row.get("difference")
    if gap and gap["value"] is not None:
        sure = "more than chance" if gap["p"] < 0.05 else "which may be chance"
        lower = " (lower is better)" if measure["lower"] else ""
        text += (f". That is {tables.signed(gap['value'], scale)} compared with "
                 f"{results['baseline']}{lower}, {sure} "
                 f"(p {tables.small(gap['p'], sign=True)})")  # fmt: skip
    return f"{text}."


def tables_of(results):
    """Returns the tables of a comparison, or of a run with measures of its own."""
    of = recorded.tables_of if recorded.is_recorded(results) else tables.tables
    return of(results)


def _fronts(comparisons):
    """Returns plots of quality against cost, of all runs with the same measure."""
    many, cards = len(comparisons) > 1, []
    comparisons = [each for each in comparisons if not recorded.is_recorded(each)]
    for name in dict.fromkeys(each["measure"]["name"] for each in comparisons):
        alike = [each for each in comparisons if each["measure"]["name"] == name]
        found = []
        for each in alike:
            before = f"{each['name']}: " if many else ""
            found += [(before + label, model, *rest)
                      for label, model, *rest in comparison_plots.points(each)]  # fmt: skip
        titles = [f"{name} against {what}" for what in ("latency", "size")]
        cards += _cards(comparison_plots.fronts, alike[0]["measure"], found, titles=titles)
    return f'<h2>Quality against cost</h2><div class="grid">{"".join(cards)}</div>' if cards else ""


def _comparison(results, number, many):
    heading = f'<h2 id="run-{number}">{html.escape(results["name"])}</h2>' if many else ""
    said = f"<p>{html.escape(headline(results))}</p>" if many else ""
    if recorded.is_recorded(results):
        return heading + said + _recorded(results)
    drawn = [*_cards(comparison_plots.intervals, results, titles=["quality"]),
             *_cards(comparison_plots.calibration, results, titles=["calibration"])]  # fmt: skip
    parts = [heading, said, _section("Measures", "", drawn)]
    parts += [_table(*table) for table in tables.tables(results)]
    maps = results["knowledge"]["cka"]
    parts.append(_section("Similar layers (linear CKA)", "", [
        card for name, cka in maps.items()
        for card in _cards(comparison_plots.layers, name, cka, titles=[f"CKA of {name}"])
    ]))  # fmt: skip
    told = "The examples of which the teacher is least sure, and what each model predicts."
    parts.append(_section("Soft targets", told, [
        card for each in results["knowledge"]["soft_targets"]
        for card in _cards(comparison_plots.soft_target, results, each, titles=["soft targets"])
    ]))  # fmt: skip
    return "".join(parts) + _training(results) + _provenance(results)


def _recorded(results):
    """Returns the part of the page for a run with measures of its own."""
    parts = [_table(*table) for table in tables_of(results)]
    cards = _cards(recorded.plots_of, results)
    return "".join([*parts, _section("Arms", "", cards), _training(results), _provenance(results)])


def _training(results):
    cards = _cards(comparison_plots.curves, results)
    return _section("Training", "One line for each seed.", cards)


def _cards(draw, *arguments, titles=None):
    """Returns the figures of `draw`, one or several, as they stand in the page.

    Args:
        draw: a function of the `arguments`.
        titles: what the figures are called; `None` where `draw` returns pairs of both.
    """
    try:
        drawn = draw(*arguments)
        if titles is not None:
            drawn = zip(titles, drawn if isinstance(drawn, list) else [drawn])
        return [f'<div class="card">{plots.svg(made, title)}</div>'
                for title, made in drawn if made]  # fmt: skip
    except Exception as error:  # matplotlib's, of any class: the numbers are the result
        return [f"<p>This plot could not be drawn. {html.escape(str(error))}</p>"]


def _section(title, told, cards):
    if not cards:
        return ""
    said = f'<p class="soft">{told}</p>' if told else ""
    return f'<h3>{title}</h3>{said}<div class="grid">{"".join(cards)}</div>'


def _table(title, heads, rows, note):
    head = "".join(f"<th>{html.escape(text)}</th>" for text in heads)
    cells = ["".join(f"<td>{html.escape(text)}</td>" for text in row) for row in rows]
    body = "".join(f"<tr>{row}</tr>" for row in cells)
    said = f'<p class="soft">{html.escape(note)}</p>' if note else ""
    return (f'<h3>{title}</h3><div class="card"><table><tr>{head}</tr>{body}</table></div>'
            f"{said}")  # fmt: skip


def _provenance(results):
    lines = [f"{key}: {_said(value)}" for key, value in results["provenance"].items() if value]
    text = html.escape("\n".join(lines))
    return f'<h3>Where it comes from</h3><div class="card"><pre>{text}</pre></div>'


def _said(value):
    if isinstance(value, dict):
        return ", ".join(f"{key} {_said(each)}" for key, each in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
