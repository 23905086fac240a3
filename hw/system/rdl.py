"""Registers as SystemRDL, from which PeakRDL makes documents, C headers and IP-XACT."""

from collections.abc import Iterable

from zeroskip.hw.system.registers import WIDTH, Access, Item, Page, Window

_RULES = {
    Access.READ: "sw = r; hw = w;",
    Access.WRITE: "sw = rw; hw = r; reset = 0;",
    Access.CLEAR: "sw = rw; onwrite = woclr; hw = r; hwset; reset = 0;",
    Access.PULSE: "sw = w; hw = r; reset = 0;",
    "in": "sw = w; onwrite = wuser; hw = r;",
    "out": "sw = r; onread = ruser; hw = w;",
}
"""What software and hardware do with a field; a window takes or gives a word each time."""


def systemrdl(name: str, pages: Iterable[Page]) -> str:
    """An address map of ``pages``, which is called ``name``.

    Addresses are those of the bus, in bytes. Names are escaped, so that none is a keyword.
    SystemRDL knows single pulses only for fields of one bit; wider ones are write-only there.
    """
    lines = [f"addrmap \\{name} {{", f"    default regwidth = {WIDTH};"]
    for page in pages:
        lines.append("    regfile {")
        for item in page.items:
            kind = "external reg" if isinstance(item, Window) else "reg"
            lines += [f"        {kind} {{", f"            desc = {_text(item.doc)};",
                      *(f"            {field}" for field in _fields(item)),
                      f"        }} \\{item.name} @ {page.addresses[item.name] - page.base:#x};"]
        lines.append(f"    }} \\{page.name} @ {page.base:#x};")
    return "\n".join([*lines, "};", ""])


def _fields(item: Item) -> list[str]:
    if isinstance(item, Window):
        return [_field("word", WIDTH, 0, _RULES[item.direction], "One word of the stream.")]
    lines, low = [], 0
    for field in item.fields:
        single = item.access is Access.PULSE and field.width == 1
        rules = _RULES[item.access] + " singlepulse;" * single
        lines.append(_field(field.name, field.width, low, rules, field.doc))
        low += field.width
    return lines


def _field(name: str, width: int, low: int, rules: str, doc: str) -> str:
    return f"field {{ desc = {_text(doc)}; {rules} }} \\{name}[{low + width - 1}:{low}];"


def _text(doc: str) -> str:
    return '"' + doc.replace("\\", "\\\\").replace('"', '\\"') + '"'
