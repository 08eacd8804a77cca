"""Images without data: one file per source, one row per source in the table; methods never learn where images come from."""

from .base import ImageSource, View
from .run import make
from .table import SOURCES
from .vaccine import Vaccine, VaccineSettings

__all__ = ["SOURCES", "ImageSource", "Vaccine", "VaccineSettings", "View", "make"]
