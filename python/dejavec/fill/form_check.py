"""Check that all vectors of a call have one dimension and one array kind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from dejavec.errors import VectorsError
from dejavec.fill.settings import FillSettings
from dejavec.fill.vector_store import Positions
from dejavec.vectors.arrays import to_rows
from dejavec.vectors.columns import as_array_or_rows, first_bad_row
from dejavec.vectors.output import Output
from dejavec.vectors.ragged import Rows, dim_of
from dejavec.vectors.stored import check_kind, rounded


class FormCheck:
    """Converts vectors of a model to rows with the form of earlier rows.

    Args:
        dim: numbers in a stored vector; None if nothing is stored, so that the first vectors decide.
        output: the array kind of the stored vectors, likewise.
        settings: the settings of the call: ``dtype`` and ``store_dtype`` round all vectors.
        maker: how messages name the model or function.
        name: how messages name the item at a position.

    Attributes:
        dim: numbers in a vector; None before the first.
        output: the array kind of the vectors.

    Example:
        >>> check = FormCheck(None, None, FillSettings(), "the model", "item {}".format)
        >>> _, rows, error = check.rows_of([[1.0, 2.0], [3.0]], np.array([4, 7]))
        >>> rows.tolist(), str(error)[:59]
        ([[1.0, 2.0]], 'the model: expected a vector of 2 numbers for item 7, found')
    """

    def __init__(
        self,
        dim: int | None,
        output: Output | None,
        settings: FillSettings,
        maker: str,
        name: Callable[[int], str],
    ) -> None:
        self.dim = dim
        self.output = output or Output("numpy", "float32")
        self._settings = settings
        self._maker = maker
        self._name = name

    def follow(self, dim: int | None, output: Output | None) -> None:
        """Take the form of vectors that other callers made, if there was none yet."""
        if self.dim is None and dim is not None and output is not None:
            self.dim, self.output = dim, output

    def where(self, chunk: Positions) -> str:
        """Return the beginning of a message about the vectors of some items."""
        return f"{self._maker}, for {len(chunk)} items from {self._name(int(chunk[0]))} on"

    def rows_of(self, made: Any, chunk: Positions) -> tuple[Positions, Rows, VectorsError | None]:
        """Return the vectors of some items as rows.

        Args:
            made: the result of the model.
            chunk: the positions of the items (k,).

        Returns:
            The items (m,) with a valid vector, their m rows, and an error if other items have none.

        Raises:
            VectorsError: none of the vectors can be stored.
        """
        where = self.where(chunk)
        try:
            rows, output = to_rows(made, len(chunk), where)
        except VectorsError:
            parts = first_bad_row(made, len(chunk), self.dim)
            if parts is None:
                raise
            good, bad, found = parts
            all_rows: Any = as_array_or_rows(made)
            rows, output = to_rows([all_rows[at] for at in good], len(good), where)
            rows = self._fit(rows, output, where)
            error = VectorsError(
                self._maker,
                expected=f"a vector of {self.dim} numbers for {self._name(int(chunk[bad]))}",
                found=found,
                remedy=f"return one for each text; the other {len(good)} of this call are stored",
            )
            return chunk[good], rows, error
        return chunk, self._fit(rows, output, where), None

    def _fit(self, rows: Rows, output: Output, where: str) -> Rows:
        """Return rows that fit the earlier rows. Lists may stay float64."""
        settings = self._settings
        rows, output = rounded(rows, output, settings.dtype, settings.store_dtype, where)
        if self.dim is None:
            self.dim, self.output = dim_of(rows), output
            return rows
        is_list = output.library == "list" and rows.dtype == np.float64
        check_kind(
            rows,
            replace(output, dtype=self.output.dtype) if is_list else output,
            self.dim,
            self.output,
            where,
        )
        return rows
