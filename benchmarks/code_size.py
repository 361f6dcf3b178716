"""Count the lines of code of each folder: without docstrings (those of attributes too), comments and blank lines.

Run it as ``python benchmarks/code_size.py src/forgetkit tests``.
"""

import ast
import io
import sys
import tokenize
from collections import Counter
from pathlib import Path

LAYOUT = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}


def code_lines(source: str) -> int:
    """The lines of ``source`` on which a token of code stands."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    lines = {line for token in tokens if token.type not in LAYOUT for line in range(token.start[0], token.end[0] + 1)}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            lines.difference_update(range(node.lineno, node.end_lineno + 1))
    return len(lines)


def main() -> None:
    for root in map(Path, sys.argv[1:]):
        sizes = Counter()
        for path in root.rglob("*.py"):
            sizes[path.relative_to(root).parts[0]] += code_lines(path.read_text("utf-8"))
        print(f"{sum(sizes.values()):7,}  {root}")
        for name, size in sizes.most_common():
            print(f"{size:7,}    {name}")


if __name__ == "__main__":
    main()
