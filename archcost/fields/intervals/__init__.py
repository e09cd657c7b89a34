"""Which positions of its input an operation looks at: spans, taps and their unions, exact for one axis."""
