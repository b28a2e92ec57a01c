"""Where jobs that are added while the service runs are kept: one store, one file."""

from app.core.stores.protocol import (
    Definition,
    DefinitionChanged,
    DefinitionStore,
    UnreadableDefinition,
)

__all__ = ["Definition", "DefinitionChanged", "DefinitionStore", "UnreadableDefinition"]
