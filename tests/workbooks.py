"""A reader of .xlsx files for the tests, and an evaluator of the few kinds of formulas that our workbooks hold."""

from __future__ import annotations

import ast
import io
import math
import operator
import re
import zipfile
from dataclasses import dataclass, field
from xml.etree import ElementTree

MAIN = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
TOKEN = re.compile(
    r"(?:'(?P<sheet>[^']+)'!|(?P<plain>[A-Za-z]+)!)?\$?(?P<first>[A-Z]{1,3})\$?(?P<row>\d+)"
    r"(?::\$?(?P<last>[A-Z]{1,3})\$?(?P<end>\d+))?(?![\w(])|(?P<name>[a-z_]\w*)"
)
OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}


@dataclass
class Cell:
    value: str | float
    formula: str | None = None


def column_number(letters: str) -> int:
    number = 0
    for letter in letters:
        number = number * 26 + ord(letter) - ord("A") + 1
    return number


@dataclass
class Workbook:
    """Cells by sheet and (row, column) from 1, and what each defined name stands for."""

    sheets: dict[str, dict[tuple[int, int], Cell]] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, content: bytes) -> Workbook:
        found = cls()
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            shared = ElementTree.fromstring(archive.read("xl/sharedStrings.xml"))
            texts = ["".join(part.text or "" for part in item.iter(f"{MAIN}t")) for item in shared]
            book = ElementTree.fromstring(archive.read("xl/workbook.xml"))
            for place, sheet in enumerate(book.iter(f"{MAIN}sheet"), start=1):
                page = ElementTree.fromstring(archive.read(f"xl/worksheets/sheet{place}.xml"))
                found.sheets[sheet.get("name")] = dict(cells_of(page, texts))
            found.names = {name.get("name"): name.text for name in book.iter(f"{MAIN}definedName")}
        return found

    def rows(self, sheet: str) -> list[dict[str, Cell]]:
        """Return the rows of a table under the headers of the first row."""
        cells = self.sheets[sheet]
        heads = {column: cell.value for (row, column), cell in cells.items() if row == 1}
        last = max(row for row, _ in cells)
        return [
            {head: cells[row, column] for column, head in heads.items() if (row, column) in cells}
            for row in range(2, last + 1)
        ]

    def formulas(self):
        for sheet, cells in self.sheets.items():
            for place, cell in cells.items():
                if cell.formula is not None:
                    yield sheet, place, cell

    def computed(self, sheet: str, place: tuple[int, int], given: dict[str, float] | None = None):
        """Return what a cell is, formulas evaluated anew, with other values under some defined names."""
        given = given or {}
        for name, value in given.items():
            if self.names[name] == reference(sheet, place):
                return value
        cell = self.sheets[sheet].get(place)
        if cell is None or cell.formula is None:
            return None if cell is None else cell.value
        return Evaluation(self, sheet, given).of(cell.formula)


def reference(sheet: str, place: tuple[int, int]) -> str:
    return f"{sheet}!${chr(ord('A') + place[1] - 1)}${place[0]}"


def cells_of(page, texts):
    for node in page.iter(f"{MAIN}c"):
        letters, row = re.fullmatch(r"([A-Z]+)(\d+)", node.get("r")).groups()
        value, formula = node.find(f"{MAIN}v"), node.find(f"{MAIN}f")
        if value is None and formula is None:
            continue
        said = "" if value is None else value.text
        kept = texts[int(said)] if node.get("t") == "s" else said if node.get("t") == "str" else float(said)
        yield (int(row), column_number(letters)), Cell(kept, None if formula is None else formula.text)


class Evaluation:
    """Formulas of + − × ÷, SUM, ROUNDUP, cells, ranges and names, as seen from one sheet."""

    def __init__(self, book: Workbook, sheet: str, given: dict[str, float]) -> None:
        self.book, self.sheet, self.given = book, sheet, given

    def of(self, formula: str) -> float:
        self.found: list[object] = []
        return self.node(ast.parse(TOKEN.sub(self.keep, formula), mode="eval").body)

    def keep(self, match: re.Match[str]) -> str:
        """Put what a cell, a range or a name stands for aside, and return where."""
        if match["name"]:
            sheet, cell = self.book.names[match["name"]].split("!")
            letters, row = re.fullmatch(r"\$([A-Z]+)\$(\d+)", cell).groups()
            self.found.append(self.cell(sheet, int(row), column_number(letters)))
            return f"kept[{len(self.found) - 1}]"
        sheet = match["sheet"] or match["plain"] or self.sheet
        first, last = column_number(match["first"]), column_number(match["last"] or match["first"])
        rows = range(int(match["row"]), int(match["end"] or match["row"]) + 1)
        cells = [self.cell(sheet, row, column) for row in rows for column in range(first, last + 1)]
        self.found.append(cells if match["last"] else cells[0])
        return f"kept[{len(self.found) - 1}]"

    def cell(self, sheet: str, row: int, column: int):
        return self.book.computed(sheet, (row, column), self.given)

    def node(self, node: ast.AST):
        if isinstance(node, ast.BinOp):
            return OPERATORS[type(node.op)](self.node(node.left), self.node(node.right))
        if isinstance(node, ast.Constant):
            return node.value
        if isinstance(node, ast.Subscript):
            return self.found[node.slice.value]
        if isinstance(node, ast.Call) and node.func.id == "SUM":
            (cells,) = map(self.node, node.args)
            return sum(cell for cell in cells if isinstance(cell, float))
        if isinstance(node, ast.Call) and node.func.id == "ROUNDUP":
            number, digits = map(self.node, node.args)
            assert digits == 0
            return float(math.ceil(number))
        raise AssertionError(ast.dump(node))
