"""One module a command: `HELP`, `OUT` (default directory, None without `--out`), `arguments(parser)`, `run(options)`.

Heavy libraries are imported where `run` needs them.
"""
