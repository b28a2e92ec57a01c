"""Where jobs that are added while the service runs are kept: one store, one file."""

from app.core.stores.protocol import Definition, DefinitionChanged, DefinitionStore

__all__ = ["Definition", "DefinitionChanged", "DefinitionStore"]
