"""Any result as a table on the terminal, pandas, markdown, CSV, JSON or HTML.

`columns` says what every column is; `rows` and `tree` say which rows there are; the other files write
them down, one format each.
"""
