"""hornbook: from raw text to a published chat model of your own."""

__version__ = "0.1.0"
