"""Files on S3 or on a disk that are loaded into raw tables."""
