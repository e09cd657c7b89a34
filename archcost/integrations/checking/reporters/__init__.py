"""Reporters of a check, a file each: ``report(result)`` returns the text."""
