"""Statistics of the cohort: measures chosen from the table, analyses of them, and rows of results.

Each kind of analysis is one file: its frozen `Config`, whose `kind` is the name of the file, and
`run(measures, config) -> list[Result]`. `model.discover` finds them.
"""
