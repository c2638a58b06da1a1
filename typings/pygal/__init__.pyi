# The part of pygal that runner/pages/plots.py uses.

from collections.abc import Callable, Sequence

class Graph:
    range: tuple[float, float]
    value_formatter: Callable[[float], str]
    x_value_formatter: Callable[[float], str]
    x_labels: Sequence[str]
    def __init__(self, **config: object) -> None: ...
    def add(
        self,
        title: str,
        values: Sequence[float] | Sequence[tuple[float, float] | None],
        *,
        allow_interruptions: bool = ...,
    ) -> None: ...
    def render(self, *, is_unicode: bool) -> str: ...

class HorizontalStackedBar(Graph): ...
class XY(Graph): ...
