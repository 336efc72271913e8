"""The host's determinism rules as a check over Python's syntax tree.

What decides money or order must give the same answer on every machine, so its modules keep clear of
floats, clocks, randomness and every order that Python does not promise. This check refuses at least
what the host's own does; where the host's looks at bare names only, this one looks closer.

    python -m tests.determinism.checker FILE…      prints each finding; exit 1 when there is one
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from typing import Final, NamedTuple

MODULES: Final = (
    Path("plugins/secure_chat/core/registered.py"),
    Path("plugins/secure_chat/core/rewards.py"),
    Path("plugins/secure_chat/core/sequence.py"),
)
"""What the rules are asked of: what decides money and order."""

RULES: Final = {
    "division": "/, // and ** are not used; divmod is",
    "float": "there are no float or complex literals",
    "set": "there are no sets, and no set or dict comprehensions",
    "iteration": "loops go over sorted(…), range(…) or a literal, never over a name",
    "assignment": "module and class level assignments are annotated",
    "view": ".items(), .keys() and .values() are not used",
    "global": "there is no global statement",
    "bare-except": "no except without a type",
    "call": "float, round, pow, hash, open, print, eval, exec and __import__ are not used",
    "import": "clocks, randomness, floats and the system are not imported",
}

_OPERATORS: Final = (ast.Div, ast.FloorDiv, ast.Pow)
_CALLS: Final = frozenset(
    ("float", "round", "pow", "hash", "open", "print", "eval", "exec", "__import__")
)
_SETS: Final = frozenset(("set", "frozenset"))
_VIEWS: Final = frozenset(("items", "keys", "values"))
_ORDERED: Final = frozenset(("sorted", "range"))
_IMPORTS: Final = frozenset(
    (
        "os",
        "sys",
        "time",
        "datetime",
        "uuid",
        "random",
        "secrets",
        "math",
        "cmath",
        "decimal",
        "asyncio",
        "threading",
    )
)


class Finding(NamedTuple):
    line: int
    rule: str


def check(source: str) -> list[Finding]:
    """Every breach of RULES in a module's source, in the order of its lines."""
    tree = ast.parse(source)
    findings = [Finding(line, rule) for node in ast.walk(tree) for line, rule in _breaches(node)]
    findings += [Finding(line, "assignment") for line in _unannotated(tree)]
    return sorted(findings)


def _breaches(node: ast.AST) -> list[tuple[int, str]]:
    found: list[tuple[int, str]] = []
    match node:
        case ast.BinOp(op=op, lineno=line) | ast.AugAssign(op=op, lineno=line):
            if isinstance(op, _OPERATORS):
                found.append((line, "division"))
        case ast.Constant(value=float() | complex(), lineno=line):
            found.append((line, "float"))
        case ast.Set(lineno=line) | ast.SetComp(lineno=line) | ast.DictComp(lineno=line):
            found.append((line, "set"))
        case ast.Name(id=name, lineno=line, ctx=ast.Load()):
            if name in _SETS:
                found.append((line, "set"))
            if name in _CALLS:
                found.append((line, "call"))
        case ast.For(iter=over) | ast.AsyncFor(iter=over) | ast.comprehension(iter=over):
            if not _is_ordered(over):
                found.append((over.lineno, "iteration"))
        case ast.Attribute(attr=name, lineno=line):
            if name in _VIEWS:
                found.append((line, "view"))
        case ast.Global(lineno=line):
            found.append((line, "global"))
        case ast.ExceptHandler(type=None, lineno=line):
            found.append((line, "bare-except"))
        case ast.Import(names=names, lineno=line):
            if any(alias.name.split(".")[0] in _IMPORTS for alias in names):
                found.append((line, "import"))
        case ast.ImportFrom(module=str(module), lineno=line):
            if module.split(".")[0] in _IMPORTS:
                found.append((line, "import"))
        case _:
            pass
    return found


def _is_ordered(over: ast.expr) -> bool:
    if isinstance(over, ast.Tuple | ast.List):
        return True
    return (
        isinstance(over, ast.Call) and isinstance(over.func, ast.Name) and over.func.id in _ORDERED
    )


def _unannotated(scope: ast.AST) -> list[int]:
    """Lines of plain assignments at module or class level, also under if, try or with."""
    lines: list[int] = []
    for node in ast.iter_child_nodes(scope):
        if isinstance(node, ast.Assign | ast.AugAssign):
            lines.append(node.lineno)
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            lines += _unannotated(node)
    return lines


def main(paths: list[Path]) -> int:
    """Check the files; write each finding; return the exit code."""
    findings = [(path, finding) for path in paths for finding in check(path.read_text())]
    for path, finding in findings:
        sys.stdout.write(f"{path}:{finding.line}: {finding.rule}: {RULES[finding.rule]}\n")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main([Path(argument) for argument in sys.argv[1:]] or list(MODULES)))
