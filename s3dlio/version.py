"""The version of this library. Floor 0; the single place that says it."""

VERSION = "0.1.0"
