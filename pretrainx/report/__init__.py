"""One self-contained HTML page about runs, made from the files of their workdirs alone."""
