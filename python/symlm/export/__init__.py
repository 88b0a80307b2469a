"""Models for other programs: `symlm.export.export`."""

from .write import Exported, Target, export

__all__ = ["Exported", "Target", "export"]
