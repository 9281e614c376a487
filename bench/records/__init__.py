"""What a run leaves and goes on from: environment, tables, run record, run directory, checksums.

Uses machine.
"""

from bench.records.checksums import file_sha256, tensors_sha256
from bench.records.environment import ROOT, environment_record, machine_name, portable, tf32_flags
from bench.records.run_directory import exclusive, prepare_output, writing
from bench.records.run_record import read_run, write_json, write_run
from bench.records.tables import read_table, to_markdown, write_table
from bench.records.toml_tables import from_table, read_toml

__all__ = [
    "ROOT",
    "environment_record",
    "exclusive",
    "file_sha256",
    "from_table",
    "machine_name",
    "portable",
    "prepare_output",
    "read_run",
    "read_table",
    "read_toml",
    "tensors_sha256",
    "tf32_flags",
    "to_markdown",
    "write_json",
    "write_run",
    "write_table",
    "writing",
]
