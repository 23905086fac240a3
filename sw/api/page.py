"""A program's facts as an HTML table, in pages and in notebooks."""

from collections.abc import Sequence
from html import escape

from zeroskip.sw.runtime.facts import StepFacts, Totals, totals

HEADS = ("step", "engine", "layer", "pattern", "density", "multiplications", "bytes",
         "cycles", "utilisation", "faster than dense", "saturated", "worst difference from float")
"""Columns of the table of layers."""


def table(steps: Sequence[StepFacts]) -> str:
    """A row for each layer and each step of the host, and the sums; of layers that are counted
    together the counts stand once beside them."""
    rows = [row for number, step in enumerate(steps) for row in _rows(number, step)]
    return (f"<table><thead><tr>{''.join(f'<th>{head}</th>' for head in HEADS)}</tr></thead>"
            f"<tbody>{''.join(f'<tr>{row}</tr>' for row in rows)}</tbody>"
            f"<tfoot><tr>{_foot(steps, totals(steps))}</tr></tfoot></table>")


def number(value: float | None, form: str = ",.0f") -> str:
    """A number as a page shows it; what is not known is a dash."""
    return "-" if value is None else f"{value:{form}}"


def _rows(at: int, step: StepFacts) -> list[str]:
    name = f"{step.engine}, {step.target}" if step.target else step.engine
    if not step.layers:
        return [_cells(str(at), name, operators(step))
                + f'<td colspan="2"></td><td class="n">{number(step.operations)} operations</td>'
                  '<td colspan="6"></td>']
    counts = [(each, position == 0) for each in step.counts for position in range(each.layers)]
    rows = []
    for layer, (count, first) in zip(step.layers, counts, strict=True):
        row = _cells(str(at), name, layer.name, layer.pattern or "-") + _numbers(
            f"{layer.density:.1%}", number(layer.multiplications), number(layer.bytes))
        if first:
            row += _numbers(number(count.cycles), number(count.utilisation, ".1%"),
                            number(count.speedup, ".2f"), number(count.saturated),
                            span=count.layers)
        rows.append(row + _numbers(number(layer.error, ".3g")))
    return rows


def operators(step: StepFacts) -> str:
    """What the host computes in a step, each once, with how often."""
    names = dict.fromkeys(step.operators)
    return ", ".join(name if step.operators.count(name) == 1
                     else f"{step.operators.count(name)} {name}" for name in names)


def _foot(steps: Sequence[StepFacts], sums: Totals) -> str:
    layers = [layer for step in steps for layer in step.layers]
    sizes, counts = [layer.bytes for layer in layers], [each for step in steps
                                                        for each in step.counts]
    saturated = [each.saturated for each in counts]
    errors = [layer.error for layer in layers if layer.error is not None]
    return '<td colspan="5">all engines</td>' + _numbers(
        number(sums.multiplications), number(None if None in sizes else sum(sizes)),
        number(sums.cycles), "", number(sums.speedup, ".2f"),
        number(None if None in saturated else sum(saturated)),
        number(max(errors, default=None), ".3g"))


def _cells(*texts: str) -> str:
    return "".join(f"<td>{escape(text)}</td>" for text in texts)


def _numbers(*texts: str, span: int = 1) -> str:
    rows = f' rowspan="{span}"' if span > 1 else ""
    return "".join(f'<td class="n"{rows}>{text}</td>' for text in texts)
