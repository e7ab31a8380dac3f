"""tfcompress: one Keras model in, proven artifacts for every target out."""

__version__ = "0.1.0"

_PUBLIC = {"shrink": "pipeline", "Result": "pipeline"}
_MODULES = {"training": "compress.training.own_loop", "recipe": "compress.training.recipe"}


def __getattr__(name: str):
    from importlib import import_module

    if name in _PUBLIC:
        return getattr(import_module(f".{_PUBLIC[name]}", __name__), name)
    if name in _MODULES:
        return import_module(f".{_MODULES[name]}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*_PUBLIC, *_MODULES, "__version__"]
