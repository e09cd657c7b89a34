"""A Document as a table on the terminal, pandas, markdown, CSV, JSON or HTML. It knows no result."""
