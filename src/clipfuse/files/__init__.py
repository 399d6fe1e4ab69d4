"""Files: written whole or not at all, known by their hashes, and read as if a stranger had made them."""

from clipfuse.files.reading import (
    check_form,
    is_there,
    open_regular,
    read_bytes,
    read_csv,
    read_json,
    read_text,
    read_yaml,
)
from clipfuse.files.writing import (
    PARTIAL,
    check_output,
    conf_dir,
    csv_text,
    file_sha256,
    json_sha256,
    probe_folder,
    rename_to_free,
    replace_when_whole,
    weights_sha256,
    write_atomically,
    write_json,
)

__all__ = [
    "PARTIAL",
    "check_form",
    "check_output",
    "conf_dir",
    "csv_text",
    "file_sha256",
    "is_there",
    "json_sha256",
    "open_regular",
    "probe_folder",
    "read_bytes",
    "read_csv",
    "read_json",
    "read_text",
    "read_yaml",
    "rename_to_free",
    "replace_when_whole",
    "weights_sha256",
    "write_atomically",
    "write_json",
]
