"""Where source code can be mutated, and how.

A point is one place; its options are the texts that may stand there instead. Left out is what no
test has to see: annotations, decorators, imports, texts, ``raise`` and ``assert``, the arguments
``strict`` and ``src_loc_at``, and what only makes a name unbound.
"""

import ast
import hashlib
import itertools
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

OPERATORS = {
    ast.Add: [ast.Sub], ast.Sub: [ast.Add], ast.Mult: [ast.Add], ast.Div: [ast.Mult],
    ast.FloorDiv: [ast.Mult], ast.Mod: [ast.FloorDiv], ast.Pow: [ast.Mult],
    ast.LShift: [ast.RShift], ast.RShift: [ast.LShift],
    ast.BitAnd: [ast.BitOr], ast.BitOr: [ast.BitAnd], ast.BitXor: [ast.BitOr],
    ast.And: [ast.Or], ast.Or: [ast.And],
    ast.Lt: [ast.LtE, ast.GtE], ast.LtE: [ast.Lt, ast.Gt], ast.Gt: [ast.GtE, ast.LtE],
    ast.GtE: [ast.Gt, ast.Lt], ast.Eq: [ast.NotEq], ast.NotEq: [ast.Eq],
    ast.In: [ast.NotIn], ast.NotIn: [ast.In], ast.Is: [ast.IsNot], ast.IsNot: [ast.Is],
}
DIRECT = (ast.Eq, ast.NotEq, ast.In, ast.NotIn, ast.Is, ast.IsNot)
"""Comparisons whose replacement is their negation."""

LEFT_OUT = (ast.Import, ast.ImportFrom, ast.Raise, ast.Assert, ast.JoinedStr)

Edit = tuple[int, int, str]
"""Bytes from, up to, and what is to stand there."""


@dataclass(frozen=True)
class Mutant:
    """One change of one file; ``before`` and ``after`` are the lines that differ."""

    file: str
    scope: str
    line: int
    kind: str
    before: str
    after: str
    text: bytes = field(repr=False)


class Points(ast.NodeVisitor):
    """The points of a source text: ``found`` holds (scope, line, kind, options of edits)."""

    def __init__(self, source: bytes):
        self.found: list[tuple[str, int, str, list[list[Edit]]]] = []
        self._starts = [0]
        for line in source.splitlines(keepends=True):
            self._starts.append(self._starts[-1] + len(line))
        self._scope: list[str] = []
        self._bound: list[set[str]] = [set()]
        self.visit(ast.parse(source))

    def _edit(self, node: ast.AST, text: str) -> Edit:
        return (self._starts[node.lineno - 1] + node.col_offset,
                self._starts[node.end_lineno - 1] + node.end_col_offset, text)

    def _add(self, kind: str, node: ast.AST, *options: list[Edit]) -> None:
        self.found.append((".".join(self._scope) or "module", node.lineno, kind, list(options)))

    def _replace(self, kind: str, node: ast.AST, *texts: str) -> None:
        self._add(kind, node, *([self._edit(node, text)] for text in texts))

    def _swap(self, one: ast.AST, other: ast.AST) -> None:
        self._add("arms", one, [self._edit(one, ast.unparse(other)),
                                self._edit(other, ast.unparse(one))])

    # What is left out.

    def visit(self, node):
        if not isinstance(node, LEFT_OUT):
            super().visit(node)

    def visit_keyword(self, node):
        if node.arg not in ("strict", "src_loc_at"):
            self.visit(node.value)

    def visit_AnnAssign(self, node):
        if node.value:
            self.visit(node.value)

    def visit_ClassDef(self, node):
        self._inside(node, node.body, set())

    def visit_FunctionDef(self, node):
        every = node.args
        for default in [*every.defaults, *filter(None, every.kw_defaults)]:
            self.visit(default)
        names = (*every.posonlyargs, *every.args, *every.kwonlyargs, every.vararg, every.kwarg)
        self._inside(node, node.body, {each.arg for each in names if each})

    def _inside(self, node, body, bound):
        self._scope.append(node.name)
        self._bound.append(bound)
        for each in body:
            self.visit(each)
        self._bound.pop()
        self._scope.pop()

    # Statements.

    def visit_Name(self, node):
        if isinstance(node.ctx, ast.Store):
            self._bound[-1].add(node.id)

    def visit_Assign(self, node):
        target = node.targets[0]
        if ((isinstance(target, ast.Subscript) and "submodules" not in ast.unparse(target))
                or (isinstance(target, ast.Name) and target.id in self._bound[-1])
                or (isinstance(target, ast.Attribute) and target.attr == "next")):
            self._replace("assignment", node, "pass")
        self.generic_visit(node)

    def visit_AugAssign(self, node):
        if not _is_domain(node.target):
            (near,) = OPERATORS[type(node.op)]
            swapped = ast.AugAssign(node.target, near(), node.value)
            self._replace("operator", node, ast.unparse(swapped))
            self._replace("assignment", node, "pass")
        self.generic_visit(node)

    def visit_Expr(self, node):
        if isinstance(node.value, ast.Call) and "super()" not in ast.unparse(node):
            self._replace("call", node, "pass")
        self.generic_visit(node)

    def visit_If(self, node):
        self._negate(node.test, "not ({})")
        self.generic_visit(node)

    def visit_While(self, node):
        self.visit_If(node)

    def visit_comprehension(self, node):
        for test in node.ifs:
            self._negate(test, "(not ({}))")
        self.generic_visit(node)

    def visit_With(self, node):
        for item in node.items:
            if _calls(item.context_expr, "If", "Elif"):
                self._negate(item.context_expr.args[0], "({}) == 0")
        if _calls(node.items[0].context_expr, "Switch"):
            cases = [each.items[0].context_expr for each in node.body if isinstance(each, ast.With)]
            cases = [each.args[0] for each in cases if _calls(each, "Case") and each.args]
            for pair in itertools.pairwise(cases):
                self._swap(*pair)
        self.generic_visit(node)

    def _negate(self, test, form):
        twin = ((isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not | ast.Invert))
                or (isinstance(test, ast.Compare) and isinstance(test.ops[0], DIRECT)))
        if not twin:
            self._replace("condition", test, form.format(ast.unparse(test)))

    # Expressions.

    def visit_Call(self, node):
        if _calls(node, "eq") and len(node.args) == 1:
            self._replace("assignment", node, "()")
        elif isinstance(node.func, ast.Name) and node.func.id == "Mux":
            self._swap(*node.args[1:])
        self.generic_visit(node)

    def visit_IfExp(self, node):
        self._swap(node.body, node.orelse)
        self.generic_visit(node)

    def visit_BinOp(self, node):
        if not any(isinstance(side, ast.JoinedStr | ast.Constant) and not _number(side)
                   for side in (node.left, node.right)) and type(node.op) in OPERATORS:
            self._replace("operator", node, *(
                f"({ast.unparse(ast.BinOp(node.left, near(), node.right))})"
                for near in OPERATORS[type(node.op)]))
        self.generic_visit(node)

    def visit_BoolOp(self, node):
        (near,) = OPERATORS[type(node.op)]
        self._replace("operator", node, f"({ast.unparse(ast.BoolOp(near(), node.values))})")
        self.generic_visit(node)

    def visit_Compare(self, node):
        for at, op in enumerate(node.ops):
            self._replace("operator", node, *(
                "({})".format(ast.unparse(ast.Compare(
                    node.left, [*node.ops[:at], near(), *node.ops[at + 1:]], node.comparators)))
                for near in OPERATORS[type(op)]))
        self.generic_visit(node)

    def visit_UnaryOp(self, node):
        if _number(node):
            self._constant(node)
            return
        self._replace("operator", node, f"({ast.unparse(node.operand)})")
        self.generic_visit(node)

    def visit_Constant(self, node):
        if isinstance(node.value, bool):
            self._replace("constant", node, str(not node.value))
        elif _number(node):
            self._constant(node)

    def _constant(self, node):
        value = ast.literal_eval(node)
        near = {0: [1], 1: [0, 2]}.get(value, [value + 1, value - 1])
        if isinstance(value, float):
            near = [2 * value or 1.0]
        self._replace("constant", node, *(f"({each})" if each < 0 else str(each) for each in near))

    def visit_Slice(self, node):
        for bound in filter(None, (node.lower, node.upper)):
            if not _number(bound):
                text = ast.unparse(bound)
                self._replace("slice", bound, f"({text}) + 1", f"({text}) - 1")
        self.generic_visit(node)


def _number(node: ast.AST) -> bool:
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        node = node.operand
    return isinstance(node, ast.Constant) and type(node.value) in (int, float)


def _calls(node: ast.AST, *names: str) -> bool:
    """Whether it calls a method of one of these names."""
    return (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
            and node.func.attr in names)


def _is_domain(node: ast.AST) -> bool:
    """Whether it is ``m.d.comb``, ``m.d.sync``, ``m.d[...]``."""
    return (isinstance(node, ast.Attribute | ast.Subscript)
            and isinstance(node.value, ast.Attribute) and node.value.attr == "d")


def apply(source: bytes, edits: list[Edit]) -> bytes:
    """``source`` with the edits made."""
    for start, end, text in sorted(edits, reverse=True):
        source = source[:start] + text.encode() + source[end:]
    return source


def _lines(source: bytes, edits: list[Edit], edited: bool) -> str:
    """The lines that the edits touch, before or after, without their layout."""
    spans = []
    for start, end, text in sorted(edits):
        left = source.rfind(b"\n", 0, start) + 1
        right = (source + b"\n").index(b"\n", end)
        if not spans or left > spans[-1][1]:
            spans.append([left, right, []])
        spans[-1][1] = right
        spans[-1][2].append((start - spans[-1][0], end - spans[-1][0], text))
    texts = (apply(source[left:right], own if edited else []) for left, right, own in spans)
    return " ... ".join(" ".join(text.decode().split()) for text in texts)


def sample(root: Path, files: list[str], count: int, seed: int) -> list[Mutant]:
    """``count`` mutants, from points drawn uniformly.

    A point's place in the draw is a hash of its own text, not of its position: the same on every
    computer, and most of the draw stays as it is when the sources change.
    """
    ranked = []
    for file in files:
        source, seen = root.joinpath(file).read_bytes(), Counter()
        for scope, line, kind, options in Points(source).found:
            text = (file, scope, kind, *(_lines(source, edits, edited)
                                         for edits in options for edited in (False, True)))
            seen[text] += 1
            rank = hashlib.sha256("\0".join([str(seed), *text, str(seen[text])]).encode()).digest()
            edits = options[rank[-1] % len(options)]
            ranked.append((rank, Mutant(
                file, scope, line, kind, _lines(source, edits, False),
                _lines(source, edits, True), apply(source, edits))))
    if count > len(ranked):
        raise ValueError(f"there are {len(ranked)} points in these files, fewer than {count}")
    return [mutant for _, mutant in sorted(ranked, key=lambda each: each[0])[:count]]
