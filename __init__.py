"""tfcompress: one Keras model in, proven artifacts for every target out."""

__version__ = "0.1.0"

_PUBLIC = {"shrink": "pipeline", "Result": "pipeline"}


def __getattr__(name: str):
    if name in _PUBLIC:
        from importlib import import_module

        return getattr(import_module(f".{_PUBLIC[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*_PUBLIC, "__version__"]
