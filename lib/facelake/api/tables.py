"""Rows of a table as Arrow, pandas or Polars."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from facelake.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows in memory. DuckDB, pandas, Polars and every other Arrow consumer also take the object itself.

    Attributes:
        table: the rows as an Arrow table.
    """

    table: pa.Table

    def __len__(self) -> int:
        """Return the number of rows."""
        return int(self.table.num_rows)

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """Return the rows by the Arrow PyCapsule interface."""
        return self.table.__arrow_c_stream__(requested_schema)

    def arrow(self) -> pa.Table:
        """Return the rows as an Arrow table."""
        return self.table

    def pandas(self) -> pd.DataFrame:
        """Return the rows as a pandas frame."""
        frame: pd.DataFrame = self.table.to_pandas()
        return frame

    def polars(self) -> Any:
        """Return the rows as a Polars frame.

        Raises:
            ConfigError: Polars is not installed; it is no dependency of facelake.
        """
        try:
            import polars
        except ModuleNotFoundError as err:
            what, next_step = "Polars is not installed", "pip install polars, or use arrow() or pandas()"
            raise ConfigError(what, where="Rows.polars", next_step=next_step) from err
        return polars.DataFrame(self)
