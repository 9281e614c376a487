"""What a run leaves and goes on from: environment, tables, run record, run directory, checksums; where files lie.

Uses machine.
"""

from bench.records.archives import (
    array_header,
    array_names,
    member_header,
    open_archive,
    read_array,
    read_arrays,
    read_member,
)
from bench.records.checksums import file_sha256, tensors_sha256
from bench.records.environment import environment_record, machine_name, portable, printable, provenance, tf32_flags
from bench.records.places import PACKAGE, ROOT, installed, shipped_data, user_data
from bench.records.run_directory import (
    check_disk,
    check_same_run,
    clear_write_errors,
    prepare_output,
    take_directory,
    whole_file,
)
from bench.records.run_record import check_schema, read_run, write_json, write_run
from bench.records.tables import clear_content_errors, read_table, to_markdown, write_table
from bench.records.toml_tables import from_table, read_toml
from dydit.checkpoint.json_objects import read_object

__all__ = [
    "PACKAGE",
    "ROOT",
    "array_header",
    "array_names",
    "check_disk",
    "check_same_run",
    "check_schema",
    "clear_content_errors",
    "clear_write_errors",
    "environment_record",
    "file_sha256",
    "from_table",
    "installed",
    "machine_name",
    "member_header",
    "open_archive",
    "portable",
    "prepare_output",
    "printable",
    "provenance",
    "read_array",
    "read_arrays",
    "read_member",
    "read_object",
    "read_run",
    "read_table",
    "read_toml",
    "shipped_data",
    "take_directory",
    "tensors_sha256",
    "tf32_flags",
    "to_markdown",
    "user_data",
    "whole_file",
    "write_json",
    "write_run",
    "write_table",
]
