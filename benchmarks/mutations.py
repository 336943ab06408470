"""Small changes of a Python source, each of which some test should notice."""

import ast
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass

MUST_DIE = ("gate", "finding")
_SIGNS = {
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.Is: ("is", "is not"),
    ast.IsNot: ("is not", "is"),
    ast.In: ("in", "not in"),
    ast.NotIn: ("not in", "in"),
}
"""Each comparison, and what it is changed into."""

_CALLS = {"min": "max", "max": "min", "any": "all", "all": "any"}
_SEVERITIES = {"error": "warn", "warn": "error", "critical": "warning", "warning": "critical"}
_FINDINGS = ("found", "finding")
"""How the names of lists of findings begin."""

_TEXTS = ("message", "description")
_WITHIN = ("or_equal", "strict_min", "strict_max")
_PASSING = '.model_copy(update={"passed": True})'


@dataclass(frozen=True)
class Change:
    """One change of a module.

    `context` is its first line; `edits` are (first byte, byte after the last, new text); `function` are the first and the last
    line of the function around it.
    """

    kind: str
    line: int
    before: str
    after: str
    context: str
    edits: tuple[tuple[int, int, str], ...]
    function: tuple[int, int] | None

    def __str__(self) -> str:
        where = f"   in: {self.context}" if len(self.before) < len(self.context) and self.kind not in MUST_DIE else ""
        return f"{self.kind}: {self.before}  ->  {self.after}{where}"

    def apply(self, source: bytes) -> bytes:
        """The changed source."""
        for first, last, text in sorted(self.edits, reverse=True):
            source = source[:first] + text.encode() + source[last:]
        return source


def changes(source: bytes) -> list[Change]:
    """All changes of a module, each by itself; none twice, and none that is no Python."""
    tree = ast.parse(source)
    mutator = _Mutator(source)
    mutator.visit(tree)
    seen, found = {ast.dump(tree)}, []
    for change in mutator.found:
        result = ast.dump(ast.parse(change.apply(source)))
        if result not in seen:
            seen.add(result)
            found.append(change)
    return found


class _Mutator(ast.NodeVisitor):
    """Walks through a module; `found` are its changes."""

    def __init__(self, source: bytes) -> None:
        self.found: list[Change] = []
        self._lines = source.decode().splitlines()
        self._starts = [0]
        for line in source.splitlines(keepends=True):
            self._starts.append(self._starts[-1] + len(line))
        self._function: tuple[int, int] | None = None
        self._numbers = "number"

    def _place(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        last = self._starts[(node.end_lineno or node.lineno) - 1]
        return self._starts[node.lineno - 1] + node.col_offset, last + (node.end_col_offset or 0)

    def _change(self, kind: str, node: ast.expr | ast.stmt, after: str) -> None:
        text = after
        if isinstance(node, ast.expr):
            after = ast.unparse(ast.parse(after, mode="eval"))
            text = f"({after})"
        self._add(kind, node, ast.unparse(node), after, ((*self._place(node), text),))

    def _add(
        self, kind: str, node: ast.expr | ast.stmt, before: str, after: str, edits: tuple[tuple[int, int, str], ...]
    ) -> None:
        line = self._lines[node.lineno - 1]
        before, after, line = (textwrap.shorten(text, 100, placeholder=" …") for text in (before, after, line))
        self.found.append(Change(kind, node.lineno, before, after, line, edits, self._function))

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        """Its body and defaults, not its decorators and annotations; a `judge_*` lets everything pass."""
        outer = self._function
        if outer is None:
            first = min([node.lineno, *(one.lineno for one in node.decorator_list)])
            self._function = first, node.end_lineno or node.lineno
            if node.name.startswith("judge_"):
                self._open(node)
        for part in (*node.args.defaults, *node.args.kw_defaults, *node.body):
            if part is not None:
                self.visit(part)
        self._function = outer

    def _open(self, node: ast.FunctionDef) -> None:
        edits = []
        for answer in (one.value for one in _own(node) if isinstance(one, ast.Return) and one.value):
            first, last = self._place(answer)
            edits += [(first, first, "("), (last, last, f"){_PASSING}")]
        self._add("gate", node, node.name, "always passes", tuple(edits))

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        """What is in it."""
        for part in node.body:
            self.visit(part)

    def visit_Expr(self, node: ast.Expr) -> None:
        """A finding that is not found; a text by itself is a docstring."""
        match node.value:
            case ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr="append" | "extend")):
                self._change("finding" if name.startswith(_FINDINGS) else "statement", node, "pass")
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        """As an `append`, where a list of findings grows."""
        name = node.target.id if isinstance(node.target, ast.Name) else ""
        if name.startswith(_FINDINGS):
            self._change("finding", node, "pass")
        if name not in _TEXTS:
            self.visit(node.value)

    def visit_Return(self, node: ast.Return) -> None:
        """Findings, one by one."""
        if isinstance(node.value, ast.ListComp):
            self._change("finding", node.value, "[]")
        elif isinstance(node.value, ast.List):
            parts = [ast.unparse(part) for part in node.value.elts]
            for place, part in enumerate(node.value.elts):
                text = f"[{', '.join(parts[:place] + parts[place + 1 :])}]"
                self._add("finding", part, parts[place], "left out", ((*self._place(node.value), text),))
        self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        """No texts; `passed, … = False, …` is a finding."""
        match node:
            case ast.Assign(targets=[ast.Name(id=name)]) if name in _TEXTS:
                return
            case ast.Assign(targets=[ast.Tuple(elts=[ast.Name(id="passed"), *_])], value=ast.Tuple(elts=[passed, *_])):
                self._change("finding", passed, "True")
        self.visit(node.value)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        """The value; the annotation says only what it is."""
        if node.value:
            self.visit(node.value)

    def visit_Raise(self, node: ast.Raise) -> None:
        """What is wrong, and nobody says so."""
        self._change("raise", node, "pass")

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """A text stays as it is."""

    def visit_If(self, node: ast.If | ast.IfExp | ast.While) -> None:
        """The condition."""
        self._negate(node.test)
        self.generic_visit(node)

    visit_IfExp = visit_While = visit_If  # noqa: N815 - the names of the base class

    def visit_comprehension(self, node: ast.comprehension) -> None:
        """Its conditions."""
        for test in node.ifs:
            self._negate(test)
        self.generic_visit(node)

    def _negate(self, test: ast.expr) -> None:
        match test:
            case (
                ast.UnaryOp(op=ast.Not())
                | ast.Compare(ops=[ast.Eq() | ast.NotEq() | ast.Is() | ast.IsNot() | ast.In() | ast.NotIn()])
            ):
                return  # what is done to these by themselves is the same
        self._change("condition", test, f"not ({ast.unparse(test)})")

    def visit_Compare(self, node: ast.Compare) -> None:
        """Each comparison of a chain."""
        texts = [ast.unparse(one) for one in node.comparators]
        for place in range(len(node.ops)):
            signs = [_SIGNS[type(one)][other == place] for other, one in enumerate(node.ops)]
            after = " ".join([ast.unparse(node.left), *(f"{sign} ({text})" for sign, text in zip(signs, texts, strict=True))])
            self._change("comparison", node, after)
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        """The other word, and each side left out."""
        parts, word = [f"({ast.unparse(one)})" for one in node.values], " and " if isinstance(node.op, ast.And) else " or "
        variants = [(" or " if word == " and " else " and ").join(parts)]
        variants += [word.join(parts[:place] + parts[place + 1 :]) for place in range(len(parts))]
        for after in variants:
            self._change("logic", node, after)
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        """`not` left out."""
        if isinstance(node.op, ast.Not):
            self._change("logic", node, ast.unparse(node.operand))
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        """The opposite function; the default of a setting is a threshold."""
        if isinstance(node.func, ast.Name) and node.func.id in _CALLS:
            self._change("call", node.func, _CALLS[node.func.id])
        if isinstance(node.func, ast.Name) and node.func.id == "Field" and node.args:
            self._numbers = "threshold"
            self.visit(node.args[0])
            self._numbers = "number"
        else:
            self.generic_visit(node)

    def visit_keyword(self, node: ast.keyword) -> None:
        """Whether a bound is within, and how bad a finding is."""
        match node.value:
            case ast.Constant(value=bool() as said) if node.arg in _WITHIN:
                self._change("comparison", node.value, str(not said))
        if node.arg not in _TEXTS:
            self._severity(node.arg, node.value)
            self.visit(node.value)

    def _severity(self, name: str | None, value: ast.expr) -> None:
        """In each branch of what is given as `severity`."""
        if name != "severity":
            return
        for part in (value.body, value.orelse) if isinstance(value, ast.IfExp) else (value,):
            if isinstance(part, ast.Constant) and part.value in _SEVERITIES:
                self._change("severity", part, repr(_SEVERITIES[part.value]))

    def visit_Constant(self, node: ast.Constant) -> None:
        """Another number; another answer, where it is a default."""
        if isinstance(node.value, bool):
            if self._numbers == "threshold":
                self._change("threshold", node, str(not node.value))
        elif isinstance(node.value, int):
            self._change(self._numbers, node, str(node.value * 2 if node.value > 2 else node.value + 1))
        elif isinstance(node.value, float):
            self._change(self._numbers, node, repr(node.value * 2 or 1.0))


def _own(function: ast.FunctionDef) -> Iterator[ast.AST]:
    """Everything in a function but what is in functions within it."""
    waiting: list[ast.AST] = list(function.body)
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, ast.FunctionDef | ast.Lambda):
            waiting += ast.iter_child_nodes(node)
