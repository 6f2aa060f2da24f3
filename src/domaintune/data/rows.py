"""One raw row with its origin. No meaning of columns here: a task gives the values theirs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from domaintune.errors import DataError


@dataclass(frozen=True, slots=True)
class Row:
    """Values by column name, and where they stand.

    `line` counts from 1 and is the line where the row starts; for pictures it is the picture's number in its folder or file.
    """

    values: Mapping[str, Any]
    file: str
    line: int

    @property
    def where(self) -> str:
        return f"{self.file}:{self.line}"

    def text(self, column: str) -> str:
        """The value of a column that must be a string.

        Raises:
            DataError: the column is missing, or its value is not a string.
        """
        if column not in self.values:
            raise DataError(
                f"no column '{column}' (columns: {', '.join(map(str, self.values)) or 'none'}).", where=self.where
            )
        value = self.values[column]
        if not isinstance(value, str):
            raise DataError(f"'{column}' must be text, got {type(value).__name__}.", where=self.where)
        return value
