# For mypy only: TVM has no type annotations, so every name in it is Any. Neither installed nor imported.
from typing import Any

def __getattr__(name: str) -> Any: ...
