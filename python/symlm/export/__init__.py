"""Models for other programs: `symlm.export.export`.

write          an export: written aside, read back, compared, named
source         all that is read of the model, and what a format has no place for
files          the files that an export consists of
older_readers  a tokenizer for readers of other years
provenance     where the model comes from, and its card
"""

from .source import Target
from .write import Exported, export

__all__ = ["Exported", "Target", "export"]
