# TVM has no type annotations that mypy reads: all of it is Any. The link beside `contrib/__init__.pyi` puts our own
# package, which has them, where it is once it is installed.
from typing import Any

def __getattr__(name: str) -> Any: ...
