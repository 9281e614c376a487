"""What a run leaves and goes on from: environment, tables, run record, run directory, checksums; where files lie.

Uses machine.
"""

from bench.records.checksums import file_sha256, tensors_sha256
from bench.records.environment import environment_record, machine_name, portable
from bench.records.places import ROOT, installed, shipped_data, user_data
from bench.records.run_directory import exclusive, prepare_output, writing
from bench.records.run_record import read_run, read_toml, write_json, write_run
from bench.records.tables import read_table, to_markdown, write_table

__all__ = [
    "ROOT",
    "environment_record",
    "exclusive",
    "file_sha256",
    "installed",
    "machine_name",
    "portable",
    "prepare_output",
    "read_run",
    "read_table",
    "read_toml",
    "shipped_data",
    "tensors_sha256",
    "to_markdown",
    "user_data",
    "write_json",
    "write_run",
    "write_table",
    "writing",
]
