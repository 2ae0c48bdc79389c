"""Names of folders, tables and columns of loaded files."""

#: Folders below the root of a pattern: files that were loaded, with `after_load: move`, and bad files.
LOADED, QUARANTINE = "_loaded", "_quarantine"
#: Folder on a disk of files that are being moved, until their version is compared.
MOVING = "_moving"

#: Columns that each row has in addition to those of its file.
FILE, VERSION, DATE, LOADED_AT = "_file", "_file_version", "_file_date", "_loaded_at"

#: Suffixes of the names of the tables beside a source's table: the files that were read, and the rows that were not
#: loaded.
FILES_TABLE, QUARANTINE_TABLE = "__files", "__quarantine"
