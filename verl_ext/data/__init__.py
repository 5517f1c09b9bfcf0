"""From the files a user has on disk to the parquet files that verl trains on."""
