"""The version of this code: what is installed beside it may be another."""

__version__ = "0.2.0.dev0"
