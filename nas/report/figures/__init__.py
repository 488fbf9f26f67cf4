"""The figures of the pages: SVG from a run's values, one module a figure. Not for words and tables: see templates/."""
